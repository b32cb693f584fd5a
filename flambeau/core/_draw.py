"""Random numbers for arrays of any shape, without a compilation for each shape.

A model has many shapes, and to compile a random sampler takes XLA half a second. So numbers are drawn in blocks of two fixed
lengths, by one program for each that serves every shape; outside of a transform numpy joins them, which compiles nothing.
A compiled function draws the very same blocks.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.scipy.special import ndtri

from flambeau.core.random import next_key

if TYPE_CHECKING:
    from flambeau.core.random import Generator

__all__ = ["BLOCKS", "Blocks", "draw", "draw_rows", "normal", "truncated_normal", "uniform"]

# An array of up to the first size needs one small block, so that a bias costs little.
_SMALL, _LARGE = 1 << 10, 1 << 16


class Blocks(NamedTuple):
    """What a call in a traced program draws: so many blocks of so many numbers, end to end."""

    sampler: Callable[..., jax.Array]
    length: int
    dtype: np.dtype
    blocks: int

    @property
    def name(self) -> str:
        return f"{self.sampler.__name__}_{self.blocks}_times_{self.length}_{self.dtype}"


BLOCKS: dict[str, Blocks] = {}
"""All such calls, by the names that they have in programs."""


def uniform(key: jax.Array, count: int, dtype: np.dtype) -> jax.Array:
    """Uniform numbers in [0, 1)."""
    return jax.random.uniform(key, (count,), dtype)


def normal(key: jax.Array, count: int, dtype: np.dtype) -> jax.Array:
    """Normal numbers of mean 0 and variance 1."""
    return jax.random.normal(key, (count,), dtype)


def truncated_normal(key: jax.Array, count: int, dtype: np.dtype, lower: Any, upper: Any) -> jax.Array:
    """Normal numbers between the quantiles of `lower` and `upper`."""
    # Half a step more than [0, 1): the quantile of 0 is infinite.
    share = uniform(key, count, dtype) + jnp.finfo(dtype).eps / 2
    return ndtri(lower + share * (upper - lower))


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def _block(
    sampler: Callable[..., jax.Array], key: jax.Array, index: Any, count: int, dtype: np.dtype, *arguments: Any
) -> jax.Array:
    return sampler(jax.random.fold_in(key, index), count, dtype, *arguments)


def draw_rows(call: Blocks, keys: jax.Array, indices: jax.Array, *arguments: Any) -> jax.Array:
    """Blocks of several draws, a row each: that of the given number of the key's draw."""
    return jax.vmap(lambda *row: _block(call.sampler, row[0], row[1], call.length, call.dtype, *row[2:]))(
        keys, indices, *arguments
    )


@functools.cache
def _blocks(call: Blocks) -> Callable[..., jax.Array]:
    """Draws all blocks of a call, end to end."""

    def blocks(key: jax.Array, *arguments: Any) -> jax.Array:
        rows = [jnp.broadcast_to(each, (call.blocks, *jnp.shape(each))) for each in (key, *arguments)]
        return draw_rows(call, rows[0], jnp.arange(call.blocks, dtype=jnp.uint32), *rows[1:]).reshape(-1)

    BLOCKS[call.name] = call
    blocks.__name__ = call.name
    return jax.jit(blocks)


def draw(
    sampler: Callable[..., jax.Array],
    generator: Generator | None,
    shape: tuple[int, ...],
    dtype: np.dtype,
    *arguments: float,
) -> Any:
    """Numbers of a sampler of this file in the given shape: a numpy array, or a tracer where the generator's key is one."""
    key = next_key(generator)
    size = math.prod(shape)
    count = _SMALL if size <= _SMALL else _LARGE
    blocks = max(1, -(-size // count))
    given = [dtype.type(argument) for argument in arguments]
    if isinstance(key, Tracer):
        drawn = _blocks(Blocks(sampler, count, dtype, blocks))(key, *given)
    else:
        # All are started before the first is waited for.
        started = [_block(sampler, key, np.uint32(index), count, dtype, *given) for index in range(blocks)]
        drawn = np.concatenate([np.asarray(block) for block in started])
    return drawn[:size].reshape(shape)
