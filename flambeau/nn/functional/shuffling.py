"""Moves of channels into space, back, and among themselves."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from flambeau._errors import ShapeError
from flambeau.nn.functional._checks import describe

__all__ = ["channel_shuffle", "native_channel_shuffle", "pixel_shuffle", "pixel_unshuffle"]


def pixel_shuffle(input: jax.Array, upscale_factor: int) -> jax.Array:
    """Makes images r times as large, of r² channels each: y[c, r·i + k, r·j + l] = x[c·r² + k·r + l, i, j].

    Args:
        input: the images.
        upscale_factor: r.

    Shape:
        input `(*, C·r², H, W)`, result `(*, C, H·r, W·r)`.

    Raises:
        ShapeError: the channels cannot be divided by r².
        ValueError: `upscale_factor` is not positive.

    Example:
        >>> pixel_shuffle(jnp.arange(4.0).reshape(4, 1, 1), 2)
        Array([[[0., 1.],
                [2., 3.]]], dtype=float32)

    Source: https://arxiv.org/abs/1609.05158
    """
    _check_factor(upscale_factor, "upscale_factor")
    r = upscale_factor
    if input.ndim < 3 or input.shape[-3] % (r * r):
        raise ShapeError(f"expected input (*, C, H, W) with C divisible by {r * r}, got {describe(input)}")
    *batch, channels, height, width = input.shape
    x = input.reshape(
        math.prod(batch) * channels // (r * r), r, r, height, width
    )  # (*, C·r², H, W) to (*·C, r, r, H, W)
    return x.transpose(0, 3, 1, 4, 2).reshape(*batch, channels // (r * r), height * r, width * r)


def pixel_unshuffle(input: jax.Array, downscale_factor: int) -> jax.Array:
    """The reverse of `pixel_shuffle`: y[c·r² + k·r + l, i, j] = x[c, r·i + k, r·j + l].

    Args:
        input: the images.
        downscale_factor: r.

    Shape:
        input `(*, C, H·r, W·r)`, result `(*, C·r², H, W)`.

    Raises:
        ShapeError: height or width cannot be divided by r.
        ValueError: `downscale_factor` is not positive.

    Example:
        >>> pixel_unshuffle(jnp.arange(4.0).reshape(1, 2, 2), 2).shape
        (4, 1, 1)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.pixel_unshuffle.html
    """
    _check_factor(downscale_factor, "downscale_factor")
    r = downscale_factor
    if input.ndim < 3 or input.shape[-2] % r or input.shape[-1] % r:
        raise ShapeError(f"expected input (*, C, H, W) with H and W divisible by {r}, got {describe(input)}")
    *batch, channels, height, width = input.shape
    x = input.reshape(
        math.prod(batch) * channels, height // r, r, width // r, r
    )  # (*, C, H·r, W·r) to (*·C, H, r, W, r)
    return x.transpose(0, 2, 4, 1, 3).reshape(*batch, channels * r * r, height // r, width // r)


def _check_factor(factor: int, name: str) -> None:
    if factor < 1:
        raise ValueError(f"expected {name} of at least 1, got {factor}")


def channel_shuffle(input: jax.Array, groups: int) -> jax.Array:
    """Deals the channels of each group out to all groups: y[j·groups + i] = x[i·(C / groups) + j].

    Args:
        input: images or the like.
        groups: the number of groups.

    Shape:
        input `(N, C, *)` with at least three dimensions, result alike.

    Raises:
        ShapeError: the input has fewer dimensions, or its channels cannot be divided by `groups`.
        ValueError: `groups` is not positive.

    Example:
        >>> channel_shuffle(jnp.arange(4.0).reshape(1, 4, 1), 2).ravel()
        Array([0., 2., 1., 3.], dtype=float32)

    Source: https://arxiv.org/abs/1707.01083
    """
    _check_factor(groups, "groups")
    if input.ndim < 3 or input.shape[1] % groups:
        raise ShapeError(f"expected input (N, C, *) with C divisible by {groups}, got {describe(input)}")
    batch, channels, *spatial = input.shape
    x = input.reshape(batch, groups, channels // groups, *spatial)  # (N, C, *) to (N, groups, C / groups, *)
    return jnp.swapaxes(x, 1, 2).reshape(input.shape)


native_channel_shuffle = channel_shuffle
