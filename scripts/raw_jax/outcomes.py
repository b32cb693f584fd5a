"""Runs each transform on each world, and says how what it did compares with Python."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from flambeau import BakedValueWarning
from scripts.raw_jax.rows import MEANINGS, Expected, Row, same, seen
from scripts.raw_jax.worlds import World

__all__ = ["NONE", "RIGHT", "SILENT", "WARNS", "outcome"]

RIGHT, WARNS, NONE = "right", "warns", "-"
STALE, LOST, LEAKS = "**stale**", "**lost**", "**tracer**"
SILENT = (STALE, LOST, LEAKS)
"""What is wrong without a word."""

Make = Callable[[str, str], World]


def inputs() -> list[Any]:
    """Twice the same, with training in between, and then another of the same shape."""
    x = jnp.array([[0.5, -1.0, 2.0], [1.5, 0.25, -0.75]])
    return [x, x, 2 * x]


def run(world: World) -> Iterator[Any]:
    """The inputs, one after the other; the network is trained after the first."""
    for number, x in enumerate(inputs()):
        if number == 1:
            world.train()
        world.begin()
        yield x


@functools.cache
def in_python(make: Make, action: str, way: str, meaning: str) -> list[Expected] | Exception:
    """What each call gives and leaves without any transform."""
    try:
        world = make(action, way)
        return [MEANINGS[meaning](world, x) for x in run(world)]
    except Exception as error:
        return error


def outcome(row: Row, verb: Any, make: Make, action: str, way: str) -> str:
    """How a transform on a world compares with Python: one word, or the name of an error."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        world = make(action, way)
        if not row.applies(world):
            return NONE
        expected = in_python(make, action, way, row.meaning_in(world))
        if isinstance(expected, Exception):
            return type(expected).__name__
        calls, found = until_wrong(row, verb, make(action, way), expected)
        told = any(issubclass(each.category, BakedValueWarning) for each in caught)
    return WARNS if told and calls and found == STALE else found


def until_wrong(row: Row, verb: Any, world: World, expected: list[Expected]) -> tuple[int, str]:
    """How many calls are right, and what the next one is."""
    program = row.build(verb, world)
    for calls, (x, right) in enumerate(zip(run(world), expected)):
        before = seen(world.state())
        try:
            result = program(x)
        except Exception as error:
            return calls, type(error).__name__ if same(before, seen(world.state())) else LEAKS
        if wrong := difference(row, right, result, world):
            return calls, wrong
    return len(expected), RIGHT


def difference(row: Row, right: Expected, result: Any, world: World) -> str | None:
    """What is wrong with a result and the state afterwards, or None."""
    state = seen(world.state())
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((result, state))):
        return LEAKS
    wanted = right.result if row.result is None else row.result(*right.result)
    if not same(seen(wanted), seen(result)):
        return STALE
    if right.state is None or not same(right.state, state):
        return LOST
    return None
