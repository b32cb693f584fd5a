"""A compiled program, its arguments, and what it takes to call it on some nodes: flat lists."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Hashable, Iterable, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.core import Tracer

from flambeau.core.autocast import settings
from flambeau.core.capture import Context, Outcome
from flambeau.core.cell import Cell, clock, running
from flambeau.core.gradients import Gradients
from flambeau.core.structure import Structure, container_spec, signature
from flambeau.core.tree import Node
from flambeau.transforms._trace import container

__all__ = ["Arguments", "Call", "Program", "key_of"]


class Program(NamedTuple):
    """One compiled function, for all nodes of one structure."""

    run: Any  # donates the cells that it overwrites
    inside: Any  # the same function without donation, for use under other transforms
    donated: list[int]  # indices of the cells that it overwrites in place
    kept: list[int]  # indices of the cells that it only reads
    reads: list[tuple[int, str, Hashable]]  # node index, name and spec of each container whose contents it depends on
    outcome: Outcome
    changes: tuple[Hashable, ...]  # what else it changes, in words
    reshapes: bool  # whether a cell gets another shape or dtype
    rolls: bool  # whether the first arrays that come out are the ones to donate at the next call
    foreign: bool  # whether it holds tracers of a trace around it, and so serves this one call only


class Call:
    """A program bound to the nodes of one call: flat lists, ready to go."""

    __slots__ = (
        "arrays_at",
        "donated",
        "expected",
        "exposures",
        "kept",
        "program",
        "ran",
        "roots",
        "settings",
        "structure",
        "under_raw",
        "written",
    )

    def __init__(self, program: Program, structure: Structure) -> None:
        cells = structure.cells
        self.program = program
        self.ran = False
        self.structure = structure
        self.donated = [cells[i] for i in program.donated]
        self.kept = [cells[i] for i in program.kept]
        self.written = [cells[i] for i in program.outcome.written]
        structure.release()
        self.exposures = -1
        self.arrays_at: list[int] = []  # which leaves of the arguments are arrays
        self.expected: list[tuple[Callable[[Any], Hashable], Hashable]] = []  # a key for each argument; see `fits`
        self.settings = settings()
        self.roots: list[weakref.ref[Any]] = []
        self.under_raw = False  # whether an argument is a tracer of a raw jax transform

    def expect(self, leaves: Sequence[Any]) -> None:
        """Notes what arguments the next call of the same kind has, for `fits`: nodes and arrays of JAX, side by side."""
        if all(isinstance(leaf, (Node, Cell, jax.Array)) and not isinstance(leaf, Tracer) for leaf in leaves):
            self.expected = [(key_of(type(leaf)), key_of(type(leaf))(leaf)) for leaf in leaves]

    def fits(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether these arguments are such, at a glance: no tree is flattened and nothing is hashed."""
        if kwargs or len(args) != len(self.expected) or self.structure.clock != clock.structure:
            return False
        try:
            for arg, (key, expected) in zip(args, self.expected, strict=True):
                if key(arg) != expected:
                    return False
        except AttributeError:  # no array of JAX, where one was before
            return False
        return running.frame is None and settings() == self.settings

    def context(self, outs: Any) -> Context:
        structure = self.structure
        return Context(structure.nodes, structure.cells, outs, structure.watched)

    def container_arrays(self) -> list[Any] | None:
        """The arrays of the containers that the program reads; None if they are not what it was compiled for."""
        arrays: list[Any] = []
        for position, name, spec in self.program.reads:
            held = container(self.structure.nodes[position], name)
            if container_spec(held, arrays, self.structure) != spec:
                return None
        return arrays


class Arguments:
    """The arguments of one call, as leaves: arrays, and nodes, which count as state and not as values."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.leaves, self.treedef = jax.tree.flatten((args, kwargs), is_leaf=lambda part: isinstance(part, Gradients))
        self.nodes: list[Node | Cell] = []
        self.arrays: list[Any] = []
        key: list[Hashable] = []
        for leaf in self.leaves:
            if isinstance(leaf, (Node, Cell)):
                self.nodes.append(leaf)
                key.append("node")
            elif isinstance(leaf, Gradients):
                owners = leaf.owners()
                self.nodes.extend(owners.values())
                self.arrays.extend(leaf.values())
                key.append((Gradients, tuple(owners), *((n, signature(g)) for n, g in leaf.items())))
            else:
                self.arrays.append(leaf)
                key.append(signature(leaf))
        self.key = (self.treedef, tuple(key))

    def rebuild(self, arrays: Iterable[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with `arrays` in the places of their arrays."""
        values = iter(arrays)
        leaves: list[Any] = []
        for leaf in self.leaves:
            if isinstance(leaf, (Node, Cell)):
                leaves.append(leaf)
            elif isinstance(leaf, Gradients):
                leaves.append(Gradients([(name, next(values)) for name in leaf], leaf.owners()))
            else:
                leaves.append(next(values))
        return jax.tree.unflatten(self.treedef, leaves)


@functools.cache
def key_of(kind: type) -> Callable[[Any], Hashable]:
    """What must agree of a leaf for the next call to take the fast path; None if it is no argument for a compiled function."""
    if issubclass(kind, (Node, Cell)):
        return id
    if issubclass(kind, Tracer):
        return lambda leaf: (leaf.aval, "tracer")
    if issubclass(kind, jax.Array):
        return attrgetter("aval")
    if issubclass(kind, (np.ndarray, np.generic)):
        return lambda leaf: (leaf.shape, leaf.dtype, "numpy")
    return type if issubclass(kind, (bool, int, float, complex)) else lambda leaf: None
