"""An optimizer in compiled functions leaves what it leaves outside of them, and compiles no more often than it must."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flambeau._errors import StateError
from flambeau.core.cell import Cell
from flambeau.optim import SGD, Adam, AdamW, Optimizer
from flambeau.transforms.grad import grad, value_and_grad
from flambeau.transforms.jit import jit
from tests.optim.small import Net, assert_same, compilations, gradients, loss

MAKERS: dict[str, Callable[[Any], Optimizer]] = {
    "SGD": lambda params: SGD(params, lr=0.1),
    "momentum": lambda params: SGD(params, lr=0.1, momentum=0.9, dampening=0.2),
    "Adam": lambda params: Adam(params, lr=0.1, weight_decay=0.1),
    "AdamW": lambda params: AdamW(params, lr=0.1, amsgrad=True),
    "optax": lambda params: Optimizer(params, optax.lion, learning_rate=0.1),
}


def training_step() -> Any:
    @jit
    def step(net: Net, optimizer: Any) -> jax.Array:
        value, grads = value_and_grad(loss)(net)
        optimizer.step(grads)
        return value

    return step


def eager_step(net: Net, optimizer: Any) -> jax.Array:
    value, grads = value_and_grad(loss)(net)
    optimizer.step(grads)
    return value


def everything(net: Net, optimizer: Any) -> Any:
    return dict(net.state_dict()), optimizer.state_dict()


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("how", ["argument", "closure", "optimizer alone", "mixed"])
def test_the_same_as_eager(maker: str, how: str) -> None:
    net, twin = Net(), Net()
    optimizer, its = MAKERS[maker](net.parameters()), MAKERS[maker](twin.parameters())
    compiled = training_step()
    closed = jit(lambda: eager_step(net, optimizer))
    halves = jit(lambda net: eager_step(net, optimizer))
    for i in range(4):
        if how == "argument":
            value = compiled(net, optimizer)
        elif how == "closure":
            value = closed()
        elif how == "optimizer alone":
            value = halves(net)
        else:  # compiled and eager steps take turns
            value = eager_step(net, optimizer) if i % 2 else compiled(net, optimizer)
        np.testing.assert_allclose(value, eager_step(twin, its), rtol=1e-12)
    assert_same(everything(net, optimizer), everything(twin, its), 1e-12)


@pytest.mark.parametrize("maker", MAKERS)
def test_compiles_once_for_all_of_one_structure(maker: str) -> None:
    """Whatever the numbers are, and whichever network and optimizer of that structure it is."""
    step = training_step()
    pairs = [(net, MAKERS[maker](net.parameters())) for net in (Net(0), Net(1))]
    lr = "learning_rate" if maker == "optax" else "lr"

    def train(net: Net, optimizer: Optimizer) -> None:
        for _ in range(3):
            step(net, optimizer)
            for group in optimizer.param_groups:
                group[lr] *= 0.9
        optimizer.load_state_dict(optimizer.state_dict())
        step(net, optimizer)

    train(*pairs[0])
    with compilations() as compiled:
        train(*pairs[1])
        train(*pairs[0])
    assert len(step._programs) == 1
    assert not compiled


def test_all_numeric_options_may_change() -> None:
    step = training_step()
    net = Net()
    optimizer = AdamW(net.parameters(), lr=0.1)
    step(net, optimizer)
    for options in ({"lr": 0.5}, {"betas": (0.5, 0.6)}, {"eps": 0.1}, {"weight_decay": 0.7}, {"weight_decay": 0}):
        optimizer.param_groups[0].update(options)
        step(net, optimizer)
    assert len(step._programs) == 1


def test_numbers_take_effect() -> None:
    """A compiled step computes with the present value of an option, not with the one that it was compiled with."""
    net = Net()
    optimizer = SGD(net.parameters(), lr=0.0)
    step = training_step()
    before = net.first
    step(net, optimizer)
    np.testing.assert_array_equal(net.first, before)
    optimizer.param_groups[0]["lr"] = 2.0
    expected = before - 2.0 * gradients(net)["first"]
    step(net, optimizer)
    np.testing.assert_allclose(net.first, expected, rtol=1e-12)


def test_flags_and_new_options_compile_once_more() -> None:
    net = Net()
    optimizer = SGD(net.parameters(), lr=0.1)
    step = training_step()
    step(net, optimizer)
    for count, (name, value) in enumerate([("maximize", True), ("weight_decay", 0.1), ("momentum", 0.5)], start=2):
        optimizer.param_groups[0][name] = value
        for _ in range(2):
            step(net, optimizer)
        assert len(step._programs) == count
    optimizer.param_groups[0]["maximize"] = False
    optimizer.param_groups[0]["maximize"] = True
    step(net, optimizer)
    assert len(step._programs) == 4


def test_options_inside() -> None:
    """There a number is an array; what is written is there afterwards."""
    seen: list[Any] = []

    def decay(net: Net, optimizer: Any) -> jax.Array:
        optimizer.step(gradients(net))
        for group in optimizer.param_groups:
            seen.append(group["lr"])
            group["lr"] *= 0.5
            group["betas"] = (group["betas"][0] * 0.9, 0.99)
        return optimizer.param_groups[0]["lr"]

    net, twin = Net(), Net()
    optimizer, its = (Adam([{"params": n.first}, {"params": n.bias, "lr": 0.4}], lr=0.8) for n in (net, twin))
    compiled = jit(decay)
    for lr in (0.4, 0.2, 0.1):
        assert compiled(net, optimizer) == lr
        decay(twin, its)
    assert not isinstance(seen[0], float) and isinstance(seen[-1], float)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1, 0.05])
    assert_same(everything(net, optimizer), everything(twin, its), 1e-12)
    assert len(compiled._programs) == 1


def test_structure_changes_inside() -> None:
    """New options with their state, flags, groups and parameters without gradient: also what changes the structure."""

    def change(net: Net, optimizer: Any, what: str) -> None:
        grads = gradients(net)
        if what == "some":
            optimizer.step([grads["first"], None, None])
        elif what == "group":
            optimizer.add_param_group({"params": [net.scale], "lr": 0.3})
        elif what == "momentum":
            optimizer.param_groups[0]["momentum"] = 0.9
        elif what == "flag":
            optimizer.param_groups[0]["maximize"] = True
        if what != "some":
            optimizer.step(grads)

    net, twin = Net(), Net()
    optimizer, its = (SGD([n.first, n.bias, n.second], lr=0.1) for n in (net, twin))
    for what in ("none", "momentum", "some", "some", "flag", "none", "group", "none"):
        jit(change, static_argnames="what")(net, optimizer, what=what)
        change(twin, its, what)
        assert_same(everything(net, optimizer), everything(twin, its), 1e-12)


def test_some_gradients_settle() -> None:
    """That a parameter gets none is found out at the first call; from the second on all is as it stays."""

    @jit
    def step(net: Net, optimizer: Any) -> None:
        grads = gradients(net)
        optimizer.step([grads["first"], None, grads["second"], None])

    net = Net()
    optimizer = Adam(net.parameters(), lr=0.1)
    for _ in range(4):
        step(net, optimizer)
    assert len(step._programs) == 2
    assert {int(entry["step"]) for entry in optimizer.state.values()} == {4} and len(optimizer.state) == 2


def test_frozen_parameters_cost_no_second_compilation() -> None:
    net = Net()
    net.get_parameter("bias").requires_grad_(False)
    optimizer = Adam(net.parameters(), lr=0.1)
    step = training_step()
    for _ in range(3):
        step(net, optimizer)
    assert len(step._programs) == 1
    net.get_parameter("bias").requires_grad_(True)
    step(net, optimizer)
    step(net, optimizer)
    assert len(step._programs) == 2
    assert [int(entry["step"]) for entry in optimizer.state.values()] == [5, 2, 5, 5]


def test_its_own_state_put_back_changes_no_structure() -> None:
    net = Net()
    net.get_parameter("bias").requires_grad_(False)
    optimizer = Adam(net.parameters(), lr=0.1)
    net.get_parameter("bias").requires_grad_(True)
    step = training_step()
    step(net, optimizer)
    optimizer.load_state_dict(optimizer.state_dict())
    step(net, optimizer)
    jit(lambda: optimizer.load_state_dict(optimizer.state_dict()))()
    step(net, optimizer)
    assert len(step._programs) == 1


def test_an_exception_changes_nothing() -> None:
    def fail(net: Net, optimizer: Any) -> None:
        optimizer.step(gradients(net))
        optimizer.param_groups[0]["lr"] = 5.0
        optimizer.param_groups[0]["weight_decay"] = 0.5
        optimizer.add_param_group({"params": net.scale})
        raise KeyError("in the middle")

    net = Net()
    optimizer = Adam([net.first, net.bias], lr=0.1)
    training_step()(net, optimizer)
    before, shown = everything(net, optimizer), repr(optimizer)
    with pytest.raises(KeyError, match="in the middle"):
        jit(fail)(net, optimizer)
    assert repr(optimizer) == shown
    assert_same(everything(net, optimizer), before)


def test_an_exception_inside_of_a_step_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eager, the second of two groups fails after the first was updated."""
    net = Net()
    optimizer = Adam([{"params": net.first}, {"params": net.bias}], lr=0.1)
    optimizer.step(gradients(net))
    before = everything(net, optimizer)
    original = Cell.set

    def interrupted(cell: Cell, *args: Any, **kwargs: Any) -> None:
        if cell is net.get_parameter("bias"):
            raise KeyboardInterrupt
        original(cell, *args, **kwargs)

    monkeypatch.setattr(Cell, "set", interrupted)
    with pytest.raises(KeyboardInterrupt):
        optimizer.step(gradients(net))
    monkeypatch.undo()
    assert_same(everything(net, optimizer), before)
    optimizer.step(gradients(net))


