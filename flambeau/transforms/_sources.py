"""Where a function finds the state that it does not take as an argument: its closure, its globals, its object.

A captured module is remembered by the way that leads to it from the function, and looked up again at each call, so that a
name that is bound to another module since is never stale.
"""

from __future__ import annotations

import dis
import functools
import itertools
import operator
import types
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from typing import Any, NamedTuple

from flambeau.core.cell import Cell
from flambeau.core.objects import attributes
from flambeau.core.structure import Structure
from flambeau.core.tree import Node

__all__ = ["Source", "direct_sources", "find_source", "functions_of"]

_CALLABLES = (types.FunctionType, types.MethodType, functools.partial)
_DEEPEST = 6
_MOST = 20_000  # objects looked at, before one gives up
_COUNTED = 1_000  # things in a list, dict or object that are looked at in each call
_DEFAULT = object()  # marks the slots of default arguments
_PACKAGE = __name__.split(".")[0]

Step = Callable[[Any], Any]


class Source:
    """A way to a node: steps from the roots, which are the function and its static arguments; or else the node itself.

    Args:
        start: another function to start from, such as the `forward` of an argument's class.
        holders: after which steps there is a list, a dict or an object that other nodes may join later.
    """

    __slots__ = ("holders", "node", "start", "steps")

    def __init__(
        self,
        steps: tuple[Step, ...],
        node: Node | Cell | None = None,
        start: Any = None,
        holders: tuple[int, ...] = (),
    ) -> None:
        self.steps = steps
        self.node = node
        self.start = start
        self.holders = holders

    def find(self, roots: tuple[Any, ...]) -> Node | Cell | None:
        """The node that the way leads to now, or None if it has come to an end."""
        return self.look(roots)[0]

    def look(self, roots: tuple[Any, ...]) -> tuple[Node | Cell | None, tuple[int, ...]]:
        """The node that the way leads to now, if any, and how many nodes there are in each of the holders on the way."""
        if self.node is not None:
            return self.node, ()
        found: Any = roots if self.start is None else (self.start,)
        counts: tuple[int, ...] = ()
        try:
            for number, step in enumerate(self.steps):
                found = step(found)
                if number in self.holders:
                    held = itertools.islice(_held(found), _COUNTED)
                    counts = (*counts, sum([isinstance(item, (Node, Cell)) for item in held]))
        except (AttributeError, KeyError, IndexError, TypeError, ValueError):
            return None, counts
        return (found if isinstance(found, (Node, Cell)) else None), counts

    def shortcut(self, function: Any) -> Callable[[], Any] | None:
        """The way as one call, where it leads only through what a function keeps for life: its closure and its globals."""
        node = self.node
        if node is not None:
            return lambda: node
        first = function if self.start is None else self.start
        if self.holders or len(self.steps) != 2 or not isinstance(first, types.FunctionType):
            return None
        step = self.steps[1]
        return step.bound(first) if isinstance(step, (_Closure, _Global)) else None


def _held(thing: Any) -> Iterable[Any]:
    """What may come and go in a list, a dict or an object."""
    return thing if isinstance(thing, list) else (thing if isinstance(thing, dict) else attributes(thing)).values()


def _is_holder(thing: Any) -> bool:
    if isinstance(thing, (type, types.ModuleType, Node, Cell, *_CALLABLES)):
        return False
    return isinstance(thing, (list, dict)) or hasattr(thing, "__dict__")


def direct_sources(function: Any, *, start: Any = None) -> list[Source]:
    """The ways to the nodes that a function names itself: in its closure, its globals, and helpers of its own file.

    These are bound from the start: a trace would notice a read of their arrays, but not one of a static attribute. Where a
    name stands for None, or for an empty list or dict, a node may come later.
    """
    home = getattr(function, "__module__", None)
    queue: list[tuple[Any, tuple[Step, ...]]] = [(function, (_item(0),))]
    seen: set[int] = set()
    found: dict[Hashable, Source] = {}
    for thing, steps in queue:
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        for slot, step, inner in _reachable(thing) if isinstance(thing, _CALLABLES) else ():
            if isinstance(inner, (Node, Cell)):
                # Two names of one module are two ways: either may be bound to another one later.
                found.setdefault(slot, Source((*steps, step), start=start))
            elif inner is None or (isinstance(inner, (list, dict)) and not inner):
                if not (isinstance(slot, tuple) and _DEFAULT in slot):  # what most defaults are, and stay
                    holders = () if inner is None else (len(steps),)
                    found.setdefault(slot, Source((*steps, step), start=start, holders=holders))
            elif isinstance(inner, _CALLABLES) and len(steps) < _DEEPEST and getattr(inner, "__module__", home) == home:
                queue.append((inner, (*steps, step)))
    return list(found.values())


