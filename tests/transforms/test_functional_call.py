"""Modules under raw `jax` transforms, and `fb.functional_call`, the pure form that works under all of them.

They are number 9 of the design.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flambeau as fb
from flambeau import nn
from flambeau.core import raw
from tests.transforms.small import Net, X, same


def arrays(module: nn.Module) -> dict[str, jax.Array]:
    return dict(module.state_dict())


def unchanged(module: nn.Module, before: dict[str, jax.Array]) -> bool:
    return all(value is before[name] for name, value in module.state_dict().items())


# -- The pure form ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        {"weight": jnp.full(3, 5.0)},
        {"weight": np.full(3, 5.0)},
        ({"weight": jnp.full(3, 5.0)}, {"mean": jnp.ones(3)}),
        {"weight": nn.Parameter(jnp.full(3, 5.0))},
    ],
    ids=["one", "numpy", "several dicts", "Parameter"],
)
def test_other_values_for_one_call(given: Any) -> None:
    net = Net()
    before = arrays(net)
    same(fb.functional_call(net, given, X), 5 * X)
    same(fb.functional_call(net, given, (X,)), 5 * X)
    same(fb.functional_call(net, given, (), {"x": X}), 5 * X)
    same(fb.functional_call(net, {}, X), 2 * X)
    assert unchanged(net, before)


TRANSFORMS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "jit": lambda pure, values, x: jax.jit(pure)(values, x),
    "vmap": lambda pure, values, x: jax.vmap(pure, in_axes=(None, 0))(values, x),
    "scan": lambda pure, values, x: jax.lax.scan(lambda carry, row: (carry, pure(values, row)), 0, x)[1],
    "checkpoint": lambda pure, values, x: jax.checkpoint(pure)(values, x),
    "jit of vmap": lambda pure, values, x: jax.jit(jax.vmap(pure, in_axes=(None, 0)))(values, x),
    "fb.jit": lambda pure, values, x: fb.jit(pure)(values, x),  # pyright: ignore[reportCallIssue]
}


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.filterwarnings("error::flambeau.BakedValueWarning")
def test_under_the_transforms_of_jax(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled once, it takes the values that it is given."""
    monkeypatch.setattr(raw, "_warned", False)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    before = arrays(net)
    pure = lambda values, x: fb.functional_call(net, values, x)  # noqa: E731
    for scale in (1.0, 2.0):
        values = jax.tree.map(lambda value, scale=scale: value * scale, before)
        expected = jnp.tanh(X @ values["0.weight"].T + values["0.bias"]) @ values["2.weight"].T + values["2.bias"]
        same(TRANSFORMS[name](pure, values, X), expected)
    assert unchanged(net, before)


def test_an_ensemble() -> None:
    """The values of several modules of one shape, stacked, under `jax.vmap`."""
    nets = [nn.Linear(3, 2, dtype=jnp.float64) for _ in range(4)]
    stacked = jax.tree.map(lambda *values: jnp.stack(values), *map(arrays, nets))
    outputs = jax.vmap(lambda values: fb.functional_call(nets[0], values, X))(stacked)
    same(outputs, [net(X) for net in nets])


def test_per_example_gradients() -> None:
    net: Any = Net()
    loss = lambda values, x: fb.functional_call(net, values, x).sum()  # noqa: E731
    gradients = jax.vmap(jax.grad(loss), in_axes=(None, 0))({"weight": net.weight}, X)
    same(gradients["weight"], X)


# -- What a call writes -------------------------------------------------------------------------------------------------------


def test_a_write_of_a_given_value_must_be_asked_for() -> None:
    norm = nn.BatchNorm1d(3, dtype=jnp.float64)
    before = arrays(norm)
    with pytest.raises(
        fb.StateError, match=r"BatchNorm1d wrote .*running_mean.* would be lost.*return_state=True.*eval()"
    ):
        fb.functional_call(norm, before, X)
    output, state = fb.functional_call(norm, before, X, return_state=True)
    assert unchanged(norm, before) and state.keys() == before.keys() and state["weight"] is before["weight"]
    same(norm(X), output)
    for name, value in norm.state_dict().items():
        same(state[name], value)
    same(fb.functional_call(norm.eval(), state, X), norm(X))


