"""Normalization: by the batch, the layer, groups of channels, instances, root mean squares, neighbours and norms.

Half-precision inputs are normalized in float32, with parameters of either dtype, and the result has the input's dtype.
PyTorch's `batch_norm` and `instance_norm` update the running statistics that they are given in place. Arrays are
immutable, so the functions of that name return the output only, and `batch_norm_with_stats` and
`instance_norm_with_stats` return the statistics too.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from flambeau._errors import ShapeError
from flambeau.nn.functional._autocast import raised
from flambeau.nn.functional._checks import describe
from flambeau.nn.functional._inputs import axis_of
from flambeau.nn.functional._math import clamp_min, vector_norm, widen
from flambeau.nn.functional._moments import Scalar, check_parameters, per_channel, standardize

__all__ = [
    "batch_norm",
    "batch_norm_with_stats",
    "group_norm",
    "instance_norm",
    "instance_norm_with_stats",
    "layer_norm",
    "local_response_norm",
    "normalize",
    "rms_norm",
]

WithStats = tuple[jax.Array, jax.Array | None, jax.Array | None]


def _blend(running: jax.Array | None, batch: jax.Array, momentum: Scalar) -> jax.Array | None:
    """The running statistic `(C,)` after a batch's, `(1, C, 1, …)` or `(N, C, 1, …)`; no gradient flows into it."""
    if running is None:
        return None
    blended = (1 - momentum) * widen(running) + momentum * jnp.mean(batch, 0).reshape(running.shape)
    return lax.stop_gradient(blended.astype(running.dtype))


def _by_running(
    input: jax.Array,
    running_mean: jax.Array,
    running_var: jax.Array,
    weight: jax.Array | None,
    bias: jax.Array | None,
    eps: float,
) -> jax.Array:
    """The input normalized with the running statistics."""
    mean, var = per_channel(running_mean, input.ndim, 0.0), per_channel(running_var, input.ndim, 1.0)
    scale, shift = per_channel(weight, input.ndim, 1.0), per_channel(bias, input.ndim, 0.0)
    return ((widen(input) - mean) * (lax.rsqrt(var + eps) * scale) + shift).astype(input.dtype)


def _with_stats(
    input: jax.Array,
    running_mean: jax.Array | None,
    running_var: jax.Array | None,
    weight: jax.Array | None,
    bias: jax.Array | None,
    axes: tuple[int, ...] | None,
    momentum: Scalar,
    eps: float,
    axis_name: Any = None,
) -> WithStats:
    """The input normalized over `axes`, or with the running statistics where there are none, and those after it."""
    parameters = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    check_parameters(input, (input.shape[1],), **parameters)
    if eps < 0 or (axes is not None and eps == 0):
        raise ValueError(f"expected eps {'>= 0' if axes is None else '> 0 in training'}, got {eps}")
    if (running_mean is None) != (running_var is None):
        raise ValueError("expected running_mean and running_var, or neither of them")
    if axes is None:
        if running_mean is None or running_var is None:
            raise RuntimeError("expected running_mean and running_var where the input's own statistics are not used")
        return _by_running(input, running_mean, running_var, weight, bias, eps), running_mean, running_var
    scale, shift = per_channel(weight, input.ndim, 1.0), per_channel(bias, input.ndim, 0.0)
    output, mean, var = standardize(widen(input), scale, shift, axes, eps, axis_name)
    count = _count(input, axes, axis_name)
    if count == 0:  # an empty batch says nothing
        return output.astype(input.dtype), running_mean, running_var
    unbiased = var * (count / (count - 1 if count != 1 else 1))  # for a count that is a symbol, too
    return output.astype(input.dtype), _blend(running_mean, mean, momentum), _blend(running_var, unbiased, momentum)


def _count(input: jax.Array, axes: tuple[int, ...], axis_name: Any) -> int:
    """How many values a mean over `axes`, and over a mapped axis, is of."""
    return math.prod(input.shape[axis] for axis in axes) * (1 if axis_name is None else lax.axis_size(axis_name))


