"""Vision Transformer, with timm's names; `vit.py` has torchvision's."""

from __future__ import annotations

import operator
from typing import Any

import jax
import jax.numpy as jnp

from flambeau import nn
from flambeau.models._registry import register
from flambeau.models._vision import StochasticDepth, head, init_linears
from flambeau.models.vit import Patches
from flambeau.nn import functional as F
from flambeau.nn import init

__all__ = [
    "TimmVisionTransformer",
    "vit_base_patch8_224",
    "vit_base_patch16_224",
    "vit_base_patch16_384",
    "vit_base_patch32_224",
    "vit_base_patch32_384",
    "vit_huge_patch14_224",
    "vit_large_patch14_224",
    "vit_large_patch16_224",
    "vit_large_patch16_384",
    "vit_large_patch32_224",
    "vit_large_patch32_384",
    "vit_small_patch8_224",
    "vit_small_patch16_224",
    "vit_small_patch16_384",
    "vit_small_patch32_224",
    "vit_small_patch32_384",
    "vit_tiny_patch16_224",
    "vit_tiny_patch16_384",
]


class PatchEmbed(nn.Module):
    """One vector for each patch."""

    def __init__(self, patch_size: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch_size, stride=patch_size)

    def forward(self, x: jax.Array) -> jax.Array:
        return self.proj(x)


class Attention(nn.Module):
    """Attention of several heads, whose queries, keys and values come from one linear layer."""

    def __init__(self, dim: int, num_heads: int, attn_drop: float, proj_drop: float) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"expected embed_dim to be a multiple of num_heads {num_heads}, got {dim}")
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: jax.Array) -> jax.Array:
        n, length, dim = x.shape
        qkv = self.qkv(x).reshape(n, length, 3, self.num_heads, -1)  # (N, L, 3·D) -> (N, L, 3, heads, D / heads)
        q, k, v = jnp.moveaxis(qkv, (2, 3), (0, 2))  # 3 of (N, heads, L, D / heads)
        x = F.scaled_dot_product_attention(q, k, v, dropout_p=self.attn_drop.p if self.training else 0.0)
        x = x.swapaxes(1, 2).reshape(n, length, dim)  # (N, heads, L, D / heads) -> (N, L, D)
        return self.proj_drop(self.proj(x))


class Mlp(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, dim: int, hidden: int, drop: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.drop1 = nn.Dropout(drop)
        self.fc2 = nn.Linear(hidden, dim)
        self.drop2 = nn.Dropout(drop)

    def forward(self, x: jax.Array) -> jax.Array:
        return self.drop2(self.fc2(self.drop1(self.act(self.fc1(x)))))


class Block(nn.Module):
    """Attention and two linear layers, each around a shortcut and behind a norm."""

    def __init__(
        self, dim: int, num_heads: int, mlp_dim: int, proj_drop: float, attn_drop: float, drop_path: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads, attn_drop, proj_drop)
        self.drop_path1 = StochasticDepth(drop_path)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, mlp_dim, proj_drop)
        self.drop_path2 = StochasticDepth(drop_path)

    def forward(self, x: jax.Array) -> jax.Array:
        x = x + self.drop_path1(self.attn(self.norm1(x)))
        return x + self.drop_path2(self.mlp(self.norm2(x)))


def _side(name: str, size: int) -> int:
    """The length of the sides of a square; timm's rectangles are not taken."""
    try:
        return operator.index(size)
    except TypeError:
        raise TypeError(f"expected {name} to be an int, both sides of a square, got {size!r}") from None


