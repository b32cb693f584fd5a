"""`fb.custom_vjp` and `fb.custom_jvp`: the state that functions with rules read and leave."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flambeau as fb
from flambeau import nn
from tests.transforms.gates import KINDS, WRAPS, Gate, checkpointed, compiled, inert, once, plain, reverse, scanned
from tests.transforms.small import Net, X, same
from tests.transforms.states import Observer, assert_same

# -- State --------------------------------------------------------------------------------------------------------------------


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).double()
        self.history: Any = []

    def forward(self, x: Any) -> Any:
        y = self.layers(x)
        self.history.append(y.mean())
        return y


@WRAPS
@pytest.mark.parametrize("loss", [once, scanned, checkpointed, compiled])
def test_state_and_random_numbers_are_those_of_an_eager_run(loss: Any, wrap: Any) -> None:
    """Written once: statistics, a list, the generator's key; by a rule that differentiates the module itself."""

    @fb.custom_vjp
    def call(net: Any, x: Any) -> Any:
        return net(x)

    def fwd(net: Any, x: Any) -> Any:
        y, _ = fb.vjp(plain, net, x)
        return y, (net, x, y)

    def bwd(residuals: Any, y_bar: Any) -> Any:
        return None, jnp.zeros_like(residuals[1])

    call.defvjp(fwd, bwd)

    def run(step: Any) -> Any:
        fb.manual_seed(3)
        net = Noisy()
        x = jnp.sin(jnp.arange(24.0)).reshape(8, 3) if loss is not scanned else jnp.ones((4, 2, 3)) * X
        values = [step(net, x) for _ in range(2)]
        return values, net, fb.default_generator

    scan_loss = lambda gate, net, x: fb.scan(lambda t, rows: (t + once(gate, net, rows), None), 0.0, x)[0]  # noqa: E731
    chosen_loss = scan_loss if loss is scanned else loss
    expected, *eager = run(lambda net, x: chosen_loss(plain, net, x))
    step = wrap(fb.value_and_grad(lambda net, x: chosen_loss(call, net, x)))
    got, *state = run(lambda net, x: step(net, x)[0])
    np.testing.assert_allclose(got, expected, rtol=1e-9)
    assert_same(Observer(holds=True).state(*eager), Observer(holds=True).state(*state))


def test_closed_over_state_is_read_fresh() -> None:
    """By the function, fwd and bwd, also where JAX keeps the compiled call that holds them."""
    net: Any = Net()

    @fb.custom_vjp
    def f(x: Any) -> Any:
        return x * net.weight

    f.defvjp(lambda x: (f(x), None), lambda _, y_bar: (y_bar * net.cache,))
    compiled = fb.jit(lambda x: f(x).sum())
    for value in (1.0, 2.0):
        net.cache = jnp.full(3, value)
        net.weight = jnp.full(3, -value)
        for gradient in (fb.grad(compiled), fb.jit(fb.grad(lambda x: f(x).sum())), fb.grad(lambda x: f(x).sum())):
            same(gradient(jnp.ones(3)), jnp.full(3, value))
        same(compiled(jnp.ones(3)), -3 * value)


@KINDS
@WRAPS
def test_a_derivative_with_respect_to_what_is_no_argument_is_an_error(make: Any, wrap: Any) -> None:
    """A parameter of a module that it closes over, unless it is frozen, and an array."""
    net = Gate()
    closed = inert(make, lambda x: net(x))
    for gradient in (wrap(fb.grad(lambda net: closed(X).sum())), fb.grad(fb.jit(lambda net: closed(X).sum()))):
        with pytest.raises(fb.StateError, match=r"Gate\.weight: pass the module as an argument"):
            gradient(net)
    assert int(net.count) == 0
    net.requires_grad_(False)
    same(wrap(fb.grad(lambda x: closed(x).sum()))(X), jnp.zeros_like(X))

    def around(x: Any) -> Any:
        return inert(make, lambda y: x * y)(3.0)

    same(wrap(around)(2.0), 6.0)
    with pytest.raises(fb.StateError, match="an array that it closes over"):
        wrap(fb.grad(around))(2.0)


