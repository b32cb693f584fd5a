"""Calls outside of every transform: wholly done, or undone by an exception."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jax.core import Tracer

from flambeau._errors import StateError
from flambeau.core import raw
from flambeau.core.capture import transparently
from flambeau.core.cell import clock, running, tracer_write
from flambeau.core.containers import holds_arrays, is_mutable, items, new_items, same_contents
from flambeau.core.frame import Journal
from flambeau.core.structure import Structure
from flambeau.core.tree import Node

__all__ = ["transaction"]


def transaction(root: Node, fun: Callable[[], Any]) -> Any:
    """Runs `fun`, which works on `root` and what is below it: wholly, or with an exception and no change of state."""
    frame = running.frame
    if frame is not None:
        return fun() if frame.calling else transparently(fun)
    if running.journal is not None:
        return fun()
    journal = running.journal = Journal()
    try:
        for container in containers_below(root):
            journal.note_contents(container)
        result = fun()
        _refuse_lost(root, journal)
        return result
    except BaseException:
        try:
            journal.rollback()
        except KeyboardInterrupt:
            journal.rollback()
            raise
        raise
    finally:
        running.journal = None


def _refuse_lost(root: Node, journal: Journal) -> None:
    """Raises if a raw transform of JAX left tracers in a plain container of a module, or would change it only once."""
    changed = [
        (container, new_items(old, container))
        for container, old in journal.contents.values()
        if not same_contents(old, container)
    ]
    for registry, node, _ in journal.registries.values():
        if registry is node._containers:
            assigned = [container for container in registry.values() if is_mutable(container)]
            changed += [(container, container) for container in assigned if id(container) not in journal.contents]
    for container, new in changed:
        tracers = holds_arrays(new, Tracer)
        if tracers or raw.is_tracing():
            holder, name = _home(root, container)
            if tracers:
                raise StateError(tracer_write(holder, name))
            raw.refuse_change(holder, name)


def _home(root: Node, container: Any) -> tuple[Node | None, str]:
    """The node that holds a container, or one that it stands in, and the attribute; for messages."""
    for node in Structure([root]).nodes:
        for name, value in node._containers.items():
            if _is_in(value, container):
                return node, name
    return None, ""


def _is_in(value: Any, container: Any) -> bool:
    if not (is_mutable(value) or isinstance(value, tuple)):
        return False
    return value is container or any(_is_in(item, container) for item in items(value))


def containers_below(root: Node) -> list[Any]:
    """The mutable containers of `root` and of the nodes below it; which nodes have some is remembered on `root`."""
    known = root.__dict__.get("_below")
    if known is None or known[0] != clock.structure:
        below = [node for node in Structure([root]).nodes[1:] if node._containers]
        known = root.__dict__["_below"] = (clock.structure, below)
    return [value for node in (root, *known[1]) for value in node._containers.values() if is_mutable(value)]