def batch_norm_with_stats(
    input: jax.Array,
    running_mean: jax.Array | None,
    running_var: jax.Array | None,
    weight: jax.Array | None = None,
    bias: jax.Array | None = None,
    training: bool = False,
    momentum: float | jax.Array = 0.1,
    eps: float = 1e-5,
    axis_name: Hashable | None = None,
) -> WithStats:
    """`batch_norm`, and the running statistics after it: (1 - momentum) · running + momentum · batch.

    The running variance follows the unbiased variance of the batch, as in PyTorch, though the output is normalized with
    the biased one. Outside of training the statistics come back as they are.

    Args:
        input: the features.
        running_mean: the running mean, or None.
        running_var: the running variance, or None.
        weight: what the normalized features are multiplied with.
        bias: what is then added.
        training: whether to normalize with the statistics of the batch.
        momentum: the share of the new statistics; for a cumulative average, one over the number of batches so far.
        eps: what is added to the variance.
        axis_name: a mapped axis (of `jax.vmap`, `jax.shard_map`) over which to take the statistics of the batch too.

    Shape:
        input `(N, C, *)`, all others `(C,)`, result `(N, C, *)`, `(C,)` and `(C,)`.

    Raises:
        ShapeError: the input has fewer than 2 dimensions, or a parameter another shape.
        DtypeError: a parameter has another dtype.
        ValueError: there is one value per channel only, one running statistic without the other, or a bad `eps`.
        RuntimeError: there are no running statistics outside of training.

    Example:
        >>> x = jnp.array([[0.0], [2.0]])
        >>> _, mean, var = batch_norm_with_stats(x, jnp.zeros(1), jnp.ones(1), training=True, momentum=0.5)
        >>> mean, var
        (Array([0.5], dtype=float32), Array([1.5], dtype=float32))

    Source: https://arxiv.org/abs/1502.03167
    """
    if input.ndim == 1 and input.size == 0:
        return input, running_mean, running_var  # no elements and no channels, which PyTorch lets pass
    if input.ndim < 2:
        raise ShapeError(f"expected input (N, C, *), got {describe(input)}")
    axes = (0, *range(2, input.ndim)) if training else None
    if axes and _count(input, axes, axis_name) == 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input {describe(input)}")
    return _with_stats(input, running_mean, running_var, weight, bias, axes, momentum, eps, axis_name)


def batch_norm(
    input: jax.Array,
    running_mean: jax.Array | None,
    running_var: jax.Array | None,
    weight: jax.Array | None = None,
    bias: jax.Array | None = None,
    training: bool = False,
    momentum: float | jax.Array = 0.1,
    eps: float = 1e-5,
) -> jax.Array:
    """Normalizes each channel over the batch: (x - mean) / √(var + eps) · weight + bias.

    Unlike PyTorch's, it leaves the running statistics alone; `batch_norm_with_stats` returns the new ones.

    Args:
        input: the features.
        running_mean: the mean to use outside of training.
        running_var: the variance to use outside of training.
        weight: what the normalized features are multiplied with.
        bias: what is then added.
        training: whether to normalize with the mean and the biased variance of the batch.
        momentum: changes nothing here.
        eps: what is added to the variance.

    Shape:
        input `(N, C, *)`, all others `(C,)`, result `(N, C, *)`.

    Raises:
        ShapeError: the input has fewer than 2 dimensions, or a parameter another shape.
        DtypeError: a parameter has another dtype.
        ValueError: there is one value per channel only, one running statistic without the other, or a bad `eps`.
        RuntimeError: there are no running statistics outside of training.

    Example:
        >>> batch_norm(jnp.array([[0.0], [2.0]]), None, None, training=True).round()
        Array([[-1.],
               [ 1.]], dtype=float32)

    Source: https://arxiv.org/abs/1502.03167
    """
    return batch_norm_with_stats(input, running_mean, running_var, weight, bias, training, momentum, eps)[0]


