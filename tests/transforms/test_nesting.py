"""Transforms inside of each other, exceptions at any point, threads, and where an exception arose.

The numbers in the headings are those of the design.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flambeau as fb
from flambeau import nn
from flambeau.core.random import next_key
from tests.transforms.small import Net, X, compiles, same
from tests.transforms.states import Observer, assert_same

# -- 8. Nesting ---------------------------------------------------------------------------------------------------------------


def loss(net: Any, x: Any) -> Any:
    """Writes a buffer, a list and a static attribute, and draws a random number, which is not in the value."""
    net.mean = net.mean + x.mean(0)
    net.trace.append(jax.random.uniform(next_key()))
    net.last_shape = x.shape
    return (net(x) ** 2).sum()


NESTINGS: dict[str, Callable[..., Any]] = {
    "grad": fb.grad(loss),
    "jit(grad)": fb.jit(fb.grad(loss)),
    "grad(jit)": fb.grad(fb.jit(loss)),
    "jit(grad(jit))": fb.jit(fb.grad(fb.jit(loss))),
    "jit(jit(grad))": fb.jit(fb.jit(fb.grad(loss))),
    "grad in jit": fb.jit(lambda net, x: fb.grad(loss)(net, x)),
    "closures": lambda net, x: fb.jit(lambda: fb.grad(lambda net: loss(net, x))(net))(),
}


@pytest.mark.parametrize("how", NESTINGS)
def test_every_nesting_gives_the_same(how: str) -> None:
    """The gradient, and what is written: once."""
    net, twin, observer = Net(), Net(), Observer(holds=True)
    fb.manual_seed(0)
    for calls in (1, 2, 3):
        loss(twin, X)
        same(twin.mean, calls * X.mean(0))
    expected = Observer(holds=True).state(twin, fb.default_generator)
    fb.manual_seed(0)
    for _ in range(3):
        gradients = NESTINGS[how](net, X)
        assert list(gradients) == ["weight"] and gradients.parameter("weight") is net.get_parameter("weight")
        same(gradients["weight"], 4 * (X**2).sum(0))
    assert_same(observer.state(net, fb.default_generator), expected)
    observer.check_held()


def test_jit_in_jit() -> None:
    net, other = Net(), Net(5.0)

    @fb.jit
    def inner(net: Net, x: Any) -> Any:
        net.mean = net.mean + 1
        other.mean = other.mean + net.mean
        return net(x)

    @fb.jit
    def step(net: Net, x: Any) -> Any:
        return inner(net, inner(net, x)) + inner(other, x)

    same(compiles(1, lambda: step(net, X)), 4 * X + 5 * X)
    same(compiles(0, lambda: step(net, X)), 4 * X + 5 * X)
    same(net.mean, [4.0] * 3)
    eager_mean = 0.0
    for mean in (1, 2, 3, 4):
        eager_mean += mean
        if mean % 2 == 0:  # `inner(other, x)`
            eager_mean = 2 * (eager_mean + 1)
    same(other.mean, [eager_mean] * 3)


@pytest.mark.parametrize(
    "around", [lambda fun: fun, fb.jit, fb.checkpoint, fb.grad], ids=["eager", "jit", "checkpoint", "grad"]
)
@pytest.mark.parametrize("inside", [fb.jit, fb.checkpoint, lambda fun: fb.vmap(fun, axis_size=2, out_axes=None)])
def test_what_was_made_around_is_given_back_as_itself(around: Any, inside: Any) -> None:
    """Also if the inner function reads nothing of it."""

    def run(x: Any) -> Any:
        box, holder = [Net()], Net()

        def give() -> Any:
            holder.kept = box[0]
            return box[0], box[0].get_parameter("weight")

        module, weight = inside(give)()
        assert module is box[0] and holder.kept is module and weight is module.get_parameter("weight")
        return x * module.weight.sum()

    around(run)(jnp.float32(2.0))


def test_second_derivatives() -> None:
    net: Any = Net()
    gradient = fb.grad(lambda x: (x**3 * net.weight).sum())
    for hessian in (
        fb.grad(lambda x: gradient(x).sum()),
        fb.jit(fb.grad(lambda x: fb.jit(gradient)(x).sum())),
        fb.grad(fb.jit(lambda x: gradient(x).sum())),
    ):
        same(hessian(X[1]), 6 * X[1] * 2)
    mixed = fb.grad(lambda net: fb.grad(lambda x: (net(x) ** 2).sum())(X[1]).sum())(net)
    same(mixed["weight"], 4 * 2 * X[1])


# -- 8. Exceptions ------------------------------------------------------------------------------------------------------------


class Stop(Exception):
    pass


def stop(net: Any, x: Any) -> None:
    raise Stop


def fail_in_jit(net: Any, x: Any) -> None:
    fb.jit(lambda net: (loss(net, x), stop(net, x)))(net)


def fail_in_the_backward_pass(net: Any, x: Any) -> None:
    net.register_full_backward_hook(lambda module, grad_input, grad_output: stop(module, grad_output))
    fb.grad(loss, argnums=1)(net, x)


WORK: dict[str, Callable[[Any, Any], Any]] = {
    "buffer": lambda net, x: setattr(net, "mean", net.mean + x.mean(0)),
    "parameter": lambda net, x: net.get_parameter("weight").copy_(x[0]),
    "array": lambda net, x: setattr(net, "cache", x),
    "list": lambda net, x: net.trace.append(x),
    "new list": lambda net, x: setattr(net, "trace", [x]),
    "dict": lambda net, x: net.table.update(x=x, inner={"y": [x]}),
    "static": lambda net, x: setattr(net, "calls", net.calls + 1),
    "deletion": lambda net, x: net.__dict__.pop("unknown", None) or delattr(net, "cache"),
    "mode": lambda net, x: net.eval(),
    "flag": lambda net, x: net.requires_grad_(False),
    "child": lambda net, x: setattr(net, "child", nn.Linear(2, 2)),
    "seed": lambda net, x: fb.manual_seed(5),
    "draw": lambda net, x: next_key(),
    "jit": lambda net, x: fb.jit(loss)(net, x),
    "grad": lambda net, x: fb.grad(loss, argnums=1)(net, x),
}
FAILURES: dict[str, Any] = {
    "here": stop,
    "in a jit": fail_in_jit,
    "in a backward hook": fail_in_the_backward_pass,
    "in jax": lambda net, x: x @ x,
    "in python": lambda net, x: net.no_such_thing,
}
RUNS: dict[str, Callable[..., Any]] = {
    "jit": lambda program, net: fb.jit(program)(net, X),  # pyright: ignore[reportCallIssue]
    "closure": lambda program, net: fb.jit(lambda x: program(net, x))(X),
    "grad": lambda program, net: fb.grad(program, argnums=1)(net, X),
    "jit(grad)": lambda program, net: fb.jit(fb.grad(program, argnums=1))(net, X),
    "grad(jit)": lambda program, net: fb.grad(fb.jit(program), argnums=1)(net, X),
}


@pytest.mark.parametrize("run", RUNS)
@settings(max_examples=5)
@given(
    st.lists(st.sampled_from(sorted(set(WORK) - {"deletion"})), max_size=3),
    st.booleans(),
    st.sampled_from(sorted(FAILURES)),
)
def test_an_exception_leaves_everything_as_it_was(run: str, work: list[str], deletes: bool, failure: str) -> None:
    """Whatever was done before it, and wherever it is raised; and the next call works."""
    fail = True

    def program(net: Any, x: Any) -> Any:
        for name in [*work, *["deletion"] * deletes]:
            WORK[name](net, x)
        if fail:
            FAILURES[failure](net, x)
        return (x**2).sum()

    net, observer = Net(), Observer(holds=False)
    before = observer.state(net, fb.default_generator)
    for _ in range(2):
        with pytest.raises((Stop, TypeError, AttributeError)):
            RUNS[run](program, net)
        assert_same(before, observer.state(net, fb.default_generator))
    fail = False
    RUNS[run](program, net)
    assert "static" not in work or net.calls == work.count("static")


def test_a_compiled_step_goes_on_after_an_exception() -> None:
    @fb.jit
    def step(net: Net, x: Any) -> Any:
        net.mean = net.mean + x.mean(0)
        if x.shape[0] == 1:
            raise Stop
        return net(x)

    net = Net()
    step(net, X)
    with pytest.raises(Stop):
        step(net, X[:1])
    same(compiles(0, lambda: step(net, X)), 2 * X)
    same(net.mean, 2 * X.mean(0))


@pytest.mark.parametrize("donate", [True, False])
def test_an_exception_while_it_runs(donate: bool) -> None:
    """Raised by a callback of the compiled program, after everything was traced: what was donated is lost, and it says so."""

    def fail(x: Any) -> Any:
        raise Stop

    def step(net: Any, x: Any) -> Any:
        net.trace.append(x)
        net.mean = jax.pure_callback(fail, x[0], x[0]) + net.mean
        return net(x)

    net = Net()
    error, message = (fb.StateError, "what they held is lost") if donate else (Exception, "Stop")
    with pytest.raises(error, match=message):
        fb.jit(step, donate=donate)(net, X)
    assert net.trace == []
    if not donate:
        same(net.mean, [0.0] * 3)


# -- 8. Threads ---------------------------------------------------------------------------------------------------------------


def in_threads(function: Callable[[int], Any]) -> list[Any]:
    """What `function(i)` gives, in four threads at once."""
    start = threading.Barrier(4)

    def run(i: int) -> Any:
        start.wait()
        return function(i)

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(run, range(4)))


def test_threads_share_compiled_code_and_no_state() -> None:
    @fb.jit
    @fb.grad
    def step(net: Any, x: Any) -> Any:
        net.mean = net.mean + x.mean(0)
        net.trace.append(x)
        return (net(x) ** 2).sum()

    def work(i: int) -> Any:
        net = Net(float(i))
        return net, [step(net, X) for _ in range(20)][-1]

    for i, (net, gradients) in enumerate(in_threads(work)):
        same(net.mean, 20 * X.mean(0))
        same(gradients["weight"], 2 * i * (X**2).sum(0))
        assert len(net.trace) == 20


def test_threads_may_draw_from_one_generator() -> None:
    generator = fb.Generator().manual_seed(0)
    step = fb.jit(lambda: jax.random.uniform(next_key(generator), dtype=jnp.float64))
    step()
    draws = in_threads(lambda i: [float(step()) for _ in range(200)])
    assert len(set().union(*draws)) == 800


def test_what_another_thread_does_during_a_trace_is_no_part_of_it() -> None:
    net: Any = Net()
    other: Any = Net()

    def elsewhere() -> None:
        other.mean = other.mean + 1
        other.trace.append(float(net.weight.sum()))
        net.cache = jnp.ones(3)

    @fb.jit
    def step(x: Any) -> Any:
        net.mean = x.mean(0)
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        return net(x)

    for _ in range(3):
        same(step(X), 2 * X)
    same(other.mean, [1.0] * 3)
    assert other.trace == [6.0]
    same(net.cache, [1.0] * 3)
    same(net.mean, X.mean(0))


# -- 12. Errors ---------------------------------------------------------------------------------------------------------------

MODEL = nn.ModuleDict({"encoder": nn.Sequential(nn.ReLU(), nn.Sequential(nn.ReLU(), nn.Conv2d(32, 64, 3)))}).encoder
IMAGES = np.zeros((8, 16, 28, 28), np.float32)


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(MODEL, id="eager"),
        pytest.param(fb.jit(MODEL), id="jit"),
        pytest.param(lambda x: fb.jit(lambda model, x: model(x))(MODEL, x), id="argument"),
        pytest.param(lambda x: fb.jit(fb.grad(lambda model: model(x).sum()))(MODEL), id="jit(grad)"),
        pytest.param(
            lambda x: jax.jit(MODEL)(x), id="jax.jit", marks=pytest.mark.filterwarnings("ignore::UserWarning")
        ),
    ],
)
def test_an_error_says_where_it_arose_and_why(call: Any) -> None:
    with pytest.raises(fb.ShapeError) as caught:
        call(IMAGES)
    where = "1.1 (Conv2d(32, 64, kernel_size=(3, 3), stride=(1, 1)))"
    assert str(caught.value).startswith(f"{where}: expected input ")
    assert "(N, 32, H, W)" in str(caught.value) and "float32[8, 16, 28, 28]" in str(caught.value)
    assert f"in {where} of Sequential, called with (float32[8, 16, 28, 28])" in caught.value.__notes__


@pytest.mark.parametrize("wrap", [lambda f: f, fb.jit], ids=["eager", "jit"])
def test_an_error_of_anyones_carries_a_note(wrap: Any) -> None:
    class Failing(nn.Module):
        def extra_repr(self) -> str:
            return "loudly"

        def forward(self, x: Any, mask: Any = None) -> Any:
            raise KeyError("anything")

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.ReLU(), Failing()])

        def forward(self, x: Any) -> Any:
            return self.layers[1](x, mask=x[0] > 0)

    with pytest.raises(KeyError, match="anything") as caught:
        wrap(Outer())(X)
    (note,) = [note for note in caught.value.__notes__ if note.startswith("in ")]
    assert note == "in layers.1 (Failing(loudly)) of Outer, called with (float64[2, 3], mask=bool[3])"


@pytest.mark.parametrize("wrap", [lambda f: f, fb.jit, fb.grad], ids=["eager", "jit", "grad"])
def test_a_module_whose_repr_fails_hides_no_error(wrap: Any) -> None:
    """One that was made inside shows arrays of which, when the trace has failed, nothing is left."""

    class Failing(nn.ParameterList):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return nn.Module.__call__(self, *args, **kwargs)

        def forward(self, x: Any) -> Any:
            raise KeyError("anything")

    class Wordless(nn.Module):
        def extra_repr(self) -> str:
            raise RuntimeError("no words")

        def forward(self, x: Any) -> Any:
            raise KeyError("anything")

    for make in (lambda: Failing([jnp.ones(2)]), Wordless):
        with pytest.raises(KeyError, match="anything") as caught:
            wrap(lambda x, make=make: make()(x))(X)
        assert any(f"in {make().__class__.__name__}" in note for note in caught.value.__notes__)
