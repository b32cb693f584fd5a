"""Clipping: on the dicts that a gradient comes in, with torch's numbers."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import flambeau as fb
from flambeau import nn

X = jnp.ones(2, jnp.float32)
SIZES = st.floats(1e-3, 10)  # not so small that their powers vanish
FLOATS = st.just(0.0) | SIZES | SIZES.map(lambda size: -size)
ARRAYS = st.lists(
    hnp.arrays(np.float64, hnp.array_shapes(max_dims=2, max_side=4), elements=FLOATS), min_size=1, max_size=4
)


def torch_clipped(torch: Any, arrays: list[np.ndarray], clip: Any) -> tuple[Any, list[np.ndarray]]:
    parameters = []
    for array in arrays:
        parameters.append(torch.nn.Parameter(torch.zeros(array.shape, dtype=torch.float64)))
        parameters[-1].grad = torch.tensor(array)
    total = clip(torch.nn.utils, parameters)
    return total, [parameter.grad.numpy() for parameter in parameters]


@given(ARRAYS, st.floats(0.01, 20), st.sampled_from([2.0, 1.0, 3, math.inf, "inf"]))
def test_norm_is_torchs(torch: Any, arrays: list[np.ndarray], limit: float, order: Any) -> None:
    expected, clipped = torch_clipped(torch, arrays, lambda utils, p: utils.clip_grad_norm_(p, limit, order))
    grads = {str(i): jnp.asarray(array) for i, array in enumerate(arrays)}
    np.testing.assert_allclose(nn.utils.get_total_norm(grads, order), expected, rtol=1e-12, atol=1e-300)
    total = nn.utils.clip_grad_norm_(grads, limit, order)
    np.testing.assert_allclose(total, expected, rtol=1e-12, atol=1e-300)
    for got, want in zip(grads.values(), clipped, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-300)


@given(ARRAYS, st.floats(0.01, 5))
def test_value_is_torchs(torch: Any, arrays: list[np.ndarray], limit: float) -> None:
    _, clipped = torch_clipped(torch, arrays, lambda utils, p: utils.clip_grad_value_(p, limit))
    grads = [jnp.asarray(array) for array in arrays]
    nn.utils.clip_grad_value_(grads, limit)
    for got, want in zip(grads, clipped, strict=True):
        np.testing.assert_array_equal(got, want)


def test_a_training_step_clips_as_eager_execution_does() -> None:
    def step(net: Any, optimizer: Any, x: Any) -> Any:
        _, grads = fb.value_and_grad(lambda net: (100 * net(x) ** 2).sum())(net)
        total = nn.utils.clip_grad_norm_(grads, 1.0)
        optimizer.step(grads)
        return total, nn.utils.get_total_norm(grads)

    def run(wrap: Any) -> Any:
        fb.manual_seed(0)
        net = nn.Linear(3, 2)
        optimizer = fb.optim.SGD(net.parameters(), lr=0.1)
        totals = [wrap(step)(net, optimizer, jnp.ones((4, 3), jnp.float32)) for _ in range(3)]
        return totals, dict(net.state_dict())

    expected, got = run(lambda fun: fun), run(fb.jit)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), expected, got)
    assert all(total > 1 and abs(after - 1) < 1e-5 for total, after in got[0])


def test_gradients_of_two_modules_are_clipped_as_one() -> None:
    nets = nn.Linear(2, 1), nn.Linear(2, 1)
    grads = fb.grad(lambda a, b: (10 * a(X) + b(X)).sum(), argnums=(0, 1))(*nets)
    nn.utils.clip_grad_norm_(grads, 1.0)
    assert abs(nn.utils.get_total_norm(grads) - 1) < 1e-5
    assert grads[0].parameter("weight") is nets[0].get_parameter("weight")


def test_half_precision_keeps_its_dtype_and_does_not_overflow() -> None:
    grads = {"weight": jnp.full(4, 6e4, jnp.float16)}
    assert jnp.isfinite(nn.utils.clip_grad_norm_(grads, 2.0))
    assert grads["weight"].dtype == jnp.float16
    np.testing.assert_allclose(grads["weight"], 1.0, rtol=1e-3)


def test_what_is_not_finite_raises_on_request_and_changes_nothing() -> None:
    grads = {"weight": jnp.array([1.0, jnp.nan])}
    with pytest.raises(RuntimeError, match=r"order 2\.0 is nan"):
        nn.utils.clip_grad_norm_(grads, 1.0, error_if_nonfinite=True)
    assert grads["weight"][0] == 1.0
    with pytest.raises(fb.StateError, match="not known inside of a transform"):
        fb.jit(lambda g: nn.utils.get_total_norm(g, error_if_nonfinite=True))(grads)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda: nn.Linear(2, 1), "got Linear: gradients are values here"),
        (lambda: list(nn.Linear(2, 1).parameters()), "got parameters: gradients are values here"),
        (lambda: nn.Linear(2, 1).parameters(), "got generator: gradients are values here"),
        (lambda: jnp.ones(2), "gradients are values here"),
        (lambda: (jnp.ones(2),), "a tuple cannot be replaced"),
    ],
)
def test_what_has_no_gradients_to_replace(given: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        nn.utils.clip_grad_norm_(given(), 1.0)


def test_no_gradient_at_all() -> None:
    assert nn.utils.clip_grad_norm_({"weight": None}, 1.0) == 0
