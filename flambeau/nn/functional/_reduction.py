"""How a loss for each element becomes the result: the reduction, its older spelling, and the dtype."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp

from flambeau._errors import FlambeauWarning, ShapeError
from flambeau.nn.functional._checks import describe
from flambeau.nn.functional._math import widen

__all__ = ["check_broadcast", "promoted", "reduced", "resolve_reduction"]


def resolve_reduction(
    reduction: str, size_average: bool | None = None, reduce: bool | None = None, others: tuple[str, ...] = ()
) -> str:
    """The reduction that is meant, where the deprecated `size_average` and `reduce` win over `reduction`.

    Raises:
        ValueError: it is not "none", "mean", "sum" or one of `others`.

    Example:
        >>> resolve_reduction("sum")
        'sum'
    """
    if size_average is not None or reduce is not None:
        averages, reduces = size_average is not False, reduce is not False
        reduction = ("mean" if averages else "sum") if reduces else "none"
        warnings.warn(
            f"size_average and reduce are deprecated; write reduction={reduction!r} instead",
            FlambeauWarning,
            stacklevel=3,
        )
    allowed = ("none", "mean", "sum", *others)
    if reduction not in allowed:
        raise ValueError(f"expected reduction to be one of {', '.join(map(repr, allowed))}, got {reduction!r}")
    return reduction


def reduced(loss: jax.Array, reduction: str, dtype: jnp.dtype) -> jax.Array:
    """`loss` summed, averaged or as it is, in the dtype of the result."""
    if reduction == "mean":
        loss = jnp.mean(loss)
    elif reduction == "sum":
        loss = jnp.sum(loss)
    return loss.astype(dtype)


def promoted(*arrays: jax.Array) -> tuple[jnp.dtype, list[jax.Array]]:
    """The dtype that the arrays have together, and the arrays as they are computed with.

    Example:
        >>> dtype, (x, y) = promoted(jnp.ones(2, jnp.bfloat16), jnp.ones(2, jnp.int32))
        >>> dtype, x.dtype, y.dtype
        (dtype(bfloat16), dtype('float32'), dtype('float32'))
    """
    dtype = jnp.result_type(*arrays)
    return dtype, [widen(array.astype(dtype)) for array in arrays]


def check_broadcast(**arrays: jax.Array) -> tuple[int, ...]:
    """The shape that the arrays have together.

    Raises:
        ShapeError: they have none.
    """
    try:
        return jnp.broadcast_shapes(*(array.shape for array in arrays.values()))
    except ValueError:
        given = ", ".join(f"{name} {describe(array)}" for name, array in arrays.items())
        raise ShapeError(f"expected shapes that broadcast, got {given}") from None
