"""The adaptive softmax besides its loss: one distribution over all classes, predictions, targets that are none."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import flambeau as fb
from flambeau import nn
from flambeau._errors import DtypeError, ShapeError
from tests.nn.functional.parity import normal

X = jnp.asarray(normal(6, 16))


def layer() -> Any:
    return nn.AdaptiveLogSoftmaxWithLoss(16, 12, [3, 7], head_bias=True).double()


def test_one_distribution() -> None:
    net = layer()
    chances = net.log_prob(X)
    np.testing.assert_allclose(jnp.exp(chances).sum(1), 1, rtol=1e-12)
    target = jnp.array([0, 2, 3, 6, 7, 11])
    output, loss = net(X, target)
    np.testing.assert_allclose(output, chances[jnp.arange(6), target], rtol=1e-12)
    np.testing.assert_allclose(loss, -output.mean(), rtol=1e-12)


def test_one_row() -> None:
    net = layer()
    result = net(X[0], jnp.array(8))
    assert result.output.shape == result.loss.shape == ()
    np.testing.assert_allclose(result.output, net(X, jnp.full(6, 8)).output[0], rtol=1e-12)


@pytest.mark.parametrize("scale", [0.1, 10.0])
def test_predictions_are_torchs(torch: Any, scale: float) -> None:
    theirs = torch.nn.AdaptiveLogSoftmaxWithLoss(16, 12, [3, 7], head_bias=True).double()
    ours = layer()
    state = {name: scale * normal(*value.shape) for name, value in theirs.state_dict().items()}
    theirs.load_state_dict({name: torch.tensor(value) for name, value in state.items()})
    ours.load_state_dict(state)
    x = normal(40, 16)
    np.testing.assert_array_equal(
        fb.jit(lambda net, x: net.predict(x))(ours, jnp.asarray(x)), theirs.predict(torch.tensor(x))
    )


def test_reset_draws_anew() -> None:
    net = layer()
    before = {name: np.asarray(value) for name, value in net.state_dict().items()}
    net.reset_parameters()
    assert all((np.asarray(value) != before[name]).any() for name, value in net.state_dict().items())


def test_targets_that_are_no_class() -> None:
    net = layer()
    target = jnp.array([0, 12, -1, 7, 3, 1])
    with pytest.raises(RuntimeError, match=r"expected classes in \[0, 11\], got -1 to 12"):
        net(X, target)
    output = fb.jit(lambda net, x, y: net(x, y).output)(net, X, target)
    np.testing.assert_array_equal(jnp.isnan(output), [False, True, True, False, False, False])


@pytest.mark.parametrize(
    ("x", "target", "error"),
    [
        (X, jnp.zeros(5, int), ShapeError),
        (X[0], jnp.zeros(1, int), ShapeError),
        (X[:, :3], jnp.zeros(6, int), ShapeError),
        (X[None], jnp.zeros((1, 6), int), ShapeError),
        (X, jnp.zeros(6), DtypeError),
    ],
)
def test_mistakes(x: Any, target: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="expected"):
        layer()(x, target)


@pytest.mark.parametrize("cutoffs", [[], [0, 3], [3, 3], [5, 3], [3, 12], [2.5]])
def test_cutoffs_that_are_none(cutoffs: list[Any]) -> None:
    with pytest.raises(ValueError, match="expected cutoffs"):
        nn.AdaptiveLogSoftmaxWithLoss(16, 12, cutoffs)
