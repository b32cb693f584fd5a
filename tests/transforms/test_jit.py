"""`fb.jit` compiles a function no more often than it must, and finds the state that the function reaches.

The numbers in the headings are those of the design. What a compiled function leaves behind is in `test_state.py`, nesting,
exceptions and threads in `test_nesting.py`, and random programs in `test_programs.py`.
"""

from __future__ import annotations

import gc
import inspect
import weakref
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flambeau as fb
from flambeau import nn
from tests.transforms.small import Net, X, compiles, same

# -- 1. Caching ---------------------------------------------------------------------------------------------------------------


def test_the_second_call_neither_compiles_nor_runs_python() -> None:
    runs = []

    @fb.jit
    def step(net: Net, x: Any) -> Any:
        runs.append("run")
        return net(x)

    net = Net()
    same(compiles(1, lambda: step(net, X)), 2 * X)
    same(compiles(0, lambda: step(net, X + 1)), 2 * (X + 1))
    assert runs == ["run"]


def test_modules_of_one_structure_share_a_program() -> None:
    """With their own values; and what is written is theirs."""

    @fb.jit
    def step(net: Net, x: Any) -> Any:
        net.mean = net.mean + x.mean(0)
        return net(x)

    for count, scale in ((1, 2.0), (0, 3.0), (0, 4.0)):
        net = Net(scale)
        same(compiles(count, lambda net=net: step(net, X)), scale * X)
        same(net.mean, X.mean(0))


def test_train_and_eval_are_two_programs_and_no_more() -> None:
    @fb.jit
    def step(net: Any, x: Any) -> Any:
        return net.dropout(x)

    net = Net()
    for count, mode in ((1, True), (1, False), (0, True), (0, False), (0, True)):
        net.train(mode)
        output = compiles(count, lambda: step(net, jnp.ones(100)))
        assert set(np.unique(output)) == ({0.0, 2.0} if mode else {1.0})


