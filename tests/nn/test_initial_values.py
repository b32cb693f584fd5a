"""What parameters begin with: torch's distributions, the same for the same seed, of the dtype and where one wants them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import flambeau as fb
from flambeau import nn

MADE: dict[str, Callable[[Any], Any]] = {
    "Linear": lambda nn: nn.Linear(150, 2000),
    "Linear of one": lambda nn: nn.Linear(1, 2000),
    "Bilinear": lambda nn: nn.Bilinear(12, 20, 2000),
    "Conv1d": lambda nn: nn.Conv1d(12, 2000, 5),
    "Conv2d": lambda nn: nn.Conv2d(12, 2000, (3, 2), groups=4),
    "Conv3d": lambda nn: nn.Conv3d(4, 2000, 2),
    "ConvTranspose1d": lambda nn: nn.ConvTranspose1d(40, 2000, 3),
    "ConvTranspose2d": lambda nn: nn.ConvTranspose2d(12, 2000, 2, groups=2),
    "ConvTranspose3d": lambda nn: nn.ConvTranspose3d(4, 2000, 2),
    "Embedding": lambda nn: nn.Embedding(300, 150),
    "PReLU": lambda nn: nn.PReLU(3, init=0.4),
    "BatchNorm": lambda nn: nn.BatchNorm2d(3),
    "InstanceNorm": lambda nn: nn.InstanceNorm2d(3, affine=True, track_running_stats=True),
    "LayerNorm": lambda nn: nn.LayerNorm((3, 4)),
    "GroupNorm": lambda nn: nn.GroupNorm(2, 4),
    "RMSNorm": lambda nn: nn.RMSNorm(4),
}


@pytest.mark.parametrize("layer", MADE)
def test_distribution(torch: Any, layer: str) -> None:
    """Mean, spread, bounds and shape of the distribution of each parameter and buffer."""
    torch.manual_seed(0)
    fb.manual_seed(0)
    theirs = {name: value.numpy().ravel() for name, value in MADE[layer](torch.nn).state_dict().items()}
    ours = {name: np.ravel(value) for name, value in MADE[layer](nn).state_dict().items()}
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        mine = ours[name]
        if expected.std() == 0:
            np.testing.assert_array_equal(mine, expected)
            continue
        spread = expected.std()
        assert abs(mine.mean()) < 5 * spread / np.sqrt(mine.size)
        assert abs(mine.std() / spread - 1) < 6 / np.sqrt(mine.size)
        if layer != "Embedding":
            # The same bound, which both come near and neither exceeds.
            assert 0.99 < np.abs(mine).max() / np.abs(expected).max() < 1.01
        likely: Any = stats.ks_2samp(mine, expected)
        assert likely.pvalue > 1e-3


def test_bound_is_exact() -> None:
    """No value exceeds 1/√fan_in, for the weight and the bias."""
    fb.manual_seed(1)
    layer: Any = nn.Conv2d(2, 3000, 3)
    for values in (layer.weight, layer.bias):
        assert 0.999 / np.sqrt(18) < np.abs(values).max() <= np.float32(1 / np.sqrt(18))


@pytest.mark.parametrize("layer", ["Linear", "Conv2d", "Embedding"])
def test_seeds(layer: str) -> None:
    def weights(seed: int) -> Any:
        fb.manual_seed(seed)
        return MADE[layer](nn).weight

    np.testing.assert_array_equal(weights(4), weights(4))
    assert (weights(4) != weights(5)).mean() > 0.99


def test_two_layers_differ() -> None:
    first, second = nn.Linear(20, 30), nn.Linear(20, 30)
    assert (first.weight != second.weight).mean() > 0.99
    assert abs(np.corrcoef(np.ravel(first.weight), np.ravel(second.weight))[0, 1]) < 0.2


def test_reset_parameters_draws_in_place() -> None:
    layer = nn.Linear(20, 30)
    parameter, before = layer.get_parameter("weight"), np.asarray(layer.weight)
    layer.reset_parameters()
    assert layer.get_parameter("weight") is parameter
    assert (layer.weight != before).mean() > 0.99


@pytest.mark.parametrize("make", [lambda **k: nn.Linear(2, 3, **k), lambda **k: nn.BatchNorm2d(3, **k)])
def test_dtype_and_device(make: Callable[..., Any]) -> None:
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    for device in (None, "cpu", jax.devices()[0], place):
        state = make(device=device, dtype=jnp.bfloat16).state_dict()
        floating = {name: value for name, value in state.items() if name != "num_batches_tracked"}
        assert {str(value.dtype) for value in floating.values()} == {"bfloat16"}
        assert {value.committed for value in state.values()} == {device is not None}


def test_default_dtype() -> None:
    fb.set_default_dtype(jnp.float16)
    try:
        assert nn.Linear(2, 3).weight.dtype == jnp.float16
    finally:
        fb.set_default_dtype(jnp.float32)


def test_without_64_bit_types() -> None:
    with jax.enable_x64(False):
        layer = nn.BatchNorm1d(3)
        layer(jnp.ones((4, 3)))
        assert {name: str(value.dtype) for name, value in layer.state_dict().items()} == {
            "weight": "float32",
            "bias": "float32",
            "running_mean": "float32",
            "running_var": "float32",
            "num_batches_tracked": "int32",
        }
        assert nn.Linear(2, 3, dtype=jnp.float64).weight.dtype == jnp.float32


def test_a_layer_made_in_a_compiled_function() -> None:
    """Has the weights that it gets outside, from the same seed."""

    def make(x: jax.Array) -> jax.Array:
        return nn.Linear(3, 4)(x)

    x = jnp.ones((2, 3), jnp.float32)
    fb.manual_seed(0)
    eager = make(x)
    fb.manual_seed(0)
    np.testing.assert_allclose(fb.jit(make)(x), eager, rtol=1e-6)
