"""The same numbers, state and messages as PyTorch's optimizers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flambeau import optim
from flambeau.transforms.jit import jit
from tests.optim.small import Net, batch, gradients

torch = pytest.importorskip("torch")

NAMES = ["first", "bias", "second", "scale"]

CONFIGURATIONS = [
    ("SGD", {"lr": 0.05}),
    ("SGD", {"lr": 0.05, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.05, "momentum": 0.9}),
    ("SGD", {"lr": 0.05, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    ("SGD", {"lr": 0.05, "momentum": 0.8, "nesterov": True, "weight_decay": 0.2, "maximize": True}),
    ("Adam", {}),
    ("Adam", {"lr": 0.05, "betas": (0.5, 0.7), "eps": 1e-3}),
    ("Adam", {"lr": 0.05, "weight_decay": 0.1, "maximize": True}),
    ("Adam", {"lr": 0.05, "amsgrad": True, "betas": (0.3, 0.4)}),
    ("Adam", {"lr": 0.05, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("AdamW", {}),
    ("AdamW", {"lr": 0.05, "weight_decay": 0.3, "maximize": True}),
    ("AdamW", {"lr": 0.05, "weight_decay": 0.3, "amsgrad": True, "betas": (0.3, 0.4)}),
]


class Twins:
    """Our network and optimizer, and PyTorch's with the same numbers."""

    def __init__(self, make: Callable[[Any, dict[str, Any]], Any], compiled: bool = False) -> None:
        self.net = Net()
        self.twin = {name: torch.nn.Parameter(torch.tensor(np.asarray(getattr(self.net, name)))) for name in NAMES}
        self.ours = make(optim, dict(self.net.named_parameters()))
        self.theirs = make(torch.optim, self.twin)

        def step(net: Net, optimizer: Any, which: tuple[str, ...]) -> None:
            grads = gradients(net)
            optimizer.step([grads[name] if name in which else None for name in self.order()])

        self._step = jit(step, static_argnames="which") if compiled else step

    def order(self) -> list[str]:
        """The names of the parameters, in the order of the optimizer's."""
        names = {parameter: name for name, parameter in self.net.named_parameters()}
        return [names[parameter] for group in self.ours.param_groups for parameter in group["params"]]

    def step(self, which: tuple[str, ...] = tuple(NAMES)) -> None:
        self._step(self.net, self.ours, which=which)
        first, bias, second, scale = self.twin.values()
        x = torch.tensor(np.asarray(batch()))
        self.theirs.zero_grad()
        ((scale * (torch.tanh(x @ first.T + bias) @ second.T)) ** 2).mean().backward()
        for name in set(NAMES) - set(which):
            self.twin[name].grad = None
        self.theirs.step()

    def set(self, name: str, value: Any, group: int = 0) -> None:
        for optimizer in (self.ours, self.theirs):
            optimizer.param_groups[group][name] = value

    def check(self) -> None:
        for name in NAMES:
            np.testing.assert_allclose(
                getattr(self.net, name), self.twin[name].detach().numpy(), rtol=1e-10, atol=1e-10, err_msg=name
            )
        ours, theirs = self.ours.state_dict(), self.theirs.state_dict()
        assert list(ours["state"]) == sorted(theirs["state"])
        for index, entry in theirs["state"].items():
            entry = {name: value for name, value in entry.items() if value is not None}
            assert set(ours["state"][index]) == set(entry)
            for name, value in entry.items():
                np.testing.assert_allclose(ours["state"][index][name], value.numpy(), rtol=1e-10, atol=1e-10)
        assert ours["param_groups"] == theirs["param_groups"]


def same_for_both(name: str, options: dict[str, Any]) -> Callable[[Any, dict[str, Any]], Any]:
    return lambda library, parameters: getattr(library, name)(parameters.values(), **options)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize(("name", "options"), CONFIGURATIONS, ids=str)
