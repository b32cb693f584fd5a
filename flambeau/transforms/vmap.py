"""`fb.vmap`: a function of one example as a function of many, with what it does to state."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from flambeau._errors import ShapeError, StateError
from flambeau.core.cell import Cell
from flambeau.core.frame import Frame
from flambeau.core.module import Module
from flambeau.core.outcome import Change
from flambeau.core.random import Key
from flambeau.core.structure import Structure, nodes_inside
from flambeau.core.tree import MISSING, Node
from flambeau.transforms._trace import Carried, entering

__all__ = ["vmap"]

Randomness = Literal["error", "different", "same"]
Write = Literal["error", "mean", "stack"]


def vmap(
    fun: Callable[..., Any],
    in_axes: Any = 0,
    out_axes: Any = 0,
    *,
    axis_name: Any = None,
    axis_size: int | None = None,
    spmd_axis_name: Any = None,
    randomness: Randomness = "error",
    write: Write = "error",
) -> Callable[..., Any]:
    """The function that calls `fun` for every element along an axis, all at once.

    A module that is mapped (its `in_axes` is no None) is an ensemble: its parameters and buffers have a leading axis, as those
    of a module that a mapped constructor made, `fb.vmap(lambda: Net(), axis_size=5, randomness="different")()`; what is
    written to it stays apart. Every other module is the same for all elements, and so is what may be written to it.

    Args:
        fun: a function of one element, or a module.
        in_axes: for each argument the axis to go along, or None for one that is the same for all; trees as in `jax.vmap`.
        out_axes: where that axis is put in the results.
        axis_name: a name for the axis, for collectives such as `jax.lax.pmean`.
        axis_size: its size, where no argument tells.
        spmd_axis_name: as in `jax.vmap`.
        randomness: what random layers do: raise ("error"), draw other numbers for each element ("different"), or the same
            ("same"). The generator moves on as by one call. One that `fun` itself seeds gives all elements the same.
        write: what happens to state that is the same for all elements, if a value that depends on the element is written to
            it: raise ("error"), keep the mean ("mean"), or keep all values, with the axis in front ("stack").

    Raises:
        ShapeError: sizes of the axis that differ, or an array or parameter without it.
        StateError: a written value that depends on the element, or a random draw, where they are errors.

    Example:
        >>> import jax.numpy as jnp
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> ensemble = fb.vmap(lambda: nn.Linear(3, 2), axis_size=5, randomness="different")()
        >>> ensemble.weight.shape
        (5, 2, 3)
        >>> fb.vmap(lambda net, x: net(x), in_axes=(0, None))(ensemble, jnp.ones((4, 3))).shape
        (5, 4, 2)

    Source: https://docs.jax.dev/en/latest/_autosummary/jax.vmap.html,
    https://docs.pytorch.org/docs/2.13/generated/torch.func.vmap.html
    """
    if randomness not in ("error", "different", "same"):
        raise ValueError(f"vmap: expected randomness 'error', 'different' or 'same', got {randomness!r}")
    if write not in ("error", "mean", "stack"):
        raise ValueError(f"vmap: expected write 'error', 'mean' or 'stack', got {write!r}")
    options = {"axis_name": axis_name, "axis_size": axis_size, "spmd_axis_name": spmd_axis_name}

    def mapped(*args: Any, **kwargs: Any) -> Any:
        return entering(lambda: _Mapped(fun, args, kwargs, in_axes, options, randomness, write).run(out_axes))

    return mapped if isinstance(fun, Module) else functools.wraps(fun)(mapped)


class _LaneFrame(Frame):
    """A frame in which every generator from outside has a key for each element."""

    def __init__(self, randomness: Randomness) -> None:
        super().__init__()
        self.randomness = randomness
        self.lane: Any = None
        self.keys: dict[Cell, Any] = {}  # the generators' keys, as they are outside

    def read(self, cell: Cell, owner: Node | None = None) -> Any:
        if isinstance(cell, Key) and cell not in self.values:
            value = self.keys[cell] = super().read(cell, owner)
            if self.randomness == "different":
                value = jax.random.key_data(jax.random.fold_in(jax.random.wrap_key_data(value), self.lane))
            self.bind([cell], [value])
        return super().read(cell, owner)

    def created_inside(self, thing: Node | Cell) -> bool:
        """What was made around is from outside: it is the same for all elements, and may not change into something else."""
        return self.created_here(thing)


class _Mapped:
    """One mapped call under way."""

    def __init__(
        self, fun: Any, args: Any, kwargs: Any, in_axes: Any, options: Any, randomness: Randomness, write: Write
    ) -> None:
        self.fun, self.options, self.randomness, self.write = fun, options, randomness, write
        self.name = getattr(fun, "__name__", type(fun).__name__)
        axes = [*axes_of("in_axes", in_axes, args), *([0] * len(jax.tree.leaves(kwargs)))]
        leaves, self.treedef = jax.tree.flatten((args, kwargs))
        # Python's numbers stay what they are where they are not mapped.
        self.leaves = [
            leaf if axis is None or isinstance(leaf, (Node, Cell)) else jnp.asarray(leaf)
            for leaf, axis in zip(leaves, axes, strict=True)
        ]
        self.axes = [None if isinstance(leaf, (Node, Cell)) else axis for leaf, axis in zip(leaves, axes, strict=True)]
        self.cells: dict[Cell, int] = {}  # those of modules that are mapped
        self.nodes: set[int] = set()
        self.added: set[Cell] = set()  # what modules that are not mapped have now, and had not before
        for leaf, axis in zip(leaves, axes, strict=True):
            if axis is not None and isinstance(leaf, (Node, Cell)):
                structure = Structure([leaf])
                self.cells.update((cell, axis) for cell in structure.cells)
                self.nodes.update(structure.node_index)
        self.size = self._size()
        self.frame = _LaneFrame(randomness)
        self.carried = Carried(self.frame)

    def _size(self) -> int:
        """How many elements there are."""
        size = self.options["axis_size"]
        sizes = {} if size is None else {"axis_size": size}
        mapped = [("", a, axis) for a, axis in zip(self.leaves, self.axes, strict=True) if axis is not None]
        mapped += [(f"{type(cell).__name__} ", cell, axis) for cell, axis in self.cells.items()]
        for what, array, axis in mapped:
            what = f"{what}{array.dtype}{list(array.shape)}"
            if not -array.ndim <= axis < array.ndim:
                raise ShapeError(
                    f"vmap of {self.name}: {what} is mapped and has no axis {axis}. "
                    f"Give what is the same for all elements, such as a module, the axis None: in_axes=(None, 0)"
                )
            sizes[what] = array.shape[axis]
        if not sizes:
            raise ValueError(f"vmap of {self.name}: nothing is mapped; give axis_size, or an in_axes that is not None")
        if len(set(sizes.values())) > 1:
            listed = ", ".join(f"{size} of {what}" for what, size in sizes.items())
            raise ShapeError(
                f"vmap of {self.name}: expected one size of the mapped axis, got {listed}. "
                f"Give what is the same for all elements, such as a module, the axis None: in_axes=(None, 0)"
            )
        return next(iter(sizes.values()))

    def run(self, out_axes: Any) -> Any:
        found: list[Any] = []

        def pure(lane: Any, cells: list[Any], arrays: list[Any]) -> tuple[list[Any], list[Any], list[Any], list[Any]]:
            self.frame.lane = lane
            self.frame.bind(self.cells, cells)
            results: list[Any] = []
            state = self.carried.run(lambda: results.append(self._call_and_look(arrays)))
            groups = self._groups(state, lane)
            leaves, treedef = jax.tree.flatten(results[0])
            axes = axes_of("out_axes", out_axes, results[0])
            axes = [None if isinstance(leaf, (Node, Cell)) else axis for leaf, axis in zip(leaves, axes, strict=True)]
            found.extend((groups, treedef, leaves, axes))
            return (
                [a for a, group in zip(state, groups, strict=True) if group is not _SAME],
                [a for a, group in zip(state, groups, strict=True) if group is _SAME],
                [jnp.asarray(leaf) for leaf, axis in zip(leaves, axes, strict=True) if axis is not None],
                [leaf for leaf, axis in zip(leaves, axes, strict=True) if axis is None and isinstance(leaf, jax.Array)],
            )

        options = {name: value for name, value in self.options.items() if name != "axis_size" and value is not None}
        arrays = [leaf for leaf, axis in zip(self.leaves, self.axes, strict=True) if axis is not None]
        axes = [axis for axis in self.axes if axis is not None]
        cells = [cell.get() for cell in self.cells]
        run = jax.vmap(pure, (0, [*self.cells.values()], axes), (0, None, 0, None), axis_size=self.size, **options)
        apart, same, mapped, shared = (iter(out) for out in run(jnp.arange(self.size, dtype=jnp.uint32), cells, arrays))
        groups, treedef, leaves, axes = found
        self.carried.commit([next(same) if group is _SAME else group(next(apart)) for group in groups])
        made = [
            jnp.moveaxis(next(mapped), 0, axis)
            if axis is not None
            else next(shared)
            if isinstance(leaf, jax.Array)
            else leaf
            for leaf, axis in zip(leaves, axes, strict=True)
        ]
        return jax.tree.unflatten(treedef, made)

    def _call_and_look(self, arrays: list[Any]) -> Any:
        result = self._call(arrays)
        held: list[Any] = []
        for registry, node, _ in self.frame.registries.values():
            if self._is_same_for_all(node):
                held.extend(registry.values())
        for node, _, container in self.frame.slots.values():
            if self._is_same_for_all(node) and container is not MISSING:
                held.extend(nodes_inside(container))
        self.added = set(Structure([each for each in held if isinstance(each, (Node, Cell))]).cells)
        return result

    def _is_same_for_all(self, node: Node) -> bool:
        return not self.frame.created_here(node) and id(node) not in self.nodes

    def _call(self, arrays: list[Any]) -> Any:
        given = iter(arrays)
        leaves = [leaf if axis is None else next(given) for leaf, axis in zip(self.leaves, self.axes, strict=True)]
        args, kwargs = jax.tree.unflatten(self.treedef, leaves)
        return self.fun(*args, **kwargs)

    def _groups(self, state: list[Any], lane: Any) -> list[Any]:
        """For each array of state `_SAME`, if there is one for all elements, or what makes its new value of all of theirs."""
        written = [self.carried.collector.cells[i] for i in self.carried.outcome.written]
        cells: list[Any] = [*written, *[None] * (len(state) - len(written))]
        return [
            self._group(cell, value, depends)
            for cell, value, depends in zip(cells, state, _depend(state, lane), strict=True)
        ]

    def _group(self, cell: Cell | None, value: Any, depends: bool) -> Any:
        if cell in self.cells:
            return functools.partial(jnp.moveaxis, source=0, destination=self.cells[cell])
        if cell is not None and self.frame.created_here(cell) and cell not in self.added:
            return _itself
        if isinstance(cell, Key) and cell in self.frame.keys:  # otherwise nothing was drawn before it was seeded here
            if self.randomness == "error":
                raise StateError(
                    f"vmap of {self.name}: a random number is drawn. Say whether each element gets its own, "
                    f"fb.vmap(..., randomness='different'), or all the same, randomness='same'"
                )
            outside = self.keys_moved_on(cell)
            return (lambda _: outside) if depends else _SAME
        if not depends:
            return _SAME
        if self.write == "stack":
            return _itself
        if self.write == "mean" and jnp.issubdtype(value.dtype, jnp.inexact):
            return functools.partial(jnp.mean, axis=0)
        raise StateError(self._dependent(cell, value))

    def keys_moved_on(self, cell: Cell) -> Any:
        """A generator's key after one draw."""
        kept, _ = jax.random.split(jax.random.wrap_key_data(self.frame.keys[cell]))
        return jax.random.key_data(kept)

    def _dependent(self, cell: Cell | None, value: Any) -> str:
        owner, name = self.frame.names.get(cell, (None, "")) if cell is not None else (None, "")
        what = f"{type(owner).__name__}.{name}" if owner is not None else ""
        if cell is None:
            changes = [entry.what for entry in self.carried.collector.changes if isinstance(entry, Change)]
            what = " or ".join(dict.fromkeys(changes))
        cure = "its mean, fb.vmap(..., write='mean'), or all of them, write='stack'"
        if self.write == "mean":
            cure = f"all of them, fb.vmap(..., write='stack'), for there is no mean of {value.dtype}"
        return (
            f"vmap of {self.name}: {what or 'state'} is written, and the value depends on the mapped axis, while the module is "
            f"the same for all elements. Keep {cure}; or map the module too"
        )


