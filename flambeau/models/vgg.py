"""VGG: stages of 3x3 convolutions, and three large linear layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flambeau import nn
from flambeau.models._registry import register
from flambeau.models._vision import SequentialEncoder, init_convolutions, init_linears
from flambeau.nn import init

__all__ = ["VGG", "vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn"]


class VGG(SequentialEncoder):
    """Stages of 3x3 convolutions, each of which ends in a pooling that halves the size, and three linear layers.

    Args:
        stages: the channels of the convolutions of each stage.
        batch_norm: whether a batch norm follows each convolution.
        num_classes: how many numbers come out; with 0 there are no linear layers, and the 7x7 features come out in a row.
        dropout: the probability of both dropouts between the linear layers.
        hidden: the size of the linear layers.

    Shape:
        input `(N, 3, H, W)`, result `(N, num_classes)`. Features at the strides 1, 2, 4, ...

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import models
        >>> net = models.VGG([[4], [8, 8]], num_classes=10, hidden=16).eval()
        >>> net(jnp.zeros((2, 3, 16, 16))).shape
        (2, 10)
        >>> {stride: features.shape for stride, features in net.feature_maps(jnp.zeros((1, 3, 16, 16))).items()}
        {1: (1, 4, 16, 16), 2: (1, 8, 8, 8), 4: (1, 8, 4, 4)}

    Source: https://arxiv.org/abs/1409.1556; names and shapes of the parameters are those of
    https://docs.pytorch.org/vision/stable/models/vgg.html
    """

    def __init__(
        self,
        stages: Sequence[Sequence[int]],
        batch_norm: bool = False,
        num_classes: int = 1000,
        dropout: float = 0.5,
        hidden: int = 4096,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels, self.feature_ends, self.feature_channels = 3, {}, {}
        for i, stage in enumerate(stages):
            for out_channels in stage:
                norms = [nn.BatchNorm2d(out_channels)] if batch_norm else []
                layers += [nn.Conv2d(channels, out_channels, 3, padding=1), *norms, nn.ReLU()]
                channels = out_channels
            self.feature_ends[len(layers) - 1] = 2**i
            self.feature_channels[2**i] = channels
            layers.append(nn.MaxPool2d(2, stride=2))
        self.feature_ends[len(layers) - 1] = 2 ** len(stages)
        self.feature_channels[2 ** len(stages)] = channels

        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
        self.classifier = (
            nn.Sequential(
                *[nn.Linear(channels * 7 * 7, hidden), nn.ReLU(), nn.Dropout(dropout)],
                *[nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(dropout)],
                nn.Linear(hidden, num_classes),
            )
            if num_classes
            else nn.Identity()
        )
        init_convolutions(self.modules())
        init_linears(self.modules(), lambda linear: init.normal_(linear.weight, 0, 0.01))


_11 = [[64], [128], [256, 256], [512, 512], [512, 512]]
_13 = [[64] * 2, [128] * 2, [256] * 2, [512] * 2, [512] * 2]
_16 = [[64] * 2, [128] * 2, [256] * 3, [512] * 3, [512] * 3]
_19 = [[64] * 2, [128] * 2, [256] * 4, [512] * 4, [512] * 4]


@register
def vgg11(**sizes: Any) -> VGG:
    """VGG-11, 132.9 million parameters; takes the sizes of `VGG`."""
    return VGG(_11, **sizes)


@register
def vgg11_bn(**sizes: Any) -> VGG:
    """VGG-11 with batch norms, 132.9 million parameters; takes the sizes of `VGG`."""
    return VGG(_11, batch_norm=True, **sizes)


@register
def vgg13(**sizes: Any) -> VGG:
    """VGG-13, 133.0 million parameters; takes the sizes of `VGG`."""
    return VGG(_13, **sizes)


@register
def vgg13_bn(**sizes: Any) -> VGG:
    """VGG-13 with batch norms, 133.1 million parameters; takes the sizes of `VGG`."""
    return VGG(_13, batch_norm=True, **sizes)


@register
def vgg16(**sizes: Any) -> VGG:
    """VGG-16, 138.4 million parameters; takes the sizes of `VGG`."""
    return VGG(_16, **sizes)


@register
def vgg16_bn(**sizes: Any) -> VGG:
    """VGG-16 with batch norms, 138.4 million parameters; takes the sizes of `VGG`."""
    return VGG(_16, batch_norm=True, **sizes)


@register
def vgg19(**sizes: Any) -> VGG:
    """VGG-19, 143.7 million parameters; takes the sizes of `VGG`."""
    return VGG(_19, **sizes)


@register
def vgg19_bn(**sizes: Any) -> VGG:
    """VGG-19 with batch norms, 143.7 million parameters; takes the sizes of `VGG`."""
    return VGG(_19, batch_norm=True, **sizes)
