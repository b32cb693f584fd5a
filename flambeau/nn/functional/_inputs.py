"""Checks of dimensions, dtypes and values that several families share."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from flambeau._errors import DtypeError
from flambeau.nn.functional._checks import describe

__all__ = ["axis_of", "check_integer", "known"]


def axis_of(dim: int, ndim: int) -> int:
    """`dim` counted from the front; a 0-dimensional array has, as in torch, the dimensions 0 and -1.

    Raises:
        IndexError: there is no such dimension.

    Example:
        >>> axis_of(-1, 3)
        2
    """
    size = max(ndim, 1)
    if not -size <= dim < size:
        raise IndexError(f"expected a dimension in [{-size}, {size - 1}], got {dim}")
    return dim % size


def check_integer(x: jax.Array, name: str) -> None:
    """Raises unless `x` holds integers (booleans are none).

    Raises:
        DtypeError: `expected target of an integer dtype, got float32[8]`.
    """
    if not jnp.issubdtype(x.dtype, jnp.integer):
        raise DtypeError(f"expected {name} of an integer dtype, got {describe(x)}")


def known(x: jax.Array) -> np.ndarray | None:
    """The values of `x` where this process can see them; None while tracing, or for an array spread over processes."""
    if isinstance(x, Tracer) or (isinstance(x, jax.Array) and not x.is_fully_addressable):
        return None
    return np.asarray(x)
