"""T5's encoder, with the names of `T5EncoderModel` in Hugging Face's transformers."""

from __future__ import annotations

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from flambeau import nn
from flambeau.models._language import Pretrained, merge_heads, padding_mask, split_heads
from flambeau.models._registry import register
from flambeau.nn import functional as F
from flambeau.nn import init

__all__ = ["T5EncoderModel", "t5_base_encoder", "t5_large_encoder", "t5_small_encoder", "t5_v1_1_xxl_encoder"]


def relative_buckets(length: int, buckets: int, max_distance: int) -> np.ndarray:
    """The bucket of each pair of positions `(L, L)`: half of them for keys before the query, half for those behind it.

    The first half of these are for one distance each, the others grow by a factor, up to `max_distance` and all beyond.
    """
    distance = np.arange(length)[None, :] - np.arange(length)[:, None]
    half = buckets // 2
    exact = half // 2
    far = np.maximum(np.abs(distance), 1) / exact
    logarithmic = exact + (np.log(far) / math.log(max_distance / exact) * (half - exact)).astype(int)
    near = np.where(np.abs(distance) < exact, np.abs(distance), np.minimum(logarithmic, half - 1))
    return near + half * (distance > 0)


class T5Attention(nn.Module):
    """Each token looks at all that are no padding; what it sees depends on how far away they are, too."""

    def __init__(self, d_model: int, d_kv: int, heads: int, dropout: float, buckets: int | None) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.q = nn.Linear(d_model, heads * d_kv, bias=False)
        self.k = nn.Linear(d_model, heads * d_kv, bias=False)
        self.v = nn.Linear(d_model, heads * d_kv, bias=False)
        self.o = nn.Linear(heads * d_kv, d_model, bias=False)
        if buckets is not None:
            self.relative_attention_bias = nn.Embedding(buckets, heads)
            init.normal_(self.relative_attention_bias.weight, std=d_model**-0.5)
        # The scores are not divided by √d_kv: their first weights are, instead.
        init.normal_(self.q.weight, std=(d_model * d_kv) ** -0.5)
        init.normal_(self.k.weight, std=d_model**-0.5)
        init.normal_(self.v.weight, std=d_model**-0.5)
        init.normal_(self.o.weight, std=(heads * d_kv) ** -0.5)

    def forward(self, x: jax.Array, bias: jax.Array) -> jax.Array:
        query, key, value = (split_heads(project(x), self.heads) for project in (self.q, self.k, self.v))
        dropout = self.dropout if self.training else 0.0
        return self.o(merge_heads(F.scaled_dot_product_attention(query, key, value, bias, dropout, scale=1.0)))


class T5DenseActDense(nn.Module):
    """The MLP of the first T5."""

    def __init__(self, d_model: int, d_ff: int, dropout: float) -> None:
        super().__init__()
        self.wi = nn.Linear(d_model, d_ff, bias=False)
        self.wo = nn.Linear(d_ff, d_model, bias=False)
        self.dropout = nn.Dropout(dropout)
        init.normal_(self.wi.weight, std=d_model**-0.5)
        init.normal_(self.wo.weight, std=d_ff**-0.5)

    def forward(self, x: jax.Array) -> jax.Array:
        return self.wo(self.dropout(F.relu(self.wi(x))))


class T5DenseGatedActDense(nn.Module):
    """The MLP of T5 1.1."""

    def __init__(self, d_model: int, d_ff: int, dropout: float) -> None:
        super().__init__()
        self.wi_0 = nn.Linear(d_model, d_ff, bias=False)
        self.wi_1 = nn.Linear(d_model, d_ff, bias=False)
        self.wo = nn.Linear(d_ff, d_model, bias=False)
        self.dropout = nn.Dropout(dropout)
        init.normal_(self.wi_0.weight, std=d_model**-0.5)
        init.normal_(self.wi_1.weight, std=d_model**-0.5)
        init.normal_(self.wo.weight, std=d_ff**-0.5)

    def forward(self, x: jax.Array) -> jax.Array:
        return self.wo(self.dropout(F.gelu(self.wi_0(x), "tanh") * self.wi_1(x)))


class T5Layer(nn.Module):
    """Attention or MLP, with its normalization before it and a shortcut past it."""

    def __init__(self, name: str, part: nn.Module, d_model: int, dropout: float, eps: float) -> None:
        super().__init__()
        self.part = name
        self.add_module(name, part)
        self.layer_norm = nn.RMSNorm(d_model, eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: jax.Array, *bias: jax.Array) -> jax.Array:
        return x + self.dropout(self.get_submodule(self.part)(self.layer_norm(x), *bias))


class T5Block(nn.Module):
    """Attention, and an MLP."""

    def __init__(self, attention: nn.Module, mlp: nn.Module, d_model: int, dropout: float, eps: float) -> None:
        super().__init__()
        self.layer = nn.ModuleList(
            [
                T5Layer("SelfAttention", attention, d_model, dropout, eps),
                T5Layer("DenseReluDense", mlp, d_model, dropout, eps),
            ]
        )

    def forward(self, x: jax.Array, bias: jax.Array) -> jax.Array:
        return self.layer[1](self.layer[0](x, bias))