CHANGES: dict[str, Callable[[Any], Any]] = {
    "a number": lambda net: setattr(net, "width", 4),
    "a new attribute": lambda net: setattr(net, "colour", "red"),
    "an attribute of a child": lambda net: setattr(net.dropout, "p", 0.25),
    "a child": lambda net: setattr(net, "dropout", nn.Dropout1d(0.5)),
    "requires_grad": lambda net: net.requires_grad_(False),
    "a hook": lambda net: net.register_forward_hook(lambda module, args, output: None),
    "a tie": lambda net: setattr(net, "alias", net.weight),
    "a shape": lambda net: setattr(net, "mean", jnp.zeros(4)),
    "a dtype": lambda net: net.register_buffer("mean", jnp.zeros(3, jnp.float32)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_structure_compiles_once_more(change: str) -> None:
    @fb.jit
    def step(net: Net, x: Any) -> Any:
        return net(x) + net.width, net.mean

    net = Net()
    same(step(net, X)[0], 2 * X + 3)
    CHANGES[change](net)
    for count in (1, 0):
        output, mean = compiles(count, lambda: step(net, X))
        same(output, 2 * X + net.width)
        assert (mean.shape, mean.dtype) == (net.mean.shape, net.mean.dtype)
    compiles(0, lambda: step(Net(), X))  # the first program is there still


# -- 2. Closures --------------------------------------------------------------------------------------------------------------

NET = Net()


def forward_of_a_global(x: Any) -> Any:
    return NET(x)


class Calling(nn.Module):
    """Its method names a global."""

    def forward(self, x: Any) -> Any:
        NET.mean = x.mean(0)
        return NET(x)


def test_closures_are_read_fresh_and_written_back() -> None:
    net = Net()

    @fb.jit
    def step(x: Any) -> Any:
        net.mean = x.mean(0)
        return net(x)

    same(step(X), 2 * X)
    same(net.mean, X.mean(0))
    net.weight = jnp.full(3, 5.0)
    same(compiles(0, lambda: step(X)), 5 * X)
    net = Net(7.0)
    same(compiles(0, lambda: step(X)), 7 * X)
    same(net.mean, X.mean(0))


def test_closed_over_training() -> None:
    """The module and the optimizer of a training step, and what they hold afterwards, by no argument at all."""
    net, twin = Net(), Net()

    def train(net: Net, optimizer: Any, wrap: Any) -> list[float]:
        def step(x: Any) -> Any:
            loss, grads = fb.value_and_grad(lambda net: (net(x) ** 2).mean())(net)
            optimizer.step(grads)
            return loss

        step = wrap(step)
        return [float(step(X)) for _ in range(4)]

    eager = train(net, fb.optim.AdamW(net.parameters(), lr=0.1), lambda step: step)
    compiled = train(twin, fb.optim.AdamW(twin.parameters(), lr=0.1), fb.jit)
    same(compiled, eager)
    same(twin.weight, net.weight)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: forward_of_a_global, id="function"),
        pytest.param(Calling, id="method"),
        pytest.param(lambda: lambda x: Calling()(x), id="method of a module made inside"),
    ],
)
def test_globals_are_read_fresh(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the function, and those of the methods that it calls; also when the name is bound to another module."""
    step: Any = fb.jit(make())
    same(step(X), 2 * X)
    same(step(X), 2 * X)
    for scale in (3.0, 4.0):
        monkeypatch.setitem(globals(), "NET", Net(scale))
        same(step(X), scale * X)
    NET.weight = jnp.zeros(3)
    same(step(X), 0 * X)
    assert make() is forward_of_a_global or NET.mean.tolist() == X.mean(0).tolist()


def test_a_global_that_a_method_names_counts_for_modules_with_that_method_alone() -> None:
    @fb.jit
    def step(net: Net, x: Any) -> Any:
        return net(x)

    def use() -> None:
        net = Net()
        same(step(net, X), 2 * X)
        net.calling = Calling()
        same(step(net, X), 2 * X)
        same(step(net, X), 2 * X)

    compiles(2, use)
    compiles(0, use)


def test_modules_that_join_later_are_found() -> None:
    """In the lists, dicts and objects that a function closes over, empty ones and names of nothing among them."""

    class Box:
        first: Any = None
        second: Any = None

    nets: list[Any] = [Net()]
    deep: Any = {"nets": [Net()]}
    box, empty, named = Box(), [], {}
    box.first = Net()
    last: Any = None

    @fb.jit
    def step(x: Any) -> Any:
        for net in (*nets, *deep["nets"], *empty, *named.values(), box.first, box.second, last):
            x = x if net is None else net(x)
        return x

    factor = 8.0
    same(step(X), factor * X)
    for add in (
        lambda net: nets.append(net),
        lambda net: deep["nets"].append(net),
        lambda net: empty.append(net),
        lambda net: named.update(net=net),
        lambda net: setattr(box, "second", net),
    ):
        add(Net(3.0))
        factor *= 3
        same(step(X), factor * X)
        same(compiles(0, lambda: step(X)), factor * X)
    last = Net(5.0)
    same(step(X), 5 * factor * X)
    nets.pop()
    same(step(X), 5 * factor / 3 * X)


def test_state_far_inside_is_found() -> None:
    class Plain:
        def __init__(self) -> None:
            self.parts = {"net": [Net()]}

        def __call__(self, x: Any) -> Any:
            self.parts["net"][0].calls += 1
            return self.parts["net"][0](x)

    plain = Plain()
    step = fb.jit(lambda x: plain(x))
    same(step(X), 2 * X)
    plain.parts["net"][0].weight = jnp.ones(3)
    same(step(X), X)
    assert plain.parts["net"][0].calls == 2
    plain.parts["net"] = [Net(6.0)]
    same(step(X), 6 * X)


def test_compiled_code_keeps_no_module_alive() -> None:
    step = fb.jit(lambda net, x: net(x))
    net = Net()
    step(net, X)
    gone = weakref.ref(net)
    del net
    gc.collect()
    assert gone() is None


# -- Options ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{"static_argnums": 1}, {"static_argnums": (-2,)}, {"static_argnames": "kind"}, {"static_argnames": ["kind"]}],
)
def test_static_arguments(options: Any) -> None:
    """By position or by name, given as either."""

    @fb.jit(**options)
    def step(net: Net, kind: str, x: Any) -> Any:
        return net(x) if kind == "forward" else x

    net = Net()
    same(compiles(1, lambda: step(net, "forward", X)), 2 * X)
    same(compiles(1, lambda: step(net, "nothing", X)), X)
    same(compiles(0, lambda: step(net, "forward", X)), 2 * X)
    same(step(net, x=X, kind="nothing"), X)


def test_arguments_that_are_no_arrays() -> None:
    step = fb.jit(lambda net, how, x: net(x))
    with pytest.raises(
        TypeError, match=r"argument of type str \('forward'\) is neither an array nor .* static_argnames"
    ):
        step(Net(), "forward", X)
    with pytest.raises(ValueError, match="has no argument 'kin'; it has x"):
        fb.jit(lambda x: x, static_argnames="kin")


def test_the_signature_stays() -> None:
    def step(net: Net, x: Any, *, scale: float = 1.0) -> Any:
        """Does a step."""

    jitted = fb.jit(step)
    assert inspect.signature(jitted) == inspect.signature(step)
    assert (jitted.__name__, jitted.__doc__, jitted.__wrapped__) == ("step", "Does a step.", step)  # pyright: ignore


def test_trace_and_lower() -> None:
    net = Net()

    @fb.jit
    def step(net: Net, x: Any) -> Any:
        net.mean = net.mean + 1
        return net(x)

    assert " mul " in str(step.trace(net, X).jaxpr)
    lowered = step.lower(net, X)
    assert "stablehlo.multiply" in lowered.as_text() and lowered.compile().cost_analysis()
    same(net.mean, [0.0] * 3)


def test_a_module_is_compiled() -> None:
    net = Net()
    forward = fb.jit(net)
    same(compiles(1, lambda: forward(X), "Net"), 2 * X)
    net.weight = jnp.ones(3)
    same(compiles(0, lambda: forward(X), "Net"), X)


def test_a_method_is_compiled() -> None:
    class Model(Net):
        @fb.jit
        def step(self, x: Any) -> Any:
            self.mean = x.mean(0)
            return self(x)

    for count, scale in ((1, 2.0), (0, 3.0)):
        model = Model(scale)
        same(compiles(count, lambda model=model: model.step(X)), scale * X)
        same(model.mean, X.mean(0))


def test_a_method_of_an_object_that_is_no_module_says_what_to_do() -> None:
    class Plain:
        def __init__(self) -> None:
            self.net = Net()

        @fb.jit
        def step(self, x: Any) -> Any:
            return self.net(x)

        def _step(self, x: Any) -> Any:
            return self.net(x)

    plain = Plain()
    with pytest.raises(TypeError, match=r"step is a method of Plain, .* Derive the class from nn\.Module"):
        plain.step(X)

    class Trainer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()
            self.losses: list[Any] = []

        @fb.jit
        def step(self, x: Any) -> None:
            self.losses.append(self.net(x))

    trainer = Trainer()
    trainer.step(X)
    same(trainer.losses[0], 2 * X)
    same(fb.jit(plain._step)(X), 2 * X)


def test_the_collector_rests_while_there_is_a_trace_and_no_longer() -> None:
    seen: list[bool] = []

    @fb.jit
    def double(net: Any, x: Any) -> Any:
        seen.append(gc.isenabled())
        return net(2 * x)

    net = nn.Linear(3, 2)
    double(net, jnp.ones((1, 3), jnp.float32))
    assert seen == [False] and gc.isenabled()
    with pytest.raises(fb.ShapeError):
        double(net, jnp.ones((1, 4), jnp.float32))
    assert gc.isenabled()
    gc.disable()
    try:
        double(net, jnp.ones((2, 3), jnp.float32))
        assert not gc.isenabled()  # as somebody wanted it
    finally:
        gc.enable()


def test_compiler_options_reach_xla() -> None:
    def count(net: Any, x: Any) -> Any:
        net.mean = net.mean + x.mean(0)
        return net(x)

    net, option = Net(), {"xla_backend_optimization_level": 0}
    compiled = fb.jit(count, compiler_options=option)
    same(compiled(net, X), 2 * X)
    with pytest.raises(ValueError, match=r"`compiler_options` can only be passed to top-level"):
        fb.jit(lambda net, x: compiled(net, x))(net, X)
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"No such compile option"):
        fb.jit(count, compiler_options={"nope": 1})(net, X)
    same(net.mean, X.mean(0))  # once
    net.compile(compiler_options=option)
    same(net(X), 2 * X)
