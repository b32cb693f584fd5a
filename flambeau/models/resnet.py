"""Residual networks: ResNet, ResNeXt and Wide ResNet."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, ClassVar

import jax

from flambeau import nn
from flambeau.models._registry import register
from flambeau.models._vision import Encoder, conv_norm, head, init_convolutions, set_zero

__all__ = [
    "BasicBlock",
    "Bottleneck",
    "ResNet",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut around them: relu(x + f(x)).

    Args:
        in_channels: of the input.
        channels: of both convolutions, and of the result.
        stride: of the first one.
        groups: 1; only a `Bottleneck` has more.
        width_per_group: 64, likewise.
        dilation: 1, likewise.

    Shape:
        input `(N, in_channels, H, W)`, result `(N, channels, H / stride, W / stride)`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import models
        >>> models.BasicBlock(8, 16, stride=2)(jnp.zeros((1, 8, 4, 4))).shape
        (1, 16, 2, 2)

    Source: https://arxiv.org/abs/1512.03385
    """

    expansion: ClassVar[int] = 1

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        groups: int = 1,
        width_per_group: int = 64,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        if (groups, width_per_group, dilation) != (1, 64, 1):
            raise ValueError("groups, width_per_group and dilation are for networks of Bottleneck blocks")
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = shortcut(in_channels, channels, stride)

    def forward(self, x: jax.Array) -> jax.Array:
        residual = self.relu(self.bn1(self.conv1(x)))
        residual = self.bn2(self.conv2(residual))
        return self.relu(residual + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """A 3x3 convolution between two 1x1 ones, and a shortcut around them: relu(x + f(x)).

    Args:
        in_channels: of the input.
        channels: a fourth of those of the result.
        stride: of the 3x3 convolution.
        groups: how many groups the 3x3 convolution has; more than one makes it that of ResNeXt.
        width_per_group: channels of each group, for `channels=64`.
        dilation: of the 3x3 convolution.

    Shape:
        input `(N, in_channels, H, W)`, result `(N, 4 * channels, H / stride, W / stride)`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import models
        >>> models.Bottleneck(8, 16, stride=2)(jnp.zeros((1, 8, 4, 4))).shape
        (1, 64, 2, 2)

    Source: https://arxiv.org/abs/1512.03385, https://arxiv.org/abs/1611.05431; the stride is where torchvision has it
    """

    expansion: ClassVar[int] = 4

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        groups: int = 1,
        width_per_group: int = 64,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        width = int(channels * (width_per_group / 64)) * groups
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, dilation, dilation, groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * channels)
        self.relu = nn.ReLU()
        self.downsample = shortcut(in_channels, 4 * channels, stride)

    def forward(self, x: jax.Array) -> jax.Array:
        residual = self.relu(self.bn1(self.conv1(x)))
        residual = self.relu(self.bn2(self.conv2(residual)))
        residual = self.bn3(self.conv3(residual))
        return self.relu(residual + (x if self.downsample is None else self.downsample(x)))


def shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    """What makes the input of a block fit to be added to its output, where it does not fit as it is."""
    return conv_norm(in_channels, out_channels, 1, stride) if stride != 1 or in_channels != out_channels else None


