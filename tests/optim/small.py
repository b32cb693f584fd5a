"""A network small enough to step a thousand times, and a count of compilations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flambeau.core.cell import Parameter
from flambeau.core.module import Module
from flambeau.transforms.grad import grad

__all__ = ["Net", "assert_same", "batch", "compilations", "gradients", "loss"]


class Net(Module):
    """Two layers and a parameter without dimensions."""

    def __init__(self, seed: int = 0, dtype: Any = np.float64) -> None:
        super().__init__()
        random = np.random.default_rng(seed)
        for name, shape in {"first": (3, 4), "bias": (3,), "second": (2, 3), "scale": ()}.items():
            setattr(self, name, Parameter(jnp.asarray(random.normal(size=shape), dtype)))

    def forward(self, x: jax.Array) -> jax.Array:
        hidden = jnp.tanh(x @ self.first.T + self.bias)  # (N, 3)
        return self.scale * (hidden @ self.second.T)  # (N, 2)


def batch(dtype: Any = np.float64) -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).normal(size=(5, 4)), dtype)


def loss(net: Net) -> jax.Array:
    return (net(batch(net.first.dtype)) ** 2).mean()


def gradients(net: Net) -> Any:
    return grad(loss)(net)


def assert_same(a: Any, b: Any, tolerance: float = 0.0) -> None:
    """Two nested structures hold the same numbers, by default to the bit."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        if isinstance(one, (str, type(None))):
            assert one == other
        else:
            np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=tolerance, atol=tolerance)


@contextmanager
def compilations() -> Iterator[list[str]]:
    """A list that gets one entry for each program that XLA compiles inside the block."""
    seen: list[str] = []

    def listen(event: str, duration_secs: float, **details: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
