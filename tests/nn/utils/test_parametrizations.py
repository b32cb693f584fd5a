"""Weight normalization and spectral normalization as parametrizations: as torch's, eager and compiled."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flambeau as fb
from flambeau import nn
from flambeau.nn.utils import parametrizations, parametrize
from tests.nn.utils.twins import assert_runs_as_torchs, assert_same, loss, of_torch, twins
from tests.transforms.small import compiles

torch = pytest.importorskip("torch")

CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("linear", "weight_norm", {}),
    ("linear", "weight_norm", {"dim": 1}),
    ("conv", "weight_norm", {"dim": None}),
    ("conv", "weight_norm", {"dim": 2}),
    ("conv", "weight_norm", {"name": "bias"}),
    ("linear", "spectral_norm", {}),
    ("conv", "spectral_norm", {"n_power_iterations": 3, "eps": 1e-3, "dim": -1}),
    ("transposed", "spectral_norm", {}),
    ("linear", "spectral_norm", {"name": "bias"}),
]


def case_id(value: Any) -> str:
    return ",".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else value


@pytest.mark.parametrize(("layer", "function", "options"), CASES, ids=case_id)
def test_as_torch(layer: str, function: str, options: dict[str, Any]) -> None:
    """What is there from the start, what calls make of it, and what is left when it is removed."""
    ours, theirs, xs = twins(layer, lambda m, nn: getattr(nn.utils.parametrizations, function)(m, **options))
    name = options.get("name", "weight")
    assert_runs_as_torchs(ours, theirs, xs, stateful=function == "spectral_norm" and name == "weight")
    for module, by in ((ours, parametrize), (theirs, torch.nn.utils.parametrize)):
        by.remove_parametrizations(module.eval(), name)
    assert repr(ours) == repr(theirs)
    assert_same(ours.state_dict(), of_torch(theirs.state_dict()))


def test_a_complex_weight_has_gain_one() -> None:
    class Filter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.matrix = nn.Parameter(nn.init.normal_(jnp.zeros((4, 3), jnp.complex128)))

    module = parametrizations.spectral_norm(Filter(), "matrix", n_power_iterations=30)
    np.testing.assert_allclose(np.linalg.norm(module.matrix, 2), 1, rtol=1e-6)


@pytest.mark.parametrize("function", ["weight_norm", "spectral_norm"])
def test_eager_and_compiled_training_agree_and_the_second_module_compiles_nothing(function: str) -> None:
    def make() -> tuple[Any, fb.optim.Optimizer]:
        fb.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
        getattr(parametrizations, function)(
            net[0], **({"orthogonal_map": "cayley"} if function == "orthogonal" else {})
        )
        return net, fb.optim.SGD(net.parameters(), lr=0.1)

    def step(net: Any, optimizer: Any, x: jax.Array) -> jax.Array:
        value, grads = fb.value_and_grad(loss)(net, x)
        optimizer.step(grads)
        return value

    x = jnp.ones((4, 3), jnp.float32)
    eager, compiled, another, train = make(), make(), make(), fb.jit(step)
    np.testing.assert_allclose(compiles(1, lambda: train(*compiled, x)), step(*eager, x), rtol=1e-5)
    np.testing.assert_allclose(train(*compiled, x), step(*eager, x), rtol=1e-5)
    for name, value in eager[0].state_dict().items():
        np.testing.assert_allclose(compiled[0].state_dict()[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
    compiles(0, lambda: train(*another, x))


def test_state_dicts_of_the_older_weight_normalization_load() -> None:
    with pytest.warns(FutureWarning):
        older = torch.nn.Sequential(torch.nn.utils.weight_norm(torch.nn.Linear(3, 2)))
    net = nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 2)))
    net.load_state_dict(of_torch(older.state_dict()))
    np.testing.assert_allclose(net[0].weight, older[0].weight.detach(), rtol=1e-6)


def test_half_precision_weights_keep_their_dtype() -> None:
    for function in (parametrizations.weight_norm, parametrizations.spectral_norm):
        assert function(nn.Linear(3, 2, dtype=jnp.bfloat16)).weight.dtype == jnp.bfloat16


MISTAKES: list[tuple[Any, Any, str]] = [
    (lambda: parametrizations.spectral_norm(nn.Linear(2, 3), dim=2), IndexError, r"\[-2, 1\], got 2"),
    (lambda: parametrizations.spectral_norm(nn.Linear(2, 3), n_power_iterations=0), ValueError, "to be positive"),
    (lambda: parametrizations.spectral_norm(nn.Linear(2, 3), "wait"), ValueError, "no parameter or buffer .*'wait'"),
    (lambda: parametrizations.spectral_norm(nn.LazyLinear(3)), ValueError, "no shape yet"),
    (lambda: parametrizations.weight_norm(nn.Linear(2, 3), dim=2), IndexError, r"\[-2, 1\], got 2"),
    (lambda: parametrizations.weight_norm(nn.Linear(2, 3, bias=False), "bias"), ValueError, "'bias' is None"),
]


@pytest.mark.parametrize(("mistake", "error", "message"), MISTAKES, ids=[message for _, _, message in MISTAKES])
def test_mistakes(mistake: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        mistake()