def test_state_goes_round_a_scan() -> None:
    norm, twin = (nn.BatchNorm1d(3, dtype=jnp.float64) for _ in range(2))

    def body(state: Any, x: Any) -> Any:
        output, state = fb.functional_call(norm, state, x, return_state=True)
        return state, output

    batches = jnp.stack([X, 2 * X, X - 1])
    state, outputs = jax.lax.scan(body, arrays(norm), batches)
    same(outputs, [twin(x) for x in batches])
    for name, value in twin.state_dict().items():
        same(state[name], value)
    assert norm.state_dict()["num_batches_tracked"] == 0


def test_what_is_not_given_is_written_as_ever() -> None:
    class Counting(Net):
        def forward(self, x: Any) -> Any:
            self.mean = self.mean + self.weight
            self.calls += 1
            return x * self.weight

    net = Counting()
    fb.functional_call(net, {"weight": jnp.ones(3)}, X)
    same(net.mean, [1.0] * 3)
    assert net.calls == 1
    same(net.weight, [2.0] * 3)


def test_an_exception_leaves_the_module_as_it_was() -> None:
    net = nn.Sequential(nn.BatchNorm1d(3, dtype=jnp.float64), nn.Linear(4, 4))
    before = arrays(net)
    with pytest.raises(fb.ShapeError):
        fb.functional_call(net, {"0.weight": jnp.ones(3)}, X)
    assert unchanged(net, before)


# -- Ties ---------------------------------------------------------------------------------------------------------------------


def tied() -> Any:
    net = nn.Sequential(Net(), Net())
    net[1].weight = net[0].weight
    return net


def test_a_value_for_one_name_holds_for_the_others() -> None:
    value = jnp.full(3, 3.0)
    for names in (("0.weight",), ("1.weight",), ("0.weight", "1.weight")):
        same(fb.functional_call(tied(), dict.fromkeys(names, value), X), 9 * X)
    with pytest.raises(ValueError, match=r"'0.weight' and '1.weight' are tied, and two different values are given"):
        fb.functional_call(tied(), {"0.weight": value, "1.weight": value + 1}, X)
    with pytest.raises(ValueError, match=r"tie_weights=False\): '1.weight' is tied to '0.weight'"):
        fb.functional_call(tied(), {"0.weight": value}, X, tie_weights=False)


# -- Mistakes -----------------------------------------------------------------------------------------------------------------