def instance_norm_with_stats(
    input: jax.Array,
    running_mean: jax.Array | None = None,
    running_var: jax.Array | None = None,
    weight: jax.Array | None = None,
    bias: jax.Array | None = None,
    use_input_stats: bool = True,
    momentum: float | jax.Array = 0.1,
    eps: float = 1e-5,
) -> WithStats:
    """`instance_norm`, and the running statistics after it: (1 - momentum) · running + momentum · mean over the batch.

    The running variance follows the unbiased variances. With `use_input_stats=False` the statistics come back as they
    are.

    Args:
        input: the features.
        running_mean: the running mean, or None.
        running_var: the running variance, or None.
        weight: what the normalized features are multiplied with.
        bias: what is then added.
        use_input_stats: whether to normalize with the statistics of each instance.
        momentum: the share of the new statistics.
        eps: what is added to the variance.

    Shape:
        input `(N, C, *)`, all others `(C,)`, result `(N, C, *)`, `(C,)` and `(C,)`.

    Raises:
        ShapeError: the input has fewer than 2 dimensions, or a parameter another shape.
        DtypeError: a parameter has another dtype.
        ValueError: there is one spatial element only, one running statistic without the other, or a bad `eps`.
        RuntimeError: there are no running statistics, but they are to be used.

    Example:
        >>> x = jnp.array([[[0.0, 2.0]], [[4.0, 6.0]]])
        >>> _, mean, var = instance_norm_with_stats(x, jnp.zeros(1), jnp.ones(1), momentum=0.5)
        >>> mean, var
        (Array([1.5], dtype=float32), Array([1.5], dtype=float32))

    Source: https://arxiv.org/abs/1607.08022
    """
    if input.ndim < 2:
        raise ShapeError(f"expected input (N, C, *), got {describe(input)}")
    axes = tuple(range(2, input.ndim)) if use_input_stats else None
    if axes is not None and math.prod(input.shape[axis] for axis in axes) == 1:
        raise ValueError(f"Expected more than 1 spatial element when training, got input {describe(input)}")
    return _with_stats(input, running_mean, running_var, weight, bias, axes, momentum, eps)


def instance_norm(
    input: jax.Array,
    running_mean: jax.Array | None = None,
    running_var: jax.Array | None = None,
    weight: jax.Array | None = None,
    bias: jax.Array | None = None,
    use_input_stats: bool = True,
    momentum: float | jax.Array = 0.1,
    eps: float = 1e-5,
) -> jax.Array:
    """Normalizes each channel of each instance over its positions: (x - mean) / √(var + eps) · weight + bias.

    Unlike PyTorch's, it leaves the running statistics alone; `instance_norm_with_stats` returns the new ones.

    Args:
        input: the features.
        running_mean: the mean to use where `use_input_stats` is False.
        running_var: the variance to use where `use_input_stats` is False.
        weight: what the normalized features are multiplied with.
        bias: what is then added.
        use_input_stats: whether to normalize with the statistics of each instance.
        momentum: changes nothing here.
        eps: what is added to the variance.

    Shape:
        input `(N, C, *)`, all others `(C,)`, result `(N, C, *)`.

    Raises:
        ShapeError: the input has fewer than 2 dimensions, or a parameter another shape.
        DtypeError: a parameter has another dtype.
        ValueError: there is one spatial element only, one running statistic without the other, or a bad `eps`.
        RuntimeError: there are no running statistics, but they are to be used.

    Example:
        >>> instance_norm(jnp.array([[[0.0, 2.0]]])).round()
        Array([[[-1.,  1.]]], dtype=float32)

    Source: https://arxiv.org/abs/1607.08022
    """
    return instance_norm_with_stats(input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)[0]


