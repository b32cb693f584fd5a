"""Calls that are recognised at a glance, and state that nobody looked at yet: nothing may show it."""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flambeau as fb
from flambeau import nn
from flambeau._errors import StateError

X = jnp.arange(12.0).reshape(4, 3) / 10


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3)

    def forward(self, x: Any) -> Any:
        return self.last(self.norm(self.first(x)))


def train(net: Any, optimizer: Any, x: Any) -> Any:
    loss, grads = fb.value_and_grad(lambda net: (net(x) ** 2).mean())(net)
    optimizer.step(grads)
    return loss


def shake(net: Any, x: Any) -> Any:
    """Writes one of the cells that `train` writes."""
    net.norm.running_mean = net.norm.running_mean + x.mean()
    return net.norm.running_var * 2


def imitate(net: Any, optimizer: Any, other: Any, x: Any) -> Any:
    """Writes cells of one net, and reads those of another one."""
    loss, grads = fb.value_and_grad(lambda net: ((net(x) - other(x)) ** 2).mean())(net)
    optimizer.step(grads)
    return loss


def predict(net: Any, x: Any) -> Any:
    return net(x)


class World:
    """Two nets, an optimizer of each, and the functions that work on them."""

    def __init__(self, transform: Callable[[Any], Any]) -> None:
        fb.manual_seed(0)
        self.nets: list[Any] = [Net().double(), Net().double()]
        self.optimizers: list[Any] = [fb.optim.SGD(net.parameters(), lr=0.1, momentum=0.9) for net in self.nets]
        self.train, self.shake, self.predict = transform(train), transform(shake), transform(predict)
        self.imitate: Any = transform(imitate)
        self.closed: Any = transform(lambda x: train(self.nets[0], self.optimizers[0], x))
        self.method: Any = transform(self.train_second)
        self.seen: list[Any] = []

    def train_second(self, x: Any) -> Any:
        return train(self.nets[1], self.optimizers[1], x)

    def do(self, what: str, which: int) -> None:
        net, optimizer = self.nets[which], self.optimizers[which]
        match what:
            case "train":
                self.seen.append(self.train(net, optimizer, X))
            case "train often":
                self.seen.extend([self.train(net, optimizer, X) for _ in range(3)])
            case "train closed over":
                self.seen.extend([self.closed(X) for _ in range(3)])
            case "train by a method":
                self.seen.extend([self.method(X) for _ in range(3)])
            case "train on fewer":
                self.seen.extend([self.train(net, optimizer, X[:3]) for _ in range(2)])
            case "imitate":
                self.seen.append(self.imitate(net, optimizer, self.nets[1 - which], X))
            case "imitate each other":
                pairs = [(0, 1), (1, 0)] * 3
                self.seen.extend([self.imitate(self.nets[a], self.optimizers[a], self.nets[b], X) for a, b in pairs])
            case "shake":
                self.seen.append(self.shake(net, X))
            case "predict":
                self.seen.append(self.predict(net, X))
            case "predict eagerly":
                self.seen.append(net(X))
            case "read":
                self.seen.append(net.first.weight)
            case "write":
                net.first.weight = jnp.eye(3)
            case "load":
                net.load_state_dict(self.nets[1 - which].state_dict())
            case "copy":
                self.nets[which] = copy.deepcopy(net)
                self.optimizers[which] = fb.optim.SGD(self.nets[which].parameters(), lr=0.1, momentum=0.9)
            case "sum":
                self.seen.append([parameter.sum() for parameter in net.parameters()])
            case "collect":
                gc.collect()
            case _:
                net.train(what == "train mode")

    def state(self) -> Any:
        states = [optimizer.state_dict()["state"] for optimizer in self.optimizers]
        return [dict(net.state_dict()) for net in self.nets], states, self.seen


