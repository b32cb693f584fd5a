"""Vision Transformer, with torchvision's names; `vit_timm.py` has timm's."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any

import jax
import jax.numpy as jnp

from flambeau import nn
from flambeau._errors import ShapeError
from flambeau.models._language import Pretrained
from flambeau.models._registry import register
from flambeau.models._vision import Encoder, head, set_zero
from flambeau.nn import init

__all__ = ["VisionTransformer", "vit_b_16", "vit_b_32", "vit_h_14", "vit_l_16", "vit_l_32"]


class Patches(Encoder):
    """What both Vision Transformers do with an image before and after their blocks."""

    image_size: int
    patch_size: int

    def set_sizes(self, image_size: int, patch_size: int, dim: int) -> None:
        if image_size % patch_size:
            raise ValueError(
                f"expected an image size that is a multiple of the patch size {patch_size}, got {image_size}"
            )
        self.image_size, self.patch_size = image_size, patch_size
        self.feature_channels = {patch_size: dim}

    def tokens(self, embed: nn.Module, x: jax.Array, class_token: jax.Array) -> jax.Array:
        """`(N, 3, S, S)` to `(N, 1 + (S / P)², D)`: the class token, and then each patch by its row and column."""
        if x.shape[-2:] != (self.image_size, self.image_size):
            shape = f"(N, 3, {self.image_size}, {self.image_size})"
            raise ShapeError(f"expected input {shape}, got {x.dtype}{list(x.shape)}")
        x = embed(x)
        n, dim = x.shape[:2]
        x = x.reshape(n, dim, -1).swapaxes(1, 2)  # (N, D, S / P, S / P) -> (N, (S / P)², D)
        return jnp.concatenate([jnp.broadcast_to(class_token, (n, 1, dim)), x], axis=1)

    def as_map(self, tokens: jax.Array) -> dict[int, jax.Array]:
        """The features of the patches, where they were in the image."""
        n, length, dim = tokens.shape
        side = math.isqrt(length - 1)
        x = tokens[:, 1:].swapaxes(1, 2).reshape(n, dim, side, side)  # (N, 1 + (S / P)², D) -> (N, D, S / P, S / P)
        return {self.patch_size: x}


def mlp(dim: int, hidden: int, dropout: float) -> nn.Sequential:
    """Two linear layers with a GELU between them."""
    net = nn.Sequential(
        nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, dim), nn.Dropout(dropout)
    )
    for layer in (net[0], net[3]):
        init.xavier_uniform_(layer.weight)
        init.normal_(layer.bias, std=1e-6)
    return net


class EncoderBlock(nn.Module):
    """Attention and two linear layers, each around a shortcut and behind a norm."""

    def __init__(self, num_heads: int, dim: int, mlp_dim: int, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(dim, eps=1e-6)
        self.self_attention = nn.MultiheadAttention(dim, num_heads, attention_dropout, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.ln_2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = mlp(dim, mlp_dim, dropout)

    def forward(self, x: jax.Array) -> jax.Array:
        y = self.ln_1(x)
        y, _ = self.self_attention(y, y, y, need_weights=False)
        x = x + self.dropout(y)
        return x + self.mlp(self.ln_2(x))


class Blocks(nn.Module):
    """The positions, the blocks and the last norm."""

    pos_embedding: jax.Array

    def __init__(
        self,
        length: int,
        layers: int,
        heads: int,
        dim: int,
        mlp_dim: int,
        dropout: float,
        attention_dropout: float,
        dtype: Any,
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        blocks = (EncoderBlock(heads, dim, mlp_dim, dropout, attention_dropout) for _ in range(layers))
        self.layers = nn.Sequential(OrderedDict((f"encoder_layer_{i}", block) for i, block in enumerate(blocks)))
        self.ln = nn.LayerNorm(dim, eps=1e-6)
        self.register_parameter("pos_embedding", nn.Parameter(jnp.zeros((1, length, dim), dtype)))
        init.normal_(self.pos_embedding, std=0.02)

    def forward(self, x: jax.Array) -> jax.Array:
        return self.ln(self.layers(self.dropout(x + self.pos_embedding)))


class VisionTransformer(Pretrained, Patches):
    """A transformer over the patches of an image and a class token, whose last features a linear layer classifies.

    Args:
        image_size: S, of both sides of the images.
        patch_size: P, which divides S.
        num_layers: how many blocks.
        num_heads: of the attention.
        hidden_dim: D, the size of the features; a multiple of the heads.
        mlp_dim: the size between the two linear layers of a block.
        dropout: the probability of the dropouts in the blocks and behind the positions.
        attention_dropout: the probability that a weight of the attention is dropped.
        num_classes: how many numbers come out; with 0 there is no last layer, and the features of the class token come out.

    Shape:
        input `(N, 3, S, S)`, result `(N, num_classes)`. Features at the stride P alone, `(N, D, S / P, S / P)`.

    Raises:
        ShapeError: the images have another size.
        ValueError: the image size is no multiple of the patch size.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import models
        >>> net = models.VisionTransformer(16, 8, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=10)
        >>> net(jnp.zeros((2, 3, 16, 16))).shape
        (2, 10)

    Source: https://arxiv.org/abs/2010.11929; names and shapes of the parameters are those of
    https://docs.pytorch.org/vision/stable/models/vision_transformer.html
    """

    class_token: jax.Array

    def __init__(
        self,
        image_size: int,
        patch_size: int,
        num_layers: int,
        num_heads: int,
        hidden_dim: int,
        mlp_dim: int,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        num_classes: int = 1000,
    ) -> None:
        super().__init__()
        self.set_sizes(image_size, patch_size, hidden_dim)
        self.conv_proj = nn.Conv2d(3, hidden_dim, patch_size, stride=patch_size)
        self.register_parameter("class_token", nn.Parameter(jnp.zeros((1, 1, hidden_dim), self.conv_proj.weight.dtype)))
        length = (image_size // patch_size) ** 2 + 1
        self.encoder = Blocks(
            length, num_layers, num_heads, hidden_dim, mlp_dim, dropout, attention_dropout, self.conv_proj.weight.dtype
        )
        self.heads = nn.Sequential(OrderedDict(head=head(hidden_dim, num_classes)))

        init.trunc_normal_(self.conv_proj.weight, std=math.sqrt(1 / (3 * patch_size**2)))
        set_zero(self.conv_proj.bias)
        if num_classes:
            set_zero(self.heads.head.weight, self.heads.head.bias)

    def translated(self, name: str) -> str:
        # torchvision's published files are older than its present names.
        return name.replace(".mlp.linear_1.", ".mlp.0.").replace(".mlp.linear_2.", ".mlp.3.")

    def _encoded(self, x: jax.Array) -> jax.Array:
        return self.encoder(self.tokens(self.conv_proj, x, self.class_token))

    def feature_maps(self, x: jax.Array) -> dict[int, jax.Array]:
        return self.as_map(self._encoded(x))

    def forward(self, x: jax.Array) -> jax.Array:
        return self.heads(self._encoded(x)[:, 0])


def _vit(patch_size: int, num_layers: int, num_heads: int, hidden_dim: int, sizes: dict[str, Any]) -> VisionTransformer:
    standard = {"num_layers": num_layers, "num_heads": num_heads, "hidden_dim": hidden_dim, "mlp_dim": 4 * hidden_dim}
    return VisionTransformer(**{"image_size": 224, "patch_size": patch_size, **standard, **sizes})


@register
def vit_b_16(**sizes: Any) -> VisionTransformer:
    """ViT-B/16, 86.6 million parameters; takes the sizes of `VisionTransformer`."""
    return _vit(16, 12, 12, 768, sizes)


@register
def vit_b_32(**sizes: Any) -> VisionTransformer:
    """ViT-B/32, 88.2 million parameters; takes the sizes of `VisionTransformer`."""
    return _vit(32, 12, 12, 768, sizes)


@register
def vit_l_16(**sizes: Any) -> VisionTransformer:
    """ViT-L/16, 304.3 million parameters; takes the sizes of `VisionTransformer`."""
    return _vit(16, 24, 16, 1024, sizes)


@register
def vit_l_32(**sizes: Any) -> VisionTransformer:
    """ViT-L/32, 306.5 million parameters; takes the sizes of `VisionTransformer`."""
    return _vit(32, 24, 16, 1024, sizes)


@register
def vit_h_14(**sizes: Any) -> VisionTransformer:
    """ViT-H/14, 632.0 million parameters; takes the sizes of `VisionTransformer`."""
    return _vit(14, 32, 16, 1280, sizes)
