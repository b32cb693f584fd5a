"""Ctrl-C at any moment of a training step: state is that from before the step, or that from after it."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flambeau as fb
from flambeau import nn

X = jnp.arange(12.0).reshape(4, 3)
TIMES = 25


class Net(nn.Module):
    """State of every kind: parameters, buffers, random draws, and, if asked for, a list that grows."""

    def __init__(self, keeps: bool) -> None:
        super().__init__()
        self.linear, self.norm, self.dropout = nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.2)
        self.keeps = keeps
        self.trace: list[Any] = []

    def forward(self, x: Any) -> Any:
        y = self.dropout(self.norm(self.linear(x)))
        if self.keeps:
            self.trace.append(y.mean())
        return y


def loss(net: Any) -> Any:
    return (net(X) ** 2).sum()


def step(net: Any, optimizer: Any) -> Any:
    value, grads = fb.value_and_grad(loss)(net)
    optimizer.step(grads)
    return value


def made(keeps: bool) -> tuple[Any, Any]:
    fb.manual_seed(0)
    net = Net(keeps).double()
    return net, fb.optim.Adam(net.parameters(), lr=0.1)


def state(net: Any, optimizer: Any) -> list[np.ndarray]:
    everything = dict(net.state_dict()), optimizer.state_dict()["state"], list(net.trace), fb.get_rng_state()
    return [np.asarray(leaf) for leaf in jax.tree.leaves(everything)]


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Workers of pytest ignore the signal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def until_interrupted(call: Callable[[], Any], delay: float) -> None:
    """Calls again and again, until Ctrl-C is pressed after some seconds."""
    caught = threading.Event()

    def press() -> None:
        time.sleep(delay)
        for _ in range(5):  # Python ignores what is raised in a finalizer, as when a user has to press twice
            os.kill(os.getpid(), signal.SIGINT)
            if caught.wait(2):
                return

    thread = threading.Thread(target=press)
    with pytest.raises(KeyboardInterrupt):
        thread.start()
        for _ in range(100_000):
            call()
    caught.set()
    thread.join()


def assert_same(mine: list[np.ndarray], its: list[np.ndarray]) -> None:
    for a, b in zip(mine, its, strict=True):
        np.testing.assert_array_equal(a, b)


# Python ignores an exception in a finalizer or a callback of its garbage collector, and pytest tells.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize("first", [True, False], ids=["compiling", "compiled"])
def test_state_is_whole(ctrl_c: None, keeps: bool, first: bool) -> None:
    compiled: Any = fb.jit(step)
    net, optimizer = made(keeps)
    for _ in range(2):
        compiled(net, optimizer)
    seconds = random.Random(0)
    for _ in range(3 if first else TIMES):
        run = fb.jit(step) if first else compiled
        net, optimizer = made(keeps)
        until_interrupted(lambda run=run, net=net, optimizer=optimizer: run(net, optimizer), seconds.uniform(0, 0.01))
        left, done = [state(net, optimizer)], int(net.norm.num_batches_tracked)
        run(net, optimizer)  # no frame is left either, and nothing was given away
        left.append(state(net, optimizer))
        twin = made(keeps)
        for _ in range(done):
            compiled(*twin)
        for mine in left:
            assert_same(mine, state(*twin))
            compiled(*twin)
