"""Resizing as layers."""

from __future__ import annotations

from typing import Any

import jax

from flambeau.core.module import Module
from flambeau.nn import functional as F
from flambeau.nn.functional.interpolation import Factor, Size

__all__ = ["Upsample", "UpsamplingBilinear2d", "UpsamplingNearest2d"]


class Upsample(Module):
    """Resizes the spatial dimensions: each new entry is a weighted sum of old ones near its place.

    Args:
        size: the new sizes, or one for all.
        scale_factor: instead of `size`, by how much each dimension grows, or one factor for all.
        mode: `"nearest"`, `"nearest-exact"`, `"linear"`, `"bilinear"`, `"bicubic"`, `"trilinear"` or `"area"`.
        align_corners: whether the centers of the first and the last entry stay where they are, not their outer edges.
        recompute_scale_factor: whether to step by the ratio of the sizes, not by the factor that was given.

    Shape:
        input `(N, C, L)`, `(N, C, H, W)` or `(N, C, D, H, W)`, result alike with the new sizes.

    Raises:
        ShapeError: the mode does not take so many dimensions, or the sizes do not fit the input.
        ValueError: not one of size and factor is given, or options do not go together.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.Upsample(scale_factor=2)(jnp.array([[[0.0, 4.0]]]))
        Array([[[0., 0., 4., 4.]]], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.Upsample.html
    """

    def __init__(
        self,
        size: Size = None,
        scale_factor: Factor = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
        recompute_scale_factor: bool | None = None,
    ) -> None:
        super().__init__()
        self.name = type(self).__name__
        self.size = size
        self.scale_factor = _floats(scale_factor)
        self.mode = mode
        self.align_corners = align_corners
        self.recompute_scale_factor = recompute_scale_factor

    def forward(self, input: jax.Array) -> jax.Array:
        return F.interpolate(
            input, self.size, self.scale_factor, self.mode, self.align_corners, self.recompute_scale_factor
        )

    def extra_repr(self) -> str:
        given = f"size={self.size!r}" if self.scale_factor is None else f"scale_factor={self.scale_factor!r}"
        return f"{given}, mode={self.mode!r}"


def _floats(factor: Any) -> Any:
    """The factor, or a tuple of them, as floating numbers; None for 0, too."""
    if isinstance(factor, (tuple, list)):
        return tuple(float(each) for each in factor)
    return float(factor) if factor else None


class UpsamplingNearest2d(Upsample):
    """Resizes images by repeating entries.

    Args:
        size: the new size, or one for both dimensions.
        scale_factor: instead of `size`, by how much each dimension grows, or one factor for both.

    Shape:
        input `(N, C, H, W)`, result `(N, C, H', W')`.

    Raises:
        ShapeError: the sizes do not fit the input.
        ValueError: not one of size and factor is given.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.UpsamplingNearest2d(scale_factor=2)(jnp.array([[[[0.0, 4.0]]]]))
        Array([[[[0., 0., 4., 4.],
                 [0., 0., 4., 4.]]]], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.UpsamplingNearest2d.html
    """

    def __init__(self, size: Size = None, scale_factor: Factor = None) -> None:
        super().__init__(size, scale_factor, mode="nearest")


class UpsamplingBilinear2d(Upsample):
    """Resizes images linearly in both dimensions; the centers of the corners stay where they are.

    Args:
        size: the new size, or one for both dimensions.
        scale_factor: instead of `size`, by how much each dimension grows, or one factor for both.

    Shape:
        input `(N, C, H, W)`, result `(N, C, H', W')`.

    Raises:
        ShapeError: the sizes do not fit the input.
        ValueError: not one of size and factor is given.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.UpsamplingBilinear2d((1, 5))(jnp.array([[[[0.0, 4.0]]]]))
        Array([[[[0., 1., 2., 3., 4.]]]], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.UpsamplingBilinear2d.html
    """

    def __init__(self, size: Size = None, scale_factor: Factor = None) -> None:
        super().__init__(size, scale_factor, mode="bilinear", align_corners=True)
