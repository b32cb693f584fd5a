"""Llama and its kin, with the names of `LlamaForCausalLM` in Hugging Face's transformers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flambeau import nn
from flambeau.models._language import Pretrained, draw_normal, merge_heads, split_heads
from flambeau.models._registry import register
from flambeau.models.generation import Decoder, KVCache, LayerCache, Window, attend, window
from flambeau.nn import functional as F

__all__ = ["LlamaForCausalLM", "LlamaModel", "llama2_7b", "llama3_1_8b", "llama3_2_1b", "tinyllama_1_1b"]

Rotation = tuple[jax.Array, jax.Array]


def rotary_frequencies(head_dim: int, theta: float, scaling: Mapping[str, Any] | None) -> np.ndarray:
    """By which angle each pair of a head's features turns from one position to the next: `(head_dim / 2,)`.

    Llama 3.1 was trained on short texts first: it turns the slow pairs more slowly by a factor, and keeps the fast ones.
    """
    frequencies = theta ** (-np.arange(0, head_dim, 2) / head_dim)
    kind = "default" if scaling is None else scaling.get("rope_type", scaling.get("type"))
    if scaling is None or kind == "default":
        return frequencies
    if kind == "linear":
        return frequencies / scaling["factor"]
    if kind != "llama3":
        raise ValueError(f"expected rope_scaling of type 'default', 'linear' or 'llama3', got {kind!r}")
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = scaling["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return (1 - kept) * frequencies / scaling["factor"] + kept * frequencies


class LlamaRotaryEmbedding(nn.Module):
    """The rotations of positions: cosines and sines of position · frequency. They are no parameters, and are not stored."""

    def __init__(self, head_dim: int, theta: float, scaling: Mapping[str, Any] | None) -> None:
        super().__init__()
        self.frequencies = tuple(rotary_frequencies(head_dim, theta, scaling).tolist())

    def forward(self, positions: jax.Array, dtype: Any) -> Rotation:
        wide = jnp.promote_types(dtype, jnp.float32)
        angles = positions[:, None, :, None].astype(wide) * jnp.asarray(self.frequencies, wide)  # (N, 1, L, E/2)
        return jnp.cos(angles).astype(dtype), jnp.sin(angles).astype(dtype)


def rotated(x: jax.Array, rotation: Rotation) -> jax.Array:
    """The features i and i + E/2 of each head `(N, H, L, E)`, as a point of the plane, turned."""
    (cos, sin), (a, b) = rotation, jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


class LlamaAttention(nn.Module):
    """Each token looks at those before it; several heads share their keys and values."""

    def __init__(self, hidden_size: int, heads: int, shared: int, head_dim: int, bias: bool, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.shared = shared
        self.dropout = dropout
        self.q_proj = nn.Linear(hidden_size, heads * head_dim, bias=bias)
        self.k_proj = nn.Linear(hidden_size, shared * head_dim, bias=bias)
        self.v_proj = nn.Linear(hidden_size, shared * head_dim, bias=bias)
        self.o_proj = nn.Linear(heads * head_dim, hidden_size, bias=bias)

    def forward(self, x: jax.Array, rotation: Rotation, window: Window, cache: LayerCache | None = None) -> jax.Array:
        query = rotated(split_heads(self.q_proj(x), self.heads), rotation)
        key = rotated(split_heads(self.k_proj(x), self.shared), rotation)
        value = split_heads(self.v_proj(x), self.shared)
        dropout = self.dropout if self.training else 0.0
        return self.o_proj(merge_heads(attend(query, key, value, window, cache, dropout)))


class LlamaMLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) · up(x))."""

    def __init__(self, hidden_size: int, intermediate_size: int, bias: bool) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=bias)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=bias)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=bias)

    def forward(self, x: jax.Array) -> jax.Array:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class LlamaDecoderLayer(nn.Module):
    """Attention and MLP, each with its normalization before it and a shortcut past it."""

    def __init__(self, attention: LlamaAttention, mlp: LlamaMLP, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.self_attn = attention
        self.mlp = mlp
        self.input_layernorm = nn.RMSNorm(hidden_size, eps)
        self.post_attention_layernorm = nn.RMSNorm(hidden_size, eps)

    def forward(self, x: jax.Array, rotation: Rotation, window: Window, cache: LayerCache | None = None) -> jax.Array:
        x = x + self.self_attn(self.input_layernorm(x), rotation, window, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class LlamaModel(Pretrained):
    """Llama without its head: tokens in, features out. See `LlamaForCausalLM` for the arguments.

    Shape:
        tokens `(N, L)`, attention_mask `(N, L)`, result `(N, L, hidden_size)`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import models
        >>> net = models.LlamaModel(50, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
        >>> net(jnp.array([[3, 1, 4]])).shape
        (1, 3, 8)

    Source: https://huggingface.co/docs/transformers/model_doc/llama
    """

    def __init__(
        self,
        vocab_size: int = 32000,
        hidden_size: int = 4096,
        intermediate_size: int = 11008,
        num_hidden_layers: int = 32,
        num_attention_heads: int = 32,
        num_key_value_heads: int | None = None,
        head_dim: int | None = None,
        rms_norm_eps: float = 1e-6,
        rope_theta: float = 10000.0,
        rope_scaling: Mapping[str, Any] | None = None,
        attention_bias: bool = False,
        attention_dropout: float = 0.0,
        mlp_bias: bool = False,
    ) -> None:
        super().__init__()
        heads = num_attention_heads
        shared = heads if num_key_value_heads is None else num_key_value_heads
        if head_dim is None and hidden_size % heads:
            raise ValueError(f"expected hidden_size divisible by num_attention_heads={heads}, got {hidden_size}")
        if heads % shared:
            raise ValueError(f"expected num_attention_heads divisible by num_key_value_heads={shared}, got {heads}")
        size = hidden_size // heads if head_dim is None else head_dim
        self.embed_tokens = nn.Embedding(vocab_size, hidden_size)
        self.layers = nn.ModuleList(
            LlamaDecoderLayer(
                LlamaAttention(hidden_size, heads, shared, size, attention_bias, attention_dropout),
                LlamaMLP(hidden_size, intermediate_size, mlp_bias),
                hidden_size,
                rms_norm_eps,
            )
            for _ in range(num_hidden_layers)
        )
        self.norm = nn.RMSNorm(hidden_size, rms_norm_eps)
        self.rotary_emb = LlamaRotaryEmbedding(size, rope_theta, rope_scaling)
        self.cache_sizes = shared, size  # what a layer remembers of a token: its heads, and their features
        draw_normal(self, 0.02)

    def forward(
        self, tokens: jax.Array, attention_mask: jax.Array | None = None, cache: KVCache | None = None
    ) -> jax.Array:
        view = window(tokens, attention_mask, cache)
        x = self.embed_tokens(tokens)
        rotation = self.rotary_emb(view.positions, x.dtype)
        caches = [None] * len(self.layers) if cache is None else cache.layers
        for layer, own in zip(self.layers, caches, strict=True):
            x = layer(x, rotation, view, own)
        return self.norm(x)

    def translated(self, name: str) -> str | None:
        if name.endswith("rotary_emb.inv_freq") or name.startswith("lm_head."):  # older files hold the frequencies
            return None
        return name.removeprefix("model.")


class LlamaForCausalLM(Pretrained, Decoder):
    """Llama: a decoder with rotated positions, heads that share keys and values, and SwiGLU.

    The published files load as they are, with the head or without it where it is tied.

    Args:
        vocab_size: how many tokens there are.
        hidden_size: how many features a token has.
        intermediate_size: the width of the MLPs.
        num_hidden_layers: how many layers there are.
        num_attention_heads: how many heads a layer's attention has.
        num_key_value_heads: how many heads of keys and values they share; one for each if None.
        head_dim: how many features a head has; hidden_size / num_attention_heads if None.
        rms_norm_eps: what is added to the mean squares.
        rope_theta: the base of the rotations' frequencies.
        rope_scaling: how they are stretched, as in the `config.json` of Llama 3.1: `rope_type` and its numbers.
        attention_bias: whether the attention's projections have a bias.
        attention_dropout: dropout of the attention's weights.
        mlp_bias: whether the MLPs have biases.
        tie_word_embeddings: whether the head shares the table of tokens.

    Shape:
        tokens `(N, L)`, attention_mask `(N, L)`, result `(N, L, vocab_size)`, or `(N, logits_to_keep, vocab_size)`.

    Raises:
        ValueError: numbers of heads that do not divide each other, or an unknown `rope_scaling`.
        ShapeError: the tokens are no integers `(N, L)`, or the mask has another shape.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import models
        >>> sizes = dict(hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
        >>> net = models.LlamaForCausalLM(vocab_size=50, num_key_value_heads=1, **sizes)
        >>> net(jnp.array([[3, 1, 4]])).shape
        (1, 3, 50)

    Source: https://arxiv.org/abs/2302.13971; names: https://huggingface.co/docs/transformers/model_doc/llama
    """

    def __init__(
        self,
        vocab_size: int = 32000,
        hidden_size: int = 4096,
        intermediate_size: int = 11008,
        num_hidden_layers: int = 32,
        num_attention_heads: int = 32,
        num_key_value_heads: int | None = None,
        head_dim: int | None = None,
        rms_norm_eps: float = 1e-6,
        rope_theta: float = 10000.0,
        rope_scaling: Mapping[str, Any] | None = None,
        attention_bias: bool = False,
        attention_dropout: float = 0.0,
        mlp_bias: bool = False,
        tie_word_embeddings: bool = False,
    ) -> None:
        super().__init__()
        self.model = LlamaModel(
            vocab_size,
            hidden_size,
            intermediate_size,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            rms_norm_eps,
            rope_theta,
            rope_scaling,
            attention_bias,
            attention_dropout,
            mlp_bias,
        )
        self.lm_head = nn.Linear(hidden_size, vocab_size, bias=False)
        self.tie_word_embeddings = tie_word_embeddings
        if tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        else:
            draw_normal(self.lm_head, 0.02)

    def forward(self, tokens: jax.Array, attention_mask: jax.Array | None = None, logits_to_keep: int = 0) -> jax.Array:
        x = self.model(tokens, attention_mask, self.cache)
        return self.lm_head(x[:, -logits_to_keep:])

    def table_size(self) -> int:
        return len(self.model.embed_tokens.weight)

    def new_cache(self, batch: int, length: int) -> KVCache:
        heads, size = self.model.cache_sizes
        return KVCache(len(self.model.layers), batch, heads, length, size, self.model.embed_tokens.weight.dtype)

    def tied(self) -> dict[str, str]:
        return {"lm_head.weight": "model.embed_tokens.weight"} if self.tie_word_embeddings else {}


def _llama3_scaling(factor: float) -> dict[str, Any]:
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


@register
def tinyllama_1_1b(**sizes: Any) -> LlamaForCausalLM:
    """https://huggingface.co/TinyLlama/TinyLlama-1.1B-Chat-v1.0: see `LlamaForCausalLM`."""
    own = {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_key_value_heads": 4}
    return LlamaForCausalLM(**{**own, "rms_norm_eps": 1e-5, **sizes})


@register
def llama2_7b(**sizes: Any) -> LlamaForCausalLM:
    """https://huggingface.co/meta-llama/Llama-2-7b-hf: see `LlamaForCausalLM`."""
    return LlamaForCausalLM(**{"rms_norm_eps": 1e-5, **sizes})


@register
def llama3_1_8b(**sizes: Any) -> LlamaForCausalLM:
    """https://huggingface.co/meta-llama/Llama-3.1-8B: see `LlamaForCausalLM`."""
    own = {"vocab_size": 128256, "intermediate_size": 14336, "num_key_value_heads": 8}
    rotary = {"rope_theta": 500000.0, "rope_scaling": _llama3_scaling(8.0)}
    return LlamaForCausalLM(**{**own, **rotary, "rms_norm_eps": 1e-5, **sizes})


@register
def llama3_2_1b(**sizes: Any) -> LlamaForCausalLM:
    """https://huggingface.co/meta-llama/Llama-3.2-1B: see `LlamaForCausalLM`."""
    own = {"vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16}
    rotary = {"rope_theta": 500000.0, "rope_scaling": _llama3_scaling(32.0)}
    shared = {"num_key_value_heads": 8, "tie_word_embeddings": True}
    return LlamaForCausalLM(**{**own, **rotary, **shared, "rms_norm_eps": 1e-5, **sizes})
