"""Cells: the mutable slots that hold arrays, and the one place through which every read and write of state goes.

A module attribute that holds an array is backed by a `Cell`; reading the attribute gives the plain `jax.Array`. Outside of
a transform a cell holds its value itself. Inside one, the running *frame* (see `capture`) keeps the values, so tracing never
touches the cell and an exception has nothing to undo.
"""

from __future__ import annotations

import itertools
import sys
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from flambeau._errors import DtypeError, ShapeError, StateError
from flambeau.core import raw
from flambeau.core.dtypes import canonical_dtype
from flambeau.core.objects import attributes
from flambeau.core.placement import mesh_of, read_device

if TYPE_CHECKING:
    from flambeau.core.frame import Frame, Journal

__all__ = ["Buffer", "Cell", "Parameter", "UninitializedBuffer", "UninitializedParameter"]


class _Running(threading.local):
    """What runs on this thread: the innermost frame of a transform, and the journal of an eager outermost module call."""

    frame: Frame | None = None
    journal: Journal | None = None
    autocast: np.dtype | None = None  # what `autocast` computes in
    meta: bool = False  # whether modules are built without values


class _Clock:
    """Process-wide counters that let a compiled call skip work.

    `structure` moves whenever anything moves that a compiled function depends on (attributes, registries, shapes, flags);
    `exposures` moves whenever a cell's array comes into the user's hands, from when on it must not be donated as it is.
    """

    __slots__ = ("_settling", "_ticks", "exposures", "gathered", "pending", "structure")

    def __init__(self) -> None:
        self._ticks = itertools.count(1)
        self._settling = threading.RLock()  # held for a moment only, and never while JAX computes
        self.structure = 0
        self.exposures = 0
        # The values of cells that compiled calls gathered, which are the present ones. A write to a cell puts a new dict in the
        # place of this one, so a thread that gathered before and adds its list after adds it to a dict that nobody looks at; a
        # compiled call that ends has those forgotten that its own writes touch.
        self.gathered: dict[Any, Any] = {}
        # The last values that compiled calls gave to the cells that they write, no cell in two of them. These are put in place
        # when somebody looks at any cell, so that a training loop that looks at none spares itself to write them all.
        self.pending: dict[Any, list[Any]] = {}

    def keep(self, call: Any, values: list[Any]) -> None:
        """Has the cells that a call writes have these values, from when somebody looks at one."""
        with self._settling:
            self.pending[call] = values

    def waiting(self) -> list[tuple[Any, list[Any]]]:
        """The calls whose values are pending, and these."""
        with self._settling:
            return list(self.pending.items())

    def settle(self) -> None:
        """Puts the values that are pending in place."""
        with self._settling:
            # A list, since what is deleted meanwhile may have this called once more.
            for call, values in list(self.pending.items()):
                for cell, value in zip(call.written, values, strict=True):
                    cell._held = value
            self.pending.clear()

    def tick(self) -> None:
        """Says that the structure changed; no value of the counter ever comes twice, whatever threads do."""
        self.structure = next(self._ticks)

    def expose(self) -> None:
        """Says that an array came into the user's hands."""
        self.exposures = next(self._ticks)


running = _Running()
clock = _Clock()
# Held from reading cells to writing what was made of them, by what must not lose another thread's write in between.
writing = threading.RLock()

# Which cell an array that was read from a module belongs to. Stale entries are harmless: `owner_of` checks the cell's
# present value, so an `id` that was used again for another array is never mistaken.
_owners: weakref.WeakValueDictionary[int, Cell] = weakref.WeakValueDictionary()

# Of parameters that nobody held any more: the like of each, without its value, by the `id` of the array that was the value,
# for as long as somebody holds that: see `parameter_of`.
_orphans: dict[int, tuple[weakref.ref[jax.Array], Parameter]] = {}


