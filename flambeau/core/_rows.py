"""Arrays stacked to be the rows of one, and taken apart again, by programs that are compiled in little time.

XLA compiles a kernel for each row that is taken at a number which it knows, some milliseconds each on a CPU; where the number
is known only when the program runs, one kernel serves all rows of a shape. So on CPUs rows are numbered by a loop, whose
results XLA does not look into.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

__all__ = ["grouped", "rows", "stack"]

T = TypeVar("T")

Arrays = Sequence[jax.Array]
_AT_ONCE = 8


def rows(arrays: Arrays) -> list[Arrays]:
    """Their rows, where all have the same number of them: what `list(zip(*arrays))` gives."""
    numbers = _numbers(len(arrays[0]))
    return list(zip(*(_taken(array, numbers) for array in arrays), strict=True))


@jax.custom_jvp
def stack(columns: Sequence[Arrays]) -> list[jax.Array]:
    """An array for each column, whose rows are the column's arrays: what `jnp.stack` gives. All columns are of one length.

    In reverse mode the rows of derivatives are taken apart as `rows` does it.
    """
    return [_stacked(column) for column in columns]


@stack.defjvp
def _(primals: Any, tangents: Any) -> tuple[list[jax.Array], list[Any]]:
    (columns,), (changes,) = primals, tangents
    numbers = _numbers(len(columns[0])) if columns else []
    exact = [not jnp.issubdtype(column[0].dtype, jnp.inexact) for column in columns]
    pairs = zip(exact, changes, strict=True)
    return stack(columns), [_stacked(change) if plain else _written(change, numbers) for plain, change in pairs]


def _stacked(rows: Arrays) -> jax.Array:
    """One after the other along their first axis, which needs no other form of each row as `jnp.stack` does."""
    if rows[0].ndim == 0:
        return jnp.stack(list(rows))
    return lax.concatenate(rows, 0).reshape(len(rows), *rows[0].shape)  # (N * A, ...) -> (N, A, ...)


def _written(rows: Arrays, numbers: Arrays) -> jax.Array:
    """An array with these rows, at these numbers, as a sum: in reverse mode each row is just taken from what comes back.

    Written into one array, one after the other, each would be taken from a copy in which those after it are zero.
    """
    parts = [_alone(*group, count=len(rows)) for group in zip(grouped(rows), grouped(numbers), strict=True)]
    return functools.reduce(lax.add, parts)


@functools.partial(jax.jit, static_argnames="count")
def _alone(rows: Arrays, numbers: Arrays, count: int) -> jax.Array:
    """A sum of arrays with `count` rows, each of which has one of these and zeros besides."""
    zeros = jnp.zeros((count, *rows[0].shape), rows[0].dtype)
    alone = [
        lax.dynamic_update_index_in_dim(zeros, row, number, 0, allow_negative_indices=False)
        for row, number in zip(rows, numbers, strict=True)
    ]
    return functools.reduce(lax.add, alone)


def _taken(array: jax.Array, numbers: Arrays) -> Arrays:
    """The rows of these numbers."""
    return [row for group in grouped(numbers) for row in _some(array, group)]


@jax.jit
def _some(array: jax.Array, numbers: Arrays) -> Arrays:
    return [lax.dynamic_index_in_dim(array, i, keepdims=False, allow_negative_indices=False) for i in numbers]


def grouped(things: Sequence[T]) -> list[Sequence[T]]:
    """Groups of equal size, but for the last: JAX traces, differentiates and lowers one program for all that are alike."""
    return [things[i : i + _AT_ONCE] for i in range(0, len(things), _AT_ONCE)]


def _numbers(count: int) -> list[Any]:
    """0, 1, …, count - 1."""
    known = [jnp.int32(number) for number in range(count)]
    return lax.platform_dependent(cpu=lambda: _counted(count), default=lambda: known)


def _counted(count: int) -> list[Any]:
    """The same, as scalars of which XLA does not know the values: the loop moves its own number through all places."""
    start = [jnp.int32(0)] * count
    return lax.fori_loop(0, count, lambda i, places: [*places[1:], jnp.int32(i)], start)
