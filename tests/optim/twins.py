"""Two networks with the same numbers, ours and PyTorch's, each with its optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from flambeau import optim
from flambeau.transforms.jit import jit
from tests.optim.small import Net, batch, gradients

torch = pytest.importorskip("torch")

__all__ = ["CONFIGURATIONS", "NAMES", "Twins", "in_double_precision", "same_for_both"]

NAMES = ["first", "bias", "second", "scale"]

# Each option at least once; learning rates that keep rounding errors small.
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
    ("Adadelta", {}),
    ("Adadelta", {"lr": 0.5, "rho": 0.7, "eps": 1e-3, "weight_decay": 0.1, "maximize": True}),
    ("Adafactor", {}),
    ("Adafactor", {"lr": 0.05, "beta2_decay": -0.3, "eps": (0.01, 0.1), "d": 1.5, "weight_decay": 0.1}),
    ("Adafactor", {"lr": 0.02, "maximize": True}),
    ("Adagrad", {}),
    ("Adagrad", {"lr": 0.1, "lr_decay": 0.2, "weight_decay": 0.1, "initial_accumulator_value": 0.3}),
    ("Adagrad", {"lr": 0.1, "eps": 1e-2, "maximize": True}),
    ("Adamax", {}),
    ("Adamax", {"lr": 0.05, "betas": (0.5, 0.7), "eps": 1e-2, "weight_decay": 0.1, "maximize": True}),
    ("ASGD", {}),
    ("ASGD", {"lr": 0.05, "lambd": 0.1, "alpha": 0.5, "t0": 5.0, "weight_decay": 0.1, "maximize": True}),
    ("Muon", {}),
    ("Muon", {"lr": 0.05, "weight_decay": 0.3, "momentum": 0.5, "nesterov": False}),
    ("Muon", {"ns_coefficients": (2.0, -1.5, 0.5), "eps": 1e-3, "ns_steps": 3, "adjust_lr_fn": "match_rms_adamw"}),
    ("NAdam", {}),
    ("NAdam", {"lr": 0.05, "betas": (0.5, 0.7), "eps": 1e-2, "weight_decay": 0.1, "momentum_decay": 0.1}),
    ("NAdam", {"lr": 0.05, "weight_decay": 0.2, "decoupled_weight_decay": True, "maximize": True}),
    ("RAdam", {}),
    ("RAdam", {"lr": 0.02, "betas": (0.5, 0.9), "eps": 1e-2, "weight_decay": 0.1}),
    ("RAdam", {"lr": 0.05, "weight_decay": 0.2, "decoupled_weight_decay": True, "maximize": True}),
    ("RMSprop", {}),
    ("RMSprop", {"lr": 0.01, "alpha": 0.7, "eps": 1e-2, "weight_decay": 0.1, "momentum": 0.5}),
    ("RMSprop", {"centered": True, "maximize": True}),
    ("RMSprop", {"centered": True, "momentum": 0.9}),
    ("Rprop", {"step_sizes": (1e-6, 50.0)}),
    ("Rprop", {"lr": 0.2, "etas": (0.3, 1.7), "step_sizes": (0.01, 0.25), "maximize": True}),
]


# Once for all tests: gradients are not what is tested here.
compiled_gradients = jit(gradients)


class Twins:
    """Our network and optimizer, and PyTorch's with the same numbers."""

    def __init__(self, make: Callable[[Any, dict[str, Any]], Any], compiled: bool = False) -> None:
        self.net = Net()
        self.twin = {name: torch.nn.Parameter(torch.tensor(np.asarray(getattr(self.net, name)))) for name in NAMES}
        self.ours = make(optim, dict(self.net.named_parameters()))
        self.theirs = make(torch.optim, self.twin)

        def step(optimizer: Any, grads: list[Any]) -> None:
            optimizer.step(grads)

        self._step: Any = jit(step) if compiled else step

    def order(self) -> list[str]:
        """The names of the parameters, in the order of the optimizer's."""
        names = {parameter: name for name, parameter in self.net.named_parameters()}
        return [names[parameter] for group in self.ours.param_groups for parameter in group["params"]]

    def step(self, which: tuple[str, ...] = tuple(NAMES)) -> None:
        grads = compiled_gradients(self.net)
        self._step(self.ours, [grads[name] if name in which else None for name in self.order()])
        first, bias, second, scale = self.twin.values()
        x = torch.tensor(np.asarray(batch()))
        self.theirs.zero_grad()
        ((scale * (torch.tanh(x @ first.T + bias) @ second.T)) ** 2).mean().backward()
        for name in set(NAMES) - set(which):
            self.twin[name].grad = None
        self.theirs.step()

    def programs(self) -> int:
        """How often the step was compiled."""
        return len(self._step._programs)

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
    """Makes the optimizer of that name for all parameters that it takes, from either library."""

    def make(library: Any, parameters: dict[str, Any]) -> Any:
        fit = [parameter for parameter in parameters.values() if name != "Muon" or parameter.ndim == 2]
        return getattr(library, name)(fit, **options)

    return make


@contextmanager
def in_double_precision() -> Iterator[None]:
    """Has PyTorch keep scalar state, such as ASGD's "eta", as exactly as the parameters: by default it is float32."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)