class T5Stack(nn.Module):
    """The encoder: blocks, of which the first has the table of relative positions for all of them."""

    def __init__(
        self,
        vocab_size: int,
        d_model: int,
        d_kv: int,
        d_ff: int,
        num_layers: int,
        heads: int,
        buckets: int,
        max_distance: int,
        dropout: float,
        eps: float,
        gated: bool,
    ) -> None:
        super().__init__()
        self.buckets = buckets
        self.max_distance = max_distance
        dense = T5DenseGatedActDense if gated else T5DenseActDense
        self.embed_tokens = nn.Embedding(vocab_size, d_model)
        self.block = nn.ModuleList(
            T5Block(
                T5Attention(d_model, d_kv, heads, dropout, buckets if i == 0 else None),
                dense(d_model, d_ff, dropout),
                d_model,
                dropout,
                eps,
            )
            for i in range(num_layers)
        )
        self.final_layer_norm = nn.RMSNorm(d_model, eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: jax.Array, attention_mask: jax.Array | None = None) -> jax.Array:
        mask = padding_mask(tokens, attention_mask)
        x = self.dropout(self.embed_tokens(tokens))
        bias = self.position_bias(tokens.shape[1])
        if mask is not None:
            bias = jnp.where(mask, bias, -jnp.inf)
        for block in self.block:
            x = block(x, bias)
        return self.dropout(self.final_layer_norm(x))

    def position_bias(self, length: int) -> jax.Array:
        """What is added to the scores for the distance of query and key: `(1, H, L, L)`."""
        table = self.block[0].layer[0].SelfAttention.relative_attention_bias
        buckets = relative_buckets(length, self.buckets, self.max_distance)
        return jnp.moveaxis(table(jnp.asarray(buckets)), -1, 0)[None]  # (L, L, H) -> (1, H, L, L)


class T5EncoderModel(Pretrained):
    """The encoder of T5: tokens in, features out; positions count by their distance only.

    The published files of the whole T5 load as they are; what belongs to the decoder is left out.

    Args:
        vocab_size: how many tokens there are.
        d_model: how many features a token has.
        d_kv: how many features a head has.
        d_ff: the width of the MLPs.
        num_layers: how many blocks there are.
        num_heads: how many heads a block's attention has.
        relative_attention_num_buckets: how many distances are told apart.
        relative_attention_max_distance: from which on they are not.
        dropout_rate: dropout of everything.
        layer_norm_epsilon: what is added to the mean squares.
        feed_forward_proj: "relu" for the first T5, "gated-gelu" for T5 1.1, Flan and mT5.

    Shape:
        tokens and attention_mask (0 for padding) `(N, L)`, result `(N, L, d_model)`.

    Raises:
        ValueError: another `feed_forward_proj`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import models
        >>> net = models.T5EncoderModel(vocab_size=50, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
        >>> net(jnp.array([[3, 1, 4]])).shape
        (1, 3, 8)

    Source: https://arxiv.org/abs/1910.10683; names: https://huggingface.co/docs/transformers/model_doc/t5
    """

    def __init__(
        self,
        vocab_size: int = 32128,
        d_model: int = 512,
        d_kv: int = 64,
        d_ff: int = 2048,
        num_layers: int = 6,
        num_heads: int = 8,
        relative_attention_num_buckets: int = 32,
        relative_attention_max_distance: int = 128,
        dropout_rate: float = 0.1,
        layer_norm_epsilon: float = 1e-6,
        feed_forward_proj: Literal["relu", "gated-gelu"] = "relu",
    ) -> None:
        super().__init__()
        if feed_forward_proj not in ("relu", "gated-gelu"):
            raise ValueError(f"expected feed_forward_proj 'relu' or 'gated-gelu', got {feed_forward_proj!r}")
        self.shared = nn.Embedding(vocab_size, d_model)
        self.encoder = T5Stack(
            vocab_size,
            d_model,
            d_kv,
            d_ff,
            num_layers,
            num_heads,
            relative_attention_num_buckets,
            relative_attention_max_distance,
            dropout_rate,
            layer_norm_epsilon,
            gated=feed_forward_proj == "gated-gelu",
        )
        self.encoder.embed_tokens.weight = self.shared.weight

    def forward(self, tokens: jax.Array, attention_mask: jax.Array | None = None) -> jax.Array:
        return self.encoder(tokens, attention_mask)

    def translated(self, name: str) -> str | None:
        return None if name.startswith(("decoder.", "lm_head.")) else name

    def tied(self) -> dict[str, str]:
        table, twin = "shared.weight", "encoder.embed_tokens.weight"
        return {table: twin, twin: table}


@register
def t5_small_encoder(**sizes: Any) -> T5EncoderModel:
    """https://huggingface.co/google-t5/t5-small: see `T5EncoderModel`."""
    return T5EncoderModel(**sizes)


@register
def t5_base_encoder(**sizes: Any) -> T5EncoderModel:
    """https://huggingface.co/google-t5/t5-base: see `T5EncoderModel`."""
    return T5EncoderModel(**{"d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12, **sizes})


@register
def t5_large_encoder(**sizes: Any) -> T5EncoderModel:
    """https://huggingface.co/google-t5/t5-large: see `T5EncoderModel`."""
    return T5EncoderModel(**{"d_model": 1024, "d_ff": 4096, "num_layers": 24, "num_heads": 16, **sizes})


@register
def t5_v1_1_xxl_encoder(**sizes: Any) -> T5EncoderModel:
    """https://huggingface.co/google/t5-v1_1-xxl, which reads the prompts of image generators: see `T5EncoderModel`."""
    own = {"d_model": 4096, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "feed_forward_proj": "gated-gelu"}
    return T5EncoderModel(**{**own, **sizes})
