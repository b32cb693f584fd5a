"""The same numbers, state, arguments and messages as PyTorch's optimizers."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest

from flambeau import optim
from tests.optim.small import Net
from tests.optim.twins import CONFIGURATIONS, Twins, in_double_precision, same_for_both

torch = pytest.importorskip("torch")

OPTIMIZERS = sorted({name for name, _ in CONFIGURATIONS})


@pytest.fixture(autouse=True, scope="module")
def exact_scalars() -> Iterator[None]:
    with in_double_precision():
        yield


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
    assert not compiled or twins.programs() == 1
    # An option that is off is the integer 0.
    assert repr(twins.ours) == repr(twins.theirs).replace(": 0.0\n", ": 0\n")


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop", "ASGD"])
def test_groups_with_options_of_their_own(name: str, compiled: bool) -> None:
    own = {"SGD": {"momentum": 0.9}, "RMSprop": {"momentum": 0.9}, "ASGD": {"t0": 3.0}}.get(name, {"betas": (0.8, 0.9)})

    def make(library: Any, parameters: dict[str, Any]) -> Any:
        groups = [
            {"params": [parameters["bias"], parameters["scale"]], "weight_decay": 0},
            {"params": [parameters["first"]], "lr": 0.2, **own},
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
        ("Adadelta", {"rho": 1.1}),
        ("Adadelta", {"eps": -1.0}),
        ("Adafactor", {"lr": -1.0}),
        ("Adafactor", {"beta2_decay": 0.1}),
        ("Adafactor", {"eps": (-1.0, 1e-3)}),
        ("Adafactor", {"eps": (None, -1e-3)}),
        ("Adafactor", {"d": 0.5}),
        ("Adafactor", {"weight_decay": -1}),
        ("Adagrad", {"lr_decay": -0.1}),
        ("Adagrad", {"initial_accumulator_value": -0.1}),
        ("Adamax", {"betas": (1.0, 0.999)}),
        ("ASGD", {"weight_decay": -1}),
        ("Muon", {"lr": -0.5}),
        ("Muon", {"momentum": -0.5}),
        ("Muon", {"weight_decay": -0.5}),
        ("Muon", {"adjust_lr_fn": "other"}),
        ("NAdam", {"momentum_decay": -1}),
        ("RAdam", {"eps": -1}),
        ("RMSprop", {"alpha": -1}),
        ("RMSprop", {"momentum": -1}),
        ("Rprop", {"etas": (1.5, 1.2)}),
        ("Rprop", {"etas": (0.5, 0.9)}),
    ],
    ids=str,
)
def test_the_same_mistakes(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError) as theirs:
        getattr(torch.optim, name)([torch.nn.Parameter(torch.ones(2))], **options)
    with pytest.raises(ValueError) as ours:
        getattr(optim, name)([Net().second], **options)
    assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_signature(name: str) -> None:
    """The same arguments in the same order with the same defaults."""
    ours, theirs = (inspect.signature(getattr(library, name)).parameters for library in (optim, torch.optim))
    assert [(p.name, p.default, p.kind) for p in ours.values()] == [
        (p.name, p.default, p.kind) for p in theirs.values()
    ]
