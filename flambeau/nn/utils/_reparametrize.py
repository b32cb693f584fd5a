"""What the helpers share that put a computed array in the place of a parameter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flambeau._errors import StateError
from flambeau.core.cell import Parameter, UninitializedBuffer, UninitializedParameter, running
from flambeau.core.frame import Frame
from flambeau.core.module import Module
from flambeau.core.suggest import suggestion

__all__ = ["check_made", "check_outside", "compiling", "hook_of", "parameter_of", "take_hook"]


def compiling(since: Frame | None = None) -> bool:
    """Whether a function is compiled, and was not yet in the frame `since`."""
    frame = running.frame
    while frame is not None and frame is not since:
        if frame.opaque:
            return True
        frame = frame.parent
    return False


def check_outside(module: Module, action: str) -> None:
    """Raises where a transform runs that did not make `module` itself: it could not carry the new structure out.

    Raises:
        StateError: `parametrizing Linear inside of a transform ...`.
    """
    frame = running.frame
    if frame is not None and not frame.created_inside(module):
        raise StateError(
            f"{action} {type(module).__name__} inside of a transform (fb.jit, fb.grad, fb.functional_call, ...) changes what "
            f"the module is made of, which the transform cannot carry out: do it before"
        )


def check_made(cell: Any, name: str, action: str) -> None:
    """Raises for a parameter or buffer that is None, or of a lazy module that has no shape yet.

    Raises:
        ValueError: it is one of these.
    """
    if cell is None:
        raise ValueError(f"{action} needs a value: {name!r} is None")
    if isinstance(cell, (UninitializedParameter, UninitializedBuffer)):
        raise ValueError(
            f"{action} cannot take a lazy module whose {name!r} has no shape yet: call it once on an example batch before"
        )


def parameter_of(module: Module, name: str, action: str) -> Parameter:
    """The module's own parameter of that name.

    Raises:
        AttributeError: there is none.
        ValueError: it is None, or has no shape yet.
    """
    parameters = module._parameters
    if name not in parameters:
        raise AttributeError(f"{type(module).__name__} has no parameter {name!r}{suggestion(name, parameters)}")
    check_made(parameters[name], name, action)
    return parameters[name]


def hook_of(kind: type, name: str) -> Callable[[Any], bool]:
    """Which functions are hooks of that kind for the attribute `name`."""
    return lambda function: isinstance(function, kind) and function.name == name


def take_hook(module: Module, kind: str, wanted: Callable[[Any], bool]) -> Any:
    """Takes the first hook of a kind whose function is `wanted` off the module; gives the function, None if there is none."""
    registry = module.__dict__.get(kind, {})
    for key, hook in registry.items():
        if wanted(hook.function):
            del registry[key]
            return hook.function
    return None