class Cell:
    """A mutable slot that holds one array."""

    __slots__ = ("__weakref__", "_exposed", "_held")

    _held: Any
    _exposed: bool
    trainable = False

    def __init__(self, value: Any) -> None:
        value = strong(value)
        if owner_of(value) is not None:
            value = copy(value)
        self._exposed = True
        _owners[id(value)] = self
        frame = running.frame
        if frame is None:
            self._held = value
            clock.expose()
        else:
            self._held = None
            frame.create(self, value)

    @property
    def _value(self) -> Any:
        """What the cell holds, outside of any frame."""
        if clock.pending:
            clock.settle()
        return self._held

    @_value.setter
    def _value(self, value: Any) -> None:
        if clock.pending:
            clock.settle()
        self._held = value
        clock.gathered = {}

    def get(self, owner: Any = None) -> jax.Array:
        """The present value: under a transform the tracer that stands for it. `owner` is the node it was read from."""
        frame = running.frame
        if frame is not None:
            value = frame.read(self, owner)
            _owners[id(value)] = self
            return value
        if owner is not None and running.journal is None and raw.reads_would_be_baked():
            raw.warn_baked(type(owner).__name__)
        return self.expose()

    def expose(self) -> jax.Array:
        """The value outside of any frame, which from now on is in the user's hands."""
        if not self._exposed:
            self._exposed = True
            clock.expose()
            _owners[id(self._value)] = self
        return self._value

    def set(self, value: Any, *, owner: Any = None, name: str = "", exposed: bool = True) -> None:
        """Replaces the value. `exposed=False` is a promise that nobody else holds the array, so that it may be donated."""
        value = strong(value)
        frame = running.frame
        if frame is not None:
            holder = owner_of(value)
            if holder is self:
                return
            value = value if holder is None else copy(value)
            frame.write(self, value, owner, name)
            _owners[id(value)] = self
            return
        if isinstance(value, Tracer):
            raise StateError(tracer_write(owner, name))
        raw.refuse_change(owner, name)
        if exposed:
            holder = owner_of(value)
            if holder is self:
                return
            if holder is not None:
                value = copy(value)
            clock.expose()
        if running.journal is not None:
            running.journal.note_cell(self)
        self._replace(value, exposed)

    def _replace(self, value: Any, exposed: bool) -> None:
        """Puts a concrete value in place, and moves the structure's clock if it has another shape, dtype or mesh."""
        old = self._value
        if old is None or old.shape != value.shape or old.dtype != value.dtype or mesh_of(old) != mesh_of(value):
            clock.tick()
        self._value = value
        self._exposed = exposed
        if exposed:
            _owners[id(value)] = self

    def peek(self) -> Any:
        """The present value, for its shape, dtype or identity only: nothing is captured and nothing counts as read."""
        frame = running.frame
        return self._value if frame is None else frame.peek(self)

    def holds(self, array: Any) -> bool:
        """Whether `array` is the present value."""
        return self.peek() is array

    # -- what torch offers on the object itself -------------------------------------------------------------------------

    @property
    def data(self) -> jax.Array:
        """The array. Assigning replaces it: the shape must stay."""
        return self.get()

    @data.setter
    def data(self, value: Any) -> None:
        self.set(fitting(self, value, ""))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.peek().shape

    @property
    def dtype(self) -> np.dtype:
        return self.peek().dtype

    @property
    def ndim(self) -> int:
        return self.peek().ndim

    def dim(self) -> int:
        return self.ndim

    def size(self, dim: int | None = None) -> tuple[int, ...] | int:
        return self.shape if dim is None else self.shape[dim]

    def numel(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    def detach(self) -> jax.Array:
        """The value with no gradient flowing through it."""
        return lax.stop_gradient(self.get())

    def copy_(self, value: Any) -> Cell:
        """Replaces the value in place by `value`, broadcast to the shape and cast to the dtype, as torch's `copy_`."""
        target = self.peek()
        self.set(jnp.broadcast_to(jnp.asarray(value, target.dtype), target.shape))
        return self

    def item(self) -> Any:
        return self.get().item()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.get(), dtype=dtype, copy=copy)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of a 0-d array")
        return self.shape[0]

    def __getitem__(self, index: Any) -> jax.Array:
        return self.get()[index]

    def __deepcopy__(self, memo: dict[int, Any]) -> Cell:
        value = self.get()
        twin = memo[id(self)] = self._like(copy(value)) if isinstance(value, jax.Array) else self._with_the_value()
        return twin

    def _with_the_value(self) -> Self:
        """A copy with this very value, which must be no array of its own: on the meta device, or until it is taken out again."""
        twin = object.__new__(type(self))
        for name, value in attributes(self).items():
            object.__setattr__(twin, name, value)
        return twin

    def __reduce__(self) -> Any:
        return _rebuild, (type(self), np.asarray(self.get()), self._settings())

    def _settings(self) -> dict[str, Any]:
        """What a copy needs besides the value."""
        return {}

    def _like(self, value: Any) -> Cell:
        return _rebuild(type(self), value, self._settings())

    def __repr__(self) -> str:
        return f"{type(self).__name__} containing:\n{self.get()!r}"


