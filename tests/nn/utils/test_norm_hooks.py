"""`nn.utils.weight_norm` and `nn.utils.spectral_norm`, which compute the weight before each forward: as torch's."""

from __future__ import annotations

import copy
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flambeau as fb
from flambeau import nn
from tests.nn.utils.twins import assert_runs_as_torchs, assert_same, loss, of_torch, twins
from tests.transforms.small import compiles

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm` is deprecated:FutureWarning")

CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("linear", "weight_norm", {}),
    ("conv", "weight_norm", {"dim": None}),
    ("conv", "weight_norm", {"name": "bias"}),
    ("linear", "spectral_norm", {}),
    ("conv", "spectral_norm", {"n_power_iterations": 2, "eps": 1e-3, "dim": 1}),
    ("transposed", "spectral_norm", {}),
]


@pytest.mark.parametrize(("layer", "function", "options"), CASES)
def test_as_torch(layer: str, function: str, options: dict[str, Any]) -> None:
    ours, theirs, xs = twins(layer, lambda m, nn: getattr(nn.utils, function)(m, **options))
    name = options.get("name", "weight")
    assert_runs_as_torchs(ours, theirs, xs, stateful=function == "spectral_norm")
    np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name).detach(), atol=1e-12)
    for module, utils in ((ours, nn.utils), (theirs, torch.nn.utils)):
        getattr(utils, f"remove_{function}")(module, name)
    assert_same(ours.state_dict(), of_torch(theirs.state_dict()))
    assert not any(ours.__dict__.get(kind) for kind in ours._late_registry_names)


@pytest.mark.parametrize("function", ["weight_norm", "spectral_norm"])
def test_eager_and_compiled_training_agree_and_the_second_module_compiles_nothing(function: str) -> None:
    def make() -> tuple[Any, fb.optim.Optimizer]:
        fb.manual_seed(0)
        net = nn.Sequential(getattr(nn.utils, function)(nn.Linear(3, 4)), nn.Linear(4, 2))
        return net, fb.optim.SGD(net.parameters(), lr=0.1)

    def step(net: Any, optimizer: Any, x: jax.Array) -> jax.Array:
        value, grads = fb.value_and_grad(loss)(net, x)
        optimizer.step(grads)
        return value

    x = jnp.ones((4, 3), jnp.float32)
    eager, compiled, train = make(), make(), fb.jit(step)
    another = copy.deepcopy(compiled[0])
    np.testing.assert_allclose(compiles(1, lambda: train(*compiled, x)), step(*eager, x), rtol=1e-5)
    np.testing.assert_allclose(train(*compiled, x), step(*eager, x), rtol=1e-5)
    for name, value in eager[0].state_dict().items():
        np.testing.assert_allclose(compiled[0].state_dict()[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(compiled[0][0].weight, eager[0][0].weight, rtol=1e-4)
    compiles(0, lambda: train(another, fb.optim.SGD(another.parameters(), lr=0.1), x))


def test_a_spectral_norm_of_torchs_first_version_loads() -> None:
    """It has W and u, and no v: torch finds v, and so do we."""
    ours, theirs, xs = twins("conv", lambda m, nn: nn.utils.spectral_norm(m))
    theirs(torch.tensor(xs[0]))
    state = theirs.state_dict()
    state["weight"] = theirs.weight.detach()
    del state["weight_v"], state._metadata[""]["spectral_norm"]
    ours.load_state_dict(of_torch(state))
    theirs.load_state_dict(state)
    assert_same(ours.state_dict(), of_torch(theirs.state_dict()))
    del state["weight_u"]
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "weight_u", "weight_v"'):
        ours.load_state_dict(of_torch(state))


def test_torch_takes_our_state_dict_for_one_of_its_own() -> None:
    ours, theirs, _ = twins("linear", lambda m, nn: nn.utils.spectral_norm(m))
    assert ours.state_dict()._metadata == theirs.state_dict()._metadata


def test_two_weights_of_one_module() -> None:
    net = nn.Bilinear(2, 3, 4)
    for name in ("weight", "bias"):
        nn.utils.spectral_norm(net, name)
    net(jnp.ones((1, 2), jnp.float32), jnp.ones((1, 3), jnp.float32))
    nn.utils.remove_spectral_norm(net, "bias")
    assert list(net.state_dict()) == ["weight_orig", "bias", "weight_u", "weight_v"]
    assert len(net._forward_pre_hooks) == len(net._state_dict_hooks) == len(net._load_state_dict_pre_hooks) == 1


def inside(function: Any) -> Any:
    net = nn.Linear(2, 3)
    return fb.jit(lambda: function(net))()


MISTAKES: list[tuple[Any, Any, str]] = [
    (lambda: nn.utils.weight_norm(nn.utils.weight_norm(nn.Linear(2, 3))), RuntimeError, "two weight_norm hooks"),
    (lambda: nn.utils.spectral_norm(nn.utils.spectral_norm(nn.Linear(2, 3))), RuntimeError, "two spectral_norm hooks"),
    (lambda: nn.utils.spectral_norm(nn.Linear(2, 3), n_power_iterations=0), ValueError, "to be positive"),
    (lambda: nn.utils.spectral_norm(nn.Linear(2, 3, bias=False), "bias"), ValueError, "'bias' is None"),
    (lambda: nn.utils.weight_norm(nn.LazyLinear(3)), ValueError, "no shape yet"),
    (lambda: nn.utils.weight_norm(nn.Linear(2, 3), "wieght"), AttributeError, "Did you mean: 'weight'"),
    (lambda: nn.utils.remove_weight_norm(nn.Linear(2, 3)), ValueError, "weight_norm of 'weight' not found"),
    (lambda: nn.utils.remove_spectral_norm(nn.Linear(2, 3)), ValueError, "spectral_norm of 'weight' not found"),
    (lambda: inside(nn.utils.weight_norm), RuntimeError, "normalizing the weight of Linear inside of a transform"),
    (lambda: inside(nn.utils.spectral_norm), RuntimeError, "normalizing the weight of Linear inside of a transform"),
]


@pytest.mark.parametrize(("mistake", "error", "message"), MISTAKES, ids=[message for _, _, message in MISTAKES])
def test_mistakes(mistake: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        mistake()


def test_a_module_that_is_made_inside_of_a_transform_may_be_normalized_there() -> None:
    net = fb.jit(lambda: nn.utils.spectral_norm(nn.utils.weight_norm(nn.Linear(2, 3)), "bias"))()
    assert list(net.state_dict()) == ["weight_g", "weight_v", "bias_orig", "bias_u", "bias_v"]
    assert net(jnp.ones((1, 2), jnp.float32)).shape == (1, 3)


def test_a_mistake_leaves_the_module_as_it_was() -> None:
    net = nn.Linear(2, 3)
    with pytest.raises(IndexError):
        nn.utils.weight_norm(net, dim=2)
    assert list(net.state_dict()) == ["weight", "bias"]
    assert net(jnp.ones((1, 2), jnp.float32)).shape == (1, 3)
