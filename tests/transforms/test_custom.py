"""`fb.custom_vjp` and `fb.custom_jvp`: the rule's numbers, wherever they are nested, and mistakes in rules.

What they do with state is in `test_custom_state.py`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flambeau as fb
from flambeau import nn
from tests.transforms.gates import (
    KINDS,
    Gate,
    checkpointed,
    chosen,
    compiled,
    forward,
    looped,
    mapped,
    once,
    plain,
    reverse,
    scanned,
)
from tests.transforms.small import Net, X, same
from tests.transforms.states import Observer, assert_same

# -- The rule's numbers -------------------------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize(
    ("loss", "wrap"),
    [
        *((loss, fb.jit) for loss in (once, scanned, looped, chosen)),
        *((loss, lambda f: f) for loss in (once, mapped, checkpointed, compiled)),
    ],
)
def test_the_rule_gives_the_derivative(make: Any, loss: Any, wrap: Any) -> None:
    """Three times the derivative where the rule says so, with the state of a run without the rule."""
    net, twin = Gate(), Gate()
    step = wrap(fb.value_and_grad(lambda net, x: loss(make(3.0), net, x), argnums=(0, 1)))
    value, (grads, x_bar) = step(net, X)
    expected, (true, true_x) = fb.value_and_grad(lambda net, x: loss(plain, net, x), argnums=(0, 1))(twin, X)
    same(value, expected)
    np.testing.assert_allclose(grads["weight"], 3 * true["weight"], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(x_bar, 3 * true_x, rtol=1e-9, atol=1e-12)
    assert list(grads) == ["weight"]
    assert_same(Observer(holds=True).state(twin), Observer(holds=True).state(net))


@KINDS
def test_outside_of_differentiation_the_function_runs_as_it_stands(make: Any) -> None:
    """In Python, with values that are known; under other transforms as any function."""
    net, twin = Gate(), Gate()
    gate = make()
    same(gate(net, X), twin(X))
    same(fb.jit(gate)(net, X), twin(X))
    same(fb.vmap(gate, in_axes=(None, 0), write="stack")(net, X), twin(X))
    assert int(net.count) == 3 and int(twin.count) == 3

    @fb.custom_vjp
    def absolute(x: Any) -> Any:
        return x if x > 0 else -x

    absolute.defvjp(lambda x: (absolute(x), None), lambda _, y_bar: (y_bar,))
    assert absolute(-2.0) == 2.0


@settings(max_examples=8)
@given(
    order=st.integers(1, 3), mode=st.sampled_from(["vjp", "jvp"]), jit=st.sampled_from(["none", "inside", "outside"])
)
def test_rules_that_call_their_function_have_derivatives_of_any_order(order: int, mode: str, jit: str) -> None:
    """d/dx sin is said to be 2 cos, and of cos, -3 sin: each order shows which rules were used."""
    sin: Any
    cos: Any
    sin, cos = (fb.custom_vjp(f) if mode == "vjp" else fb.custom_jvp(f) for f in (jnp.sin, jnp.cos))
    if isinstance(sin, fb.custom_vjp):
        sin.defvjp(lambda x: (sin(x), x), lambda x, y_bar: (2 * y_bar * cos(x),))
        cos.defvjp(lambda x: (cos(x), x), lambda x, y_bar: (-3 * y_bar * sin(x),))
    else:
        sin.defjvps(lambda x_dot, y, x: 2 * x_dot * cos(x))
        cos.defjvps(lambda x_dot, y, x: -3 * x_dot * sin(x))
    f = fb.jit(lambda x: sin(x)) if jit == "inside" else sin
    for _ in range(order):
        f = fb.grad(f)
    f = fb.jit(f) if jit == "outside" else f
    expected = [2 * np.cos(0.3), -6 * np.sin(0.3), -12 * np.cos(0.3)][order - 1]
    np.testing.assert_allclose(f(0.3), expected, rtol=1e-9, atol=1e-12)


def test_a_rule_may_call_its_function_on_other_things() -> None:
    """Another shape, another module, and a module in another mode are another call."""

    class Mode(nn.Module):
        def forward(self, x: Any) -> Any:
            return x * (3 if self.training else 5)

    net, other = Mode(), Mode().eval()
    called = fb.custom_vjp(plain)

    def bwd(_: Any, y_bar: Any) -> Any:
        first = called(net, y_bar[:1])
        second = called(other, y_bar)
        net.eval()
        third = called(net, y_bar)
        net.train()
        return None, first.sum() + 100 * second + 10_000 * third

    called.defvjp(lambda net, x: (called(net, x), None), bwd)
    for wrap in (lambda f: f, fb.jit):
        same(wrap(fb.grad(lambda x: called(net, x).sum()))(jnp.ones(4)), jnp.full(4, 50_503.0))


def test_forward_mode() -> None:
    net, gate = Gate(), forward(5.0)
    x_dot, weight_dot = jnp.ones_like(X), jnp.full((3, 2), 0.5)
    y, y_dot = fb.jvp(gate, (net, X), ({"weight": weight_dot}, x_dot))
    expected, true = fb.jvp(plain, (net, X), ({"weight": weight_dot}, x_dot))
    same(y, expected)
    np.testing.assert_allclose(y_dot, 5 * true, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        fb.hessian(lambda x: once(gate, net, x))(X), fb.jacrev(fb.jacrev(lambda x: once(gate, net, x)))(X), rtol=1e-9
    )
    with pytest.raises(TypeError, match="forward-mode"):
        fb.jvp(reverse(), (net, X), ({}, x_dot))


def test_what_was_written_for_jax_gives_the_same_numbers() -> None:
    """Arrays alone, in trees, with integers and defaults among them."""

    def make(api: Any) -> Any:
        @api.custom_vjp
        def f(tree: Any, n: Any, scale: Any = 2.0) -> Any:
            return {"y": scale * tree["a"] * tree["b"][0] ** n, "n": n + 1}

        def fwd(tree: Any, n: Any, scale: Any = 2.0) -> Any:
            return f(tree, n, scale), (tree, n)

        def bwd(residuals: Any, cotangent: Any) -> Any:
            _, n = residuals
            assert cotangent["n"].dtype == jax.dtypes.float0
            return {"a": 7 * cotangent["y"] * n, "b": None}, None, None

        f.defvjp(fwd, bwd)
        return f

    tree = {"a": jnp.arange(3.0), "b": [jnp.full(3, 2.0), jnp.ones(2)]}
    made = [(api, make(api)) for api in (jax, fb)]
    theirs, ours = (api.grad(lambda tree, f=f: f(tree, jnp.array(3))["y"].sum())(tree) for api, f in made)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)


def test_tangents_of_what_has_none() -> None:
    """Integers have tangents of JAX's dtype for such, a number of Python a zero, and other things None."""

    @fb.custom_jvp
    def power(x: Any, n: Any, scale: Any, name: str) -> Any:
        return {"y": scale * x**n, "n": n + 1}

    @power.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        x_dot, n_dot, scale_dot, name_dot = tangents
        assert (n_dot.dtype, n_dot.shape, name_dot) == (jax.dtypes.float0, (2,), None)
        return power(*primals), {"y": 7 * x_dot + scale_dot, "n": n_dot}

    for wrap in (lambda f: f, fb.jit):
        same(wrap(fb.grad(lambda x: power(x, jnp.array([2, 3]), 0.5, "text")["y"].sum()))(jnp.ones(2)), [7.0, 7.0])


