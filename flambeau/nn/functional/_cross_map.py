"""The local response normalization of Lua Torch."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from flambeau.nn.functional._checks import check_rank
from flambeau.nn.functional._math import widen

__all__ = ["cross_map_normalize"]


def cross_map_normalize(input: jax.Array, size: int, alpha: float, beta: float, k: float) -> jax.Array:
    """Divides each channel of `(N, C, H, W)` by its neighbours: x / (k + α / size · Σ x²)^β."""
    check_rank(input, 4, "(N, C, H, W)")
    return _normalize(widen(input), size, alpha, beta, k).astype(input.dtype)


@partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _normalize(x: jax.Array, size: int, alpha: float, beta: float, k: float) -> jax.Array:
    reach = (size - 1) // 2
    squares, padding = x * x, [(0, 0), (reach, reach), (0, 0), (0, 0)]
    window, steps = (1, 2 * reach + 1, 1, 1), (1, 1, 1, 1)
    total = lax.reduce_window(squares, np.zeros((), x.dtype), lax.add, window, steps, padding)
    # PyTorch's running sum never lets go of the first channel; weights were trained with that.
    beyond = jnp.arange(x.shape[1])[:, None, None] > reach
    total += jnp.where(beyond, squares[:, :1], 0)
    return x * (k + alpha / size * total) ** -beta
