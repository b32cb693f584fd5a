"""What a function changed and returned, as instructions that make it again: from arrays, on the same nodes or their like."""

from __future__ import annotations

import collections
import gc
import types
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from flambeau._errors import StateError
from flambeau.core import raw
from flambeau.core.cell import Cell, Parameter, copy, running, tracer_write
from flambeau.core.containers import (
    ObservedList,
    holds_arrays,
    is_mutable,
    items,
    map_container,
    refill,
)
from flambeau.core.frame import Frame, TupleStep, Twin
from flambeau.core.gradients import Gradients
from flambeau.core.objects import attributes, blank, fields, put_fields, same_fields
from flambeau.core.structure import Structure, fingerprint, has_fields
from flambeau.core.tree import MISSING, Node, Registry

__all__ = ["Change", "Collector", "Context", "Outcome"]


class Context:
    """The nodes, cells and watched objects that an outcome is applied to, and the arrays that came out."""

    __slots__ = ("cells", "made", "nodes", "origins", "outs", "watched")

    def __init__(
        self, nodes: Sequence[Node], cells: Sequence[Cell], outs: Sequence[Any], watched: Sequence[Any]
    ) -> None:
        self.nodes = nodes
        self.cells = cells
        self.outs = outs
        self.watched = watched
        # Those of the outcome, found before it changes which container stands where.
        self.origins: Sequence[Any] = ()
        # Nodes, cells and containers made anew at this application, by id of the template.
        self.made: dict[int, Any] = {}


Build = Callable[[Context], Any]


class Effect(NamedTuple):
    """A change to make: `find` its target before any change is made, then `apply` it."""

    find: Build
    apply: Callable[[Any, Context], None]
    adds: bool = False  # whether to make it twice is another thing than to make it once


class Change(NamedTuple):
    """An effect in a recipe, as messages name it."""

    verb: str
    what: str
    place: Hashable


class Outcome(NamedTuple):
    """How to make again, from arrays, what a traced function changed and returned."""

    written: list[int]  # indices of the cells whose new values are the first arrays
    effects: list[Effect]
    result: Build
    # The result from the arrays behind those of the written cells, where there is nothing else to do.
    plain: Callable[[Sequence[Any]], Any] | None = None
    # The containers that are there already and come to stand in a place, or in the result.
    origins: Sequence[Build] = ()

    @property
    def repeatable(self) -> bool:
        """Whether making the changes twice is the same as making them once."""
        return not self.origins and not any(effect.adds for effect in self.effects)

    def apply(self, context: Context) -> Any:
        """Makes the changes, other than to written cells, and gives the result."""
        self.change(context)
        return self.result(context)

    def change(self, context: Context) -> None:
        """Makes the changes."""
        context.origins = [find(context) for find in self.origins]
        targets = [effect.find(context) for effect in self.effects]
        for effect, target in zip(self.effects, targets, strict=True):
            effect.apply(target, context)


