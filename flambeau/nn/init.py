"""Initialisers: `nn.init.kaiming_normal_(module.weight)` sets that parameter in place, as in PyTorch.

Each function takes

    an array read from a module     its `Parameter` or `Buffer` is given the new value
    a `Parameter` or a `Buffer`     the same
    any other array                 arrays are immutable, so the new one is only returned

and returns the new array, which for the first two is what the module holds from now on. An array is known by its identity:
one that was read *before* the module's value was last replaced is an array like any other, so read it again
(`module.weight`) for each call rather than keep it in a variable.

Outside of a transform the values are made by numpy from blocks of random numbers (see `core._draw`), so that building a
model does not compile a program for each of its shapes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from flambeau._errors import DtypeError, ShapeError
from flambeau.core import _draw
from flambeau.core.absent import missing_name
from flambeau.core.cell import Cell, owner_of, running
from flambeau.core.placement import placement_of

if TYPE_CHECKING:
    from flambeau.core.random import Generator

__all__ = [
    "calculate_gain",
    "constant",
    "constant_",
    "dirac",
    "dirac_",
    "eye",
    "eye_",
    "kaiming_normal",
    "kaiming_normal_",
    "kaiming_uniform",
    "kaiming_uniform_",
    "normal",
    "normal_",
    "ones_",
    "orthogonal",
    "orthogonal_",
    "sparse",
    "sparse_",
    "trunc_normal_",
    "uniform",
    "uniform_",
    "xavier_normal",
    "xavier_normal_",
    "xavier_uniform",
    "xavier_uniform_",
    "zeros_",
]

Target: TypeAlias = jax.Array | Cell

_LINEAR = frozenset({"linear", "sigmoid", *(f"conv{t}{n}d" for t in ("", "_transpose") for n in (1, 2, 3))})


def _describe(tensor: Target) -> str:
    return f"{tensor.dtype}[{', '.join(map(str, tensor.shape))}]"


def _store(tensor: Target, value: Any) -> jax.Array:
    """Makes `value` the value of the cell that `tensor` stands for, in its dtype and on its device; gives the new array."""
    cell = tensor if isinstance(tensor, Cell) else owner_of(tensor)
    old: Any = tensor if cell is None else cell.peek()
    value = value.astype(old.dtype, copy=False)
    if isinstance(value, np.ndarray):
        # `jnp.asarray` compiles a program for each shape, to copy; nobody else holds this array.
        value = jax.device_put(value, placement_of(old))
    if cell is None:
        return value
    cell.set(value, exposed=False)
    return cell.get()


def _unchanged(tensor: Target) -> jax.Array:
    return tensor.get() if isinstance(tensor, Cell) else tensor


def _array_module() -> Any:
    """Where arrays that need no random numbers are made: numpy compiles nothing, a trace must not hold large constants."""
    return np if running.frame is None else jnp


def _random(sampler: Any, tensor: Target, generator: Generator | None, *arguments: float) -> Any:
    """Numbers for `tensor`, in float32 also for narrower dtypes, whose few bits would make the distribution coarse."""
    dtype = np.dtype(tensor.dtype)
    if not jnp.issubdtype(dtype, jnp.inexact if sampler is _draw.normal else jnp.floating):
        raise DtypeError(f"expected a floating array to fill with random numbers, got {_describe(tensor)}")
    wide = dtype if dtype.itemsize >= 4 else np.dtype(np.float32)
    return _draw.draw(sampler, generator, tuple(tensor.shape), wide, *arguments)


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor by which to scale initial weights before a nonlinearity, so that the variance stays.

    It is 1 for linear and convolution layers and for `sigmoid`, 5/3 for `tanh`, √2 for `relu`, √(2 / (1 + slope²)) for
    `leaky_relu` and 3/4 for `selu`.

    Args:
        nonlinearity: the name of the function.
        param: the negative slope of `leaky_relu`, 0.01 if None.

    Raises:
        ValueError: the nonlinearity is unknown, or `param` is no number.

    Example:
        >>> calculate_gain("leaky_relu", 1.0)
        1.0

    Source: https://docs.pytorch.org/docs/2.13/nn.init.html
    """
    if nonlinearity in _LINEAR:
        return 1
    if nonlinearity == "tanh":
        return 5.0 / 3
    if nonlinearity == "relu":
        return math.sqrt(2.0)
    if nonlinearity == "leaky_relu":
        slope = 0.01 if param is None else param
        if isinstance(slope, bool) or not isinstance(slope, (int, float)):
            raise ValueError(f"negative_slope {param} not a valid number")
        return math.sqrt(2.0 / (1 + slope**2))
    if nonlinearity == "selu":
        return 3.0 / 4
    raise ValueError(f"Unsupported nonlinearity {nonlinearity}")


