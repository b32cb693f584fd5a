"""Checks of options, and what an option that is 0 means."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.core import Tracer

__all__ = ["is_off", "number", "switch"]


def number(what: str, value: Any, low: float = -np.inf, below: float | None = None) -> Any:
    """`value` as a float, or as the array of one element that it is.

    Raises:
        TypeError: it is no number.
        ValueError: it is not at least `low` and less than `below`, or is an array of several numbers.
    """
    if isinstance(value, (jax.Array, np.ndarray)):
        if value.size != 1:
            raise ValueError(f"Invalid {what}: expected one number, got an array of shape {value.shape}")
        value = value.reshape(())
        if isinstance(value, Tracer):
            return value
    elif isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise TypeError(f"expected {what} to be a number, got {value!r:.60}")
    if not (low <= value and (below is None or value < below)):
        raise ValueError(f"Invalid {what}: {value}")
    return value if isinstance(value, jax.Array) else float(value)


def switch(value: Any) -> Any:
    """A number that, being 0, leaves out a part of the update: then a constant, else a cell as other numbers are."""
    return value if isinstance(value, jax.Array) or value != 0 else 0


def is_off(value: Any) -> bool:
    """Whether a number is the constant 0."""
    return not isinstance(value, jax.Array) and value == 0
