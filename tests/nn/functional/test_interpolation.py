"""Resizing: parity with torch over modes, sizes and factors, the forms that one sum takes, and what does not go together."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flambeau._errors import DtypeError, FlambeauWarning, ShapeError
from flambeau.nn import functional as F
from flambeau.nn.functional import _resampling
from tests.nn.functional.parity import compare, normal

MODES = {
    3: ("nearest", "nearest-exact", "linear", "area"),
    4: ("nearest", "nearest-exact", "bilinear", "bicubic", "area"),
    5: ("nearest", "nearest-exact", "trilinear", "area"),
}


def cases() -> list[tuple[tuple[int, ...], dict[str, Any]]]:
    """Each mode to a size and by factors, with each of its options."""
    found = []
    for ndim, modes in MODES.items():
        shape = (2, 1, 4, 5, 3)[:ndim]
        for mode in modes:
            options = (
                [{}] if mode.startswith("nearest") or mode == "area" else [{"align_corners": c} for c in (True, False)]
            )
            for option in options:
                found.append((shape, {"size": (7, 4, 6)[: ndim - 2], "mode": mode, **option}))
                found.append((shape, {"scale_factor": (2.0, 1.7, 3.0)[: ndim - 2], "mode": mode, **option}))
    return found


@pytest.mark.parametrize(("shape", "options"), cases())
def test_interpolate(torch: Any, shape: tuple[int, ...], options: dict[str, Any]) -> None:
    compare(torch, F.interpolate, torch.nn.functional.interpolate, normal(*shape), **options)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("size", [(3, 2), (7, 9), (4, 11)])
def test_antialias(torch: Any, mode: str, size: tuple[int, int]) -> None:
    options = {"size": size, "mode": mode, "antialias": True}
    compare(torch, F.interpolate, torch.nn.functional.interpolate, normal(1, 2, 9, 11), **options)


@pytest.mark.parametrize("recompute", [True, False])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_recomputed_factors(torch: Any, mode: str, recompute: bool) -> None:
    options = {"scale_factor": 1.7, "mode": mode, "recompute_scale_factor": recompute}
    compare(torch, F.interpolate, torch.nn.functional.interpolate, normal(1, 2, 5), **options)


@settings(max_examples=60)
@given(
    old=st.integers(1, 40),
    new=st.integers(1, 40),
    mode=st.sampled_from(["nearest", "nearest-exact", "linear"]),
    corners=st.booleans(),
)
def test_any_sizes(torch: Any, old: int, new: int, mode: str, corners: bool) -> None:
    """Also where an axis is repeated, cut by steps, or resampled by phases."""
    x = normal(1, 1, old)
    options = {"align_corners": corners} if mode == "linear" else {}
    expected = torch.nn.functional.interpolate(torch.tensor(x), new, mode=mode, **options).numpy()
    with jax.disable_jit():
        np.testing.assert_allclose(F.interpolate(jnp.asarray(x), new, mode=mode, **options), expected, atol=1e-12)


@settings(max_examples=60)
@given(old=st.integers(1, 30), factor=st.floats(0.3, 4.0), mode=st.sampled_from(["nearest", "nearest-exact", "linear"]))
def test_any_factor(torch: Any, old: int, factor: float, mode: str) -> None:
    x = normal(1, 1, old)
    if int(old * factor) == 0:
        with pytest.raises(ShapeError, match="not empty"):
            F.interpolate(jnp.asarray(x), scale_factor=factor, mode=mode)
        return
    expected = torch.nn.functional.interpolate(torch.tensor(x), scale_factor=factor, mode=mode).numpy()
    with jax.disable_jit():
        found = F.interpolate(jnp.asarray(x), scale_factor=factor, mode=mode)
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize(("size", "mode"), [((12, 15), "bicubic"), ((12, 15), "bilinear"), ((7, 4), "bilinear")])
def test_long_axes_are_looked_up(monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], mode: str) -> None:
    """An axis too long for a matrix gets the same numbers and gradients."""
    x = jnp.asarray(normal(1, 2, 4, 5))

    def both() -> tuple[jax.Array, jax.Array]:
        jax.clear_caches()
        return jax.value_and_grad(lambda x: jnp.sum(jnp.sin(F.interpolate(x, size, mode=mode, align_corners=True))))(x)

    expected = both()
    monkeypatch.setattr(_resampling, "_LARGEST_MATRIX", 0)
    for mine, other in zip(both(), expected, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-12, atol=1e-12)


def test_phases_are_found() -> None:
    """Twice as large is a sum of shifted copies, not a product with a matrix."""
    x = jnp.zeros((1, 1, 8, 8))
    text = str(jax.make_jaxpr(lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"))(x))
    assert "dot_general" not in text
    assert "gather" not in text


def test_integers() -> None:
    x = jnp.arange(3, dtype=jnp.uint8)[None, None]
    assert F.interpolate(x, 6).dtype == jnp.uint8
    with pytest.raises(DtypeError, match=r"expected input of a floating dtype for mode 'linear', got uint8\[1, 1, 3\]"):
        F.interpolate(x, 6, mode="linear")


@pytest.mark.parametrize("name", ["upsample", "upsample_nearest", "upsample_bilinear"])
def test_older_names(torch: Any, name: str) -> None:
    x = normal(1, 2, 3, 4)
    with pytest.warns(UserWarning, match="deprecated"):
        expected = getattr(torch.nn.functional, name)(torch.tensor(x), scale_factor=2)
    with pytest.warns(FlambeauWarning, match=f"{name} is deprecated; write interpolate"):
        found = getattr(F, name)(jnp.asarray(x), scale_factor=2)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either size or scale_factor"),
        ({"size": 2, "scale_factor": 2}, "either size or scale_factor"),
        ({"size": 2, "mode": "cubic"}, "expected mode to be one of"),
        ({"size": 2, "align_corners": False}, "no align_corners for mode 'nearest'"),
        ({"size": 2, "recompute_scale_factor": True}, "no recompute_scale_factor"),
        ({"size": 2, "antialias": True}, "antialias=False for mode 'nearest'"),
        ({"size": 2, "mode": "lanczos"}, "antialias=True"),
        (
            {"size": 2, "mode": "lanczos", "antialias": True, "align_corners": True},
            "antialias=True and no align_corners",
        ),
        ({"size": (2, 2, 2)}, "expected size to be a number or 2 numbers"),
        ({"size": 0}, "not empty"),
        ({"size": 2, "mode": "trilinear"}, r"expected input \(N, C, D, H, W\) for mode 'trilinear'"),
    ],
)
def test_mistakes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        F.interpolate(jnp.zeros((1, 1, 4, 4)), **options)
