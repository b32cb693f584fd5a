"""L-BFGS: PyTorch's numbers and state, and what a step with a closure means here."""

from __future__ import annotations

import copy
import importlib
import pickle
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from flambeau import optim
from flambeau._errors import StateDictError, StateError
from flambeau.core.cell import Parameter
from flambeau.core.module import Module
from flambeau.optim import LBFGS
from flambeau.optim._line_search import Point, strong_wolfe
from flambeau.transforms.grad import value_and_grad
from flambeau.transforms.jit import jit
from tests.optim.small import Net, assert_same, batch

torch = pytest.importorskip("torch")

CONFIGURATIONS = [
    {"lr": 0.5, "max_iter": 5},
    {"lr": 0.5, "history_size": 2, "max_iter": 7},
    {"line_search_fn": "strong_wolfe", "max_iter": 10},
    {"line_search_fn": "strong_wolfe", "history_size": 3, "max_iter": 8, "lr": 3.0},
    {"line_search_fn": "strong_wolfe", "max_iter": 30, "max_eval": 4},
    {"lr": 0.5, "tolerance_grad": 1e-2},
    {"line_search_fn": "strong_wolfe", "tolerance_change": 1e-3},
]


class Valley(Module):
    """Rosenbrock's function of two parameters with one element each, whose minimum lies in a bent valley."""

    def __init__(self, x: float = -1.2, y: float = 1.0) -> None:
        super().__init__()
        self.x, self.y = Parameter(jnp.asarray([x])), Parameter(jnp.asarray([y]))

    def forward(self) -> jax.Array:
        return valley(self.x, self.y)


def valley(x: Any, y: Any) -> Any:
    return ((1 - x) ** 2 + 100 * (y - x**2) ** 2).sum()


def fit(net: Net) -> jax.Array:
    x = batch()
    return ((net(x) - jnp.sin(3 * x[:, :2])) ** 2).mean()


def torch_fit(first: Any, bias: Any, second: Any, scale: Any) -> Any:
    x = torch.tensor(np.asarray(batch()))
    return ((scale * (torch.tanh(x @ first.T + bias) @ second.T) - torch.sin(3 * x[:, :2])) ** 2).mean()


class Twins:
    """Our module and optimizer, and PyTorch's with the same numbers."""

    def __init__(self, net: Module, ours: Callable[[Any], Any], theirs: Callable[..., Any], options: Any) -> None:
        self.net, self.values = net, [torch.nn.Parameter(torch.tensor(np.asarray(p.data))) for p in net.parameters()]
        self.ours, self.theirs = LBFGS(net.parameters(), **options), torch.optim.LBFGS(self.values, **options)
        self.closure = jit(lambda: value_and_grad(ours)(net))
        self.torch_loss = theirs

    def torch_closure(self) -> Any:
        self.theirs.zero_grad()
        loss = self.torch_loss(*self.values)
        loss.backward()
        return loss

    def step(self, tolerance: float = 1e-8) -> None:
        """One step of each, and everything is the same after it."""
        assert float(self.ours.step(self.closure)) == pytest.approx(self.theirs.step(self.torch_closure).item())
        for own, other in zip(self.net.parameters(), self.values):
            np.testing.assert_allclose(own.data, other.detach().numpy(), rtol=tolerance, atol=tolerance)
        (entry,) = self.theirs.state_dict()["state"].values()
        (own,) = self.ours.state_dict()["state"].values()
        entry = {name: value for name, value in entry.items() if value is not None and name != "al"}
        assert own.keys() == entry.keys()
        for name, value in entry.items():
            if isinstance(value, list):
                assert len(own[name]) == len(value)
            for one, two in zip(*([own[name], value] if isinstance(value, list) else [[own[name]], [value]])):
                np.testing.assert_allclose(one, np.asarray(two), rtol=1e-5, atol=1e-7, err_msg=name)


def fitting(options: dict[str, Any]) -> Twins:
    return Twins(Net(), fit, torch_fit, options)


@pytest.mark.parametrize("options", CONFIGURATIONS, ids=str)
def test_steps(options: dict[str, Any]) -> None:
    twins = fitting(options)
    for _ in range(3):
        twins.step()
    twins.ours.param_groups[0]["lr"] = twins.theirs.param_groups[0]["lr"] = 0.25
    twins.step()


@settings(max_examples=25)
@given(st.floats(-2, 2), st.floats(-2, 3), st.floats(0.05, 20), st.sampled_from([2, 5, 100]))
def test_in_a_valley(x: float, y: float, lr: float, history_size: int) -> None:
    """Where the line search brackets, zooms, and reaches its limits."""
    options = {"lr": lr, "max_iter": 4, "history_size": history_size, "line_search_fn": "strong_wolfe"}
    twins = Twins(Valley(x, y), lambda net: net(), valley, options)
    for _ in range(2):
        twins.step(1e-6)


