"""What the functions of this family say about their inputs before JAX sees them: descriptions, n-tuples, ranks."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import SupportsIndex, TypeAlias

import jax
import jax.numpy as jnp

from flambeau._errors import DtypeError, ShapeError

__all__ = ["IntOrTuple", "check_rank", "check_same_dtype", "describe", "to_tuple"]

IntOrTuple: TypeAlias = int | Sequence[int]
"""An int for every spatial dimension, or one int for each."""


def describe(x: object) -> str:
    """`float32[8, 16, 28, 28]` for an array (or tracer); the type's name for anything else.

    Example:
        >>> describe(jnp.zeros((8, 16)))
        'float32[8, 16]'
        >>> describe(jnp.zeros(()))
        'float32[]'
        >>> describe("same")
        'str'
    """
    dtype, shape = getattr(x, "dtype", None), getattr(x, "shape", None)
    if dtype is None or shape is None:
        return type(x).__name__
    return f"{dtype}[{', '.join(map(str, shape))}]"


def to_tuple(value: IntOrTuple, n: int, name: str) -> tuple[int, ...]:
    """`n` ints from an int, or from a sequence of `n` ints or (as in torch) of one.

    Raises:
        ShapeError: a sequence of another length.
        TypeError: something that is not made of ints.

    Example:
        >>> to_tuple(2, 3, "stride")
        (2, 2, 2)
        >>> to_tuple([1, 2], 2, "stride")
        (1, 2)
    """
    try:
        numbers = tuple(operator.index(item) for item in ((value,) if isinstance(value, SupportsIndex) else value))
    except TypeError:
        raise TypeError(f"expected {name} to be an int or a tuple of {n} ints, got {value!r}") from None
    if len(numbers) not in (1, n):
        raise ShapeError(f"expected {name} to be an int or a tuple of {n} ints, got {value!r}")
    return numbers * n if len(numbers) == 1 else numbers


def check_rank(x: jax.Array, ranks: int | tuple[int, ...], expected: str, name: str = "input") -> None:
    """Raises unless `x` has one of `ranks`; `expected` is how the message writes the shapes, `(N, C, L) or (C, L)`.

    Raises:
        ShapeError: `expected input (N, C, L) or (C, L), got float32[3]`.
    """
    if jnp.ndim(x) not in ((ranks,) if isinstance(ranks, int) else ranks):
        raise ShapeError(f"expected {name} {expected}, got {describe(x)}")


def check_same_dtype(x: jax.Array, **others: jax.Array | None) -> None:
    """Raises unless every one of `others` that is not None has the dtype of `x`, as torch (and not JAX) demands.

    Raises:
        DtypeError: `expected weight of dtype float32 like input, got float64[32, 16, 3, 3]`.
    """
    wrong = [
        f"expected {name} of dtype {x.dtype} like input, got {describe(other)}"
        for name, other in others.items()
        if other is not None and other.dtype != x.dtype
    ]
    if wrong:
        raise DtypeError("; ".join(wrong))
