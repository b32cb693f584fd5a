"""Normalization by mean and variance, and the checks and shapes of its parameters."""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero, zero_from_primal

from flambeau._errors import DtypeError, ShapeError
from flambeau.nn.functional._checks import describe
from flambeau.nn.functional._math import computed_once, widen

__all__ = ["Scalar", "check_parameters", "per_channel", "standardize"]

Scalar = jax.Array | float
Tangent = jax.Array | SymbolicZero


@partial(jax.custom_jvp, nondiff_argnums=(3, 4, 5))
def standardize(
    x: jax.Array, scale: Scalar, shift: Scalar, axes: tuple[int, ...], eps: float, axis_name: Hashable | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(x - mean) / √(var + eps) · scale + shift, and the mean and the biased variance over `axes`, which are kept.

    `scale` and `shift` broadcast against the statistics. Those are also over the mapped axis `axis_name`, where one is given.
    """
    mean = _mean(x, axes, axis_name)
    # The variance of what is centred: the mean of squares less the square of the mean cancels.
    centred = x - mean
    var = _mean(centred * centred, axes, axis_name)
    return centred * (lax.rsqrt(var + eps) * scale) + shift, mean, var


def _standardize_jvp(
    axes: tuple[int, ...],
    eps: float,
    axis_name: Hashable | None,
    primals: tuple[jax.Array, Scalar, Scalar],
    tangents: tuple[Tangent, Tangent, Tangent],
) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    # What autodiff makes of the lines above reads the cotangent g in four sums. In this form of the derivative all that
    # is summed is g and x̂ · g, once for the input, the scale and the shift together.
    x, scale, _ = primals
    pairs = zip(primals, tangents, strict=True)
    dx, dscale, dshift = (zero_from_primal(p) if isinstance(t, SymbolicZero) else t for p, t in pairs)
    if not isinstance(tangents[0], SymbolicZero):
        # On the way back, all the sums of the layer before read this cotangent, whose own sums those of the one before.
        dx = computed_once(dx)
    y, mean, var = standardize(*primals, axes, eps, axis_name)
    inverse = lax.rsqrt(var + eps)
    x_hat = (x - mean) * inverse
    slope = inverse * scale
    dmean = _mean(dx, axes, axis_name)
    projection = _mean(x_hat * dx, axes, axis_name)
    dy = slope * dx + (dshift - slope * dmean) + x_hat * (dscale - slope * projection)
    return (y, mean, var), (dy, dmean, 2 * projection / inverse)


standardize.defjvp(_standardize_jvp, symbolic_zeros=True)


def _mean(x: jax.Array, axes: tuple[int, ...], axis_name: Any) -> jax.Array:
    mean = jnp.mean(x, axes, keepdims=True)
    return mean if axis_name is None else lax.pmean(mean, axis_name)


def check_parameters(input: jax.Array, shape: tuple[int, ...], **parameters: jax.Array | None) -> None:
    """Raises unless each parameter that is given has `shape` and a dtype that goes with the input's."""
    given = {name: each for name, each in parameters.items() if each is not None}
    wrong = [f"expected {name} {shape}, got {describe(each)}" for name, each in given.items() if each.shape != shape]
    if wrong:
        raise ShapeError(f"{'; '.join(wrong)} (input {describe(input)})")
    dtypes = {jnp.dtype(input.dtype), jnp.dtype(widen(input).dtype)}
    wrong = [
        f"expected {name} of dtype {' or '.join(sorted(map(str, dtypes)))}, got {describe(each)}"
        for name, each in given.items()
        if each.dtype not in dtypes
    ]
    if wrong:
        raise DtypeError("; ".join(wrong))


def per_channel(x: jax.Array | None, ndim: int, default: float) -> Scalar:
    """A parameter `(C,)` as `(1, C, 1, …)` of `ndim` dimensions, or the default where there is none."""
    return default if x is None else widen(x).reshape(1, -1, *[1] * (ndim - 2))