class Collector:
    """Encodes values as instructions that build them again, and gathers the arrays that they need."""

    def __init__(self, frame: Frame, structure: Structure | None, inputs: Sequence[Any]) -> None:
        self.frame = frame
        self.arrays: list[Any] = []
        # Arrays that a cell must not share: the inputs, and what another cell has been given.
        self.taken = {id(array) for array in inputs}
        self.cell_arrays = {id(value) for value in frame.initial.values()}
        self.cell_arrays.update(id(array) for arrays in frame.container_inputs.values() for array in arrays)
        self.recipe: list[Hashable] = []  # what the instructions do, in words
        # Those of the effects: of two programs where they are equal, the n-th arrays mean the same.
        self.changes: tuple[Hashable, ...] = ()
        # The changes of what exists outside of the frame, and how many of the arrays are for them and for written cells.
        self.outer: list[Change] = []
        self.carried = 0
        self.origins: list[Build] = []
        self.new: dict[int, Build] = {}
        self.watched = {id(thing): position for position, (thing, _) in enumerate(frame.watched)}
        self.alive: list[Any] = []  # what `new` knows by its id
        self.ours: set[int] = set()  # ids of what may hold an object that the function made
        if structure is None:
            self.nodes: list[Node] = []
            self.cells: list[Cell] = []
            self.node_index: dict[int, int] = {}
            self.cell_index: dict[Cell, int] = {}
        else:
            self.nodes, self.cells = structure.nodes, structure.cells
            self.node_index, self.cell_index = structure.node_index, structure.cell_index

    # -- arrays ---------------------------------------------------------------------------------------------------------

    def emit(self, value: Any, *, for_cell: bool = False) -> int:
        """Adds an array to those that come out; one that a cell holds already becomes a second array, for it may be donated."""
        if self.frame.opaque:
            if id(value) in (self.taken if for_cell else self.cell_arrays):
                value = copy(value)
            if for_cell:
                self.taken.add(id(value))
                self.cell_arrays.add(id(value))
        self.arrays.append(value)
        return len(self.arrays) - 1

    # -- references to what exists --------------------------------------------------------------------------------------

    def node(self, node: Node) -> Build | None:
        """A reference to a node that exists outside of the frame."""
        index = self.node_index.get(id(node))
        if index is None:
            if self.frame.opaque:
                return None
            index = self.node_index[id(node)] = len(self.nodes)
            self.nodes.append(node)
        return lambda context: context.nodes[index]

    def cell(self, cell: Cell) -> Build | None:
        index = self.cell_position(cell)
        return None if index is None else lambda context: context.cells[index]

    def cell_position(self, cell: Cell) -> int | None:
        index = self.cell_index.get(cell)
        if index is None and not self.frame.opaque:
            index = self.cell_index[cell] = len(self.cells)
            self.cells.append(cell)
        return index

    def origin(self, twin: Twin) -> Build:
        """The container outside that a twin stands for."""
        node, name, *keys = twin.locator
        holder = self.node(node)
        assert holder is not None  # a twin is made of a bound node's container only
        self.recipe.append((self._place(node), name, *map(fingerprint, keys)))

        def find(context: Context) -> Any:
            found = getattr(holder(context), name)
            for key in keys:
                steps: list[Any] = []
                while isinstance(key, TupleStep):
                    steps.append(key.at)
                    key = key.key
                found = found[key]
                for step in reversed(steps):
                    found = found[step]
            return found

        return find

    # -- values ---------------------------------------------------------------------------------------------------------

    def encode(self, value: Any, *, numbers: bool = False) -> Build:
        """Instructions that build `value`. `numbers`: Python and numpy numbers become arrays, as in the result of `jax.jit`."""
        if isinstance(value, jax.Array):
            self.recipe.append("array")
            index = self.emit(value)
            return lambda context: context.outs[index]
        if numbers and isinstance(value, (bool, int, float, complex, np.ndarray, np.generic)):
            return self.encode(jnp.asarray(value))
        twin = self.frame.twin_values.get(id(value))
        if twin is not None:
            position = len(self.origins)
            self.origins.append(self.origin(twin))
            return lambda context: context.origins[position]
        if isinstance(value, (Node, Cell)):
            known = self.node(value) if isinstance(value, Node) else self.cell(value)
            if known is not None:
                self.recipe.append(self._place(value))
                return known
            if not self.frame.created_inside(value):
                self.frame.abandon(value)  # it was there before, and has to be bound so that it stays itself
            return self._new_node(value) if isinstance(value, Node) else self._new_cell(value)
        if isinstance(value, Gradients):
            return self._gradients(value)
        if isinstance(value, tuple):
            return self._container(value, numbers)
        if is_mutable(value):
            return self._of_watched(value) or self._shared_container(value, numbers)
        treedef = jax.tree.structure(value)
        if jax.tree_util.treedef_is_leaf(treedef) or value is None:
            return self._object(value)
        self.recipe.append(treedef)
        builds = [self.encode(leaf, numbers=numbers) for leaf in jax.tree.leaves(value)]
        return lambda context: jax.tree.unflatten(treedef, [build(context) for build in builds])

    def plain_result(self, value: Any, written: int) -> Callable[[Sequence[Any]], Any] | None:
        """JAX's own unflattening, which is faster, of a result that holds nothing but arrays; None of any other.

        It takes the arrays that come after those of `written` cells.
        """
        # A container that a module was given too is one object for both.
        leaves, treedef = jax.tree.flatten(
            value, is_leaf=lambda part: isinstance(part, Gradients) or id(part) in self.new
        )
        if self.frame.twin_values or not all(isinstance(leaf, jax.Array) for leaf in leaves):
            return None
        start = len(self.arrays) - written
        stop = start + len([self.emit(leaf) for leaf in leaves])
        if leaves and jax.tree_util.treedef_is_leaf(treedef):
            return itemgetter(start)
        return lambda outs: treedef.unflatten(outs[start:stop])

    def _shared_container(self, value: Any, numbers: bool) -> Build:
        """A mutable container that may stand in several places: one new object for all of them."""
        known = self.new.get(id(value))
        if known is not None:
            return self._again(known, value)
        template = len(self.alive)  # its number: the value itself holds tracers, which must not live on
        self.alive.append(value)
        contents = self._container(value, numbers)

        def build(context: Context) -> Any:
            if template not in context.made:
                context.made[template] = contents(context)
            return context.made[template]

        self.new[id(value)] = build
        return build

    def _container(self, value: Any, numbers: bool) -> Build:
        builds: list[Build] = []
        keys = map(fingerprint, value) if isinstance(value, (dict, set)) else ()
        self.recipe.append((type(value), len(value), frozenset(keys) if isinstance(value, set) else tuple(keys)))
        shell = map_container(value, lambda key, item: builds.append(self.encode(item, numbers=numbers)))

        def build(context: Context) -> Any:
            made = iter([build(context) for build in builds])
            return map_container(shell, lambda key, item: next(made))

        return build

    def _object(self, value: Any) -> Build:
        """Something static. What can change, and was made by the function, is made anew at each application."""
        watched = self._of_watched(value)
        if watched is not None:
            return watched
        known = self.new.get(id(value))
        if known is not None:
            return self._again(known, value)
        if not self.frame.opaque or not has_fields(value) or self._is_known_elsewhere(value):
            self.recipe.append(fingerprint(value))
            return _constant(value)
        return self._new_object(value)

    def _of_watched(self, value: Any) -> Build | None:
        """The very thing that the frame found in a static attribute, or nothing if it did not."""
        position = self.watched.get(id(value))
        if position is None:
            return None
        self.recipe.append((type(value), position))
        return lambda context: context.watched[position][0]

    def _new_object(self, value: Any) -> Build:
        template, kind, held = id(value), type(value), fields(value)
        contents: list[Build] = []

        def build(context: Context) -> Any:
            if template not in context.made:
                made = context.made[template] = held.copy() if kind is np.ndarray else blank(kind)
                put_fields(made, contents[0](context))
            return context.made[template]

        self.alive.append(value)
        self.recipe.append(kind)
        self.new[template] = build
        if isinstance(held, np.ndarray):
            self.recipe.append(fingerprint(held))
            contents.append(lambda context: held)
        else:
            contents.append(self._container(held, False))
        return build

    def _is_known_elsewhere(self, value: Any) -> bool:
        """Whether something else holds it than what the function made or changes, so that it has to stay itself."""
        if not self.ours:
            self._look_over(*(node.__dict__ for node in (*self.nodes, *self.frame.created_nodes.values())))
            self._look_over(self.alive, *(value for _, _, value in self.frame.slots.values()))
        holders = (types.ModuleType, types.CellType, dict, list, set, collections.deque)
        return any(isinstance(each, holders) and id(each) not in self.ours for each in gc.get_referrers(value))

    def _look_over(self, *things: Any) -> None:
        """Notes all that can hold something, in what the function made or changes."""
        for thing in things:
            if has_fields(thing) and not isinstance(thing, np.ndarray):
                if id(thing) not in self.ours:
                    self.ours.update((id(thing), id(getattr(thing, "__dict__", thing))))
                    self._look_over(*attributes(thing).values())
            elif isinstance(thing, tuple) or (is_mutable(thing) and id(thing) not in self.ours):
                self.ours.add(id(thing))
                self._look_over(*items(thing))

    def _gradients(self, gradients: Gradients) -> Build:
        self.recipe.append((Gradients, tuple(gradients), tuple(map(self._place, gradients.owners().values()))))
        builds = [(name, self.encode(gradient)) for name, gradient in gradients.items()]
        owners = [(name, self.cell(parameter)) for name, parameter in gradients.owners().items()]

        def build(context: Context) -> Any:
            known = {name: owner(context) for name, owner in owners if owner is not None}
            return Gradients([(name, build(context)) for name, build in builds], known)

        return build

    def _new_cell(self, cell: Cell) -> Build:
        """A cell that the function made: a new one at each application."""
        known = self.new.get(id(cell))
        if known is not None:
            return self._again(known, cell)
        self.recipe.append((type(cell), cell.trainable, cell in self.frame.values))
        index = self.emit(self.frame.values[cell], for_cell=True) if cell in self.frame.values else None
        template = cell

        def build(context: Context) -> Any:
            if id(template) not in context.made:
                value = context.outs[index] if index is not None else None
                context.made[id(template)] = template._like(value) if index is not None else template
            return context.made[id(template)]

        self.new[id(cell)] = build
        return build

    def _new_node(self, node: Node) -> Build:
        """A node that the function made: a new one of the same contents at each application."""
        known = self.new.get(id(node))
        if known is not None:
            return self._again(known, node)
        self.recipe.append((type(node), *((name, tuple(registry)) for name, registry in node._registries())))
        entries: list[tuple[str | None, str, Build]] = []

        def build(context: Context) -> Any:
            if id(node) not in context.made:
                made = context.made[id(node)] = type(node).__new__(type(node))
                for registry, name, entry in entries:
                    value = entry(context)
                    if registry is None:
                        made.__dict__[name] = value
                    else:
                        dict.__setitem__(made._registry(registry), name, value)
            return context.made[id(node)]

        self.new[id(node)] = build
        for registry_name, registry in node._registries():
            entries.extend((registry_name, name, self.encode(item)) for name, item in registry.items())
        entries.extend((None, name, self.encode(value)) for name, value in self._named(node._statics()))
        return build

    def _named(self, entries: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
        for name, value in list(entries):
            self.recipe.append(name)
            yield name, value

    def _again(self, known: Build, value: Any) -> Build:
        """What is to be built once, at a further place."""
        self.recipe.append(("again", list(self.new).index(id(value))))
        return known

    def _place(self, thing: Node | Cell) -> Hashable:
        """Which one of the bound nodes or cells it is."""
        if isinstance(thing, Cell):
            return Cell, self.cell_index.get(thing)
        return Node, self.node_index.get(id(thing))

    # -- effects --------------------------------------------------------------------------------------------------------

    def effects(self) -> list[Effect]:
        frame = self.frame
        found = [self._refill(twin) for twin in frame.twins.values() if _has_changed(twin)]
        statics = [(node, name, node.__dict__.get(name, MISSING)) for node, name, old in frame.statics.values()]
        olds = [old for _, _, old in frame.statics.values()]
        changed = [entry for entry, old in zip(statics, olds, strict=True) if entry[2] is not old]
        found += [self._delete(node, name) for node, name, new in changed if new is MISSING]
        found += [
            self._registry(node, registry)
            for registry, node, old in frame.registries.values()
            if list(old.items()) != list(registry.items())
        ]
        found += [self._assign(node, name, new) for node, name, new in changed if new is not MISSING]
        for key in frame.slot_writes:
            node, name, value = frame.slots[key]
            found.append(self._drop(node, name) if value is MISSING else self._assign(node, name, value))
        found += [self._flag(parameter) for parameter, old in frame.flags.items() if parameter._requires_grad != old]
        for position, (thing, held) in enumerate(frame.watched):
            if not same_fields(thing, held):
                found.append(self._fields(position, fields(thing)))
        self.outer, self.carried = [entry for entry in self.recipe if isinstance(entry, Change)], len(self.arrays)
        if not frame.opaque:
            for node in frame.created_nodes.values():
                found += [self._assign(node, name, value) for name, value in node._containers.items()]
        return found

    def _target(self, node: Node) -> Build:
        target = self.node(node)
        assert target is not None  # frames let only bound nodes change
        return target

    def _effect(self, verb: str, thing: Node | Cell, name: str = "") -> None:
        self.recipe.append(
            Change(verb, f"{type(thing).__name__}.{name}" if name else "requires_grad", self._place(thing))
        )

    def _assign(self, node: Node, name: str, value: Any) -> Effect:
        self._effect("assigns", node, name)
        build = self.encode(value)
        return Effect(self._target(node), lambda target, context: setattr(target, name, build(context)))

    def _delete(self, node: Node, name: str) -> Effect:
        self._effect("deletes", node, name)

        def apply(target: Node, context: Context) -> None:
            if name in target.__dict__:
                Node.__delattr__(target, name)

        return Effect(self._target(node), apply)

    def _drop(self, node: Node, name: str) -> Effect:
        """Takes a container away, and nothing that has its name by now."""
        self._effect("deletes", node, name)

        def apply(target: Node, context: Context) -> None:
            raw.refuse_change(target, name, running.frame)
            if running.frame is not None:
                running.frame.delete_container(target, name)
            elif name in target._containers:
                del target._containers[name]

        return Effect(self._target(node), apply)

    def _registry(self, node: Node, registry: Registry) -> Effect:
        registry_name = next(name for name, own in node._registries() if own is registry)
        self._effect("changes", node, registry_name)
        self.recipe.append(tuple(registry))
        entries = [(name, self.encode(item)) for name, item in registry.items()]

        def apply(target: Node, context: Context) -> None:
            own = target._registry(registry_name)
            new = {name: build(context) for name, build in entries}
            if list(own.items()) != list(new.items()):
                own.assign(new)

        return Effect(self._target(node), apply)

    def _flag(self, parameter: Parameter) -> Effect:
        flag = parameter._requires_grad
        self._effect("sets" if flag else "clears", parameter)
        target = self.cell(parameter)
        assert target is not None
        return Effect(target, lambda target, context: target.requires_grad_(flag))

    def _fields(self, position: int, held: Any) -> Effect:
        thing = type(self.frame.watched[position][0]).__name__
        self.recipe.append(Change("changes", f"a {thing}", position))
        if isinstance(held, np.ndarray):
            self.recipe.append(fingerprint(held))
        build = (lambda context: held) if isinstance(held, np.ndarray) else self._container(held, False)

        def put(target: Any, context: Context) -> None:
            if raw.outlives(target, running.frame):
                raw.refuse(f"a {thing}")
            if running.frame is not None:
                running.frame.watch(context.watched)
            put_fields(target, build(context))

        return Effect(lambda context: context.watched[position][0], put)

    def _refill(self, twin: Twin) -> Effect:
        node, name = twin.locator[:2]
        self._effect("fills", node, name)
        holder = self._target(node)
        if isinstance(twin.value, ObservedList) and not twin.value.loaded:
            more = [self.encode(item) for item in twin.value.raw()]

            def extend(target: Any, context: Context) -> None:
                new = [build(context) for build in more]
                _allow_filling(holder(context), name, new)
                target.extend(new)

            return Effect(self.origin(twin), extend, adds=True)
        contents = self._container(twin.value, False)

        def fill(target: Any, context: Context) -> None:
            new = contents(context)
            _allow_filling(holder(context), name, new)
            refill(target, new)

        return Effect(self.origin(twin), fill)


def _allow_filling(holder: Any, name: str, new: Any) -> None:
    """Raises if a container that outlives a raw transform is changed in it, which its node does not notice."""
    if raw.outlives(holder, running.frame):
        raw.refuse_change(holder, name, running.frame)
        if holds_arrays(new, Tracer):
            raise StateError(tracer_write(holder, name))


def _constant(value: Any) -> Build:
    return lambda context: value


def _has_changed(twin: Twin) -> bool:
    if isinstance(twin.value, tuple):
        return False
    if isinstance(twin.value, ObservedList) and not twin.value.loaded:
        return any(True for _ in twin.value.raw())
    return twin.changed()