def _rebuild(kind: type[Cell], value: Any, settings: dict[str, Any]) -> Cell:
    return kind(jnp.asarray(value), **settings)


def _forward_operator(name: str) -> Any:
    def operator(self: Cell, *others: Any) -> Any:
        others = tuple(other.get() if isinstance(other, Cell) else other for other in others)
        return getattr(self.get(), name)(*others)

    operator.__name__ = name
    return operator


# So that `sum((p ** 2).sum() for p in net.parameters())` reads as in PyTorch. `==` stays identity: cells are dict keys.
for _name in """add radd sub rsub mul rmul truediv rtruediv pow rpow matmul rmatmul neg abs lt le gt ge
        float int bool iter""".split():
    setattr(Cell, f"__{_name}__", _forward_operator(f"__{_name}__"))
for _name in "sum mean std var min max any all reshape astype flatten tolist T".split():
    if _name == "T":
        Cell.T = property(lambda self: self.get().T)  # pyright: ignore[reportAttributeAccessIssue]
    else:
        setattr(Cell, _name, _forward_operator(_name))


class Parameter(Cell):
    """An array that a module learns: assigning one to an attribute of a `Module` registers it.

    Args:
        data: the initial value; an array that another cell holds is copied.
        requires_grad: whether `grad` differentiates with respect to it.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> weight = nn.Parameter(jnp.ones((2, 3)))
        >>> weight.shape, weight.requires_grad
        ((2, 3), True)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.parameter.Parameter.html
    """

    __slots__ = ("_requires_grad",)

    def __init__(self, data: Any = None, requires_grad: bool = True) -> None:
        super().__init__(jnp.zeros((0,), jnp.float32) if data is None else data)
        self._requires_grad = requires_grad

    @property
    def requires_grad(self) -> bool:
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, flag: bool) -> None:
        self.requires_grad_(flag)

    def requires_grad_(self, requires_grad: bool = True) -> Parameter:
        """Sets whether `grad` differentiates with respect to this parameter."""
        if requires_grad and not jnp.issubdtype(self.dtype, jnp.inexact):
            raise DtypeError(f"only floating and complex parameters can require gradients, got {self.dtype}")
        if requires_grad != self._requires_grad:
            changing = running.frame or running.journal
            if not isinstance(self._value, Tracer):
                raw.refuse_change(self, "requires_grad", running.frame)
            if changing is not None:
                changing.note_flag(self)
            self._requires_grad = requires_grad
            clock.tick()
        return self

    @property
    def trainable(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._requires_grad

    def __del__(self, _ends: Callable[[], bool] = sys.is_finalizing) -> None:
        if _ends():  # Python does, and may have cleared this module
            return
        array = getattr(self, "_held", None)
        if isinstance(array, jax.Array):
            number, twin = id(array), self._with_the_value()
            twin._held = None
            _orphans[number] = weakref.ref(array, lambda _: _orphans.pop(number, None)), twin

    def _settings(self) -> dict[str, Any]:
        return {"requires_grad": self._requires_grad}

    def __repr__(self) -> str:
        return f"Parameter containing:\n{self.get()!r}" + ("" if self.requires_grad else " (requires_grad=False)")


class Buffer(Cell):
    """An array that belongs to a module's state and is not learnt, such as BatchNorm's running mean.

    Args:
        data: the initial value; an array that another cell holds is copied.
        persistent: whether it is part of the module's `state_dict`.

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.parameter.Buffer.html
    """

    __slots__ = ("persistent",)

    def __init__(self, data: Any = None, *, persistent: bool = True) -> None:
        super().__init__(jnp.zeros((0,), jnp.float32) if data is None else data)
        self.persistent = persistent

    def _settings(self) -> dict[str, Any]:
        return {"persistent": self.persistent}


class _Pending(NamedTuple):
    """What stands in the place of the value until the shape is known."""

    dtype: Any
    place: Any = None  # a device or sharding


class _Uninitialized:
    """A cell whose shape is not known yet: a lazy module makes it at its first call."""

    __slots__ = ()

    def _wait(self: Any, device: Any, dtype: Any) -> None:
        self._value = _Pending(dtype, read_device(device))
        self._exposed = True
        if running.frame is not None:
            running.frame.created_cells.add(self)

    def _refuse(self) -> Any:
        raise StateError(
            "this parameter has no shape yet: its lazy module takes it from the first call. "
            "Call the module once on an example batch before you read, count or optimise its parameters."
        )

    def get(self, owner: Any = None) -> Any:
        # Read from its module it is itself, so that `self.weight.materialize(...)` reads as in PyTorch.
        return self._refuse() if owner is None else self

    def peek(self) -> Any:
        return self._refuse()

    def holds(self, array: Any) -> bool:
        return False  # also if it had a value, in a call that failed

    def convert(self, fn: Callable[[jax.Array], jax.Array]) -> None:
        """Takes the dtype and the place that `fn`, a cast or a move, gives: what `Module.to` does to it."""
        pending: _Pending = self._value  # pyright: ignore[reportAttributeAccessIssue]
        made = fn(jnp.zeros((0,), canonical_dtype(pending.dtype), device=pending.place))
        self._value = _Pending(made.dtype, made.sharding if made.committed else pending.place)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        twin = memo[id(self)] = type(self)(**self._settings())  # pyright: ignore
        return twin

    def __reduce__(self) -> Any:
        return _rebuild_uninitialized, (type(self), self._settings())  # pyright: ignore


def _rebuild_uninitialized(kind: Any, settings: dict[str, Any]) -> Any:
    return kind(**settings)


class UninitializedParameter(_Uninitialized, Parameter):
    """A parameter of a lazy module before its shape is known; `materialize(shape)` turns it into a `Parameter`.

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.parameter.UninitializedParameter.html
    """

    __slots__ = ()

    def __init__(self, requires_grad: bool = True, device: Any = None, dtype: Any = None) -> None:
        self._wait(device, dtype)
        self._requires_grad = requires_grad

    def _settings(self) -> dict[str, Any]:
        return {"requires_grad": self._requires_grad, "device": self._value.place, "dtype": self._value.dtype}

    def materialize(self, shape: tuple[int, ...], dtype: Any = None) -> None:
        """Gives the parameter its shape; its values are zeros until they are initialised."""
        _materialize(self, Parameter, shape, dtype or self._value.dtype)


class UninitializedBuffer(_Uninitialized, Buffer):
    """A buffer of a lazy module before its shape is known; `materialize(shape)` turns it into a `Buffer`.

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.parameter.UninitializedBuffer.html
    """

    __slots__ = ()

    def __init__(
        self, requires_grad: bool = False, device: Any = None, dtype: Any = None, persistent: bool = True
    ) -> None:
        if requires_grad:
            raise ValueError("a buffer is not learnt: take an UninitializedParameter")
        self._wait(device, dtype)
        self.persistent = persistent

    def _settings(self) -> dict[str, Any]:
        return {"persistent": self.persistent, "device": self._value.place, "dtype": self._value.dtype}

    def materialize(self, shape: tuple[int, ...], dtype: Any = None) -> None:
        """Gives the buffer its shape; its values are zeros until they are set."""
        _materialize(self, Buffer, shape, dtype or self._value.dtype)


def _materialize(cell: Any, kind: type[Cell], shape: tuple[int, ...], dtype: Any) -> None:
    frame, pending = running.frame, cell._value
    if frame is not None and not frame.created_inside(cell):
        raise StateError("a lazy parameter cannot get its shape inside a transform: call the module once before it")
    if running.journal is not None:
        running.journal.note_made(cell)
    value = jnp.zeros(shape, canonical_dtype(dtype), device=pending.place)
    cell.__class__ = kind
    if frame is None:
        cell._value = value
        _owners[id(value)] = cell
    else:
        cell._value = None
        frame.create(cell, value)
    clock.tick()


def owner_of(array: Any) -> Cell | None:
    """The cell that holds `array`, if it was read from, or given to, one and is still its value."""
    cell = _owners.get(id(array))
    return cell if cell is not None and cell.holds(array) else None


def parameter_of(array: Any) -> Parameter | None:
    """The parameter that an array stands for where it is assigned: also one that only the array is left of.

    `kept = net.weight; net.weight = other.weight; net.weight = kept` leaves no one who holds the first parameter.
    """
    cell = owner_of(array)
    if cell is None and id(array) in _orphans:
        left, orphan = _orphans.pop(id(array))
        if left() is array:
            orphan._held = array
            _owners[id(array)] = orphan
            return orphan
    return cell if isinstance(cell, Parameter) else None


def copy(array: Any) -> jax.Array:
    """A second array with the same value: an array belongs to at most one cell."""
    # Outside of a trace the runtime copies; `jnp.copy` would have XLA compile a program for each shape.
    return jnp.copy(array) if isinstance(array, Tracer) else jax.device_put(array, may_alias=False)


def strong(value: Any) -> Any:
    """`value` as a jax array without a weak type, which would make the next compiled call compile again."""
    if isinstance(value, (np.ndarray, np.generic, int, float, complex)):
        # A copy of numpy's array, whose owner goes on writing to it; `jnp.array` would compile a program for each shape.
        array = np.array(value)
        return jax.device_put(array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False))
    if not isinstance(value, jax.Array):
        value = jnp.array(value)
    return lax.convert_element_type(value, value.dtype) if getattr(value, "weak_type", False) else value