@KINDS
@WRAPS
def test_a_derivative_with_respect_to_other_state_is_an_error(make: Any, wrap: Any) -> None:
    """What a module holds besides parameters, if it depends on what is differentiated; not if it is stopped or unused."""
    net: Any = Net()
    cached = inert(make, lambda net, x: net.cache * x)
    listed = inert(make, lambda net, x: net.trace[-1] * x)
    unused = inert(make, lambda net, x: net.width * x)

    def loss(x: Any, function: Any, stop: Any) -> Any:
        net.cache = stop(x.sum(0))
        net.trace = [stop(x.sum(0))]
        return function(net, X).sum()

    for function, name in (
        (cached, r"Net\.cache, which is no parameter"),
        (listed, "what a list or dict of a module holds"),
    ):
        with pytest.raises(fb.StateError, match=name):
            wrap(fb.grad(lambda x, f=function: loss(x, f, lambda value: value)))(X)
        same(wrap(fb.grad(lambda x, f=function: loss(x, f, jax.lax.stop_gradient)))(X), jnp.zeros_like(X))
    same(wrap(fb.grad(lambda x: loss(x, unused, lambda value: value)))(X), jnp.zeros_like(X))


def test_what_it_writes_is_a_constant_to_derivatives() -> None:
    net, gate = Gate(), reverse()

    def loss(x: Any) -> Any:
        return gate(net, x).sum() + 1000 * net.trace[-1]

    np.testing.assert_allclose(fb.grad(loss)(X), fb.grad(lambda x: gate(Gate(), x).sum())(X), rtol=1e-9, atol=1e-12)


class Settings:
    def __init__(self) -> None:
        self.steps = 0


@WRAPS
def test_what_objects_in_attributes_hold_changes_once(wrap: Any) -> None:
    """In the function, in what `bwd` finds, and not at all if that raises."""
    net: Any = Net()
    net.settings = Settings()

    @fb.custom_vjp
    def f(net: Any, x: Any) -> Any:
        net.settings.steps += 1
        return net(x)

    f.defvjp(lambda net, x: (f(net, x), net), lambda net, y_bar: (None, net.settings.steps * y_bar))
    for steps in (1, 2):
        same(wrap(fb.grad(lambda x: f(net, x).sum()))(X), jnp.full_like(X, steps))
        assert net.settings.steps == steps
    f.defvjp(lambda net, x: (f(net, x), net), lambda net, y_bar: y_bar["none"])
    with pytest.raises(TypeError):
        wrap(fb.grad(lambda x: f(net, x).sum()))(X)
    assert net.settings.steps == 2


@WRAPS
def test_the_rule_may_write_in_another_order(wrap: Any) -> None:
    def backwards(net: Any, x: Any) -> Any:
        net.cache, net.mean = net.mean + 1, net.cache + x.sum(0)
        return net(x)

    @fb.custom_vjp
    def f(net: Any, x: Any) -> Any:
        net.mean, net.cache = net.cache + x.sum(0), net.mean + 1
        return net(x)

    f.defvjp(lambda net, x: (backwards(net, x), None), lambda _, y_bar: (None, y_bar))
    net: Any = Net()
    net.mean, net.cache = jnp.full(3, 10.0), jnp.full(3, 20.0)
    same(wrap(fb.grad(lambda x: f(net, x).sum()))(X), jnp.ones_like(X))
    same(net.mean, 20 + X.sum(0))
    same(net.cache, jnp.full(3, 11.0))


def writes_nothing(net: Any, x: Any) -> Any:
    return jnp.tanh(x @ net.weight)


def writes_more(net: Any, x: Any) -> Any:
    y = net(x)
    net.extra = 1
    return y