def _calculate_fan_in_and_fan_out(tensor: Target) -> tuple[int, int]:
    """How many inputs one output sees, and how many outputs one input reaches: `(out, in, *kernel)`."""
    if tensor.ndim < 2:
        raise ShapeError(
            "Fan in and fan out can not be computed for tensor with fewer than 2 dimensions: "
            f"expected a weight (out, in, *), got {_describe(tensor)}"
        )
    field = math.prod(tensor.shape[2:])
    return tensor.shape[1] * field, tensor.shape[0] * field


def _calculate_correct_fan(tensor: Target, mode: str) -> int:
    modes = ["fan_in", "fan_out"]
    if mode.lower() not in modes:
        raise ValueError(f"Mode {mode.lower()} not supported, please use one of {modes}")
    return _calculate_fan_in_and_fan_out(tensor)[modes.index(mode.lower())]


def _kaiming_std(tensor: Target, a: float, mode: str, nonlinearity: str) -> float | None:
    """The standard deviation; None, with a warning, if there is nothing to fill."""
    if 0 in tensor.shape:
        warnings.warn("Initializing zero-element tensors is a no-op", stacklevel=3)
        return None
    fan = _calculate_correct_fan(tensor, mode)
    return calculate_gain(nonlinearity, a) / math.sqrt(fan)


def _xavier_std(tensor: Target, gain: float) -> float:
    return gain * math.sqrt(2.0 / sum(_calculate_fan_in_and_fan_out(tensor)))


def uniform_(tensor: Target, a: float = 0.0, b: float = 1.0, generator: Generator | None = None) -> jax.Array:
    """Fills with numbers from the uniform distribution U(a, b).

    Args:
        tensor: what to fill, of any shape.
        a: the lower bound.
        b: the upper bound.
        generator: where the numbers come from; the default generator if None.

    Raises:
        RuntimeError: a > b.
        DtypeError: the dtype is not a floating one.

    Example:
        >>> uniform_(jnp.empty((3, 5)), 2.0, 3.0).min() >= 2
        Array(True, dtype=bool)

    Source: https://docs.pytorch.org/docs/2.13/nn.init.html
    """
    if not isinstance(a, jax.Array) and not isinstance(b, jax.Array) and a > b:
        raise RuntimeError(f"uniform_ expects to return a [from, to) range, but found from={a} > to={b}")
    return _store(tensor, _random(_draw.uniform, tensor, generator) * (b - a) + a)


def normal_(tensor: Target, mean: float = 0.0, std: float = 1.0, generator: Generator | None = None) -> jax.Array:
    """Fills with numbers from the normal distribution N(mean, std²).

    Args:
        tensor: what to fill, of any shape; a complex one is filled so that the whole variance is std².
        mean: the mean.
        std: the standard deviation.
        generator: where the numbers come from; the default generator if None.

    Raises:
        RuntimeError: std < 0.
        DtypeError: the dtype is neither floating nor complex.

    Example:
        >>> normal_(jnp.empty((3, 5), jnp.bfloat16)).dtype
        dtype(bfloat16)

    Source: https://docs.pytorch.org/docs/2.13/nn.init.html
    """
    if not isinstance(std, jax.Array) and std < 0:
        raise RuntimeError(f"normal expects std >= 0.0, but found std {std}")
    return _store(tensor, _random(_draw.normal, tensor, generator) * std + mean)