MISTAKES: dict[str, tuple[Any, dict[str, Any], type[Exception], str]] = {
    "a misspelt name": ({"wieght": X}, {}, KeyError, "Net has no parameter or buffer 'wieght'.*weight"),
    "a wrong shape": ({"weight": jnp.ones(4)}, {}, fb.ShapeError, r"weight: expected shape \(3,\), got \(4,\)"),
    "one of several missing": ({"mean": jnp.ones(3)}, {"strict": True}, KeyError, "no value is given for weight"),
    "twice": (({"mean": jnp.ones(3)}, {"mean": jnp.ones(3)}), {}, ValueError, "'mean' is given twice"),
    "no dict": (["weight"], {}, TypeError, "takes dicts of arrays by name, got str"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name: str) -> None:
    given, options, kind, message = MISTAKES[name]
    with pytest.raises(kind, match=message):
        fb.functional_call(Net(), given, X, **options)


def test_strict_takes_all_that_there_is() -> None:
    net = Net()
    same(fb.functional_call(net, {"weight": jnp.ones(3), "mean": jnp.ones(3)}, X, strict=True), X)


# -- Modules under raw transforms ---------------------------------------------------------------------------------------------


class Writing(Net):
    """Writes what it is told to."""

    def __init__(self, write: Any) -> None:
        super().__init__()
        self.write = write

    def forward(self, x: Any) -> Any:
        self.write(self, x)
        return (x * self.weight).sum()


WRITES: dict[str, tuple[Any, str]] = {
    "a buffer": (lambda net, x: setattr(net, "mean", x), "Writing.mean was written inside a raw jax transform"),
    "an array": (lambda net, x: setattr(net, "cache", x), "Writing.cache was written inside a raw jax transform"),
    "a list": (lambda net, x: net.trace.append(x), "Writing.trace was written inside a raw jax transform"),
    "a parameter": (lambda net, x: net.get_parameter("weight").copy_(x), "was written inside a raw jax transform"),
}
RAW: dict[str, Callable[[Any], Any]] = {
    "jit": jax.jit,
    "grad": jax.grad,
    "vmap": lambda net: jax.vmap(net, in_axes=1),
    "checkpoint": lambda net: jax.grad(jax.checkpoint(net)),
    "jit of fb.jit": lambda net: jax.jit(fb.jit(net)),
}


@pytest.mark.parametrize("transform", RAW)
@pytest.mark.parametrize("write", WRITES)
@pytest.mark.filterwarnings("ignore::flambeau.BakedValueWarning")
def test_a_write_of_a_tracer_raises(write: str, transform: str) -> None:
    """It names the module's attribute and what to use in place of the transform; and the module is as it was."""
    function, message = WRITES[write]
    net = Writing(function)
    before = arrays(net)
    if transform == "jit of fb.jit":
        message = "Writing changes state of modules, and was called inside a raw jax transform"
    with pytest.raises(fb.StateError, match=message) as caught:
        RAW[transform](net)(X[0] if transform != "vmap" else X.T)
    assert "fb.functional_call" in str(caught.value)
    assert unchanged(net, before) and net.trace == []
    same(net.cache, [0.0] * 3)
    net(X[0])


def test_a_raw_transform_inside_of_ours() -> None:
    """It may read the modules; a write would not outlive it."""
    net = Net()

    @fb.jit
    def step(x: Any) -> Any:
        return jax.vmap(net)(x) + jax.grad(lambda x: net(x).sum())(x)

    for scale in (2.0, 3.0):
        net.weight = jnp.full(3, scale)
        same(step(X), scale * X + scale)
    writing = Writing(lambda net, x: setattr(net, "mean", x))
    with pytest.raises(fb.StateError, match=r"Writing\.mean was written inside a raw jax transform that runs inside"):
        fb.jit(lambda x: jax.vmap(writing)(x))(X)
    same(writing.mean, [0.0] * 3)


@contextmanager
def warned(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The warnings about baked values in the block, as in a new process."""
    monkeypatch.setattr(raw, "_warned", False)
    messages: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield messages
    messages.extend(str(w.message) for w in caught if issubclass(w.category, fb.BakedValueWarning))


@pytest.mark.parametrize("wrap", [jax.jit, lambda net: jax.jit(fb.jit(net)), lambda net: jax.jit(jax.vmap(net))])
def test_a_baked_value_warns_once(wrap: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net()
    with warned(monkeypatch) as messages:
        forward = wrap(net)
        same(forward(X), 2 * X)
        net.weight = jnp.ones(3)
        same(forward(X), 2 * X)  # which is what it warns of
        wrap(Net())(X)
    (message,) = messages
    assert message.startswith("Net is called under a raw jax.jit") and "fb.functional_call(module, values" in message


@pytest.mark.parametrize("before", [0, 4], ids=["at first", "after calls that were recognised"])
def test_a_compiled_call_without_tracers_warns_too(before: int, monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net()
    forward: Any = fb.jit(lambda net, x: net(x))
    for _ in range(before):
        forward(net, X)
    with warned(monkeypatch) as messages:
        for _ in range(3):
            same(jax.jit(lambda: forward(net, X))(), 2 * X)
    assert len(messages) == 1
    same(forward(net, X), 2 * X)


def test_a_bare_read_warns_too(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net()
    with warned(monkeypatch) as messages:
        jax.jit(lambda x: x * net.weight)(X)
    assert len(messages) == 1


READS: dict[str, Callable[[Any], Any]] = {
    "vmap": lambda net: jax.vmap(net)(X),
    "grad": lambda net: jax.grad(lambda x: net(x).sum())(X),
    "map": lambda net: jax.lax.map(net, X),
    "eval_shape": lambda net: jax.eval_shape(net, X),
    "make_jaxpr": lambda net: jax.make_jaxpr(net)(X),
    "functional_call": lambda net: jax.jit(lambda v: fb.functional_call(net, v, X))({"weight": jnp.ones(3)}),
    "fb.jit": lambda net: fb.jit(lambda x: net(x))(X),
    "no parameters": lambda net: jax.jit(nn.ReLU())(X),
}


@pytest.mark.parametrize("how", READS)
def test_nothing_is_baked(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with warned(monkeypatch) as messages:
        READS[how](Net())
    assert messages == []


def ensemble(count: int = 3) -> list[Any]:
    fb.manual_seed(0)
    return [nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double() for _ in range(count)]


def test_stacked_modules_run_as_one() -> None:
    models, x = ensemble(), jnp.arange(15.0).reshape(5, 3)
    params, buffers = fb.stack_module_state(nn.ModuleList(models))
    assert params["0.weight"].shape == (3, 4, 3) and buffers["1.num_batches_tracked"].shape == (3,)

    def call(params: Any, buffers: Any) -> Any:
        return fb.functional_call(models[0], (params, buffers), x, return_state=True)

    outputs, states = jax.jit(jax.vmap(call))(params, buffers)
    for i, model in enumerate(models):
        same(outputs[i], model(x))
        for name, value in model.state_dict().items():
            same(states[name][i], value)


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (lambda: [], "expected at least one module, got none"),
        (lambda: [nn.Linear(1, 1), nn.Bilinear(1, 1, 1)], "modules of one class, got Bilinear, Linear"),
        (lambda: [nn.Linear(1, 1), nn.Linear(1, 1).eval()], "all modules to be training, or none"),
        (lambda: [nn.Linear(1, 1), nn.Linear(1, 1, bias=False)], "module 1 and module 0 do not both have bias"),
        (lambda: [nn.Linear(1, 1), nn.Linear(2, 1)], r"weight: expected shape \(1, 1\), got \(1, 2\) in module 1"),
        (lambda: [nn.Linear(1, 1), nn.Linear(1, 1).requires_grad_(False)], "weight of all modules to have the same"),
    ],
)
def test_what_cannot_be_stacked(models: Any, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        fb.stack_module_state(models())


# -- Random numbers of the pure form --------------------------------------------------------------------------------------------


class Noisy(nn.Module):
    """Draws from the default generator and from one of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(jnp.ones(3))
        self.generator = fb.Generator().manual_seed(3)

    def forward(self, x: Any) -> Any:
        def noise(generator: fb.Generator) -> Any:
            return jax.random.normal(generator.next_key(), x.shape)

        return self.weight * (x + noise(fb.default_generator) - noise(self.generator) + noise(fb.default_generator))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_key_makes_random_numbers_pure(name: str) -> None:
    net, key = Noisy(), jax.random.key(5)
    before = fb.get_rng_state(), net.generator.get_state()

    def pure(values: Any, x: Any) -> Any:
        return fb.functional_call(net, values, x, key=jax.random.fold_in(key, (100 * x.sum()).astype(int)))

    values = arrays(net)
    by_row = "vmap" in name or name == "scan"
    expected = jnp.stack([pure(values, row) for row in X]) if by_row else pure(values, X)
    same(TRANSFORMS[name](pure, values, X), expected)
    assert np.unique(expected).size == expected.size
    assert all(state is old for state, old in zip((fb.get_rng_state(), net.generator.get_state()), before, strict=True))
    assert unchanged(net, values)


def test_what_a_key_gives() -> None:
    net, key = Noisy(), jax.random.key(0)

    def call(key: Any) -> Any:
        return fb.functional_call(net, {}, jnp.zeros(3), key=key)

    first = call(key)
    fb.manual_seed(1)
    net.generator.manual_seed(1)
    same(call(key), first)  # whatever state the generators are in
    assert not np.allclose(call(jax.random.key(1)), first)
    same(call(jax.random.PRNGKey(0)), first)
    same(call(jax.random.key(0, impl="rbg")), call(jax.random.key(0, impl="rbg")))
    same(jax.vmap(call)(jnp.stack([key, key])), jnp.stack([first, first]))
    same(jax.vmap(lambda x: x + call(key))(jnp.zeros((2, 3))), jnp.stack([first, first]))  # as was asked for
    same(fb.jit(call)(key), first)
    same(
        jax.jacrev(lambda w: fb.functional_call(net, {"weight": w}, jnp.zeros(3), key=key))(jnp.ones(3)),
        jnp.diag(first),
    )


def test_elements_of_a_raw_vmap_inside_want_keys_too() -> None:
    class Inside(nn.Module):
        def forward(self, x: Any) -> Any:
            return jax.vmap(lambda row: row + jax.random.normal(fb.default_generator.next_key(), row.shape))(x)

    with pytest.raises(fb.StateError, match=r"every element would get the same.*key=key"):
        fb.functional_call(Inside(), {}, X, key=jax.random.key(0))


def test_draws_without_a_key_say_how_to_give_one() -> None:
    with pytest.raises(fb.StateError, match="key=key"):
        jax.jit(lambda x: fb.functional_call(nn.Dropout(0.5), {}, x))(X)