def test_a_method_with_keywords_and_defaults() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale: Any = nn.Parameter(jnp.full((), 2.0))

        @fb.custom_vjp
        def forward(self, x: Any, power: int = 2) -> Any:
            return self.scale * x**power

        def _fwd(self, x: Any, power: int) -> Any:
            return self.forward(x, power), (self, x, power)

        def _bwd(self: Any, y_bar: Any) -> Any:
            net, x, power = self
            return {"scale": (y_bar * x**power).sum()}, 100 * power * net.scale * y_bar, None

        forward.defvjp(_fwd, _bwd)

    net = Scaled()
    same(net(3.0), 18.0)
    grads, x_bar = fb.grad(lambda net, x: net(x), argnums=(0, 1))(net, 3.0)
    same(grads["scale"], 9.0)
    same(x_bar, 400.0)
    same(fb.grad(lambda x: net(x=x, power=3))(3.0), 600.0)


def test_arguments_without_derivatives() -> None:
    """Functions, and whatever else is named in `nondiff_argnums`, come first in the rule; modules and arrays among them."""

    @fb.custom_vjp
    def apply(x: Any, f: Any) -> Any:  # a Python value needs no mention
        return f(x)

    apply.defvjp(lambda x, f: (apply(x, f), x), lambda x, y_bar: (3 * y_bar, None))
    same(fb.jit(fb.grad(lambda x: apply(x, jnp.sin)))(1.0), 3.0)

    def times(f: Any, net: Any, mask: Any, x: Any) -> Any:
        return f(net(x)) * mask

    reverse: Any
    forward: Any
    reverse, forward = (kind(times, nondiff_argnums=(0, 1, 2)) for kind in (fb.custom_vjp, fb.custom_jvp))
    reverse.defvjp(
        lambda f, net, mask, x: (times(f, net, mask, x), x), lambda f, net, mask, x, y_bar: (y_bar * net.weight * mask,)
    )
    forward.defjvp(lambda f, net, mask, p, t: (times(f, net, mask, *p), net.weight * mask * t[0]))
    net, mask = Net(), jnp.array([1.0, 0.0, 2.0])
    for function in (reverse, forward):
        for wrap in (lambda f: f, fb.jit):
            same(wrap(fb.grad(lambda x, f=function: f(jnp.sin, net, mask, x).sum()))(jnp.ones(3)), 2 * mask)
        with pytest.raises(fb.StateError, match=r"Net\.weight"):
            fb.grad(lambda net, f=function: f(jnp.sin, net, mask, X).sum())(net)
        with pytest.raises(fb.StateError, match="nondiff_argnums"):
            fb.grad(lambda mask, f=function: f(jnp.sin, net, mask, X).sum())(mask)


