"""State in loops and branches: they leave what Python's own leave."""

from __future__ import annotations

import collections
import copy
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flambeau as fb
from flambeau import nn
from tests.transforms.small import Net, same
from tests.transforms.states import Observer, assert_same

XS = jnp.arange(24.0).reshape(4, 2, 3) / 10


class Mixed(nn.Module):
    """Statistics, randomness, lists that are appended to, begun anew and read, and a static attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.3))
        self.history: list[Any] = []
        self.trace: list[Any] = []
        self.state = (jnp.zeros(3), jnp.ones(3))
        self.last_shape: Any = None

    def forward(self, x: Any) -> Any:
        self.trace = [x.mean()]
        h, c = self.state
        y = self.net(x) + h
        self.state = (0.5 * h + y.mean(0), c * 0.9)
        self.history.append(y.sum())
        self.last_shape = y.shape
        return y


def python_loop(net: Any, x: Any, xs: Any) -> Any:
    ys = []
    for each in xs:
        x = net(x + each)
        ys.append(x.sum())
    return x, jnp.stack(ys)


def scanned(net: Any, x: Any, xs: Any) -> Any:
    def step(x: Any, each: Any) -> Any:
        x = net(x + each)
        return x, x.sum()

    return fb.scan(step, x, xs)


def counted(net: Any, x: Any, xs: Any) -> Any:
    def step(i: Any, carry: Any) -> Any:
        x, ys = carry
        x = net(x + jnp.asarray(xs)[i])
        return x, ys.at[i].set(x.sum())

    return fb.fori_loop(0, len(xs), step, (x, jnp.zeros(len(xs))))


def after(loop: Any, *, compiled: bool, gradient: bool = False) -> Any:
    """What two rounds of a loop give, and everything that they leave."""
    fb.manual_seed(3)
    net = Mixed().double()
    observer = Observer(holds=True)
    if gradient:
        plain = loop
        loop = fb.value_and_grad(
            lambda net, x, xs: (lambda x, ys: (jnp.sum(x**2), ys))(*plain(net, x, xs)), has_aux=True
        )
    run = fb.jit(loop) if compiled else loop
    results = [observer.result(run(net, XS[0], XS)) for _ in range(2)]
    return results, observer.state(net, fb.default_generator)


@pytest.mark.parametrize("gradient", [False, True], ids=["value", "gradient"])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("loop", [scanned, counted])
def test_a_loop_leaves_what_pythons_leaves(loop: Any, compiled: bool, gradient: bool) -> None:
    expected = after(python_loop, compiled=False, gradient=gradient)
    assert_same(expected, after(loop, compiled=compiled, gradient=gradient))


def test_the_step_is_traced_once() -> None:
    traces = []

    def step(carry: Any, x: Any) -> Any:
        traces.append(x)
        return carry + x, carry

    fb.scan(step, jnp.zeros(3), jnp.ones((100, 3)))
    assert len(traces) == 1


def test_reverse_and_unroll_are_jaxs() -> None:
    net = Net().double()

    def step(carry: Any, x: Any) -> Any:
        net.trace.append(x)
        net.mean = net.mean * 0.5 + x
        return carry * 0.9 + x, carry

    plain = jax.lax.scan(lambda c, x: (c * 0.9 + x, c), jnp.zeros(3), XS[:, 0], reverse=True)
    got = fb.scan(step, jnp.zeros(3), XS[:, 0], reverse=True, unroll=2)
    jax.tree.map(same, got, plain)
    same(jnp.stack(net.trace), XS[::-1, 0])
    mean = jnp.zeros(3)
    for x in XS[::-1, 0]:
        mean = mean * 0.5 + x
    same(net.mean, mean)


def test_a_step_that_never_settles_is_right_and_warns_once() -> None:
    net = Net().double()

    def step(carry: Any, x: Any) -> Any:
        net.calls += 1
        return carry + net.calls * x, None

    with pytest.warns(fb.RecompilationWarning, match="calls"):
        total, _ = fb.scan(step, jnp.zeros(3), jnp.ones((5, 3)))
    same(total, jnp.full(3, 15.0))
    assert net.calls == 5


CONTAINERS = {
    "a dict": ({}, lambda held, x: held.update(last=10 * x)),
    "a dict that grows": ({"a": jnp.ones(3)}, lambda held, x: held.update({str(len(held)): 10 * x})),
    "a deque": (collections.deque(maxlen=2), lambda held, x: held.append(10 * x)),
    "a list that is read": ([], lambda held, x: held.append((len(held) + 10) * x)),
    "a dict in a dict": ({"n": 3, "inner": {}}, lambda held, x: held["inner"].update(last=10 * x)),
}


@pytest.mark.filterwarnings("ignore::flambeau.RecompilationWarning")
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("kind", CONTAINERS)
def test_a_container_that_a_step_fills(kind: str, compiled: bool) -> None:
    """What it holds at first has other arrays than what it holds then."""

    def after(scan: Any) -> Any:
        empty, fill = CONTAINERS[kind]
        observer = Observer(holds=False)
        net: Any = nn.Module()
        net.held = copy.deepcopy(empty)

        def step(carry: Any, x: Any) -> Any:
            fill(net.held, x)
            return (carry[0] + x, carry[1] * x), 2 * x

        def run() -> Any:
            return scan(step, (jnp.zeros(3), jnp.ones(3)), XS[:, 0])

        results = (fb.jit(run) if compiled and scan is fb.scan else run)()
        return observer.result(results), observer.state(net, fb.default_generator)

    def python(step: Any, carry: Any, xs: Any) -> Any:
        ys = []
        for x in xs:
            carry, y = step(carry, x)
            ys.append(y)
        return carry, jnp.stack(ys)

    assert_same(after(python), after(fb.scan))


@pytest.mark.filterwarnings("ignore::flambeau.RecompilationWarning")
def test_a_while_loop_whose_body_fills_a_list() -> None:
    net: Any = nn.Module()
    net.seen = []

    def body(total: Any) -> Any:
        net.seen.append(total)
        return total + len(net.seen)

    same(fb.while_loop(lambda total: total < 5, body, jnp.zeros(())), 6.0)
    same(jnp.stack(net.seen), [0.0, 1.0, 3.0])


def test_no_steps_change_nothing() -> None:
    net = Net().double()

    def step(carry: Any, x: Any) -> Any:
        net.trace.append(x)
        net.mean = x
        return carry + 1, jnp.stack([x, x])

    carry, ys = fb.scan(step, 0, jnp.zeros((0, 3)))
    assert (int(carry), ys.shape, net.trace) == (0, (0, 2, 3), [])
    same(net.mean, jnp.zeros(3))
    same(fb.fori_loop(3, 1, lambda i, value: value + 1, jnp.ones(2)), jnp.ones(2))


def test_modules_may_be_in_the_carry() -> None:
    net = nn.BatchNorm1d(3).double()
    (same_net, total), _ = fb.scan(
        lambda carry, x: ((carry[0], carry[1] + carry[0](x)), None), (net, jnp.zeros((2, 3))), XS
    )
    assert same_net is net
    assert net.num_batches_tracked == len(XS)
    assert total.shape == (2, 3)


def test_pythons_numbers_in_the_carry_take_the_steps_dtype() -> None:
    total, _ = fb.scan(lambda total, x: (total + x, None), 0.0, jnp.ones(3))
    assert float(total) == 3.0


@pytest.mark.parametrize(
    ("step", "error", "message"),
    [
        (lambda c, x: c, TypeError, "give \\(carry, y\\)"),
        (
            lambda c, x: (jnp.zeros(4), x),
            fb.ShapeError,
            "expected the carry to stay float64\\[3\\], got float64\\[4\\]",
        ),
        (lambda c, x: (c.astype(int), x), fb.ShapeError, "expected the carry to stay float64\\[3\\], got int64\\[3\\]"),
        (lambda c, x: ((c, c), x), TypeError, "a carry like the one that it took"),
        (lambda c, x: (c, nn.ReLU()), TypeError, "arrays to stack as y, got a ReLU"),
    ],
)
def test_a_step_that_does_not_fit(step: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        fb.scan(step, jnp.zeros(3), jnp.ones((2, 3)))


def test_lengths_that_differ() -> None:
    with pytest.raises(fb.ShapeError, match=r"one length for all of xs .*\[2, 3\]"):
        fb.scan(lambda c, x: (c, None), 0, (jnp.ones(2), jnp.ones(3)))
    with pytest.raises(fb.ShapeError, match="got neither"):
        fb.scan(lambda c, x: (c, None), 0)


def test_map_in_batches_is_map() -> None:
    net = nn.Linear(3, 2).double()
    xs = jnp.arange(21.0).reshape(7, 3)
    same(fb.map(net, xs, batch_size=3), fb.map(net, xs))


def test_an_exception_in_a_step_changes_nothing() -> None:
    net = Net().double()
    before = Observer(holds=False).state(net, fb.default_generator)

    def step(carry: Any, x: Any) -> Any:
        net.mean = net.mean + x
        net.calls += 1
        net.trace.append(net.dropout(x))
        if net.calls == 3:
            raise RuntimeError("boom")
        return carry, x

    with pytest.raises(RuntimeError, match="boom"):
        fb.scan(step, 0, jnp.ones((5, 3)))
    assert_same(before, Observer(holds=False).state(net, fb.default_generator))


# -- while ------------------------------------------------------------------------------------------------------------------


class Halving(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", jnp.array(0))
        self.register_buffer("checks", jnp.array(0))
        self.norm = nn.BatchNorm1d(3)
        self.dropout = nn.Dropout(0.2)

    def large(self, x: Any) -> Any:
        self.checks += 1
        return jnp.sum(jnp.abs(x)) > 0.5

    def halve(self, x: Any) -> Any:
        self.steps += 1
        self.norm(x)
        return 0.5 * self.dropout(x)


def python_while(net: Any, x: Any) -> Any:
    while net.large(x):
        x = net.halve(x)
    return x


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("size", [0.0, 1.0, 100.0], ids=["none", "some", "many"])
def test_while_leaves_what_pythons_leaves(compiled: bool, size: float) -> None:
    def run(loop: Any) -> Any:
        fb.manual_seed(0)
        net = Halving().double()
        observer = Observer(holds=True)
        return observer.result(loop(net, size * XS[0])), observer.state(net, fb.default_generator)

    def loop(net: Any, x: Any) -> Any:
        return fb.while_loop(net.large, net.halve, x)

    assert_same(run(python_while), run(fb.jit(loop) if compiled else loop))


def test_a_while_loop_that_keeps_a_list() -> None:
    net = Net().double()

    def body(x: Any) -> Any:
        net.trace.append(x)
        return x * 0.5

    fb.while_loop(lambda x: jnp.sum(x) > 1, body, jnp.ones(3) * 4)
    assert len(net.trace) == 4
    with pytest.raises(
        fb.StateError, match=r"while_loop: the body changes Net.trace, and how often is known only at run time"
    ):
        fb.jit(lambda x: fb.while_loop(lambda x: jnp.sum(x) > 1, body, x))(jnp.ones(3) * 4)
    assert len(net.trace) == 4


# -- branches ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("way", ["cond", "switch"])
def test_the_branch_that_is_taken_writes(compiled: bool, way: str) -> None:
    small, large = (nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.2)).double() for _ in range(2))

    def choose(x: Any) -> Any:
        if way == "cond":
            return fb.cond(x.sum() > 10, large, small, x)
        return fb.switch((x.sum() > 10).astype(int) * 7, [small, large], x)

    run = fb.jit(choose) if compiled else choose
    twins = copy.deepcopy((small, large))
    for x in (XS[0], 100 * XS[1], XS[2], 100 * XS[3], XS[0]):
        fb.manual_seed(1)
        got, state = run(x), fb.get_rng_state()
        fb.manual_seed(1)
        same(got, twins[int(x.sum() > 10)](x))
        np.testing.assert_array_equal(state, fb.get_rng_state())
    for ours, twin in zip((small, large), twins):
        jax.tree.map(same, dict(ours.state_dict()), dict(twin.state_dict()))
    assert [int(net[0].num_batches_tracked) for net in (small, large)] == [3, 2]


def test_only_the_branch_that_is_taken_runs_where_it_is_known() -> None:
    assert fb.cond(True, lambda: "yes", lambda: 1 / 0) == "yes"
    assert fb.switch(9, [lambda: 1 / 0, lambda: "last"]) == "last"
    # Also under grad, where the value is known.
    grad = fb.grad(lambda x: fb.cond(x > 0, lambda x: x**2, lambda x: 1 / 0, x))(3.0)
    assert float(grad) == 6.0


def test_branches_that_change_modules_alike() -> None:
    net = Net().double()

    def branch(scale: float) -> Any:
        def run(x: Any) -> Any:
            net.trace.append(x * scale)
            net.width = 7
            return x * scale

        return run

    fb.jit(lambda x: fb.cond(x.sum() > 0, branch(2.0), branch(3.0), x))(jnp.ones(3))
    same(net.trace[0], jnp.full(3, 2.0))
    assert net.width == 7


def test_branches_that_change_modules_otherwise() -> None:
    net = Net().double()

    def keep(x: Any) -> Any:
        net.trace.append(x)
        return x

    with pytest.raises(fb.StateError, match=r"branch 0 changes nothing, branch 1 fills Net.trace"):
        fb.jit(lambda x: fb.cond(x.sum() > 0, keep, lambda x: x, x))(jnp.ones(3))
    assert net.trace == []


@pytest.mark.parametrize(
    ("other", "error", "message"),
    [
        (lambda x: x[:2], fb.ShapeError, r"same shapes and dtypes, got float64\[2\] and float64\[3\]"),
        (lambda x: x.astype(int), fb.ShapeError, r"same shapes and dtypes, got int64\[3\] and float64\[3\]"),
        (lambda x: (x, x), TypeError, "results of one tree"),
        (lambda x: "text", TypeError, "arrays, or the same thing"),
    ],
)
def test_branches_that_give_other_things(other: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        fb.jit(lambda x: fb.cond(x.sum() > 0, lambda x: x, other, x))(jnp.ones(3))


def test_a_predicate_with_axes() -> None:
    with pytest.raises(fb.ShapeError, match="without axes"):
        fb.cond(jnp.ones(3) > 0, lambda: 0, lambda: 1)
    with pytest.raises(ValueError, match="at least one branch"):
        fb.switch(0, [])


# -- found by random programs -----------------------------------------------------------------------------------------------


def test_a_cell_that_only_a_hidden_way_leads_to() -> None:
    """The step reaches a buffer by way of `buffers()` of a module that it does not name."""
    net, other = Net().double(), Net().double()
    net.friends = (lambda: other,)

    def step(carry: Any, x: Any) -> Any:
        (friend,) = net.friends
        return carry + sum(b.sum() for b in friend().buffers()), x

    other.mean = jnp.ones(3)
    total, _ = fb.jit(lambda xs: fb.scan(step, jnp.zeros(()), xs))(jnp.ones(2))
    same(total, 6.0)


def test_a_list_that_is_a_result_and_state_is_one_object() -> None:
    net = Net().double()

    def program(net: Any, x: Any) -> Any:
        net.cache = [x]
        return x.sum(), net.cache

    for transform in (lambda f: f, fb.jit):
        (_, kept), _ = transform(fb.value_and_grad(program, has_aux=True))(net, jnp.ones(3))
        assert kept is net.cache
        assert transform(program)(net, jnp.ones(3))[1] is net.cache
