"""Resizing of sequences, images and volumes."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from flambeau._errors import DtypeError, FlambeauWarning, ShapeError
from flambeau.nn.functional._autocast import raised
from flambeau.nn.functional._checks import describe
from flambeau.nn.functional._math import widen
from flambeau.nn.functional._resampling import Axis, resample
from flambeau.nn.functional.pooling import adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d

__all__ = ["interpolate", "upsample", "upsample_bilinear", "upsample_nearest"]

Size: TypeAlias = int | Sequence[int] | None
Factor: TypeAlias = float | Sequence[float] | None

_SPATIAL = {3: "L", 4: "H, W", 5: "D, H, W"}
# What each mode does to an axis, and how many dimensions it takes.
_MODES = {
    "nearest": ("nearest", (3, 4, 5)),
    "nearest-exact": ("nearest-exact", (3, 4, 5)),
    "linear": ("linear", (3,)),
    "bilinear": ("linear", (4,)),
    "trilinear": ("linear", (5,)),
    "bicubic": ("cubic", (4,)),
    "lanczos": ("lanczos", (4,)),
    "area": ("area", (3, 4, 5)),
}
_UNALIGNED = ("nearest", "nearest-exact", "area")
_ANTIALIASED = ("bilinear", "bicubic", "lanczos")
_AREA = {3: adaptive_avg_pool1d, 4: adaptive_avg_pool2d, 5: adaptive_avg_pool3d}


def interpolate(
    input: jax.Array,
    size: Size = None,
    scale_factor: Factor = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> jax.Array:
    """Resizes the spatial dimensions, one after the other: each new entry is a weighted sum of old ones near its place.

    Args:
        input: sequences, images or volumes.
        size: the new sizes, or one for all.
        scale_factor: instead of `size`, by how much each dimension grows, or one factor for all.
        mode: `"nearest"`; `"nearest-exact"`, which unlike it goes by the centers of the entries; `"linear"`, `"bilinear"`
            and `"trilinear"` for one, two and three dimensions; `"bicubic"` and `"lanczos"` for two; `"area"` for means
            over windows.
        align_corners: whether the centers of the first and the last entry stay where they are, not their outer edges;
            for modes with weights that depend on the place.
        recompute_scale_factor: whether to step by the ratio of the sizes, not by the factor that was given.
        antialias: whether entries farther away count where a size shrinks; `"lanczos"` wants it, and only `"bilinear"`
            and `"bicubic"` take it as well.

    Shape:
        input `(N, C, L)`, `(N, C, H, W)` or `(N, C, D, H, W)`, result alike with the new sizes.

    Raises:
        ShapeError: the mode does not take so many dimensions, or the sizes do not fit the input.
        DtypeError: the input holds integers, which (unlike in PyTorch, for 8 bits) only the nearest modes take.
        ValueError: not one of size and factor is given, or options do not go together.

    Example:
        >>> interpolate(jnp.array([[[0.0, 4.0]]]), scale_factor=2, mode="linear")
        Array([[[0., 1., 3., 4.]]], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.interpolate.html
    """
    input = raised(input)
    kind = _check_mode(input, mode)
    wrong = []
    if (size is None) == (scale_factor is None):
        wrong.append(f"expected either size or scale_factor, got {size} and {scale_factor}")
    if align_corners is not None and mode in _UNALIGNED:
        wrong.append(f"expected no align_corners for mode {mode!r}, got {align_corners}")
    if recompute_scale_factor and size is not None:
        wrong.append("expected no recompute_scale_factor where size is given")
    if antialias and mode not in _ANTIALIASED:
        wrong.append(f"expected antialias=False for mode {mode!r}")
    if mode == "lanczos" and (align_corners or not antialias):
        wrong.append("expected antialias=True and no align_corners for mode 'lanczos'")
    if wrong:
        raise ValueError("; ".join(wrong))
    sizes, factors = _sizes(input, size, scale_factor)
    if kind == "area":
        return _AREA[input.ndim](input, sizes)
    if recompute_scale_factor:
        factors = [None] * len(sizes)
    each = zip(input.shape[2:], sizes, factors, strict=True)
    axes = tuple(Axis(*numbers, kind, bool(align_corners), antialias) for numbers in each)
    if kind.startswith("nearest"):
        return resample(input, axes)
    if not jnp.issubdtype(input.dtype, jnp.floating):
        raise DtypeError(f"expected input of a floating dtype for mode {mode!r}, got {describe(input)}")
    return resample(widen(input), axes).astype(input.dtype)


def _check_mode(input: jax.Array, mode: str) -> str:
    """What the mode does to an axis."""
    if mode not in _MODES:
        raise ValueError(f"expected mode to be one of {', '.join(map(repr, _MODES))}, got {mode!r}")
    kind, ranks = _MODES[mode]
    if input.ndim not in ranks:
        expected = " or ".join(f"(N, C, {_SPATIAL[rank]})" for rank in ranks)
        raise ShapeError(f"expected input {expected} for mode {mode!r}, got {describe(input)}")
    return kind


def _sizes(input: jax.Array, size: Size, scale_factor: Factor) -> tuple[list[int], list[float] | list[None]]:
    """The new size of each spatial dimension, and the factor of each, where factors are given."""
    old = input.shape[2:]
    factors: list[float] | list[None] = [None] * len(old)
    if scale_factor is None:
        sizes = list(map(operator.index, _for_each(size, old, "size")))
    else:
        given = [float(factor) for factor in _for_each(scale_factor, old, "scale_factor")]
        sizes, factors = [int(length * factor) for length, factor in zip(old, given, strict=True)], given
    if min(sizes) < 1 or 0 in input.shape[1:]:
        raise ShapeError(f"expected an input and a result that are not empty, got {tuple(sizes)} of {describe(input)}")
    return sizes, factors


def _for_each(value: Any, old: tuple[int, ...], name: str) -> list[Any]:
    """One number for each dimension."""
    if not isinstance(value, Sequence):
        return [value] * len(old)
    if len(value) != len(old):
        raise ShapeError(f"expected {name} to be a number or {len(old)} numbers, got {value}")
    return list(value)


def upsample(
    input: jax.Array,
    size: Size = None,
    scale_factor: Factor = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
) -> jax.Array:
    """The older name of `interpolate`, which warns.

    Args:
        input: sequences, images or volumes.
        size: the new sizes, or one for all.
        scale_factor: instead of `size`, by how much each dimension grows, or one factor for all.
        mode: as for `interpolate`.
        align_corners: as for `interpolate`.

    Shape:
        input `(N, C, *)`, result alike with the new sizes.

    Raises:
        ShapeError: the mode does not take so many dimensions, or the sizes do not fit the input.
        ValueError: not one of size and factor is given, or options do not go together.

    Example:
        >>> import warnings
        >>> with warnings.catch_warnings(action="ignore"):
        ...     upsample(jnp.array([[[0.0, 4.0]]]), scale_factor=2)
        Array([[[0., 0., 4., 4.]]], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.upsample.html
    """
    _warn("upsample")
    return interpolate(input, size, scale_factor, mode, align_corners)


def upsample_nearest(input: jax.Array, size: Size = None, scale_factor: Factor = None) -> jax.Array:
    """`interpolate` with mode `"nearest"`, under an older name, which warns.

    Args:
        input: sequences, images or volumes.
        size: the new sizes, or one for all.
        scale_factor: instead of `size`, by how much each dimension grows, or one factor for all.

    Shape:
        input `(N, C, *)`, result alike with the new sizes.

    Raises:
        ShapeError: the sizes do not fit the input.
        ValueError: not one of size and factor is given.

    Example:
        >>> import warnings
        >>> with warnings.catch_warnings(action="ignore"):
        ...     upsample_nearest(jnp.array([[[0.0, 4.0]]]), 4)
        Array([[[0., 0., 4., 4.]]], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.upsample_nearest.html
    """
    _warn("upsample_nearest")
    return interpolate(input, size, scale_factor)


def upsample_bilinear(input: jax.Array, size: Size = None, scale_factor: Factor = None) -> jax.Array:
    """`interpolate` with mode `"bilinear"` and corners that stay where they are, under an older name, which warns.

    Args:
        input: the images.
        size: the new sizes, or one for both.
        scale_factor: instead of `size`, by how much each dimension grows, or one factor for both.

    Shape:
        input `(N, C, H, W)`, result `(N, C, H', W')`.

    Raises:
        ShapeError: the sizes do not fit the input.
        ValueError: not one of size and factor is given.

    Example:
        >>> import warnings
        >>> with warnings.catch_warnings(action="ignore"):
        ...     upsample_bilinear(jnp.array([[[[0.0, 4.0]]]]), (1, 5))
        Array([[[[0., 1., 2., 3., 4.]]]], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.upsample_bilinear.html
    """
    _warn("upsample_bilinear")
    return interpolate(input, size, scale_factor, "bilinear", True)


def _warn(name: str) -> None:
    warnings.warn(f"{name} is deprecated; write interpolate instead", FlambeauWarning, stacklevel=3)
