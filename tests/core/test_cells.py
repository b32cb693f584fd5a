"""`Parameter`, `Buffer` and the rule that an array belongs to one cell at most."""

from __future__ import annotations

import copy
import itertools
import operator
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.core import Tracer

import flambeau as fb
from flambeau import nn
from flambeau._errors import DtypeError, ShapeError, StateError
from flambeau.core.cell import Buffer, Cell, Parameter, UninitializedBuffer, UninitializedParameter, owner_of
from flambeau.core.module import Module
from tests.core.twins import Library, agree

PROGRAMS: dict[str, Any] = {}


def program(function: Any) -> Any:
    """Adds a program that must do on ours what it does on torch's modules."""
    assert function.__name__ not in PROGRAMS
    PROGRAMS[function.__name__] = function
    return function


def parameter(lib: Library, **kwargs: Any) -> Any:
    return lib.nn.Parameter(lib.array([[1.0, -2.0], [0.5, 4.0]]), **kwargs)


# -- the object ---------------------------------------------------------------------------------------------------------------


@program
def what_a_parameter_says(lib: Library) -> Any:
    p = parameter(lib)
    return [
        tuple(p.shape),
        p.ndim,
        p.dim(),
        tuple(p.size()),
        p.size(1),
        p.numel(),
        len(p),
        p.requires_grad,
        p.data,
        p[0, 1],
        p[1],
    ]


@program
def flags(lib: Library) -> Any:
    p = parameter(lib, requires_grad=False)
    seen = [p.requires_grad, p.requires_grad_() is p, p.requires_grad]
    p.requires_grad = False
    return [*seen, p.requires_grad, p.requires_grad_(False) is p, lib.nn.Parameter(p.data, False).requires_grad]


@program
def nothing_is_given(lib: Library) -> Any:
    return tuple(lib.nn.Parameter().shape), tuple(lib.nn.Buffer().shape), lib.nn.Parameter().requires_grad


@program
def writing_in_place(lib: Library) -> Any:
    module = lib.nn.Module()
    module.w = parameter(lib, requires_grad=False)
    p = next(module.parameters())
    seen = [p.copy_(lib.array([1.0, 2.0])) is p, copy.copy(module.w)]
    p.data = lib.array(np.ones((2, 2)))
    return [*seen, module.w, next(module.parameters()) is p]


@program
def identity_and_hash(lib: Library) -> Any:
    p, q = parameter(lib), parameter(lib)
    return len({p, q, p}), {p: 1, q: 2}[q], [p, q].index(q) if p is q else [x is q for x in (p, q)]


@program
def items(lib: Library) -> Any:
    p = lib.nn.Parameter(lib.array(3.0), requires_grad=False)
    return p.item(), float(p), int(p), p.detach(), p.tolist(), lib.nn.Parameter(lib.array([1.0])).item()


BINARY = ["add", "sub", "mul", "truediv", "pow", "matmul", "lt", "le", "gt", "ge"]


@program
def arithmetic(lib: Library) -> Any:
    p, q, array = parameter(lib), parameter(lib), lib.array([[2.0, 3.0], [1.0, 1.0]])
    seen = [getattr(operator, name)(p, other) for name in BINARY for other in (q, array)]
    seen += [getattr(operator, name)(array, p) for name in BINARY]
    seen += [getattr(operator, name)(p, 2.0) for name in BINARY if name != "matmul"]
    seen += [getattr(operator, name)(2.0, p) for name in BINARY if name != "matmul"]
    return [*seen, -p, abs(p), p.sum(), p.mean(), p.min(), p.max(), p.any(), p.all(), p.reshape(4), p.flatten(), p.T]


@program
def sums_over_parameters(lib: Library) -> Any:
    net = lib.filled(lib.Net())
    return sum((p**2).sum() for p in net.parameters()), sum(p.numel() for p in net.parameters())


@program
def buffers(lib: Library) -> Any:
    one, two = lib.nn.Buffer(lib.array([1.0])), lib.nn.Buffer(lib.array([1]), persistent=False)
    return one.persistent, two.persistent, tuple(one.shape), one + 1, copy.deepcopy(two).persistent


@program
def integer_parameters(lib: Library) -> Any:
    p = lib.nn.Parameter(lib.array([1, 2]), requires_grad=False)
    return p, p.requires_grad


@pytest.mark.parametrize("name", PROGRAMS)
def test_as_torch(torch: Any, name: str) -> None:
    agree(torch, PROGRAMS[name])


def test_iterating_over_a_parameter_ends() -> None:
    assert len(list(itertools.islice(iter(Parameter(jnp.arange(3.0))), 10))) == 3


def test_truth_is_that_of_the_value() -> None:
    assert not Parameter(jnp.zeros(()))
    assert not Parameter(jnp.zeros(1))


def test_representation() -> None:
    assert repr(Parameter(jnp.ones(1))) == "Parameter containing:\nArray([1.], dtype=float64)"
    assert repr(Parameter(jnp.ones(1), False)).endswith(" (requires_grad=False)")
    assert repr(Buffer(jnp.ones(1))) == "Buffer containing:\nArray([1.], dtype=float64)"


def test_only_numbers_that_have_derivatives_require_gradients() -> None:
    with pytest.raises(DtypeError, match="only floating and complex parameters can require gradients, got int"):
        Parameter(jnp.arange(3), requires_grad=False).requires_grad_()
    assert Parameter(jnp.ones(2, jnp.complex64)).requires_grad


def test_length_of_a_scalar() -> None:
    with pytest.raises(TypeError):
        len(Parameter(jnp.ones(())))


