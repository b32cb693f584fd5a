"""Modules that hold modules: `Sequential`, `ModuleList`, `ModuleDict`."""

from __future__ import annotations

import itertools
import operator
from collections import OrderedDict
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from typing import Any, Self, cast, overload

from flambeau.core.module import Module
from flambeau.nn._missing import missing_index, missing_key

__all__ = ["ModuleDict", "ModuleList", "Sequential"]

Pairs = Iterable[tuple[str, Module]]


class _Numbered(Module):
    """What the two containers have in common whose modules have an order: positions, and names that are numbers."""

    def _name_at(self, index: int) -> str:
        """The name of the module at a position, which may count from the end."""
        index = operator.index(index)
        if not -len(self) <= index < len(self):
            raise missing_index(self, index)
        return next(itertools.islice(self._modules, index % len(self), None))

    def _renumber(self) -> None:
        """Names the modules 0, 1, ... in their order."""
        modules = list(self._modules.values())
        self._modules.clear()
        self._modules.update((str(i), module) for i, module in enumerate(modules))

    def _insert(self, index: int, module: Module) -> None:
        if not isinstance(module, Module):
            raise TypeError(f"{type(module).__name__} is not a Module subclass")
        size, index = len(self), operator.index(index)
        if not -size <= index <= size:
            raise missing_index(self, index)
        index += size if index < 0 else 0
        moved = [str(i) for i in range(index, size)]
        named = [name for name in moved if name not in self._modules]
        if named:
            raise KeyError(
                f"insert moves modules on to the next number, but the modules are named {', '.join(self._modules)}: "
                f"make a new {type(self).__name__}"
            )
        modules = [self._modules[name] for name in moved]
        for i, each in enumerate([module, *modules], index):
            self._modules.pop(str(i), None) if each is None else None
            self._modules[str(i)] = each

    def __setitem__(self, index: int, module: Module | None) -> None:
        setattr(self, self._name_at(index), module)

    def __delitem__(self, index: int | slice) -> None:
        names = list(self._modules)[index] if isinstance(index, slice) else [self._name_at(index)]
        for name in names:
            delattr(self, name)
        self._renumber()

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(cast("ValuesView[Module]", self._modules.values()))
