"""Says why a function compiles again and again: once, and by the name of the attribute."""

from __future__ import annotations

import warnings
from collections.abc import Hashable
from typing import Any

from flambeau._errors import RecompilationWarning
from flambeau.core.location import users_stacklevel
from flambeau.core.module import Module
from flambeau.core.structure import Structure

__all__ = ["PATIENCE", "Watch", "difference", "warn_restless"]

_REGISTRIES = frozenset(Module._registry_names)
PATIENCE = 3  # compilations for one and the same reason, before it is said


class Watch:
    """The compilations of one function so far."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.last: dict[Hashable, Hashable] = {}
        self.counts: dict[str, int] = {}
        self.said: set[str] = set()

    def compiled(self, structure: Structure, rest: Hashable, variants: int, reads: list[Any]) -> None:
        """Notes a compilation. `rest`: what else of the call it depends on; `variants`: how many there are for one structure."""
        previous = self.last.get(rest)
        self.last[rest] = structure.key
        path = difference(previous, structure.key) if previous is not None else None
        if path is not None:
            self._count(path, "changes from call to call, and is part of the compiled structure", "a buffer")
        elif variants > 1 and reads:
            node, name, _ = reads[0]
            what = f"{type(structure.nodes[node]).__name__}.{name}"
            self._count(what, "has other contents from call to call, and is read", "a buffer of a fixed size")

    def _count(self, path: str, what: str, cure: str) -> None:
        self.counts[path] = self.counts.get(path, 1) + 1
        if self.counts[path] >= PATIENCE and path not in self.said:
            self.said.add(path)
            warnings.warn(
                f"{self.name} was compiled {self.counts[path]} times because `{path}` {what}. "
                f"Make it {cure} (self.register_buffer), and it will not compile again.",
                RecompilationWarning,
                stacklevel=6,
            )


def warn_restless(name: str, what: str) -> None:
    """Says why a loop is traced step by step."""
    warnings.warn(
        f"fb.{name} traced {PATIENCE} steps by themselves, since each leaves `{what}` other than it found it, which is part of "
        f"the compiled structure. Make it a buffer (self.register_buffer), and the loop is compiled once.",
        RecompilationWarning,
        stacklevel=users_stacklevel(),
    )


def difference(old: Hashable, new: Hashable, path: str = "") -> str | None:
    """The path of the first static attribute that differs between two structure keys, if they differ in one alone."""
    if old == new:
        return None
    if not (isinstance(old, tuple) and isinstance(new, tuple)) or len(old) != len(new):
        return path or None
    if old and isinstance(old[0], str) and old[0] == new[0]:
        if old[0] == "training":
            return None  # train() and eval() are meant to be two versions
        if old[0] not in _REGISTRIES:
            path = f"{path}.{old[0]}" if path else old[0]
        old, new = old[1:], new[1:]
        if len(old) == 1:
            return difference(old[0], new[0], path)
    for a, b in zip(old, new, strict=True):
        if a != b:
            return difference(a, b, path)
    return None
