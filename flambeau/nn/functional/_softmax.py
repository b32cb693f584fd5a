"""Softmax and its relatives, which turn the scores along one dimension into a distribution."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from flambeau._errors import FlambeauWarning
from flambeau.core.random import next_key
from flambeau.nn.functional._autocast import raised
from flambeau.nn.functional._inputs import axis_of
from flambeau.nn.functional._math import straight_through, widen

__all__ = ["gumbel_softmax", "log_softmax", "softmax", "softmin"]


def _axis(name: str, input: jax.Array, dim: int | None, stacklevel: int) -> int | tuple[()]:
    """The axis that `dim` means, () for a scalar; torch's old choice, with its warning, if there is none."""
    if dim is None:
        dim = 0 if input.ndim in (0, 1, 3) else 1
        warnings.warn(
            f"{name} chose dim={dim} for an input of {input.ndim} dimensions; which one it chooses depends on their "
            "number and is deprecated: pass dim",
            FlambeauWarning,
            stacklevel=stacklevel,
        )
    axis = axis_of(dim, input.ndim)
    return axis if input.ndim else ()


def softmax(
    input: jax.Array, dim: int | None = None, _stacklevel: int = 3, dtype: DTypeLike | None = None
) -> jax.Array:
    """Turns scores into probabilities along `dim`: exp(xᵢ) / Σⱼ exp(xⱼ).

    Args:
        input: any floating array.
        dim: the dimension that sums to 1. Leaving it out is deprecated, as in PyTorch: it is then 0 for an input of 0,
            1 or 3 dimensions and 1 for others.
        _stacklevel: which caller the warning about a missing `dim` names.
        dtype: what to cast the input to first.

    Shape:
        input `(*)`, result `(*)`.

    Raises:
        IndexError: there is no such dimension.
        DtypeError: the dtype is no floating one.

    Example:
        >>> softmax(jax.numpy.array([[0.0, 0.0], [9.0, 9.0]]), dim=1)
        Array([[0.5, 0.5],
               [0.5, 0.5]], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.softmax.html
    """
    input = raised(input)
    axis = _axis("softmax", input, dim, _stacklevel)
    x = input if dtype is None else input.astype(dtype)
    return jax.nn.softmax(widen(x), axis).astype(x.dtype)


def log_softmax(
    input: jax.Array, dim: int | None = None, _stacklevel: int = 3, dtype: DTypeLike | None = None
) -> jax.Array:
    """The logarithm of the softmax along `dim`, without its underflow: xᵢ - log Σⱼ exp(xⱼ).

    Args:
        input: any floating array.
        dim: the dimension that is normalized. Leaving it out is deprecated, as in PyTorch: it is then 0 for an input of
            0, 1 or 3 dimensions and 1 for others.
        _stacklevel: which caller the warning about a missing `dim` names.
        dtype: what to cast the input to first.

    Shape:
        input `(*)`, result `(*)`.

    Raises:
        IndexError: there is no such dimension.
        DtypeError: the dtype is no floating one.

    Example:
        >>> log_softmax(jax.numpy.array([0.0, 1000.0]), dim=0)
        Array([-1000.,     0.], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.log_softmax.html
    """
    input = raised(input)
    axis = _axis("log_softmax", input, dim, _stacklevel)
    x = input if dtype is None else input.astype(dtype)
    return jax.nn.log_softmax(widen(x), axis).astype(x.dtype)


def softmin(
    input: jax.Array, dim: int | None = None, _stacklevel: int = 3, dtype: DTypeLike | None = None
) -> jax.Array:
    """The softmax of the negated input, which favours the smallest: exp(-xᵢ) / Σⱼ exp(-xⱼ).

    Args:
        input: any floating array.
        dim: the dimension that sums to 1. Leaving it out is deprecated, as in PyTorch: it is then 0 for an input of 0,
            1 or 3 dimensions and 1 for others.
        _stacklevel: which caller the warning about a missing `dim` names.
        dtype: what to cast the input to first.

    Shape:
        input `(*)`, result `(*)`.

    Raises:
        IndexError: there is no such dimension.
        DtypeError: the dtype is no floating one.

    Example:
        >>> softmin(jax.numpy.array([0.0, 1000.0]), dim=0)
        Array([1., 0.], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.softmin.html
    """
    input = raised(input)
    axis = _axis("softmin", input, dim, _stacklevel)
    x = -input if dtype is None else -input.astype(dtype)
    return jax.nn.softmax(widen(x), axis).astype(x.dtype)


def gumbel_softmax(
    logits: jax.Array, tau: float = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1
) -> jax.Array:
    """Random probabilities that are near to one draw from a distribution: softmax((logits + g) / tau), g ~ Gumbel(0, 1).

    The numbers come from the default generator.

    Args:
        logits: the logarithms of the probabilities, up to a constant.
        tau: the temperature; the lower it is, the nearer the result is to one-hot.
        hard: whether to return the draw itself, one-hot, with the derivative of the probabilities.
        eps: deprecated; has no effect.
        dim: the dimension that sums to 1.

    Shape:
        logits `(*)`, result `(*)`.

    Raises:
        IndexError: there is no such dimension.
        DtypeError: the dtype is no floating one.

    Example:
        >>> gumbel_softmax(jax.numpy.array([0.0, 100.0]), hard=True)
        Array([0., 1.], dtype=float32)

    Source: https://arxiv.org/abs/1611.01144
    """
    logits = raised(logits)
    if eps != 1e-10:
        warnings.warn("eps is deprecated and has no effect", FlambeauWarning, stacklevel=2)
    axis, x = axis_of(dim, logits.ndim), widen(logits)
    if logits.ndim == 0:
        return jnp.ones_like(logits)
    noise = jax.random.gumbel(next_key(), x.shape, x.dtype)
    soft = jax.nn.softmax((x + noise) / tau, axis)
    if hard:
        drawn = jax.nn.one_hot(jnp.argmax(soft, axis), x.shape[axis], dtype=x.dtype, axis=axis)
        soft = straight_through(soft, drawn)
    return soft.astype(logits.dtype)
