"""The arithmetic of weight and spectral normalization, in their newer and their older form.

What is computed whenever such a weight is read is compiled, so that it costs one dispatch outside of transforms.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax

from flambeau.core.module import Module
from flambeau.nn import init
from flambeau.nn.conv import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from flambeau.nn.functional._inputs import axis_of
from flambeau.nn.functional._math import clamp_min, vector_norm, widen

__all__ = ["as_matrix", "default_dim", "norm_except_dim", "power_step", "precise_matmul", "random_unit", "weight_of"]


def precise_matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    """The product a · b in the precision of its dtype, which accelerators leave to be asked for."""
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def _norm(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    return vector_norm(jnp.abs(x) if jnp.iscomplexobj(x) else x, 2, axes, keepdims=True)


def norm_except_dim(v: jax.Array, dim: int) -> jax.Array:
    """‖v‖₂ over all dimensions but one, which stay as 1; for `dim` -1 over all, `()`."""
    wide = widen(v)
    if dim == -1:
        return _norm(wide, tuple(range(v.ndim))).reshape(()).astype(v.dtype)
    kept = axis_of(dim, v.ndim)
    return _norm(wide, tuple(axis for axis in range(v.ndim) if axis != kept)).astype(v.dtype)


@functools.partial(jax.jit, static_argnums=2)
def weight_of(g: jax.Array, v: jax.Array, dim: int) -> jax.Array:
    """The weight g · v / ‖v‖."""
    wide = widen(v)
    return (wide * (g / norm_except_dim(wide, dim))).astype(v.dtype)


def default_dim(module: Module) -> int:
    """The dimension of a weight that counts the outputs."""
    return 1 if isinstance(module, (ConvTranspose1d, ConvTranspose2d, ConvTranspose3d)) else 0


def as_matrix(weight: jax.Array, dim: int) -> jax.Array:
    """The weight `(..., O, ...)`, its outputs in dimension `dim`, as the matrix `(O, rest)`."""
    weight = jnp.moveaxis(weight, dim, 0)
    return weight.reshape(weight.shape[0], -1)  # (O, rest)


def _unit(x: jax.Array, eps: float) -> jax.Array:
    """The vector x / max(‖x‖₂, eps)."""
    wide = widen(x)
    return (wide / clamp_min(_norm(wide, (0,)), eps)).astype(x.dtype)


def random_unit(size: int, like: jax.Array, eps: float) -> jax.Array:
    """A random vector of length 1, with the dtype of `like`; the default generator moves on."""
    return _unit(init.normal_(jnp.zeros(size, like.dtype)), eps)


@functools.partial(jax.jit, static_argnums=2)
def power_step(matrix: jax.Array, x: jax.Array, eps: float) -> jax.Array:
    """The vector matrix · x, of length 1: half a step of the power method. No gradient goes through it."""
    return _unit(precise_matmul(lax.stop_gradient(matrix), lax.stop_gradient(x)), eps)
