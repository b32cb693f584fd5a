"""State in objects of every kind on a module, and in attributes that Python writes past `__setattr__`."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import threading
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.core import Tracer

import flambeau as fb
from flambeau import nn

X = jnp.array([0.3, -0.4])


@dataclasses.dataclass(slots=True)
class Slotted:
    total: Any
    count: int = 0


@pytest.mark.filterwarnings("ignore::flambeau.RecompilationWarning")
@pytest.mark.parametrize("kind", [Slotted, types.SimpleNamespace, argparse.Namespace])
def test_objects_of_every_kind_are_state(kind: Any) -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.held = kind(total=jnp.zeros(()), count=0)

        def forward(self, x: Any) -> Any:
            self.held.total = self.held.total + x
            self.held.count += 1
            return self.held.total * self.held.count

    net = Counting()
    call = fb.jit(net)
    assert [float(call(jnp.ones(()))) for _ in range(3)] == [1, 4, 9]
    assert (float(net.held.total), net.held.count) == (3, 3)
    net.held.total = jnp.full((), 6.0)
    assert float(call(jnp.ones(()))) == 28


def test_devices_meshes_and_locks_may_stand_on_a_module() -> None:
    class Placed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.device, self.lock = jax.devices()[0], threading.Lock()
            self.mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("x",))
            self.place = jax.sharding.NamedSharding(self.mesh, jax.sharding.PartitionSpec())

        def forward(self, x: Any) -> Any:
            with self.lock:
                return jax.lax.with_sharding_constraint(2 * x, self.place)

    net = Placed()
    call = fb.jit(net)
    for _ in range(2):
        np.testing.assert_array_equal(net(X), 2 * X)
        np.testing.assert_array_equal(call(X), 2 * X)
        jax.device_put(X, net.place)  # whereupon JAX keeps things in it
    np.testing.assert_array_equal(fb.scan(lambda carry, x: (carry, net(x)), 0, X)[1], 2 * X)
    assert fb.explain(call).reasons == ["first call"]


class Cached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight: Any = nn.Parameter(jnp.ones(3))

    @functools.cached_property
    def table(self) -> Any:
        return jnp.eye(3) * self.weight

    @functools.cached_property
    def factor(self) -> float:
        return 2.0

    def forward(self, x: Any) -> Any:
        return self.factor * x @ self.table


@pytest.mark.parametrize(
    "wrap",
    [
        fb.jit,
        lambda net: lambda x: fb.grad(lambda net: net(x).sum(), has_aux=False)(net),
        lambda net: lambda x: fb.scan(lambda carry, x: (carry, net(x)), 0, x),
        fb.vmap,
        fb.checkpoint,
    ],
    ids=["jit", "grad", "scan", "vmap", "checkpoint"],
)
def test_a_cached_property_is_an_attribute_that_is_written_once(wrap: Any) -> None:
    net, x = Cached(), jnp.ones((2, 3))
    call = wrap(net)
    for _ in range(2):
        call(x)
    assert net.factor == 2.0 and not isinstance(net.table, Tracer)
    np.testing.assert_array_equal(net.table, np.eye(3))
    np.testing.assert_array_equal(net(x), 2 * x)
    net.weight = jnp.zeros(3)
    np.testing.assert_array_equal(net(x), 2 * x)  # once, as in Python
    del net.table
    np.testing.assert_array_equal(net(x), 0 * x)


def test_a_cached_property_keeps_nothing_that_is_not_to_stay() -> None:
    net, x = Cached(), jnp.ones((2, 3))
    assert fb.eval_shape(net, x).shape == (2, 3)
    values = dict(net.state_dict())
    same = jax.jit(lambda values, x: fb.functional_call(net, values, x))(values, x)
    np.testing.assert_array_equal(same, 2 * x)
    assert not {"table", "factor"} & {*net.__dict__, *net._arrays}


def test_slots_of_a_module_are_refused() -> None:
    with pytest.raises(TypeError, match=r"Fixed: attributes in slots \(size\)"):

        class Fixed(nn.Module):  # pyright: ignore[reportUnusedClass]
            __slots__ = ("size",)


def test_a_new_attribute_under_vmap_is_one_for_all_elements() -> None:
    def remember(x: Any) -> Any:
        net.last = 2 * net.weight
        return x * net.last

    net: Any = Cached()
    fb.vmap(remember)(jnp.ones((4, 3)))
    np.testing.assert_array_equal(net.last, 2 * np.ones(3))
    other: Any = Cached()
    with pytest.raises(fb.StateError, match="depends on the mapped axis"):
        fb.vmap(lambda x: setattr(other, "last", x))(jnp.ones((4, 3)))
    assert not hasattr(other, "last")


@pytest.mark.parametrize("transform", [lambda net: net, fb.jit, fb.checkpoint])
def test_an_exception_leaves_objects_as_they_were(transform: Any) -> None:
    class Failing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.held = types.SimpleNamespace(count=0, seen=[1], last=None)

        def forward(self, x: Any) -> Any:
            self.held.count += 1
            self.held.seen.append(2)
            self.held.last = x.shape
            self.held.new = 3
            raise RuntimeError("in the middle")

    net = Failing()
    with pytest.raises(RuntimeError, match="in the middle"):
        transform(net)(X)
    assert vars(net.held) == {"count": 0, "seen": [1], "last": None}


@pytest.mark.parametrize("transform", [lambda function: function, fb.jit, fb.value_and_grad])
@pytest.mark.parametrize("value", ["a number", "what it was given"])
def test_objects_under_raw_transforms(value: str, transform: Any) -> None:
    class Keeping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.held = types.SimpleNamespace(last=None)

        def forward(self, x: Any) -> Any:
            self.held.last = 1.5 if value == "a number" else x
            return x

    net = Keeping()
    with pytest.raises(fb.StateError):
        transform(lambda x: jax.lax.scan(lambda _, x: (0, net(x)), 0, x)[1].sum())(X)
    assert net.held.last is None


@pytest.mark.parametrize("inner", ["grad", "checkpoint", "hessian", "jvp", "vmap"])
@pytest.mark.parametrize("compiled", [False, True])
def test_objects_hold_arrays_after_every_transform(compiled: bool, inner: str) -> None:
    class Keeping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(jnp.ones(2))
            self.held = types.SimpleNamespace(last=None, calls=0, seen=[])
            self.seen = self.held.seen

        def forward(self, x: Any) -> Any:
            self.held.last = x * self.weight
            self.held.calls += 1
            self.held.seen.append("called")
            return (x * self.weight).sum()

    runs = {
        "grad": lambda net, x: fb.grad(lambda net: net(x))(net),
        "checkpoint": lambda net, x: fb.checkpoint(net)(x),
        "hessian": lambda net, x: fb.hessian(lambda x: net(x))(x),
        "jvp": lambda net, x: fb.jvp(lambda x: net(x), (x,), (x,)),
        "vmap": lambda net, x: fb.vmap(lambda y: net(x) * y)(jnp.arange(3.0)),
    }
    net = Keeping()
    seen = net.held.seen
    for _ in range(2):
        (fb.jit(runs[inner]) if compiled else runs[inner])(net, X)
    np.testing.assert_allclose(net.held.last, X, rtol=1e-6)
    assert net.held.calls == 2 and net.held.seen is seen and seen == ["called"] * 2


def test_eval_shape_of_a_function_that_calls_a_module_leaves_its_objects_alone() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.held = types.SimpleNamespace(shapes=[])

        def forward(self, x: Any) -> Any:
            self.held.shapes.append(x.shape)
            self.held.last = x.shape
            return x

    net = Counting()
    assert fb.eval_shape(lambda x: net(net(x)), X).shape == (2,)
    assert vars(net.held) == {"shapes": []}
