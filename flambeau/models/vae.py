"""A convolutional variational autoencoder."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from flambeau import nn
from flambeau._errors import ShapeError
from flambeau.models._registry import register
from flambeau.nn import functional as F
from flambeau.nn import init

__all__ = ["ConvVAE", "conv_vae", "vae_loss"]


class ConvVAE(nn.Module):
    """Codes an image as a normal distribution of few numbers, and draws the image from a sample of it.

    z = mean + exp(log_variance / 2) · ε, with ε from the default generator in training; z = mean in evaluation.

    The names are this package's own: `encoder.0.0.weight` is the first convolution and `encoder.0.1.` its batch norm;
    `mean.` and `log_variance.` are the linear layers to the code, `start.` the one from it; `decoder.` goes back, with a
    transposed convolution and a batch norm per step, and ends in a convolution without a norm.

    Args:
        image_size: S, of both sides; a multiple of two to the power of the number of `channels`.
        in_channels: C, of the images.
        latent: Z, the size of the code.
        channels: of each step of the encoder, which halves the size.

    Shape:
        input `(N, C, S, S)`, results: the image `(N, C, S, S)`, as logits; mean and log variance `(N, Z)`.

    Raises:
        ShapeError: the images have another size.
        ValueError: the image size cannot be halved so often.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import models
        >>> net = models.ConvVAE(image_size=8, in_channels=1, latent=2, channels=[4, 8])
        >>> [each.shape for each in net(jnp.zeros((3, 1, 8, 8)))]
        [(3, 1, 8, 8), (3, 2), (3, 2)]
        >>> net.sample(5).shape
        (5, 1, 8, 8)

    Source: https://arxiv.org/abs/1312.6114
    """

    def __init__(
        self, image_size: int = 32, in_channels: int = 3, latent: int = 64, channels: Sequence[int] = (32, 64, 128)
    ) -> None:
        super().__init__()
        if image_size % 2 ** len(channels):
            raise ValueError(f"expected image_size to be a multiple of {2 ** len(channels)}, got {image_size}")
        self.image_shape = (in_channels, image_size, image_size)
        self.latent = latent
        side = image_size // 2 ** len(channels)
        self.start_shape = (channels[-1], side, side)
        widths = [in_channels, *channels]
        self.encoder = nn.Sequential(
            *(halving(before, after) for before, after in zip(widths, widths[1:], strict=False)), nn.Flatten()
        )
        flat = channels[-1] * side * side
        self.mean = nn.Linear(flat, latent)
        self.log_variance = nn.Linear(flat, latent)
        self.start = nn.Linear(latent, flat)
        back = [*reversed(channels), channels[0]]
        self.decoder = nn.Sequential(
            *(doubling(before, after) for before, after in zip(back, back[1:], strict=False)),
            nn.Conv2d(channels[0], in_channels, 3, padding=1),
        )

    def encode(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean and log variance of the code, `(N, Z)` each."""
        if x.shape[1:] != self.image_shape:
            raise ShapeError(
                f"expected input (N, {', '.join(map(str, self.image_shape))}), got {x.dtype}{list(x.shape)}"
            )
        x = self.encoder(x)
        return self.mean(x), self.log_variance(x)

    def decode(self, z: jax.Array) -> jax.Array:
        """The image `(N, C, S, S)` of a code `(N, Z)`, as logits."""
        x = self.start(z)
        return self.decoder(x.reshape(x.shape[0], *self.start_shape))  # (N, C·s·s) -> (N, C, s, s)

    def sample(self, count: int) -> jax.Array:
        """Images `(count, C, S, S)`, with values in (0, 1), of codes from the default generator."""
        return F.sigmoid(self.decode(init.normal_(jnp.zeros((count, self.latent), self.start.weight.dtype))))

    def forward(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        mean, log_variance = self.encode(x)
        z = mean + jnp.exp(log_variance / 2) * init.normal_(jnp.zeros_like(mean)) if self.training else mean
        return self.decode(z), mean, log_variance


def halving(in_channels: int, out_channels: int) -> nn.Sequential:
    """A convolution that halves the size."""
    conv = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU())


def doubling(in_channels: int, out_channels: int) -> nn.Sequential:
    """A transposed convolution that doubles the size."""
    conv = nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU())


def vae_loss(
    logits: jax.Array, mean: jax.Array, log_variance: jax.Array, images: jax.Array, beta: float = 1.0
) -> jax.Array:
    """What a variational autoencoder minimizes: Σ cross entropy(pixel) + β · KL(N(mean, variance) ‖ N(0, 1)), per image.

    Args:
        logits: the images that came out.
        mean: of the code.
        log_variance: of the code.
        images: that went in, with values from 0 to 1.
        beta: the weight of the second term.

    Shape:
        logits and images `(N, C, H, W)`, mean and log variance `(N, Z)`, result `()`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import models
        >>> code = jnp.zeros((2, 4))  # already a standard normal distribution
        >>> print(models.vae_loss(jnp.zeros((2, 1, 1, 2)), code, code, jnp.ones((2, 1, 1, 2))))  # 2 · log 2
        1.3862944

    Source: https://arxiv.org/abs/1312.6114, appendix B; https://openreview.net/forum?id=Sy2fzU9gl
    """
    pixels = F.binary_cross_entropy_with_logits(logits, images, reduction="sum")
    divergence = 0.5 * (mean**2 + jnp.exp(log_variance) - log_variance - 1).sum()
    return (pixels + beta * divergence) / images.shape[0]


@register
def conv_vae(
    image_size: int = 32, in_channels: int = 3, latent: int = 64, channels: Sequence[int] = (32, 64, 128)
) -> ConvVAE:
    """A convolutional variational autoencoder of 32x32 images; takes the sizes of `ConvVAE`."""
    return ConvVAE(image_size, in_channels, latent, channels)