def test_state_is_updated_in_place() -> None:
    """Compiled steps reuse the memory of parameters and state, and never that of an array which the user holds."""
    net = Net()
    optimizer = Adam(net.parameters(), lr=0.1)
    step = training_step()
    step(net, optimizer)
    group = optimizer.param_groups[0]
    cells = [*group._state.values(), *group._shared.values(), *net.parameters()]
    old = [cell.peek() for cell in cells]
    step(net, optimizer)
    assert all(array.is_deleted() for array in old)
    held = optimizer.state_dict()
    step(net, optimizer)
    assert [int(entry["step"]) for entry in held["state"].values()] == [2, 2, 2, 2]
    eager_step(net, optimizer)
    old = [cell.peek() for cell in group._state.values()]
    step(net, optimizer)
    assert all(array.is_deleted() for array in old)


def test_a_step_inside_of_grad_is_differentiated() -> None:
    """The derivative of the loss after a step with respect to the loss's input, against finite differences."""
    net = Net()
    optimizer = SGD(net.parameters(), lr=0.1, momentum=0.5)
    before = everything(net, optimizer)

    def after_a_step(strength: jax.Array) -> jax.Array:
        grads = grad(lambda net: strength * loss(net))(net)
        optimizer.step(grads)
        return loss(net)

    slope = jit(grad(after_a_step))
    exact = slope(jnp.asarray(1.0))
    values = []
    for strength in (1 - 1e-5, 1 + 1e-5):
        net.load_state_dict(before[0])
        optimizer.load_state_dict(before[1])
        values.append(float(after_a_step(jnp.asarray(strength))))
    np.testing.assert_allclose(exact, (values[1] - values[0]) / 2e-5, rtol=1e-6)


