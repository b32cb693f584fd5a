"""Says why a function compiles again and again: once, and by the name of the attribute."""

from __future__ import annotations

import warnings
import weakref
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
    """The compilations of one function so far, and why there was each of them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.reasons: list[str] = []
        self.last: dict[Hashable, tuple[tuple[Hashable, ...], list[weakref.ref[Any]]]] = {}
        self.previous: tuple[Any, ...] | None = None
        self.counts: dict[str, int] = {}
        self.said: set[str] = set()

    def compiled(self, key: tuple[Any, ...], structure: Structure, variants: int, reads: list[Any]) -> None:
        """Notes a compilation. `variants`: how many there are for one key, which differ in the contents of what they read."""
        rest, previous = key[:3], self.last.get(key[:3])
        self.last[rest] = structure.key, [weakref.ref(root) for root in structure.roots]
        holder = ""
        if reads:
            node, name, _ = reads[0]
            holder = f"{type(structure.nodes[node]).__name__}.{name}"
        self.reasons.append(_reason(self.previous, key, holder))
        self.previous = key
        path = None
        if previous is not None and _is_same_thing(*previous, structure):
            path = difference(previous[0], structure.key)
        if path is not None:
            self._count(path, "changes from call to call, and is part of the compiled structure", "a buffer")
        elif variants > 1 and reads:
            self._count(holder, "has other contents from call to call, and is read", "a buffer of a fixed size")

    def _count(self, path: str, what: str, cure: str) -> None:
        self.counts[path] = self.counts.get(path, 1) + 1
        if self.counts[path] >= PATIENCE and path not in self.said:
            self.said.add(path)
            warnings.warn(
                f"{self.name} was compiled {self.counts[path]} times because `{path}` {what}. "
                f"Make it {cure} (self.register_buffer), and it will not compile again.",
                RecompilationWarning,
                stacklevel=users_stacklevel(),
            )


def _is_same_thing(key: tuple[Hashable, ...], roots: list[weakref.ref[Any]], structure: Structure) -> bool:
    """Whether what was otherwise before is the same module now, rather than another one."""
    for before, root, after, now in zip(key, roots, structure.key, structure.roots, strict=False):
        if before != after:
            return root() is now
    return False


def _reason(old: tuple[Any, ...] | None, new: tuple[Any, ...], holder: str) -> str:
    """Why there is a program for `new`, a key of jit's, besides the one before."""
    if old is None:
        return "first call"
    arguments, captured, statics, structure, settings = (a != b for a, b in zip(old, new, strict=True))
    if arguments:
        return _other_arguments(old[0], new[0])
    if captured:
        return "another number of modules is closed over"
    if statics:
        return "a static argument is another"
    if structure:
        path, before, after = _first_difference(old[3], new[3])
        if path is not None and isinstance(before, bool) and isinstance(after, bool):
            return f"`{path}` is {'new' if after else 'gone'}"
        return f"`{path}` was {_plain(before)}, is {_plain(after)}" if path else "the modules are made of other things"
    if settings:
        return "an option of JAX, or autocast, is another"
    return f"`{holder}` holds other things" if holder else "it serves one call only"


def _other_arguments(old: Any, new: Any) -> str:
    if old[0] != new[0] or len(old[1]) != len(new[1]):
        return "the arguments are another tree"
    place = next(i for i, (a, b) in enumerate(zip(old[1], new[1], strict=True)) if a != b)
    return f"leaf {place} of the arguments was {_array(old[1][place])}, is {_array(new[1][place])}"


def _array(signature: Any) -> str:
    if isinstance(signature, tuple) and len(signature) == 4:
        shape, dtype, weak, mesh = signature
        return f"{dtype}{list(shape)}" + (" of a Python number" if weak else "") + (f" on {mesh}" if mesh else "")
    return str(signature[0].__name__ if isinstance(signature, tuple) else signature)


def _plain(fingerprint: Any) -> str:
    """A static value, as it was before it was made hashable."""
    if isinstance(fingerprint, tuple) and len(fingerprint) == 2 and isinstance(fingerprint[0], type):
        kind, value = fingerprint
        return str(float.fromhex(value)) if kind is float else repr(value)
    return repr(fingerprint)[:60]


def warn_restless(name: str, what: str) -> None:
    """Says why a loop is traced step by step."""
    warnings.warn(
        f"fb.{name} traced {PATIENCE} steps by themselves, since each leaves `{what}` other than it found it, which is part of "
        f"the compiled structure. Make it a buffer (self.register_buffer), and the loop is compiled once.",
        RecompilationWarning,
        stacklevel=users_stacklevel(),
    )


def difference(old: Hashable, new: Hashable) -> str | None:
    """The path of the first static attribute that differs between two structure keys, if they differ in one alone."""
    path, before, _ = _first_difference(old, new)
    # train() and eval() are meant to be two versions, and an attribute comes but once.
    meant = path is None or path.rpartition(".")[2] == "training" or isinstance(before, bool)
    return None if meant else path


def _first_difference(old: Hashable, new: Hashable, path: str = "") -> tuple[str | None, Hashable, Hashable]:
    """Where two structure keys first differ: the path of the attribute, and what there is in each."""
    if old == new:
        return None, old, new
    if not (isinstance(old, tuple) and isinstance(new, tuple)) or _is_value(old):
        return path or None, old, new
    if len(old) != len(new):
        for name in _names(old) ^ _names(new):
            return f"{path}.{name}" if path else name, name in _names(old), name in _names(new)
        return path or None, old, new
    if old and isinstance(old[0], str) and old[0] == new[0]:
        if old[0] not in _REGISTRIES:
            path = f"{path}.{old[0]}" if path else old[0]
        old, new = old[1:], new[1:]
        if len(old) == 1:
            return _first_difference(old[0], new[0], path)
    for a, b in zip(old, new, strict=True):
        if a != b:
            return _first_difference(a, b, path)
    return None, old, new


def _names(key: tuple[Any, ...]) -> set[str]:
    """Of the key of a node, the names of its attributes."""
    return {part[0] for part in key if isinstance(part, tuple) and part and isinstance(part[0], str)}


def _is_value(key: tuple[Any, ...]) -> bool:
    """Whether it is the fingerprint of a plain value: its class, and it."""
    return len(key) == 2 and isinstance(key[0], type) and not isinstance(key[1], tuple)
