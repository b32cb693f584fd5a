"""Programs that random search found to differ from eager execution once, made short."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flambeau as fb
from flambeau import nn

X = jnp.array([0.3, -0.4])
named: Any = None


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight: Any = nn.Parameter(jnp.array([1.0, 0.9]))
        self.register_buffer("mean", jnp.zeros(2))
        self.history: Any = [X]
        self.h: Any = jnp.ones(2)
        self.g: Any = jnp.zeros(2)

    def forward(self, x: Any) -> Any:
        return x * self.weight


class Box:
    """An object that is no module, and holds one."""

    models: dict[str, Any]


def contents(net: Any) -> Any:
    return {
        name: jax.tree.map(np.asarray, getattr(net, name, None)) for name in ("weight", "mean", "history", "h", "g")
    }


def a_list_then_an_array(net: Any, x: Any, jit: Any) -> Any:
    def to_list(v: Any) -> Any:
        net.h = [v]
        return v.sum()

    def to_array(v: Any) -> Any:
        net.h = net.g = v
        return v.sum()

    return jit(to_list)(x) + jit(to_array)(x)


def an_outer_tracer_in_a_list(net: Any, x: Any, jit: Any) -> Any:
    def local(v: Any) -> Any:
        net.history.append(y)
        net.mean = y
        return (v * v * net.weight).sum()

    y = x * 2
    return jit(fb.grad(local))(x)


def a_flag(net: Any, x: Any, jit: Any) -> Any:
    net.get_parameter("weight").requires_grad_(False)
    return x


def a_list_twice(net: Any, x: Any, jit: Any) -> Any:
    shared = [x]
    net.h, net.g = shared, [shared]
    net.g[0].append(x)
    return x


@pytest.mark.parametrize("program", [a_list_then_an_array, an_outer_tracer_in_a_list, a_flag, a_list_twice])
@pytest.mark.parametrize("captured", [False, True])
def test_as_eager(program: Callable[..., Any], captured: bool) -> None:
    def run(jit: Any) -> Any:
        box = Box()
        box.models = {"net": Net()}
        net = box.models["net"]
        if captured:
            call = jit(lambda x: program(box.models["net"], x, jit))
            results = [call(X) for _ in range(2)]
        else:
            call = jit(lambda net, x: program(net, x, jit))
            results = [call(net, X) for _ in range(2)]
        same_list = isinstance(net.h, list) and net.g[0] is net.h
        return results, contents(net), net.get_parameter("weight").requires_grad, same_list

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), run(fb.jit), run(lambda fun: fun))


@pytest.mark.parametrize("wrap", [lambda fun: fun, fb.jit, fb.checkpoint, lambda fun: fb.jit(fb.checkpoint(fun))])
def test_a_copy_has_the_lists_that_were_assigned_and_not_those_that_were_deleted(wrap: Any) -> None:
    def program(net: Any, x: Any) -> Any:
        net.h = [x.sum()]
        net.new = {"x": x}
        net.history.append(2 * x)
        del net.g
        assert {"h", "new"} <= set(dir(net)) and "g" not in dir(net)
        net.copy = copy.deepcopy(net)
        net.h.append(x)
        return x.sum()

    net = Net()
    net.g = [X]
    wrap(program)(net, X)
    expected = {"history": [X, 2 * X], "h": [X.sum()], "new": {"x": X}}
    jax.tree.map(np.testing.assert_allclose, {name: getattr(net.copy, name) for name in expected}, expected)
    assert len(net.h) == 2 and not hasattr(net.copy, "g") and not hasattr(net, "g")


@pytest.mark.parametrize("wrap", [lambda fun: fun, fb.jit, fb.checkpoint])
def test_an_array_that_a_parameter_was_given_stands_for_it(wrap: Any) -> None:
    def program(net: Any, other: Any, x: Any) -> Any:
        value = 2 * x
        net.weight = value
        other.alias = value
        return value.sum()

    net, other = Net(), Net()
    wrap(program)(net, other, X)
    assert other.get_parameter("alias") is net.get_parameter("weight")
    np.testing.assert_allclose(other.alias, 2 * X)


def test_a_module_with_a_hook_is_copied_inside() -> None:
    def program(net: Any, x: Any) -> Any:
        with net.register_forward_hook(lambda module, args, output: 2 * output):
            net.copy = copy.deepcopy(net)
            return net(x)

    for wrap in (fb.jit, lambda fun: fun):
        net = Net()
        for _ in range(2):
            np.testing.assert_allclose(wrap(program)(net, X), 2 * X * net.weight, rtol=1e-12)
            np.testing.assert_allclose(net(X), X * net.weight, rtol=1e-12)  # the hook was removed
            np.testing.assert_allclose(net.copy(X), 2 * X * net.weight, rtol=1e-12)  # but not from the copy


def test_a_hook_registered_inside_is_on_every_module_of_the_structure() -> None:
    def program(net: Any, x: Any) -> Any:
        net.register_forward_hook(lambda module, args, output: 2 * output)
        return net(x)

    call = fb.jit(program)
    for net in (Net(), Net()):
        np.testing.assert_allclose(call(net, X), 2 * X * net.weight, rtol=1e-12)
        np.testing.assert_allclose(net(X), 2 * X * net.weight, rtol=1e-12)
        assert len(net._forward_hooks) == 1 and not net._forward_pre_hooks


def test_a_module_that_is_only_returned_is_itself() -> None:
    box = Box()
    box.models = {"net": Net()}
    box.models["parameter"] = box.models["net"].get_parameter("weight")
    call = fb.jit(lambda x: (x, box.models["net"], box.models["parameter"]))
    for _ in range(2):
        _, net, parameter = call(X)
        assert net is box.models["net"] and parameter is box.models["parameter"]


@pytest.mark.parametrize("wrap", [lambda fun: fun, fb.jit])
def test_an_array_made_a_parameter_stands_for_it(wrap: Any) -> None:
    def program(net: Any, x: Any) -> Any:
        y = x * 2
        net.extra = nn.Parameter(y)
        net.tied = y
        return y.sum()

    net = Net()
    wrap(program)(net, X)
    assert net.get_parameter("extra") is net.get_parameter("tied")
    net = Net()
    fb.value_and_grad(wrap(program))(net, X)
    assert net.get_parameter("extra") is net.get_parameter("tied")


class Settings:
    """A mutable object that is no container and no module."""

    itself: Any
    seen: Any

    def __init__(self) -> None:
        self.scale = 0.5


SHARED = Settings()


class Configured(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.own = Settings()

    def forward(self, x: Any) -> Any:
        self.made = Settings()
        self.made.itself, self.made.seen = self.made, x
        self.listed = [self.made]
        self.table = np.zeros(2)
        self.same, self.constant = self.own, SHARED
        return x + self.made.scale


def test_objects_that_a_function_makes_are_made_anew_at_each_call() -> None:
    step: Any = fb.jit(lambda net, x: net(x))
    made: list[Any] = []
    for call in range(4):
        net: Any = Configured()
        step(net, jnp.full(2, float(call)))
        assert net.made.itself is net.made is net.listed[0]
        assert net.same is net.own and net.constant is SHARED
        assert net.made.scale == 0.5 and net.table.tolist() == [0, 0]
        np.testing.assert_array_equal(net.made.seen, np.full(2, call))
        assert all(net.made is not other.made and net.table is not other.table for other in made)
        net.made.scale, net.table[0] = 2.0, 1
        made.append(net)


def constants(v: Any) -> Any:
    return jnp.sum(v * v), jnp.array([0.0, 0.1]), jnp.asarray(2.5), jnp.asarray(True), jnp.array([1, 2], jnp.int32)


@fb.custom_vjp
def by_vjp(v: Any) -> Any:
    return constants(v)


by_vjp.defvjp(lambda v: (constants(v), v), lambda v, cotangents: (2 * v * cotangents[0],))


@fb.custom_jvp
def by_jvp(v: Any) -> Any:
    return constants(v)


by_jvp.defjvps(lambda t, outs, v: (2 * jnp.sum(v * t), *map(jnp.zeros_like, outs[1:])))


@pytest.mark.parametrize(
    "derive",
    [
        lambda f: f(X),
        lambda f: fb.vjp(f, X)[0],
        lambda f: fb.linearize(f, X)[0],
        lambda f: fb.grad(lambda v: (v.sum(), f(v)), has_aux=True)(X)[1],
        lambda f: fb.jit(fb.grad(lambda v: (v.sum(), f(v)), has_aux=True))(X)[1],
    ],
    ids=["call", "vjp", "linearize", "grad", "jit of grad"],
)
@pytest.mark.parametrize("function", [fb.checkpoint(constants), by_vjp, by_jvp, fb.checkpoint(by_vjp)])
def test_constants_come_out_as_arrays(function: Any, derive: Callable[..., Any]) -> None:
    # JAX gives literals, of numpy's or Python's types, where it evaluates a program step by step.
    for got, expected in zip(derive(function), constants(X), strict=True):
        assert isinstance(got, jax.Array) and got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)


def test_a_constant_gradient_is_an_array() -> None:
    function = fb.custom_vjp(lambda v: v.sum())
    function.defvjp(lambda v: (v.sum(), None), lambda _, cotangent: (jnp.array([1.0, 2.0]),))
    for gradient in (fb.grad(fb.checkpoint(function))(X), fb.vjp(fb.checkpoint(function), X)[1](1.0)[0]):
        assert isinstance(gradient, jax.Array)
        np.testing.assert_array_equal(gradient, [1, 2])


@pytest.mark.parametrize(
    "around",
    [
        fb.checkpoint,
        lambda f: lambda v: fb.map(lambda y: f(v * y), jnp.arange(3.0)).sum(),
        lambda f: lambda v: fb.fori_loop(0, 2, lambda i, total: total + f(v), 0.0),
        lambda f: lambda v: fb.cond(v[0] > 0, f, f, v),
        lambda f: lambda v: fb.vmap(lambda y: f(v * y))(jnp.arange(3.0)).sum(),
        fb.jit,
    ],
    ids=["checkpoint", "map", "fori_loop", "cond", "vmap", "jit"],
)
@pytest.mark.parametrize("transform", [lambda f: f, fb.grad, fb.jit], ids=["", "grad", "jit"])
@pytest.mark.filterwarnings("ignore::flambeau.RecompilationWarning")
def test_a_module_that_is_made_inside_holds_arrays(transform: Any, around: Any) -> None:
    net, other = Net(), Net()

    def inner(v: Any) -> Any:
        other.made, other.history = Net(), [jnp.array([0.0, 0.1])]
        return (net.weight * v).sum()

    transform(around(inner))(X)
    for array in (other.made.weight, other.made.mean, *other.history, *other.made.history):
        assert isinstance(array, jax.Array)


@pytest.mark.parametrize("wrap", [lambda fun: fun, fb.grad, lambda fun: fb.checkpoint(fb.grad(fun))])
def test_what_a_module_made_inside_names_may_be_another_one_later(wrap: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Counting(Net):
        def forward(self, x: Any) -> Any:
            named.mean = named.mean + x
            return super().forward(x)

    def call(x: Any) -> Any:
        return fb.scan_layers([Counting(), Counting()], x).sum()

    compiled = fb.jit(wrap(call))
    for _ in range(2):
        shared = Net()
        monkeypatch.setitem(globals(), "named", shared)
        compiled(X)
        np.testing.assert_allclose(shared.mean, X + X * Net().weight)
    assert len(compiled.compilations()) == 1