def test_made_inside() -> None:
    @jit
    def train(net: Net) -> Adam:
        optimizer = Adam(net.named_parameters(), lr=0.1)
        optimizer.step(gradients(net))
        return optimizer

    net, twin = Net(), Net()
    optimizer, its = train(net), Adam(twin.named_parameters(), lr=0.1)
    its.step(gradients(twin))
    for each, own in ((net, optimizer), (twin, its)):
        own.step(gradients(each))
    assert_same(everything(net, optimizer), everything(twin, its), 1e-12)
    assert repr(optimizer) == repr(its)


def test_under_a_raw_jax_transform() -> None:
    net = Net()
    optimizer = SGD(net.parameters(), lr=0.1)
    before = everything(net, optimizer)
    with pytest.raises(StateError, match="inside a raw jax transform"):
        jax.jit(lambda: optimizer.step(gradients(net)))()
    assert_same(everything(net, optimizer), before)


def test_a_group_that_is_closed_over() -> None:
    net = Net()
    (group,) = SGD(net.parameters(), lr=0.5).param_groups

    @jit
    def halve() -> jax.Array:
        group["lr"] *= 0.5
        return group["lr"]

    assert [float(halve()), float(halve()), group["lr"]] == [0.25, 0.125, 0.125]


@pytest.mark.parametrize("name", MAKERS)
def test_state_is_read_and_put_back_inside(name: str) -> None:
    """A step that is taken back: what a line search does, or a guard against gradients that are not finite."""
    net, twin = Net(), Net()
    optimizer, expected = MAKERS[name](net.parameters()), MAKERS[name](twin.parameters())
    for each in ((net, optimizer), (twin, expected)):
        training_step()(*each)

    @jit
    def step_and_back() -> Any:
        before, weights = optimizer.state_dict(), net.state_dict()
        optimizer.step(grad(loss)(net))
        after = optimizer.state_dict()
        optimizer.load_state_dict(before)
        net.load_state_dict(weights)
        return after["state"]

    after = step_and_back()
    assert_same(optimizer.state_dict(), expected.state_dict(), 1e-12)
    for each in ((net, optimizer), (twin, expected)):
        training_step()(*each)
    assert_same(after, optimizer.state_dict()["state"], 1e-12)
    assert_same(optimizer.state_dict(), expected.state_dict(), 1e-12)


def test_the_trace_stays_short() -> None:
    """As many equations as optax's own update of the same parameters: nothing is counted or corrected per parameter."""
    net = Net()
    params = dict(net.state_dict())
    transformation = optax.adam(0.1)
    plain = jax.make_jaxpr(lambda g, s, p: transformation.update(g, s, p))(params, transformation.init(params), params)
    optimizer = Adam(net.named_parameters(), lr=0.1)
    ours = jit(lambda grads: optimizer.step(grads)).trace(params)
    assert len(ours.jaxpr.eqns) <= len(plain.eqns) + 2 * len(params) + 8


def test_compiled_code_keeps_no_optimizer_alive() -> None:
    net = Net()
    optimizer = Adam(net.parameters(), lr=0.1)
    step = training_step()
    step(net, optimizer)
    gone = weakref.ref(optimizer)
    del net, optimizer, step
    gc.collect()
    assert gone() is None
