"""A compiled program, its arguments, and what it takes to call it on some nodes: flat lists."""

from __future__ import annotations

import functools
import itertools
import operator
import weakref
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.core import Tracer

from flambeau.core.cell import Cell, clock, running
from flambeau.core.gradients import Gradients
from flambeau.core.outcome import Context, Outcome
from flambeau.core.structure import Structure, container_spec, signature
from flambeau.core.tree import Node
from flambeau.transforms._trace import container

__all__ = ["Arguments", "Call", "OtherSettings", "Program", "key_of"]


_call: Any = operator.call
_numbers = itertools.count()  # of calls, none of which comes twice
_OTHERS_KNOWN = 64  # of how many other calls one knows what they have in common
_kind = operator.attrgetter("__class__", "aval")  # of an array: a tracer may have the same shape and dtype


class OtherSettings(Exception):
    """JAX's options are not those that a program was traced under."""


class Program(NamedTuple):
    """One compiled function, for all nodes of one structure."""

    name: str
    # From the values of the cells that it donates, of those that it keeps, the arrays of containers and those of arguments,
    # to the values of written cells, and other arrays.
    run: Any
    inside: Any  # the same function without donation, for use under other transforms
    donated: list[int]  # indices of the cells that it overwrites in place
    kept: list[int]  # indices of the cells that it only reads
    reads: list[tuple[int, str, Hashable]]  # node index, name and spec of each container whose contents it depends on
    outcome: Outcome
    changes: tuple[Hashable, ...]  # what else it changes, in words
    reshapes: bool  # whether a cell gets another shape or dtype
    rolls: bool  # whether the values that it gives cells are those that it overwrites at the next call
    foreign: bool  # whether it holds tracers of a trace around it, and so serves this one call only


class Meeting(NamedTuple):
    """What a call writes of the cells of another one."""

    written: bool  # some that the other writes
    read: bool  # some that the other reads


class Plan(NamedTuple):
    """Where a call finds the values of its cells: in some cells, and behind these among values that are pending."""

    cells: list[Cell]
    donated: list[int]
    kept: list[int]


