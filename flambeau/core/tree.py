"""Nodes: the objects whose attributes are state (modules, optimizers, generators), and how attributes are classified.

A node keeps its attributes in four kinds of places:

    registries of cells      arrays; for a module also `_parameters` and `_buffers`
    registries of nodes      `_modules`
    `_containers`            plain lists, dicts, sets and the like, and tuples that hold arrays: mutable, so watched
    `__dict__`               everything else: static attributes, part of the compiled structure

Every change of these funnels through this file, which moves the structure's clock and tells the running frame or journal.
"""

from __future__ import annotations

import functools
import inspect
import types
import weakref
from collections.abc import Iterator
from typing import Any, Self

import jax
import numpy as np
from jax.core import Tracer

from flambeau._errors import StateError
from flambeau.core import raw
from flambeau.core.cell import Cell, clock, copy, keeping_dtype, owner_of, running, tracer_write
from flambeau.core.containers import holds_arrays, is_mutable
from flambeau.core.objects import slots_of

__all__ = ["Node", "Registry", "is_container"]

MISSING: Any = type("Missing", (), {"__repr__": lambda self: "<missing>"})()

_ATOMS = frozenset(
    {int, float, bool, str, type(None), complex, bytes, type, np.dtype, slice, range, types.FunctionType}
)


def is_container(value: Any) -> bool:
    """Whether an attribute value is watched for its contents, rather than a static part of the structure."""
    if type(value) in _ATOMS:
        return False
    if is_mutable(value):
        return True
    return isinstance(value, tuple) and any(isinstance(item, jax.Array) or is_container(item) for item in value)


def _holds_tracer(value: Any) -> bool:
    """Whether a tracer is the value of a cell, or of one that is registered somewhere in a node."""
    if isinstance(value, Cell):
        return isinstance(value._value if running.frame is None else running.frame.peek(value), Tracer)
    registries = value._registries() if isinstance(value, Node) else ()
    return any(_holds_tracer(item) for _, registry in registries for item in registry.values())


class Registry(dict):
    """A dict of a node's registered things, which reports each change to the clock and to the running frame."""

    __slots__ = ("__weakref__", "_node")

    def __init__(self, node: Any) -> None:
        super().__init__()
        self._node = weakref.ref(node)

    def _changing(self, name: Any = None, value: Any = None) -> None:
        changing, node = running.frame or running.journal, self._node()
        # The keys of hooks are numbers: those may come and go within a call.
        if isinstance(name, str) and raw.outlives(node, running.frame):
            raw.refuse_change(node, name, running.frame)
            if _holds_tracer(value):
                raise StateError(tracer_write(node, name))
        clock.tick()
        if changing is not None and node is not None:
            changing.note_registry(self, node)

    def __setitem__(self, name: Any, value: Any) -> None:
        if self.get(name, MISSING) is not value:
            self._changing(name, value)
            super().__setitem__(name, value)

    def __delitem__(self, name: Any) -> None:
        self._changing(name)
        super().__delitem__(name)

    def pop(self, name: Any, *default: Any) -> Any:
        self._changing(name)
        return super().pop(name, *default)

    def popitem(self) -> tuple[Any, Any]:
        name = next(reversed(self), None)
        self._changing(name)
        return super().popitem()

    def clear(self) -> None:
        self.assign({})

    def update(self, *args: Any, **kwargs: Any) -> None:
        self.assign({**self, **dict(*args, **kwargs)})

    def setdefault(self, name: Any, default: Any = None) -> Any:
        if name not in self:
            self[name] = default
        return self[name]

    def __ior__(self, other: Any) -> Any:
        self.update(other)
        return self

    def assign(self, contents: dict[Any, Any]) -> None:
        """Puts other contents in place, in their order."""
        for name in {**self, **contents}:
            if self.get(name, MISSING) is not contents.get(name, MISSING):
                self._changing(name, contents.get(name))
        self._changing()
        super().clear()
        super().update(contents)

    def replace(self, contents: dict[Any, Any]) -> None:
        """The same, unseen: how a frame or journal undoes and redoes changes."""
        super().clear()
        super().update(contents)
        clock.tick()

    def __reduce__(self) -> Any:
        return dict, (dict(self),)


