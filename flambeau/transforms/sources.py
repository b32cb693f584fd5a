"""Where a function finds the state that it does not take as an argument: its closure, its globals, its object.

A captured module is remembered by the way that leads to it from the function, and looked up again at each call, so that a
name that is bound to another module since is never stale.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

from flambeau.core.cell import Cell
from flambeau.core.structure import Structure
from flambeau.core.tree import Node

__all__ = ["Source", "find_source"]

_DEEPEST = 6
_MOST = 20_000  # objects looked at, before one gives up

Step = Callable[[Any], Any]


class Source:
    """A way to a node: steps from the function; or, where none is found, the node itself."""

    __slots__ = ("root", "steps")

    def __init__(self, root: Any, steps: tuple[Step, ...] = ()) -> None:
        self.root = root
        self.steps = steps

    def find(self) -> Node | Cell | None:
        """The node that the way leads to now, or None if it has come to an end."""
        found = self.root
        try:
            for step in self.steps:
                found = step(found)
        except (AttributeError, KeyError, IndexError, TypeError, ValueError):
            return None
        return found if isinstance(found, (Node, Cell)) else None


def find_source(function: Any, statics: tuple[Any, ...], wanted: Node | Cell) -> Source:
    """The shortest way from `function` (or a static argument) to a node that is or holds `wanted`."""
    queue: list[tuple[Any, Any, tuple[Step, ...]]] = [(root, root, ()) for root in (function, *statics)]
    seen: set[int] = set()
    for root, thing, steps in queue:  # it grows while we go: breadth first
        if isinstance(thing, (Node, Cell)):
            if thing is wanted or (isinstance(thing, Node) and _holds(thing, wanted)):
                return Source(root, steps)
            continue
        if len(steps) >= _DEEPEST or id(thing) in seen or len(queue) > _MOST:
            continue
        seen.add(id(thing))
        queue.extend((root, inner, (*steps, step)) for step, inner in _reachable(thing))
    return Source(wanted)


def _holds(node: Node, wanted: Node | Cell) -> bool:
    structure = Structure([node])
    return wanted in structure.cell_index if isinstance(wanted, Cell) else id(wanted) in structure.node_index


def _reachable(thing: Any) -> Iterator[tuple[Step, Any]]:
    """What lies one step from an object, with the step."""
    if isinstance(thing, types.FunctionType):
        yield from _of_function(thing)
    elif isinstance(thing, types.MethodType):
        yield (lambda method: method.__self__), thing.__self__
        yield (lambda method: method.__func__), thing.__func__
    elif isinstance(thing, functools.partial):
        yield (lambda partial: partial.func), thing.func
        yield (lambda partial: partial.args), thing.args
        yield (lambda partial: partial.keywords), thing.keywords
    elif isinstance(thing, dict):
        yield from ((_item(key), value) for key, value in list(thing.items()))
    elif isinstance(thing, (list, tuple)):
        yield from ((_item(i), value) for i, value in enumerate(thing))
    elif hasattr(thing, "__wrapped__"):
        yield (lambda wrapper: wrapper.__wrapped__), thing.__wrapped__
    elif not isinstance(thing, (type, types.ModuleType)) and hasattr(thing, "__dict__"):
        yield from ((_attribute(name), value) for name, value in list(vars(thing).items()))


def _of_function(function: types.FunctionType) -> Iterator[tuple[Step, Any]]:
    for i, cell in enumerate(function.__closure__ or ()):
        try:
            yield _closure(i), cell.cell_contents
        except ValueError:  # a name that is not bound yet
            continue
    names = set(_names(function.__code__))
    for name in names & function.__globals__.keys():
        value = function.__globals__[name]
        if isinstance(value, types.ModuleType):
            for attribute in names & vars(value).keys():
                inner = vars(value)[attribute]
                if isinstance(inner, (Node, Cell)):
                    yield _module_attribute(name, attribute), inner
        else:
            yield _global(name), value
    for i, value in enumerate(function.__defaults__ or ()):
        yield (lambda f, i=i: f.__defaults__[i]), value
    if hasattr(function, "__wrapped__"):
        yield (lambda f: f.__wrapped__), function.__wrapped__  # pyright: ignore[reportFunctionMemberAccess]


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _item(key: Any) -> Step:
    return lambda container: container[key]


def _attribute(name: str) -> Step:
    return lambda thing: vars(thing)[name]


def _closure(index: int) -> Step:
    return lambda function: function.__closure__[index].cell_contents


def _global(name: str) -> Step:
    return lambda function: function.__globals__[name]


def _module_attribute(module: str, name: str) -> Step:
    return lambda function: vars(function.__globals__[module])[name]
