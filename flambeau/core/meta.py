"""The meta device: modules that are built without memory, and get their values later, in one compiled call.

A module that is constructed under `device("meta")` runs its constructor on tracers. Its cells hold a `Meta` each: shape,
dtype, and the blueprint, which is the constructor as a program from the default generator's key to all values.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from flambeau._errors import StateError
from flambeau.core._grouping import Drawn, Parts
from flambeau.core.capture import collect, commit
from flambeau.core.cell import Cell, running
from flambeau.core.frame import Frame
from flambeau.core.placement import read_device
from flambeau.core.random import default_generator
from flambeau.core.tree import Node

__all__ = ["Meta", "construct", "device", "init_empty", "materialize"]

NodeT = TypeVar("NodeT", bound=Node)


class Blueprint:
    """What a constructor computes, to be run later."""

    _numbers = itertools.count()

    def __init__(self, closed: Any, draws: bool) -> None:
        self.number = next(Blueprint._numbers)
        self.closed = closed
        self.draws = draws  # whether the last array is the default generator's key afterwards

    def parts(self, indices: Iterable[int]) -> Parts:
        """The program of some of its arrays. The key afterwards comes early."""
        return Parts(self.closed, list(indices), [len(self.closed.out_avals) - 1] if self.draws else [])


class Meta:
    """What a cell holds until it is materialized: no more than shape and dtype can be asked of it."""

    __slots__ = ("__weakref__", "blueprint", "dtype", "index", "shape")

    def __init__(self, shape: tuple[int, ...], dtype: Any, blueprint: Blueprint, index: int) -> None:
        self.shape = shape
        self.dtype = dtype
        self.blueprint = blueprint
        self.index = index  # of the array that the blueprint gives

    def cast(self, dtype: Any) -> Meta:
        """The same in another dtype."""
        return Meta(self.shape, dtype, self.blueprint, self.index)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __bool__(self) -> bool:
        raise StateError(no_value(self))

    def __repr__(self) -> str:
        return f"Meta({self.dtype}{list(self.shape)})"

    def __getattr__(self, name: str) -> Any:
        """Raises for all else that an array has; `jnp` asks for `__jax_array__` and numpy for `__array__`."""
        if name in _ASKED_BY_PRINTERS or not (name in ("__jax_array__", "__array__") or hasattr(jax.Array, name)):
            raise AttributeError(name)
        raise StateError(no_value(self))


_ASKED_BY_PRINTERS = frozenset({"weak_type", "committed", "sharding", "aval"})


def no_value(array: Meta) -> str:
    return (
        f"a parameter or buffer {array.dtype}{list(array.shape)} is on the meta device and has no value yet: call "
        f"materialize() on its module, or load a state dict, before it is computed with"
    )


def check(root: Any, error: Exception) -> None:
    """Raises what is behind an error of JAX's where `root` was called before it has values."""
    if isinstance(error, TypeError):
        for name, cell in (*root.named_parameters(), *root.named_buffers()):
            if isinstance(cell._value, Meta):
                raise StateError(f"{name}: {no_value(cell._value)}") from error


def _refusing(name: str) -> Any:
    def operator(self: Meta, *others: Any) -> Any:
        raise StateError(no_value(self))

    operator.__name__ = name
    return operator


for _name in (
    "add radd sub rsub mul rmul truediv rtruediv pow rpow matmul rmatmul neg abs lt le gt ge float int getitem".split()
):
    setattr(Meta, f"__{_name}__", _refusing(f"__{_name}__"))


class _Device(AbstractContextManager[Any]):
    def __init__(self, name: Any) -> None:
        self._meta = isinstance(name, str) and name == "meta"
        self._place = None if self._meta else jax.default_device(read_device(name))
        self._outer: list[bool] = []

    def __enter__(self) -> None:
        self._outer.append(running.meta)
        running.meta = self._meta
        if self._place is not None:
            self._place.__enter__()

    def __exit__(self, *exception: Any) -> None:
        running.meta = self._outer.pop()
        if self._place is not None:
            self._place.__exit__(*exception)


def device(name: Any) -> AbstractContextManager[None]:
    """A context in which arrays are made on a device; on "meta" modules are built without any, as shapes alone.

    What a module on the meta device lacks are its values: `repr`, `parameters()`, shapes and dtypes are there.
    `load_state_dict` gives it values, and so does `module.materialize()`.

    Args:
        name: "meta", another name such as "cpu" or "gpu:1", or a `jax.Device`.

    Example:
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> with fb.device("meta"):
        ...     net = nn.Linear(100_000, 100_000)  # 40 GB, if it had them
        >>> sum(p.numel() for p in net.parameters())
        10000100000

    Source: https://docs.pytorch.org/docs/2.13/meta.html
    """
    return _Device(name)