def fitting(cell: Cell, value: Any, name: str) -> jax.Array:
    """`value` as it may be assigned to a parameter: the same shape, cast to the parameter's dtype."""
    target = cell.peek()
    value = jnp.asarray(value.get() if isinstance(value, Cell) else value)
    if value.shape != target.shape:
        raise ShapeError(
            f"{name or 'parameter'}: expected shape {tuple(target.shape)}, got {tuple(value.shape)}. "
            f"Assign a new nn.Parameter to give it another shape."
        )
    return value if value.dtype == target.dtype else lax.convert_element_type(value, target.dtype)


def keeping_dtype(cell: Cell, value: Any) -> Any:
    """`value` in the dtype of `cell` where that loses no kind of number: state must not drift from call to call."""
    target = cell.peek().dtype
    value = value if isinstance(value, jax.Array) else jnp.asarray(value)
    if value.dtype == target:
        return value
    fits = jnp.result_type(value, target) == target if value.weak_type else _kind(value.dtype) == _kind(target)
    return lax.convert_element_type(value, target) if fits else value


def _kind(dtype: Any) -> type:
    for kind in (jnp.bool_, jnp.signedinteger, jnp.unsignedinteger, jnp.floating, jnp.complexfloating):
        if jnp.issubdtype(dtype, kind):
            return kind
    return type(dtype)


def tracer_write(owner: Any, name: str) -> str:
    return written_tracer(f"{type(owner).__name__}.{name}" if owner is not None else "a parameter or buffer")


def written_tracer(what: str) -> str:
    return (
        f"{what} was written inside a raw jax transform: the value is a tracer that would outlive it. "
        f"Use flambeau's transform in its place (fb.jit, fb.grad, fb.value_and_grad), which carries the write out, "
        f"or the pure form fb.functional_call(module, values, args, key=key, return_state=True)."
    )
