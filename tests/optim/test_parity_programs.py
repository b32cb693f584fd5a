"""Parity with PyTorch's optimizers through programs: missing gradients, changed options, reloading, other precisions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flambeau import optim
from tests.optim.small import Net, gradients
from tests.optim.twins import CONFIGURATIONS, NAMES, Twins, in_double_precision, same_for_both

torch = pytest.importorskip("torch")


@pytest.fixture(autouse=True, scope="module")
def exact_scalars() -> Iterator[None]:
    with in_double_precision():
        yield


STEP = st.tuples(st.just("step"), st.sampled_from([tuple(NAMES), ("first", "scale"), ("second",)]))
SETTINGS = {
    "SGD": [("lr", 0.3), ("weight_decay", 0.2), ("momentum", 0.5), ("maximize", True), ("momentum", 0.0)],
    "Adam": [("lr", 0.3), ("weight_decay", 0.2), ("betas", (0.5, 0.6)), ("maximize", True), ("eps", 1e-2)],
    "RMSprop": [("lr", 0.3), ("momentum", 0.5), ("alpha", 0.5)],
    "Adagrad": [("lr", 0.3), ("lr_decay", 0.2), ("eps", 1e-2)],
    "ASGD": [("lr", 0.3), ("lambd", 0.2), ("t0", 1.0)],
    "Rprop": [("lr", 0.3), ("etas", (0.4, 1.3))],
    "NAdam": [("lr", 0.3), ("momentum_decay", 0.2), ("weight_decay", 0.1)],
    "Adafactor": [("lr", 0.3), ("eps", (0.1, 0.1)), ("beta2_decay", -0.3)],
}
MADE = [("SGD", {}), ("SGD", {"momentum": 0.9, "dampening": 0.5}), ("Adam", {}), ("RMSprop", {"momentum": 0.9})]
MADE += [(name, {}) for name in ("Adagrad", "ASGD", "Rprop", "NAdam", "Adafactor")]


# A program of many changes rightly warns of its many compilations.
@pytest.mark.filterwarnings("ignore::flambeau._errors.RecompilationWarning")
@settings(max_examples=30)
@given(st.data(), st.sampled_from(MADE), st.booleans())
def test_random_programs(data: Any, which: tuple[str, dict[str, Any]], compiled: bool) -> None:
    """Steps in which only some parameters have gradients, options that change in between, and reloading."""
    name, options = which
    twins = Twins(same_for_both(name, {"lr": 0.1, **options}), compiled)
    setting = st.tuples(st.just("set"), st.sampled_from(SETTINGS[name]))
    for kind, value in data.draw(st.lists(st.one_of(STEP, STEP, setting, st.just(("reload", None))), max_size=6)):
        if kind == "step":
            twins.step(value)
        elif kind == "set":
            twins.set(*value)
        else:
            twins.ours.load_state_dict(twins.theirs.state_dict())
    twins.step()
    twins.check()


@pytest.mark.parametrize("name", ["SGD", "RMSprop"])
def test_momentum_that_is_switched_off_for_a_while(name: str) -> None:
    """The buffers stay what they were meanwhile."""
    twins = Twins(same_for_both(name, {"lr": 0.01, "momentum": 0.9}))
    for momentum in (0.9, 0.0, 0.5):
        twins.set("momentum", momentum)
        for _ in range(2):
            twins.step()
        twins.check()


@pytest.mark.parametrize(("name", "options"), dict(CONFIGURATIONS).items(), ids=str)
def test_goes_on_from_torchs_state_dict(name: str, options: dict[str, Any]) -> None:
    """Also with options that the optimizer was made without."""
    twins = Twins(same_for_both(name, options))
    for _ in range(3):
        twins.step()
    twins.step(("first", "scale"))
    fresh = Twins(same_for_both(name, {"lr": 0.5}))
    fresh.ours.load_state_dict(twins.theirs.state_dict())
    fresh.theirs.load_state_dict(twins.theirs.state_dict())
    for _ in range(3):
        fresh.step()
    fresh.check()


def test_float32_and_bfloat16() -> None:
    """Half as exact for half the bits: float32 as PyTorch, bfloat16 as its float32 rounded once in each step."""
    with jax.enable_x64(False):
        net = Net(dtype=np.float32)
        twin = [torch.nn.Parameter(torch.tensor(np.asarray(p.data))) for p in net.parameters()]
        ours, theirs = optim.AdamW(net.parameters(), lr=0.01), torch.optim.AdamW(twin, lr=0.01)
        for _ in range(10):
            grads = list(gradients(net).values())
            for parameter, grad in zip(twin, grads):
                parameter.grad = torch.tensor(np.asarray(grad))
            ours.step(grads)
            theirs.step()
        for parameter, other in zip(net.parameters(), twin):
            assert parameter.dtype == np.float32
            np.testing.assert_allclose(parameter.data, other.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_bfloat16_state_stays_bfloat16() -> None:
    net = Net(dtype=jnp.bfloat16)
    optimizer = optim.Adam(net.parameters(), lr=1e-3)
    twin = [np.asarray(p.data.astype(jnp.float32)) for p in net.parameters()]
    grads = list(gradients(net).values())
    optimizer.step(grads)
    # Adam's first step is lr times the sign of the gradient, rounded once.
    for parameter, before, grad in zip(net.parameters(), twin, grads):
        assert parameter.dtype == jnp.bfloat16
        expected = jnp.asarray(before - 1e-3 * np.sign(np.asarray(grad, np.float32)), jnp.bfloat16)
        np.testing.assert_array_equal(parameter.data, expected)
    assert {str(value.dtype) for entry in optimizer.state.values() for value in entry.values()} == {"bfloat16", "int32"}
