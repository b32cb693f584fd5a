"""Checks of options, and what an option that is 0 means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

__all__ = ["adam_options", "is_off", "limited", "number", "switch"]


def number(what: str, value: Any, low: float = -np.inf, high: float = np.inf, below: float | None = None) -> Any:
    """`value` as a float, or as the array of one element that it is.

    Raises:
        TypeError: it is no number.
        ValueError: it is not at least `low`, at most `high` and less than `below`, or is an array of several numbers.
    """

    def fits(value: Any) -> bool:
        return low <= value <= high and (below is None or value < below)

    return _checked(what, value, fits, f"Invalid {what}: {{}}")


def limited(what: str, value: Any, low: float = -np.inf, high: float = np.inf) -> Any:
    """As `number`, with the words of PyTorch's newer optimizers."""
    limit = f">= {low}" if low > -np.inf else f"<= {high}"
    return _checked(what, value, lambda value: low <= value <= high, f"{what} should be {limit} but is: {{}}")


def _decay_rates(value: Any) -> tuple[Any, Any]:
    """The two decay rates of Adam and its kin."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise ValueError(f"Invalid betas: expected two numbers, got {value!r}")
    first, second = (number(f"beta parameter at index {i}", beta, low=0, below=1) for i, beta in enumerate(value))
    return first, second


def adam_options(options: dict[str, Any]) -> dict[str, Any]:
    """The options, with those that Adam and its kin have in common checked."""
    return {
        **options,
        "lr": number("learning rate", options["lr"], low=0),
        "betas": _decay_rates(options["betas"]),
        "eps": number("epsilon value", options["eps"], low=0),
        "weight_decay": switch(number("weight_decay value", options["weight_decay"], low=0)),
    }


def _checked(what: str, value: Any, fits: Callable[[Any], bool], complaint: str) -> Any:
    if isinstance(value, (jax.Array, np.ndarray)):
        if value.size != 1:
            raise ValueError(f"Invalid {what}: expected one number, got an array of shape {value.shape}")
        value = value.reshape(())
        if isinstance(value, Tracer):
            return value
    elif isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise TypeError(f"expected {what} to be a number, got {value!r:.60}")
    if not fits(value):
        raise ValueError(complaint.format(value))
    return value if isinstance(value, jax.Array) else float(value)


def switch(value: Any) -> Any:
    """A number that, being 0, leaves out a part of the update: then a constant, else a cell as other numbers are."""
    return value if isinstance(value, jax.Array) or value != 0 else 0


def is_off(value: Any) -> bool:
    """Whether a number is the constant 0."""
    return not isinstance(value, jax.Array) and value == 0
