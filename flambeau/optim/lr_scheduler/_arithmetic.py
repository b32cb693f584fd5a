"""Arithmetic on numbers that are Python's outside of compiled functions, and arrays inside: one formula for both.

Outside it is exact in double precision whatever the width of JAX's floats, and nothing is compiled.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from flambeau.core.structure import Structure
from flambeau.core.tree import Node

__all__ = ["choose", "cos", "floor", "larger", "sin", "smaller", "when"]


def choose(condition: Any, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
    """What `yes` gives where the condition holds, and otherwise what `no` gives: a number, or a list of numbers."""
    if isinstance(condition, jax.Array):
        return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes(), no())
    return yes() if condition else no()


def when(condition: Any, node: Node, act: Callable[[], None]) -> None:
    """Lets `act`, which works on `node` and what is below it, have its effect where the condition holds."""
    if not isinstance(condition, jax.Array):
        if condition:
            act()
        return
    cells = Structure([node]).cells
    before = [cell.peek() for cell in cells]
    act()
    for cell, old in zip(cells, before, strict=True):
        new = cell.peek()
        if new is not old:
            cell.set(jnp.where(condition, new, old), owner=node)


def cos(x: Any) -> Any:
    return jnp.cos(x) if isinstance(x, jax.Array) else math.cos(x)


def sin(x: Any) -> Any:
    return jnp.sin(x) if isinstance(x, jax.Array) else math.sin(x)


def floor(x: Any) -> Any:
    return jnp.floor(x).astype(jnp.int32) if isinstance(x, jax.Array) else math.floor(x)


def smaller(a: Any, b: Any) -> Any:
    return choose(b < a, lambda: b, lambda: a)


def larger(a: Any, b: Any) -> Any:
    return choose(b > a, lambda: b, lambda: a)
