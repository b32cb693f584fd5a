"""What the networks for images have in common: small blocks, and the features that other networks take from them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp

from flambeau import nn
from flambeau.nn import functional as F
from flambeau.nn import init

# What makes a norm or an activation layer: a class, or a function with some of its arguments filled in.
Norm = Callable[[int], nn.Module]
Activation = Callable[[], nn.Module]


class Encoder(nn.Module):
    """A network for images whose features at several strides can be taken, for instance by a `UNet`.

    Attributes:
        feature_channels: how many channels the features have at each stride; from the finest to the coarsest.
    """

    feature_channels: dict[int, int]

    @abstractmethod
    def feature_maps(self, x: jax.Array) -> dict[int, jax.Array]:
        """The features by stride, `(N, feature_channels[stride], H / stride, W / stride)`, of images `(N, C, H, W)`."""


class SequentialEncoder(Encoder):
    """An encoder whose `features` are one chain; after some links of it the features are taken.

    Attributes:
        feature_ends: the stride of the features behind a link, by its index.
    """

    features: nn.Sequential
    avgpool: nn.Module
    classifier: nn.Module
    feature_ends: dict[int, int]

    def feature_maps(self, x: jax.Array) -> dict[int, jax.Array]:
        maps = {}
        for i, link in enumerate(self.features):
            x = link(x)
            if i in self.feature_ends:
                maps[self.feature_ends[i]] = x
        return maps

    def forward(self, x: jax.Array) -> jax.Array:
        x = self.avgpool(self.features(x))
        return self.classifier(x.reshape(x.shape[0], -1))  # (N, C, H, W) -> (N, C*H*W)


class SqueezeExcitation(nn.Module):
    """Scales each channel by a number between 0 and 1 that depends on the means of all.

    Source: https://arxiv.org/abs/1709.01507
    """

    def __init__(self, channels: int, squeezed: int, activation: Activation, scale_activation: Activation) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.activation = activation()
        self.scale_activation = scale_activation()

    def forward(self, x: jax.Array) -> jax.Array:
        return x * self.scale_activation(self.fc2(self.activation(self.fc1(self.avgpool(x)))))


class StochasticDepth(nn.Module):
    """Drops a residual branch of whole instances in training: zeros with probability p, else x / (1 - p).

    Source: https://arxiv.org/abs/1603.09382
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: jax.Array) -> jax.Array:
        each = jnp.ones((x.shape[0], *[1] * (x.ndim - 1)), x.dtype)  # (N, 1, ..., 1)
        return x * F.dropout(each, self.p) if self.training and self.p else x

    def extra_repr(self) -> str:
        return f"p={self.p}"


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int = 1,
    groups: int = 1,
    dilation: int = 1,
    norm: Norm = nn.BatchNorm2d,
    activation: Activation | None = None,
) -> nn.Sequential:
    """A convolution that keeps the size but for its stride, a norm, and an activation if there is one."""
    padding = (kernel_size - 1) // 2 * dilation
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias=False)
    return nn.Sequential(conv, norm(out_channels), *([activation()] if activation else []))


def head(in_features: int, num_classes: int) -> nn.Module:
    """The last layer of a classifier; none where there are no classes."""
    return nn.Linear(in_features, num_classes) if num_classes else nn.Identity()


def divisible(channels: float) -> int:
    """The multiple of 8 that is nearest, at least 8 and 90 % of `channels`."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def set_zero(*parameters: jax.Array | None) -> None:
    """Sets those to zero that a module has."""
    for parameter in parameters:
        if parameter is not None:
            init.zeros_(parameter)


def init_convolutions(modules: Iterable[nn.Module]) -> None:
    """Draws the weights of convolutions by their fan out, as He et al. do, and sets their biases to zero.

    Source: https://arxiv.org/abs/1502.01852
    """
    for module in modules:
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            set_zero(module.bias)


def init_linears(modules: Iterable[nn.Module], draw: Callable[[nn.Linear], object]) -> None:
    """Draws the weights of linear layers, and sets their biases to zero."""
    for module in modules:
        if isinstance(module, nn.Linear):
            draw(module)
            set_zero(module.bias)