DEEDS = ("train", "train often", "train on fewer", "train closed over", "train by a method", "imitate", "imitate each other",
         "shake", "predict", "predict eagerly", "read", "write", "load", "copy", "sum", "collect", "train mode",
         "eval mode")  # fmt: skip


@settings(max_examples=30)
@given(st.lists(st.tuples(st.sampled_from(DEEDS), st.integers(0, 1)), min_size=3, max_size=12))
def test_no_order_of_calls_and_looks_shows_when_cells_are_written(deeds: list[tuple[str, int]]) -> None:
    compiled, eager = World(fb.jit), World(lambda function: function)
    for what, which in deeds:
        for world in (compiled, eager):
            world.do(what, which)
    for mine, its in zip(jax.tree.leaves(compiled.state()), jax.tree.leaves(eager.state()), strict=True):
        np.testing.assert_allclose(mine, its, rtol=1e-7, atol=1e-9)


def test_many_nets_may_take_turns() -> None:
    """More of them than values are remembered of."""
    turns = random.Random(0).choices(range(12), k=150)

    def run(transform: Callable[[Any], Any]) -> Any:
        nets = [Net().double() for _ in range(12)]
        optimizers = [fb.optim.SGD(net.parameters(), lr=0.1, momentum=0.9) for net in nets]
        step = transform(imitate)
        losses = [step(nets[i], optimizers[i], nets[j], X) for i, j in zip(turns, turns[1:], strict=False)]
        return losses, [dict(net.state_dict()) for net in nets]

    fb.manual_seed(0)
    mine = run(fb.jit)
    fb.manual_seed(0)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-9), mine, run(lambda function: function)
    )


def test_arrays_that_are_waiting_die_with_their_modules() -> None:
    step: Any = fb.jit(train)
    step(*made(), X)
    gc.collect()
    before = len(jax.live_arrays())
    net, optimizer = made()
    for _ in range(4):
        step(net, optimizer, X)
    assert len(jax.live_arrays()) > before
    del net, optimizer
    gc.collect()
    assert len(jax.live_arrays()) <= before


def made() -> tuple[Any, Any]:
    net = Net().double()
    return net, fb.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)


@pytest.mark.parametrize("often", [1, 4])
@pytest.mark.parametrize(
    "option",
    [
        lambda: jax.enable_x64(False),
        lambda: jax.default_matmul_precision("highest"),
        lambda: jax.numpy_dtype_promotion("strict"),
        lambda: fb.disable_jit(),
        lambda: fb.autocast(jnp.bfloat16),
    ],
    ids=["x64", "matmul precision", "promotion", "disable_jit", "autocast"],
)
def test_an_option_of_jax_is_seen_by_a_call_that_was_recognised(option: Any, often: int) -> None:
    net, x, runs = nn.Linear(3, 2), X.astype(jnp.float32), []
    net.float()

    @fb.jit
    def forward(net: Any, x: Any) -> Any:
        runs.append(None)
        return net(x)

    for _ in range(often):
        forward(net, x)
    assert len(runs) == 1
    with option():
        changed = forward(net, x)
        assert len(runs) == 2
        assert changed.dtype == net(x).dtype
    for _ in range(3):
        assert forward(net, x).dtype == jnp.float32
    assert len(runs) == 2


def test_names_may_stand_for_another_module_at_any_time() -> None:
    fb.manual_seed(0)
    net: Any = Net().double()
    other: Any = None

    @fb.jit
    def forward(x: Any) -> Any:
        return net(x) if other is None else other(net(x))  # noqa: F821 (it is deleted in the end)

    for _ in range(4):
        forward(X)
    net = Net().double()
    for _ in range(4):
        expected = copy.deepcopy(net)(X)
        np.testing.assert_allclose(forward(X), expected)
    assert net.norm.num_batches_tracked == 4
    other = nn.Linear(3, 1).double()
    assert forward(X).shape == (4, 1)
    other = None
    assert forward(X).shape == (4, 3)
    del net
    with pytest.raises(NameError):
        forward(X)


