"""ConvNeXt: a convolutional network with the sizes and layers of a transformer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from flambeau import nn
from flambeau.models._registry import register
from flambeau.models._vision import SequentialEncoder, StochasticDepth, head, set_zero
from flambeau.nn import functional as F
from flambeau.nn import init

__all__ = ["CNBlock", "ConvNeXt", "convnext_base", "convnext_large", "convnext_small", "convnext_tiny"]


class LayerNorm2d(nn.LayerNorm):
    """Normalizes the channels of each pixel."""

    def forward(self, input: jax.Array) -> jax.Array:
        x = F.layer_norm(input.transpose(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.transpose(0, 3, 1, 2)


class Permute(nn.Module):
    """Puts the dimensions in another order."""

    def __init__(self, *dims: int) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: jax.Array) -> jax.Array:
        return x.transpose(self.dims)


class CNBlock(nn.Module):
    """A depthwise 7x7 convolution, a norm and two linear layers over the channels, scaled, around a shortcut.

    Args:
        channels: of the input and of the result.
        layer_scale: what the parameter that scales each channel begins with.
        stochastic_depth_prob: the probability that an instance takes the shortcut alone.

    Shape:
        input and result `(N, channels, H, W)`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import models
        >>> models.CNBlock(8)(jnp.zeros((2, 8, 4, 4))).shape
        (2, 8, 4, 4)

    Source: https://arxiv.org/abs/2201.03545
    """

    def __init__(self, channels: int, layer_scale: float = 1e-6, stochastic_depth_prob: float = 0.0) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(channels, channels, 7, padding=3, groups=channels),
            Permute(0, 2, 3, 1),
            nn.LayerNorm(channels, eps=1e-6),
            nn.Linear(channels, 4 * channels),
            nn.GELU(),
            nn.Linear(4 * channels, channels),
            Permute(0, 3, 1, 2),
        )
        self.layer_scale = nn.Parameter(jnp.full((channels, 1, 1), layer_scale, self.block[0].weight.dtype))
        self.stochastic_depth = StochasticDepth(stochastic_depth_prob)

    def forward(self, x: jax.Array) -> jax.Array:
        return x + self.stochastic_depth(self.layer_scale * self.block(x))


class ConvNeXt(SequentialEncoder):
    """A stem of 4x4 patches, four stages of blocks with a halving of the size between them, and one linear layer.

    Args:
        layers: how many blocks each stage has.
        channels: of each stage.
        stochastic_depth_prob: the probability that the last block is left out; the first one never is, those between more
            and more.
        layer_scale: what the parameters that scale the blocks begin with.
        num_classes: how many numbers come out; with 0 there is no last layer, and the normalized features come out.

    Shape:
        input `(N, 3, H, W)`, result `(N, num_classes)`. Features at the strides 4, 8, 16 and 32.

    Raises:
        ValueError: there are not as many `channels` as `layers`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import models
        >>> net = models.ConvNeXt([1, 1, 1, 1], [4, 8, 8, 16], num_classes=10)
        >>> net(jnp.zeros((2, 3, 32, 32))).shape
        (2, 10)
        >>> net.feature_channels
        {4: 4, 8: 8, 16: 8, 32: 16}

    Source: https://arxiv.org/abs/2201.03545; names and shapes of the parameters are those of
    https://docs.pytorch.org/vision/stable/models/convnext.html
    """

    def __init__(
        self,
        layers: Sequence[int],
        channels: Sequence[int],
        stochastic_depth_prob: float = 0.0,
        layer_scale: float = 1e-6,
        num_classes: int = 1000,
    ) -> None:
        super().__init__()
        if len(layers) != len(channels):
            raise ValueError(f"expected as many channels as layers, got {list(channels)} and {list(layers)}")
        links: list[nn.Module] = [nn.Sequential(nn.Conv2d(3, channels[0], 4, stride=4), LayerNorm2d(channels[0], 1e-6))]
        self.feature_ends, self.feature_channels = {}, {}
        for stage, (depth, width) in enumerate(zip(layers, channels, strict=True)):
            if stage:
                before = channels[stage - 1]
                links.append(nn.Sequential(LayerNorm2d(before, 1e-6), nn.Conv2d(before, width, 2, stride=2)))
            positions = range(sum(layers[:stage]), sum(layers[:stage]) + depth)
            left_out = [stochastic_depth_prob * i / max(1, sum(layers) - 1) for i in positions]
            links.append(nn.Sequential(*(CNBlock(width, layer_scale, p) for p in left_out)))
            self.feature_ends[len(links) - 1] = 4 * 2**stage
            self.feature_channels[4 * 2**stage] = width

        self.features = nn.Sequential(*links)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(LayerNorm2d(channels[-1], 1e-6), nn.Flatten(1), head(channels[-1], num_classes))
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                init.trunc_normal_(module.weight, std=0.02)
                set_zero(module.bias)

    def forward(self, x: jax.Array) -> jax.Array:
        return self.classifier(self.avgpool(self.features(x)))


@register
def convnext_tiny(**sizes: Any) -> ConvNeXt:
    """ConvNeXt-Tiny, 28.6 million parameters; takes the sizes of `ConvNeXt`."""
    return ConvNeXt([3, 3, 9, 3], [96, 192, 384, 768], **{"stochastic_depth_prob": 0.1, **sizes})


@register
def convnext_small(**sizes: Any) -> ConvNeXt:
    """ConvNeXt-Small, 50.2 million parameters; takes the sizes of `ConvNeXt`."""
    return ConvNeXt([3, 3, 27, 3], [96, 192, 384, 768], **{"stochastic_depth_prob": 0.4, **sizes})


@register
def convnext_base(**sizes: Any) -> ConvNeXt:
    """ConvNeXt-Base, 88.6 million parameters; takes the sizes of `ConvNeXt`."""
    return ConvNeXt([3, 3, 27, 3], [128, 256, 512, 1024], **{"stochastic_depth_prob": 0.5, **sizes})


@register
def convnext_large(**sizes: Any) -> ConvNeXt:
    """ConvNeXt-Large, 197.8 million parameters; takes the sizes of `ConvNeXt`."""
    return ConvNeXt([3, 3, 27, 3], [192, 384, 768, 1536], **{"stochastic_depth_prob": 0.5, **sizes})
