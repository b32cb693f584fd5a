"""GPT-2, with the names of `GPT2LMHeadModel` in Hugging Face's transformers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from flambeau import nn
from flambeau.models._language import Pretrained, draw_normal, merge_heads, split_heads
from flambeau.models._registry import register
from flambeau.models.generation import Decoder, KVCache, LayerCache, Window, attend, window
from flambeau.nn import functional as F
from flambeau.nn import init

__all__ = ["GPT2LMHeadModel", "GPT2Model", "gpt2_large", "gpt2_medium", "gpt2_small", "gpt2_xl"]


class Conv1D(nn.Module):
    """A linear layer whose weight is stored the other way round, `(inputs, outputs)`: y = x W + b."""

    weight: jax.Array
    bias: jax.Array

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        linear = nn.Linear(inputs, outputs)
        self.register_parameter("weight", nn.Parameter(linear.weight.T))
        self.register_parameter("bias", linear.get_parameter("bias"))
        init.zeros_(self.bias)

    def forward(self, input: jax.Array) -> jax.Array:
        return F.linear(input, self.weight.T, self.bias)

    def extra_repr(self) -> str:
        return f"outputs={self.weight.shape[1]}, inputs={self.weight.shape[0]}"


class GPT2Attention(nn.Module):
    """Each token looks at those before it."""

    def __init__(self, n_embd: int, n_head: int, attn_pdrop: float, resid_pdrop: float) -> None:
        super().__init__()
        self.n_head = n_head
        self.c_attn = Conv1D(3 * n_embd, n_embd)
        self.c_proj = Conv1D(n_embd, n_embd)
        self.attn_dropout = nn.Dropout(attn_pdrop)
        self.resid_dropout = nn.Dropout(resid_pdrop)

    def forward(self, x: jax.Array, window: Window, cache: LayerCache | None = None) -> jax.Array:
        query, key, value = (split_heads(part, self.n_head) for part in jnp.split(self.c_attn(x), 3, axis=-1))
        dropout = self.attn_dropout.p if self.training else 0.0
        found = attend(query, key, value, window, cache, dropout)
        return self.resid_dropout(self.c_proj(merge_heads(found)))


class GPT2MLP(nn.Module):
    """Each token by itself."""

    def __init__(self, n_embd: int, n_inner: int, resid_pdrop: float) -> None:
        super().__init__()
        self.c_fc = Conv1D(n_inner, n_embd)
        self.c_proj = Conv1D(n_embd, n_inner)
        self.act = nn.GELU("tanh")
        self.dropout = nn.Dropout(resid_pdrop)

    def forward(self, x: jax.Array) -> jax.Array:
        return self.dropout(self.c_proj(self.act(self.c_fc(x))))


class GPT2Block(nn.Module):
    """Attention and MLP, each with its normalization before it and a shortcut past it."""

    def __init__(
        self, n_embd: int, n_head: int, n_inner: int, attn_pdrop: float, resid_pdrop: float, eps: float
    ) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(n_embd, eps=eps)
        self.attn = GPT2Attention(n_embd, n_head, attn_pdrop, resid_pdrop)
        self.ln_2 = nn.LayerNorm(n_embd, eps=eps)
        self.mlp = GPT2MLP(n_embd, n_inner, resid_pdrop)

    def forward(self, x: jax.Array, window: Window, cache: LayerCache | None = None) -> jax.Array:
        x = x + self.attn(self.ln_1(x), window, cache)
        return x + self.mlp(self.ln_2(x))


class GPT2Model(Pretrained):
    """GPT-2 without its head: tokens in, features out. See `GPT2LMHeadModel` for the arguments.

    Shape:
        tokens `(N, L)`, attention_mask `(N, L)`, result `(N, L, n_embd)`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import models
        >>> net = models.GPT2Model(vocab_size=50, n_positions=16, n_embd=8, n_layer=1, n_head=2)
        >>> net(jnp.array([[3, 1, 4]])).shape
        (1, 3, 8)

    Source: https://huggingface.co/docs/transformers/model_doc/gpt2
    """

    def __init__(
        self,
        vocab_size: int = 50257,
        n_positions: int = 1024,
        n_embd: int = 768,
        n_layer: int = 12,
        n_head: int = 12,
        n_inner: int | None = None,
        resid_pdrop: float = 0.1,
        embd_pdrop: float = 0.1,
        attn_pdrop: float = 0.1,
        layer_norm_epsilon: float = 1e-5,
    ) -> None:
        super().__init__()
        if n_embd % n_head:
            raise ValueError(f"expected n_embd divisible by n_head={n_head}, got {n_embd}")
        inner = 4 * n_embd if n_inner is None else n_inner
        self.wte = nn.Embedding(vocab_size, n_embd)
        self.wpe = nn.Embedding(n_positions, n_embd)
        self.drop = nn.Dropout(embd_pdrop)
        self.h = nn.ModuleList(
            GPT2Block(n_embd, n_head, inner, attn_pdrop, resid_pdrop, layer_norm_epsilon) for _ in range(n_layer)
        )
        self.ln_f = nn.LayerNorm(n_embd, eps=layer_norm_epsilon)
        self.reset_parameters()

    def reset_parameters(self, std: float = 0.02) -> None:
        """Draws the parameters anew: what is added to the shortcut is drawn the smaller, the more layers add to it."""
        draw_normal(self, std)
        for name, layer in self.named_modules():
            if isinstance(layer, Conv1D):
                init.normal_(layer.weight, std=std / (2 * len(self.h)) ** 0.5 if name.endswith("c_proj") else std)

    def forward(
        self, tokens: jax.Array, attention_mask: jax.Array | None = None, cache: KVCache | None = None
    ) -> jax.Array:
        view = window(tokens, attention_mask, cache)
        x = self.drop(self.wte(tokens) + self.wpe(view.positions))
        caches = [None] * len(self.h) if cache is None else cache.layers
        for block, own in zip(self.h, caches, strict=True):
            x = block(x, view, own)
        return self.ln_f(x)

    def translated(self, name: str) -> str | None:
        # Older files hold the causal mask.
        unused = name.startswith("lm_head.") or name.endswith((".attn.bias", ".attn.masked_bias"))
        return None if unused else name.removeprefix("transformer.")


class GPT2LMHeadModel(Pretrained, Decoder):
    """GPT-2: a decoder of n_layer blocks, whose head is the table of tokens once more.

    The published files load as they are, with `transformer.` before their names or without, and with or without the head.

    Args:
        vocab_size: how many tokens there are.
        n_positions: the longest sequence.
        n_embd: how many features a token has.
        n_layer: how many blocks there are.
        n_head: how many heads a block's attention has.
        n_inner: the width of the MLPs; four times n_embd if None.
        resid_pdrop: dropout of what is added to the shortcut.
        embd_pdrop: dropout of the embedded tokens.
        attn_pdrop: dropout of the attention's weights.
        layer_norm_epsilon: what is added to the variances.
        tie_word_embeddings: whether the head shares the table of tokens.

    Shape:
        tokens `(N, L)`, attention_mask `(N, L)`, result `(N, L, vocab_size)`, or `(N, logits_to_keep, vocab_size)`.

    Raises:
        ValueError: `n_head` does not divide `n_embd`.
        ShapeError: the tokens are no integers `(N, L)`, or the mask has another shape.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import models
        >>> net = models.GPT2LMHeadModel(vocab_size=50, n_positions=16, n_embd=8, n_layer=1, n_head=2)
        >>> net(jnp.array([[3, 1, 4]])).shape
        (1, 3, 50)

    Source: Radford et al. 2019, https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf;
    names: https://huggingface.co/docs/transformers/model_doc/gpt2
    """

    def __init__(
        self,
        vocab_size: int = 50257,
        n_positions: int = 1024,
        n_embd: int = 768,
        n_layer: int = 12,
        n_head: int = 12,
        n_inner: int | None = None,
        resid_pdrop: float = 0.1,
        embd_pdrop: float = 0.1,
        attn_pdrop: float = 0.1,
        layer_norm_epsilon: float = 1e-5,
        tie_word_embeddings: bool = True,
    ) -> None:
        super().__init__()
        self.transformer = GPT2Model(
            vocab_size,
            n_positions,
            n_embd,
            n_layer,
            n_head,
            n_inner,
            resid_pdrop,
            embd_pdrop,
            attn_pdrop,
            layer_norm_epsilon,
        )
        self.lm_head = nn.Linear(n_embd, vocab_size, bias=False)
        if tie_word_embeddings:
            self.lm_head.weight = self.transformer.wte.weight
        else:
            init.normal_(self.lm_head.weight, std=0.02)
        self.tie_word_embeddings = tie_word_embeddings
        self.n_head = n_head
        self.max_length = n_positions

    def forward(self, tokens: jax.Array, attention_mask: jax.Array | None = None, logits_to_keep: int = 0) -> jax.Array:
        x = self.transformer(tokens, attention_mask, self.cache)
        return self.lm_head(x[:, -logits_to_keep:])

    def table_size(self) -> int:
        return len(self.transformer.wte.weight)

    def new_cache(self, batch: int, length: int) -> KVCache:
        table = self.transformer.wte.weight
        return KVCache(len(self.transformer.h), batch, self.n_head, length, table.shape[1] // self.n_head, table.dtype)

    def translated(self, name: str) -> str | None:
        return name if name.startswith(("transformer.", "lm_head.")) else f"transformer.{name}"

    def tied(self) -> dict[str, str]:
        return {"lm_head.weight": "transformer.wte.weight"} if self.tie_word_embeddings else {}


@register
def gpt2_small(**sizes: Any) -> GPT2LMHeadModel:
    """The GPT-2 of 124 million parameters, https://huggingface.co/openai-community/gpt2: see `GPT2LMHeadModel`."""
    return GPT2LMHeadModel(**sizes)


@register
def gpt2_medium(n_embd: int = 1024, n_layer: int = 24, n_head: int = 16, **sizes: Any) -> GPT2LMHeadModel:
    """The GPT-2 of 355 million parameters, https://huggingface.co/openai-community/gpt2-medium: see `GPT2LMHeadModel`."""
    return GPT2LMHeadModel(n_embd=n_embd, n_layer=n_layer, n_head=n_head, **sizes)


@register
def gpt2_large(n_embd: int = 1280, n_layer: int = 36, n_head: int = 20, **sizes: Any) -> GPT2LMHeadModel:
    """The GPT-2 of 774 million parameters, https://huggingface.co/openai-community/gpt2-large: see `GPT2LMHeadModel`."""
    return GPT2LMHeadModel(n_embd=n_embd, n_layer=n_layer, n_head=n_head, **sizes)


@register
def gpt2_xl(n_embd: int = 1600, n_layer: int = 48, n_head: int = 25, **sizes: Any) -> GPT2LMHeadModel:
    """The GPT-2 of 1.6 billion parameters, https://huggingface.co/openai-community/gpt2-xl: see `GPT2LMHeadModel`."""
    return GPT2LMHeadModel(n_embd=n_embd, n_layer=n_layer, n_head=n_head, **sizes)