@pytest.mark.parametrize(
    "again", [copy.deepcopy, lambda cell: pickle.loads(pickle.dumps(cell))], ids=["deepcopy", "pickle"]
)
@pytest.mark.parametrize(
    "make",
    [
        lambda: Parameter(jnp.arange(3.0)),
        lambda: Parameter(jnp.arange(3), requires_grad=False),
        lambda: Parameter(jnp.ones(2, jnp.bfloat16)),
        lambda: Buffer(jnp.arange(3), persistent=False),
    ],
)
def test_copies(again: Any, make: Any) -> None:
    cell = make()
    twin = again(cell)
    assert type(twin) is type(cell) and twin is not cell and twin.data is not cell.data
    assert twin.dtype == cell.dtype and (twin.data == cell.data).all()
    assert getattr(twin, "requires_grad", None) == getattr(cell, "requires_grad", None)
    assert getattr(twin, "persistent", None) == getattr(cell, "persistent", None)


# -- one array, one cell ------------------------------------------------------------------------------------------------------


def test_reading_gives_the_same_array_until_it_is_written() -> None:
    linear = nn.Linear(2, 2)
    weight = linear.weight
    assert linear.weight is weight and isinstance(weight, jax.Array)
    assert owner_of(weight) is linear.get_parameter("weight")
    linear.weight = weight * 2
    assert linear.weight is not weight and owner_of(weight) is None


def test_an_array_belongs_to_one_cell_at_most() -> None:
    array = jnp.arange(3.0)
    first, second = Parameter(array), Parameter(array)
    assert first.data is array and second.data is not array
    third = Buffer(second.data)
    assert third.data is not second.data
    third.data = first.data
    assert third.data is not first.data and owner_of(array) is first
    held = {id(cell.data) for cell in (first, second, third)}
    assert len(held) == 3


def test_numpy_arrays_are_copied() -> None:
    """Their owner goes on writing to them."""
    array = np.ones(64)
    made, written = Parameter(array), Parameter(np.zeros(64))
    written.data = array
    array[:] = 5
    assert (made.data == 1).all() and (written.data == 1).all()


def test_weak_types_are_dropped() -> None:
    """Which would make the second call of a compiled function compile again."""
    assert not Parameter(jnp.asarray(1.0) * 1).data.weak_type
    weak = jnp.asarray(3.0) if jnp.asarray(3.0).weak_type else jax.lax.full((), 3.0)
    cell = Buffer(weak)
    assert not cell.data.weak_type
    cell.set(jnp.asarray(4.0))
    assert not cell.data.weak_type


def test_data_keeps_shape_and_dtype() -> None:
    cell = Parameter(jnp.ones((2, 2), jnp.float32))
    cell.data = np.zeros((2, 2))
    assert cell.dtype == jnp.float32
    with pytest.raises(ShapeError, match=r"expected shape \(2, 2\), got \(3,\)"):
        cell.data = jnp.ones(3)
    cell.copy_(3)
    assert (cell.data == 3).all() and cell.dtype == jnp.float32
    with pytest.raises(ValueError):
        cell.copy_(jnp.ones(3))
    assert (cell.data == 3).all()


def test_arrays_that_were_read_stay_valid() -> None:
    """A compiled call writes in place, but never into an array that somebody holds."""
    linear = nn.Linear(3, 3)
    step = fb.jit(lambda linear: setattr(linear, "weight", linear.weight * 2))
    held: list[Any] = [linear.weight, linear.get_parameter("weight").data, linear.state_dict()["weight"]]
    for _ in range(3):
        step(linear)
        step(linear)
        held += [linear.weight, next(linear.parameters()).data]
    first = np.asarray(held[0])
    for array, power in zip(held, [0, 0, 0, 2, 2, 4, 4, 6, 6], strict=True):
        np.testing.assert_allclose(array, first * 2**power)


def test_threads_do_not_mix() -> None:
    """A cell read in another thread while a function is traced gives its value, and no tracer."""
    import threading

    linear, seen = nn.Linear(2, 2), []

    @fb.jit
    def function(linear: Any) -> Any:
        thread = threading.Thread(target=lambda: seen.append(linear.weight))
        thread.start()
        thread.join()
        return linear.weight

    function(linear)
    assert not isinstance(seen[0], Tracer) and seen[0] is linear.weight


# -- without a shape ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [UninitializedParameter, UninitializedBuffer])
def test_uninitialized(kind: Any) -> None:
    module: Any = Module()
    cell = kind(dtype=jnp.float16)
    module.x = cell
    for read in (
        lambda: module.x + 1,
        lambda: cell.shape,
        lambda: cell.data,
        lambda: cell + 1,
        lambda: nn.init.zeros_(cell),
    ):
        with pytest.raises(StateError, match="has no shape yet"):
            read()
    assert repr(cell) == f"<{kind.__name__}>" and copy.deepcopy(module)._find is not None
    assert type(pickle.loads(pickle.dumps(cell))) is kind
    assert module.state_dict()["x"] is cell
    cell.materialize((2, 3))
    assert type(cell) is kind.__mro__[2] and module.x.tolist() == [[0.0] * 3] * 2
    assert module.x.dtype == jnp.float16 and isinstance(cell, Cell)


def test_uninitialized_takes_its_shape_from_a_state_dict() -> None:
    module: Any = Module()
    module.x = UninitializedParameter()
    module.half()
    module.load_state_dict({"x": np.ones((2, 2), np.float32)})
    assert module.state_dict()["x"].tolist() == [[1, 1], [1, 1]]
    assert module.x.dtype == jnp.float16
