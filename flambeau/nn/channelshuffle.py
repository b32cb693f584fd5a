"""Moves of channels between groups as a layer."""

from __future__ import annotations

import jax

from flambeau.core.module import Module
from flambeau.nn import functional as F

__all__ = ["ChannelShuffle"]


class ChannelShuffle(Module):
    """Deals the channels of each group out to all groups.

    Args:
        groups: the number of groups.

    Shape:
        input `(N, C, *)` with at least three dimensions, result alike.

    Raises:
        ShapeError: the input has fewer dimensions, or its channels cannot be divided by `groups`.
        ValueError: `groups` is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.ChannelShuffle(2)(jnp.arange(4.0).reshape(1, 4, 1)).ravel()
        Array([0., 2., 1., 3.], dtype=float32)

    Source: https://arxiv.org/abs/1707.01083
    """

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, input: jax.Array) -> jax.Array:
        return F.channel_shuffle(input, self.groups)

    def extra_repr(self) -> str:
        return f"groups={self.groups}"
