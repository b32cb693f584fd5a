"""`fb.vmap`: what each element gives by itself, stacked; and what becomes of state."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flambeau as fb
from flambeau import nn
from tests.transforms.small import Net, same
from tests.transforms.states import Observer, assert_same

XS = jnp.arange(30.0).reshape(5, 2, 3) / 10


def both(fun: Any) -> list[Any]:
    return [fun, fb.jit(fun)]


@given(
    in_axes=st.sampled_from([0, 1, 2, -1]),
    out_axes=st.sampled_from([0, 1, -1]),
    size=st.integers(1, 4),
    name=st.sampled_from([None, "lanes"]),
)
def test_arrays_are_mapped_as_by_jax(in_axes: int, out_axes: int, size: int, name: Any) -> None:
    x = jnp.arange(8.0 * size).reshape(2, 4, size)
    x = jnp.moveaxis(x, -1, in_axes)

    def fun(x: Any, scale: Any) -> Any:
        mean = x - jax.lax.pmean(x, name) if name else x
        return {"a": scale * mean, "b": (x.sum(0), scale)}

    axes = {"a": out_axes, "b": (0, None)}
    expected = jax.vmap(fun, (in_axes, None), axes, axis_name=name)(x, 2.0)
    got = fb.vmap(fun, (in_axes, None), axes, axis_name=name)(x, 2.0)
    jax.tree.map(same, got, expected)


@pytest.mark.parametrize("way", [0, 1], ids=["eager", "jit"])
def test_a_module_that_is_the_same_for_all(way: int) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh()).double()
    same(both(fb.vmap(net))[way](XS), net(XS))
    weights = both(fb.vmap(fb.grad(lambda net, x: net(x).sum()), in_axes=(None, 0)))[way](net, XS)["0.weight"]
    for weight, x in zip(weights, XS):
        same(weight, fb.grad(lambda net, x: net(x).sum())(net, x)["0.weight"])


@pytest.mark.parametrize("way", [0, 1], ids=["eager", "jit"])
def test_an_ensemble_is_its_members(way: int) -> None:
    """A mapped constructor, mapped training with statistics, dropout off: what each member does by itself."""

    def make() -> Any:
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()

    ensemble = both(fb.vmap(make, axis_size=5, randomness="different"))[way]()
    assert ensemble[0].weight.shape == (5, 4, 3)
    assert len(np.unique(np.asarray(ensemble[0].weight))) == 5 * 4 * 3
    members = [make() for _ in range(5)]
    for i, member in enumerate(members):
        member.load_state_dict({name: value[i] for name, value in ensemble.state_dict().items()})
    out = both(fb.vmap(lambda net, x: net(x)))[way](ensemble, XS)
    grads = both(fb.vmap(fb.grad(lambda net, x: (net(x) ** 2).sum())))[way](ensemble, XS)
    for i, member in enumerate(members):
        same(out[i], member(XS[i]))
        single = fb.grad(lambda net, x: (net(x) ** 2).sum())(member, XS[i])
        for name, grad in single.items():
            np.testing.assert_allclose(grads[name][i], grad, rtol=1e-9, atol=1e-9)
        for name, value in member.state_dict().items():
            same(ensemble.state_dict()[name][i], value)


def test_stacked_state_is_an_ensemble() -> None:
    members = [nn.Linear(3, 2).double() for _ in range(5)]
    params, buffers = fb.stack_module_state(members)
    call = fb.vmap(
        lambda params, buffers, x: fb.functional_call(members[0], (params, buffers), x), in_axes=(0, 0, None)
    )
    for got, member in zip(call(params, buffers, XS[0]), members):
        same(got, member(XS[0]))


def test_a_write_that_is_the_same_for_all_is_written() -> None:
    net = Net().double()

    def step(x: Any) -> Any:
        net.mean = net.mean + 1
        net.calls += 1
        net.trace.append("seen")
        return x * 2

    for run in both(fb.vmap(step)):
        same(run(XS), XS * 2)
    same(net.mean, jnp.full(3, 2.0))
    assert (net.calls, net.trace) == (2, ["seen", "seen"])


@pytest.mark.parametrize("way", [0, 1], ids=["eager", "jit"])
def test_a_write_that_depends_on_the_element(way: int) -> None:
    def step(net: Any, x: Any) -> Any:
        net.mean = net.mean * 0.5 + x.sum(0)
        return x

    net = Net().double()
    before = Observer(holds=False).state(net)
    with pytest.raises(
        fb.StateError, match=r"Net.mean is written, and the value depends on the mapped axis.*write='mean'"
    ):
        both(fb.vmap(step, in_axes=(None, 0)))[way](net, XS)
    assert_same(before, Observer(holds=False).state(net))
    both(fb.vmap(step, in_axes=(None, 0), write="mean"))[way](net, XS)
    same(net.mean, XS.sum(1).mean(0))
    net = Net().double()
    both(fb.vmap(step, in_axes=(None, 0), write="stack"))[way](net, XS)
    same(net.mean, XS.sum(1))


@pytest.mark.parametrize("way", [0, 1], ids=["eager", "jit"])
def test_what_transforms_around_made_is_from_outside(way: int) -> None:
    """It is the same for all elements, unlike what the mapped function makes."""

    def step(net: Any, x: Any, mapped: Any) -> Any:
        net.seen = x  # new in the first step of a scan, and there already in those after it
        net.mean = net.mean + 1
        net.late = nn.Buffer(x)
        return fb.vmap(mapped, in_axes=(None, 0))(net, jnp.ones(4))

    def written(net: Any, y: Any) -> Any:
        net.seen, net.mean, net.late = net.seen * 2, net.mean + 1, net.late + 1
        return net.mean * y

    def run() -> Any:
        net = Net().double()
        _, ys = fb.scan(lambda c, x: (c, step(net, x, written)), 0, XS[0])
        return net.seen, net.mean, net.late, ys

    for got, expected in zip(both(run)[way](), (2 * XS[0, -1], jnp.full(3, 4.0), XS[0, -1] + 1)):
        same(got, expected)

    def dependent(net: Any, y: Any) -> None:
        net.mean = net.mean * y

    with pytest.raises(fb.StateError, match=r"mean is written, and the value depends on the mapped axis"):
        both(lambda: fb.checkpoint(lambda: step(Net().double(), XS[0, 0], dependent))())[way]()


@pytest.mark.parametrize("way", [0, 1], ids=["eager", "jit"])
def test_a_module_that_is_given_to_one_from_outside(way: int) -> None:
    """It is a part of what is the same for all elements, and no ensemble."""

    def step(x: Any, factor: Any) -> Any:
        if not hasattr(net, "late"):
            net.late = nn.Sequential(nn.Linear(3, 3)).double()
            net.late[0].weight = nn.Parameter(jnp.eye(3) * factor)
            net.trace.append(nn.Linear(2, 2))
        return net.late(x).sum()

    net = Net().double()
    both(fb.vmap(lambda x: step(x, 2.0), randomness="same"))[way](XS)
    assert net.late[0].weight.shape == (3, 3) and net.trace[0].weight.shape == (2, 2)
    same(net.late[0].weight, 2 * jnp.eye(3))
    net = Net().double()
    with pytest.raises(fb.StateError, match="the value depends on the mapped axis"):
        both(fb.vmap(lambda x: step(x, x[0, 0]), randomness="same"))[way](XS)
    assert not hasattr(net, "late") and net.trace == []


def test_a_list_is_state_too() -> None:
    net = Net().double()
    with pytest.raises(fb.StateError, match=r"Net.trace is written"):
        fb.vmap(lambda x: net.trace.append(x))(XS)
    assert net.trace == []
    fb.vmap(lambda x: net.trace.append(x), write="stack")(XS)
    same(net.trace[0], XS)
    fb.vmap(lambda x: net.trace.append(x), write="mean")(XS)
    same(net.trace[1], XS.mean(0))


def test_there_is_no_mean_of_integers() -> None:
    net = Net().double()
    net.register_buffer("count", jnp.array(0))

    def step(x: Any) -> None:
        net.count = net.count + x.sum().astype(int)

    with pytest.raises(fb.StateError, match="no mean of int64"):
        fb.vmap(step, write="mean")(XS)


@pytest.mark.parametrize("way", [0, 1], ids=["eager", "jit"])
def test_randomness(way: int) -> None:
    dropout = nn.Dropout(0.5)
    ones = jnp.ones((4, 100))
    with pytest.raises(fb.StateError, match="a random number is drawn"):
        both(fb.vmap(dropout))[way](ones)
    states = []
    for randomness, rows in (("different", 4), ("same", 1)):
        fb.manual_seed(0)
        out = both(fb.vmap(dropout, randomness=randomness))[way](ones)  # pyright: ignore[reportArgumentType]
        assert len(np.unique(np.asarray(out), axis=0)) == rows
        assert 0.3 < float((out == 0).mean()) < 0.7
        again = both(fb.vmap(dropout, randomness=randomness))[way](ones)  # pyright: ignore[reportArgumentType]
        assert not np.array_equal(out, again)
        states.append(fb.get_rng_state())
    fb.manual_seed(0)
    for _ in range(2):
        dropout(ones)  # the generator moves on as by one call for each
    for state in states:
        np.testing.assert_array_equal(state, fb.get_rng_state())


@pytest.mark.parametrize("randomness", ["error", "different", "same"])
@pytest.mark.parametrize("draws_before", [False, True])
def test_a_generator_that_is_seeded_inside(randomness: Any, draws_before: bool) -> None:
    generator = fb.Generator()

    def step(x: Any) -> Any:
        if draws_before:
            jax.random.uniform(generator.next_key())
        generator.manual_seed(5)
        return x + jax.random.uniform(generator.next_key())

    for run in both(fb.vmap(step, randomness=randomness)):
        generator.manual_seed(0)
        expected = step(XS)
        state = generator.get_state()
        generator.manual_seed(0)
        if randomness == "error" and draws_before:
            with pytest.raises(fb.StateError, match="a random number is drawn"):
                run(XS)
            continue
        same(run(XS), expected)
        np.testing.assert_array_equal(generator.get_state(), state)


def test_eager_and_compiled_draw_alike() -> None:
    dropout = nn.Dropout(0.5)
    found = []
    for run in both(fb.vmap(fb.vmap(dropout, randomness="different"), randomness="different")):
        fb.manual_seed(0)
        found.append(run(jnp.ones((3, 4, 50))))
    np.testing.assert_array_equal(*found)
    assert len(np.unique(np.asarray(found[0]).reshape(12, 50), axis=0)) == 12


def test_compiled_functions_inside_draw_for_each_element() -> None:
    """The program of a nested `fb.jit` is the one compiled outside of vmap; its keys are the elements' all the same."""
    dropout = nn.Dropout(0.5)
    inner = fb.jit(lambda x: dropout(x))
    inner(jnp.ones(50))
    out = fb.vmap(inner, randomness="different")(jnp.ones((4, 50)))
    assert len(np.unique(np.asarray(out), axis=0)) == 4
    with pytest.raises(fb.StateError, match="a random number is drawn"):
        fb.vmap(inner)(jnp.ones((4, 50)))


