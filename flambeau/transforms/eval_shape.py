"""`fb.eval_shape`: what a function would give, without running it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from flambeau.core.capture import making
from flambeau.core.cell import Cell, running
from flambeau.core.frame import Frame, Journal
from flambeau.core.meta import Meta
from flambeau.core.tree import Node
from flambeau.transforms._trace import Flat

__all__ = ["eval_shape"]


class _Shapes(Frame):
    """A frame in which what is on the meta device can be read: for its shape, any values will do."""

    def read(self, cell: Cell, owner: Node | None = None) -> Any:
        value = super().read(cell, owner)
        if isinstance(value, Meta):
            value = jnp.zeros(value.shape, value.dtype)
            self.bind([cell], [value])
        return value


def eval_shape(fun: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The shapes and dtypes of `fun(*args, **kwargs)`: nothing is computed, and no state is left behind.

    Args:
        fun: a function, or a module.
        args: arrays or `jax.ShapeDtypeStruct`s, modules, and trees of them.
        kwargs: more of them.

    Returns:
        The result with a `jax.ShapeDtypeStruct` in the place of each array.

    Raises:
        TypeError: the function gives a module, which has no shape.

    Example:
        >>> import jax
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> net = nn.Sequential(nn.LazyConv2d(8, 3), nn.ReLU(), nn.Flatten())
        >>> fb.eval_shape(net, jax.ShapeDtypeStruct((32, 3, 28, 28), "float32"))
        ShapeDtypeStruct(shape=(32, 5408), dtype=float32)

    Source: https://docs.jax.dev/en/latest/_autosummary/jax.eval_shape.html
    """
    flat = Flat((args, kwargs))

    def once() -> Any:
        frame = _Shapes()

        def pure(arrays: list[Any]) -> Any:
            args, kwargs = flat.rebuild(arrays)
            result = fun(*args, **kwargs)
            for leaf in jax.tree.leaves(result):
                if isinstance(leaf, (Node, Cell)):
                    raise TypeError(f"eval_shape: expected arrays, got a {type(leaf).__name__}")
            return result

        return jax.eval_shape(lambda arrays: frame.run(lambda: pure(arrays)), flat.arrays)

    if running.frame is not None:
        return once()
    # A lazy module gets its shapes on the way, and loses them again.
    outer = running.journal
    journal = running.journal = Journal()
    try:
        return making(once)
    finally:
        running.journal = outer
        journal.rollback()