def functions_of(nodes: Collection[Node]) -> Iterator[Any]:
    """The functions that nodes bring along: methods of their classes, hooks, and functions kept in attributes."""
    for kind in dict.fromkeys(type(node) for node in nodes):  # in an order that equal structures share
        yield from _methods(kind)
    for node in nodes:
        yield from (value for _, value in node._statics() if isinstance(value, _CALLABLES))
        for name, registry in node._registries():
            if name.endswith("_hooks"):
                yield from (hook.function for hook in registry.values() if isinstance(hook.function, _CALLABLES))


@functools.cache
def _methods(kind: type) -> list[Any]:
    """The functions in a class and its bases, but for those of this package."""
    own = [base for base in kind.__mro__ if base.__module__.split(".")[0] != _PACKAGE]
    return [value for base in own for value in vars(base).values() if isinstance(value, types.FunctionType)]


def find_source(roots: tuple[Any, ...], wanted: Node | Cell) -> Source:
    """The shortest way from the function, or a static argument of it, to a node that is or holds `wanted`."""
    queue: list[tuple[Any, Source]] = [(root, Source((_item(i),))) for i, root in enumerate(roots)]
    seen: set[int] = set()
    for thing, source in queue:  # it grows while we go: breadth first
        if isinstance(thing, (Node, Cell)):
            if thing is wanted or (isinstance(thing, Node) and _holds(thing, wanted)):
                return source
            continue
        steps = source.steps
        if len(steps) > _DEEPEST or id(thing) in seen or len(queue) > _MOST:
            continue
        seen.add(id(thing))
        holders = (*source.holders, len(steps) - 1) if _is_holder(thing) else source.holders
        queue.extend((inner, Source((*steps, step), holders=holders)) for _, step, inner in _reachable(thing))
    return Source((), wanted)


def _holds(node: Node, wanted: Node | Cell) -> bool:
    structure = Structure([node])
    return wanted in structure.cell_index if isinstance(wanted, Cell) else id(wanted) in structure.node_index


def _reachable(thing: Any) -> Iterator[tuple[Hashable, Step, Any]]:
    """What lies one step from an object: the slot that holds it, the step, and the thing."""
    if isinstance(thing, types.FunctionType):
        yield from _of_function(thing)
        return
    for number, (step, inner) in enumerate(_of_object(thing)):
        yield (id(thing), number), step, inner


def _of_object(thing: Any) -> Iterator[tuple[Step, Any]]:
    if isinstance(thing, types.MethodType):
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
    elif not isinstance(thing, (type, types.ModuleType)):
        inside = getattr(thing, "__dict__", {})
        for name, value in attributes(thing).items():
            yield _attribute(name) if name in inside else operator.attrgetter(name), value


def _of_function(function: types.FunctionType) -> Iterator[tuple[Hashable, Step, Any]]:
    for i, cell in enumerate(function.__closure__ or ()):
        try:
            yield id(cell), _Closure(i), cell.cell_contents
        except ValueError:  # a name that is not bound yet
            continue
    names = set(_names(function.__code__))
    for name in sorted(set(_global_names(function.__code__)) & function.__globals__.keys()):
        value = function.__globals__[name]
        if isinstance(value, types.ModuleType):
            for attribute in sorted(names & vars(value).keys()):
                inner = vars(value)[attribute]
                if isinstance(inner, (Node, Cell)):
                    yield (id(value), attribute), _module_attribute(name, attribute), inner
        else:
            yield (id(function.__globals__), name), _Global(name), value
    for i, value in enumerate(function.__defaults__ or ()):
        yield (id(function), _DEFAULT, i), (lambda f, i=i: f.__defaults__[i]), value
    if hasattr(function, "__wrapped__"):
        yield id(function), (lambda f: f.__wrapped__), function.__wrapped__  # pyright: ignore[reportFunctionMemberAccess]


def _global_names(code: types.CodeType) -> Iterator[str]:
    """The global names that a function reads, and those of the functions defined in it."""
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield instruction.argval
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _global_names(constant)


def _names(code: types.CodeType) -> Iterator[str]:
    """The names in a function, those of attributes among them."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _item(key: Any) -> Step:
    return lambda container: container[key]


def _attribute(name: str) -> Step:
    return lambda thing: vars(thing)[name]


class _Closure(NamedTuple):
    """The step from a function to what a name of its closure stands for."""

    position: int

    def __call__(self, function: types.FunctionType) -> Any:
        return function.__closure__[self.position].cell_contents  # pyright: ignore[reportOptionalSubscript]

    def bound(self, function: types.FunctionType) -> Callable[[], Any]:
        return functools.partial(_contents, function.__closure__[self.position])  # pyright: ignore[reportOptionalSubscript]


_contents = operator.attrgetter("cell_contents")


class _Global(NamedTuple):
    """The step from a function to what a global name stands for."""

    name: str

    def __call__(self, function: types.FunctionType) -> Any:
        return function.__globals__[self.name]

    def bound(self, function: types.FunctionType) -> Callable[[], Any]:
        return functools.partial(function.__globals__.get, self.name)


def _module_attribute(module: str, name: str) -> Step:
    return lambda function: vars(function.__globals__[module])[name]
