"""Attention with several heads."""

from __future__ import annotations

from typing import Any

import jax
from jax.typing import DTypeLike

from flambeau.core.module import Module
from flambeau.nn import functional as F
from flambeau.nn import init
from flambeau.nn._factory import parameter
from flambeau.nn.functional._checks import check_rank
from flambeau.nn.linear import Linear

__all__ = ["MultiheadAttention"]


class NonDynamicallyQuantizableLinear(Linear):
    """A `Linear` with the name that PyTorch gives the last projection of attention, so that both print alike."""


class MultiheadAttention(Module):
    """Attention of several heads: Concat(head₁, …, head_H) Wᵒ with headᵢ = Attention(Q Wᵢᑫ, K Wᵢᵏ, V Wᵢᵛ).

    The initial projections are Xavier-uniform, but for the last one, which is a `Linear`'s; their biases are zeros.
    Dropout's numbers come from the default generator.

    Args:
        embed_dim: the size E of the query and of the result.
        num_heads: the number of heads H, which divides E.
        dropout: the probability that a weight is set to zero in training.
        bias: whether the projections have learnt biases.
        add_bias_kv: whether a learnt key and value are appended to each sequence.
        add_zero_attn: whether a key and a value of zeros are appended.
        kdim: the size K of the key; E if None.
        vdim: the size V of the value; E if None.
        batch_first: whether the batch comes before the positions.
        device: where the parameters lie.
        dtype: the dtype of the parameters.

    Shape:
        query `(L, N, E)`, key `(S, N, K)` and value `(S, N, V)`, or `(N, L, E)`, `(N, S, K)` and `(N, S, V)` with
        `batch_first`, or without N; key_padding_mask `(N, S)`, attn_mask `(L, S)` or `(N·H, L, S)`, result like query, and
        its weights `(N, L, S)`, or `(N, H, L, S)` without `average_attn_weights`.

    Raises:
        ValueError: `embed_dim` and `num_heads` are not positive, or do not divide.
        ShapeError: the shapes do not fit together.
        DtypeError: the inputs have another dtype than the parameters, or a mask is neither bool nor floating.
        RuntimeError: `is_causal` without `attn_mask`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> attention = nn.MultiheadAttention(8, num_heads=2)
        >>> output, weights = attention(jnp.ones((5, 1, 8)), jnp.ones((3, 1, 8)), jnp.ones((3, 1, 8)))
        >>> output.shape, weights.shape
        ((5, 1, 8), (1, 5, 3))
        >>> attention
        MultiheadAttention(
          (out_proj): NonDynamicallyQuantizableLinear(in_features=8, out_features=8, bias=True)
        )

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.MultiheadAttention.html
    """

    in_proj_weight: jax.Array | None
    q_proj_weight: jax.Array | None
    k_proj_weight: jax.Array | None
    v_proj_weight: jax.Array | None
    in_proj_bias: jax.Array | None
    bias_k: jax.Array | None
    bias_v: jax.Array | None
    out_proj: Linear

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: Any = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        super().__init__()
        if embed_dim <= 0 or num_heads <= 0 or embed_dim % num_heads:
            raise ValueError(f"expected num_heads > 0 that divides embed_dim > 0, got {num_heads} and {embed_dim}")
        self.embed_dim = embed_dim
        self.kdim = embed_dim if kdim is None else kdim
        self.vdim = embed_dim if vdim is None else vdim
        self._qkv_same_embed_dim = self.kdim == self.vdim == embed_dim
        self.num_heads = num_heads
        self.dropout = dropout
        self.batch_first = batch_first
        self.head_dim = embed_dim // num_heads
        self.add_zero_attn = add_zero_attn

        def add(name: str, there: bool, *shape: int) -> None:
            self.register_parameter(name, parameter(shape, device, dtype) if there else None)

        add("in_proj_weight", self._qkv_same_embed_dim, 3 * embed_dim, embed_dim)
        for name, size in {"q": embed_dim, "k": self.kdim, "v": self.vdim}.items():
            add(f"{name}_proj_weight", not self._qkv_same_embed_dim, embed_dim, size)
        add("in_proj_bias", bias, 3 * embed_dim)
        self.out_proj = NonDynamicallyQuantizableLinear(embed_dim, embed_dim, bias, device, dtype)
        add("bias_k", add_bias_kv, 1, 1, embed_dim)
        add("bias_v", add_bias_kv, 1, 1, embed_dim)
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        """Draws the parameters anew, but for `out_proj`'s weight, which draws itself."""
        for weight in (self.in_proj_weight, self.q_proj_weight, self.k_proj_weight, self.v_proj_weight):
            if weight is not None:
                init.xavier_uniform_(weight)
        for bias in (self.in_proj_bias, self.out_proj.bias):
            if bias is not None:
                init.zeros_(bias)
        for appended in (self.bias_k, self.bias_v):
            if appended is not None:
                init.xavier_normal_(appended)

    def forward(
        self,
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        key_padding_mask: jax.Array | None = None,
        need_weights: bool = True,
        attn_mask: jax.Array | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[jax.Array, jax.Array | None]:
        """The result and, if asked for, the weights; see `F.multi_head_attention_forward` for the arguments."""
        swapped = self.batch_first and query.ndim == 3
        if swapped:
            # What is one array stays one, so that it is projected at once.
            query, key, value = _swapped(query, key, value)
        output, weights = F.multi_head_attention_forward(
            query,
            key,
            value,
            self.embed_dim,
            self.num_heads,
            self.in_proj_weight,
            self.in_proj_bias,
            self.bias_k,
            self.bias_v,
            self.add_zero_attn,
            self.dropout,
            self.out_proj.weight,
            self.out_proj.bias,
            self.training,
            key_padding_mask,
            need_weights,
            attn_mask,
            not self._qkv_same_embed_dim,
            self.q_proj_weight,
            self.k_proj_weight,
            self.v_proj_weight,
            average_attn_weights=average_attn_weights,
            is_causal=is_causal,
        )
        return output.swapaxes(0, 1) if swapped else output, weights


def _swapped(query: jax.Array, key: jax.Array, value: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Sequences `(N, L, E)` as `(L, N, E)`, each array once."""
    for name, x in {"key": key, "value": value}.items():
        check_rank(x, 3, "(N, S, E)", name)
    once = {id(x): x.swapaxes(0, 1) for x in (query, key, value)}
    return once[id(query)], once[id(key)], once[id(value)]
