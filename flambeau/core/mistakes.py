"""Mistakes in classes, constructors and paths that PyTorch answers with a riddle, answered with what was meant."""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from flambeau.core.suggest import closest, suggestion

if TYPE_CHECKING:
    from flambeau.core.module import Module

__all__ = ["check_keywords", "missing_forward", "no_child"]


def missing_forward(cls: type) -> str:
    """What to say of a class whose instances are called and that has no `forward`."""
    for base in cls.__mro__:
        constants = getattr(getattr(base.__dict__.get("__init__"), "__code__", None), "co_consts", ())
        if any(inspect.iscode(constant) and constant.co_name == "forward" for constant in constants):
            return (
                f'{cls.__name__} has no "forward": one is defined inside of {base.__name__}.__init__, where it is a local '
                f"function. Move `def forward` out, to the indentation of `def __init__`."
            )
    return f'Module [{cls.__name__}] is missing the required "forward" function: define forward(self, ...) in the class'


@functools.cache
def _keywords(cls: type) -> tuple[frozenset[str], str] | None:
    """The keyword arguments of the constructor; None if it takes any."""
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return frozenset(p.name for p in parameters), ", ".join(p.name for p in parameters)


def check_keywords(cls: type, kwargs: dict[str, Any]) -> None:
    """Raises a TypeError for a keyword argument that the constructor does not take, with the one that was meant."""
    known = _keywords(cls)
    if known is None or known[0].issuperset(kwargs):
        return
    unknown = next(name for name in kwargs if name not in known[0])
    guess = closest(unknown, known[0])
    hint = f": did you mean '{guess}'?" if guess else f"; it takes {known[1] or 'none'}"
    raise TypeError(f"{cls.__name__}.__init__() got an unexpected keyword argument '{unknown}'{hint}")


def no_child(root: Module, module: Module, done: Iterable[str], name: str) -> str:
    """What to say of a path that leads to no module."""
    names = list(module._modules)
    where = f"{type(root).__name__} at '{'.'.join(done)}'" if done else type(root).__name__
    shown = ", ".join(itertools.islice(names, 12)) + (", …" if len(names) > 12 else "")
    return f"{where} has no attribute `{name}` that is a module; it has {shown or 'none'}{suggestion(name, names)}"
