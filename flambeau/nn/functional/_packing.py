"""Sequences of several lengths: packed, one time step after the other without gaps, and padded to one length.

Of `batch_sizes`, the n-th says how many sequences have an n-th time step; the longest sequences come first.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["lengths_of", "pack", "pad_packed", "which_are_there"]


def which_are_there(batch_sizes: np.ndarray) -> np.ndarray:
    """Which sequences have which time steps, `(T, N)`.

    Example:
        >>> which_are_there(np.array([2, 1])).tolist()
        [[True, True], [True, False]]
    """
    return np.arange(batch_sizes[0]) < batch_sizes[:, None]


def lengths_of(batch_sizes: np.ndarray) -> np.ndarray:
    """The length of each sequence, `(N,)`.

    Example:
        >>> lengths_of(np.array([2, 1, 1])).tolist()
        [3, 1]
    """
    return which_are_there(batch_sizes).sum(0)


def pack(padded: jax.Array, batch_sizes: np.ndarray) -> jax.Array:
    """The elements of `(T, N, *)` that are there, as `(sum of batch_sizes, *)`.

    Example:
        >>> pack(jnp.array([[1, 2], [3, 0]]), np.array([2, 1])).tolist()
        [1, 2, 3]
    """
    there = which_are_there(batch_sizes)
    time, batch = there.shape
    flat = padded[:time].reshape(time * batch, *padded.shape[2:])  # (T, N, *) -> (T · N, *)
    if there.all():
        return flat
    return flat.at[np.flatnonzero(there)].get(unique_indices=True, indices_are_sorted=True, mode="promise_in_bounds")


def pad_packed(
    data: jax.Array, batch_sizes: np.ndarray, padding_value: float = 0.0, total_length: int | None = None
) -> jax.Array:
    """The reverse of `pack`: `(T, N, *)` with `padding_value` where a sequence has no such time step.

    Example:
        >>> pad_packed(jnp.array([1, 2, 3]), np.array([2, 1])).tolist()
        [[1, 2], [3, 0]]
    """
    there = which_are_there(batch_sizes)
    there = np.pad(there, ((0, (total_length or len(there)) - len(there)), (0, 0)))
    if there.all():
        return data.reshape(*there.shape, *data.shape[1:])
    # Gathered, with anything where there is nothing, for a gather is faster than a scatter.
    sources = np.maximum(np.cumsum(there) - 1, 0).reshape(there.shape)
    filled = data.at[sources].get(mode="promise_in_bounds")
    there = there.reshape(*there.shape, *[1] * (data.ndim - 1))  # (T, N) -> (T, N, 1, …)
    return jnp.where(there, filled, jnp.asarray(padding_value).astype(data.dtype))
