"""Mutable objects that stand in static attributes, such as configurations: what they hold, and how to put it back."""

from __future__ import annotations

from typing import Any

import numpy as np

from flambeau.core.containers import is_mutable, refill, same_contents, shallow

__all__ = ["fields", "put_fields", "same_fields"]


def fields(thing: Any) -> Any:
    """What the object holds: its attributes, its elements, or, of a numpy array, a copy."""
    if isinstance(thing, np.ndarray):
        return thing.copy()
    return shallow(thing) if is_mutable(thing) else dict(vars(thing))


def put_fields(thing: Any, held: Any) -> None:
    """Puts back what `fields` gave, if the object holds something else by now."""
    if same_fields(thing, held):
        return
    if isinstance(thing, np.ndarray):
        thing[...] = held
    else:
        refill(thing if is_mutable(thing) else vars(thing), held)


def same_fields(thing: Any, held: Any) -> bool:
    """Whether the object holds the very things that it held, or, for a numpy array, the same bytes."""
    if isinstance(thing, np.ndarray):
        return thing.tobytes() == held.tobytes()
    return same_contents(held, thing if is_mutable(thing) else vars(thing))
