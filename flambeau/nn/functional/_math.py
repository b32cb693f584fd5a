"""Small pieces of arithmetic with torch's precision and torch's derivatives where a function has a kink."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from flambeau._errors import DtypeError
from flambeau.nn.functional._checks import describe

__all__ = ["absolute", "clamp_min", "computed_once", "log1p_exp", "straight_through", "vector_norm", "widen"]

Axis = int | tuple[int, ...]


def widen(x: ArrayLike) -> jax.Array:
    """`x` as it is computed with: half precision becomes float32, everything wider stays.

    Raises:
        DtypeError: `expected a floating dtype, got int32[3]`.

    Example:
        >>> widen(jnp.ones(2, jnp.bfloat16)).dtype
        dtype('float32')
    """
    array = jnp.asarray(x)
    if not jnp.issubdtype(array.dtype, jnp.inexact):
        raise DtypeError(f"expected a floating dtype, got {describe(array)}")
    return array.astype(jnp.float32) if array.dtype.itemsize < 4 else array


@jax.jit  # to be traced once for each shape, and not at each use
def computed_once(x: jax.Array) -> jax.Array:
    """`x`, of which XLA's CPU compiler makes an array, and does not compute it anew in each loop that reads it."""
    return lax.platform_dependent(x, cpu=lax.optimization_barrier, default=lambda x: x)


@jax.custom_jvp
def absolute(x: jax.Array) -> jax.Array:
    """|x|, with derivative 0 at 0 (`jnp.abs` has 1 there)."""
    return jnp.abs(x)


@absolute.defjvp
def _absolute_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    return absolute(*primals), jnp.sign(primals[0]) * tangents[0]


def clamp_min(x: jax.Array, low: float) -> jax.Array:
    """max(x, low), with derivative 1 where the two are equal (`jnp.maximum` has 1/2 there)."""
    return jnp.where(x < low, low, x)


@jax.custom_jvp
def log1p_exp(x: jax.Array) -> jax.Array:
    """log(1 + eˣ) for any x, without overflow."""
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


@log1p_exp.defjvp
def _log1p_exp_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    # The kinks of max and abs at 0 cancel in the value, but would not in the second derivative.
    (x,), (dx,) = primals, tangents
    return log1p_exp(x), lax.logistic(x) * dx


@jax.custom_jvp
def straight_through(x: jax.Array, value: jax.Array) -> jax.Array:
    """`value`, differentiated as if it were `x`: what torch does when it changes a tensor under `no_grad`."""
    return value


@straight_through.defjvp
def _straight_through_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    return straight_through(*primals), tangents[0]


def _root(total: jax.Array, p: float) -> jax.Array:
    """total^(1/p) with derivative 0, not infinity, at 0."""
    zero = total == 0
    safe = jnp.where(zero, 1, total)
    return jnp.where(zero, 0, jnp.sqrt(safe) if p == 2 else safe ** (1 / p))


def vector_norm(x: jax.Array, p: float, axis: Axis, keepdims: bool = False) -> jax.Array:
    """The p-norm (Σ|xᵢ|ᵖ)^(1/p) along `axis`, of any p, with derivative 0 at 0, as in torch."""
    if p == 2:
        return _root(jnp.sum(x * x, axis, keepdims=keepdims), p)
    size = absolute(x)
    if p == 1:
        return jnp.sum(size, axis, keepdims=keepdims)
    if p == float("inf"):
        return jnp.max(size, axis, keepdims=keepdims)
    if p == -float("inf"):
        return jnp.min(size, axis, keepdims=keepdims)
    if p == 0:
        return jnp.sum(x != 0, axis, keepdims=keepdims, dtype=x.dtype)
    if p < 0:
        return jnp.sum(size**p, axis, keepdims=keepdims) ** (1 / p)
    return _root(jnp.sum(_power(size, p), axis, keepdims=keepdims), p)


def _power(size: jax.Array, p: float) -> jax.Array:
    """sizeᵖ for p > 0, with derivative 0 at 0 also where p < 1."""
    return size**p if p >= 1 else jnp.where(size == 0, 0, jnp.where(size == 0, 1, size) ** p)
