"""Mutable objects that stand in static attributes, such as configurations: what they hold, and how to put it back."""

from __future__ import annotations

import functools
import types
from typing import Any

import numpy as np

from flambeau.core.containers import is_mutable, refill, same_contents, shallow

__all__ = ["attributes", "blank", "fields", "has_plain_fields", "put_fields", "same_fields", "slots_of"]

_HEAP_TYPE = 1 << 9  # the flag of classes that are not built into the interpreter


@functools.cache
def has_plain_fields(kind: type) -> bool:
    """Whether all that an object of this class is lies in its attributes, and it is compared by identity or by them."""
    by_fields = kind.__hash__ is object.__hash__ or kind.__hash__ is None
    return by_fields and all(map(_adds_attributes_alone, kind.__mro__))


def _adds_attributes_alone(base: type) -> bool:
    """Whether it is a class of Python; one of C has neither slots nor a `__dict__`, and what it holds cannot be seen."""
    if base in (object, types.SimpleNamespace):
        return True
    return bool(base.__flags__ & _HEAP_TYPE) and ("__slots__" in vars(base) or base.__dictoffset__ != 0)


@functools.cache
def slots_of(kind: type) -> tuple[str, ...]:
    """The names of the attributes that objects of a class keep in slots."""
    members = [vars(base).items() for base in reversed(kind.__mro__) if "__slots__" in vars(base)]
    return tuple(name for each in members for name, member in each if isinstance(member, types.MemberDescriptorType))


def attributes(thing: Any) -> dict[str, Any]:
    """The attributes of an object by name: those in its `__dict__`, and those in slots."""
    held = dict(getattr(thing, "__dict__", ()))
    held.update({name: getattr(thing, name) for name in slots_of(type(thing)) if hasattr(thing, name)})
    return held


def blank(kind: type) -> Any:
    """An object of the class without any attributes."""
    return types.SimpleNamespace.__new__(kind) if issubclass(kind, types.SimpleNamespace) else object.__new__(kind)


def fields(thing: Any) -> Any:
    """What the object holds: its attributes, its elements, or, of a numpy array, a copy."""
    if isinstance(thing, np.ndarray):
        return thing.copy()
    return shallow(thing) if is_mutable(thing) else attributes(thing)


def put_fields(thing: Any, held: Any) -> None:
    """Puts back what `fields` gave, if the object holds something else by now."""
    if same_fields(thing, held):
        return
    if isinstance(thing, np.ndarray):
        thing[...] = held
    elif is_mutable(thing):
        refill(thing, held)
    else:
        _put_attributes(thing, held)


def _put_attributes(thing: Any, held: dict[str, Any]) -> None:
    slots = slots_of(type(thing))
    for name in slots:  # past the class's own `__setattr__`, which may refuse: that of a frozen dataclass does
        if name in held:
            object.__setattr__(thing, name, held[name])
        elif hasattr(thing, name):
            object.__delattr__(thing, name)
    if hasattr(thing, "__dict__"):
        refill(vars(thing), {name: value for name, value in held.items() if name not in slots})


def same_fields(thing: Any, held: Any) -> bool:
    """Whether the object holds the very things that it held, or, for a numpy array, the same bytes."""
    if isinstance(thing, np.ndarray):
        return thing.tobytes() == held.tobytes()
    return same_contents(held, thing if is_mutable(thing) else attributes(thing))