@KINDS
def test_values_from_around_may_be_tracers(make: Any) -> None:
    """Those of a loop, a compiled function or a map that the custom function and its rule stand in."""

    def tripled(a: Any) -> Any:
        f: Any = (fb.custom_vjp if make is reverse else fb.custom_jvp)(lambda y: a * y)
        if make is reverse:
            f.defvjp(lambda y: (f(y), None), lambda _, z_bar: (3 * a * z_bar,))
        else:
            f.defjvp(lambda primals, tangents: (f(*primals), 3 * a * tangents[0]))
        return f

    def loss(y: Any, a: Any) -> Any:
        return fb.scan(lambda total, row: (total + tripled(a)(row).sum(), None), 0.0, y)[0]

    for gradient in (
        fb.grad(fb.jit(loss)),
        fb.jit(fb.grad(loss)),
        fb.grad(fb.checkpoint(loss)),
        jax.grad(jax.jit(loss)),
    ):
        same(gradient(X, 2.0), jnp.full_like(X, 6.0))
    each = fb.vmap(fb.grad(loss), in_axes=(None, 0))(X, jnp.arange(3.0))
    same(each, 3 * jnp.arange(3.0)[:, None, None] * jnp.ones_like(X))


def test_cotangents_of_modules() -> None:
    """Frozen and tied parameters, one that is given twice, a Parameter by itself, modules in trees, and zeros."""
    net: Any = nn.Sequential(nn.Linear(3, 3, dtype=jnp.float64), nn.Linear(3, 3, dtype=jnp.float64))
    net[1].weight = net[0].weight
    net[0].get_parameter("bias").requires_grad_(False)

    @fb.custom_vjp
    def f(tree: Any, weight: Any, unused: Any) -> Any:
        return tree["net"](tree["x"]) + weight.data.sum()

    def bwd(net: Any, y_bar: Any) -> Any:
        return {"net": {"0.weight": jnp.ones((3, 3)), "0.bias": jnp.ones(3)}, "x": None}, jnp.full((3, 3), 2.0), None

    f.defvjp(lambda tree, weight, unused: (f(tree, weight, unused), tree["net"]), bwd)
    loss = lambda net: f({"net": net, "x": X}, net[0].get_parameter("weight"), {"other": net[1]}).sum()  # noqa: E731
    grads = fb.grad(loss)(net)
    same(grads["0.weight"], jnp.full((3, 3), 3.0))
    same(grads["1.bias"], jnp.zeros(3))
    assert list(grads) == ["0.weight", "1.bias"]


def test_residuals_hold_modules_as_fwd_left_them() -> None:
    """Those that it was given, with what it wrote, and one that it made."""

    @fb.custom_vjp
    def f(net: Any, x: Any) -> Any:
        net.cache = net.cache + x
        net.width = net.width + 1
        net.trace.append(x)
        return net(x)

    def fwd(net: Any, x: Any) -> Any:
        y = f(net, x)
        made = Net(5.0)
        made.cache = x
        return y, {"given": net, "made": [made, "text"]}

    def bwd(residuals: Any, y_bar: Any) -> Any:
        net, (made, text) = residuals["given"], residuals["made"]
        assert (text, net.width, len(net.trace)) == ("text", 4, 1)
        return None, net.cache * 10 + net.trace[0] + made(made.cache)

    f.defvjp(fwd, bwd)
    x = jnp.arange(3.0)
    for wrap in (lambda f: f, fb.jit):
        net: Any = Net()
        net.cache = jnp.ones(3)
        same(wrap(fb.grad(lambda x, net=net: f(net, x).sum()))(x), 10 * (1 + x) + x + 5 * x)
        assert (net.width, len(net.trace)) == (4, 1)


# -- Mistakes -----------------------------------------------------------------------------------------------------------------


def with_bwd(bwd: Any) -> Any:
    gate: Any = fb.custom_vjp(plain)
    gate.defvjp(lambda net, x: (gate(net, x), None), bwd)
    return gate


