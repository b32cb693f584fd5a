"""EfficientNet: one network of inverted residual blocks, made wider and deeper by two factors."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import jax

from flambeau import nn
from flambeau.models._registry import register
from flambeau.models._vision import (
    Norm,
    SequentialEncoder,
    SqueezeExcitation,
    StochasticDepth,
    conv_norm,
    divisible,
    head,
    init_convolutions,
    init_linears,
)
from flambeau.nn import init

__all__ = [
    "EfficientNet",
    "MBConv",
    "efficientnet_b0",
    "efficientnet_b1",
    "efficientnet_b2",
    "efficientnet_b3",
    "efficientnet_b4",
    "efficientnet_b5",
    "efficientnet_b6",
    "efficientnet_b7",
]


class MBConv(nn.Module):
    """A 1x1 convolution to more channels, a depthwise one, squeeze-and-excitation, and a 1x1 one back; with a shortcut.

    Args:
        in_channels: of the input.
        out_channels: of the result.
        expand_ratio: how many times `in_channels` the depthwise convolution has.
        kernel_size: of the depthwise convolution.
        stride: of the same.
        stochastic_depth_prob: the probability that an instance takes the shortcut alone.
        norm: makes a norm layer for a number of channels.

    Shape:
        input `(N, in_channels, H, W)`, result `(N, out_channels, H / stride, W / stride)`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import models
        >>> models.MBConv(8, 16, 6, 3, stride=2)(jnp.zeros((2, 8, 4, 4))).shape
        (2, 16, 2, 2)

    Source: https://arxiv.org/abs/1905.11946
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        expand_ratio: int,
        kernel_size: int,
        stride: int = 1,
        stochastic_depth_prob: float = 0.0,
        norm: Norm = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        expanded = divisible(in_channels * expand_ratio)
        layers: list[nn.Module] = []
        if expanded != in_channels:
            layers.append(conv_norm(in_channels, expanded, 1, norm=norm, activation=nn.SiLU))
        layers += [
            conv_norm(expanded, expanded, kernel_size, stride, expanded, norm=norm, activation=nn.SiLU),
            SqueezeExcitation(expanded, max(1, in_channels // 4), nn.SiLU, nn.Sigmoid),
            conv_norm(expanded, out_channels, 1, norm=norm),
        ]
        self.block = nn.Sequential(*layers)
        self.stochastic_depth = StochasticDepth(stochastic_depth_prob)
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: jax.Array) -> jax.Array:
        return x + self.stochastic_depth(self.block(x)) if self.has_shortcut else self.block(x)


class _Stage(NamedTuple):
    expand_ratio: int
    kernel_size: int
    stride: int
    out_channels: int
    layers: int


_STAGES = [
    _Stage(1, 3, 1, 16, 1),
    _Stage(6, 3, 2, 24, 2),
    _Stage(6, 5, 2, 40, 2),
    _Stage(6, 3, 2, 80, 3),
    _Stage(6, 5, 1, 112, 3),
    _Stage(6, 5, 2, 192, 4),
    _Stage(6, 3, 1, 320, 1),
]
# `features` is the stem, the seven stages and a 1x1 convolution.
_FEATURE_ENDS = {1: 2, 2: 4, 3: 8, 5: 16, 8: 32}


class EfficientNet(SequentialEncoder):
    """A stem, seven stages of inverted residual blocks, a 1x1 convolution, the mean over the image, one linear layer.

    Args:
        width_mult: how many times the channels of B0 there are, in multiples of 8.
        depth_mult: how many times its blocks, rounded up.
        dropout: the probability of the dropout before the last layer.
        stochastic_depth_prob: the probability that a block is left out behind the last one; the first one never is, those
            between more and more.
        num_classes: how many numbers come out; with 0 there is no last layer, and the features come out.
        norm: makes a norm layer for a number of channels.

    Shape:
        input `(N, 3, H, W)`, result `(N, num_classes)`. Features at the strides 2, 4, 8, 16 and 32.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import models
        >>> net = models.EfficientNet(width_mult=0.25, depth_mult=0.3, dropout=0.2, num_classes=10).eval()
        >>> net(jnp.zeros((2, 3, 32, 32))).shape
        (2, 10)
        >>> net.feature_channels
        {2: 8, 4: 8, 8: 16, 16: 32, 32: 320}

    Source: https://arxiv.org/abs/1905.11946; names and shapes of the parameters are those of
    https://docs.pytorch.org/vision/stable/models/efficientnet.html
    """

    def __init__(
        self,
        width_mult: float,
        depth_mult: float,
        dropout: float,
        stochastic_depth_prob: float = 0.2,
        num_classes: int = 1000,
        norm: Norm = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        depths = [math.ceil(stage.layers * depth_mult) for stage in _STAGES]
        channels = divisible(32 * width_mult)
        layers: list[nn.Module] = [conv_norm(3, channels, 3, 2, norm=norm, activation=nn.SiLU)]
        widths, blocks_before = [channels], 0
        for stage, depth in zip(_STAGES, depths, strict=True):
            blocks: list[nn.Module] = []
            for i in range(depth):
                out_channels, stride = divisible(stage.out_channels * width_mult), 1 if i else stage.stride
                left_out = stochastic_depth_prob * (blocks_before + i) / sum(depths)
                blocks.append(
                    MBConv(channels, out_channels, stage.expand_ratio, stage.kernel_size, stride, left_out, norm)
                )
                channels = out_channels
            layers.append(nn.Sequential(*blocks))
            widths.append(channels)
            blocks_before += depth
        layers.append(conv_norm(channels, 4 * channels, 1, norm=norm, activation=nn.SiLU))
        widths.append(4 * channels)

        self.features = nn.Sequential(*layers)
        self.feature_ends = _FEATURE_ENDS
        self.feature_channels = {stride: widths[end] for end, stride in _FEATURE_ENDS.items()}
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(dropout), head(4 * channels, num_classes))
        init_convolutions(self.modules())
        bound = 1 / math.sqrt(num_classes or 1)
        init_linears(self.modules(), lambda linear: init.uniform_(linear.weight, -bound, bound))


# The larger ones were trained with another framework's constants.
_finer_norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.01)