def _normalized_axes(input: jax.Array, normalized_shape: Sequence[int]) -> tuple[int, ...]:
    """The last axes of the input, which have `normalized_shape`."""
    shape = tuple(normalized_shape)
    if not shape:
        raise ShapeError("expected a normalized_shape of at least one dimension, got ()")
    if input.shape[-len(shape) :] != shape:
        raise ShapeError(f"expected input (*, {', '.join(map(str, shape))}), got {describe(input)}")
    return tuple(range(input.ndim - len(shape), input.ndim))


def layer_norm(
    input: jax.Array,
    normalized_shape: Sequence[int],
    weight: jax.Array | None = None,
    bias: jax.Array | None = None,
    eps: float = 1e-5,
) -> jax.Array:
    """Normalizes each row over the last dimensions: (x - mean) / √(var + eps) · weight + bias.

    Args:
        input: the features.
        normalized_shape: the sizes of the last dimensions.
        weight: what the normalized features are multiplied with.
        bias: what is then added.
        eps: what is added to the variance.

    Shape:
        input `(*, *normalized_shape)`, weight and bias `normalized_shape`, result like input.

    Raises:
        ShapeError: an argument has another shape.
        DtypeError: a parameter has another dtype.

    Example:
        >>> layer_norm(jnp.array([[0.0, 2.0], [5.0, 5.0]]), (2,)).round()
        Array([[-1.,  1.],
               [ 0.,  0.]], dtype=float32)

    Source: https://arxiv.org/abs/1607.06450
    """
    input, weight, bias = raised(input, weight, bias)
    axes = _normalized_axes(input, normalized_shape)
    check_parameters(input, tuple(normalized_shape), weight=weight, bias=bias)
    output, _, _ = standardize(widen(input), 1.0, 0.0, axes, eps)
    output = output if weight is None else output * widen(weight)
    output = output if bias is None else output + widen(bias)
    return output.astype(input.dtype)


def group_norm(
    input: jax.Array,
    num_groups: int,
    weight: jax.Array | None = None,
    bias: jax.Array | None = None,
    eps: float = 1e-5,
) -> jax.Array:
    """Normalizes each group of channels of each instance: (x - mean) / √(var + eps) · weight + bias.

    Args:
        input: the features.
        num_groups: how many groups the channels make.
        weight: what the normalized features are multiplied with.
        bias: what is then added.
        eps: what is added to the variance.

    Shape:
        input `(N, C, *)`, weight and bias `(C,)`, result `(N, C, *)`.

    Raises:
        ShapeError: an argument has another shape, or the channels do not make `num_groups` groups.
        DtypeError: a parameter has another dtype.
        ValueError: all groups of the batch together are one value.

    Example:
        >>> group_norm(jnp.array([[0.0, 2.0, 5.0, 9.0]]), 2).round()
        Array([[-1.,  1., -1.,  1.]], dtype=float32)

    Source: https://arxiv.org/abs/1803.08494
    """
    input, weight, bias = raised(input, weight, bias)
    if input.ndim < 2 or num_groups < 1 or input.shape[1] % num_groups:
        channels = f"{num_groups}·C" if num_groups > 0 else "C"
        raise ShapeError(f"expected input (N, {channels}, *) for num_groups={num_groups}, got {describe(input)}")
    batch, channels = input.shape[:2]
    check_parameters(input, (channels,), weight=weight, bias=bias)
    size = math.prod(input.shape[1:]) // num_groups
    if batch * size == 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input {describe(input)}")
    groups = widen(input).reshape(batch, num_groups, size)  # (N, G, C/G·*)
    output = standardize(groups, 1.0, 0.0, (2,), eps)[0].reshape(input.shape)
    output = output * per_channel(weight, input.ndim, 1.0) + per_channel(bias, input.ndim, 0.0)
    return output.astype(input.dtype)


