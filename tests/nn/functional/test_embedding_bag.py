"""Bags of rows: parity with torch over modes and bags, and what it says of arguments that do not go together."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flambeau._errors import DtypeError, ShapeError
from flambeau.nn import functional as F
from tests.nn.functional.parity import compare, normal

INDICES = np.array([3, 1, 3, 0, 4, 4, 1, 2])
OFFSETS = np.array([0, 3, 3, 4, 8])  # three, none, one, four, none


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"mode": "sum"},
        {"mode": "mean"},
        {"mode": "max"},
        {"mode": "sum", "padding_idx": 4},
        {"mode": "mean", "padding_idx": -2},
        {"mode": "max", "padding_idx": 3},
        {"mode": "mean", "include_last_offset": True},
        {"mode": "max", "include_last_offset": True},
    ],
)
def test_embedding_bag(torch: Any, flat: bool, options: dict[str, Any]) -> None:
    if flat:
        compare(torch, F.embedding_bag, torch.nn.functional.embedding_bag, INDICES, normal(5, 2), OFFSETS, **options)
    else:
        options = {name: value for name, value in options.items() if name != "include_last_offset"}
        indices = INDICES.reshape(2, 4)
        compare(torch, F.embedding_bag, torch.nn.functional.embedding_bag, indices, normal(5, 2), **options)


@pytest.mark.parametrize("shape", [(8,), (2, 4)])
def test_weights_of_samples(torch: Any, shape: tuple[int, ...]) -> None:
    options: dict[str, Any] = {"offsets": OFFSETS} if len(shape) == 1 else {}
    ours, theirs = F.embedding_bag, torch.nn.functional.embedding_bag
    weights = normal(*shape)
    compare(
        torch, ours, theirs, INDICES.reshape(shape), normal(5, 2), mode="sum", per_sample_weights=weights, **options
    )


@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_gradients_by_frequency(mode: str) -> None:
    """Each row's is divided by how often it is looked up; torch, on the CPU, by how often another row is."""

    def gradient(scaled: bool) -> jax.Array:
        def loss(table: jax.Array) -> jax.Array:
            bags = F.embedding_bag(
                jnp.asarray(INDICES), table, jnp.asarray(OFFSETS), scale_grad_by_freq=scaled, mode=mode
            )
            return jnp.sum(jnp.sin(bags))

        return jax.jit(jax.grad(loss))(jnp.asarray(normal(5, 2)))

    counts = np.bincount(INDICES, minlength=5)[:, None]
    np.testing.assert_allclose(gradient(True), gradient(False) / counts, rtol=1e-12)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_nothing_to_look_up(mode: str, shape: tuple[int, int]) -> None:
    found = F.embedding_bag(jnp.zeros(shape, int), jnp.asarray(normal(5, 2)), mode=mode)
    np.testing.assert_array_equal(found, np.zeros((shape[0], 2)))
    found = F.embedding_bag(jnp.zeros(0, int), jnp.asarray(normal(5, 2)), jnp.zeros(3, int), mode=mode)
    np.testing.assert_array_equal(found, np.zeros((3, 2)))


def test_equal_maxima(torch: Any) -> None:
    """The first gets all of the gradient."""
    table = np.array([[1.0, 0.0], [1.0, 2.0], [0.0, 2.0]])
    for indices, offsets in ((np.array([[0, 1, 2]]), None), (np.array([2, 1, 0]), np.array([0, 2]))):
        compare(torch, F.embedding_bag, torch.nn.functional.embedding_bag, indices, table, offsets, mode="max")


@settings(max_examples=20)
@given(
    sizes=st.lists(st.integers(0, 3), min_size=1, max_size=5),
    mode=st.sampled_from(["sum", "mean", "max"]),
    padding=st.sampled_from([None, 0, 2]),
)
def test_any_bags(torch: Any, sizes: list[int], mode: str, padding: int | None) -> None:
    indices = np.random.default_rng(sizes).integers(0, 5, sum(sizes))
    offsets, table = np.cumsum([0, *sizes[:-1]]), normal(5, 2)
    expected = torch.nn.functional.embedding_bag(
        torch.tensor(indices), torch.tensor(table), torch.tensor(offsets), mode=mode, padding_idx=padding
    )
    found = F.embedding_bag(
        jnp.asarray(indices), jnp.asarray(table), jnp.asarray(offsets), mode=mode, padding_idx=padding
    )
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-12)


def test_largest_norm(torch: Any) -> None:
    """Torch changes the table in place; the result is the same."""
    table = torch.tensor(normal(5, 2))
    expected = torch.nn.functional.embedding_bag(torch.tensor(INDICES), table, torch.tensor(OFFSETS), max_norm=0.7)
    given = jnp.asarray(INDICES), jnp.asarray(normal(5, 2)), jnp.asarray(OFFSETS)
    np.testing.assert_allclose(F.embedding_bag(*given, max_norm=0.7), expected.numpy(), rtol=1e-9, atol=1e-12)


def test_traced_indices_outside() -> None:
    table = jnp.asarray(normal(5, 2))
    for mode in ("sum", "mean", "max"):
        found = jax.jit(lambda i, o, mode=mode: F.embedding_bag(i, table, o, mode=mode))(
            jnp.array([1, 7, 2]), jnp.array([0, 2])
        )
        assert jnp.isnan(found[0]).all()
        assert not jnp.isnan(found[1]).any()


TABLE = jnp.zeros((5, 2))


@pytest.mark.parametrize(
    ("input", "options", "error", "message"),
    [
        ([1], {}, ShapeError, "expected offsets for input"),
        ([[1]], {"offsets": jnp.array([0])}, ShapeError, "expected offsets for input"),
        ([[[1]]], {}, ShapeError, r"expected input \(B, L\) or \(L,\)"),
        ([1], {"offsets": jnp.array([[0]])}, ShapeError, r"expected offsets \(B,\)"),
        ([1], {"offsets": jnp.array([1])}, RuntimeError, "expected offsets from 0 to at most 1"),
        ([1], {"offsets": jnp.array([0, 2])}, RuntimeError, "expected offsets from 0 to at most 1"),
        ([1], {"offsets": jnp.array([0.0])}, DtypeError, "expected offsets of an integer dtype"),
        ([[5]], {}, IndexError, "expected indices in"),
        ([[1]], {"mode": "min"}, ValueError, "expected mode"),
        ([[1]], {"mode": "max", "scale_grad_by_freq": True}, ValueError, "scale_grad_by_freq=False"),
        ([[1]], {"per_sample_weights": jnp.ones((1, 1))}, ValueError, "no per_sample_weights for mode 'mean'"),
        ([[1]], {"mode": "sum", "per_sample_weights": jnp.ones(1)}, ShapeError, "expected per_sample_weights"),
        ([[1]], {"sparse": True}, ValueError, "sparse=False"),
        ([[1]], {"padding_idx": 5}, AssertionError, "expected padding_idx"),
    ],
)
def test_mistakes(input: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        F.embedding_bag(jnp.array(input), TABLE, **options)
