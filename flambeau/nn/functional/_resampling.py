"""Resampling of one axis after the other: which entries of the axis each new one is made of, and how they are summed."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

__all__ = ["Axis", "resample"]

# The largest matrix, in entries, that an axis is multiplied with; beyond it, entries are looked up one by one.
_LARGEST_MATRIX = 2**20

Taps: TypeAlias = tuple[np.ndarray, np.ndarray]
"""For each new entry the positions `(new, K)` of what it is made of, and the weights `(new, K)` of those."""


class Axis(NamedTuple):
    """How one axis is resampled."""

    old: int
    """Its size."""
    new: int
    """The size that it gets."""
    factor: float | None
    """By how much it was to grow, where that and not the size was given."""
    mode: str
    """nearest, nearest-exact, linear, cubic or lanczos."""
    align_corners: bool
    antialias: bool


@partial(jax.jit, static_argnums=1)
def resample(x: jax.Array, axes: tuple[Axis, ...]) -> jax.Array:
    """The last axes of `x` resampled."""
    # From the one that shrinks most to the one that grows most, so that the arrays between are small.
    places = list(enumerate(axes, x.ndim - len(axes)))
    for place, axis in sorted(places, key=lambda entry: entry[1].new / entry[1].old):
        x = _along(x, place, axis)
    return x


def _along(x: jax.Array, place: int, axis: Axis) -> jax.Array:
    taps, weights = _taps(axis)
    if taps.shape[1] == 1:
        return _pick(x, place, taps[:, 0])
    times = axis.new // axis.old
    if axis.new == times * axis.old and times > 1 and (phases := _phases(taps, weights, times, axis.old)):
        return _by_phases(x, place, *phases)
    if axis.old * axis.new <= _LARGEST_MATRIX:
        return _by_matrix(x, place, taps, weights)
    return _by_lookup(x, place, taps, weights)


def _pick(x: jax.Array, place: int, index: np.ndarray) -> jax.Array:
    """The entries at `index`; where the index allows it by repeating or by steps, which cost less than looking up."""
    old, new = x.shape[place], index.size
    if new % old == 0 and np.array_equal(index, np.repeat(np.arange(old), new // old)):
        return jnp.repeat(x, new // old, place)
    step = old // new
    if step and np.array_equal(index, index[0] + step * np.arange(new)):
        return lax.slice_in_dim(x, int(index[0]), int(index[-1]) + 1, step, place)
    return jnp.take(x, index.astype(np.int32), place)


def _phases(taps: np.ndarray, weights: np.ndarray, times: int, old: int) -> tuple[int, np.ndarray] | None:
    """How an axis that grows `times` times is made, if that is the same around each of its entries.

    The first position, from the entry on, and the weights `(times, K)` of it and of the following ones.
    """
    middle = old // 2
    around, shares = (each.reshape(old, times, -1) for each in (taps, weights))
    first, last = around[middle].min() - middle, around[middle].max() - middle
    if middle + first <= 0 or middle + last >= old - 1:
        return None  # the middle may be as much an edge as the rest
    wide = np.zeros((times, last - first + 1))
    for phase in range(times):
        np.add.at(wide[phase], around[middle, phase] - middle - first, shares[middle, phase])
    expected = _matrix(np.clip(_spread(first, last, times, old), 0, old - 1), np.tile(wide, (old, 1)), old)
    return (int(first), wide) if np.allclose(expected, _matrix(taps, weights, old), rtol=0, atol=1e-12) else None


def _spread(first: int, last: int, times: int, old: int) -> np.ndarray:
    """The positions from `first` to `last` around each entry, `times` times: `(old · times, last - first + 1)`."""
    return np.repeat(np.arange(old), times)[:, None] + np.arange(first, last + 1)


def _by_phases(x: jax.Array, place: int, first: int, weights: np.ndarray) -> jax.Array:
    """Sums of shifted copies, one for each phase, which take turns along the axis."""
    old, last = x.shape[place], first + weights.shape[1] - 1
    cut = partial(lax.slice_in_dim, x, axis=place)
    before, after = jnp.repeat(cut(0, 1), -first, place), jnp.repeat(cut(old - 1, old), last, place)
    longer = lax.concatenate([before, x, after], place)
    shifted = [lax.slice_in_dim(longer, k, k + old, axis=place) for k in range(weights.shape[1])]
    phases = [sum(w * each for w, each in zip(row.tolist(), shifted, strict=True) if w) for row in weights]
    stacked = jnp.stack(jnp.broadcast_arrays(*phases), place + 1)
    # (..., old, times, ...) to (..., old · times, ...)
    return stacked.reshape(*x.shape[:place], old * len(weights), *x.shape[place + 1 :])


def _matrix(taps: np.ndarray, weights: np.ndarray, old: int) -> np.ndarray:
    """The weights of all old entries for each new one: `(new, old)`."""
    matrix = np.zeros((len(taps), old))
    np.add.at(matrix, (np.arange(len(taps))[:, None], taps), weights)
    return matrix


def _by_matrix(x: jax.Array, place: int, taps: np.ndarray, weights: np.ndarray) -> jax.Array:
    matrix = jnp.asarray(_matrix(taps, weights, x.shape[place]), x.dtype)
    product = lax.dot_general(x, matrix, (((place,), (1,)), ((), ())), precision=lax.Precision.HIGHEST)
    return jnp.moveaxis(product, -1, place)


def _by_lookup(x: jax.Array, place: int, taps: np.ndarray, weights: np.ndarray) -> jax.Array:
    shape = [1] * x.ndim
    shape[place] = len(taps)
    parts = [
        jnp.asarray(weights[:, k].reshape(shape), x.dtype) * jnp.take(x, taps[:, k].astype(np.int32), place)
        for k in range(taps.shape[1])
    ]
    return sum(parts[1:], parts[0])


def _taps(axis: Axis) -> Taps:
    if axis.mode.startswith("nearest"):
        return _nearest_taps(axis)
    if axis.old == axis.new and (axis.antialias or axis.mode == "linear"):
        # Whatever the factor was, as in PyTorch.
        return np.arange(axis.old)[:, None], np.ones((axis.old, 1))
    if axis.antialias:
        return _antialiased_taps(axis, *_FILTERS[axis.mode])
    return _linear_taps(axis) if axis.mode == "linear" else _cubic_taps(axis)


def _step(axis: Axis) -> float:
    """How far it is in the old axis from one new entry to the next."""
    if axis.align_corners:
        return (axis.old - 1) / (axis.new - 1) if axis.new > 1 else 0.0
    return 1 / axis.factor if axis.factor is not None and axis.factor > 0 else axis.old / axis.new


def _nearest_taps(axis: Axis) -> Taps:
    # In 32 bits for arrays of any dtype, as in PyTorch, whose rounding decides between neighbours.
    shift = np.float32(0.5 if axis.mode == "nearest-exact" else 0)
    index = np.floor((np.arange(axis.new, dtype=np.float32) + shift) * np.float32(_step(axis))).astype(int)
    return np.minimum(index, axis.old - 1)[:, None], np.ones((axis.new, 1))


def _centers(axis: Axis) -> np.ndarray:
    """Where in the old axis the new entries lie, counted in entries."""
    step, entries = _step(axis), np.arange(axis.new)
    return step * entries if axis.align_corners else step * (entries + 0.5) - 0.5


def _linear_taps(axis: Axis) -> Taps:
    centers = np.maximum(_centers(axis), 0)
    left = np.minimum(np.floor(centers).astype(int), axis.old - 1)
    share = np.clip(centers - left, 0, 1)
    return np.stack([left, np.minimum(left + 1, axis.old - 1)], 1), np.stack([1 - share, share], 1)


def _cubic_taps(axis: Axis) -> Taps:
    centers = _centers(axis)
    left = np.minimum(np.floor(centers).astype(int), axis.old - 1)
    share = np.clip(centers - left, 0, 1)
    offsets = np.arange(-1, 3)
    weights = _cubic(share[:, None] - offsets, -0.75)
    return np.clip(left[:, None] + offsets, 0, axis.old - 1), weights


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(1 - np.abs(x), 0)


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """The cubic convolution kernel of Keys (https://doi.org/10.1109/TASSP.1981.1163711)."""
    x = np.abs(x)
    near, far = ((a + 2) * x - (a + 3)) * x * x + 1, (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def _lanczos(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)


_FILTERS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], int]] = {
    "linear": (_triangle, 1),
    # Pillow's filter, which is another than the one above.
    "cubic": (partial(_cubic, a=-0.5), 2),
    "lanczos": (_lanczos, 3),
}
"""The filters for antialiasing, and how far they reach."""


def _antialiased_taps(axis: Axis, kernel: Callable[[np.ndarray], np.ndarray], reach: int) -> Taps:
    """The filter is as wide as the step, so that no old entry is passed over."""
    step = _step(axis)
    stretch = max(step, 1.0)
    centers = step * (np.arange(axis.new) + 0.5)
    first = np.maximum((centers - reach * stretch + 0.5).astype(int), 0)
    behind = np.minimum((centers + reach * stretch + 0.5).astype(int), axis.old)
    taps = first[:, None] + np.arange(math.ceil(reach * stretch) * 2 + 1)
    weights = np.where(taps < behind[:, None], kernel((taps - centers[:, None] + 0.5) / stretch), 0)
    total = weights.sum(1, keepdims=True)
    return np.minimum(taps, axis.old - 1), weights / np.where(total == 0, 1, total)
