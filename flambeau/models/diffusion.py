"""A small U-Net that tells the noise in an image, as diffusion models need it."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import jax
import jax.numpy as jnp

from flambeau import nn
from flambeau._errors import ShapeError
from flambeau.models._registry import register
from flambeau.models._vision import set_zero
from flambeau.nn import functional as F

__all__ = ["DiffusionUNet", "diffusion_unet", "time_embedding"]


def time_embedding(time: jax.Array, dim: int) -> jax.Array:
    """Waves of many lengths that tell one step from another: [cos(t · ω), sin(t · ω)] with ωᵢ = 10000^(-2i / dim).

    Args:
        time: the steps t, integers or not.
        dim: how many numbers each becomes; even.

    Shape:
        time `(N,)`, result `(N, dim)`.

    Raises:
        ValueError: `dim` is odd.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import models
        >>> print(models.time_embedding(jnp.zeros(1), 4))
        [[1. 1. 0. 0.]]

    Source: https://arxiv.org/abs/1706.03762
    """
    if dim % 2:
        raise ValueError(f"expected an even dim, got {dim}")
    frequencies = jnp.exp(-math.log(10000) / (dim // 2) * jnp.arange(dim // 2))
    angles = time[:, None] * frequencies  # (N, dim / 2)
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=1)


class ResidualBlock(nn.Module):
    """Two convolutions around a shortcut; in between, the time is added to each channel."""

    def __init__(self, in_channels: int, out_channels: int, time_dim: int, groups: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time = nn.Linear(time_dim, out_channels)
        self.norm2 = nn.GroupNorm(groups, out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)
        # Every block begins as its shortcut.
        set_zero(self.conv2.weight, self.conv2.bias)

    def forward(self, x: jax.Array, time: jax.Array) -> jax.Array:
        y = self.conv1(F.silu(self.norm1(x)))
        y = y + self.time(F.silu(time))[:, :, None, None]  # (N, C) -> (N, C, 1, 1)
        return self.shortcut(x) + self.conv2(self.dropout(F.silu(self.norm2(y))))


class PixelAttention(nn.Module):
    """Attention between all pixels, around a shortcut."""

    def __init__(self, channels: int, groups: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels)
        self.attention = nn.MultiheadAttention(channels, heads, batch_first=True)

    def forward(self, x: jax.Array) -> jax.Array:
        pixels = self.norm(x).reshape(*x.shape[:2], -1).swapaxes(1, 2)  # (N, C, H, W) -> (N, H·W, C)
        found, _ = self.attention(pixels, pixels, pixels, need_weights=False)
        return x + found.swapaxes(1, 2).reshape(x.shape)  # (N, H·W, C) -> (N, C, H, W)


class Step(nn.Module):
    """A change of the size, what the way down found at that size, a residual block and attention; not each has all."""

    def __init__(self, resize: nn.Module, block: ResidualBlock, attention: nn.Module) -> None:
        super().__init__()
        self.resize = resize
        self.block = block
        self.attention = attention

    def forward(self, x: jax.Array, time: jax.Array, skip: jax.Array | None = None) -> jax.Array:
        x = self.resize(x)
        if skip is not None:
            x = jnp.concatenate([x, skip], axis=1)
        return self.attention(self.block(x, time))


def doubling(channels: int) -> nn.Sequential:
    """Repeats each pixel and convolves."""
    return nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(channels, channels, 3, padding=1))


class DiffusionUNet(nn.Module):
    """Tells, of a noisy image and of how many steps of noise it went through, what in it is noise.

    The names are this package's own: `time.0.` and `time.2.` are the linear layers of the time; `start.` the first
    convolution; `down.0.`, `down.1.`, ..., `middle.0.`, `middle.1.` and `up.0.`, ... the steps, each with `block.norm1`,
    `block.conv1`, `block.time`, `block.norm2`, `block.conv2` and `block.shortcut`, `attention.norm` and
    `attention.attention` at the levels that have attention, and `resize` at the first step of a level; `norm.` and `end.`
    the last convolution.

    Args:
        in_channels: C, of the images.
        width: the channels of the first level; a multiple of `groups` and of `heads`, and even.
        multipliers: how many times `width` each level has. Each but the first has half the size of the one before it.
        blocks: how many residual blocks each level has on the way down; it has as many on the way up.
        attention: the levels that have attention, counted from 0. The middle always has.
        groups: of the group norms.
        heads: of the attention.
        dropout: the probability of the dropout in each block.
        out_channels: of the result; as the images if None.

    Shape:
        input `(N, C, H, W)` and time `(N,)`, result `(N, out_channels, H, W)`; H and W can be halved once less than there
        are levels.

    Raises:
        ShapeError: the images cannot be halved so often, or there are not as many times as images.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import models
        >>> net = models.DiffusionUNet(1, width=8, multipliers=[1, 2], blocks=1, attention=[1], groups=4, heads=2)
        >>> net(jnp.zeros((2, 1, 8, 8)), jnp.array([0, 999])).shape
        (2, 1, 8, 8)

    Source: https://arxiv.org/abs/2006.11239, https://arxiv.org/abs/2102.09672
    """

    def __init__(
        self,
        in_channels: int = 3,
        width: int = 64,
        multipliers: Sequence[int] = (1, 2, 4),
        blocks: int = 2,
        attention: Collection[int] = (2,),
        groups: int = 8,
        heads: int = 4,
        dropout: float = 0.0,
        out_channels: int | None = None,
    ) -> None:
        super().__init__()
        self.width = width
        self.multiple = 2 ** (len(multipliers) - 1)
        time_dim = 4 * width
        self.time = nn.Sequential(nn.Linear(width, time_dim), nn.SiLU(), nn.Linear(time_dim, time_dim))
        self.start = nn.Conv2d(in_channels, width, 3, padding=1)

        def step(before: int, after: int, attends: bool, resize: nn.Module | None = None) -> Step:
            block = ResidualBlock(before, after, time_dim, groups, dropout)
            return Step(
                resize or nn.Identity(), block, PixelAttention(after, groups, heads) if attends else nn.Identity()
            )

        channels = width
        levels = [(level, width * multiplier) for level, multiplier in enumerate(multipliers)]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, after in levels:
            for i in range(blocks):
                halve = nn.Conv2d(channels, channels, 3, stride=2, padding=1) if level and i == 0 else None
                self.down.append(step(channels, after, level in attention, halve))
                channels = after
        self.middle = nn.ModuleList([step(channels, channels, True), step(channels, channels, False)])
        for level, after in reversed(levels):
            for i in range(blocks):
                double = doubling(channels) if level < len(levels) - 1 and i == 0 else None
                # What the way down found at this level has as many channels as the result.
                self.up.append(step(channels + after, after, level in attention, double))
                channels = after
        self.norm = nn.GroupNorm(groups, channels)
        self.end = nn.Conv2d(channels, out_channels or in_channels, 3, padding=1)
        set_zero(self.end.weight, self.end.bias)

    def forward(self, x: jax.Array, time: jax.Array) -> jax.Array:
        if x.shape[-2] % self.multiple or x.shape[-1] % self.multiple or time.shape != x.shape[:1]:
            sizes = f"(N, C, H, W) with H and W multiples of {self.multiple} and time (N,)"
            raise ShapeError(f"expected input {sizes}, got {x.dtype}{list(x.shape)} and {time.dtype}{list(time.shape)}")
        embedded = self.time(time_embedding(time, self.width).astype(x.dtype))
        x = self.start(x)
        skips = []
        for step in self.down:
            x = step(x, embedded)
            skips.append(x)
        for step in self.middle:
            x = step(x, embedded)
        for step in self.up:
            x = step(x, embedded, skips.pop())
        return self.end(F.silu(self.norm(x)))


@register
def diffusion_unet(
    in_channels: int = 3,
    width: int = 64,
    multipliers: Sequence[int] = (1, 2, 4),
    blocks: int = 2,
    attention: Collection[int] = (2,),
    groups: int = 8,
    heads: int = 4,
    dropout: float = 0.0,
    out_channels: int | None = None,
) -> DiffusionUNet:
    """A U-Net that tells the noise in images of about 32x32; takes the sizes of `DiffusionUNet`."""
    return DiffusionUNet(in_channels, width, multipliers, blocks, attention, groups, heads, dropout, out_channels)
