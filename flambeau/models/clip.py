"""CLIP: a tower for images and one for texts, with the names of `CLIPModel` in Hugging Face's transformers."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp

from flambeau import nn
from flambeau._errors import ShapeError
from flambeau.models._language import Pretrained, merge_heads, padding_mask, split_heads
from flambeau.models._registry import register
from flambeau.nn import functional as F
from flambeau.nn import init

__all__ = [
    "CLIPModel",
    "clip_vit_base_patch16",
    "clip_vit_base_patch32",
    "clip_vit_large_patch14",
    "clip_vit_large_patch14_336",
]

Act = Literal["quick_gelu", "gelu"]


class QuickGELU(nn.Module):
    """An approximation of GELU: x · σ(1.702 x)."""

    def forward(self, input: jax.Array) -> jax.Array:
        return input * F.sigmoid(1.702 * input)


class CLIPAttention(nn.Module):
    """Attention; in the text's tower each token looks at those before it."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: jax.Array, mask: jax.Array | None, is_causal: bool) -> jax.Array:
        query, key, value = (split_heads(project(x), self.heads) for project in (self.q_proj, self.k_proj, self.v_proj))
        dropout = self.dropout if self.training else 0.0
        return self.out_proj(merge_heads(F.scaled_dot_product_attention(query, key, value, mask, dropout, is_causal)))


class CLIPMLP(nn.Module):
    """Each token by itself."""

    def __init__(self, width: int, hidden_act: Act) -> None:
        super().__init__()
        self.activation_fn = QuickGELU() if hidden_act == "quick_gelu" else nn.GELU()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: jax.Array) -> jax.Array:
        return self.fc2(self.activation_fn(self.fc1(x)))


class CLIPEncoderLayer(nn.Module):
    """Attention and MLP, each with its normalization before it and a shortcut past it."""

    def __init__(self, width: int, heads: int, hidden_act: Act, dropout: float) -> None:
        super().__init__()
        self.self_attn = CLIPAttention(width, heads, dropout)
        self.layer_norm1 = nn.LayerNorm(width)
        self.mlp = CLIPMLP(width, hidden_act)
        self.layer_norm2 = nn.LayerNorm(width)

    def forward(self, x: jax.Array, mask: jax.Array | None, is_causal: bool) -> jax.Array:
        x = x + self.self_attn(self.layer_norm1(x), mask, is_causal)
        return x + self.mlp(self.layer_norm2(x))


class CLIPEncoder(nn.Module):
    """The layers of a tower."""

    def __init__(self, width: int, layers: int, heads: int, hidden_act: Act, dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"expected a width divisible by the number of heads {heads}, got {width}")
        self.layers = nn.ModuleList(CLIPEncoderLayer(width, heads, hidden_act, dropout) for _ in range(layers))
        inner = (2 * width * layers) ** -0.5
        for layer in self.layers:
            for part in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj, layer.mlp.fc2):
                _draw(part, inner)
            _draw(layer.self_attn.out_proj, width**-0.5)
            _draw(layer.mlp.fc1, (2 * width) ** -0.5)

    def forward(self, x: jax.Array, mask: jax.Array | None = None, is_causal: bool = False) -> jax.Array:
        for layer in self.layers:
            x = layer(x, mask, is_causal)
        return x


def _draw(layer: nn.Linear, std: float) -> None:
    init.normal_(layer.weight, std=std)
    if layer.bias is not None:
        init.zeros_(layer.bias)


class CLIPTextEmbeddings(nn.Module):
    """The sum of what a token is, and where it stands."""

    def __init__(self, vocab_size: int, width: int, positions: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.position_embedding = nn.Embedding(positions, width)
        init.normal_(self.token_embedding.weight, std=0.02)
        init.normal_(self.position_embedding.weight, std=0.02)

    def forward(self, tokens: jax.Array) -> jax.Array:
        return self.token_embedding(tokens) + self.position_embedding(jnp.arange(tokens.shape[1]))


class CLIPTextModel(nn.Module):
    """The tower for texts: the features of the token that ends a text stand for all of it."""

    def __init__(
        self,
        vocab_size: int,
        width: int,
        layers: int,
        heads: int,
        positions: int,
        hidden_act: Act,
        dropout: float,
        eos_token_id: int,
    ) -> None:
        super().__init__()
        self.eos_token_id = eos_token_id
        self.embeddings = CLIPTextEmbeddings(vocab_size, width, positions)
        self.encoder = CLIPEncoder(width, layers, heads, hidden_act, dropout)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, tokens: jax.Array, attention_mask: jax.Array | None = None) -> jax.Array:
        mask = padding_mask(tokens, attention_mask)
        x = self.final_layer_norm(self.encoder(self.embeddings(tokens), mask, is_causal=True))
        end = jnp.argmax(tokens == self.eos_token_id, axis=1)
        return jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0]  # (N, L, width) -> (N, width)


