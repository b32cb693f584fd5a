"""The structure of nodes: what two of them must share for one compiled function to serve both, and the cells in it.

`Structure` walks the nodes once and gives a hashable `key` and flat lists of cells and nodes in the order of the walk, so
that the n-th cell of one tree corresponds to the n-th of any other tree with the same key.
"""

from __future__ import annotations

import functools
import hashlib
import types
import weakref
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

from flambeau.core.cell import Cell, UninitializedBuffer, UninitializedParameter, clock
from flambeau.core.containers import ObservedList, is_mutable, items
from flambeau.core.objects import attributes, fields, has_plain_fields, same_fields
from flambeau.core.placement import mesh_of
from flambeau.core.tree import Node

__all__ = ["Structure", "container_spec", "fingerprint", "has_fields", "nodes_inside", "signature"]

# JAX keeps things for itself in the attributes of these.
_OF_JAX = (jax.sharding.Mesh, jax.sharding.AbstractMesh, jax.sharding.Sharding, jax.Device)
_BY_VALUE = (int, bool, str, bytes, type(None), np.dtype, type(Ellipsis), slice, range)
_DEEPEST = 12  # nested objects in a static attribute; what lies deeper is told apart by identity


class _Same:
    """Stands for an object that is equal to nothing but itself, and keeps it alive so that its id is not used again."""

    __slots__ = ("thing",)

    def __init__(self, thing: Any) -> None:
        self.thing = thing

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.thing is other.thing

    def __hash__(self) -> int:
        return id(self.thing)

    def __repr__(self) -> str:
        return f"<{type(self.thing).__name__} at {id(self.thing):#x}>"


def fingerprint(value: Any, watched: list[Any] | None = None, depth: int = 0) -> Hashable:
    """A hashable stand-in for a static value: equal for values that a traced function cannot tell apart.

    Mutable objects are taken by their fields, so that two models with equal configurations share compiled code; they are
    appended to `watched`, for they may change without anyone noticing.
    """
    kind = type(value)
    if kind in _BY_VALUE:
        return (kind, value) if kind is not slice else (slice, value.start, value.stop, value.step)
    if kind is float:
        return (float, value.hex())
    if kind is complex:
        return (complex, value.real.hex(), value.imag.hex())
    if isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType, Cell, jax.Array)):
        return _Same(value)
    deeper = functools.partial(fingerprint, watched=watched, depth=depth + 1)
    if isinstance(value, _OF_JAX):
        return (kind, value)
    if isinstance(value, tuple):
        return (kind, *map(deeper, value))
    if isinstance(value, np.ndarray):
        _watch(value, watched)
        return (kind, value.shape, value.dtype.str, hashlib.blake2b(np.ascontiguousarray(value).tobytes()).digest())
    if isinstance(value, functools.partial):
        return (kind, deeper(value.func), deeper(value.args), deeper(value.keywords))
    if isinstance(value, types.MethodType):
        return (kind, _Same(value.__func__), _Same(value.__self__))
    if is_mutable(value):
        return _of_container(value, deeper, watched) if depth < _DEEPEST else _Same(value)
    if has_fields(value) and depth < _DEEPEST:
        _watch(value, watched)
        return (kind, *((name, deeper(field)) for name, field in attributes(value).items()))
    if kind.__hash__ is None:
        return _Same(value)
    return (kind, value)


def _of_container(value: Any, deeper: Callable[[Any], Hashable], watched: list[Any] | None) -> Hashable:
    _watch(value, watched)
    if isinstance(value, dict):
        return (type(value), *((deeper(key), deeper(item)) for key, item in value.items()))
    if isinstance(value, set):
        return (type(value), frozenset(map(deeper, value)))
    return (type(value), *map(deeper, value))


def _watch(value: Any, watched: list[Any] | None) -> None:
    if watched is not None:
        watched.append(value)


def has_fields(value: Any) -> bool:
    """Whether it is a mutable object that is taken by what it holds; containers aside."""
    return isinstance(value, np.ndarray) or (has_plain_fields(type(value)) and not isinstance(value, Node))


def signature(array: Any) -> tuple[Any, ...]:
    """What must agree for an array argument to go into a function compiled for another one."""
    if isinstance(array, (jax.Array, np.ndarray, np.generic)):
        return array.shape, array.dtype, getattr(array, "weak_type", False), mesh_of(array)
    return (type(array),)


