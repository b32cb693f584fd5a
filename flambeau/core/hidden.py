"""The article's warning: modules in a plain list, tuple or dict are not registered. flambeau says so."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from flambeau._errors import HiddenModulesWarning
from flambeau.core.cell import clock
from flambeau.core.location import users_stacklevel

if TYPE_CHECKING:
    from flambeau.core.module import Module

__all__ = ["warn_below"]


def warn_below(root: Any) -> None:
    """Warns once of each attribute, of `root` and the modules below it, whose plain container hides modules."""
    if root.__dict__.get("_warned_hidden") == clock.structure:
        return
    for path, module in root.named_modules():
        _warn_of(module, path)
    root.__dict__["_warned_hidden"] = clock.structure


def _warn_of(module: Module, path: str) -> None:
    from flambeau.core.module import Module
    from flambeau.core.structure import nodes_inside

    registered: set[int] | None = None
    plain = [*module._containers_now().items(), *((n, v) for n, v in module._statics() if isinstance(v, tuple))]
    for name, value in plain:
        found = [node for node in nodes_inside(value) if isinstance(node, Module)]
        if not found or name in _said(module):
            continue
        if registered is None:
            registered = {id(inner) for inner in module.modules()}
        count = sum(id(node) not in registered for node in found)
        if count:
            _said(module).add(name)
            message = _message(module, path, name, value, count)
            warnings.warn(message, HiddenModulesWarning, stacklevel=users_stacklevel())


def _said(module: Module) -> set[str]:
    return module.__dict__.setdefault("_said_hidden", set())


def _message(module: Module, path: str, name: str, value: Any, count: int) -> str:
    where = f"{path}.{name}" if path else name
    kind = type(value).__name__
    cure = "nn.ModuleDict({...})" if isinstance(value, dict) else "nn.ModuleList([...])"
    modules = "1 module" if count == 1 else f"{count} modules"
    return (
        f"{type(module).__name__}: the plain {kind} in `{where}` hides {modules}: neither parameters() nor state_dict() "
        f"sees them, so an optimizer does not train them and a checkpoint does not hold them. "
        f"Write self.{name} = {cure}."
    )
