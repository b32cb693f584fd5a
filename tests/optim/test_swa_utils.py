"""Averaged models and their BatchNorm statistics, as PyTorch's `swa_utils` has them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flambeau import nn
from flambeau._errors import StateError
from flambeau.optim import SGD, swa_utils
from flambeau.transforms.grad import grad
from flambeau.transforms.jit import jit
from tests.optim.small import assert_same, compilations
from tests.optim.twins import in_double_precision

torch = pytest.importorskip("torch")
theirs = torch.optim.swa_utils

FUNCTIONS = {
    "by default": lambda lib: {},
    "swa": lambda lib: {"avg_fn": lib.get_swa_avg_fn()},
    "ema": lambda lib: {"avg_fn": lib.get_ema_avg_fn(0.8)},
    "swa of many": lambda lib: {"multi_avg_fn": lib.get_swa_multi_avg_fn()},
    "ema of many": lambda lib: {"multi_avg_fn": lib.get_ema_multi_avg_fn(0.8)},
    "of ones own": lambda lib: {"avg_fn": lambda average, current, n: average * 0.5 + current * 0.5 / (n + 1)},
    "by default, with buffers": lambda lib: {"use_buffers": True},
    "ema of many, with buffers": lambda lib: {"multi_avg_fn": lib.get_ema_multi_avg_fn(0.8), "use_buffers": True},
}


@pytest.fixture(autouse=True)
def exact_weights() -> Iterator[None]:
    with in_double_precision():
        yield


def network(library: Any, seed: int = 0) -> Any:
    net = library.Sequential(library.Linear(3, 4), library.BatchNorm1d(4), library.Linear(4, 2)).double()
    random = np.random.default_rng(seed)
    values = {name: random.normal(size=tuple(value.shape)) for name, value in net.state_dict().items()}
    values["1.num_batches_tracked"] = np.asarray(7 * seed)
    net.load_state_dict({k: torch.tensor(v) if library is torch.nn else jnp.asarray(v) for k, v in values.items()})
    return net


def check(ours: Any, other: Any) -> None:
    state = ours.state_dict()
    assert list(state) == list(other.state_dict())
    for name, value in other.state_dict().items():
        np.testing.assert_allclose(state[name], value.numpy(), rtol=1e-12, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("functions", FUNCTIONS)
def test_averages(functions: str, compiled: bool) -> None:
    net, twin = network(nn), network(torch.nn)
    average = swa_utils.AveragedModel(net, **FUNCTIONS[functions](swa_utils))
    expected = theirs.AveragedModel(twin, **FUNCTIONS[functions](theirs))
    check(average, expected)
    update = jit(lambda average, net: average.update_parameters(net)) if compiled else None
    for seed in range(1, 5):
        net.load_state_dict(network(nn, seed).state_dict())
        twin.load_state_dict(network(torch.nn, seed).state_dict())
        average.update_parameters(net) if update is None else update(average, net)
        expected.update_parameters(twin)
        check(average, expected)
    assert update is None or len(update._programs) == 1
    x = np.random.default_rng(9).normal(size=(5, 3))
    np.testing.assert_allclose(
        average(jnp.asarray(x)), expected(torch.tensor(x)).detach().numpy(), rtol=1e-9, atol=1e-9
    )


def test_in_a_training_step() -> None:
    """The model, its optimizer and its average in one compiled function, each closed over."""
    net, twin = network(nn), network(nn)
    optimizer, its = SGD(net.parameters(), lr=0.1), SGD(twin.parameters(), lr=0.1)
    averages = [swa_utils.AveragedModel(each, avg_fn=swa_utils.get_ema_avg_fn(0.5)) for each in (net, twin)]
    x = jnp.asarray(np.random.default_rng(1).normal(size=(6, 3)))

    def step(net: Any, optimizer: Any, average: Any) -> None:
        optimizer.step(grad(lambda net: (net(x) ** 2).mean())(net))
        average.update_parameters(net)

    compiled = jit(lambda: step(net, optimizer, averages[0]))
    for _ in range(3):
        compiled()
        step(twin, its, averages[1])
    assert_same(dict(averages[0].state_dict()), dict(averages[1].state_dict()), 1e-12)
    assert int(averages[0].n_averaged) == 3
    with compilations() as again:
        compiled()
    assert not again


def test_update_bn() -> None:
    net, twin = network(nn), network(torch.nn)
    for each in (net, twin):
        each.eval()
        each[0].train()
    batches = [np.random.default_rng(seed).normal(size=(seed + 3, 3)) for seed in range(4)]
    swa_utils.update_bn([(jnp.asarray(batch), "label") for batch in batches], net)
    theirs.update_bn([[torch.tensor(batch), "label"] for batch in batches], twin)
    check(net, twin)
    assert net[1].momentum == twin[1].momentum == 0.1 and not net.training and not twin.training
    swa_utils.update_bn([jnp.asarray(batches[0])], net, device=jax.devices()[0])
    theirs.update_bn([torch.tensor(batches[0])], twin)
    check(net, twin)


def test_update_bn_leaves_others_alone() -> None:
    """Instance normalization has running statistics too, and no average over batches."""
    net = nn.Sequential(nn.InstanceNorm1d(2, track_running_stats=True))
    before = dict(net.state_dict())
    swa_utils.update_bn([jnp.ones((2, 2, 3))], net)
    assert_same(dict(net.state_dict()), before)


def test_update_bn_that_fails() -> None:
    net = nn.BatchNorm1d(3).eval()
    with pytest.raises(ValueError, match="expected input"):
        swa_utils.update_bn([jnp.ones((4, 3), jnp.float32), jnp.ones((4, 5), jnp.float32)], net)
    assert net.momentum == 0.1 and not net.training


def test_the_model_stays_apart() -> None:
    net = network(nn)
    average: Any = swa_utils.AveragedModel(net)
    average.update_parameters(net)
    held, before = average.module[0].weight, np.asarray(net[0].weight)
    average.module[0].weight = held * 2
    np.testing.assert_array_equal(net[0].weight, before)
    twin = copy.deepcopy(average)
    twin.update_parameters(net)
    assert int(average.n_averaged) == 1 and int(twin.n_averaged) == 2


def test_dtypes_and_places() -> None:
    net = network(nn)
    average = swa_utils.AveragedModel(net, device="cpu:0").to(jnp.float32)
    for _ in range(2):
        average.update_parameters(net)
    assert {str(parameter.dtype) for parameter in average.parameters()} == {"float32"}
    assert {str(parameter.dtype) for parameter in net.parameters()} == {"float64"}


def test_mistakes() -> None:
    net = network(nn)
    with pytest.raises(ValueError, match=r"Invalid decay value 1\.5 provided"):
        swa_utils.get_ema_avg_fn(1.5)
    with pytest.raises(ValueError, match=r"Invalid decay value -0\.1 provided"):
        swa_utils.get_ema_multi_avg_fn(-0.1)
    with pytest.raises(ValueError, match="Only one of avg_fn and multi_avg_fn"):
        swa_utils.AveragedModel(net, avg_fn=lambda a, b, n: a, multi_avg_fn=lambda a, b, n: a)
    with pytest.raises(StateError, match="takes the model that was copied"):
        swa_utils.AveragedModel(net).update_parameters(net[0])
    in_place = swa_utils.AveragedModel(net, multi_avg_fn=lambda a, b, n: None)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="multi_avg_fn gives a list of the new averages, as arrays do not change"):
        in_place.update_parameters(net)