def rms_norm(
    input: jax.Array, normalized_shape: Sequence[int], weight: jax.Array | None = None, eps: float | None = None
) -> jax.Array:
    """Divides each row by its root mean square over the last dimensions: x / √(mean(x²) + eps) · weight.

    Args:
        input: the features.
        normalized_shape: the sizes of the last dimensions.
        weight: what the normalized features are multiplied with.
        eps: what is added to the mean square; the spacing at 1 of the dtype that is computed with if None.

    Shape:
        input `(*, *normalized_shape)`, weight `normalized_shape`, result like input.

    Raises:
        ShapeError: an argument has another shape.
        DtypeError: the weight has another dtype.

    Example:
        >>> rms_norm(jnp.array([[1.0, 7.0]]), (2,))
        Array([[0.2, 1.4]], dtype=float32)

    Source: https://arxiv.org/abs/1910.07467
    """
    input, weight = raised(input, weight)
    axes = _normalized_axes(input, normalized_shape)
    check_parameters(input, tuple(normalized_shape), weight=weight)
    x = widen(input)
    added = float(jnp.finfo(x.dtype).eps) if eps is None else eps
    output = x * lax.rsqrt(jnp.mean(x * x, axes, keepdims=True) + added)
    return (output if weight is None else output * widen(weight)).astype(input.dtype)


def local_response_norm(
    input: jax.Array, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> jax.Array:
    """Divides each channel by the mean square of its neighbours: x / (k + α · mean(x²))^β.

    Args:
        input: the features.
        size: how many neighbouring channels are averaged over; what lies outside counts as 0.
        alpha: the factor of the mean square.
        beta: the exponent.
        k: what the mean square is added to.

    Shape:
        input `(N, C, *)` of at least 3 dimensions, result like input.

    Raises:
        ShapeError: the input has fewer dimensions.

    Example:
        >>> local_response_norm(jnp.full((1, 2, 1), 2.0), size=1, alpha=0.75, beta=0.5)
        Array([[[1.],
                [1.]]], dtype=float32)

    Source: https://papers.nips.cc/paper/4824
    """
    if input.ndim < 3:
        raise ShapeError(f"expected input (N, C, *) of at least 3 dimensions, got {describe(input)}")
    x = widen(input)
    window = (1, size, *[1] * (x.ndim - 2))
    padding = [(0, 0), (size // 2, (size - 1) // 2), *[(0, 0)] * (x.ndim - 2)]
    # The start of the sum must be no tracer, or JAX does not know it for a sum that it can differentiate.
    total = lax.reduce_window(x * x, np.zeros((), x.dtype), lax.add, window, (1,) * x.ndim, padding)
    return (x / (k + alpha / size * total) ** beta).astype(input.dtype)


def normalize(
    input: jax.Array, p: float = 2.0, dim: int | tuple[int, ...] = 1, eps: float = 1e-12, out: None = None
) -> jax.Array:
    """Divides by the p-norm along `dim`: x / max(‖x‖ₚ, eps).

    Args:
        input: any floating array.
        p: the exponent of the norm.
        dim: the dimension, or dimensions, to take the norm along.
        eps: the smallest norm to divide by.
        out: arrays cannot be written to; only None.

    Shape:
        input `(*)`, result `(*)`.

    Raises:
        IndexError: there is no such dimension.
        ValueError: `out` is given.

    Example:
        >>> normalize(jnp.array([[3.0, 4.0], [0.0, 0.0]]))
        Array([[0.6, 0.8],
               [0. , 0. ]], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.normalize.html
    """
    input = raised(input)
    if out is not None:
        raise ValueError("expected out=None: arrays are immutable, so use the result")
    x = widen(input)
    axes = tuple(axis_of(each, x.ndim) for each in ((dim,) if isinstance(dim, int) else dim)) if x.ndim else ()
    return (x / clamp_min(vector_norm(x, p, axes, keepdims=True), eps)).astype(input.dtype)
