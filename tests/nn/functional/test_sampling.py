"""Reading images and volumes at any places: parity with torch over modes, paddings and places, also far outside."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flambeau._errors import DtypeError, ShapeError
from flambeau.nn import functional as F
from tests.nn.functional.parity import compare, normal

PADDINGS = ("zeros", "border", "reflection")


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("padding_mode", PADDINGS)
@pytest.mark.parametrize(
    ("mode", "n"), [("bilinear", 2), ("nearest", 2), ("bicubic", 2), ("bilinear", 3), ("nearest", 3)]
)
def test_grid_sample(torch: Any, mode: str, n: int, padding_mode: str, align_corners: bool) -> None:
    x, grid = normal(2, 3, *(4, 5, 2)[:n]), 1.5 * normal(2, *(3, 2, 4)[:n], n, seed=1)
    options = {"mode": mode, "padding_mode": padding_mode, "align_corners": align_corners}
    compare(torch, F.grid_sample, torch.nn.functional.grid_sample, x, grid, **options)


@settings(max_examples=30)
@given(
    places=st.lists(st.sampled_from([-7.0, -2.0, -1.0, -0.5, 0.0, 0.25, 1.0, 1.5, 3.0, 40.0]), min_size=2, max_size=8),
    size=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    mode=st.sampled_from(["bilinear", "nearest", "bicubic"]),
    padding=st.sampled_from(PADDINGS),
    corners=st.booleans(),
)
def test_edges(torch: Any, places: list[float], size: tuple[int, int], mode: str, padding: str, corners: bool) -> None:
    """On entries, on edges, and many times the size outside."""
    x, grid = normal(1, 1, *size), np.array(places[: len(places) // 2 * 2]).reshape(1, 1, -1, 2)
    expected = torch.nn.functional.grid_sample(torch.tensor(x), torch.tensor(grid), mode, padding, corners)
    found = F.grid_sample(jnp.asarray(x), jnp.asarray(grid), mode, padding, corners)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-9)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(2, 3, 4, 5), (2, 1, 3, 2, 4), (2, 1, 3, 2)])
def test_affine_grid(torch: Any, size: tuple[int, ...], align_corners: bool) -> None:
    n = len(size) - 2

    def ours(theta: Any) -> Any:
        return F.affine_grid(theta, size, align_corners)

    def theirs(theta: Any) -> Any:
        return torch.nn.functional.affine_grid(theta, size, align_corners)

    compare(torch, ours, theirs, normal(2, n, n + 1))


def test_an_identity_reads_the_image() -> None:
    x = jnp.asarray(normal(1, 2, 4, 3))
    grid = F.affine_grid(jnp.array([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]]), x.shape)
    np.testing.assert_allclose(F.grid_sample(x, grid), x, atol=1e-12)


def test_half_precision_is_computed_with_in_full() -> None:
    x, grid = jnp.asarray(normal(1, 1, 300, 2), jnp.bfloat16), jnp.zeros((1, 1, 1, 2), jnp.bfloat16)
    found = F.grid_sample(x, grid, "nearest", align_corners=True)
    assert found.dtype == jnp.bfloat16
    assert found.shape == (1, 1, 1, 1)
    assert found[0, 0, 0, 0] == x[0, 0, 150, 0]  # at 149.5, which rounds to even


X, GRID = jnp.zeros((2, 1, 3, 3)), jnp.zeros((2, 4, 4, 2))


@pytest.mark.parametrize(
    ("x", "grid", "mode", "padding", "error", "message"),
    [
        (X, GRID, "linear", "zeros", ValueError, "expected mode to be one of"),
        (X, GRID, "nearest", "same", ValueError, "expected padding_mode to be one of"),
        (X[0], GRID, "nearest", "zeros", ShapeError, r"expected input \(N, C, H, W\) or"),
        (X[:, :, :0], GRID, "nearest", "zeros", ShapeError, "not empty"),
        (X, GRID[:1], "nearest", "zeros", ShapeError, r"expected grid \(N, H, W, 2\) with N = 2"),
        (X, jnp.zeros((2, 4, 4, 3)), "nearest", "zeros", ShapeError, "expected grid"),
        (X[..., None], jnp.zeros((2, 1, 4, 4, 3)), "bicubic", "zeros", ShapeError, "for mode 'bicubic'"),
        (X, GRID.astype(jnp.float32), "nearest", "zeros", DtypeError, "expected grid of dtype float64"),
    ],
)
def test_mistakes(x: Any, grid: Any, mode: str, padding: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        F.grid_sample(x, grid, mode, padding)


@pytest.mark.parametrize(
    ("theta", "size", "error"),
    [
        (jnp.zeros((1, 2, 3)), (1, 1, 2), ShapeError),
        (jnp.zeros((1, 2, 3)), (1, 1, 0, 2), ShapeError),
        (jnp.zeros((1, 2, 3)), (1, 1, 2, 2, 2), ShapeError),
        (jnp.zeros((1, 2, 3), int), (1, 1, 2, 2), DtypeError),
    ],
)
def test_mistakes_of_grids(theta: Any, size: tuple[int, ...], error: type[Exception]) -> None:
    with pytest.raises(error, match="expected"):
        F.affine_grid(theta, size)
