"""The layers of a transformer's encoder and decoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
from jax.typing import DTypeLike

from flambeau.core.module import Module
from flambeau.nn import functional as F
from flambeau.nn.activation import GELU, ReLU
from flambeau.nn.attention import MultiheadAttention
from flambeau.nn.dropout import Dropout
from flambeau.nn.linear import Linear
from flambeau.nn.normalization import LayerNorm

__all__ = ["Activation", "Mask", "TransformerDecoderLayer", "TransformerEncoderLayer"]

Activation: TypeAlias = Callable[[jax.Array], jax.Array]
Mask: TypeAlias = jax.Array | None


def _activation(activation: str | Activation) -> Activation:
    """The function of a name, or the function itself."""
    if not isinstance(activation, str):
        return activation
    named: dict[str, Activation] = {"relu": F.relu, "gelu": F.gelu}
    if activation not in named:
        raise RuntimeError(f"expected activation 'relu', 'gelu' or a function, got {activation!r}")
    return named[activation]


def _attended(
    attention: MultiheadAttention, x: jax.Array, memory: jax.Array, mask: Mask, padding: Mask, is_causal: bool
) -> jax.Array:
    """What x finds in the memory."""
    return attention(
        x, memory, memory, attn_mask=mask, key_padding_mask=padding, need_weights=False, is_causal=is_causal
    )[0]


class _Layer(Module):
    """What the layers of encoder and decoder share: the attention to their own sequence, and the two linear maps."""

    def _make(
        self,
        attentions: tuple[str, ...],
        d_model: int,
        nhead: int,
        dim_feedforward: int,
        dropout: float,
        activation: str | Activation,
        layer_norm_eps: float,
        batch_first: bool,
        norm_first: bool,
        bias: bool,
        **place: Any,
    ) -> None:
        """Makes the parts, in PyTorch's order; a normalization and a dropout for each attention and for the linear maps."""
        for name in attentions:
            attention = MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first, **place)
            self.add_module(name, attention)
        self.linear1 = Linear(d_model, dim_feedforward, bias, **place)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias, **place)
        self.norm_first = norm_first
        numbers = range(1, len(attentions) + 2)
        for i in numbers:
            self.add_module(f"norm{i}", LayerNorm(d_model, layer_norm_eps, bias=bias, **place))
        for i in numbers:
            self.add_module(f"dropout{i}", Dropout(dropout))
        self.activation = _activation(activation)

    def _feed_forward(self, x: jax.Array) -> jax.Array:
        return self.linear2(self.dropout(self.activation(self.linear1(x))))


class TransformerEncoderLayer(_Layer):
    """Attention of a sequence to itself, and two linear maps at each position.

    Both are added to what they take, and normalized: x = norm₁(x + attention(x)), y = norm₂(x + linear₂(φ(linear₁(x))));
    or, with `norm_first`, x + attention(norm₁(x)) and so on.

    Args:
        d_model: the size E of each position.
        nhead: the number of heads H of the attention.
        dim_feedforward: the size between the linear maps.
        dropout: the probability of the dropouts: of weights of the attention, between the linear maps, and after both.
        activation: what is between the linear maps: "relu", "gelu", or a function or module of one array.
        layer_norm_eps: what the normalizations add to the variance.
        batch_first: whether the batch comes before the positions.
        norm_first: whether to normalize before attention and linear maps instead of after them.
        bias: whether linear maps and normalizations have a learnt bias.
        device: where the parameters lie.
        dtype: the dtype of the parameters.

    Shape:
        src `(S, N, E)`, `(N, S, E)` with `batch_first`, or `(S, E)`; src_mask `(S, S)` or `(N·H, S, S)`,
        src_key_padding_mask `(N, S)` or `(S,)`, result like src.

    Raises:
        RuntimeError: there is no such activation, or `is_causal` comes without `src_mask`.
        ShapeError: the shapes do not fit together.
        DtypeError: the inputs have another dtype than the parameters, or a mask is neither bool nor floating.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> layer = nn.TransformerEncoderLayer(d_model=8, nhead=2, dim_feedforward=16)
        >>> layer(jnp.ones((10, 3, 8))).shape
        (10, 3, 8)

    Source: https://arxiv.org/abs/1706.03762, and https://arxiv.org/abs/2002.04745 for `norm_first`
    """

    self_attn: MultiheadAttention
    norm1: LayerNorm
    norm2: LayerNorm
    dropout1: Dropout
    dropout2: Dropout

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Activation = F.relu,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        super().__init__()
        self._make(
            ("self_attn",),
            d_model,
            nhead,
            dim_feedforward,
            dropout,
            activation,
            layer_norm_eps,
            batch_first,
            norm_first,
            bias,
            device=device,
            dtype=dtype,
        )

    @property
    def activation_relu_or_gelu(self) -> int:
        """1 for ReLU, 2 for GELU and 0 for another activation, as PyTorch numbers them."""
        for number, function, layer in ((1, F.relu, ReLU), (2, F.gelu, GELU)):
            if self.activation is function or isinstance(self.activation, layer):
                return number
        return 0

    def forward(
        self, src: jax.Array, src_mask: Mask = None, src_key_padding_mask: Mask = None, is_causal: bool = False
    ) -> jax.Array:
        """The sequence after the layer; masks as for `F.multi_head_attention_forward`."""

        def attend(x: jax.Array) -> jax.Array:
            return self.dropout1(_attended(self.self_attn, x, x, src_mask, src_key_padding_mask, is_causal))

        x = src
        if self.norm_first:
            x = x + attend(self.norm1(x))
            return x + self.dropout2(self._feed_forward(self.norm2(x)))
        x = self.norm1(x + attend(x))
        return self.norm2(x + self.dropout2(self._feed_forward(x)))


