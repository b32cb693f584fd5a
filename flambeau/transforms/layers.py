"""`fb.scan_layers`: layers of one structure, one after the other, as a loop that is traced and compiled once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
from jax import lax

from flambeau._errors import FlambeauWarning, ShapeError
from flambeau.core import raw
from flambeau.core._rows import rows, stack
from flambeau.core.cell import running
from flambeau.core.containers import is_mutable, items
from flambeau.core.location import users_stacklevel
from flambeau.core.module import Module
from flambeau.core.outcome import Context
from flambeau.core.structure import Structure
from flambeau.core.tree import Node
from flambeau.transforms._trace import Block, Flat, entering, value_of
from flambeau.transforms.disable_jit import jit_is_disabled
from flambeau.transforms.remat import checkpoint as remat
from flambeau.transforms.scan import Carry

__all__ = ["scan_layers"]

T = TypeVar("T")


def scan_layers(
    layers: Iterable[Module],
    input: Any,
    *args: Any,
    checkpoint: bool = False,
    policy: Callable[..., bool] | None = None,
    unroll: int | bool = 1,
) -> Any:
    """What `for layer in layers: input = layer(input, *args)` gives, with layers of one structure as one compiled loop.

    Every layer keeps its own parameters, buffers, hooks and `state_dict` names, random layers draw what they would draw, and
    what a layer writes is there afterwards: it is only that the time to trace and to compile does not grow with their
    number. The weights are stacked for the loop, which copies them once at each call. Outside of a compiled function nothing
    is gained, and the layers are called as the Python loop does.

    Layers that follow each other and have the same structure (class, attributes, shapes, flags) are one loop; a layer unlike
    its neighbours is called by itself. So are layers of one structure that no loop can run, with a warning that says why: those
    whose output is unlike their input in shape or dtype, or that share with each other what they change.

    Args:
        layers: modules, as in an `nn.ModuleList`.
        input: for the first layer: an array, or a tree of arrays.
        args: more arguments, the same for each layer.
        checkpoint: whether the backward pass computes a layer's intermediate values again, rather than keep them.
        policy: with `checkpoint`, which of them are kept all the same: one of `jax.checkpoint_policies`.
        unroll: how many layers go into one iteration of the compiled loop. True makes no loop and copies no weights: the
            layers follow each other in the compiled program, and are traced once all the same.

    Returns:
        What the last layer gives.

    Example:
        >>> import jax.numpy as jnp
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> class Net(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(12))
        ...     def forward(self, x):
        ...         return fb.scan_layers(self.blocks, x)
        >>> fb.jit(Net())(jnp.ones((2, 4))).shape
        (2, 4)
    """
    layers = list(layers)
    return entering(lambda: _run_all(layers, input, args, _Options(checkpoint, policy, unroll)))


class _Options(NamedTuple):
    checkpoint: bool
    policy: Any
    unroll: Any


def _run_all(layers: list[Module], value: Any, args: tuple[Any, ...], options: _Options) -> Any:
    if running.frame is None or not running.frame.compiles() or jit_is_disabled():
        return _one_by_one(layers, value, args, options)
    structures = [Structure([layer]) for layer in layers]
    start = 0
    while start < len(layers):
        stop = start + 1
        while stop < len(layers) and structures[stop].key == structures[start].key:
            stop += 1
        alike = layers[start:stop]
        loop = _Loop(alike, _in_both(*structures[start : start + 2]), value, args) if len(alike) > 1 else None
        if loop is not None and not loop.obstacle:
            value = loop.run(options)
        else:
            if loop is not None:
                _warn(layers[start], loop.obstacle)
            value = _one_by_one(alike, value, args, options)
        start = stop
    return value


def _one_by_one(layers: list[Module], value: Any, args: tuple[Any, ...], options: _Options) -> Any:
    for layer in layers:
        value = (remat(layer, policy=options.policy) if options.checkpoint else layer)(value, *args)
    return value


def _warn(layer: Module, obstacle: str) -> None:
    warnings.warn(
        f"scan_layers: layers like {type(layer).__name__} are called one by one, since {obstacle}",
        FlambeauWarning,
        stacklevel=users_stacklevel(),
    )


class _Unlike(Exception):
    """A layer gives what is not like its input, so that no loop can hand it on."""


class _Loop:
    """Layers of one structure: the first one as a program, into which the cells of each of them fit.

    A cell that all of them reach (the default generator's key, a shared module's parameter) is carried from layer to layer;
    the others are stacked.
    """

    def __init__(self, layers: list[Module], shared: list[Node], value: Any, args: tuple[Any, ...]) -> None:
        self.value = Carry("scan_layers", value)
        self.arguments = Flat(args)
        self.obstacle = ""
        count = len(self.value.arrays)

        def call(arrays: list[Any]) -> list[Any]:
            given = self.value.flat.rebuild(arrays[:count])
            output = layers[0](given, *self.arguments.rebuild(arrays[count:]))
            try:
                return self.value.next(output, arrays[:count])
            except (ShapeError, TypeError) as error:
                raise _Unlike(str(error)) from None

        likes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in self.value.arrays]
        things = [layers[0], *shared, *self.value.flat.things, *self.arguments.things]
        try:
            self.block = block = Block(call, [*likes, *self.arguments.arrays], [], things, lasting=1)
        except _Unlike as unlike:
            self.obstacle = f"the output of the first is unlike its input: {unlike}"
            return
        others = block.structure.roots[1:]
        self.structures = [block.structure, *(Structure([layer, *others]) for layer in layers[1:])]
        self.columns = _columns(each.cells for each in self.structures)
        self.own = [i for i, cells in enumerate(self.columns) if cells[0] is not cells[1]]
        self.obstacle = self._obstacle()

    def _obstacle(self) -> str:
        """What keeps them from being one loop."""
        block = self.block
        if any(each.key != block.structure.key for each in self.structures):
            return "what they share with each other is not the same for all"
        if _differ_in_sharing(self.columns):
            return "some of them share parameters that the others do not"
        if _differ_in_sharing(_columns(each.nodes for each in self.structures)):
            return "some of them share modules that the others do not"
        if block.reads:
            node, name = block.reads[0]
            return f"they read what {type(node).__name__}.{name} holds; keep it in a buffer (self.register_buffer)"
        for structure in self.structures:
            name = block.traced.finds_changed(structure)
            if name is not None:
                return f"what `{name}` holds is not the same for all"
        restless = block.traced.restless or self._moved()
        return f"`{restless}` of what they share changes from one to the next" if restless else ""

    def _moved(self) -> str:
        """The name of a container or object that the first one changes, and that another one has too."""
        for name, find in self.block.traced.moved:
            parts = [set(_mutable_parts(find(structure))) for structure in self.structures]
            if len(set().union(*parts)) < sum(map(len, parts)):
                return name
        return ""

    def run(self, options: _Options) -> Any:
        return self.value.flat.rebuild(self._in_a_row(options) if options.unroll is True else self._looped(options))

    def _in_a_row(self, options: _Options) -> list[Any]:
        """Calls the program of one layer for each."""
        block, arrays = self.block, self.value.arrays
        call: Any = jax.checkpoint(block.evaluate, policy=options.policy) if options.checkpoint else block.evaluate
        call = jax.jit(call)  # so that derivatives of it are traced once too
        for structure in self.structures:
            outs = call(*map(value_of, structure.cells), *arrays, *self.arguments.arrays)
            block.write(outs, cells=structure.cells)
            stop = len(outs) - len(arrays)
            self._replay(structure, outs[len(block.written) : stop])
            arrays = outs[stop:]
        return arrays

    def _looped(self, options: _Options) -> list[Any]:
        block, own = self.block, set(self.own)
        values = block.values()
        count = len(self.value.arrays)
        carried = [i for i in block.written if i not in own]
        used = self._used()
        stacked = stack([[value_of(cell) for cell in self.columns[i]] for i in used])

        def body(state: tuple[list[Any], list[Any]], columns: list[Any]) -> tuple[Any, Any]:
            written, arrays = state
            cells = list(values)
            for i, value in (*zip(carried, written, strict=True), *zip(used, columns, strict=True)):
                cells[i] = value
            outs = block.evaluate(*cells, *arrays, *self.arguments.arrays)
            new = dict(zip(block.written, outs, strict=False))
            rest = outs[len(block.written) : len(outs) - count]
            return ([new[i] for i in carried], outs[len(outs) - count :]), ([new[i] for i in new if i in own], rest)

        if options.checkpoint:
            body = jax.checkpoint(body, policy=options.policy, prevent_cse=False)
        start = [values[i] for i in carried], self.value.arrays
        (shared, arrays), (written, effects) = lax.scan(
            body, start, stacked, length=len(self.structures), unroll=options.unroll
        )
        block.write(shared, carried)
        mine = [i for i in block.written if i in own]
        each = rows([*written, *effects]) if written or effects else [()] * len(self.structures)
        for structure, outs in zip(self.structures, each, strict=True):
            block.write(outs, mine, structure.cells)
            self._replay(structure, outs[len(mine) :])
        return arrays

    def _used(self) -> list[int]:
        """Which of the layers' own cells the program looks at."""
        jaxpr = self.block.traced.closed.jaxpr
        used = {id(var) for eqn in jaxpr.eqns for var in eqn.invars} | {id(var) for var in jaxpr.outvars}
        return [i for i in self.own if id(jaxpr.invars[i]) in used]

    def _replay(self, structure: Structure, arrays: Sequence[Any]) -> None:
        """Makes the changes that one layer makes besides writing cells."""
        outs = [*([None] * len(self.block.written)), *arrays]
        self.block.traced.outcome.change(Context(structure.nodes, structure.cells, outs, structure.watched))


def _in_both(first: Structure, second: Structure) -> list[Node]:
    """The modules that two layers share."""
    return [node for node in second.nodes if id(node) in first.node_index]


def _columns(rows: Iterable[Sequence[T]]) -> list[tuple[T, ...]]:
    return list(zip(*rows, strict=False))


def _differ_in_sharing(columns: Sequence[Sequence[Any]]) -> bool:
    """Whether some layers have a thing in common that others do not have, or have in another place."""
    own = [id(thing) for things in columns if things[0] is not things[1] for thing in things]
    alike = (len(set(map(id, things))) == 1 for things in columns if things[0] is things[1])
    return len(set(own)) < len(own) or not all(alike)


def _mutable_parts(value: Any) -> Iterator[int]:
    """The identities of what may change in a value: of itself, and of the containers in it."""
    if not isinstance(value, tuple):
        yield id(value)
    if is_mutable(value) or isinstance(value, tuple):
        for item in items(value):
            if is_mutable(item) or isinstance(item, tuple):
                yield from _mutable_parts(item)


raw.introduce("scan_layers", scan_layers)
