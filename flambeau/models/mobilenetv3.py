"""MobileNetV3: inverted residual blocks with squeeze-and-excitation, made for telephones."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax

from flambeau import nn
from flambeau.models._registry import register
from flambeau.models._vision import (
    SequentialEncoder,
    SqueezeExcitation,
    conv_norm,
    divisible,
    head,
    init_convolutions,
    init_linears,
)
from flambeau.nn import init

__all__ = ["InvertedResidual", "InvertedResidualSizes", "MobileNetV3", "mobilenet_v3_large", "mobilenet_v3_small"]

_norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.01)


class InvertedResidualSizes(NamedTuple):
    """The sizes of one block of MobileNetV3, a row of its table in the paper.

    Attributes:
        kernel_size: of the depthwise convolution.
        expanded: the channels between the two 1x1 convolutions.
        out_channels: of the result.
        squeeze: whether there is squeeze-and-excitation.
        hardswish: whether the activations are Hardswish rather than ReLU.
        stride: of the depthwise convolution.
    """

    kernel_size: int
    expanded: int
    out_channels: int
    squeeze: bool
    hardswish: bool
    stride: int

    def wider(self, factor: float) -> InvertedResidualSizes:
        """With so many times the channels, in multiples of 8."""
        expanded, out_channels = divisible(self.expanded * factor), divisible(self.out_channels * factor)
        return self._replace(expanded=expanded, out_channels=out_channels)


class InvertedResidual(nn.Module):
    """A 1x1 convolution to more channels, a depthwise one, and a 1x1 one back; around them a shortcut where shapes agree.

    Args:
        in_channels: of the input.
        sizes: all others.

    Shape:
        input `(N, in_channels, H, W)`, result `(N, sizes.out_channels, H / sizes.stride, W / sizes.stride)`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import models
        >>> block = models.InvertedResidual(8, models.InvertedResidualSizes(3, 16, 8, True, False, stride=2))
        >>> block(jnp.zeros((2, 8, 4, 4))).shape
        (2, 8, 2, 2)

    Source: https://arxiv.org/abs/1905.02244
    """

    def __init__(self, in_channels: int, sizes: InvertedResidualSizes) -> None:
        super().__init__()
        kernel_size, expanded, out_channels, squeeze, hardswish, stride = sizes
        activation = nn.Hardswish if hardswish else nn.ReLU
        layers: list[nn.Module] = []
        if expanded != in_channels:
            layers.append(conv_norm(in_channels, expanded, 1, norm=_norm, activation=activation))
        layers.append(conv_norm(expanded, expanded, kernel_size, stride, expanded, norm=_norm, activation=activation))
        if squeeze:
            layers.append(SqueezeExcitation(expanded, divisible(expanded // 4), nn.ReLU, nn.Hardsigmoid))
        layers.append(conv_norm(expanded, out_channels, 1, norm=_norm))
        self.block = nn.Sequential(*layers)
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: jax.Array) -> jax.Array:
        return x + self.block(x) if self.has_shortcut else self.block(x)


class MobileNetV3(SequentialEncoder):
    """A stem, inverted residual blocks, a 1x1 convolution, the mean over the image, two linear layers.

    Args:
        blocks: the sizes of each block.
        last_channel: the size between the linear layers.
        num_classes: how many numbers come out; with 0 there is no last layer.
        dropout: the probability of the dropout between the linear layers.
        width_mult: how many times the channels of `blocks` and of the layers around them the network has.

    Shape:
        input `(N, 3, H, W)`, result `(N, num_classes)`. Features at the strides 2, 4, 8, 16 and 32.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import models
        >>> net = models.MobileNetV3([models.InvertedResidualSizes(3, 16, 16, True, False, 2)], 32, num_classes=10)
        >>> net.eval()(jnp.zeros((2, 3, 16, 16))).shape
        (2, 10)
        >>> net.feature_channels
        {2: 16, 4: 96}

    Source: https://arxiv.org/abs/1905.02244; names and shapes of the parameters are those of
    https://docs.pytorch.org/vision/stable/models/mobilenetv3.html
    """

    def __init__(
        self,
        blocks: Sequence[InvertedResidualSizes],
        last_channel: int,
        num_classes: int = 1000,
        dropout: float = 0.2,
        width_mult: float = 1.0,
    ) -> None:
        super().__init__()
        channels, stride = divisible(16 * width_mult), 2
        self.feature_ends, self.feature_channels = {}, {}
        layers: list[nn.Module] = [conv_norm(3, channels, 3, 2, norm=_norm, activation=nn.Hardswish)]
        for sizes in (block.wider(width_mult) for block in blocks):
            if sizes.stride > 1:
                self._features_behind(layers, stride, channels)
                stride *= sizes.stride
            layers.append(InvertedResidual(channels, sizes))
            channels = sizes.out_channels
        layers.append(conv_norm(channels, 6 * channels, 1, norm=_norm, activation=nn.Hardswish))
        self._features_behind(layers, stride, 6 * channels)

        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        hidden = divisible(last_channel * width_mult)
        self.classifier = nn.Sequential(
            nn.Linear(6 * channels, hidden), nn.Hardswish(), nn.Dropout(dropout), head(hidden, num_classes)
        )
        init_convolutions(self.modules())
        init_linears(self.modules(), lambda linear: init.normal_(linear.weight, 0, 0.01))

    def _features_behind(self, layers: Sequence[nn.Module], stride: int, channels: int) -> None:
        self.feature_ends[len(layers) - 1] = stride
        self.feature_channels[stride] = channels


_LARGE = [
    InvertedResidualSizes(3, 16, 16, False, False, 1),
    InvertedResidualSizes(3, 64, 24, False, False, 2),
    InvertedResidualSizes(3, 72, 24, False, False, 1),
    InvertedResidualSizes(5, 72, 40, True, False, 2),
    InvertedResidualSizes(5, 120, 40, True, False, 1),
    InvertedResidualSizes(5, 120, 40, True, False, 1),
    InvertedResidualSizes(3, 240, 80, False, True, 2),
    InvertedResidualSizes(3, 200, 80, False, True, 1),
    InvertedResidualSizes(3, 184, 80, False, True, 1),
    InvertedResidualSizes(3, 184, 80, False, True, 1),
    InvertedResidualSizes(3, 480, 112, True, True, 1),
    InvertedResidualSizes(3, 672, 112, True, True, 1),
    InvertedResidualSizes(5, 672, 160, True, True, 2),
    InvertedResidualSizes(5, 960, 160, True, True, 1),
    InvertedResidualSizes(5, 960, 160, True, True, 1),
]
_SMALL = [
    InvertedResidualSizes(3, 16, 16, True, False, 2),
    InvertedResidualSizes(3, 72, 24, False, False, 2),
    InvertedResidualSizes(3, 88, 24, False, False, 1),
    InvertedResidualSizes(5, 96, 40, True, True, 2),
    InvertedResidualSizes(5, 240, 40, True, True, 1),
    InvertedResidualSizes(5, 240, 40, True, True, 1),
    InvertedResidualSizes(5, 120, 48, True, True, 1),
    InvertedResidualSizes(5, 144, 48, True, True, 1),
    InvertedResidualSizes(5, 288, 96, True, True, 2),
    InvertedResidualSizes(5, 576, 96, True, True, 1),
    InvertedResidualSizes(5, 576, 96, True, True, 1),
]


@register
def mobilenet_v3_large(**sizes: Any) -> MobileNetV3:
    """MobileNetV3-Large, 5.5 million parameters; takes the sizes of `MobileNetV3`."""
    return MobileNetV3(_LARGE, 1280, **sizes)


@register
def mobilenet_v3_small(**sizes: Any) -> MobileNetV3:
    """MobileNetV3-Small, 2.5 million parameters; takes the sizes of `MobileNetV3`."""
    return MobileNetV3(_SMALL, 1024, **sizes)