def trunc_normal_(
    tensor: Target,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: Generator | None = None,
) -> jax.Array:
    """Fills with numbers from the normal distribution N(mean, std²) restricted to [a, b].

    The quantile function turns uniform numbers into these, so nothing is drawn twice, wherever [a, b] lies.

    Args:
        tensor: what to fill, of any shape.
        mean: the mean of the normal distribution.
        std: its standard deviation.
        a: the lower bound, not in units of `std`.
        b: the upper bound.
        generator: where the numbers come from; the default generator if None.

    Raises:
        RuntimeError: a > b.
        DtypeError: the dtype is not a floating one.

    Example:
        >>> abs(trunc_normal_(jnp.empty((3, 5)), std=0.02, a=-0.04, b=0.04)).max() <= 0.04
        Array(True, dtype=bool)

    Source: https://docs.pytorch.org/docs/2.13/nn.init.html
    """
    if a > b:
        raise RuntimeError(f"trunc_normal_ expects a <= b, but found a={a} > b={b}")
    if mean < a - 2 * std or mean > b + 2 * std:
        warnings.warn(
            "mean is more than 2 std from [a, b] in nn.init.trunc_normal_. "
            "The distribution of values may be incorrect.",
            stacklevel=2,
        )
    alpha, beta = (a - mean) / std, (b - mean) / std
    # The lower tail keeps its digits, probabilities near 1 do not: mirror an interval that lies above the mean.
    mirrored = alpha + beta > 0
    if mirrored:
        alpha, beta = -beta, -alpha
    lower, upper = (math.erfc(-bound / math.sqrt(2)) / 2 for bound in (alpha, beta))
    if upper > 1e-30:
        standard = _random(_draw.truncated_normal, tensor, generator, lower, upper)
    else:
        # Twelve and more standard deviations out, float32 cannot hold the probabilities. There the density is, to within
        # 1/beta², that of a Rayleigh tail, whose quantiles are elementary.
        share = _random(_draw.uniform, tensor, generator)
        arrays: Any = np if isinstance(share, np.ndarray) else jnp
        standard = -arrays.sqrt(beta**2 - 2 * arrays.log1p(share * math.expm1((beta**2 - alpha**2) / 2)))
    return _store(tensor, (mean + (-std if mirrored else std) * standard).clip(a, b))


def constant_(tensor: Target, val: float) -> jax.Array:
    """Fills with the value `val`.

    Args:
        tensor: what to fill, of any shape and dtype.
        val: the value.

    Example:
        >>> constant_(jnp.empty(3), 0.5)
        Array([0.5, 0.5, 0.5], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/nn.init.html
    """
    return _store(tensor, _array_module().full(tensor.shape, val, tensor.dtype))


def ones_(tensor: Target) -> jax.Array:
    """Fills with 1.

    Args:
        tensor: what to fill, of any shape and dtype.

    Example:
        >>> ones_(jnp.empty(2, jnp.int32))
        Array([1, 1], dtype=int32)

    Source: https://docs.pytorch.org/docs/2.13/nn.init.html
    """
    return constant_(tensor, 1)


def zeros_(tensor: Target) -> jax.Array:
    """Fills with 0.

    Args:
        tensor: what to fill, of any shape and dtype.

    Example:
        >>> zeros_(jnp.ones(2))
        Array([0., 0.], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/nn.init.html
    """
    return constant_(tensor, 0)


def eye_(tensor: Target) -> jax.Array:
    """Fills with the identity matrix: a linear layer then passes on as many inputs as it has outputs.

    Args:
        tensor: what to fill.

    Shape:
        tensor `(out, in)`.

    Raises:
        ShapeError: there are not two dimensions.

    Example:
        >>> eye_(jnp.empty((2, 3)))
        Array([[1., 0., 0.],
               [0., 1., 0.]], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/nn.init.html
    """
    _check_matrix(tensor)
    return _store(tensor, _array_module().eye(*tensor.shape, dtype=tensor.dtype))


def _check_matrix(tensor: Target) -> None:
    if tensor.ndim != 2:
        raise ShapeError(f"Only tensors with 2 dimensions are supported: expected (out, in), got {_describe(tensor)}")