class _MissingError(AttributeError):
    """An attribute is not there. What may have been meant is looked for when somebody reads it: most ask by `hasattr`."""

    def __str__(self) -> str:
        node: Any = self.obj
        return node._missing_attribute(self.name)


_MissingError.__module__ = "builtins"  # as which tracebacks and messages show it
_MissingError.__qualname__ = _MissingError.__name__ = "AttributeError"


def _bare(kind: type[Node]) -> Node:
    """A node of the class, before its constructor: what a copy begins with."""
    return kind._bare()


class _CachedProperty(functools.cached_property):
    """What a `functools.cached_property` in the class of a node becomes: an attribute that is written when it is first read.

    The original writes past `__setattr__`, where no transform could see it, and would keep tracers there.
    """

    def __get__(self, node: Any, owner: Any = None) -> Any:
        name = self.attrname
        if node is None or name is None:
            return self
        found = node._find(name)
        if found is not MISSING:
            return found
        value = self.func(node)
        if isinstance(value, (Node, Cell)):  # as an attribute it would be registered
            return node.__dict__.setdefault(name, value)
        try:
            raw.refuse(name)
            setattr(node, name, value)
        except StateError:  # under a raw transform of JAX, whose values must not stay: each trace computes its own
            return value
        return getattr(node, name)


