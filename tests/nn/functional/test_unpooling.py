"""Unpooling puts maxima back as torch does, also where several of them share a place."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from flambeau._errors import DtypeError, ShapeError
from flambeau.nn.functional import pooling as F
from tests.nn.functional.parity import compare, normal

SHAPES = {1: (2, 3, 9), 2: (2, 3, 6, 7), 3: (2, 2, 5, 4, 6)}
ROUND_TRIPS: list[tuple[int, dict[str, Any]]] = [
    (1, {}),
    (1, {"stride": (3,), "padding": 1}),
    (2, {}),
    (2, {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0)}),
    (3, {}),
    (3, {"kernel_size": 2, "stride": (2, 1, 2)}),
]


@pytest.mark.parametrize(("n", "options"), ROUND_TRIPS)
@pytest.mark.parametrize("batched", [True, False])
def test_back_from_pooling(torch: Any, n: int, options: dict[str, Any], batched: bool) -> None:
    """With windows that overlap too, whose maxima share places, and each of them gets the gradient."""
    options = {"kernel_size": 2, **options}
    x = normal(*SHAPES[n][not batched :])
    pooled = getattr(F, f"max_pool{n}d")(jnp.asarray(x), **options, return_indices=True)
    values, indices = (np.asarray(each) for each in pooled)
    ours, theirs = getattr(F, f"max_unpool{n}d"), getattr(torch.nn.functional, f"max_unpool{n}d")
    for size in (x.shape[-n:], (1, 1, *x.shape[-n:])):
        compare(torch, ours, theirs, values, indices, **options, output_size=size)
    kept = ours(*pooled, **options, output_size=x.shape[-n:])
    assert set(np.unique(kept)) == {0.0, *np.unique(values)}


@settings(max_examples=20)
@given(st.data())
def test_any_size_within_a_stride(torch: Any, data: st.DataObject) -> None:
    windows, kernel, stride, padding = (data.draw(st.tuples(*[st.integers(low, 3)] * 2)) for low in (1, 1, 1, 0))
    usual = [(n - 1) * s + k - 2 * p for n, k, s, p in zip(windows, kernel, stride, padding)]
    size = data.draw(st.one_of(st.none(), st.tuples(*(st.integers(n - s, n + s) for n, s in zip(usual, stride)))))
    points, count = math.prod(usual if size is None else size), math.prod(windows)
    assume(points)  # Torch drops what it is given where the result is empty.
    numbers = np.random.default_rng(0)
    # Each in a place of its own where there are so many.
    indices = np.stack([numbers.permutation(max(points, count))[:count] for _ in range(3)]).reshape(1, 3, *windows)
    x, options = normal(1, 3, *windows), {"stride": stride, "padding": padding, "output_size": size}
    try:
        torch.nn.functional.max_unpool2d(torch.tensor(x), torch.tensor(indices), kernel, **options)
    except (ValueError, RuntimeError):
        with pytest.raises((ShapeError, IndexError)):
            F.max_unpool2d(jnp.asarray(x), jnp.asarray(indices), kernel, **options)
    else:
        compare(torch, F.max_unpool2d, torch.nn.functional.max_unpool2d, x, indices, kernel, **options)


def test_all_may_share_one_place(torch: Any) -> None:
    """Torch keeps the last of them, and gives all of them the gradient, in both orders."""
    shared = np.full((1, 2, 3, 3), 4)
    compare(torch, F.max_unpool2d, torch.nn.functional.max_unpool2d, normal(1, 2, 3, 3), shared, 2, second=True)


def test_forward_mode_and_vmap() -> None:
    x, indices = jnp.asarray(normal(2, 3, 2, 2)), jnp.asarray([[[0, 3], [9, 10]]] * 3)
    function = partial(F.max_unpool2d, indices=indices, kernel_size=2)
    np.testing.assert_array_equal(jax.jvp(function, (x[0],), (x[1],))[1], function(x[1]))  # it is linear
    np.testing.assert_array_equal(jax.vmap(function)(x), jnp.stack([function(lane) for lane in x]))
    assert F.max_unpool2d(x[:0], jnp.zeros((0, 3, 2, 2), int), 2).shape == (0, 3, 4, 4)


def test_an_index_outside_of_the_result() -> None:
    """Raises where it is known, and is NaN in its channel, and only there, where it is not."""
    x, wrong = jnp.ones((2, 3)), jnp.array([[1, 2, 3], [1, 6, 3]])
    for indices in (wrong, wrong - 2):
        with pytest.raises(IndexError, match=r"expected indices within a result of \(6,\), got (1 to 6|-1 to 4)"):
            F.max_unpool1d(x, indices, 2)
        result = np.asarray(jax.jit(partial(F.max_unpool1d, kernel_size=2))(x, indices))
        outside = ((indices < 0) | (indices > 5)).any(1)
        np.testing.assert_array_equal(np.isnan(result).all(1), outside)
        np.testing.assert_array_equal(np.isnan(result).any(1), outside)


MISFITS: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any], str]] = [
    ((4, 4), (4, 4), {}, r"expected input \(N, C, H, W\) or \(C, H, W\), got float64\[4, 4\]"),
    ((2, 0, 4), (2, 0, 4), {}, "with no empty dimension but N, got"),
    ((2, 3, 4), (2, 3, 3), {}, r"expected indices \(2, 3, 4\) like input, got int64\[2, 3, 3\]"),
    ((2, 3, 4), (2, 3, 4), {"padding": 5}, r"with room for padding \(5, 5\), got float64\[2, 3, 4\]"),
    ((2, 3, 4), (2, 3, 4), {"output_size": (8, 8)}, r"less than a stride of \(2, 2\) away from \(6, 8\), got \(8, 8\)"),
    ((2, 3, 4), (2, 3, 4), {"output_size": (1, 6, 8)}, r"output_size of 2 or 4 ints, got \(1, 6, 8\)"),
]


@pytest.mark.parametrize(("shape", "places", "options", "message"), MISFITS)
def test_misfits_are_refused_as_in_torch(
    torch: Any, shape: tuple[int, ...], places: tuple[int, ...], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ShapeError, match=message):
        F.max_unpool2d(jnp.zeros(shape), jnp.zeros(places, int), 2, **options)
    with pytest.raises((RuntimeError, ValueError)):
        torch.nn.functional.max_unpool2d(torch.zeros(shape), torch.zeros(places).long(), 2, **options)


def test_arguments_out_of_range() -> None:
    """Torch makes results of odd sizes of these in one and two dimensions."""
    with pytest.raises(
        ShapeError, match=r"kernel_size of at least 1, .*; .*stride of at least 1, .*; .*padding of at least 0"
    ):
        F.max_unpool1d(jnp.zeros((2, 3)), jnp.zeros((2, 3), int), 0, -1, -1)


def test_dtypes() -> None:
    x, indices = jnp.ones((2, 3), jnp.bfloat16), jnp.zeros((2, 3), jnp.int32)
    assert F.max_unpool1d(x, indices, 2).dtype == jnp.bfloat16
    with pytest.raises(DtypeError, match="expected indices of an integer dtype, got float64"):
        F.max_unpool1d(x, jnp.zeros((2, 3)), 2)
    with pytest.raises(DtypeError, match="expected input of a floating dtype, got int32"):
        F.max_unpool1d(indices, indices, 2)
