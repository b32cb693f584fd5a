"""What a running call keeps, so that state can be undone, or carried out of a transform.

A `Journal` notes what an eager call changes and can put it back. A `Frame` is what a running transform keeps: the values of
the cells it bound or wrote, and twins of the containers it met, while the objects themselves stay as they are; static
attributes and registries, which Python must find in place, are changed there and put back when the frame ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

import jax
from jax.core import Tracer
from jax.extend.core import get_opaque_trace_state

from flambeau._errors import StateError
from flambeau.core import raw
from flambeau.core.cell import Cell, Parameter, clock, running
from flambeau.core.containers import (
    ObservedList,
    holds_arrays,
    is_mutable,
    items,
    map_container,
    rebuild_tuple,
    same_contents,
    shallow,
)
from flambeau.core.objects import fields, put_fields
from flambeau.core.tree import MISSING, Node, Registry

__all__ = ["Frame", "Journal", "Twin", "Unbound", "Unmade"]

T = TypeVar("T")


class Unbound(BaseException):
    """State that a compiled function reaches, and that its trace has not bound: the trace is abandoned and made again."""

    def __init__(self, frame: Frame, what: Node | Cell, container: str | None = None) -> None:
        super().__init__(what, container)
        self.frame = frame  # whose trace is abandoned
        self.what = what
        self.container = container
        self.made = list(_made_inside(frame))  # nodes, one of which may have named it


def _made_inside(frame: Frame) -> Iterator[Node]:
    """The nodes that were made in a frame and in those that run inside of it."""
    inner = running.frame
    while inner is not None:
        yield from inner.created_nodes.values()
        inner = None if inner is frame else inner.parent


class Unmade(BaseException):
    """A lazy module that a transform meets and did not make itself.

    It gets its shapes outside of them, in the transform that made it or in none, and the outermost of them starts again.
    """

    def __init__(self, module: Node, make: Callable[[], None]) -> None:
        super().__init__()
        self.module = module
        self.make = make


class Journal:
    """The old values of what a call changes, noted at the first change of each."""

    def __init__(self) -> None:
        self.cells: dict[Cell, tuple[Any, bool]] = {}
        self.statics: dict[tuple[int, str], tuple[Node, str, Any]] = {}
        self.registries: dict[int, tuple[Registry, Node, dict[Any, Any]]] = {}
        self.flags: dict[Parameter, bool] = {}
        self.made: dict[Cell, tuple[type[Cell], Any]] = {}
        self.classes: dict[int, tuple[Node, type]] = {}
        self.contents: dict[int, tuple[Any, Any]] = {}  # by id of the container or object

    def note_cell(self, cell: Cell) -> None:
        self.cells.setdefault(cell, (cell._value, cell._exposed))

    def note_static(self, node: Node, name: str) -> None:
        self.statics.setdefault((id(node), name), (node, name, node.__dict__.get(name, MISSING)))

    def note_registry(self, registry: Registry, node: Node) -> None:
        if id(registry) not in self.registries:
            self.registries[id(registry)] = (registry, node, dict(registry))

    def note_flag(self, parameter: Parameter) -> None:
        self.flags.setdefault(parameter, parameter._requires_grad)

    def note_made(self, cell: Cell) -> None:
        """Notes a cell that had no shape yet."""
        self.made.setdefault(cell, (type(cell), cell._value))

    def note_class(self, node: Node) -> None:
        self.classes.setdefault(id(node), (node, type(node)))

    def note_contents(self, container: Any) -> None:
        """Notes what a mutable container or object holds, and what the containers in a container hold."""
        if id(container) in self.contents:
            return
        self.contents[id(container)] = (container, fields(container))
        for item in items(container) if is_mutable(container) else ():
            if is_mutable(item):
                self.note_contents(item)

    def rollback(self) -> None:
        for cell, (value, exposed) in self.cells.items():
            cell._replace(value, exposed)
        for node, name, old in self.statics.values():
            if old is MISSING:
                node.__dict__.pop(name, None)
            else:
                node.__dict__[name] = old
        for registry, _, old in self.registries.values():
            registry.replace(old)
        for parameter, flag in self.flags.items():
            parameter._requires_grad = flag
        for container, old in reversed(self.contents.values()):
            put_fields(container, old)
        for cell, (kind, value) in self.made.items():
            cell.__class__, cell._value = kind, value
        for node, kind in self.classes.values():
            object.__setattr__(node, "__class__", kind)
        if self.statics or self.flags or self.made or self.classes:
            clock.tick()


class TupleStep(NamedTuple):
    """The way into a tuple that is itself an element under `key`."""

    key: Any
    at: int


class Twin:
    """A container that a frame works on in the place of one that a node holds."""

    __slots__ = ("initial", "locator", "origin", "read", "value")

    def __init__(self, origin: Any, locator: tuple[Any, ...]) -> None:
        self.origin = origin
        self.locator = locator  # the node, the attribute's name, and the keys that lead to it from there
        self.value: Any = None
        self.read = False
        self.initial: Any = None  # the contents when it was read

    def changed(self) -> bool:
        return not self.read or not same_contents(self.initial, self.value)


class Frame(Journal):
    """What a running transform keeps. See the module's docstring.

    Args:
        opaque: whether the transform compiles: values from outside must be its inputs, so reading what is not bound
            abandons the trace with `Unbound`. In a transparent frame such reads go to the frame around it.
    """

    def __init__(self, *, opaque: bool = False) -> None:
        super().__init__()
        self.opaque = opaque
        self.parent = running.frame
        self.values: dict[Cell, Any] = {}
        self.initial: dict[Cell, Any] = {}
        self.created_nodes: dict[int, Node] = {}
        self.created_cells: set[Cell] = set()
        self.bound_nodes: frozenset[int] = frozenset()
        self.container_inputs: dict[tuple[int, str], list[Any]] = {}
        self.slots: dict[tuple[int, str], tuple[Node, str, Any]] = {}
        self.slot_writes: dict[tuple[int, str], None] = {}  # in the order of the first write of each
        self.twins: dict[int, Twin] = {}  # by id of the origin
        self.twin_values: dict[int, Twin] = {}  # by id of the twin's value
        self.names: dict[Cell, tuple[Node, str]] = {}  # where each written cell was written, for messages
        self.unbound: Unbound | None = None
        self.watched: list[
            tuple[Any, Any]
        ] = []  # mutable objects in static attributes, and what they held at the start
        self.trace_state: Any = None
        self.calling = False  # whether an outermost module call is under way in this frame

    def run(self, function: Callable[[], T]) -> T:
        """Calls `function` in this frame; whatever happens, what it changed in place is put back when it ends."""
        # No context manager: Ctrl-C could come between its call and its first line.
        outside, journal = running.frame, running.journal
        running.frame, running.journal = self, None
        try:
            self.trace_state = get_opaque_trace_state()
            return function()
        finally:
            running.frame, running.journal = outside, journal
            try:
                self._put_back()
            except KeyboardInterrupt:
                self._put_back()
                raise

    def _put_back(self) -> None:
        self.rollback()
        for thing, old in self.watched:
            put_fields(thing, old)

    def watch(self, objects: Iterable[tuple[Any, Any]]) -> None:
        """Notes what mutable objects hold, before they change here. A compiling frame knows all of them from the start."""
        known = {id(thing) for thing, _ in self.watched}
        if not self.opaque:
            self.watched.extend((thing, fields(thing)) for thing, _ in objects if id(thing) not in known)

    def bind(self, cells: Iterable[Cell], values: Iterable[Any]) -> None:
        self.initial.update(zip(cells, values, strict=True))
        self.values.update(self.initial)

    def abandon(self, what: Node | Cell, container: str | None = None) -> None:
        """Gives the trace up, for it needs state that is not bound."""
        # Kept, since a bare `except:` in the traced function could swallow it.
        self.unbound = self.unbound or Unbound(self, what, container)
        raise self.unbound

    def compiles(self) -> bool:
        """Whether what runs here becomes a part of a compiled program."""
        return self.opaque or (self.parent is not None and self.parent.compiles())

    def changes_structure(self) -> bool:
        """Whether, here or further out, a compiling frame runs or something changed that a walk over nodes would see."""
        here = self.opaque or self.statics or self.registries or self.slots or self.flags
        return bool(here) or (self.parent is not None and self.parent.changes_structure())

    def written(self) -> list[Cell]:
        """The cells from outside whose values are others than when the frame began."""
        missing = MISSING
        initial = self.initial
        created = self.created_cells if self.opaque else ()
        return [cell for cell, v in self.values.items() if initial.get(cell, missing) is not v and cell not in created]

    # -- cells ----------------------------------------------------------------------------------------------------------

    def read(self, cell: Cell, owner: Node | None = None) -> Any:
        value = self.values.get(cell, MISSING)
        if value is not MISSING:
            return value
        if self.opaque:
            self.abandon(owner if owner is not None else cell)
        return self.parent.read(cell, owner) if self.parent is not None else cell.expose()

    def peek(self, cell: Cell) -> Any:
        value = self.values.get(cell, MISSING)
        if value is not MISSING:
            return value
        return self.parent.peek(cell) if self.parent is not None else cell._value

    def write(self, cell: Cell, value: Any, owner: Node | None = None, name: str = "") -> None:
        if self.opaque and cell not in self.values:
            self.abandon(owner if owner is not None else cell)
        if owner is not None:
            self.names[cell] = (owner, name)
        if get_opaque_trace_state() != self.trace_state:
            if isinstance(value, Tracer):
                raise StateError(_raw_transform_inside(*self.names.get(cell, (None, ""))))
            raw.refuse_change(*self.names.get(cell, (None, "")), self)
        self.values[cell] = value

    def create(self, cell: Cell, value: Any) -> None:
        self.values[cell] = value
        self.created_cells.add(cell)

    # -- static attributes and registries -------------------------------------------------------------------------------

    def created(self, thing: Node | Cell) -> bool:
        """Whether a node or cell was made here or in a frame around."""
        return self.created_here(thing) or (self.parent is not None and self.parent.created(thing))

    def created_inside(self, thing: Node | Cell) -> bool:
        """Whether it was made here or in a frame around, no further out than the innermost that compiles."""
        around = None if self.opaque else self.parent
        return self.created_here(thing) or (around is not None and around.created_inside(thing))

    def created_here(self, thing: Node | Cell) -> bool:
        """Whether a node or cell was made in this frame, or in one inside of it that has ended."""
        return thing in self.created_cells if isinstance(thing, Cell) else id(thing) in self.created_nodes

    def require(self, node: Node) -> None:
        """Makes sure that a compiling frame here or further out knows `node`."""
        if id(node) in self.created_nodes:
            return
        if self.opaque:
            if id(node) not in self.bound_nodes:
                self.abandon(node)
        elif self.parent is not None:
            self.parent.require(node)

    def note_static(self, node: Node, name: str) -> None:
        self.require(node)
        if id(node) not in self.created_nodes:
            super().note_static(node, name)

    def note_flag(self, parameter: Parameter) -> None:
        self.require_cell(parameter)
        if parameter not in self.created_cells:
            super().note_flag(parameter)

    def require_cell(self, cell: Cell) -> None:
        """Makes sure that a compiling frame here or further out has bound `cell`."""
        if cell in self.values:
            return
        if self.opaque:
            self.abandon(cell)
        elif self.parent is not None:
            self.parent.require_cell(cell)

    def note_registry(self, registry: Registry, node: Node) -> None:
        self.require(node)
        if id(node) not in self.created_nodes:
            super().note_registry(registry, node)

    # -- containers -----------------------------------------------------------------------------------------------------

    def read_container(self, node: Node, name: str) -> Any:
        if id(node) in self.created_nodes:
            return node._containers.get(name, MISSING)
        key = (id(node), name)
        slot = self.slots.get(key)
        if slot is not None:
            return slot[2]
        outside = self.parent
        origin = node._containers.get(name, MISSING) if outside is None else outside.read_container(node, name)
        if origin is MISSING:
            return MISSING
        self.require(node)
        value = self._twin(origin, node, name)
        self.slots[key] = (node, name, value)
        return value

    def write_container(self, node: Node, name: str, value: Any) -> None:
        self.require(node)
        if id(node) in self.created_nodes:
            dict.__setitem__(node._containers, name, value)
            return
        self.slots[id(node), name] = (node, name, value)
        self.slot_writes[id(node), name] = None

    def delete_container(self, node: Node, name: str) -> bool:
        if id(node) in self.created_nodes:
            return dict.pop(node._containers, name, MISSING) is not MISSING
        found = self.has_container(node, name)
        if found:
            self.require(node)
            self.slots[id(node), name] = (node, name, MISSING)
            self.slot_writes[id(node), name] = None
        return found

    def has_container(self, node: Node, name: str) -> bool:
        """Whether the node has a container of that name now; looking does not count as reading it."""
        slot = self.slots.get((id(node), name))
        if slot is not None:
            return slot[2] is not MISSING
        return self.parent.has_container(node, name) if self.parent is not None else name in node._containers

    def containers_of(self, node: Node) -> dict[str, Any]:
        """The node's containers by name: those that were assigned here, and the others as they are outside."""
        found: dict[str, Any] = node._containers if self.parent is None else self.parent.containers_of(node)
        own = [name for holder, name in self.slot_writes if holder == id(node)]
        if own:
            found = {**found, **{name: self.slots[id(node), name][2] for name in own}}
            found = {name: value for name, value in found.items() if value is not MISSING}
        return found

    def _twin(self, origin: Any, node: Node, name: str) -> Any:
        known = self.twins.get(id(origin))
        if known is not None:
            return known.value
        twin = Twin(origin, (node, name))
        self.twins[id(origin)] = twin
        if type(origin) in (list, ObservedList):
            twin.value = ObservedList(lambda: self._load(twin))
        else:
            twin.value = self._load(twin)
        self.twin_values[id(twin.value)] = twin
        return twin.value

    def _load(self, twin: Twin) -> Any:
        """Reads the origin: a copy of it whose arrays are this frame's inputs; of an observed list, just its items."""
        node, name = twin.locator[:2]
        twin.read = True
        if not self.opaque:
            made = self._copy(twin, lambda array: array)
        else:
            inputs = self.container_inputs.get((id(node), name))
            if inputs is None:
                if holds_arrays(twin.origin):
                    self.abandon(node, name)
                inputs = self.container_inputs[id(node), name] = []
            remaining = iter(inputs)
            made = self._copy(twin, lambda array: next(remaining))
        twin.initial = shallow(made)
        return made

    def _copy(self, twin: Twin, leaf: Callable[[Any], Any]) -> Any:
        def visit(key: Any, value: Any) -> Any:
            if isinstance(value, jax.Array):
                return leaf(value)
            if type(value) in (list, ObservedList) or is_mutable(value):
                known = self.twins.get(id(value))
                if known is not None:
                    return known.value
                nested = Twin(value, (*twin.locator, key))
                self.twins[id(value)] = nested
                nested.value = self._copy(nested, leaf)
                nested.initial, nested.read = shallow(nested.value), True
                self.twin_values[id(nested.value)] = nested
                return nested.value
            if isinstance(value, tuple):
                return rebuild_tuple(value, [visit(TupleStep(key, i), item) for i, item in enumerate(value)])
            return value

        return map_container(twin.origin, visit)


def _raw_transform_inside(owner: Any, name: str) -> str:
    what = f"{type(owner).__name__}.{name}" if owner is not None else "a parameter or buffer"
    return (
        f"{what} was written inside a raw jax transform that runs inside a flambeau one: the value would not outlive it. "
        f"Use flambeau's transform (fb.grad, fb.value_and_grad, fb.jit) in the place of jax's there."
    )
