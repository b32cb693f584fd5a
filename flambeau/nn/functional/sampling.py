"""Images and volumes read at any places: the places of an affine transformation, and what stands there."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, reduce
from itertools import product

import jax
import jax.numpy as jnp
from jax import lax

from flambeau._errors import DtypeError, ShapeError
from flambeau.nn.functional._autocast import promoted
from flambeau.nn.functional._checks import check_same_dtype, describe
from flambeau.nn.functional._math import widen

__all__ = ["affine_grid", "grid_sample"]

_MODES = ("bilinear", "nearest", "bicubic")
_PADDINGS = ("zeros", "border", "reflection")


def affine_grid(theta: jax.Array, size: Sequence[int], align_corners: bool | None = None) -> jax.Array:
    """Where an affine transformation finds the entries of its result, for `grid_sample`: gᵢ = θ · (x, y, 1) or (x, y, z, 1).

    Here x, y and z run over the result from -1 to 1.

    Args:
        theta: the transformations.
        size: the size of the result.
        align_corners: whether -1 and 1 are the centers of the first and the last entry, not their outer edges; None is
            False (where PyTorch warns, too).

    Shape:
        theta `(N, 2, 3)` with size `(N, C, H, W)`, result `(N, H, W, 2)`; or theta `(N, 3, 4)` with size
        `(N, C, D, H, W)`, result `(N, D, H, W, 3)`.

    Raises:
        ShapeError: `theta` does not fit `size`, or `size` is not positive.
        DtypeError: `theta` holds no floating numbers.

    Example:
        >>> grid = affine_grid(jnp.array([[[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]]]), (1, 1, 1, 2))
        >>> grid.tolist()
        [[[[0.0, 0.0], [1.0, 0.0]]]]

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.affine_grid.html
    """
    n = len(size) - 2
    if n not in (2, 3) or min(size) < 1:
        raise ShapeError(f"expected size of four or five positive ints, got {tuple(size)}")
    if theta.shape != (size[0], n, n + 1):
        raise ShapeError(f"expected theta {(size[0], n, n + 1)} for size {tuple(size)}, got {describe(theta)}")
    if not jnp.issubdtype(theta.dtype, jnp.floating):
        raise DtypeError(f"expected theta of a floating dtype, got {describe(theta)}")
    return _affine_grid(widen(theta), tuple(size[2:]), bool(align_corners)).astype(theta.dtype)


@partial(jax.jit, static_argnums=(1, 2))
def _affine_grid(theta: jax.Array, spatial: tuple[int, ...], align_corners: bool) -> jax.Array:
    n = len(spatial)
    grid = theta[:, :, n].reshape(-1, *[1] * n, n)  # (N, n) to (N, 1, ..., n)
    # Sums and not a product of matrices, which an accelerator might round.
    for axis, length in enumerate(spatial):
        places = jnp.linspace(-1, 1, length, dtype=theta.dtype) if length > 1 else jnp.zeros(1, theta.dtype)
        places = places if align_corners else places * (length - 1) / length
        column = theta[:, :, n - 1 - axis].reshape(-1, *[1] * n, n)
        grid = grid + column * places.reshape(
            -1, *[1] * (n - axis)
        )  # (length, 1, ..., 1), the last for the coordinates
    return grid


def grid_sample(
    input: jax.Array,
    grid: jax.Array,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> jax.Array:
    """Reads images or volumes at places: y[n, c, p] = Σ_q w(q, grid[n, p]) x[n, c, q], with weights of the entries q nearby.

    Args:
        input: the images or volumes.
        grid: the places (x, y) or (x, y, z), of which -1 to 1 lie inside.
        mode: `"bilinear"` (for volumes, too), `"nearest"`, or for images `"bicubic"`.
        padding_mode: what stands outside: `"zeros"`, `"border"` the nearest entry, `"reflection"` the input mirrored at
            its edges.
        align_corners: whether -1 and 1 are the centers of the first and the last entry, not their outer edges; None is
            False (where PyTorch warns, too).

    Shape:
        input `(N, C, H, W)`, grid `(N, H', W', 2)`, result `(N, C, H', W')`; or input `(N, C, D, H, W)`, grid
        `(N, D', H', W', 3)`, result `(N, C, D', H', W')`.

    Raises:
        ShapeError: input and grid do not fit, or `"bicubic"` gets volumes.
        DtypeError: the two differ in dtype, or hold no floating numbers.
        ValueError: there is no such mode.

    Example:
        >>> x = jnp.array([[[[0.0, 1.0], [2.0, 3.0]]]])
        >>> grid_sample(x, jnp.array([[[[0.0, 0.0], [1.0, -1.0]]]]), align_corners=True)
        Array([[[[1.5, 1. ]]]], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.grid_sample.html
    """
    input, grid = promoted(input, grid)
    if mode not in _MODES:
        raise ValueError(f"expected mode to be one of {', '.join(map(repr, _MODES))}, got {mode!r}")
    if padding_mode not in _PADDINGS:
        expected = ", ".join(map(repr, _PADDINGS))
        raise ValueError(f"expected padding_mode to be one of {expected}, got {padding_mode!r}")
    n = input.ndim - 2
    if n not in (2, 3) or 0 in input.shape[2:]:
        raise ShapeError(f"expected input (N, C, H, W) or (N, C, D, H, W) that is not empty, got {describe(input)}")
    if grid.ndim != n + 2 or (grid.shape[0], grid.shape[-1]) != (input.shape[0], n):
        places = "(N, H, W, 2)" if n == 2 else "(N, D, H, W, 3)"
        raise ShapeError(f"expected grid {places} with N = {input.shape[0]}, got {describe(grid)}")
    if n == 3 and mode == "bicubic":
        raise ShapeError(f"expected input (N, C, H, W) for mode 'bicubic', got {describe(input)}")
    check_same_dtype(input, grid=grid)
    return _sample(widen(input), widen(grid), mode, padding_mode, bool(align_corners)).astype(input.dtype)


@partial(jax.jit, static_argnums=(2, 3, 4))
def _sample(x: jax.Array, grid: jax.Array, mode: str, padding: str, align_corners: bool) -> jax.Array:
    """The sum over the entries near each place of what stands there, times its weight."""
    spatial = x.shape[2:]
    # From the last axis (x) to the first (y, or z), as the grid has them.
    places = [
        ((grid[..., -1 - axis] + 1) / 2 * (size - 1) if align_corners else ((grid[..., -1 - axis] + 1) * size - 1) / 2)
        for axis, size in enumerate(spatial)
    ]
    pads = [partial(_inside, size=size, padding=padding, align_corners=align_corners) for size in spatial]
    if mode == "bicubic":
        near = [_cubic_weights(place) for place in places]
    else:
        weigh = _linear_weights if mode == "bilinear" else _nearest_weight
        near = [weigh(pad(place)) for pad, place in zip(pads, places, strict=True)]
    rows = jnp.moveaxis(x, 1, -1)  # (N, C, *spatial) to (N, *spatial, C), of which a place is read at once
    total = jnp.zeros((), x.dtype)
    for corner in product(*near):
        inside = [pad(entry) for pad, (entry, _) in zip(pads, corner, strict=True)]
        weight = reduce(jnp.multiply, [each for _, each in corner])
        total += weight[..., None] * _read(rows, inside)
    return jnp.moveaxis(total, -1, 1)


def _inside(place: jax.Array, size: int, padding: str, align_corners: bool) -> jax.Array:
    """The place, moved to between the first and the last entry where the padding says so."""
    if padding == "zeros":
        return place
    if padding == "reflection":
        place = _reflected(place, 0, size - 1) if align_corners else _reflected(place, -0.5, size - 0.5)
    # Not a clip, whose derivative at the ends is another than PyTorch's.
    return jnp.where(place <= 0, 0, jnp.where(place >= size - 1, size - 1, place))


def _reflected(place: jax.Array, low: float, high: float) -> jax.Array:
    """The place, mirrored at `low` and `high` as often as it takes."""
    if low == high:
        return jnp.zeros_like(place)
    span, distance = high - low, place - low
    distance = jnp.where(distance < 0, -distance, distance)
    rest = lax.rem(distance, jnp.asarray(span, place.dtype))
    return low + jnp.where(jnp.floor(distance / span) % 2 == 0, rest, span - rest)


def _nearest_weight(place: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
    entry = lax.stop_gradient(jnp.round(place))
    return [(entry, jnp.ones_like(place))]


def _linear_weights(place: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
    """The entries on both sides, with their weights."""
    left = lax.stop_gradient(jnp.floor(place))
    return [(left, left + 1 - place), (left + 1, place - left)]


def _cubic_weights(place: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
    """The two entries on each side, with the weights of cubic convolution."""
    a, left = -0.75, lax.stop_gradient(jnp.floor(place))

    def near(x: jax.Array) -> jax.Array:
        return ((a + 2) * x - (a + 3)) * x * x + 1

    def far(x: jax.Array) -> jax.Array:
        return (((x - 5) * x + 8) * x - 4) * a

    t = place - left
    return [(left - 1, far(t + 1)), (left, near(t)), (left + 1, near(1 - t)), (left + 2, far(2 - t))]


def _read(rows: jax.Array, places: Sequence[jax.Array]) -> jax.Array:
    """What stands at places in `(N, *spatial, C)`: `(N, *, C)`, zeros outside."""
    sizes = rows.shape[1:-1]
    inside = [(place >= 0) & (place < size) for place, size in zip(places, sizes, strict=True)]
    flat = jnp.zeros((), jnp.int32)
    for place, size in zip(places, sizes, strict=True):
        # Clipped as a floating number: those far outside are no integers.
        flat = flat * size + jnp.clip(jnp.nan_to_num(place), 0, size - 1).astype(jnp.int32)
    table = rows.reshape(rows.shape[0], -1, rows.shape[-1])  # (N, *spatial, C) to (N, points, C)
    found = jax.vmap(lambda entries, index: entries[index])(table, flat)
    return jnp.where(reduce(jnp.logical_and, inside)[..., None], found, 0)
