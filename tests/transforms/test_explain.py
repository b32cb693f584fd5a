"""`fb.explain`, and `fb.disable_jit`: looking into a compiled function."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import flambeau as fb
from flambeau import nn
from tests.transforms.small import Net, same
from tests.transforms.states import Observer, assert_same


class Trained(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.norm = nn.BatchNorm1d(2)
        self.frozen = nn.Linear(2, 2)
        self.trace: list[Any] = []

    def forward(self, x: Any) -> Any:
        self.trace.append(x.mean())
        return self.norm(self.linear(x))


def test_state_is_listed_with_what_happens_to_it() -> None:
    net = Trained()
    net.frozen.requires_grad_(False)
    optimizer = fb.optim.SGD(net.parameters(), lr=0.1)

    @fb.jit
    def step(net: Any, x: Any) -> Any:
        loss, grads = fb.value_and_grad(lambda net: net(x).sum())(net)
        optimizer.step(grads)
        return loss

    assert fb.explain(step).cells == []
    step(net, jnp.ones((4, 2), jnp.float32))
    found = fb.explain(step)
    uses = {cell.name: (cell.read, cell.written, cell.donated) for cell in found.cells}
    assert uses["Trained.linear.weight"] == (True, True, True)
    assert uses["Trained.norm.running_mean"] == (True, True, True)
    assert uses["SGD.groups.lr"] == (True, False, False)
    assert not any("frozen.weight" in name and use[1] for name, use in uses.items())
    assert (found.captured, found.changes) == (["SGD"], ["fills Trained.trace"])
    text = str(found)
    for part in (
        "Trained.linear.weight",
        "float32[2, 2]",
        "compilation 1: first call",
        "captured: SGD",
        "fills Trained.trace",
    ):
        assert part in text


def test_every_compilation_has_its_reason() -> None:
    net: Any = Net()
    step = fb.jit(lambda net, x, **options: net(x) * net.width + sum(options.values()))
    x = jnp.ones(3)

    def call(*args: Any, **options: Any) -> None:
        step(*args, **options)

    call(net, x)
    call(net, jnp.ones((2, 3)))
    call(net, jnp.ones((2, 3), jnp.float32))
    net.width = 4
    call(net, jnp.ones((2, 3), jnp.float32))
    net.eval()
    call(net, jnp.ones((2, 3), jnp.float32))
    net.extra = "text"
    call(net, jnp.ones((2, 3), jnp.float32))
    del net.extra
    call(net, x, more=1.0)
    with fb.autocast():
        call(net, x, more=1.0)
    assert fb.explain(step).reasons == [
        "first call",
        "leaf 1 of the arguments was float64[3], is float64[2, 3]",
        "leaf 1 of the arguments was float64[2, 3], is float32[2, 3]",
        "`width` was 3, is 4",
        "`dropout.training` was True, is False",
        "`extra` is new",
        "the arguments are another tree",
        "an option of JAX, or autocast, is another",
    ]


def test_a_list_that_is_read_is_a_reason() -> None:
    net = Net()

    @fb.jit
    def step(x: Any) -> Any:
        net.trace.append(x)
        return sum(net.trace)

    with pytest.warns(fb.RecompilationWarning, match=r"Net.trace.*other contents") as caught:
        for _ in range(4):
            step(jnp.ones(3))
    assert fb.explain(step).reasons[1:] == ["`Net.trace` holds other things"] * 3
    assert caught[0].filename == __file__


def test_only_functions_of_jit_are_explained() -> None:
    with pytest.raises(TypeError, match=r"expected a function of fb\.jit"):
        fb.explain(lambda x: x)  # pyright: ignore[reportArgumentType]


def test_without_jit_numbers_are_seen_and_state_is_the_same() -> None:
    seen = []

    def program(net: Any, x: Any) -> Any:
        def step(carry: Any, x: Any) -> Any:
            seen.append(float(x))  # a number, in plain Python
            net.trace.append(carry)
            net.mean = net.mean + x
            return carry + x, carry

        total, _ = fb.scan(step, x, jnp.arange(3.0), reverse=True)
        total = fb.while_loop(lambda t: bool(t > 0), lambda t: t - 2, total)
        return fb.cond(float(total) > 0, lambda: total, lambda: -total)

    def run(net: Any) -> Any:
        return fb.jit(program)(net, jnp.array(0.5))

    net = Net().double()
    with fb.disable_jit():
        got = run(net)
    assert seen == [2.0, 1.0, 0.0]
    same(got, 0.5)
    same(net.mean, jnp.full(3, 3.0))
    assert len(net.trace) == 3
    with pytest.raises(jax.errors.ConcretizationTypeError):
        run(net)


def test_without_jit_an_exception_changes_nothing() -> None:
    net = Net().double()
    before = Observer(holds=False).state(net)

    @fb.jit
    def step(net: Any) -> None:
        net.mean = net.mean + 1
        net.calls = 7
        raise RuntimeError("boom")

    with fb.disable_jit(), pytest.raises(RuntimeError, match="boom"):
        step(net)
    assert_same(before, Observer(holds=False).state(net))


def test_train_and_eval_are_no_cause_to_warn() -> None:
    net = Net()
    step = fb.jit(lambda net, x: net(x))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(5):
            net.train(not net.training)
            step(net, jnp.ones(3))
    assert len(fb.explain(step).reasons) == 2