class CLIPVisionEmbeddings(nn.Module):
    """The patches of an image, in front of them a token for all of it, and where each stands."""

    def __init__(self, width: int, image_size: int, patch_size: int, num_channels: int) -> None:
        super().__init__()
        if image_size % patch_size:
            raise ValueError(f"expected image_size divisible by patch_size={patch_size}, got {image_size}")
        self.image_size = image_size
        self.register_parameter("class_embedding", nn.Parameter(nn.Embedding(1, width).weight[0]))
        self.patch_embedding = nn.Conv2d(num_channels, width, patch_size, patch_size, bias=False)
        self.position_embedding = nn.Embedding((image_size // patch_size) ** 2 + 1, width)
        init.normal_(self.class_embedding, std=width**-0.5)
        init.normal_(self.patch_embedding.weight, std=0.02)
        init.normal_(self.position_embedding.weight, std=0.02)

    def forward(self, images: jax.Array) -> jax.Array:
        if images.ndim != 4 or images.shape[2:] != (self.image_size, self.image_size):
            raise ShapeError(
                f"expected images (N, C, {self.image_size}, {self.image_size}), got {images.dtype}{list(images.shape)}"
            )
        patches = self.patch_embedding(images)
        patches = patches.reshape(*patches.shape[:2], -1).swapaxes(1, 2)  # (N, width, h, w) -> (N, h·w, width)
        whole = jnp.broadcast_to(self.class_embedding, (patches.shape[0], 1, patches.shape[2]))
        return jnp.concatenate([whole, patches], axis=1) + self.position_embedding.weight


class CLIPVisionModel(nn.Module):
    """The tower for images."""

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        image_size: int,
        patch_size: int,
        num_channels: int,
        hidden_act: Act,
        dropout: float,
    ) -> None:
        super().__init__()
        self.embeddings = CLIPVisionEmbeddings(width, image_size, patch_size, num_channels)
        self.pre_layrnorm = nn.LayerNorm(width)  # as it is spelt in the checkpoints
        self.encoder = CLIPEncoder(width, layers, heads, hidden_act, dropout)
        self.post_layernorm = nn.LayerNorm(width)

    def forward(self, images: jax.Array) -> jax.Array:
        return self.post_layernorm(self.encoder(self.pre_layrnorm(self.embeddings(images)))[:, 0])


class CLIPModel(Pretrained):
    """CLIP: how well texts and images fit to each other, by the cosine of their features.

    Args:
        projection_dim: how many features a text or an image has in the end.
        vocab_size: how many tokens there are.
        text_width: how many features a token has.
        text_layers: how many layers the tower for texts has.
        text_heads: how many heads its attention has.
        max_position_embeddings: the longest text.
        vision_width: how many features a patch has.
        vision_layers: how many layers the tower for images has.
        vision_heads: how many heads its attention has.
        image_size: height and width of the images.
        patch_size: height and width of a patch.
        num_channels: how many channels the images have.
        hidden_act: "quick_gelu", or "gelu" as in most later ones.
        attention_dropout: dropout of the attention's weights.
        eos_token_id: the token that ends a text.
        logit_scale_init_value: the logarithm of what the cosines are multiplied with at first.

    Shape:
        tokens and attention_mask (0 for padding) `(N, L)`, images `(M, C, image_size, image_size)`; result `(M, N)`, for
        each image how well each text fits, and the same `(N, M)`.

    Raises:
        ValueError: heads that do not divide a width, or patches an image.
        ShapeError: the tokens are no integers `(N, L)`, or images or mask have another shape.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import models
        >>> text = dict(vocab_size=50, text_width=8, text_layers=1, text_heads=2, eos_token_id=49)
        >>> vision = dict(vision_width=8, vision_layers=1, vision_heads=2, image_size=8, patch_size=4)
        >>> net = models.CLIPModel(projection_dim=6, **text, **vision)
        >>> per_image, per_text = net(jnp.array([[3, 1, 49], [2, 49, 49]]), jnp.ones((1, 3, 8, 8)))
        >>> per_image.shape, per_text.shape
        ((1, 2), (2, 1))

    Source: https://arxiv.org/abs/2103.00020; names: https://huggingface.co/docs/transformers/model_doc/clip
    """

    def __init__(
        self,
        projection_dim: int = 512,
        vocab_size: int = 49408,
        text_width: int = 512,
        text_layers: int = 12,
        text_heads: int = 8,
        max_position_embeddings: int = 77,
        vision_width: int = 768,
        vision_layers: int = 12,
        vision_heads: int = 12,
        image_size: int = 224,
        patch_size: int = 32,
        num_channels: int = 3,
        hidden_act: Act = "quick_gelu",
        attention_dropout: float = 0.0,
        eos_token_id: int = 49407,
        logit_scale_init_value: float = 2.6592,
    ) -> None:
        super().__init__()
        text = vocab_size, text_width, text_layers, text_heads, max_position_embeddings
        vision = vision_width, vision_layers, vision_heads, image_size, patch_size, num_channels
        self.text_model = CLIPTextModel(*text, hidden_act, attention_dropout, eos_token_id)
        self.vision_model = CLIPVisionModel(*vision, hidden_act, attention_dropout)
        self.visual_projection = nn.Linear(vision_width, projection_dim, bias=False)
        self.text_projection = nn.Linear(text_width, projection_dim, bias=False)
        _draw(self.visual_projection, vision_width**-0.5)
        _draw(self.text_projection, text_width**-0.5)
        dtype = self.text_projection.weight.dtype
        self.register_parameter("logit_scale", nn.Parameter(jnp.asarray(logit_scale_init_value, dtype)))

    def get_text_features(self, tokens: jax.Array, attention_mask: jax.Array | None = None) -> jax.Array:
        """The features of texts, `(N, projection_dim)`."""
        return self.text_projection(self.text_model(tokens, attention_mask))

    def get_image_features(self, images: jax.Array) -> jax.Array:
        """The features of images, `(M, projection_dim)`."""
        return self.visual_projection(self.vision_model(images))

    def forward(
        self, tokens: jax.Array, images: jax.Array, attention_mask: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        text = F.normalize(self.get_text_features(tokens, attention_mask), dim=-1)
        image = F.normalize(self.get_image_features(images), dim=-1)
        per_image = image @ text.T * jnp.exp(self.logit_scale)
        return per_image, per_image.T

    def translated(self, name: str) -> str | None:
        return None if name.endswith("embeddings.position_ids") else name  # which older files hold


@register
def clip_vit_base_patch32(**sizes: Any) -> CLIPModel:
    """https://huggingface.co/openai/clip-vit-base-patch32: see `CLIPModel`."""
    return CLIPModel(**sizes)


@register
def clip_vit_base_patch16(patch_size: int = 16, **sizes: Any) -> CLIPModel:
    """https://huggingface.co/openai/clip-vit-base-patch16: see `CLIPModel`."""
    return CLIPModel(patch_size=patch_size, **sizes)


@register
def clip_vit_large_patch14(**sizes: Any) -> CLIPModel:
    """https://huggingface.co/openai/clip-vit-large-patch14: see `CLIPModel`."""
    text = {"projection_dim": 768, "text_width": 768, "text_heads": 12}
    vision = {"vision_width": 1024, "vision_layers": 24, "vision_heads": 16, "patch_size": 14}
    return CLIPModel(**{**text, **vision, **sizes})


@register
def clip_vit_large_patch14_336(image_size: int = 336, **sizes: Any) -> CLIPModel:
    """https://huggingface.co/openai/clip-vit-large-patch14-336: see `CLIPModel`."""
    return clip_vit_large_patch14(image_size=image_size, **sizes)