class Node:
    """Base of everything that holds state: its attributes survive the transforms (see the module's docstring)."""

    # Registries that hold cells or nodes, in the order in which attributes are looked up.
    _registry_names: tuple[str, ...] = ("_arrays", "_containers")
    # Registries that only a few nodes need, made at first use: the hooks.
    _late_registry_names: tuple[str, ...] = ()
    # Names in __dict__ that are bookkeeping rather than the user's static attributes.
    _bookkeeping: frozenset[str] = frozenset({"_arrays", "_containers", "_below"})

    _arrays: Registry
    _containers: Registry

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        node = object.__new__(cls)
        for name in cls._registry_names:
            node.__dict__[name] = Registry(node)
        if running.frame is not None:
            running.frame.created_nodes[id(node)] = node
        raw.note_creation(node)
        return node

    @classmethod
    def _bare(cls) -> Self:
        return cls.__new__(cls)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if slots := slots_of(cls):
            raise TypeError(
                f"{cls.__name__}: attributes in slots ({', '.join(slots)}) would not be seen by the transforms, which carry "
                f"state; leave `__slots__` out"
            )
        bases = [base for base in reversed(cls.__mro__) if base is cls or not issubclass(base, Node)]
        for name, value in [item for base in bases for item in vars(base).items()]:
            if type(value) is functools.cached_property and inspect.getattr_static(cls, name) is value:
                own = _CachedProperty(value.func)
                own.__set_name__(cls, name)
                setattr(cls, name, own)

    # -- reading --------------------------------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        found = self._find(name)
        if found is MISSING:
            raise _MissingError(name=name, obj=self)
        return found

    def _find(self, name: str) -> Any:
        """The attribute kept in a registry, or MISSING."""
        cell = self.__dict__["_arrays"].get(name)
        if cell is not None:
            return cell.get(self)
        if name in self._late_registry_names:
            return self._registry(name)
        if running.frame is not None:
            return running.frame.read_container(self, name)
        container = self.__dict__["_containers"].get(name, MISSING)
        if running.journal is not None and is_mutable(container):
            running.journal.note_contents(container)
        return container

    def _missing_attribute(self, name: str) -> str:
        return f"'{type(self).__name__}' object has no attribute '{name}'"

    def __dir__(self) -> list[str]:
        names = set(super().__dir__())
        for registry in self._registry_names:
            names.update(self._containers_now() if registry == "_containers" else self.__dict__[registry])
        return sorted(name for name in names if not name[:1].isdigit())

    # -- writing --------------------------------------------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        if type(value) in _ATOMS and name in self.__dict__:
            self._set_static(name, value)
        elif name.startswith("__") or isinstance(getattr(type(self), name, None), property):
            object.__setattr__(self, name, value)
        elif isinstance(value, jax.Array):
            self._set_array(name, value)
        elif is_container(value):
            self._set_container(name, value)
        else:
            self._forget(name, keep="__dict__")
            self._set_static(name, value)

    def _set_array(self, name: str, value: Any) -> None:
        cell = self._arrays.get(name)
        if cell is not None:
            cell.set(keeping_dtype(cell, value), owner=self, name=name)
            return
        self._forget(name)
        if isinstance(value, Tracer) and running.frame is None:
            raise StateError(tracer_write(self, name))
        self._arrays[name] = Cell(copy(value) if owner_of(value) is not None else value)

    def _set_container(self, name: str, value: Any) -> None:
        self._forget(name, keep="_containers")
        frame = running.frame
        raw.refuse_change(self, name, frame)
        if (frame is None or raw.outlives(self, frame)) and holds_arrays(value, Tracer):
            raise StateError(tracer_write(self, name))
        if frame is not None:
            frame.write_container(self, name, value)
            return
        if name in self._containers:
            # Its contents are compared when they matter, so another list of the same name changes no structure.
            if running.journal is not None:
                running.journal.note_registry(self._containers, self)
            dict.__setitem__(self._containers, name, value)
        else:
            self._containers[name] = value

    def _set_static(self, name: str, value: Any) -> None:
        old = self.__dict__.get(name, MISSING)
        if old is value or (type(old) is type(value) and type(value) in _ATOMS and old == value):
            return
        self._note_static(name)
        object.__setattr__(self, name, value)
        clock.tick()

    def _note_static(self, name: str) -> None:
        changing = running.frame or running.journal
        raw.refuse_change(self, name, running.frame)
        if changing is not None:
            changing.note_static(self, name)

    def __delattr__(self, name: str) -> None:
        if name in self.__dict__:
            self._note_static(name)
            object.__delattr__(self, name)
            clock.tick()
            return
        if not self._forget(name):
            object.__delattr__(self, name)

    def _forget(self, name: str, keep: str = "") -> bool:
        """Removes the attribute from every place but `keep`; says whether there was one."""
        found = False
        attributes = self.__dict__
        if keep != "__dict__" and name in attributes:
            Node.__delattr__(self, name)
            found = True
        for registry_name in self._registry_names:
            if registry_name == keep or registry_name not in attributes:
                continue
            if registry_name == "_containers" and running.frame is not None:
                if running.frame.has_container(self, name):
                    raw.refuse_change(self, name, running.frame)
                found |= running.frame.delete_container(self, name)
            elif name in attributes[registry_name]:
                del attributes[registry_name][name]
                found = True
        return found

    def _become(self, kind: type) -> None:
        """Changes the class: what a lazy module does once it has its shapes."""
        if running.journal is not None:
            running.journal.note_class(self)
        object.__setattr__(self, "__class__", kind)
        clock.tick()

    @property
    def __jax_array__(self) -> Any:
        """What JAX looks for in an argument that is no array."""
        raise StateError(
            f"{type(self).__name__} holds state and is no array: JAX's own transforms and functions take arrays. Use "
            f"flambeau's transforms, fb.jit, fb.grad and so on, or hand the values over: fb.functional_call(module, values, args)"
        )

    # -- looking over everything ----------------------------------------------------------------------------------------

    def _statics(self) -> Iterator[tuple[str, Any]]:
        """The static attributes, by name."""
        bookkeeping = self._bookkeeping
        for name, value in self.__dict__.items():
            if name not in bookkeeping:
                yield name, value

    def _registries(self) -> Iterator[tuple[str, Registry]]:
        for name in (*self._registry_names, *self._late_registry_names):
            registry = self.__dict__.get(name)
            if registry is not None:
                yield name, registry

    def _containers_now(self) -> dict[str, Any]:
        """The containers by name: in a frame those that are assigned there, and without those that are deleted there."""
        return self._containers if running.frame is None else running.frame.containers_of(self)

    def _registry(self, name: str) -> Registry:
        """One of the registries that a node gets when it first needs them."""
        registry = self.__dict__.get(name)
        if registry is None:
            registry = self.__dict__[name] = Registry(self)
        return registry

    def __reduce_ex__(self, protocol: Any) -> Any:
        if type(self).__reduce__ is not object.__reduce__:
            return super().__reduce_ex__(protocol)
        return _bare, (type(self),), self.__getstate__()

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in self.__dict__.items() if name != "_below"}
        if running.frame is not None:
            state["_containers"] = {name: running.frame.read_container(self, name) for name in self._containers_now()}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            if name in self._registry_names or name in self._late_registry_names:
                self._registry(name).update(value)
            else:
                object.__setattr__(self, name, value)