def writes_another_dtype(net: Any, x: Any) -> Any:
    net.count = net.count + 1
    net.trace.append(x.sum().astype(jnp.float32))
    net.last_shape = x.shape
    return jnp.tanh(x @ net.weight)


@KINDS
@pytest.mark.parametrize(
    ("other", "message"),
    [
        (writes_nothing, r"the function changes Gate\.count, Gate\.trace, Gate\.last_shape, the rule nothing"),
        (writes_more, r"the rule Gate\.count, .*Gate\.extra"),
        (writes_another_dtype, r"it leaves float32\[\] where the function leaves float64\[\]"),
    ],
)
def test_a_rule_that_leaves_other_state_is_an_error(make: Any, other: Any, message: str) -> None:
    if make is reverse:
        gate: Any = fb.custom_vjp(plain)
        gate.defvjp(lambda net, x: (other(net, x), None), lambda _, y_bar: (None, None))
    else:
        gate = fb.custom_jvp(plain)
        gate.defjvp(lambda p, t: (other(*p), jnp.zeros((2, 2))))
    net = Gate()
    before = Observer(holds=True)
    first = before.state(net)
    with pytest.raises(fb.StateError, match=message):
        fb.grad(lambda x: once(gate, net, x))(X)
    assert_same(first, before.state(net))


def test_a_rule_that_leaves_a_buffer_as_it_was_is_an_error() -> None:
    @fb.custom_vjp
    def f(net: Any, x: Any) -> Any:
        net.cache = net.cache + x.sum(0)
        return net(x)

    f.defvjp(lambda net, x: (net(x), None), lambda _, y_bar: (None, y_bar))
    with pytest.raises(fb.StateError, match=r"the function changes Net\.cache, the rule nothing"):
        fb.grad(lambda x: f(Net(), x).sum())(X)


def draws(net: Any, x: Any) -> Any:
    return nn.functional.dropout(x, training=True)


def counts(net: Any, x: Any) -> Any:
    net.count = net.count + 1
    return x


@pytest.mark.parametrize(
    ("inside", "name"), [(draws, r"Generator\.key"), (counts, r"Gate\.count"), (plain, r"Gate\.trace")]
)
def test_bwd_writes_nothing(inside: Any, name: str) -> None:
    net = Gate()
    gate = fb.custom_vjp(plain)

    def bwd(residuals: Any, y_bar: Any) -> Any:
        inside(*residuals)
        return None, None

    gate.defvjp(lambda net, x: (gate(net, x), (net, x)), bwd)
    with pytest.raises(fb.StateError, match=f"bwd changes .*{name}"):
        fb.grad(lambda net: once(gate, net, X))(net)
    assert int(net.count) == 0 and net.trace == []


@WRAPS
@pytest.mark.parametrize("where", ["fwd", "bwd", "jvp"])
def test_an_exception_in_a_rule_leaves_state_alone(where: str, wrap: Any) -> None:
    net = Gate()
    broken = fb.custom_jvp(plain) if where == "jvp" else fb.custom_vjp(plain)

    def first(net: Any, x: Any) -> Any:
        net(x)
        if where == "bwd":
            return net(x), net
        raise ZeroDivisionError

    def bwd(net: Any, y_bar: Any) -> Any:
        net.last_shape = "broken"
        raise ZeroDivisionError

    if isinstance(broken, fb.custom_vjp):
        broken.defvjp(first if where == "fwd" else lambda net, x: (net(x), net), bwd)
    else:
        broken.defjvp(lambda p, t: first(*p))
    observer = Observer(holds=True)
    before = observer.state(net)
    with pytest.raises(ZeroDivisionError):
        wrap(fb.grad(lambda net: once(broken, net, X)))(net)
    assert_same(before, observer.state(net))