def test_other_transforms_inside() -> None:
    net = nn.Linear(3, 3).double()

    def step(x: Any) -> Any:
        carry, _ = fb.scan(lambda carry, _: (jnp.tanh(net(carry)), None), x, length=3)
        return fb.cond(carry.sum() > 0, fb.checkpoint(net), lambda x: x, carry)

    for out, x in zip(fb.vmap(step)(XS[:, 0]), XS[:, 0]):
        np.testing.assert_allclose(out, step(x), rtol=1e-9)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: fb.vmap(lambda x, y: x)(jnp.ones(2), jnp.ones(3)),
            fb.ShapeError,
            "one size of the mapped axis, got 2 of .* 3 of",
        ),
        (lambda: fb.vmap(lambda x: x)(1.0), fb.ShapeError, "has no axis 0"),
        (lambda: fb.vmap(lambda net, x: x)(nn.Linear(3, 2), XS), fb.ShapeError, r"in_axes=\(None, 0\)"),
        (lambda: fb.vmap(lambda x: x, in_axes=None)(XS), ValueError, "nothing is mapped"),
        (lambda: fb.vmap(lambda x: x, in_axes=(0, 0))(XS), ValueError, "expected in_axes to be an axis"),
        (lambda: fb.vmap(lambda x: x, randomness="some"), ValueError, "expected randomness"),  # pyright: ignore
        (lambda: fb.vmap(lambda x: x, write="last"), ValueError, "expected write"),  # pyright: ignore
    ],
)
def test_mistakes(call: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        call()
