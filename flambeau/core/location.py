"""Where in a module tree an exception arose: the path, the module's line and what it was called with."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from flambeau._errors import FlambeauError

if TYPE_CHECKING:
    from flambeau.core.module import Module

__all__ = ["describe_call", "locate", "settle", "users_stacklevel"]

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def locate(error: Exception, module: Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Notes on a passing exception that it leaves `module`: the innermost comes first, and says what it was called with."""
    trail = error.__dict__.get("_trail")
    if trail is None:
        error.__dict__["_trail"] = [describe_call(args, kwargs), module]
    else:
        trail.append(module)


def settle(error: Exception) -> None:
    """Writes the trail into the exception, once it leaves the outermost module."""
    trail = error.__dict__.pop("_trail", None)
    if not trail:
        return
    called_with, *modules = trail
    modules.reverse()
    names = [_name_below(outer, inner) for outer, inner in zip(modules, modules[1:], strict=False)]
    path = ".".join(name for name in names if name)
    line = _first_line(modules[-1])
    where = f"{path} ({line})" if path else line
    if isinstance(error, FlambeauError) and error.location is None:
        error.location = where
    error.add_note(f"in {where} of {type(modules[0]).__name__}, called with {called_with}")


def _first_line(module: Module) -> str:
    """The beginning of its repr; its class, where it cannot tell more, as one that a trace made which has failed."""
    try:
        line = repr(module).split("\n", 1)[0]
    except Exception:
        return type(module).__name__
    return line + "...)" if line.endswith("(") else line


def _name_below(outer: Module, inner: Module) -> str:
    for name, module in outer.named_modules():
        if module is inner:
            return name
    return f"<{type(inner).__name__}, not registered>"


def describe_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """The arguments of a call as shapes and dtypes: `(float32[8, 16], mask=bool[8])`."""
    parts = [_describe(arg) for arg in args] + [f"{name}={_describe(value)}" for name, value in kwargs.items()]
    return f"({', '.join(parts)})"


def _describe(value: Any) -> str:
    if isinstance(value, (jax.Array, np.ndarray)):
        return f"{value.dtype}[{', '.join(map(str, value.shape))}]"
    if isinstance(value, (list, tuple)):
        inside = ", ".join(_describe(item) for item in value[:4]) + (", …" if len(value) > 4 else "")
        return f"[{inside}]" if isinstance(value, list) else f"({inside})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {_describe(item)}" for key, item in value.items()) + "}"
    if value is None or isinstance(value, (bool, int, float, str)):
        return repr(value)
    return type(value).__name__


def users_stacklevel() -> int:
    """The `stacklevel` of a warning, for the function that gives it, that points at the code which called flambeau."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    return level