def with_fwd(fwd: Any) -> Any:
    gate: Any = fb.custom_vjp(plain)
    gate.defvjp(fwd, lambda _, y_bar: (None, None))
    return gate


def with_jvp(jvp: Any) -> Any:
    gate: Any = fb.custom_jvp(plain)
    gate.defjvp(jvp)
    return gate


MISTAKES = {
    "no rule": (lambda: fb.custom_vjp(plain), AttributeError, "call defvjp first"),
    "no rule jvp": (lambda: fb.custom_jvp(plain), AttributeError, "call defjvp first"),
    "count": (lambda: with_bwd(lambda _, y: (None,)), TypeError, "a tuple of 2 cotangents, .* got 1"),
    "no tuple": (lambda: with_bwd(lambda _, y: y), TypeError, "a tuple of 2 cotangents"),
    "name": (lambda: with_bwd(lambda _, y: ({"weigth": y}, None)), KeyError, "no parameter 'weigth'.*'weight'"),
    "no dict": (lambda: with_bwd(lambda _, y: (y, None)), TypeError, "a dict by parameter name, for a Gate"),
    "shape": (
        lambda: with_bwd(lambda _, y: (None, y)),
        fb.ShapeError,
        r"argument 1 to be float64\[2, 3\], got .*\[2, 2\]",
    ),
    "dtype": (lambda: with_bwd(lambda _, y: (None, X + 1j)), fb.DtypeError, "to be float64, got complex128"),
    "tree": (lambda: with_bwd(lambda _, y: (None, [X])), TypeError, "argument 1"),
    "fwd pair": (lambda: with_fwd(lambda net, x: net(x)), TypeError, r"fwd to give \(result, residuals\)"),
    "fwd tree": (lambda: with_fwd(lambda net, x: ([net(x)], None)), TypeError, "fwd's result"),
    "fwd shape": (
        lambda: with_fwd(lambda net, x: (net(x)[0], None)),
        fb.ShapeError,
        r"fwd's result to be float64\[2, 2\]",
    ),
    "jvp pair": (lambda: with_jvp(lambda p, t: p[0](p[1])), TypeError, r"the rule to give \(result, tangent\)"),
    "jvp tree": (lambda: with_jvp(lambda p, t: (p[0](p[1]), [t[1]])), TypeError, "the rule's tangent"),
    "jvp shape": (
        lambda: with_jvp(lambda p, t: (p[0](p[1]), t[1])),
        fb.ShapeError,
        r"the rule's tangent to be float64\[2, 2\]",
    ),
    "result": (lambda: fb_text(), TypeError, "arrays as its result, got a str"),
    "numbers": (lambda: fb_numbers(), ValueError, "nondiff_argnums has 5"),
    "itself": (lambda: fb_itself(), RecursionError, "differentiates it"),
}


def fb_text() -> Any:
    f: Any = fb.custom_vjp(lambda net, x: "text")
    f.defvjp(f, f)
    return f


def fb_numbers() -> Any:
    f: Any = fb.custom_vjp(plain, nondiff_argnums=5)
    f.defvjp(f, f)
    return f


def fb_itself() -> Any:
    f: Any = fb.custom_vjp(lambda net, x: x)
    f.defvjp(lambda net, x: (fb.grad(lambda x: f(net, x).sum())(x), None), lambda _, y: (None, None))
    return f


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake: str) -> None:
    make, error, message = MISTAKES[mistake]
    net, function = Gate(), make()
    with pytest.raises(error, match=message):
        fb.grad(lambda net, x: once(function, net, x), argnums=(0, 1))(net, X)
    assert int(net.count) == 0


def test_keyword_only_arguments_are_none_of_a_rule() -> None:
    @fb.custom_vjp
    def f(x: Any, *, power: int = 2) -> Any:
        return x**power

    f.defvjp(lambda x: (x, x), lambda x, y_bar: (y_bar,))
    same(f(3.0), 9.0)
    with pytest.raises(TypeError, match="power can be given by name only"):
        fb.grad(f)(3.0)


def test_defjvps_knows_no_functions() -> None:
    with pytest.raises(TypeError, match="take defjvp"):
        fb.custom_jvp(plain, nondiff_argnums=(0,)).defjvps(None)


def test_rules_hold_where_nothing_is_compiled() -> None:
    @fb.custom_jvp
    def log1pexp(x: Any) -> Any:
        return jnp.log(1 + jnp.exp(x))

    @log1pexp.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        return log1pexp(*primals), 3 * tangents[0]

    def loss(x: Any) -> Any:
        return fb.scan(lambda carry, _: (log1pexp(carry), None), x, None, length=2)[0]

    with fb.disable_jit():
        same(fb.jit(fb.value_and_grad(loss))(jnp.array(0.5)), (log1pexp(log1pexp(0.5)), 9.0))