class Call:
    """A program bound to the nodes of one call: flat lists, ready to go."""

    __slots__ = (
        "_autocast",
        "_captured",
        "_expected",
        "_keys",
        "_look",
        "_meetings",
        "_plans",
        "_seen",
        "_ways",
        "donated",
        "exposures",
        "kept",
        "kind",
        "number",
        "plain",
        "program",
        "pure",
        "quick",
        "recognised",
        "rolls",
        "roots",
        "run",
        "steady",
        "structure",
        "take",
        "under_raw",
        "written",
    )

    def __init__(self, program: Program, structure: Structure) -> None:
        cells = structure.cells
        self.program = program
        self.run = program.run
        self.plain: Any = program.outcome.plain
        # Of a call that ran before: whether it gives nothing but arrays, whether cells get what has the shape and place of
        # what they had, and whether these are all that it donates the next time.
        self.quick = self.steady = self.rolls = False
        self.structure = structure
        self.donated = [cells[i] for i in program.donated]
        self.kept = [cells[i] for i in program.kept]
        self.written = [cells[i] for i in program.outcome.written]
        self.pure = not self.written and self.plain is not None
        self.number = next(_numbers)
        self._meetings: dict[int, Meeting] = {}
        self._plans: dict[tuple[int, ...], Plan] = {}
        structure.release()
        self.exposures = -1
        self.kind: type | None = None  # of the arrays that came out
        self.take: Callable[[Sequence[Any]], tuple[Any, ...]] = tuple  # the arrays among the leaves of the arguments
        self.recognised = False  # whether the next call of the same kind may be recognised at a glance; see `fits`
        self.roots: list[weakref.ref[Any]] = []
        self.under_raw = False  # whether an argument is a tracer of a raw jax transform

    def expect(
        self, args: tuple[Any, ...], leaves: Sequence[Any], ways: Sequence[Any], look: Callable[[], Any] | None
    ) -> None:
        """Notes what the next call of the same kind has, for `fits`: nodes and arrays of JAX, side by side, and no other.

        Args:
            args: the arguments, which are given by position; no tracers.
            leaves: what is in them.
            ways: short ones to nodes that the function captures.
            look: gives what the longer ways lead to, such as those through an object, to be compared; None if there are none.
        """
        if len(args) != len(leaves) or any(map(operator.is_not, args, leaves)):
            return
        if not all(isinstance(arg, (Node, Cell, jax.Array)) for arg in args):
            return
        self._keys = [id if isinstance(arg, (Node, Cell)) else _kind for arg in args]
        self._expected = list(map(_call, self._keys, args))
        self._ways = ways
        self._captured = list(map(id, map(_call, ways)))
        self._look, self._seen = look, look and look()
        self._autocast = running.autocast
        self.recognised = True

    def take_from(self, leaves: Sequence[Any]) -> None:
        """Notes which of the leaves are arrays."""
        at = [i for i, leaf in enumerate(leaves) if not isinstance(leaf, (Node, Cell))]
        together = slice(at[0], at[-1] + 1) if at else slice(0)
        alone = at != list(range(len(leaves)))[together]
        self.take = (lambda leaves: tuple([leaves[i] for i in at])) if alone else operator.itemgetter(together)

    def fits(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether a call is such, at a glance: no tree is flattened, nothing is hashed, and no loop is Python's.

        JAX itself sees when its options have changed: see `OtherSettings`.
        """
        if kwargs or len(args) != len(self._keys) or self.structure.clock != clock.structure:
            return False
        try:
            if list(map(_call, self._keys, args)) != self._expected:
                return False
            if self._ways and list(map(id, map(_call, self._ways))) != self._captured:
                return False
            if self._look is not None and self._look() != self._seen:
                return False
        except (AttributeError, ValueError):  # no array of JAX where one was before; a name that is not bound
            return False
        return running.frame is None and running.autocast is self._autocast

    def has_run(self, outs: list[Any]) -> None:
        """Notes that the cells have the first values that the program gave them."""
        program = self.program
        self.kind = type(outs[0]) if outs and not isinstance(outs[0], Tracer) else None
        self.quick, self.steady, self.rolls = self.plain is not None, not program.reshapes, program.rolls

    def meets(self, other: Call) -> Meeting:
        """Whether it writes cells that another call writes, or reads."""
        known = self._meetings.get(other.number)
        if known is None:
            if len(self._meetings) >= _OTHERS_KNOWN:
                self._meetings.clear()
            apart = set(self.written).isdisjoint
            known = Meeting(not apart(other.written), not (apart(other.donated) and apart(other.kept)))
            self._meetings[other.number] = known
        return known

    def gather(self, pending: list[tuple[Call, list[Any]]]) -> tuple[list[Any], list[Any]]:
        """The values of the cells that it overwrites, and of those that it only reads.

        Args:
            pending: calls, and the values of the cells that they wrote, which are not in place yet.
        """
        key = tuple([other.number for other, _ in pending])
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) >= _OTHERS_KNOWN:
                self._plans.clear()
            plan = self._plans[key] = self._plan([cell for other, _ in pending for cell in other.written])
        values = [cell._held for cell in plan.cells]
        for _, more in pending:
            values += more
        take = values.__getitem__
        return list(map(take, plan.donated)), list(map(take, plan.kept))

    def _plan(self, pending: list[Cell]) -> Plan:
        elsewhere = set(pending)
        cells = [cell for cell in (*self.donated, *self.kept) if cell not in elsewhere]
        at = {cell: i for i, cell in enumerate([*cells, *pending])}
        return Plan(cells, [at[cell] for cell in self.donated], [at[cell] for cell in self.kept])

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
        return operator.attrgetter("aval")
    if issubclass(kind, (np.ndarray, np.generic)):
        return lambda leaf: (leaf.shape, leaf.dtype, "numpy")
    return type if issubclass(kind, (bool, int, float, complex)) else lambda leaf: None
