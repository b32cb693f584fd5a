"""Arrays stacked to be the rows of one, and taken apart again, by programs that are compiled in little time.

XLA compiles a kernel for each row that is taken at a number which it knows, some milliseconds each on a CPU; where the number
is known only when the program runs, one kernel serves all rows of a shape. So on CPUs rows are numbered by a loop, whose
results XLA does not look into.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

__all__ = ["rows", "stack"]

Arrays = Sequence[jax.Array]


def rows(arrays: Arrays) -> list[Arrays]:
    """Their rows, where all have the same number of them: what `list(zip(*arrays))` gives."""
    numbers = _numbers(len(arrays[0]))
    return list(zip(*(_taken(array, numbers) for array in arrays), strict=True))


@jax.custom_jvp
def stack(columns: Sequence[Arrays]) -> list[jax.Array]:
    """An array for each column, whose rows are the column's arrays: what `jnp.stack` gives. All columns are of one length.

    In reverse mode the rows of derivatives are taken apart as `rows` does it.
    """
    return [jnp.stack(list(column)) for column in columns]


@stack.defjvp
def _(primals: Any, tangents: Any) -> tuple[list[jax.Array], list[Any]]:
    (columns,), (changes,) = primals, tangents
    numbers = _numbers(len(columns[0])) if columns else []
    exact = [not jnp.issubdtype(column[0].dtype, jnp.inexact) for column in columns]
    pairs = zip(exact, changes, strict=True)
    return stack(columns), [jnp.stack(list(change)) if plain else _written(change, numbers) for plain, change in pairs]


@jax.jit
def _written(rows: Arrays, numbers: Arrays) -> jax.Array:
    """An array with these rows, at these numbers, as a sum: in reverse mode each row is just taken from what comes back.

    Written into one array, one after the other, each would be taken from a copy in which those after it are zero.
    """
    zeros = jnp.zeros((len(rows), *rows[0].shape), rows[0].dtype)
    alone = [
        lax.dynamic_update_index_in_dim(zeros, row, number, 0, allow_negative_indices=False)
        for row, number in zip(rows, numbers, strict=True)
    ]
    return functools.reduce(operator.add, alone)


@jax.jit
def _taken(array: jax.Array, numbers: Arrays) -> Arrays:
    """The rows of these numbers."""
    return [lax.dynamic_index_in_dim(array, i, keepdims=False, allow_negative_indices=False) for i in numbers]


def _numbers(count: int) -> list[Any]:
    """0, 1, …, count - 1."""
    known = [jnp.int32(number) for number in range(count)]
    return lax.platform_dependent(cpu=lambda: _counted(count), default=lambda: known)


def _counted(count: int) -> list[Any]:
    """The same, as scalars of which XLA does not know the values: the loop moves its own number through all places."""
    start = [jnp.int32(0)] * count
    return lax.fori_loop(0, count, lambda i, places: [*places[1:], jnp.int32(i)], start)
