"""Moves between channels and space as layers."""

from __future__ import annotations

import jax

from flambeau.core.module import Module
from flambeau.nn import functional as F

__all__ = ["PixelShuffle", "PixelUnshuffle"]


class PixelShuffle(Module):
    """Makes images r times as large, of r² channels each.

    Args:
        upscale_factor: r.

    Shape:
        input `(*, C·r², H, W)`, result `(*, C, H·r, W·r)`.

    Raises:
        ShapeError: the channels cannot be divided by r².
        ValueError: `upscale_factor` is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.PixelShuffle(3)(jnp.ones((1, 9, 4, 4))).shape
        (1, 1, 12, 12)

    Source: https://arxiv.org/abs/1609.05158
    """

    def __init__(self, upscale_factor: int) -> None:
        super().__init__()
        self.upscale_factor = upscale_factor

    def forward(self, input: jax.Array) -> jax.Array:
        return F.pixel_shuffle(input, self.upscale_factor)

    def extra_repr(self) -> str:
        return f"upscale_factor={self.upscale_factor}"


class PixelUnshuffle(Module):
    """Makes images smaller by r and keeps all in r² times as many channels: the reverse of `PixelShuffle`.

    Args:
        downscale_factor: r.

    Shape:
        input `(*, C, H·r, W·r)`, result `(*, C·r², H, W)`.

    Raises:
        ShapeError: height or width cannot be divided by r.
        ValueError: `downscale_factor` is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.PixelUnshuffle(3)(jnp.ones((1, 1, 12, 12))).shape
        (1, 9, 4, 4)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.PixelUnshuffle.html
    """

    def __init__(self, downscale_factor: int) -> None:
        super().__init__()
        self.downscale_factor = downscale_factor

    def forward(self, input: jax.Array) -> jax.Array:
        return F.pixel_unshuffle(input, self.downscale_factor)

    def extra_repr(self) -> str:
        return f"downscale_factor={self.downscale_factor}"