class _Weak(Sequence[Node]):
    """Nodes that are not kept alive."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self._refs = [weakref.ref(node) for node in nodes]

    def __len__(self) -> int:
        return len(self._refs)

    def __getitem__(self, index: Any) -> Any:
        return self._refs[index]()


class Structure:
    """The walk over some root nodes. `valid()` says, at the cost of a comparison, whether it still holds."""

    __slots__ = ("cell_index", "cells", "clock", "key", "node_index", "nodes", "roots", "watched")

    def __init__(self, roots: Iterable[Node | Cell]) -> None:
        self.clock = clock.structure
        self.cells: list[Cell] = []
        self.nodes: Any = []
        self.cell_index: dict[Cell, int] = {}
        self.node_index: dict[int, int] = {}
        watched: list[Any] = []
        self.roots = tuple(roots)
        self.key = tuple(self._visit(root, watched) for root in self.roots)
        unique = {id(thing): thing for thing in watched}
        self.watched = [(thing, fields(thing)) for thing in unique.values()]

    def release(self) -> None:
        """Keeps the nodes no longer alive: what is remembered of a call must not be the last to hold a model."""
        self.nodes = _Weak(self.nodes)
        self.roots = ()

    def position(self, node: Node) -> int | None:
        """The node's place in the walk."""
        index = self.node_index.get(id(node))
        return index if index is not None and self.nodes[index] is node else None

    def valid(self) -> bool:
        if self.clock != clock.structure:
            return False
        return not self.watched or all(same_fields(thing, old) for thing, old in self.watched)

    def _visit(self, value: Node | Cell, watched: list[Any]) -> Hashable:
        return self._visit_cell(value) if isinstance(value, Cell) else self._visit_node(value, watched)

    def _visit_cell(self, cell: Cell) -> Hashable:
        if isinstance(cell, (UninitializedParameter, UninitializedBuffer)):
            return _Same(type(cell))
        index = self.cell_index.get(cell)
        if index is not None:
            return ("tied", index)
        self.cell_index[cell] = len(self.cells)
        self.cells.append(cell)
        value = cell.peek()
        return (type(cell), cell.trainable, getattr(value, "shape", None), value.dtype, mesh_of(value))

    def _visit_node(self, node: Node, watched: list[Any]) -> Hashable:
        index = self.node_index.get(id(node))
        if index is not None:
            return ("shared", index)
        self.node_index[id(node)] = len(self.nodes)
        self.nodes.append(node)
        parts: list[Hashable] = [_Same(type(node))]
        for registry_name, registry in node._registries():
            if registry_name == "_containers":
                parts.append((registry_name, self._inside_containers(node, watched)))
            elif registry and registry_name.endswith("_hooks"):
                # Their keys number the handles of the whole process, which no traced function sees.
                parts.append((registry_name, *(self._hook(hook, watched) for hook in registry.values())))
            elif registry:
                parts.append((registry_name, *((name, self._entry(item, watched)) for name, item in registry.items())))
        for name, value in node._statics():
            parts.append((name, self._entry(value, watched)))
        return tuple(parts)

    def _entry(self, value: Any, watched: list[Any]) -> Hashable:
        if isinstance(value, (Node, Cell)):
            return self._visit(value, watched)
        if type(value) is tuple and any(isinstance(item, (Node, Cell, tuple)) for item in value):
            return tuple(self._entry(item, watched) for item in value)
        return fingerprint(value, watched)

    def _hook(self, hook: Any, watched: list[Any]) -> Hashable:
        function, *settings = hook
        if isinstance(function, types.MethodType) and isinstance(function.__self__, Node):
            return (_Same(function.__func__), self._visit_node(function.__self__, watched), *settings)
        return (fingerprint(function, watched), *settings)

    def _inside_containers(self, node: Node, watched: list[Any]) -> Hashable:
        """Names, and the nodes and cells that plain containers hold: bound too, though `parameters()` does not see them."""
        found: list[Hashable] = []
        for name, value in node._containers_now().items():
            found.append((name, *(self._visit(inner, watched) for inner in nodes_inside(value))))
        return tuple(found)


def nodes_inside(container: Any, seen: set[int] | None = None) -> list[Node | Cell]:
    """The nodes and cells in a container and the containers in it."""
    seen = set() if seen is None else seen
    if id(container) in seen:
        return []
    seen.add(id(container))
    found: list[Node | Cell] = []
    # A list that was only appended to must not be read for this; what it holds besides is found where it comes from.
    for item in container.raw() if isinstance(container, ObservedList) else items(container):
        if isinstance(item, (Node, Cell)):
            found.append(item)
        elif is_mutable(item) or isinstance(item, tuple):
            found.extend(nodes_inside(item, seen))
    return found


def container_spec(value: Any, arrays: list[Any], structure: Structure) -> Hashable:
    """What a function that reads a container depends on; its arrays are appended to `arrays`, in the order of the spec."""
    if isinstance(value, jax.Array):
        arrays.append(value)
        return ("array", *signature(value))
    if isinstance(value, Node):
        position = structure.position(value)
        return ("node", _Same(value) if position is None else position)
    if isinstance(value, Cell):
        return ("cell", structure.cell_index.get(value, _Same(value)))
    if isinstance(value, dict):
        return (
            type(value),
            *((fingerprint(key), container_spec(item, arrays, structure)) for key, item in value.items()),
        )
    if isinstance(value, set):
        return (set, frozenset(map(fingerprint, value)))
    if isinstance(value, tuple) or is_mutable(value):
        kind = list if isinstance(value, ObservedList) else type(value)
        return (kind, *(container_spec(item, arrays, structure) for item in value))
    return fingerprint(value)