class TransformerDecoderLayer(_Layer):
    """Attention of a sequence to itself, then to the encoder's result, and two linear maps at each position.

    Each is added to what it takes, and normalized, as in `TransformerEncoderLayer`.

    Args:
        d_model: the size E of each position.
        nhead: the number of heads H of the attentions.
        dim_feedforward: the size between the linear maps.
        dropout: the probability of the dropouts: of weights of the attentions, between the linear maps, and after all.
        activation: what is between the linear maps: "relu", "gelu", or a function or module of one array.
        layer_norm_eps: what the normalizations add to the variance.
        batch_first: whether the batch comes before the positions.
        norm_first: whether to normalize before attentions and linear maps instead of after them.
        bias: whether linear maps and normalizations have a learnt bias.
        device: where the parameters lie.
        dtype: the dtype of the parameters.

    Shape:
        tgt `(T, N, E)` and memory `(S, N, E)`, both with N before with `batch_first`, or without N; tgt_mask `(T, T)` or
        `(N·H, T, T)`, memory_mask `(T, S)` or `(N·H, T, S)`, tgt_key_padding_mask `(N, T)` or `(T,)`,
        memory_key_padding_mask `(N, S)` or `(S,)`, result like tgt.

    Raises:
        RuntimeError: there is no such activation, or a hint of causality comes without its mask.
        ShapeError: the shapes do not fit together.
        DtypeError: the inputs have another dtype than the parameters, or a mask is neither bool nor floating.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> layer = nn.TransformerDecoderLayer(d_model=8, nhead=2, dim_feedforward=16)
        >>> layer(jnp.ones((5, 3, 8)), memory=jnp.ones((10, 3, 8))).shape
        (5, 3, 8)

    Source: https://arxiv.org/abs/1706.03762, and https://arxiv.org/abs/2002.04745 for `norm_first`
    """

    self_attn: MultiheadAttention
    multihead_attn: MultiheadAttention
    norm1: LayerNorm
    norm2: LayerNorm
    norm3: LayerNorm
    dropout1: Dropout
    dropout2: Dropout
    dropout3: Dropout

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Activation = F.relu,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        super().__init__()
        self._make(
            ("self_attn", "multihead_attn"),
            d_model,
            nhead,
            dim_feedforward,
            dropout,
            activation,
            layer_norm_eps,
            batch_first,
            norm_first,
            bias,
            device=device,
            dtype=dtype,
        )

    def forward(
        self,
        tgt: jax.Array,
        memory: jax.Array,
        tgt_mask: Mask = None,
        memory_mask: Mask = None,
        tgt_key_padding_mask: Mask = None,
        memory_key_padding_mask: Mask = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> jax.Array:
        """The sequence after the layer; masks as for `F.multi_head_attention_forward`."""

        def attend(x: jax.Array) -> jax.Array:
            return self.dropout1(_attended(self.self_attn, x, x, tgt_mask, tgt_key_padding_mask, tgt_is_causal))

        def look_up(x: jax.Array) -> jax.Array:
            masks = (memory_mask, memory_key_padding_mask, memory_is_causal)
            return self.dropout2(_attended(self.multihead_attn, x, memory, *masks))

        x = tgt
        if self.norm_first:
            x = x + attend(self.norm1(x))
            x = x + look_up(self.norm2(x))
            return x + self.dropout3(self._feed_forward(self.norm3(x)))
        x = self.norm1(x + attend(x))
        x = self.norm2(x + look_up(x))
        return self.norm3(x + self.dropout3(self._feed_forward(x)))