_SAME: Any = object()


def _itself(value: Any) -> Any:
    return value


def _depend(values: list[Any], lane: Any) -> list[bool]:
    """Which values differ, or may, from element to element: JAX says so to the rule of a `custom_vmap`."""
    found: list[bool] = []

    @custom_vmap
    def probe(lane: Any, values: list[Any]) -> Any:
        return jnp.zeros(())

    @probe.def_vmap
    def _(axis_size: int, in_batched: list[Any], lane: Any, values: list[Any]) -> tuple[Any, bool]:
        found.extend(in_batched[1])
        return jnp.zeros(()), False

    probe(lane, values)
    return found


def axes_of(name: str, axes: Any, tree: Any) -> list[int | None]:
    """The axis for each leaf of `tree`; `axes` is such a tree or the beginning of one."""
    axes = tuple(axes) if isinstance(axes, list) else axes
    marked = jax.tree.map(lambda axis: _SAME if axis is None else axis, axes, is_leaf=lambda axis: axis is None)
    try:
        leaves = jax.tree.leaves(jax.tree.broadcast(marked, tree))
    except ValueError as error:
        raise ValueError(
            f"vmap: expected {name} to be an axis, None, or a tree like the values, got {axes!r}"
        ) from error
    return [None if axis is _SAME else axis for axis in leaves]
