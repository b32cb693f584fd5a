"""Embeddings and one-hot rows."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flambeau._errors import DtypeError, ShapeError
from flambeau.nn import functional as F
from tests.nn.functional.parity import compare, normal

INDICES = np.array([[3, 1, 3, 0], [4, 3, 1, 1]])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding_idx": 3},
        {"padding_idx": -2},
        {"padding_idx": 0},
        {"scale_grad_by_freq": True},
        {"scale_grad_by_freq": True, "padding_idx": 1},
    ],
)
def test_embedding(torch: Any, options: dict[str, Any]) -> None:
    compare(torch, F.embedding, torch.nn.functional.embedding, INDICES, normal(5, 2), **options)


@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3)])
def test_embedding_of_any_shape(torch: Any, shape: tuple[int, ...]) -> None:
    compare(torch, F.embedding, torch.nn.functional.embedding, np.ones(shape, np.int32), normal(5, 2))


@pytest.mark.parametrize("norm_type", [2.0, 1.0, float("inf")])
def test_max_norm(torch: Any, norm_type: float) -> None:
    """The rows and the table are torch's after its change in place; the gradient takes no notice of the change."""
    table = torch.tensor(normal(5, 2), requires_grad=True)
    expected = torch.nn.functional.embedding(torch.tensor(INDICES), table, max_norm=0.7, norm_type=norm_type)
    expected.sum().backward()
    indices, weight = jnp.asarray(INDICES), jnp.asarray(normal(5, 2))

    def total(weight: jax.Array) -> tuple[jax.Array, jax.Array]:
        rows = F.embedding(indices, weight, max_norm=0.7, norm_type=norm_type)
        return rows.sum(), rows

    def total_after(weight: jax.Array) -> tuple[jax.Array, jax.Array]:
        changed = F.renormalize(weight, indices, 0.7, norm_type)
        return F.embedding(indices, changed).sum(), changed

    gradient, rows = jax.grad(total, has_aux=True)(weight)
    gradient_after, changed = jax.jit(jax.grad(total_after, has_aux=True))(weight)
    np.testing.assert_allclose(rows, expected.detach().numpy(), rtol=1e-12)
    np.testing.assert_allclose(changed, table.detach().numpy(), rtol=1e-12)
    np.testing.assert_allclose(gradient, table.grad.numpy(), rtol=1e-12)
    np.testing.assert_allclose(gradient_after, table.grad.numpy(), rtol=1e-12)


def test_forward_mode_scales_as_reverse_mode() -> None:
    weight, tangent = jnp.asarray(normal(5, 2)), jnp.asarray(normal(5, 2, seed=1))

    def loss(weight: jax.Array) -> jax.Array:
        return jnp.sum(F.embedding(jnp.asarray(INDICES), weight, padding_idx=0, scale_grad_by_freq=True) ** 2)

    reverse = jnp.vdot(jax.jit(jax.grad(loss))(weight), tangent)
    forward = jax.jit(lambda: jax.jvp(loss, (weight,), (tangent,))[1])()
    assert forward == pytest.approx(float(reverse))


def test_indices_outside_raise_or_are_nan() -> None:
    """What is known raises; under a trace the row is NaN, and no other row gets its gradient."""
    weight = normal(5, 2)

    @jax.jit
    def everything(weight: jax.Array, indices: jax.Array) -> tuple[jax.Array, ...]:
        rows, pull = jax.vjp(lambda weight: F.embedding(indices, weight), weight)
        return rows, *pull(jnp.ones_like(rows)), F.renormalize(weight, indices, 1e-3)

    for wrong in (-1, 5, -5, 2**31 - 1):
        indices = np.array([1, wrong])
        for look_up in (F.embedding, lambda i, w: F.renormalize(w, i, 1.0)):
            with pytest.raises(IndexError, match=rf"indices in \[0, 4\], got {wrong}"):
                look_up(jnp.asarray(indices), jnp.asarray(weight))
        rows, gradient, changed = map(np.asarray, everything(weight, indices))
        np.testing.assert_array_equal(np.isnan(rows), [[False, False], [True, True]])
        np.testing.assert_array_equal(gradient, [[0, 0], [1, 1], [0, 0], [0, 0], [0, 0]])
        np.testing.assert_array_equal(changed[[0, 2, 3, 4]], weight[[0, 2, 3, 4]])


def test_errors_of_embedding() -> None:
    weight = jnp.ones((5, 2))
    with pytest.raises(DtypeError, match="input of an integer dtype, got float64"):
        F.embedding(jnp.ones(3), weight)
    with pytest.raises(DtypeError, match="got bool"):
        F.embedding(jnp.ones(3, bool), weight)
    with pytest.raises(ShapeError, match=r"weight \(V, D\)"):
        F.embedding(jnp.ones(3, int), weight[0])
    with pytest.raises(ValueError, match="no sparse gradients"):
        F.embedding(jnp.ones(3, int), weight, sparse=True)
    for padding in (5, -6):
        with pytest.raises(AssertionError, match="padding_idx"):
            F.embedding(jnp.ones(3, int), weight, padding)


def test_half_precision_stays() -> None:
    weight = jnp.ones((5, 2), jnp.bfloat16)
    every: list[dict[str, Any]] = [{}, {"scale_grad_by_freq": True}, {"max_norm": 0.5}]
    for options in every:
        found = jax.eval_shape(lambda i, options=options: F.embedding(i, weight, **options), INDICES)
        assert found.dtype == jnp.bfloat16
    assert jax.eval_shape(lambda i: F.renormalize(weight, i, 0.5), INDICES).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("values", "classes"), [([3, 0, 1], -1), ([3, 0, 1], 6), ([[1], [2]], 3), (2, -1), ([], 3), ([0], 1)]
)
def test_one_hot(torch: Any, values: Any, classes: int) -> None:
    array = np.array(values, dtype=np.int64)
    expected = torch.nn.functional.one_hot(torch.tensor(array), classes)
    found = F.one_hot(jnp.asarray(array), classes)
    assert found.dtype == jnp.int64
    np.testing.assert_array_equal(found, expected.numpy())
    if classes != -1:
        np.testing.assert_array_equal(jax.jit(F.one_hot, static_argnums=1)(array, classes), expected.numpy())


def test_errors_of_one_hot() -> None:
    for values, classes in (([-1], -1), ([3], 3), ([-1], 3), ([], -1), ([1], -2), ([1], 0)):
        with pytest.raises(RuntimeError):
            F.one_hot(jnp.array(values, int), classes)
    with pytest.raises(RuntimeError, match="expected num_classes"):
        jax.jit(F.one_hot)(jnp.array([1]))
    with pytest.raises(DtypeError):
        F.one_hot(jnp.array([1.0]))
    np.testing.assert_array_equal(jax.jit(lambda i: F.one_hot(i, 2))(jnp.array([2, -1])), 0)
