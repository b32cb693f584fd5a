"""Derivatives beyond `fb.grad`, and `fb.checkpoint`: JAX's numbers, with state written once."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flambeau as fb
from flambeau import nn
from tests.transforms.small import same
from tests.transforms.states import Observer, assert_same

X = jnp.arange(6.0).reshape(2, 3) / 5


class Stateful(nn.Module):
    """Statistics, random numbers and a list, around a smooth function."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.norm = nn.BatchNorm1d(2)
        self.dropout = nn.Dropout(0.3)
        self.trace: list[Any] = []

    def forward(self, x: Any) -> Any:
        y = self.dropout(jnp.tanh(self.norm(self.linear(x))))
        self.trace.append(jax.lax.stop_gradient(y))
        return y


def fresh() -> Any:
    fb.manual_seed(2)
    net = Stateful().double()
    return net


def state_of(net: Any) -> Any:
    return Observer(holds=True).state(net, fb.default_generator)


def pure(net: Any) -> Any:
    """The same as a function of a dict of parameters, for JAX's own transforms; with the draws of the first call."""
    key, buffers = fb.get_rng_state(), dict(net.named_buffers())

    def call(parameters: Any, x: Any) -> Any:
        fb.set_rng_state(key)
        return fb.functional_call(
            net, ({**parameters, **{n: b.data for n, b in buffers.items()}}), (x,), return_state=True
        )[0]

    return jax.tree.map(lambda p: p.data, dict(net.named_parameters())), call


def close(got: Any, expected: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), got, expected)


def by_vjp(net: Any, x: Any) -> Any:
    y, pullback = fb.vjp(lambda net, x: net(x), net, x)
    grads, x_bar = pullback(jnp.ones_like(y))
    return dict(grads), x_bar


def by_linearize(net: Any, x: Any) -> Any:
    _, pushforward = fb.linearize(lambda net, x: net(x), net, x)
    return pushforward({"linear.bias": jnp.ones(2)}, jnp.zeros_like(x))


def by_jvp(net: Any, x: Any) -> Any:
    return fb.jvp(lambda net, x: net(x), (net, x), ({"linear.bias": jnp.ones(2)}, jnp.zeros_like(x)))[1]


def as_dicts(found: Any) -> Any:
    return tuple(dict(part) if isinstance(part, dict) else part for part in found)


# Ours on a module, and JAX's on its pure form.
WAYS = {
    "vjp": (by_vjp, lambda p, f, x: jax.vjp(f, p, x)[1](jnp.ones((2, 2)))),
    "jvp": (by_jvp, None),
    "linearize": (by_linearize, None),
    "jacrev": (
        lambda net, x: as_dicts(fb.jacrev(lambda net, x: net(x), argnums=(0, 1))(net, x)),
        lambda p, f, x: jax.jacrev(f, argnums=(0, 1))(p, x),
    ),
    "jacfwd": (
        lambda net, x: as_dicts(fb.jacfwd(lambda net, x: net(x), argnums=(0, 1))(net, x)),
        lambda p, f, x: jax.jacfwd(f, argnums=(0, 1))(p, x),
    ),
    "hessian": (
        lambda net, x: {n: dict(g) for n, g in fb.hessian(lambda net: net(x).sum())(net).items()},
        lambda p, f, x: jax.hessian(lambda p: f(p, x).sum())(p),
    ),
}


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("way", WAYS)
def test_numbers_are_jaxs_and_state_is_written_once(way: str, compiled: bool) -> None:
    ours, jaxs = WAYS[way]
    net = fresh()
    parameters, call = pure(net)
    if jaxs is None:
        direction = {n: jnp.ones(2) if n == "linear.bias" else jnp.zeros_like(p) for n, p in parameters.items()}
        expected = jax.jvp(call, (parameters, X), (direction, jnp.zeros_like(X)))[1]
    else:
        expected = jaxs(parameters, call, X)
    net = fresh()
    close((fb.jit(ours) if compiled else ours)(net, X), expected)
    plain = fresh()
    plain(X)
    assert_same(state_of(plain), state_of(net))


def test_aux_and_several_cotangents() -> None:
    net = fresh()
    y, pullback, aux = fb.vjp(lambda net: (net(X), net.trace), net, has_aux=True)
    assert aux is net.trace
    once, twice = pullback(jnp.ones_like(y))[0], pullback(2 * jnp.ones_like(y))[0]
    for name, grad in once.items():
        same(twice[name], 2 * grad)
    assert once.parameter("linear.weight") is net.linear.get_parameter("weight")
    assert len(net.trace) == 1
    jacobian, aux = fb.jacrev(lambda net: (net(X), "aux"), has_aux=True)(net)
    assert aux == "aux"
    assert jacobian["linear.bias"].shape == (2, 2, 2)


