"""U-Net: what an encoder finds at several strides, put together again at the size of the image."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from flambeau import nn
from flambeau.models._registry import create, register
from flambeau.models._vision import Encoder, conv_norm, init_convolutions
from flambeau.nn import functional as F

__all__ = ["UNet", "unet"]


class DecoderBlock(nn.Module):
    """Brings features to the size of finer ones, appends these, and convolves twice."""

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = conv_norm(in_channels + skip_channels, out_channels, 3, activation=nn.ReLU)
        self.conv2 = conv_norm(out_channels, out_channels, 3, activation=nn.ReLU)

    def forward(self, x: jax.Array, skip: jax.Array | None, size: tuple[int, int]) -> jax.Array:
        x = F.interpolate(x, size)
        if skip is not None:
            x = jnp.concatenate([x, skip], axis=1)  # (N, in_channels + skip_channels, H, W)
        return self.conv2(self.conv1(x))


class UNet(nn.Module):
    """Classifies each pixel: an encoder's features, from coarse to fine each joined with those of the next stride.

    The names are this package's own: `encoder.` and those of the encoder; `decoder.0.`, `decoder.1.`, ... from coarse to
    fine, each with `conv1.0.weight` (the convolution), `conv1.1.` (its batch norm) and the same of `conv2`; `head.`.

    Args:
        encoder: a network of this package for images, whose last layer is of no use here: build it with `num_classes=0`.
        num_classes: how many numbers come out for each pixel.
        decoder_channels: of the features at the strides ..., 4, 2 and 1. There may be more than the encoder needs; the last
            ones count.

    Shape:
        input `(N, 3, H, W)`, result `(N, num_classes, H, W)`.

    Raises:
        ValueError: the encoder's strides are no powers of two, or there are too few `decoder_channels`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import models
        >>> encoder = models.resnet18(num_classes=0, width=8)
        >>> net = models.UNet(encoder, num_classes=2, decoder_channels=[16, 16, 8, 8, 8])
        >>> net.eval()(jnp.zeros((1, 3, 32, 48))).shape
        (1, 2, 32, 48)

    Source: https://arxiv.org/abs/1505.04597
    """

    def __init__(
        self, encoder: Encoder, num_classes: int, decoder_channels: Sequence[int] = (256, 128, 64, 32, 16)
    ) -> None:
        super().__init__()
        coarsest = max(encoder.feature_channels)
        steps = coarsest.bit_length() - 1
        if any(stride & (stride - 1) for stride in encoder.feature_channels):
            raise ValueError(f"expected strides that are powers of two, got {list(encoder.feature_channels)}")
        if len(decoder_channels) < steps:
            raise ValueError(f"expected {steps} decoder_channels for stride {coarsest}, got {list(decoder_channels)}")
        self.encoder = encoder
        self.strides = tuple(coarsest >> i for i in range(steps + 1))
        channels = [encoder.feature_channels[coarsest], *decoder_channels[len(decoder_channels) - steps :]]
        self.decoder = nn.ModuleList(
            DecoderBlock(channels[i], encoder.feature_channels.get(stride, 0), channels[i + 1])
            for i, stride in enumerate(self.strides[1:])
        )
        self.head = nn.Conv2d(channels[-1], num_classes, 1)
        init_convolutions(self.decoder.modules())

    def forward(self, x: jax.Array) -> jax.Array:
        height, width = x.shape[-2:]
        maps = self.encoder.feature_maps(x)
        x = maps[self.strides[0]]
        for stride, block in zip(self.strides[1:], self.decoder, strict=True):
            skip = maps.get(stride)
            size = (-(-height // stride), -(-width // stride)) if skip is None else skip.shape[-2:]
            x = block(x, skip, size)
        return self.head(x)


@register
def unet(
    encoder: str = "resnet34", num_classes: int = 1, decoder_channels: Sequence[int] = (256, 128, 64, 32, 16)
) -> UNet:
    """A U-Net whose encoder is the network of a name, such as ResNet-34.

    Args:
        encoder: a network for images, one of `models.list()`.
        num_classes: how many numbers come out for each pixel.
        decoder_channels: as for `UNet`.

    Shape:
        input `(N, 3, H, W)`, result `(N, num_classes, H, W)`.

    Raises:
        ValueError: there is no network of that name, or it gives no features at several strides.

    Example:
        >>> import flambeau as fb
        >>> from flambeau import models
        >>> with fb.init_empty():
        ...     net = models.create("unet", encoder="mobilenet_v3_small", num_classes=3)
        >>> net.encoder.feature_channels
        {2: 16, 4: 16, 8: 24, 16: 48, 32: 576}

    Source: https://arxiv.org/abs/1505.04597
    """
    known = create(encoder, num_classes=0)
    if not isinstance(known, Encoder):
        raise ValueError(f"{encoder} is no network for images, whose features could be taken")
    return UNet(known, num_classes, decoder_channels)
