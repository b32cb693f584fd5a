"""`fb.jit` leaves what eager execution leaves, and compiles no more often than it must.

The numbers in the headings are those of the design: 1 caching, 2 closures, 3 writes, 4 static attributes, 8 nesting,
exceptions and threads, 11 memory, 12 errors.
"""

from __future__ import annotations

import functools
import inspect
import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flambeau as fb
from flambeau import nn
from flambeau.core.random import next_key
from tests.transforms.states import Observer, assert_same

X = jnp.arange(6.0).reshape(2, 3)


class Net(nn.Module):
    """A little of everything that a module can hold."""

    def __init__(self, scale: float = 2.0) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3, dtype=jnp.float64)
        self.norm = nn.BatchNorm1d(3, dtype=jnp.float64)
        self.register_buffer("mean", jnp.zeros(3))
        self.cache = jnp.zeros(2)
        self.scale = scale
        self.calls = 0
        self.trace: list[Any] = []
        self.table: dict[str, Any] = {}

    def forward(self, x: Any) -> jax.Array:
        return self.norm(self.linear(x)) * self.scale


class Scale(nn.Module):
    """The smallest module with a parameter."""

    def __init__(self, value: float = 1.0) -> None:
        super().__init__()
        self.value = nn.Parameter(jnp.full(3, value))

    def forward(self, x: Any) -> jax.Array:
        return x * self.value


@contextmanager
def compilations(of: str = "step") -> Iterator[list[str]]:
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
    """What `call` gives, after it has compiled `step` as often as expected."""
    with compilations(of) as seen:
        result = call()
    assert len(seen) == expected
    return result


def values(module: nn.Module) -> dict[str, Any]:
    return {name: np.asarray(value) for name, value in module.state_dict().items()}


# -- 1. Caching ---------------------------------------------------------------------------------------------------------------


def test_an_unchanged_call_does_not_run_python_again() -> None:
    runs = []

    @fb.jit
    def step(net: Net, x: Any) -> jax.Array:
        runs.append(x)
        return net(x)

    net = Net()
    first = compiles(1, lambda: step(net, X))
    np.testing.assert_array_equal(compiles(0, lambda: step(net, X)), first)
    assert len(runs) == 1
    compiles(1, lambda: step(net, X[:, :1] * jnp.ones((4, 1, 3))[0]))  # another shape of the argument?


def test_modules_of_one_structure_share_a_program() -> None:
    """Compiled for one, called with others: with their own values, and what is written is theirs."""
    step = fb.jit(lambda net, x: net(x))
    step.__name__ = "step"
    nets = [Net(), Net(), Net()]
    expected = [values_after(net) for net in nets]
    del step
    shared = named("step", lambda net, x: net(x))
    for count, net, (output, state) in zip((1, 0, 0), nets, expected):
        np.testing.assert_allclose(compiles(count, lambda net=net: shared(net, X)), output)
        assert_same(values(net), state)