class ResNet(Encoder):
    """A residual network: a stem, four stages of residual blocks, the mean over the image, one linear layer.

    Args:
        block: `BasicBlock` or `Bottleneck`.
        layers: how many blocks each of the four stages has.
        num_classes: how many numbers come out; with 0 there is no last layer, and the features come out.
        zero_init_residual: whether each block begins as the identity.
        groups: of the 3x3 convolutions of a `Bottleneck`.
        width_per_group: of the same.
        replace_stride_with_dilation: for each of the last three stages whether it dilates rather than halving the size.
        width: channels of the stem; each stage has twice the channels of the one before it.

    Shape:
        input `(N, 3, H, W)`, result `(N, num_classes)`. Features at the strides 2, 4, 8, 16 and 32; at fewer with dilation.

    Raises:
        ValueError: `BasicBlock` with groups or dilation, or another number of stages than four.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import models
        >>> net = models.ResNet(models.BasicBlock, [1, 1, 1, 1], num_classes=10, width=8)
        >>> net(jnp.zeros((2, 3, 32, 32))).shape
        (2, 10)
        >>> net.feature_channels
        {2: 8, 4: 8, 8: 16, 16: 32, 32: 64}

    Source: https://arxiv.org/abs/1512.03385; names and shapes of the parameters are those of
    https://docs.pytorch.org/vision/stable/models/resnet.html
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        layers: Sequence[int],
        num_classes: int = 1000,
        zero_init_residual: bool = False,
        groups: int = 1,
        width_per_group: int = 64,
        replace_stride_with_dilation: Sequence[bool] = (False, False, False),
        width: int = 64,
    ) -> None:
        super().__init__()
        if len(layers) != 4 or len(replace_stride_with_dilation) != 3:
            raise ValueError(
                f"expected 4 layers and 3 of replace_stride_with_dilation, got {list(layers)} and "
                f"{list(replace_stride_with_dilation)}"
            )
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)

        channels = [width, *(width * 2**i * block.expansion for i in range(4))]
        strides, dilations = [1], [1]
        for dilate in replace_stride_with_dilation:
            strides.append(1 if dilate else 2)
            dilations.append(dilations[-1] * 2 if dilate else dilations[-1])
        # The first block of a dilated stage still has the dilation of the stage before it.
        firsts = [1, *dilations]
        for i, (in_channels, out_channels) in enumerate(pairwise(channels)):
            inner = out_channels // block.expansion
            settings = {"groups": groups, "width_per_group": width_per_group}
            first = block(in_channels, inner, strides[i], dilation=firsts[i], **settings)
            others = [block(out_channels, inner, dilation=dilations[i], **settings) for _ in range(1, layers[i])]
            self.add_module(f"layer{i + 1}", nn.Sequential(first, *others))

        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = head(channels[-1], num_classes)
        self.stage_strides = tuple(4 * stride for stride in accumulate(strides, operator.mul))
        self.feature_channels = {2: width, **dict(zip(self.stage_strides, channels[1:], strict=True))}

        init_convolutions(self.modules())
        if zero_init_residual:
            for module in self.modules():
                if isinstance(module, (BasicBlock, Bottleneck)):
                    set_zero((module.bn3 if isinstance(module, Bottleneck) else module.bn2).weight)

    def feature_maps(self, x: jax.Array) -> dict[int, jax.Array]:
        x = self.relu(self.bn1(self.conv1(x)))
        maps, x = {2: x}, self.maxpool(x)
        for stride, stage in zip(self.stage_strides, [self.layer1, self.layer2, self.layer3, self.layer4], strict=True):
            maps[stride] = x = stage(x)
        return maps

    def forward(self, x: jax.Array) -> jax.Array:
        x = self.avgpool(self.feature_maps(x)[self.stage_strides[-1]])
        return self.fc(x.reshape(x.shape[0], -1))  # (N, C, 1, 1) -> (N, C)


@register
def resnet18(**sizes: Any) -> ResNet:
    """ResNet-18, 11.7 million parameters; takes the sizes of `ResNet`."""
    return ResNet(BasicBlock, [2, 2, 2, 2], **sizes)


@register
def resnet34(**sizes: Any) -> ResNet:
    """ResNet-34, 21.8 million parameters; takes the sizes of `ResNet`."""
    return ResNet(BasicBlock, [3, 4, 6, 3], **sizes)


@register
def resnet50(**sizes: Any) -> ResNet:
    """ResNet-50, 25.6 million parameters; takes the sizes of `ResNet`."""
    return ResNet(Bottleneck, [3, 4, 6, 3], **sizes)


@register
def resnet101(**sizes: Any) -> ResNet:
    """ResNet-101, 44.5 million parameters; takes the sizes of `ResNet`."""
    return ResNet(Bottleneck, [3, 4, 23, 3], **sizes)


@register
def resnet152(**sizes: Any) -> ResNet:
    """ResNet-152, 60.2 million parameters; takes the sizes of `ResNet`."""
    return ResNet(Bottleneck, [3, 8, 36, 3], **sizes)


@register
def resnext50_32x4d(**sizes: Any) -> ResNet:
    """ResNeXt-50 with 32 groups of 4 channels, 25.0 million parameters; takes the sizes of `ResNet`."""
    return ResNet(Bottleneck, [3, 4, 6, 3], **{"groups": 32, "width_per_group": 4, **sizes})


@register
def resnext101_32x8d(**sizes: Any) -> ResNet:
    """ResNeXt-101 with 32 groups of 8 channels, 88.8 million parameters; takes the sizes of `ResNet`."""
    return ResNet(Bottleneck, [3, 4, 23, 3], **{"groups": 32, "width_per_group": 8, **sizes})


@register
def resnext101_64x4d(**sizes: Any) -> ResNet:
    """ResNeXt-101 with 64 groups of 4 channels, 83.5 million parameters; takes the sizes of `ResNet`."""
    return ResNet(Bottleneck, [3, 4, 23, 3], **{"groups": 64, "width_per_group": 4, **sizes})


@register
def wide_resnet50_2(**sizes: Any) -> ResNet:
    """Wide ResNet-50, whose bottlenecks are twice as wide, 68.9 million parameters; takes the sizes of `ResNet`."""
    return ResNet(Bottleneck, [3, 4, 6, 3], **{"width_per_group": 128, **sizes})


@register
def wide_resnet101_2(**sizes: Any) -> ResNet:
    """Wide ResNet-101, whose bottlenecks are twice as wide, 126.9 million parameters; takes the sizes of `ResNet`."""
    return ResNet(Bottleneck, [3, 4, 23, 3], **{"width_per_group": 128, **sizes})