class TimmVisionTransformer(Patches):
    """A transformer over the patches of an image and a class token, whose last features a linear layer classifies.

    It computes what `VisionTransformer` computes; the names and the probabilities that can be chosen are timm's.

    Args:
        img_size: S, of both sides of the images.
        patch_size: P, which divides S.
        embed_dim: D, the size of the features; a multiple of the heads.
        depth: how many blocks.
        num_heads: of the attention.
        mlp_ratio: how many times D the size between the two linear layers of a block is.
        num_classes: how many numbers come out; with 0 there is no last layer, and the features of the class token come out.
            Weights that were learnt without classes, as DINO's, have none.
        drop_rate: the probability of the dropout before the last layer.
        pos_drop_rate: of the one behind the positions.
        proj_drop_rate: of those behind the linear layers of the blocks.
        attn_drop_rate: that a weight of the attention is dropped.
        drop_path_rate: that the last block is left out; the first one never is, those between more and more.

    Shape:
        input `(N, 3, S, S)`, result `(N, num_classes)`. Features at the stride P alone, `(N, D, S / P, S / P)`.

    Raises:
        ShapeError: the images have another size.
        TypeError: a size is no int. Images and patches are squares, where timm takes pairs too.
        ValueError: the image size is no multiple of the patch size, or the features none of the heads.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import models
        >>> net = models.TimmVisionTransformer(16, 8, embed_dim=8, depth=1, num_heads=2, num_classes=10)
        >>> net(jnp.zeros((2, 3, 16, 16))).shape
        (2, 10)

    Source: https://arxiv.org/abs/2010.11929; names and shapes of the parameters are those of
    https://huggingface.co/docs/timm/models/vision-transformer
    """

    cls_token: jax.Array
    pos_embed: jax.Array

    def __init__(
        self,
        img_size: int = 224,
        patch_size: int = 16,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        num_classes: int = 1000,
        drop_rate: float = 0.0,
        pos_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        img_size, patch_size = _side("img_size", img_size), _side("patch_size", patch_size)
        self.set_sizes(img_size, patch_size, embed_dim)
        self.patch_embed = PatchEmbed(patch_size, embed_dim)
        dtype = self.patch_embed.proj.weight.dtype
        self.register_parameter("cls_token", nn.Parameter(jnp.zeros((1, 1, embed_dim), dtype)))
        self.register_parameter(
            "pos_embed", nn.Parameter(jnp.zeros((1, (img_size // patch_size) ** 2 + 1, embed_dim), dtype))
        )
        self.pos_drop = nn.Dropout(pos_drop_rate)
        mlp_dim = int(embed_dim * mlp_ratio)
        drop_paths = [drop_path_rate * i / max(1, depth - 1) for i in range(depth)]
        self.blocks = nn.Sequential(
            *(Block(embed_dim, num_heads, mlp_dim, proj_drop_rate, attn_drop_rate, path) for path in drop_paths)
        )
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.head_drop = nn.Dropout(drop_rate)
        self.head = head(embed_dim, num_classes)

        init.trunc_normal_(self.pos_embed, std=0.02)
        init.normal_(self.cls_token, std=1e-6)
        init_linears(self.modules(), lambda linear: init.trunc_normal_(linear.weight, std=0.02))

    def _encoded(self, x: jax.Array) -> jax.Array:
        x = self.tokens(self.patch_embed, x, self.cls_token)
        return self.norm(self.blocks(self.pos_drop(x + self.pos_embed)))

    def feature_maps(self, x: jax.Array) -> dict[int, jax.Array]:
        return self.as_map(self._encoded(x))

    def forward(self, x: jax.Array) -> jax.Array:
        return self.head(self.head_drop(self._encoded(x)[:, 0]))


_SIZES = {
    "tiny": {"embed_dim": 192, "depth": 12, "num_heads": 3},
    "small": {"embed_dim": 384, "depth": 12, "num_heads": 6},
    "base": {"embed_dim": 768, "depth": 12, "num_heads": 12},
    "large": {"embed_dim": 1024, "depth": 24, "num_heads": 16},
    "huge": {"embed_dim": 1280, "depth": 32, "num_heads": 16},
}


def _vit(size: str, patch_size: int, img_size: int, sizes: dict[str, Any]) -> TimmVisionTransformer:
    return TimmVisionTransformer(**{"img_size": img_size, "patch_size": patch_size, **_SIZES[size], **sizes})


@register
def vit_tiny_patch16_224(**sizes: Any) -> TimmVisionTransformer:
    """ViT-Ti/16 for images of 224x224; takes the sizes of `TimmVisionTransformer`."""
    return _vit("tiny", 16, 224, sizes)


@register
def vit_tiny_patch16_384(**sizes: Any) -> TimmVisionTransformer:
    """ViT-Ti/16 for images of 384x384; takes the sizes of `TimmVisionTransformer`."""
    return _vit("tiny", 16, 384, sizes)


@register
def vit_small_patch8_224(**sizes: Any) -> TimmVisionTransformer:
    """ViT-S/8 for images of 224x224; takes the sizes of `TimmVisionTransformer`."""
    return _vit("small", 8, 224, sizes)


@register
def vit_small_patch16_224(**sizes: Any) -> TimmVisionTransformer:
    """ViT-S/16 for images of 224x224; takes the sizes of `TimmVisionTransformer`."""
    return _vit("small", 16, 224, sizes)


@register
def vit_small_patch16_384(**sizes: Any) -> TimmVisionTransformer:
    """ViT-S/16 for images of 384x384; takes the sizes of `TimmVisionTransformer`."""
    return _vit("small", 16, 384, sizes)


@register
def vit_small_patch32_224(**sizes: Any) -> TimmVisionTransformer:
    """ViT-S/32 for images of 224x224; takes the sizes of `TimmVisionTransformer`."""
    return _vit("small", 32, 224, sizes)


@register
def vit_small_patch32_384(**sizes: Any) -> TimmVisionTransformer:
    """ViT-S/32 for images of 384x384; takes the sizes of `TimmVisionTransformer`."""
    return _vit("small", 32, 384, sizes)


@register
def vit_base_patch8_224(**sizes: Any) -> TimmVisionTransformer:
    """ViT-B/8 for images of 224x224; takes the sizes of `TimmVisionTransformer`."""
    return _vit("base", 8, 224, sizes)


@register
def vit_base_patch16_224(**sizes: Any) -> TimmVisionTransformer:
    """ViT-B/16 for images of 224x224; takes the sizes of `TimmVisionTransformer`."""
    return _vit("base", 16, 224, sizes)


@register
def vit_base_patch16_384(**sizes: Any) -> TimmVisionTransformer:
    """ViT-B/16 for images of 384x384; takes the sizes of `TimmVisionTransformer`."""
    return _vit("base", 16, 384, sizes)


@register
def vit_base_patch32_224(**sizes: Any) -> TimmVisionTransformer:
    """ViT-B/32 for images of 224x224; takes the sizes of `TimmVisionTransformer`."""
    return _vit("base", 32, 224, sizes)


@register
def vit_base_patch32_384(**sizes: Any) -> TimmVisionTransformer:
    """ViT-B/32 for images of 384x384; takes the sizes of `TimmVisionTransformer`."""
    return _vit("base", 32, 384, sizes)


@register
def vit_large_patch14_224(**sizes: Any) -> TimmVisionTransformer:
    """ViT-L/14 for images of 224x224; takes the sizes of `TimmVisionTransformer`."""
    return _vit("large", 14, 224, sizes)


@register
def vit_large_patch16_224(**sizes: Any) -> TimmVisionTransformer:
    """ViT-L/16 for images of 224x224; takes the sizes of `TimmVisionTransformer`."""
    return _vit("large", 16, 224, sizes)


@register
def vit_large_patch16_384(**sizes: Any) -> TimmVisionTransformer:
    """ViT-L/16 for images of 384x384; takes the sizes of `TimmVisionTransformer`."""
    return _vit("large", 16, 384, sizes)


@register
def vit_large_patch32_224(**sizes: Any) -> TimmVisionTransformer:
    """ViT-L/32 for images of 224x224; takes the sizes of `TimmVisionTransformer`."""
    return _vit("large", 32, 224, sizes)


@register
def vit_large_patch32_384(**sizes: Any) -> TimmVisionTransformer:
    """ViT-L/32 for images of 384x384; takes the sizes of `TimmVisionTransformer`."""
    return _vit("large", 32, 384, sizes)


@register
def vit_huge_patch14_224(**sizes: Any) -> TimmVisionTransformer:
    """ViT-H/14 for images of 224x224; takes the sizes of `TimmVisionTransformer`."""
    return _vit("huge", 14, 224, sizes)
