"""Activations with kinks: piecewise linear ones, and the exponential linear units.

Each has torch's derivative at its kinks. Where a function takes `inplace`, it is there so that calls written for
PyTorch work: arrays are immutable, so the argument changes nothing and the result is returned.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import lax

from flambeau._errors import ShapeError
from flambeau.core.random import next_key
from flambeau.nn.functional._autocast import lowered
from flambeau.nn.functional._checks import check_same_dtype, describe
from flambeau.nn.functional._math import widen

if TYPE_CHECKING:
    from flambeau.core.random import Generator

__all__ = [
    "celu",
    "elu",
    "hardshrink",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "leaky_relu",
    "prelu",
    "relu",
    "relu6",
    "rrelu",
    "selu",
    "softshrink",
    "threshold",
]


def relu(input: jax.Array, inplace: bool = False) -> jax.Array:
    """Sets what is negative to zero: max(x, 0), with derivative 0 at 0.

    Args:
        input: any array.
        inplace: changes nothing.

    Shape:
        input `(*)`, result `(*)`.

    Example:
        >>> relu(jnp.array([-1.0, 0.0, 2.0]))
        Array([0., 0., 2.], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.relu.html
    """
    return jax.nn.relu(input)


def hardtanh(input: jax.Array, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> jax.Array:
    """Cuts the values off: min(max(x, min_val), max_val), with derivative 0 at both bounds.

    Args:
        input: any array.
        min_val: the lower bound.
        max_val: the upper bound.
        inplace: changes nothing.

    Shape:
        input `(*)`, result `(*)`.

    Raises:
        ValueError: `min_val` is above `max_val`.

    Example:
        >>> hardtanh(jnp.array([-3.0, 0.5, 3.0]))
        Array([-1. ,  0.5,  1. ], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.hardtanh.html
    """
    if min_val > max_val:
        raise ValueError(f"expected min_val <= max_val, got {min_val} and {max_val}")
    # jnp.clip has derivative 1/2 at the bounds.
    return lax.clamp(jnp.asarray(min_val, input.dtype), input, jnp.asarray(max_val, input.dtype))


def relu6(input: jax.Array, inplace: bool = False) -> jax.Array:
    """Cuts the values off at 0 and 6: min(max(x, 0), 6), with derivative 0 at both.

    Args:
        input: any array.
        inplace: changes nothing.

    Shape:
        input `(*)`, result `(*)`.

    Example:
        >>> relu6(jnp.array([-1.0, 2.0, 8.0]))
        Array([0., 2., 6.], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.relu6.html
    """
    return hardtanh(input, 0.0, 6.0)


def leaky_relu(input: jax.Array, negative_slope: float = 0.01, inplace: bool = False) -> jax.Array:
    """Lets a part of what is negative through: x if x > 0, else negative_slope · x.

    Args:
        input: any floating array.
        negative_slope: the slope below zero, and the derivative at zero.
        inplace: changes nothing.

    Shape:
        input `(*)`, result `(*)`.

    Example:
        >>> leaky_relu(jnp.array([-2.0, 2.0]), 0.25)
        Array([-0.5,  2. ], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.leaky_relu.html
    """
    x = widen(input)
    return jnp.where(x > 0, x, x * negative_slope).astype(input.dtype)


def prelu(input: jax.Array, weight: jax.Array) -> jax.Array:
    """A leaky ReLU with a learned slope for all channels or for each: x if x > 0, else w · x.

    Args:
        input: the features.
        weight: the slopes.

    Shape:
        input `(N, C, *)` (or any shape, if there is one slope), weight `()`, `(1,)` or `(C,)`, result like input.

    Raises:
        ShapeError: `weight` is neither one slope nor one for each channel.
        DtypeError: `weight` has another dtype than `input`.

    Example:
        >>> prelu(jnp.array([[-2.0, -2.0]]), jnp.array([0.25, 0.5]))
        Array([[-0.5, -1. ]], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.prelu.html
    """
    input, weight = lowered(input, weight)
    channels = input.shape[1] if input.ndim > 1 else 1
    if weight.ndim > 1 or weight.size not in (1, channels):
        raise ShapeError(
            f"expected weight (), (1,) or ({channels},) for input {describe(input)}, got {describe(weight)}"
        )
    check_same_dtype(input, weight=weight)
    slopes = weight.reshape(-1, *[1] * (input.ndim - 2)) if weight.size > 1 else weight.reshape(())
    return jnp.where(input > 0, input, input * slopes)


def rrelu(
    input: jax.Array,
    lower: float = 1 / 8,
    upper: float = 1 / 3,
    training: bool = False,
    inplace: bool = False,
    *,
    generator: Generator | None = None,
) -> jax.Array:
    """A leaky ReLU with a random slope for each element: x if x > 0, else a · x with a ~ U(lower, upper).

    Outside of training the slope is the mean, (lower + upper) / 2.

    Args:
        input: any floating array.
        lower: the smallest slope.
        upper: the largest slope.
        training: whether to draw.
        inplace: changes nothing.
        generator: where the slopes come from; the default generator if None.

    Shape:
        input `(*)`, result `(*)`.

    Raises:
        RuntimeError: the bounds are not finite, or in the wrong order.

    Example:
        >>> rrelu(jnp.array([-2.0, 2.0]), 0.0, 0.5)
        Array([-0.5,  2. ], dtype=float32)

    Source: https://arxiv.org/abs/1505.00853
    """
    if not (math.isfinite(lower) and math.isfinite(upper) and lower <= upper):
        raise RuntimeError(f"expected finite slopes lower <= upper, got {lower} and {upper}")
    if not training:
        return leaky_relu(input, (lower + upper) / 2)
    x = widen(input)
    slopes = jax.random.uniform(next_key(generator), x.shape, x.dtype, lower, upper)
    return jnp.where(x > 0, x, x * slopes).astype(input.dtype)


def threshold(input: jax.Array, threshold: float, value: float, inplace: bool = False) -> jax.Array:
    """Replaces all that is not above a threshold: x if x > threshold, else value.

    Args:
        input: any array.
        threshold: the largest number to replace.
        value: what to put in its place.
        inplace: changes nothing.

    Shape:
        input `(*)`, result `(*)`.

    Example:
        >>> threshold(jnp.array([0.5, 2.0]), 1.0, -1.0)
        Array([-1.,  2.], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.threshold.html
    """
    return jnp.where(input <= threshold, jnp.asarray(value, input.dtype), input)


def hardsigmoid(input: jax.Array, inplace: bool = False) -> jax.Array:
    """A sigmoid of straight lines: min(max(x + 3, 0), 6) / 6, with derivative 0 at -3 and 3.

    Args:
        input: any floating array.
        inplace: changes nothing.

    Shape:
        input `(*)`, result `(*)`.

    Example:
        >>> hardsigmoid(jnp.array([-4.0, 0.0, 4.0]))
        Array([0. , 0.5, 1. ], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.hardsigmoid.html
    """
    x = widen(input)
    return (hardtanh(x + 3, 0.0, 6.0) / 6).astype(input.dtype)


def hardswish(input: jax.Array, inplace: bool = False) -> jax.Array:
    """A swish of straight lines and a parabola: x · min(max(x + 3, 0), 6) / 6; derivative 0 at -3 and 1 at 3.

    Args:
        input: any floating array.
        inplace: changes nothing.

    Shape:
        input `(*)`, result `(*)`.

    Example:
        >>> hardswish(jnp.array([-4.0, 1.5, 4.0]))
        Array([-0.   ,  1.125,  4.   ], dtype=float32)

    Source: https://arxiv.org/abs/1905.02244
    """
    x = widen(input)
    return (x * hardtanh(x + 3, 0.0, 6.0) / 6).astype(input.dtype)


def hardshrink(input: jax.Array, lambd: float = 0.5) -> jax.Array:
    """Sets what is small to zero: 0 if -lambd <= x <= lambd, else x.

    Args:
        input: any array.
        lambd: the largest magnitude that is small.

    Shape:
        input `(*)`, result `(*)`.

    Example:
        >>> hardshrink(jnp.array([-1.0, 0.5, 0.75]))
        Array([-1.  ,  0.  ,  0.75], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.hardshrink.html
    """
    return jnp.where((input >= -lambd) & (input <= lambd), 0, input)


def softshrink(input: jax.Array, lambd: float = 0.5) -> jax.Array:
    """Moves each value towards zero by lambd, and no further: x - lambd if x > lambd, x + lambd if x < -lambd, else 0.

    Args:
        input: any floating array.
        lambd: how far, at least 0.

    Shape:
        input `(*)`, result `(*)`.

    Raises:
        RuntimeError: `lambd` is negative.

    Example:
        >>> softshrink(jnp.array([-1.0, 0.25, 0.75]))
        Array([-0.5 ,  0.  ,  0.25], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.softshrink.html
    """
    if not lambd >= 0:
        raise RuntimeError(f"expected lambd >= 0, got {lambd}")
    x = widen(input)
    # 0 · x, not 0, so that a NaN stays one.
    return jnp.where(x > lambd, x - lambd, jnp.where(x < -lambd, x + lambd, 0 * x)).astype(input.dtype)


def _exponential_unit(input: jax.Array, above: float, below: float, rate: float) -> jax.Array:
    """Above · x if x > 0, else below · (exp(rate · x) - 1)."""
    x = widen(input)
    # Where x > 0 the exponential is not used, but an infinite one would make the derivative NaN.
    bounded = jnp.where(x > 0, 0, x)
    return jnp.where(x > 0, above * x, below * jnp.expm1(rate * bounded)).astype(input.dtype)


def elu(input: jax.Array, alpha: float = 1.0, inplace: bool = False) -> jax.Array:
    """The exponential linear unit: x if x > 0, else α · (exp(x) - 1).

    Args:
        input: any floating array.
        alpha: minus the value that it tends to, and the derivative at 0.
        inplace: changes nothing.

    Shape:
        input `(*)`, result `(*)`.

    Example:
        >>> elu(jnp.array([-100.0, 0.0, 2.0]), 0.5)
        Array([-0.5,  0. ,  2. ], dtype=float32)

    Source: https://arxiv.org/abs/1511.07289
    """
    return _exponential_unit(input, 1.0, alpha, 1.0)


def selu(input: jax.Array, inplace: bool = False) -> jax.Array:
    """The scaled exponential linear unit: 1.0507 · (x if x > 0, else 1.6733 · (exp(x) - 1)).

    Args:
        input: any floating array.
        inplace: changes nothing.

    Shape:
        input `(*)`, result `(*)`.

    Example:
        >>> print(f"{selu(jnp.array(1.0)):.4f}")
        1.0507

    Source: https://arxiv.org/abs/1706.02515
    """
    scale, alpha = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717
    return _exponential_unit(input, scale, scale * alpha, 1.0)


def celu(input: jax.Array, alpha: float = 1.0, inplace: bool = False) -> jax.Array:
    """The continuously differentiable exponential linear unit: x if x > 0, else α · (exp(x / α) - 1).

    Args:
        input: any floating array.
        alpha: minus the value that it tends to; not 0.
        inplace: changes nothing.

    Shape:
        input `(*)`, result `(*)`.

    Raises:
        RuntimeError: `alpha` is 0.

    Example:
        >>> celu(jnp.array([-100.0, 0.0, 2.0]), 0.5)
        Array([-0.5,  0. ,  2. ], dtype=float32)

    Source: https://arxiv.org/abs/1704.07483
    """
    if alpha == 0:
        raise RuntimeError("expected an alpha other than 0")
    return _exponential_unit(input, 1.0, alpha, 1 / alpha)
