"""What changes its place: lists, parameters and their like that are swapped, or moved into one another."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import flambeau as fb
from flambeau import nn
from tests.transforms.states import Observer, assert_same


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)
        self.p: Any = nn.Parameter(jnp.ones(2))
        self.q: Any = nn.Parameter(jnp.zeros(2))
        self.register_buffer("mean", jnp.ones(3))
        self.h: Any = [jnp.ones(1)]
        self.g: Any = [jnp.zeros(1)]
        self.plain: Any = [1]
        self.nested: Any = [[jnp.ones(1)], [jnp.zeros(1)]]
        self.table: Any = {"h": [jnp.ones(2)]}


def swap(one: str, other: str) -> Callable[[Any], None]:
    def change(net: Any) -> None:
        first, second = getattr(net, one), getattr(net, other)
        setattr(net, one, second)
        setattr(net, other, first)

    change.__name__ = f"{one} and {other}"
    return change


def around(net: Any) -> None:
    net.h, net.g, net.plain = net.g, net.plain, net.h


def stays_then_goes(net: Any) -> None:
    net.h = net.h
    net.g = net.h
    net.h = net.plain


def swapped_and_read(net: Any) -> None:
    net.h, net.g = net.g, net.h
    net.mean = net.mean + 2 * net.h[0]


def swapped_and_filled(net: Any) -> None:
    net.h, net.g = net.g, net.h
    net.h.append(net.mean.sum())


def out_of_a_list(net: Any) -> None:
    net.h, net.nested[0] = net.nested[0], net.h


def reversed_list(net: Any) -> None:
    net.nested.reverse()


def to_the_end(net: Any) -> None:
    net.nested.append(net.nested.pop(0))
    net.nested[0].append(net.mean[0])


def out_of_a_dict(net: Any) -> None:
    net.table["h"], net.h = net.h, net.table["h"]


def kept_and_put_back(net: Any) -> None:
    kept = net.p
    net.p = net.q
    net.mean = net.mean + net.p[0]
    net.p = kept


def out_of_a_module_that_is_gone(net: Any) -> None:
    net.p = nn.Linear(2, 2).bias


CHANGES = [
    swap("a", "b"), swap("p", "q"), swap("h", "g"), swap("h", "plain"), around, stays_then_goes, swapped_and_read,
    swapped_and_filled, out_of_a_list, reversed_list, to_the_end, out_of_a_dict, kept_and_put_back,
    out_of_a_module_that_is_gone,
]  # fmt: skip

# How the change is made, as often as it is asked for.
WAYS: dict[str, Callable[[Callable[[Any], None], int], Callable[[Any], Any]]] = {
    "grad": lambda change, _: lambda net: fb.grad(lambda net: (change(net), net.mean.sum())[1])(net),
    "jit": lambda change, _: fb.jit(lambda net: (change(net), 0)[1]),
    "jit of grad": lambda change, _: fb.jit(lambda net: fb.grad(lambda net: (change(net), net.mean.sum())[1])(net)),
    "checkpoint": lambda change, _: lambda net: fb.checkpoint(lambda v: (change(net), v)[1])(1.0),
    "vmap": lambda change, _: lambda net: fb.vmap(lambda v: (change(net), v)[1], randomness="same")(jnp.ones(2)),
    "cond": lambda change, _: fb.jit(
        lambda net: fb.cond(jnp.array(True), *2 * [lambda v: (change(net), v)[1]], jnp.ones(2))
    ),
    "scan": lambda change, count: lambda net: fb.scan(lambda c, _: (change(net), (c, c))[1], 1.0, length=count),
    "jit of scan": lambda change, count: fb.jit(
        lambda net: fb.scan(lambda c, _: (change(net), (c, c))[1], 1.0, length=count)
    ),
    "while_loop": lambda change, count: (
        lambda net: fb.while_loop(lambda c: c < count, lambda c: (change(net), c + 1)[1], 0)
    ),
}


@pytest.mark.filterwarnings("ignore::flambeau.RecompilationWarning")
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("way", WAYS)
def test_swapped_as_by_eager_execution(way: str, change: Callable[[Any], None]) -> None:
    for steps in (1, 2, 3) if "scan" in way or "loop" in way else (1,):
        for calls in (1, 2):
            observers, nets = [Observer(holds=True) for _ in range(2)], []
            for _ in range(2):
                fb.manual_seed(0)
                nets.append(Net())
            for observer, net in zip(observers, nets, strict=True):
                observer.state(net)  # which object is which, before
            transformed = WAYS[way](change, steps)
            fb.manual_seed(0)
            for _ in range(calls):
                transformed(nets[0])
            fb.manual_seed(0)
            for _ in range(calls * steps):
                change(nets[1])
            states = [observer.state(net) for observer, net in zip(observers, nets, strict=True)]
            assert_same(states[1], states[0], f"{steps} steps, {calls} calls")


def test_what_is_returned_is_the_list_that_was_there_before() -> None:
    @fb.jit
    def exchange(net: Any, x: Any) -> Any:
        before = net.h
        net.h = [x]
        return before

    net = Net()
    kept = net.h
    assert exchange(net, jnp.ones(2)) is kept and net.h is not kept


def test_a_parameter_that_was_put_aside_is_itself_again() -> None:
    net, other = nn.Linear(2, 2), nn.Linear(2, 2)
    net.get_parameter("weight").requires_grad_(False)
    kept, others = net.weight, np.array(other.weight)
    net.weight = other.weight
    assert net.get_parameter("weight") is other.get_parameter("weight")
    net.weight = kept
    assert net.get_parameter("weight") is not other.get_parameter("weight")
    assert not net.get_parameter("weight").requires_grad
    np.testing.assert_array_equal(net.weight, kept)
    np.testing.assert_array_equal(other.weight, others)


def test_an_array_that_is_left_of_a_parameter_stands_for_one_parameter() -> None:
    kept = nn.Linear(2, 2).weight
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    first.weight = kept
    second.weight = kept
    assert first.get_parameter("weight") is second.get_parameter("weight")
    # What was written meanwhile is a value of its own, which the array no longer stands for.
    first.weight = jnp.zeros((2, 2))
    third = nn.Linear(2, 2)
    third.weight = kept
    assert third.get_parameter("weight") is not first.get_parameter("weight")
    np.testing.assert_array_equal(third.weight, kept)
    assert not jnp.any(second.weight)


def test_parameters_that_end_leave_nothing() -> None:
    from flambeau.core import cell

    gc.collect()  # what earlier tests left must not end in the midst of this one
    before = len(cell._orphans)
    net = nn.Linear(2, 2)
    kept = net.weight
    del net
    assert len(cell._orphans) == before + 1
    del kept
    assert len(cell._orphans) == before


def test_a_parameter_of_a_class_of_ones_own_is_put_back_whole() -> None:
    class Noted(nn.Parameter):
        def __init__(self, data: Any) -> None:
            super().__init__(data)
            self.note = "mine"

    net: Any = nn.Linear(2, 2)
    net.bias = Noted(jnp.ones(2))
    kept = net.bias
    net.bias = nn.Parameter(jnp.zeros(2))
    net.bias = kept
    assert net.get_parameter("bias").note == "mine"