@pytest.mark.parametrize(
    "argument",
    [np.asarray(X), X[:2], X.astype(jnp.float32), [X], 2.0],
    ids=["numpy", "shape", "dtype", "list", "number"],
)
def test_another_kind_of_argument_after_calls_that_were_recognised(argument: Any) -> None:
    net = nn.Linear(3, 3).double()
    forward: Any = fb.jit(lambda net, x: jax.tree.map(lambda x: net.weight * jnp.sum(x), x))
    for _ in range(4):
        forward(net, X)
    for _ in range(2):
        got = jax.tree.leaves(forward(net, argument))[0]
        np.testing.assert_allclose(got, net.weight * np.sum(argument), rtol=1e-6)
    np.testing.assert_allclose(forward(net, X), net.weight * X.sum())
    with pytest.raises(TypeError, match="neither an array nor a module"):
        forward(net, "text")
    np.testing.assert_allclose(forward(net, X), net.weight * X.sum())


def test_a_raw_transform_around_calls_that_were_recognised() -> None:
    net, optimizer = made()
    step: Any = fb.jit(train)
    for _ in range(4):
        step(net, optimizer, X)
    before = jax.tree.map(np.asarray, dict(net.state_dict()))
    with pytest.raises(StateError, match="raw jax transform"):
        jax.grad(lambda x: step(net, optimizer, x))(X)
    with pytest.raises(StateError, match="raw jax transform"):
        jax.jit(lambda: step(net, optimizer, X))()
    jax.tree.map(np.testing.assert_array_equal, before, dict(net.state_dict()))
    step(net, optimizer, X)
    assert net.norm.num_batches_tracked == before["norm.num_batches_tracked"] + 1


def test_an_empty_list_by_name_is_another_call_than_none() -> None:
    forward: Any = fb.jit(lambda x=None: jnp.ones(2) if x is None else jnp.zeros(3))
    for _ in range(4):
        assert forward(x=[]).shape == (3,)
    assert forward().shape == (2,)


def test_arrays_may_stand_anywhere_among_the_arguments() -> None:
    @fb.jit
    def forward(x: Any, net: Any, y: Any, other: Any, z: Any) -> Any:
        return net(x) + 2 * other(y) + 3 * z

    first, second = nn.Linear(3, 3).double(), nn.Linear(3, 3).double()
    for _ in range(4):
        got = forward(X, first, X + 1, second, X + 2)
        np.testing.assert_allclose(got, first(X) + 2 * second(X + 1) + 3 * (X + 2), rtol=1e-6)


def test_another_thread_may_look_while_one_trains() -> None:
    net, optimizer = made()
    step: Any = fb.jit(train)
    for _ in range(3):
        step(net, optimizer, X)
    done, seen = threading.Event(), []

    def look() -> None:
        while not done.is_set():
            with contextlib.suppress(RuntimeError):  # the array that it got may be overwritten before it is read
                seen.append(int(net.norm.num_batches_tracked))

    thread = threading.Thread(target=look)
    thread.start()
    for _ in range(300):
        step(net, optimizer, X)
    done.set()
    thread.join()
    assert seen == sorted(seen)
    assert net.norm.num_batches_tracked == 303


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", jnp.zeros(64))
        self.register_buffer("scale", jnp.zeros(()))


@pytest.fixture
def threads_take_turns_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_a_write_of_another_thread_lasts_when_it_comes_in_the_middle_of_a_call(threads_take_turns_often: None) -> None:
    net, delays = Counter(), random.Random(0)

    @fb.jit
    def step(net: Any) -> Any:
        net.total = net.total + 1
        return net.scale + 0

    def write(value: int) -> None:
        time.sleep(delays.uniform(0, 0.002))
        net.scale = np.float64(value)

    for trial in range(1, 60):
        thread = threading.Thread(target=write, args=(trial,))
        thread.start()
        while thread.is_alive():
            step(net)
        assert step(net) == trial
