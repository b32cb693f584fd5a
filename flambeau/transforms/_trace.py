"""A function as a pure one of arrays: what every transform that makes a program of a function begins with.

`Carried` runs a function inside of a transform of JAX that needs no more than its arrays (grad, vmap, checkpoint).

`trace` makes a program of it, with the cells of a structure as inputs, and the `Outcome` that puts its arrays where they
belong. `Block` is such a program for one use (scan, cond): it finds the state that the function reaches, and its values
come from and go to the frame around it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend.core
import numpy as np

from flambeau._errors import StateError
from flambeau.core.capture import collect, commit, making, transparently
from flambeau.core.cell import Cell, running
from flambeau.core.frame import Frame, Unbound
from flambeau.core.hooks import global_hooks
from flambeau.core.literals import as_arrays, evaluating
from flambeau.core.meta import Meta, no_value
from flambeau.core.objects import same_fields
from flambeau.core.outcome import Context, Outcome
from flambeau.core.structure import Structure, container_spec
from flambeau.core.tree import MISSING, Node
from flambeau.transforms._recompilation import difference
from flambeau.transforms._sources import direct_sources, find_source

__all__ = ["Block", "Carried", "Flat", "Traced", "blocks", "container", "entering", "trace", "value_of"]

Read = tuple[Node, str]  # a container whose contents a function depends on


class Traced(NamedTuple):
    """A function as a program: from cells, contents of containers and arrays to the arrays that its outcome needs."""

    closed: Any
    outcome: Outcome
    changes: tuple[Hashable, ...]  # what its effects are, for comparison
    reads: list[tuple[int, str, Hashable]]  # node index, name and spec of each container whose contents it depends on
    # What another run would find other than this one did, besides the values of cells and of the containers that it reads:
    # what changed, by name, or nothing.
    restless: str
    held: int  # how many arrays these containers hold afterwards, which are the last ones that come out
    moved: list[tuple[str, Callable[[Structure], Any]]]  # what changed of that, by name, and where it is in a structure

    def finds_changed(self, structure: Structure) -> str | None:
        """The name of a container that it reads and that holds something else here than where it was traced, besides values."""
        for position, name, spec in self.reads:
            if _contents(structure.nodes[position], name, structure)[0] != spec:
                return name
        return None


def trace(
    function: Callable[[list[Any]], Any],
    frame: Frame,
    structure: Structure,
    reads: Sequence[Read],
    arrays: Any,
    *,
    numbers: bool = True,
    repeats: bool = False,
    lasting: int = 0,
) -> Traced:
    """Runs `function(arrays)` once on tracers.

    Args:
        arrays: a list of arrays, or of shapes.
        frame: an opaque one; what the function reaches beyond `structure` and `reads` makes it raise `Unbound`.
        numbers: whether Python numbers in the result become arrays.
        repeats: whether the program is to be run again on what it leaves: `restless` is found then, and the last arrays that
            come out are what the containers hold afterwards that it reads.
        lasting: the same without the last arrays, when other things will be in the places of that many of the first roots.
    """
    frame.bound_nodes = frozenset(structure.node_index)
    frame.watched = structure.watched
    contents = [_contents(node, name, structure)[1] for node, name in reads]
    found: list[Any] = []
    lasts = Structure(structure.roots[lasting:]) if lasting else structure

    def pure(cells: list[Any], containers: list[list[Any]], arrays: list[Any]) -> list[Any]:
        frame.bind(structure.cells, cells)
        for (node, name), held in zip(reads, containers, strict=True):
            frame.container_inputs[id(node), name] = held
        result = function(arrays)
        if frame.unbound is not None:
            raise frame.unbound
        # Those bound as inputs come first, in the order of the inputs.
        places = [(structure.node_index[node_id], name) for node_id, name in frame.container_inputs]
        left = [_contents(structure.nodes[i], name, structure) for i, name in places] if repeats or lasting else []
        restless = _restless(lasts) if repeats or lasting else ""
        inputs = [*cells, *(value for held in containers for value in held), *arrays]
        outcome, outs, collector = collect(frame, result, structure, inputs, numbers=numbers)
        held = [value for _, values in left for value in values] if repeats else []
        watched = frame.watched if lasting else []
        objects = [p for p, (thing, old) in enumerate(watched) if not same_fields(thing, old)]
        found.extend((outcome, collector.changes, places, restless, [spec for spec, _ in left], len(held), objects))
        return [*outs, *held]

    values = [value_of(cell) for cell in structure.cells]
    for value in values:
        if isinstance(value, Meta):
            raise StateError(no_value(value))
    # Not `jax.jit(pure).trace`, which does not say what the tracers are that `pure` has from a trace around this one.
    closed = jax.make_jaxpr(lambda *inputs: frame.run(lambda: pure(*inputs)))(values, contents, arrays)
    outcome, changes, places, restless, left, held, objects = found
    bound = [(i, name, _contents(structure.nodes[i], name, structure)[0]) for i, name in places]
    filled = [(i, name) for (i, name, before), after in zip(bound, left, strict=False) if before != after]
    for i, name in filled:
        if id(structure.nodes[i]) in lasts.node_index:
            restless = restless or _title(structure, i, name)
    moved = [(_title(structure, i, name), functools.partial(_container_of, i, name)) for i, name in filled]
    moved += [(type(structure.watched[p][0]).__name__, functools.partial(_object_of, p)) for p in objects]
    return Traced(closed, outcome, changes, bound, restless, held, moved)


def _title(structure: Structure, position: int, name: str) -> str:
    return f"{type(structure.nodes[position]).__name__}.{name}"


def _container_of(position: int, name: str, structure: Structure) -> Any:
    return container(structure.nodes[position], name)


def _object_of(position: int, structure: Structure) -> Any:
    return structure.watched[position][0]


def container(node: Node, name: str) -> Any:
    """One of a node's containers, as it is here: inside of a transform, the frame's twin of it."""
    if running.frame is not None:
        return running.frame.read_container(node, name)
    return node._containers.get(name, MISSING)


def _contents(node: Node, name: str, structure: Structure) -> tuple[Hashable, list[Any]]:
    """What a container holds: the arrays, and what there is besides them."""
    arrays: list[Any] = []
    return container_spec(container(node, name), arrays, structure), arrays


def _restless(structure: Structure) -> str:
    """What a walk over roots finds other than before: the name of an attribute, or nothing."""
    now = Structure(structure.roots)
    if now.key != structure.key:
        return difference(structure.key, now.key) or "the modules"
    same = all(
        a is b
        for before, after in ((structure.nodes, now.nodes), (structure.cells, now.cells))
        for a, b in zip(before, after, strict=True)
    )
    return "" if same else "the modules"


def value_of(cell: Cell) -> Any:
    """The value of a cell here."""
    return cell._value if running.frame is None else running.frame.read(cell)


def entering(run: Callable[[], Any]) -> Any:
    """Runs a transform in a frame: that around it, or one of its own."""
    return making(run if running.frame is not None else lambda: transparently(run))


class Carried:
    """A function that runs in a frame inside of a transform of JAX: its arrays come out, and are put in place."""

    def __init__(self, frame: Frame | None = None) -> None:
        self.frame = Frame() if frame is None else frame
        self.outcome: Any = None
        self.collector: Any = None

    def run(self, call: Callable[[], Any]) -> list[Any]:
        """To be called on tracers: runs `call`, and gives the arrays of what it wrote and returned."""
        self.outcome, arrays, self.collector = self.frame.run(lambda: collect(self.frame, call()))
        return arrays

    def commit(self, arrays: Sequence[Any]) -> Any:
        """Puts the arrays, which came out, in place; gives the result of `call`."""
        return commit(self.frame, self.outcome, self.collector, as_arrays(arrays))


class Block:
    """A function traced for one use, in the frame that runs now.

    Args:
        function: takes the list of arrays.
        arrays: arrays, or shapes.
        sources: the functions of the user, whose closures and globals are looked through.
        things: what else the function is given: modules in it are bound.
        reads: containers that are known to be read.
        numbers: whether Python numbers in the result become arrays.
        repeats: whether the program is to be run again on what it leaves.
        lasting: the same, but with other things in the places of that many of the first `things`.
    """

    def __init__(
        self,
        function: Callable[[list[Any]], Any],
        arrays: Sequence[Any],
        sources: Sequence[Any],
        things: Iterable[Any] = (),
        reads: Iterable[Read] = (),
        *,
        numbers: bool = False,
        repeats: bool = False,
        lasting: int = 0,
    ) -> None:
        assert running.frame is not None
        self.roots = _distinct([*things, *_named(sources)])
        self.reads = list(reads)
        while True:
            for root in (*self.roots, global_hooks):
                if isinstance(root, Node):
                    running.frame.require(root)
            self.structure = Structure([*self.roots, global_hooks])
            frame = Frame(opaque=True)
            try:
                self.traced = trace(
                    function,
                    frame,
                    self.structure,
                    self.reads,
                    arrays,
                    numbers=numbers,
                    repeats=repeats,
                    lasting=lasting,
                )
                break
            except Unbound as unbound:
                if unbound.frame is not frame:
                    raise
                self._bind(unbound, tuple(sources))
        self.evaluate = evaluating(self.traced.closed)
        self.written = self.traced.outcome.written

    def _bind(self, unbound: Unbound, sources: tuple[Any, ...]) -> None:
        what, structure = unbound.what, self.structure
        inside = what in structure.cell_index if isinstance(what, Cell) else id(what) in structure.node_index
        if inside and unbound.container is not None:
            assert isinstance(what, Node)
            self.reads.append((what, unbound.container))
        else:
            assert not inside  # what is bound is found
            found = find_source(sources, what).find(sources)
            self.roots.append(what if found is None else found)

    @property
    def cells(self) -> list[Cell]:
        return self.structure.cells

    def values(self) -> list[Any]:
        """The values of the cells now."""
        return [value_of(cell) for cell in self.cells]

    def contents(self) -> list[Any]:
        """The arrays in the containers that it reads, as they are now."""
        return [value for node, name in self.reads for value in _contents(node, name, self.structure)[1]]

    def write(
        self, outs: Sequence[Any], positions: Sequence[int] | None = None, cells: Sequence[Cell] | None = None
    ) -> None:
        """Gives cells, those that it writes, their new values, which are the first of the arrays that came out.

        Args:
            positions: which cells, if others than those that it writes.
            cells: the cells of another structure like its own.
        """
        frame = running.frame
        assert frame is not None
        cells = self.cells if cells is None else cells
        for i, value in zip(self.written if positions is None else positions, outs, strict=False):
            frame.write(cells[i], value)

    def apply(self, outs: Sequence[Any]) -> Any:
        """Makes its other changes, and gives the result."""
        return self.traced.outcome.apply(self.context(outs))

    def context(self, outs: Sequence[Any]) -> Context:
        return Context(self.structure.nodes, self.cells, outs, self.structure.watched)


def blocks(
    functions: Sequence[Callable[[list[Any]], Any]],
    arrays: Sequence[Any],
    sources: Sequence[Any],
    things: Iterable[Any],
) -> list[Block]:
    """Several functions of the same arrays, traced with one and the same structure."""
    roots: Sequence[Any] = [*things, *_named(sources)]
    reads: Sequence[Read] = []
    while True:
        made: list[Block] = []
        for function, source in zip(functions, sources, strict=True):
            made.append(Block(function, arrays, [source], roots, reads, numbers=True))
            roots, reads = made[-1].roots, made[-1].reads
        if all(len(block.roots) == len(roots) and len(block.reads) == len(reads) for block in made):
            return made


def _named(functions: Iterable[Any]) -> list[Any]:
    """What functions name in their closures, globals and helpers."""
    return [source.find((function,)) for function in functions for source in direct_sources(function)]


def _distinct(things: Iterable[Any]) -> list[Node | Cell]:
    """The nodes and cells among them, each once."""
    return list({id(thing): thing for thing in things if isinstance(thing, (Node, Cell))}.values())


class Flat:
    """A tree of arguments: the arrays, which go into a program, and the rest, which stays what it is in Python."""

    def __init__(self, tree: Any, *, numbers: bool = False) -> None:
        leaves, self.treedef = jax.tree.flatten(tree)
        kinds = (*_ARRAYS, int, float, complex) if numbers else _ARRAYS
        self.leaves = [_HERE if isinstance(leaf, kinds) else leaf for leaf in leaves]
        self.arrays: list[Any] = [leaf for leaf in leaves if isinstance(leaf, kinds)]
        self.things = [leaf for leaf in leaves if isinstance(leaf, (Node, Cell))]

    def rebuild(self, arrays: Iterable[Any]) -> Any:
        """The tree with `arrays` in the places of its arrays."""
        values = iter(arrays)
        return jax.tree.unflatten(self.treedef, [next(values) if leaf is _HERE else leaf for leaf in self.leaves])


_ARRAYS = (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct)
_HERE: Any = object()
