"""BERT, with the names of `BertModel` and `BertForMaskedLM` in Hugging Face's transformers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from flambeau import nn
from flambeau.models._language import Pretrained, draw_normal, merge_heads, padding_mask, split_heads
from flambeau.models._registry import register
from flambeau.nn import functional as F

__all__ = ["BertForMaskedLM", "BertModel", "bert_base_cased", "bert_base_uncased", "bert_large_uncased"]


class BertEmbeddings(nn.Module):
    """The sum of what a token is, where it stands, and which of two texts it belongs to."""

    def __init__(
        self,
        vocab_size: int,
        hidden_size: int,
        positions: int,
        types: int,
        padding: int | None,
        dropout: float,
        eps: float,
    ) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocab_size, hidden_size, padding_idx=padding)
        self.position_embeddings = nn.Embedding(positions, hidden_size)
        self.token_type_embeddings = nn.Embedding(types, hidden_size)
        self.LayerNorm = nn.LayerNorm(hidden_size, eps=eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: jax.Array, token_type_ids: jax.Array | None = None) -> jax.Array:
        types = jnp.zeros_like(tokens) if token_type_ids is None else token_type_ids
        x = self.word_embeddings(tokens) + self.token_type_embeddings(types)
        x = x + self.position_embeddings(jnp.arange(tokens.shape[1]))
        return self.dropout(self.LayerNorm(x))


class BertSelfAttention(nn.Module):
    """Each token looks at all that are no padding."""

    def __init__(self, hidden_size: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size)
        self.value = nn.Linear(hidden_size, hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        query, key, value = (split_heads(project(x), self.heads) for project in (self.query, self.key, self.value))
        dropout = self.dropout.p if self.training else 0.0
        return merge_heads(F.scaled_dot_product_attention(query, key, value, mask, dropout))


class BertOutput(nn.Module):
    """What ends both halves of a layer: a projection, the shortcut, and only then the normalization."""

    def __init__(self, inputs: int, hidden_size: int, dropout: float, eps: float) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, hidden_size)
        self.LayerNorm = nn.LayerNorm(hidden_size, eps=eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: jax.Array, shortcut: jax.Array) -> jax.Array:
        return self.LayerNorm(self.dropout(self.dense(x)) + shortcut)


class BertLayer(nn.Module):
    """Attention, and an MLP."""

    def __init__(
        self, hidden_size: int, heads: int, intermediate_size: int, dropout: float, attention_dropout: float, eps: float
    ) -> None:
        super().__init__()
        self.attention = nn.ModuleDict(
            {
                "self": BertSelfAttention(hidden_size, heads, attention_dropout),
                "output": BertOutput(hidden_size, hidden_size, dropout, eps),
            }
        )
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(hidden_size, intermediate_size)})
        self.output = BertOutput(intermediate_size, hidden_size, dropout, eps)

    def forward(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        x = self.attention["output"](self.attention["self"](x, mask), x)
        return self.output(F.gelu(self.intermediate["dense"](x)), x)


class BertModel(Pretrained):
    """BERT without its heads: tokens in, features out, and a summary of all of them.

    The published files load as they are, with `bert.` before their names or without.

    Args:
        vocab_size: how many tokens there are.
        hidden_size: how many features a token has.
        num_hidden_layers: how many layers there are.
        num_attention_heads: how many heads a layer's attention has.
        intermediate_size: the width of the MLPs.
        hidden_dropout_prob: dropout of the embedded tokens, and of what is added to the shortcut.
        attention_probs_dropout_prob: dropout of the attention's weights.
        max_position_embeddings: the longest sequence.
        type_vocab_size: how many texts a sequence may consist of.
        layer_norm_eps: what is added to the variances.
        pad_token_id: the token whose row of the table gets no gradient.
        add_pooling_layer: whether there is the summary.

    Shape:
        tokens, attention_mask (0 for padding) and token_type_ids `(N, L)`, result `(N, L, hidden_size)` and
        `(N, hidden_size)`, or None without the summary.

    Raises:
        ValueError: `num_attention_heads` does not divide `hidden_size`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import models
        >>> sizes = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
        >>> features, summary = models.BertModel(vocab_size=50, **sizes)(jnp.array([[3, 1, 4]]))
        >>> features.shape, summary.shape
        ((1, 3, 8), (1, 8))

    Source: https://arxiv.org/abs/1810.04805; names: https://huggingface.co/docs/transformers/model_doc/bert
    """

    def __init__(
        self,
        vocab_size: int = 30522,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        intermediate_size: int = 3072,
        hidden_dropout_prob: float = 0.1,
        attention_probs_dropout_prob: float = 0.1,
        max_position_embeddings: int = 512,
        type_vocab_size: int = 2,
        layer_norm_eps: float = 1e-12,
        pad_token_id: int | None = 0,
        add_pooling_layer: bool = True,
    ) -> None:
        super().__init__()
        if hidden_size % num_attention_heads:
            raise ValueError(
                f"expected hidden_size divisible by num_attention_heads={num_attention_heads}, got {hidden_size}"
            )
        dropout, eps = hidden_dropout_prob, layer_norm_eps
        self.embeddings = BertEmbeddings(
            vocab_size, hidden_size, max_position_embeddings, type_vocab_size, pad_token_id, dropout, eps
        )
        layer = hidden_size, num_attention_heads, intermediate_size, dropout, attention_probs_dropout_prob, eps
        layers = nn.ModuleList(BertLayer(*layer) for _ in range(num_hidden_layers))
        self.encoder = nn.ModuleDict({"layer": layers})
        self.pooler = nn.ModuleDict({"dense": nn.Linear(hidden_size, hidden_size)}) if add_pooling_layer else None
        draw_normal(self, 0.02)

    def forward(
        self, tokens: jax.Array, attention_mask: jax.Array | None = None, token_type_ids: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array | None]:
        mask = padding_mask(tokens, attention_mask)
        x = self.embeddings(tokens, token_type_ids)
        for layer in self.encoder["layer"].children():
            x = layer(x, mask)
        return x, None if self.pooler is None else jnp.tanh(self.pooler["dense"](x[:, 0]))

    def translated(self, name: str) -> str | None:
        name = name.removeprefix("bert.")
        if name == "embeddings.position_ids" or name.startswith("cls."):
            return None
        if name.startswith("pooler.") and self.pooler is None:
            return None
        # As the files have it that were made from TensorFlow's.
        return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


class BertPredictionHead(nn.Module):
    """Which token stands where: the table of tokens once more, after one layer."""

    def __init__(self, hidden_size: int, vocab_size: int, eps: float) -> None:
        super().__init__()
        self.transform = nn.ModuleDict(
            {"dense": nn.Linear(hidden_size, hidden_size), "LayerNorm": nn.LayerNorm(hidden_size, eps=eps)}
        )
        self.decoder = nn.Linear(hidden_size, vocab_size)
        draw_normal(self, 0.02)
        self.bias = self.decoder.get_parameter("bias")

    def forward(self, x: jax.Array) -> jax.Array:
        return self.decoder(self.transform["LayerNorm"](F.gelu(self.transform["dense"](x))))


class BertForMaskedLM(Pretrained):
    """BERT with its head: which token stands where. See `BertModel` for the arguments.

    Shape:
        tokens, attention_mask (0 for padding) and token_type_ids `(N, L)`, result `(N, L, vocab_size)`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import models
        >>> sizes = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
        >>> models.BertForMaskedLM(vocab_size=50, **sizes)(jnp.array([[3, 1, 4]])).shape
        (1, 3, 50)

    Source: https://arxiv.org/abs/1810.04805; names: https://huggingface.co/docs/transformers/model_doc/bert
    """

    def __init__(
        self, vocab_size: int = 30522, hidden_size: int = 768, layer_norm_eps: float = 1e-12, **sizes: Any
    ) -> None:
        super().__init__()
        self.bert = BertModel(vocab_size, hidden_size, layer_norm_eps=layer_norm_eps, add_pooling_layer=False, **sizes)
        self.cls = nn.ModuleDict({"predictions": BertPredictionHead(hidden_size, vocab_size, layer_norm_eps)})
        self.cls["predictions"].decoder.weight = self.bert.embeddings.word_embeddings.weight

    def forward(
        self, tokens: jax.Array, attention_mask: jax.Array | None = None, token_type_ids: jax.Array | None = None
    ) -> jax.Array:
        return self.cls["predictions"](self.bert(tokens, attention_mask, token_type_ids)[0])

    def translated(self, name: str) -> str | None:
        if name.startswith("cls.seq_relationship."):  # the other head of the pretraining
            return None
        return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")

    def tied(self) -> dict[str, str]:
        head = "cls.predictions"
        table = "bert.embeddings.word_embeddings.weight"
        return {f"{head}.decoder.weight": table, f"{head}.decoder.bias": f"{head}.bias"}


@register
def bert_base_uncased(**sizes: Any) -> BertModel:
    """https://huggingface.co/google-bert/bert-base-uncased: see `BertModel`."""
    return BertModel(**sizes)


@register
def bert_base_cased(vocab_size: int = 28996, **sizes: Any) -> BertModel:
    """https://huggingface.co/google-bert/bert-base-cased: see `BertModel`."""
    return BertModel(vocab_size, **sizes)


@register
def bert_large_uncased(**sizes: Any) -> BertModel:
    """https://huggingface.co/google-bert/bert-large-uncased: see `BertModel`."""
    own = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    return BertModel(**{**own, **sizes})