def test_twenty_steps(name: str, options: dict[str, Any], compiled: bool) -> None:
    """With another learning rate from the eighth step on."""
    twins = Twins(same_for_both(name, options), compiled)
    for i in range(20):
        if i == 7:
            twins.set("lr", 0.02)
        twins.step()
    twins.check()
    assert repr(twins.ours) == repr(twins.theirs)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_groups_with_options_of_their_own(name: str, compiled: bool) -> None:
    momentum = {"momentum": 0.9} if name == "SGD" else {"betas": (0.8, 0.9)}

    def make(library: Any, parameters: dict[str, Any]) -> Any:
        groups = [
            {"params": [parameters["bias"], parameters["scale"]], "weight_decay": 0},
            {"params": [parameters["first"]], "lr": 0.2, **momentum},
        ]
        optimizer = getattr(library, name)(groups, lr=0.05, weight_decay=0.1)
        optimizer.add_param_group({"params": parameters["second"], "lr": 0.01, "maximize": True, "note": "late"})
        return optimizer

    twins = Twins(make, compiled)
    for i in range(20):
        twins.step()
        if i % 5 == 0:
            for group in (*twins.ours.param_groups, *twins.theirs.param_groups):
                group["lr"] *= 0.9
    twins.check()
    assert repr(twins.ours) == repr(twins.theirs)


STEP = st.tuples(st.just("step"), st.sampled_from([tuple(NAMES), ("first", "scale"), ("second",)]))
SETTINGS = {
    "SGD": [("lr", 0.3), ("weight_decay", 0.2), ("momentum", 0.5), ("maximize", True), ("momentum", 0.0)],
    "Adam": [("lr", 0.3), ("weight_decay", 0.2), ("betas", (0.5, 0.6)), ("maximize", True), ("eps", 1e-2)],
}


# A program of many changes rightly warns of its many compilations.
@pytest.mark.filterwarnings("ignore::flambeau._errors.RecompilationWarning")
@settings(max_examples=30)
@given(
    st.data(), st.sampled_from([("SGD", {}), ("SGD", {"momentum": 0.9, "dampening": 0.5}), ("Adam", {})]), st.booleans()
)
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


@pytest.mark.parametrize(("name", "options"), CONFIGURATIONS[3::3], ids=str)
def test_goes_on_from_torchs_state_dict(name: str, options: dict[str, Any]) -> None:
    twins = Twins(same_for_both(name, options))
    for _ in range(3):
        twins.step()
    twins.step(("first", "scale"))
    fresh = Twins(same_for_both(name, {"lr": 0.5}))
    if "amsgrad" in options or "dampening" in options:
        fresh = Twins(same_for_both(name, {**options, "lr": 0.5}))
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


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SGD", {"lr": -1.0}),
        ("SGD", {"momentum": -0.5}),
        ("SGD", {"weight_decay": -1}),
        ("SGD", {"nesterov": True}),
        ("SGD", {"nesterov": True, "momentum": 0.9, "dampening": 0.1}),
        ("Adam", {"lr": -1.0}),
        ("Adam", {"eps": -1e-8}),
        ("Adam", {"betas": (1.0, 0.999)}),
        ("Adam", {"betas": (0.9, -0.1)}),
        ("AdamW", {"weight_decay": -0.01}),
    ],
    ids=str,
)
def test_the_same_mistakes(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError) as theirs:
        getattr(torch.optim, name)([torch.nn.Parameter(torch.ones(2))], **options)
    with pytest.raises(ValueError) as ours:
        getattr(optim, name)(Net().parameters(), **options)
    assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_signature(name: str) -> None:
    """The same arguments in the same order with the same defaults."""
    ours, theirs = (inspect.signature(getattr(library, name)).parameters for library in (optim, torch.optim))
    assert [(p.name, p.default, p.kind) for p in ours.values()] == [
        (p.name, p.default, p.kind) for p in theirs.values()
    ]


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