@register
def efficientnet_b0(**sizes: Any) -> EfficientNet:
    """EfficientNet-B0, 5.3 million parameters; takes the sizes of `EfficientNet`."""
    return EfficientNet(**{"width_mult": 1.0, "depth_mult": 1.0, "dropout": 0.2, **sizes})


@register
def efficientnet_b1(**sizes: Any) -> EfficientNet:
    """EfficientNet-B1, 7.8 million parameters; takes the sizes of `EfficientNet`."""
    return EfficientNet(**{"width_mult": 1.0, "depth_mult": 1.1, "dropout": 0.2, **sizes})


@register
def efficientnet_b2(**sizes: Any) -> EfficientNet:
    """EfficientNet-B2, 9.1 million parameters; takes the sizes of `EfficientNet`."""
    return EfficientNet(**{"width_mult": 1.1, "depth_mult": 1.2, "dropout": 0.3, **sizes})


@register
def efficientnet_b3(**sizes: Any) -> EfficientNet:
    """EfficientNet-B3, 12.2 million parameters; takes the sizes of `EfficientNet`."""
    return EfficientNet(**{"width_mult": 1.2, "depth_mult": 1.4, "dropout": 0.3, **sizes})


@register
def efficientnet_b4(**sizes: Any) -> EfficientNet:
    """EfficientNet-B4, 19.3 million parameters; takes the sizes of `EfficientNet`."""
    return EfficientNet(**{"width_mult": 1.4, "depth_mult": 1.8, "dropout": 0.4, **sizes})


@register
def efficientnet_b5(**sizes: Any) -> EfficientNet:
    """EfficientNet-B5, 30.4 million parameters; takes the sizes of `EfficientNet`."""
    return EfficientNet(**{"width_mult": 1.6, "depth_mult": 2.2, "dropout": 0.4, "norm": _finer_norm, **sizes})


@register
def efficientnet_b6(**sizes: Any) -> EfficientNet:
    """EfficientNet-B6, 43.0 million parameters; takes the sizes of `EfficientNet`."""
    return EfficientNet(**{"width_mult": 1.8, "depth_mult": 2.6, "dropout": 0.5, "norm": _finer_norm, **sizes})


@register
def efficientnet_b7(**sizes: Any) -> EfficientNet:
    """EfficientNet-B7, 66.3 million parameters; takes the sizes of `EfficientNet`."""
    return EfficientNet(**{"width_mult": 2.0, "depth_mult": 3.1, "dropout": 0.5, "norm": _finer_norm, **sizes})
