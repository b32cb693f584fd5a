"""A small network with a little of everything that a module can hold, and a count of compilations by name."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flambeau import nn

__all__ = ["Net", "X", "compilations", "compiles", "same"]

X = jnp.arange(6.0).reshape(2, 3)


class Net(nn.Module):
    """A little of everything that a module can hold; its output is its input times its weight, 2."""

    def __init__(self, scale: float = 2.0) -> None:
        super().__init__()
        self.weight: Any = nn.Parameter(jnp.full(3, scale))
        self.register_buffer("mean", jnp.zeros(3))
        self.cache = jnp.zeros(3)
        self.dropout = nn.Dropout(0.5)
        self.width = 3
        self.calls = 0
        self.trace: Any = []
        self.table: Any = {}

    def forward(self, x: Any) -> Any:
        return x * self.weight


@contextmanager
def compilations(of: str) -> Iterator[list[str]]:
    """A list that gets an entry whenever XLA compiles a function of that name inside the block."""
    seen: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: seen.extend([of] * record.getMessage().startswith(f"Compiling jit({of})"))
    logger = logging.getLogger("jax")
    logger.addHandler(handler)
    try:
        with jax.log_compiles():
            yield seen
    finally:
        logger.removeHandler(handler)


def compiles(expected: int, call: Callable[[], Any], of: str = "step") -> Any:
    """What `call` gives, and a check that it compiled `step` as often as expected."""
    with compilations(of) as seen:
        result = call()
    assert len(seen) == expected
    return result


def same(got: Any, expected: Any) -> None:
    np.testing.assert_allclose(got, expected)