def test_pullbacks_inside_of_a_compiled_function() -> None:
    net = fresh()

    @fb.jit
    def step(net: Any, x: Any) -> Any:
        y, pullback = fb.vjp(lambda net: net(x), net)
        return dict(pullback(y)[0])

    got = step(net, X)
    net = fresh()
    y, pullback = fb.vjp(lambda net: net(X), net)
    close(got, dict(pullback(y)[0]))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda net: fb.jvp(lambda net: net(X), (net,), ({"bias": X},)),
            KeyError,
            "no trainable parameter 'bias'; it has linear",
        ),
        (lambda net: fb.jvp(lambda net, x: net(x), (net, X), ({},)), ValueError, "expected 2 tangents"),
        (lambda net: fb.vjp(lambda x: x, jnp.arange(3)), fb.DtypeError, "expected inexact arrays"),
        (lambda net: fb.jacrev(lambda net: net(X), argnums=3)(net), ValueError, "argnums 3 does not fit"),
        (lambda net: fb.jacrev(lambda net: net(X), has_aux=True)(net), TypeError, "expects \\(value, aux\\)"),
    ],
)
def test_mistakes_change_nothing(call: Any, error: Any, message: str) -> None:
    net = fresh()
    before = state_of(net)
    with pytest.raises(error, match=message):
        call(net)
    assert_same(before, state_of(net))


# -- checkpoint -------------------------------------------------------------------------------------------------------------

POLICIES = [None, jax.checkpoint_policies.dots_saveable, jax.checkpoint_policies.everything_saveable]


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("policy", POLICIES)
def test_checkpoint_changes_nothing_but_memory(policy: Any, compiled: bool) -> None:
    def loss(call: Any) -> Any:
        run = fb.value_and_grad(lambda net, x: (call(net)(x) ** 2).sum(), argnums=(0, 1))
        return fb.jit(run) if compiled else run

    plain, net = fresh(), fresh()
    fb.manual_seed(1)
    expected = loss(lambda net: net)(plain, X)
    fb.manual_seed(1)
    got = loss(lambda net: fb.checkpoint(net, policy=policy))(net, X)
    close(got[0], expected[0])
    close(as_dicts(got[1]), as_dicts(expected[1]))
    jax.tree.map(same, dict(net.state_dict()), dict(plain.state_dict()))
    assert len(net.trace) == 1


def test_checkpoint_computes_again_and_keeps_less() -> None:
    net = nn.Sequential(*(layer for _ in range(4) for layer in (nn.Linear(64, 64), nn.Tanh()))).double()
    x = jnp.ones((256, 64))

    def tangents(call: Any) -> int:
        run = fb.jit(fb.grad(lambda net, x: call(net, x).sum()))
        return str(run.trace(net, x).jaxpr).count("tanh")

    assert tangents(lambda net, x: fb.checkpoint(net)(x)) == 2 * tangents(lambda net, x: net(x))


def test_checkpoint_sequential_is_the_chain() -> None:
    net = nn.Sequential(*(nn.Linear(3, 3) for _ in range(7)), nn.BatchNorm1d(3)).double()
    with pytest.raises(ValueError, match="between 1 and 8"):
        fb.checkpoint_sequential(net, 9, X)
    expected = fb.grad(lambda net: (net(X) ** 2).sum())(net)
    for segments in (1, 3, 8):
        got = fb.grad(lambda net, n: (fb.checkpoint_sequential(net, n, X) ** 2).sum())(net, segments)
        close(dict(got), dict(expected))
    assert int(net[-1].num_batches_tracked) == 4


def test_pythons_values_stay_what_they_are() -> None:
    seen = []

    def fun(x: Any, flag: bool, name: str) -> Any:
        seen.append((flag, name))
        return (x if flag else -x), name

    value, name = fb.checkpoint(fun)(jnp.ones(2), False, name="net")
    same(value, -jnp.ones(2))
    assert (name, seen) == ("net", [(False, "net")])


# -- eval_shape -------------------------------------------------------------------------------------------------------------


def test_eval_shape_leaves_nothing_behind() -> None:
    net = fresh()
    before = state_of(net)
    shape = fb.eval_shape(net, jax.ShapeDtypeStruct((7, 3), "float64"))
    assert (shape.shape, str(shape.dtype)) == ((7, 2), "float64")
    assert_same(before, state_of(net))
    lazy = nn.Sequential(nn.LazyLinear(5), nn.LazyBatchNorm1d())
    key = fb.get_rng_state()
    assert fb.eval_shape(lazy, jax.ShapeDtypeStruct((7, 3), "float32")).shape == (7, 5)
    assert repr(lazy).count("Lazy") == 2
    np.testing.assert_array_equal(key, fb.get_rng_state())
    with pytest.raises(TypeError, match="expected arrays, got a Linear"):
        fb.eval_shape(lambda: nn.Linear(2, 2))
    assert fb.jit(lambda x: x * fb.eval_shape(net, x).shape[1])(X).shape == (2, 3)
