"""Calls outside of every transform: wholly done, or undone by an exception."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jax.core import Tracer

from flambeau._errors import StateError
from flambeau.core import raw
from flambeau.core.capture import transparently
from flambeau.core.cell import clock, running, tracer_write
from flambeau.core.containers import holds_arrays, is_mutable, items, new_items
from flambeau.core.frame import Journal
from flambeau.core.objects import attributes, same_fields
from flambeau.core.structure import Structure
from flambeau.core.tree import Node

__all__ = ["transaction"]


def transaction(root: Node, fun: Callable[[], Any]) -> Any:
    """Runs `fun`, which works on `root` and what is below it: wholly, or with an exception and no change of state."""
    frame = running.frame
    if frame is not None:
        return fun() if frame.calling else transparently(fun, objects_below(root))
    if running.journal is not None:
        return fun()
    journal = running.journal = Journal()
    try:
        for container in contents_below(root):
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
    """Raises if a raw transform of JAX left tracers in a container or object of a module, or would change it only once."""
    changed = [
        (thing, new_items(old, thing) if is_mutable(thing) else list(attributes(thing).values()))
        for thing, old in journal.contents.values()
        if not same_fields(thing, old)
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


def contents_below(root: Node) -> list[Any]:
    """The mutable containers and objects of `root` and of the nodes below it."""
    nodes, objects = _below(root)
    return [value for node in (root, *nodes) for value in node._containers.values() if is_mutable(value)] + objects


def objects_below(root: Node) -> list[Any]:
    """Those in static attributes, but for arrays of numpy, of which each call would make a copy."""
    return _below(root)[1]


def _below(root: Node) -> tuple[list[Node], list[Any]]:
    """The nodes below with containers, and the objects of all; they are remembered on `root`."""
    known = root.__dict__.get("_below")
    if known is None or known[0] != clock.structure:
        structure = Structure([root])
        nodes = [node for node in structure.nodes[1:] if node._containers]
        objects = [thing for thing, _ in structure.watched if not isinstance(thing, np.ndarray)]
        known = root.__dict__["_below"] = (clock.structure, nodes, objects)
    return known[1:]