def init_empty() -> AbstractContextManager[None]:
    """A context in which modules are built without memory: `device("meta")`.

    Example:
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> with fb.init_empty():
        ...     net = nn.Linear(3, 2)
        >>> _ = fb.manual_seed(0)
        >>> drawn = net.materialize().weight
        >>> _ = fb.manual_seed(0)
        >>> bool((nn.Linear(3, 2).weight == drawn).all())
        True
    """
    return device("meta")


def construct(make: Callable[[], NodeT]) -> NodeT:
    """What `make` gives, without its values."""
    frame = Frame()
    found: list[Any] = []
    key = default_generator._key

    def pure(key_now: Any) -> list[Any]:
        frame.bind([key], [key_now])
        made = make()
        drawn = frame.values.pop(key)
        frame.initial.pop(key)
        outcome, arrays, collector = collect(frame, made)
        _check(frame, outcome, collector, arrays)
        draws = drawn is not key_now
        found.extend((outcome, collector, draws))
        return [*arrays, drawn] if draws else arrays

    outer, running.meta = running.meta, False
    try:
        closed = jax.make_jaxpr(lambda now: frame.run(lambda: pure(now)))(jax.ShapeDtypeStruct(key.shape, key.dtype))
    finally:
        running.meta = outer
    outcome, collector, draws = found
    blueprint = Blueprint(closed, draws)
    avals = closed.out_avals[:-1] if draws else closed.out_avals
    made = commit(frame, outcome, collector, [Meta(a.shape, a.dtype, blueprint, i) for i, a in enumerate(avals)])
    return made


def _check(frame: Frame, outcome: Any, collector: Any, arrays: list[Any]) -> None:
    outside = [collector.cells[i] for i in outcome.written if collector.cells[i] not in frame.created_cells]
    if outside:
        owner, name = frame.names.get(outside[0], (None, ""))
        what = f"{type(owner).__name__}.{name}" if owner is not None else "an array"
        raise StateError(
            f"device('meta'): the constructor writes {what}, which is not its own; build it on a real device"
        )
    if len(arrays) > len(outcome.written):
        raise StateError(
            "device('meta'): the constructor keeps arrays in a plain list or dict, where they have no shape of their own; "
            "make them parameters or buffers"
        )


def materialize(cells: Iterable[Cell], dtype: Any, place: Callable[[Cell], Any]) -> None:
    """Gives those of `cells` that lack them their values, in one compiled call.

    Args:
        dtype: of the floating ones; that which they were built with if None.
        place: a cell's device or sharding, or None.
    """
    waiting = [cell for cell in dict.fromkeys(cells) if isinstance(cell._value, Meta)]
    if not waiting:
        return
    cells_by_blueprint: dict[Blueprint, list[Cell]] = {}
    for cell in sorted(waiting, key=lambda cell: cell._value.blueprint.number):
        cells_by_blueprint.setdefault(cell._value.blueprint, []).append(cell)
    parts = [blueprint.parts(cell._value.index for cell in own) for blueprint, own in cells_by_blueprint.items()]

    # The keys are split before the one call: each split would be a loop in it, and together they are its longest part.
    generator = default_generator._key
    keys = [generator.get()]
    draws: list[Any] = []
    for part in parts:
        early, arguments = part.before(keys[-1])
        draws.extend(zip(part.calls, arguments, strict=True))
        keys.extend(early or keys[-1:])
    drawn = Drawn(draws)

    def fill(keys: list[Any], inputs: Any) -> list[Any]:
        results = iter(drawn.run(inputs))
        made: dict[Cell, Any] = {}
        for part, key, own in zip(parts, keys, cells_by_blueprint.values(), strict=True):
            made.update(zip(own, part.after([key], [next(results) for _ in part.calls]), strict=True))
        return [made[cell].astype(_dtype(cell, dtype)) for cell in waiting]

    shardings = [_sharding(place(cell)) for cell in waiting]
    values = jax.jit(fill, out_shardings=shardings)(keys[:-1], drawn.inputs())
    for cell, value in zip(waiting, values, strict=True):
        cell.set(value, exposed=False)
    if any(blueprint.draws for blueprint in cells_by_blueprint):
        generator.set(keys[-1], exposed=False)


def _dtype(cell: Cell, dtype: Any) -> Any:
    own = cell._value.dtype
    return dtype if dtype is not None and jnp.issubdtype(own, jnp.floating) else own


def _sharding(place: Any) -> Any:
    return jax.sharding.SingleDeviceSharding(place) if isinstance(place, jax.Device) else place