def dirac_(tensor: Target, groups: int = 1) -> jax.Array:
    """Fills with Dirac's delta: a convolution then passes on as many channels, in each group, as it can.

    Args:
        tensor: what to fill.
        groups: the groups of the convolution; each passes on its channels.

    Shape:
        tensor `(out, in, *kernel)` with one to three kernel sizes.

    Raises:
        ShapeError: there are not 3 to 5 dimensions, or `groups` does not divide the first.

    Example:
        >>> dirac_(jnp.empty((2, 2, 3)))
        Array([[[0., 1., 0.],
                [0., 0., 0.]],
        <BLANKLINE>
               [[0., 0., 0.],
                [0., 1., 0.]]], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/nn.init.html
    """
    if tensor.ndim not in (3, 4, 5):
        raise ShapeError(
            "Only tensors with 3, 4, or 5 dimensions are supported: "
            f"expected (out, in, *kernel), got {_describe(tensor)}"
        )
    if tensor.shape[0] % groups != 0:
        raise ShapeError(f"dim 0 must be divisible by groups: got {_describe(tensor)} and groups={groups}")
    arange = _array_module().arange
    outputs, inputs, *kernel = tensor.shape
    delta = arange(outputs)[:, None] % max(outputs // groups, 1) == arange(inputs)  # (out, in)
    for size in kernel:
        delta = delta[..., None] & (arange(size) == size // 2)  # (out, in, ..., size)
    return _store(tensor, delta)


def xavier_uniform_(tensor: Target, gain: float = 1.0, generator: Generator | None = None) -> jax.Array:
    """Fills with numbers from U(-a, a), where a = gain · √(6 / (fan_in + fan_out)); also known as Glorot's.

    Args:
        tensor: what to fill.
        gain: a factor, such as `calculate_gain` gives.
        generator: where the numbers come from; the default generator if None.

    Shape:
        tensor `(out, in, *kernel)`.

    Raises:
        ShapeError: there are fewer than two dimensions.

    Example:
        >>> abs(xavier_uniform_(jnp.empty((3, 3)))).max() <= 1
        Array(True, dtype=bool)

    Source: https://proceedings.mlr.press/v9/glorot10a.html
    """
    bound = math.sqrt(3.0) * _xavier_std(tensor, gain)
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: Target, gain: float = 1.0, generator: Generator | None = None) -> jax.Array:
    """Fills with numbers from N(0, std²), where std = gain · √(2 / (fan_in + fan_out)); also known as Glorot's.

    Args:
        tensor: what to fill.
        gain: a factor, such as `calculate_gain` gives.
        generator: where the numbers come from; the default generator if None.

    Shape:
        tensor `(out, in, *kernel)`.

    Raises:
        ShapeError: there are fewer than two dimensions.

    Example:
        >>> xavier_normal_(jnp.empty((4, 3))).shape
        (4, 3)

    Source: https://proceedings.mlr.press/v9/glorot10a.html
    """
    return normal_(tensor, 0.0, _xavier_std(tensor, gain), generator)


def kaiming_uniform_(
    tensor: Target,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> jax.Array:
    """Fills with numbers from U(-bound, bound), where bound = gain · √(3 / fan); also known as He's.

    Args:
        tensor: what to fill; with no elements it stays, with a warning.
        a: the negative slope of the `leaky_relu` that follows.
        mode: "fan_in" keeps the variance of the activations, "fan_out" that of the gradients.
        nonlinearity: what follows, as `calculate_gain` takes it.
        generator: where the numbers come from; the default generator if None.

    Shape:
        tensor `(out, in, *kernel)`.

    Raises:
        ShapeError: there are fewer than two dimensions.
        ValueError: the mode or the nonlinearity is unknown.

    Example:
        >>> abs(kaiming_uniform_(jnp.empty((5, 6)), nonlinearity="relu")).max() <= 1
        Array(True, dtype=bool)

    Source: https://arxiv.org/abs/1502.01852
    """
    std = _kaiming_std(tensor, a, mode, nonlinearity)
    if std is None:
        return _unchanged(tensor)
    bound = math.sqrt(3.0) * std
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: Target,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> jax.Array:
    """Fills with numbers from N(0, std²), where std = gain / √fan; also known as He's.

    Args:
        tensor: what to fill; with no elements it stays, with a warning.
        a: the negative slope of the `leaky_relu` that follows.
        mode: "fan_in" keeps the variance of the activations, "fan_out" that of the gradients.
        nonlinearity: what follows, as `calculate_gain` takes it.
        generator: where the numbers come from; the default generator if None.

    Shape:
        tensor `(out, in, *kernel)`.

    Raises:
        ShapeError: there are fewer than two dimensions.
        ValueError: the mode or the nonlinearity is unknown.

    Example:
        >>> kaiming_normal_(jnp.empty((4, 3)), mode="fan_out", nonlinearity="relu").shape
        (4, 3)

    Source: https://arxiv.org/abs/1502.01852
    """
    std = _kaiming_std(tensor, a, mode, nonlinearity)
    return _unchanged(tensor) if std is None else normal_(tensor, 0.0, std, generator)


def orthogonal_(tensor: Target, gain: float = 1, generator: Generator | None = None) -> jax.Array:
    """Fills with `gain` times a matrix whose rows, or if there are more of them its columns, are orthonormal.

    It is uniform among these: the Q of a normal random matrix = QR, with the signs that make R's diagonal positive.

    Args:
        tensor: what to fill; all dimensions after the first count as columns.
        gain: a factor.
        generator: where the numbers come from; the default generator if None.

    Shape:
        tensor `(out, *)`.

    Raises:
        ShapeError: there are fewer than two dimensions.

    Example:
        >>> weight = orthogonal_(jnp.empty((2, 3)))
        >>> jnp.allclose(weight @ weight.T, jnp.eye(2), atol=1e-6)
        Array(True, dtype=bool)

    Source: https://arxiv.org/abs/1312.6120
    """
    if tensor.ndim < 2:
        raise ShapeError(
            f"Only tensors with 2 or more dimensions are supported: expected (out, *), got {_describe(tensor)}"
        )
    if 0 in tensor.shape:
        return _unchanged(tensor)
    matrix = _random(_draw.normal, tensor, generator).reshape(tensor.shape[0], -1)  # (out, columns)
    wide = matrix.shape[0] < matrix.shape[1]
    arrays: Any = np if isinstance(matrix, np.ndarray) else jnp
    q, r = arrays.linalg.qr(matrix.T if wide else matrix)
    q = q * arrays.sign(arrays.diagonal(r))
    return _store(tensor, gain * (q.T if wide else q).reshape(tensor.shape))


def sparse_(tensor: Target, sparsity: float, std: float = 0.01, generator: Generator | None = None) -> jax.Array:
    """Fills with numbers from N(0, std²), of which a share in each column, chosen at random, is 0.

    Args:
        tensor: what to fill.
        sparsity: the share of each column to be 0, rounded up to whole elements.
        std: the standard deviation of the others.
        generator: where the numbers come from; the default generator if None. (torch takes the zeros' places from its default
            generator in either case.)

    Shape:
        tensor `(out, in)`.

    Raises:
        ShapeError: there are not two dimensions.

    Example:
        >>> (sparse_(jnp.empty((4, 3)), sparsity=0.5) == 0).sum(0)
        Array([2, 2, 2], dtype=int32)

    Source: https://www.cs.toronto.edu/~jmartens/docs/Deep_HessianFree.pdf
    """
    _check_matrix(tensor)
    zeros = math.ceil(sparsity * tensor.shape[0])
    values = _random(_draw.normal, tensor, generator)
    # The rank of each element among random numbers of its column: as good as a permutation of the column.
    order = _random(_draw.uniform, tensor, generator).argsort(axis=0, stable=True)
    return _store(tensor, values * std * (order.argsort(axis=0) >= zeros))


def _deprecated(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    new = function.__name__
    old = new.removesuffix("_")

    def alias(*args: Any, **kwargs: Any) -> jax.Array:
        warnings.warn(f"`nn.init.{old}` is now deprecated in favor of `nn.init.{new}`.", FutureWarning, stacklevel=2)
        return function(*args, **kwargs)

    alias.__name__ = alias.__qualname__ = old
    alias.__doc__ = f"Deprecated, as in PyTorch: write `nn.init.{new}`."
    return alias


uniform = _deprecated(uniform_)
normal = _deprecated(normal_)
constant = _deprecated(constant_)
eye = _deprecated(eye_)
dirac = _deprecated(dirac_)
xavier_uniform = _deprecated(xavier_uniform_)
xavier_normal = _deprecated(xavier_normal_)
kaiming_uniform = _deprecated(kaiming_uniform_)
kaiming_normal = _deprecated(kaiming_normal_)
orthogonal = _deprecated(orthogonal_)
sparse = _deprecated(sparse_)

if not TYPE_CHECKING:
    # Hidden from type checkers, which would take every misspelt name for a known one.
    def __getattr__(name: str) -> Any:
        raise missing_name(__name__, name, {}, __all__)
