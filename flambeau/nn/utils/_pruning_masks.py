"""Which units of an array pruning removes. Masks are made once, outside of transforms, by numpy, which compiles nothing."""

from __future__ import annotations

import math
import numbers
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from flambeau._errors import ShapeError, StateError
from flambeau.core.placement import placement_of

__all__ = ["Unseen", "channel_norms", "check_amount", "check_channels", "count_of", "like", "lowest", "values_of"]


class Unseen:
    """Holds a mask that no compiled function reads, so that to all of them one is as good as another."""

    def __init__(self, mask: jax.Array) -> None:
        self.mask = mask

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unseen)

    def __hash__(self) -> int:
        return hash(Unseen)


def values_of(t: jax.Array) -> np.ndarray:
    """What a mask is made from.

    Raises:
        StateError: a transform runs, in which values are not known.
    """
    if isinstance(t, Tracer):
        raise StateError("a pruning mask depends on values, which are not known inside of a transform: prune before it")
    return np.asarray(t)


def like(mask: np.ndarray, t: jax.Array) -> jax.Array:
    """The mask with the dtype of `t`, where `t` lies."""
    return jax.device_put(mask.astype(t.dtype), placement_of(t))


def check_amount(amount: Any) -> None:
    """Raises for what cannot be an amount of units, whatever is pruned.

    Raises:
        TypeError: it is no number.
        ValueError: it is a negative integer, or a fraction outside of [0, 1].
    """
    if not isinstance(amount, numbers.Real):
        raise TypeError(f"Invalid type for amount: {amount}. Must be int or float.")
    if amount < 0 or (not isinstance(amount, numbers.Integral) and float(amount) > 1):
        raise ValueError(f"amount={amount} should either be a float in the range [0, 1] or a non-negative integer")


def count_of(amount: Any, size: int) -> int:
    """How many units out of `size` an amount is.

    Raises:
        ValueError: more than there are.
    """
    count = int(amount) if isinstance(amount, numbers.Integral) else round(amount * size)
    if count > size:
        raise ValueError(f"amount={count} should be smaller than the number of parameters to prune={size}")
    return count


def lowest(scores: np.ndarray, count: int) -> np.ndarray:
    """Where the `count` lowest scores stand; of equal ones, the first."""
    chosen = np.zeros(scores.size, bool)
    chosen[np.argsort(scores, axis=None, kind="stable")[:count]] = True
    return chosen.reshape(scores.shape)


def check_channels(t: jax.Array, dim: int) -> None:
    """Raises unless `t` has channels along `dim`.

    Raises:
        ShapeError: it is a vector or a scalar.
        IndexError: there is no such dimension.
    """
    if t.ndim <= 1:
        raise ShapeError(
            "Structured pruning can only be applied to multidimensional tensors. Found tensor of shape "
            f"{t.shape} with {t.ndim} dims"
        )
    if not -t.ndim <= dim < t.ndim:
        raise IndexError(f"Invalid index {dim} for tensor of size {t.shape}")


def channel_norms(t: jax.Array, n: Any, dim: int) -> np.ndarray:
    """The n-norm of each channel of `t` along `dim`."""
    values = values_of(t)
    channels = np.moveaxis(values.astype(np.promote_types(values.dtype, np.float32)), dim, 0)  # (C, *)
    if n == "nuc" or (n == "fro" and channels.ndim > 3):
        if channels.ndim != 3:
            raise ShapeError(f"the norm {n!r} is one of matrices, but a channel has the shape {channels.shape[1:]}")
        return np.linalg.norm(channels, n, (1, 2))
    return np.linalg.norm(channels.reshape(len(channels), math.prod(channels.shape[1:])), 2 if n == "fro" else n, 1)