def test_a_broken_rule_matters_where_it_is_needed() -> None:
    """As in JAX: not for a value alone, and also where a compiled function is differentiated long after."""
    broken = fb.custom_vjp(plain)

    def bwd(_: Any, y_bar: Any) -> Any:
        raise ZeroDivisionError

    broken.defvjp(lambda net, x: (broken(net, x), None), bwd)
    net = Gate()
    compiled = fb.jit(lambda net, x: once(broken, net, x))
    same(compiled(net, X), once(plain, Gate(), X))
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            fb.grad(compiled)(net, X)
    assert int(net.count) == 1


def test_lazy_modules_are_made() -> None:
    @fb.custom_vjp
    def call(net: Any, x: Any) -> Any:
        return net(x)

    call.defvjp(lambda net, x: (call(net, x), net), lambda net, y_bar: ({"bias": y_bar.sum(0)}, y_bar @ net.weight))
    net: Any = nn.LazyLinear(4, dtype=jnp.float64)
    x_bar = fb.grad(lambda x: call(net, x).sum())(X)
    same(x_bar, jnp.broadcast_to(net.weight.sum(0), (2, 3)))
    same(fb.grad(lambda net: call(net, X).sum())(net)["bias"], jnp.full(4, 2.0))


def test_under_raw_transforms_of_jax() -> None:
    """The pure form, and writes of values that are known; of others they raise there, as anywhere."""
    gate, net = reverse(3.0), Gate()
    weight = {"weight": net.weight}
    quiet = fb.custom_vjp(writes_nothing)
    quiet.defvjp(lambda net, x: (quiet(net, x), x), lambda x, y_bar: ({"weight": 3 * x.T @ y_bar}, None))

    class Quiet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight: Any = nn.Parameter(net.weight)

        def forward(self, x: Any) -> Any:
            return quiet(self, x)

    pure = Quiet()
    loss = lambda values, x: fb.functional_call(pure, values, x).sum()  # noqa: E731
    for transform in (jax.grad, lambda f: jax.jit(jax.grad(f)), lambda f: jax.grad(jax.jit(f))):
        same(transform(loss)(weight, X)["weight"], 3 * X.T @ jnp.ones((2, 2)))
    jax.grad(lambda x: gate(net, x).sum())(X)
    assert int(net.count) == 1
    with pytest.raises(fb.StateError, match="raw jax transform"):
        jax.jit(lambda x: gate(net, x).sum())(X)
    assert int(net.count) == 1


@KINDS
def test_no_module_is_kept_alive(make: Any) -> None:
    """By what JAX keeps of a compiled call, also if the rule is broken and was not needed."""
    broken = fb.custom_vjp(plain)
    broken.defvjp(lambda net, x: (broken(net, x), None), lambda _, y_bar: y_bar["none"])
    for gate, transform in ((make(), fb.grad), (broken, lambda f: f)):
        compiled = fb.jit(lambda net, x, gate=gate: once(gate, net, x))
        net = Gate()
        watch = weakref.ref(net)
        transform(compiled)(net, X)
        del net
        gc.collect()
        assert watch() is None


@pytest.mark.parametrize("wrap", [lambda fun: fun, fb.jit, fb.checkpoint])
def test_a_module_that_the_function_replaces_gets_the_gradients_of_the_one_before(wrap: Any) -> None:
    class Renewing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Net()

        def forward(self, x: Any) -> Any:
            y = self.inner(x).sum()
            self.inner = Net()
            return y

    def rule(net: Any, x: Any) -> Any:
        y, gradients = fb.value_and_grad(lambda net, x: net(x))(net, x)
        return y, gradients

    call = fb.custom_vjp(lambda net, x: net(x))
    call.defvjp(rule, lambda gradients, y_bar: ({name: 3 * y_bar * g for name, g in gradients.items()}, None))
    net = Renewing()
    for _ in range(2):
        before = net.inner
        gradients = wrap(fb.grad(lambda net, x: call(net, x)))(net, X)
        same(gradients["inner.weight"], 3 * X.sum(0))
        assert net.inner is not before and [name for name, _ in net.named_parameters()] == ["inner.weight"]
