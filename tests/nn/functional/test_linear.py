"""Linear maps and reshapes."""

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


@pytest.mark.parametrize(
    ("input", "weight", "bias"),
    [
        ((4,), (3, 4), (3,)),
        ((5, 4), (3, 4), None),
        ((2, 5, 4), (3, 4), (3,)),
        ((5, 4), (4,), None),
        ((0, 4), (3, 4), (3,)),
    ],
)
def test_linear(torch: Any, input: tuple[int, ...], weight: tuple[int, ...], bias: tuple[int, ...] | None) -> None:
    arrays = [None if shape is None else normal(*shape, seed=i) for i, shape in enumerate((input, weight, bias))]
    compare(torch, F.linear, torch.nn.functional.linear, *arrays, second=bool(np.prod(input)))


@pytest.mark.parametrize("batch", [(), (5,), (2, 5)])
def test_bilinear(torch: Any, batch: tuple[int, ...]) -> None:
    arrays = normal(*batch, 4), normal(*batch, 2), normal(3, 4, 2), normal(3)
    compare(torch, F.bilinear, torch.nn.functional.bilinear, *arrays, second=True)


def test_linear_keeps_half_precision() -> None:
    x, w = jnp.ones((2, 3), jnp.bfloat16), jnp.ones((4, 3), jnp.bfloat16)
    assert F.linear(x, w, jnp.ones(4, jnp.bfloat16)).dtype == jnp.bfloat16


def test_linear_says_all_that_is_wrong() -> None:
    with pytest.raises(
        ShapeError, match=r"input \(\*, 4\), got float64\[2, 5\]; expected bias \(3,\), got float64\[2\]"
    ):
        F.linear(jnp.zeros((2, 5)), jnp.zeros((3, 4)), jnp.zeros(2))
    with pytest.raises(DtypeError, match="weight of dtype float64"):
        F.linear(jnp.zeros((2, 4)), jnp.zeros((3, 4), jnp.float32))
    with pytest.raises(ShapeError, match="weight"):
        F.linear(jnp.zeros((2, 4)), jnp.zeros((3, 4, 1)))


def test_bilinear_says_what_is_wrong() -> None:
    x, w = jnp.zeros((5, 4)), jnp.zeros((3, 4, 2))
    with pytest.raises(ShapeError, match=r"expected input2 \(5, 2\), got float64\[6, 2\]"):
        F.bilinear(x, jnp.zeros((6, 2)), w)
    with pytest.raises(ShapeError, match=r"expected input1 \(\*, 4\)"):
        F.bilinear(x[:, :3], jnp.zeros((5, 2)), w)
    with pytest.raises(DtypeError):
        F.bilinear(x, jnp.zeros((5, 2), jnp.float32), w)


@settings(max_examples=40)
@given(st.lists(st.integers(0, 3), max_size=4), st.integers(-5, 4), st.integers(-5, 4))
def test_flatten_does_as_torch(torch: Any, shape: list[int], start: int, end: int) -> None:
    x = normal(*shape)
    try:
        expected = torch.flatten(torch.tensor(x), start, end)
    except (RuntimeError, IndexError) as error:
        with pytest.raises(type(error)):
            F.flatten(jnp.asarray(x), start, end)
    else:
        np.testing.assert_array_equal(F.flatten(jnp.asarray(x), start, end), expected.numpy())


@settings(max_examples=40)
@given(st.integers(-3, 2), st.lists(st.sampled_from([-1, 1, 2, 3, 4, 6]), max_size=3))
def test_unflatten_does_as_torch(torch: Any, dim: int, sizes: list[int]) -> None:
    x = normal(2, 12)
    try:
        expected = torch.unflatten(torch.tensor(x), dim, tuple(sizes))
    except (RuntimeError, IndexError) as error:
        with pytest.raises(type(error)):
            F.unflatten(jnp.asarray(x), dim, sizes)
    else:
        np.testing.assert_array_equal(F.unflatten(jnp.asarray(x), dim, sizes), expected.numpy())


def test_unflatten_reverses_flatten() -> None:
    x = jnp.arange(24.0).reshape(2, 3, 4)
    there = jax.jit(lambda x: F.unflatten(F.flatten(x, 1), 1, (3, 4)))
    np.testing.assert_array_equal(there(x), x)