@settings(max_examples=200)
@given(
    st.lists(st.floats(-3, 3), min_size=5, max_size=5),
    st.floats(1e-3, 30),
    st.sampled_from([1e-9, 1e-3, 0.5]),
    st.integers(0, 12),
)
def test_line_search(shape: list[float], length: float, tolerance: float, most: int) -> None:
    """On waves and powers, against PyTorch's own."""
    a, b, c, d, e = shape
    assume(abs(e) > 0.3)  # on a straight line rounding decides how far to go

    def along(t: float) -> tuple[float, float]:
        t = float(t)
        loss = a * np.sin(3 * t + b) + c * np.cos(7 * t) + d * t + 0.1 * e**2 * t**2
        slope = 3 * a * np.cos(3 * t + b) - 7 * c * np.sin(7 * t) + d + 0.2 * e**2 * t
        return float(loss), float(slope)

    loss, slope = along(0.0)
    sign = -1.0 if slope > 0 else 1.0  # the direction of descent
    calls: list[list[float]] = [[], []]

    def evaluate(t: float) -> Point:
        calls[0].append(t)
        loss, slope = along(sign * t)
        return Point(t, loss, None, sign * slope)

    def torch_evaluate(x: Any, t: Any, direction: Any) -> tuple[float, Any]:
        calls[1].append(float(t))
        loss, slope = along(sign * float(t))
        return loss, torch.tensor([sign * slope], dtype=torch.float64)

    start = Point(0.0, loss, None, sign * slope)
    found, count = strong_wolfe(evaluate, start, length, 1.0, tolerance, most)
    gradient, direction = torch.tensor([sign * slope], dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    expected_loss, _, expected, expected_count = importlib.import_module("torch.optim.lbfgs")._strong_wolfe(
        torch_evaluate,
        None,
        torch.tensor(length, dtype=torch.float64),
        direction,
        loss,
        gradient,
        gradient.dot(direction),
        tolerance_change=tolerance,
        max_ls=most,
    )
    np.testing.assert_allclose(calls[0], calls[1], rtol=1e-4, atol=1e-6)
    assert count == expected_count
    assert (found.length, found.loss) == pytest.approx((float(expected), float(expected_loss)), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("options", CONFIGURATIONS[1:3], ids=str)
def test_goes_on_from_a_state_dict(options: dict[str, Any]) -> None:
    """PyTorch's, ours, and ours after a trip to a file."""
    twins = fitting(options)
    twins.step()
    for state in (
        twins.theirs.state_dict(),
        twins.ours.state_dict(),
        pickle.loads(pickle.dumps(twins.ours.state_dict())),
    ):
        again = fitting({"lr": 0.1})
        again.net.load_state_dict(twins.net.state_dict())
        for value, other in zip(again.values, twins.values):
            value.data = other.detach().clone()
        again.ours.load_state_dict(state)
        again.theirs.load_state_dict(copy.deepcopy(twins.theirs.state_dict()))
        for _ in range(2):
            again.step()


def test_fresh_states() -> None:
    twins = fitting({"lr": 0.5})
    fresh = twins.ours.state_dict()
    assert fresh["state"] == {} and twins.ours.state == {}
    twins.step()
    assert twins.ours.state[twins.net.get_parameter("first")]["n_iter"] == 20
    twins.ours.load_state_dict(fresh)
    assert twins.ours.state == {}
    done = LBFGS(twins.net.parameters(), tolerance_grad=1e9)
    done.step(twins.closure)
    assert done.state_dict()["state"] == {0: {"func_evals": 1, "n_iter": 0}}
    again = LBFGS(twins.net.parameters())
    again.load_state_dict(done.state_dict())
    assert again.state_dict()["state"] == done.state_dict()["state"]


def test_states_that_do_not_fit() -> None:
    twins = fitting(CONFIGURATIONS[1] | {"history_size": 100})
    twins.step()
    before = twins.ours.state_dict()
    wrong = copy.deepcopy(before)
    entry = wrong["state"][0]
    entry["d"], entry["old_dirs"][1], entry["noise"] = np.zeros(3), np.zeros(2), 1.0
    del entry["t"]
    entry["ro"].pop()
    with pytest.raises(StateDictError) as caught:
        twins.ours.load_state_dict(wrong)
    assert str(caught.value).split("\n\t") == [
        "Error(s) in loading state_dict for LBFGS:",
        "state[0] lacks 't'",
        "state[0] has 'noise', which this optimizer does not keep",
        "state[0]: expected 'd' of shape (22,), got (3,)",
        "state[0]: expected 'old_dirs' of shape (22,), got (2,)",
        "state[0]: old_dirs, old_stps and ro are lists of one length, got [5, 6]",
    ]
    assert_same(twins.ours.state_dict(), before)


def test_copies() -> None:
    net = Net()
    optimizer = LBFGS(net.parameters(), lr=0.5, max_iter=3)
    optimizer.step(lambda: value_and_grad(fit)(net))
    pairs = [(net, optimizer), copy.deepcopy((net, optimizer)), pickle.loads(pickle.dumps((net, optimizer)))]
    for twin, its in reversed(pairs):
        its.step(lambda twin=twin: value_and_grad(fit)(twin))
    for twin, its in pairs[1:]:
        assert_same(dict(twin.state_dict()), dict(net.state_dict()), 1e-12)
        assert_same(its.state_dict(), optimizer.state_dict(), 1e-12)


def test_forms_of_gradients() -> None:
    """Also of some parameters alone, a loss with something else, and closures that are not compiled."""
    net, twin = Net(), Net()
    optimizer, its = LBFGS([net.first, net.bias], max_iter=4), LBFGS(list(twin.parameters())[:2], max_iter=4)
    value, note = optimizer.step(lambda: value_and_grad(lambda net: (fit(net), "noted"), has_aux=True)(net))

    def closure() -> Any:
        value, grads = value_and_grad(fit)(twin)
        return value, [grads["first"], grads["bias"]]

    assert note == "noted" and value == its.step(closure)
    assert_same(dict(net.state_dict()), dict(twin.state_dict()))


def test_a_parameter_without_gradient_stays() -> None:
    net = Net()
    net.get_parameter("bias").requires_grad_(False)
    optimizer, bias, scale = LBFGS(net.parameters(), max_iter=4), np.asarray(net.bias), np.asarray(net.scale)
    optimizer.step(jit(lambda: value_and_grad(fit)(net)))
    np.testing.assert_array_equal(net.bias, bias)
    assert net.scale != scale


def test_float32() -> None:
    with jax.enable_x64(False):
        net = Net(dtype=np.float32)
        optimizer = LBFGS(net.parameters(), line_search_fn="strong_wolfe")
        closure = jit(lambda: value_and_grad(lambda net: ((net(batch(np.float32)) - 1.0) ** 2).mean())(net))
        before = optimizer.step(closure)
        assert closure()[0] < 1e-3 * before
        assert {p.dtype for p in net.parameters()} == {np.dtype(np.float32)}
        assert optimizer.state_dict()["state"][0]["d"].dtype == np.float32


def test_an_exception_in_the_closure_changes_nothing() -> None:
    net = Net()
    optimizer = LBFGS(net.parameters(), lr=0.5)
    closure = jit(lambda: value_and_grad(fit)(net))
    optimizer.step(closure)
    before = copy.deepcopy((dict(net.state_dict()), optimizer.state_dict()))
    calls: list[int] = []

    def failing() -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyError("in the middle")
        return closure()

    with pytest.raises(KeyError, match="in the middle"):
        optimizer.step(failing)
    assert_same((dict(net.state_dict()), optimizer.state_dict()), before)


def test_inside_of_a_transform() -> None:
    net = Net()
    optimizer = LBFGS(net.parameters())
    before = dict(net.state_dict())

    @jit
    def step(net: Net) -> Any:
        return optimizer.step(lambda: value_and_grad(fit)(net))

    with pytest.raises(
        StateError, match=r"call it outside. It takes a closure .*\n    closure = fb.jit\(lambda: fb.value"
    ):
        step(net)
    assert_same(dict(net.state_dict()), before)
    assert optimizer.state == {}


@pytest.mark.parametrize(
    ("closure", "message"),
    [
        (None, "takes a closure that gives the loss and its gradients"),
        ([1.0], "takes a closure"),
        (lambda: jnp.ones(()), "the closure gave a ArrayImpl; LBFGS.step takes a closure"),
        (lambda: (1.0, 2.0, 3.0), "the closure gave a tuple"),
    ],
)
def test_what_is_no_closure(closure: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        LBFGS(Net().parameters()).step(closure)


def test_mistakes() -> None:
    net = Net()
    with pytest.raises(ValueError, match="Invalid learning rate: -1"):
        LBFGS(net.parameters(), lr=-1)
    with pytest.raises(ValueError, match="only 'strong_wolfe' is supported"):
        LBFGS(net.parameters(), line_search_fn="golden")
    with pytest.raises(ValueError, match=r"LBFGS doesn't support per-parameter options \(parameter groups\)"):
        LBFGS([{"params": net.first}, {"params": net.bias}])
    optimizer = LBFGS([net.first])
    with pytest.raises(ValueError, match="doesn't support per-parameter options"):
        optimizer.add_param_group({"params": net.bias})
    assert len(optimizer.param_groups) == 1


def test_a_scheduler_for_it() -> None:
    net = Net()
    optimizer = LBFGS(net.parameters(), lr=0.8, max_iter=1)
    scheduler = optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    with pytest.warns(UserWarning, match="before `optimizer.step"):
        scheduler.step()
    optimizer.step(jit(lambda: value_and_grad(fit)(net)))
    assert optimizer.param_groups[0]["lr"] == 0.4
