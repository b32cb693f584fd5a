"""Randomness: a default generator that `manual_seed` seeds, and generators of one's own.

A generator's key is a cell, so a compiled function that draws from it advances it exactly as eager execution does.
"""

from __future__ import annotations

import secrets
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from flambeau._errors import StateError
from flambeau.core import raw
from flambeau.core.cell import Cell, running, writing
from flambeau.core.tree import Node

__all__ = [
    "Generator",
    "Key",
    "default_generator",
    "get_rng_state",
    "initial_seed",
    "manual_seed",
    "next_key",
    "seed",
    "set_rng_state",
]


class Key(Cell):
    """The cell of a generator's key: `fb.vmap` gives each element a key of its own."""

    __slots__ = ()


class Generator(Node):
    """A source of random keys: each draw splits its key and keeps one half.

    Args:
        device: accepted for PyTorch's sake; keys live where JAX puts them.

    Example:
        >>> import flambeau as fb
        >>> generator = fb.Generator().manual_seed(7)
        >>> generator.initial_seed()
        7

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.Generator.html
    """

    def __init__(self, device: Any = None) -> None:
        self.device = device
        self._key = _unplaced_cell(Key, _key_data(0))
        # A cell too: a static attribute would make each seed a structure of its own, and each compile anew.
        self._start = _unplaced_cell(Cell, _key_data(0))

    def manual_seed(self, seed: int) -> Generator:
        """Starts the sequence that belongs to `seed`, any integer of 64 bits."""
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise TypeError(f"expected seed to be an int, got {type(seed).__name__}")
        if not -(2**63) <= seed < 2**64:
            raise ValueError(f"expected a seed of 64 bits, got {seed}")
        self._key.set(_key_data(seed), owner=self, name="key")
        self._start.set(_key_data(seed), owner=self, name="seed")
        return self

    def initial_seed(self) -> int:
        """The seed that the present sequence began with, as a number from 0 to 2⁶⁴ - 1."""
        start = self._start.get(self)
        if isinstance(start, Tracer):
            raise StateError("the seed of a generator is not known inside of a transform: read it outside")
        high, low = np.asarray(start).tolist()
        return high << 32 | low

    def seed(self) -> int:
        """Seeds from the operating system's randomness, and gives the seed."""
        chosen = secrets.randbits(63)
        self.manual_seed(chosen)
        return chosen

    def get_state(self) -> jax.Array:
        """The present state, for `set_state`."""
        return jnp.asarray(self._key.get(self))

    def set_state(self, state: Any) -> Generator:
        """Goes on from a state that `get_state` gave.

        Raises:
            ValueError: it is no such state.
        """
        state = jnp.asarray(state)
        if state.shape != self._key.shape or state.dtype != self._key.dtype:
            raise ValueError(
                f"expected a generator's state, {self._key.dtype}{list(self._key.shape)}, got {state.dtype}{list(state.shape)}"
            )
        self._key.set(state, owner=self, name="key")
        return self

    def next_key(self) -> jax.Array:
        """A fresh key for `jax.random`; the generator moves on."""
        if running.frame is not None:
            running.frame.require(self)
        raw.refuse_same_draws()
        with writing:  # no two threads may draw the same key
            kept, drawn = jax.random.split(jax.random.wrap_key_data(self._key.get(self)))
            self._key.set(jax.random.key_data(kept), owner=self, name="key", exposed=False)
        return drawn


def _key_data(seed: int) -> np.ndarray:
    """The key of a seed: its two words, as `jax.random.key` has them where 64 bits are on."""
    return np.array([(seed >> 32) & 0xFFFFFFFF, seed & 0xFFFFFFFF], np.uint32)


def _unplaced_cell(kind: type[Cell], value: np.ndarray) -> Cell:
    """A cell with an array of numpy: importing the package must not start JAX's backend, which the user may yet configure."""
    cell = object.__new__(kind)
    cell._value, cell._exposed = value, True
    if running.frame is not None:
        running.frame.create(cell, jnp.asarray(value))
    return cell


default_generator = Generator()


def next_key(generator: Generator | None = None) -> jax.Array:
    """A fresh key for `jax.random`, from `generator` or the default one."""
    return (default_generator if generator is None else generator).next_key()


def manual_seed(seed: int) -> Generator:
    """Seeds the default generator, which initialisers, dropout and samplers draw from.

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.manual_seed.html
    """
    return default_generator.manual_seed(seed)


def seed() -> int:
    """Seeds the default generator from the operating system's randomness, and gives the seed."""
    return default_generator.seed()


def initial_seed() -> int:
    """The seed that the default generator's sequence began with."""
    return default_generator.initial_seed()


def get_rng_state() -> jax.Array:
    """The default generator's state."""
    return default_generator.get_state()


def set_rng_state(new_state: Any) -> None:
    """Puts the default generator into a state that `get_rng_state` gave."""
    default_generator.set_state(new_state)
