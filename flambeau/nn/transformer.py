"""The transformer: encoder and decoder here, their layers from the file beside."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from flambeau._errors import ShapeError
from flambeau.core.module import Module
from flambeau.nn import functional as F
from flambeau.nn import init
from flambeau.nn._factory import zeros
from flambeau.nn._transformer_layers import Activation, Mask, TransformerDecoderLayer, TransformerEncoderLayer
from flambeau.nn.container import ModuleList
from flambeau.nn.functional._checks import describe
from flambeau.nn.functional._inputs import known
from flambeau.nn.normalization import LayerNorm

__all__ = [
    "Transformer",
    "TransformerDecoder",
    "TransformerDecoderLayer",
    "TransformerEncoder",
    "TransformerEncoderLayer",
]


def _copies(layer: Module, count: int) -> ModuleList:
    return ModuleList([copy.deepcopy(layer) for _ in range(count)])


def _is_causal(mask: Mask, hint: bool | None, length: int) -> bool:
    """Whether a mask is the causal one: what the hint says or, without one, what its values say where they are known."""
    if hint is not None or mask is None or mask.shape != (length, length):
        return bool(hint)
    values = known(mask)
    causal = np.triu(np.ones((length, length), bool), 1)
    if values is None:
        return False
    return bool((values == (causal if values.dtype == bool else np.where(causal, -np.inf, 0.0))).all())


class TransformerEncoder(Module):
    """A stack of copies of one encoder layer, which begin with the same parameters.

    Unlike in PyTorch there are no nested tensors, so positions that are padding stay in evaluation too, with numbers of no
    meaning.

    Args:
        encoder_layer: the layer; a `TransformerEncoderLayer`, or a module that is called like one and has a `self_attn`.
        num_layers: how many copies there are.
        norm: a normalization for the result.
        enable_nested_tensor: accepted for PyTorch's sake.
        mask_check: accepted for PyTorch's sake.

    Shape:
        as `TransformerEncoderLayer`.

    Raises:
        RuntimeError: `is_causal` without `mask`.
        ShapeError: the shapes do not fit together.
        DtypeError: the inputs have another dtype than the parameters, or a mask is neither bool nor floating.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> layer = nn.TransformerEncoderLayer(d_model=8, nhead=2, dim_feedforward=16)
        >>> encoder = nn.TransformerEncoder(layer, num_layers=2)
        >>> encoder(jnp.ones((10, 3, 8))).shape
        (10, 3, 8)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.TransformerEncoder.html
    """

    def __init__(
        self,
        encoder_layer: Module,
        num_layers: int,
        norm: Module | None = None,
        enable_nested_tensor: bool = True,
        mask_check: bool = True,
    ) -> None:
        super().__init__()
        self.layers = _copies(encoder_layer, num_layers)
        self.num_layers = num_layers
        self.norm = norm
        self.enable_nested_tensor = enable_nested_tensor
        self.use_nested_tensor = False
        self.mask_check = mask_check

    def forward(
        self, src: jax.Array, mask: Mask = None, src_key_padding_mask: Mask = None, is_causal: bool | None = None
    ) -> jax.Array:
        """The sequence after all layers.

        Where nothing is said of `is_causal`, the values of the mask are looked at; in a compiled function they are not known.
        """
        is_causal = _is_causal(mask, is_causal, _length(src, self.layers))
        for layer in self.layers:
            src = layer(src, src_mask=mask, is_causal=is_causal, src_key_padding_mask=src_key_padding_mask)
        return src if self.norm is None else self.norm(src)


class TransformerDecoder(Module):
    """A stack of copies of one decoder layer, which begin with the same parameters.

    Args:
        decoder_layer: the layer; a `TransformerDecoderLayer`, or a module that is called like one and has a `self_attn`.
        num_layers: how many copies there are.
        norm: a normalization for the result.

    Shape:
        as `TransformerDecoderLayer`.

    Raises:
        RuntimeError: a hint of causality comes without its mask.
        ShapeError: the shapes do not fit together.
        DtypeError: the inputs have another dtype than the parameters, or a mask is neither bool nor floating.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> layer = nn.TransformerDecoderLayer(d_model=8, nhead=2, dim_feedforward=16)
        >>> decoder = nn.TransformerDecoder(layer, num_layers=2)
        >>> decoder(jnp.ones((5, 3, 8)), memory=jnp.ones((10, 3, 8))).shape
        (5, 3, 8)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.TransformerDecoder.html
    """

    def __init__(self, decoder_layer: Module, num_layers: int, norm: Module | None = None) -> None:
        super().__init__()
        self.layers = _copies(decoder_layer, num_layers)
        self.num_layers = num_layers
        self.norm = norm

    def forward(
        self,
        tgt: jax.Array,
        memory: jax.Array,
        tgt_mask: Mask = None,
        memory_mask: Mask = None,
        tgt_key_padding_mask: Mask = None,
        memory_key_padding_mask: Mask = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> jax.Array:
        """The sequence after all layers.

        Where nothing is said of `tgt_is_causal`, the values of the mask are looked at; in a compiled function they are not
        known.
        """
        tgt_is_causal = _is_causal(tgt_mask, tgt_is_causal, _length(tgt, self.layers))
        for layer in self.layers:
            tgt = layer(
                tgt,
                memory,
                tgt_mask=tgt_mask,
                memory_mask=memory_mask,
                tgt_key_padding_mask=tgt_key_padding_mask,
                memory_key_padding_mask=memory_key_padding_mask,
                tgt_is_causal=tgt_is_causal,
                memory_is_causal=memory_is_causal,
            )
        return tgt if self.norm is None else self.norm(tgt)


def _length(x: jax.Array, layers: ModuleList) -> int:
    """How many positions a sequence has that is given to these layers."""
    first: Any = layers[0]
    return x.shape[1 if x.ndim == 3 and first.self_attn.batch_first else 0]


class Transformer(Module):
    """An encoder, and a decoder that attends to its result.

    All matrices begin Xavier-uniform. Dropout's numbers come from the default generator.

    Args:
        d_model: the size E of each position.
        nhead: the number of heads H of the attentions.
        num_encoder_layers: the number of layers of the encoder.
        num_decoder_layers: the number of layers of the decoder.
        dim_feedforward: the size between the linear maps of each layer.
        dropout: the probability of the dropouts.
        activation: what is between the linear maps: "relu", "gelu", or a function or module of one array.
        custom_encoder: takes the place of the encoder.
        custom_decoder: takes the place of the decoder.
        layer_norm_eps: what the normalizations add to the variance.
        batch_first: whether the batch comes before the positions.
        norm_first: whether the layers normalize before attentions and linear maps instead of after them.
        bias: whether linear maps and normalizations have a learnt bias.
        device: where the parameters lie.
        dtype: the dtype of the parameters.

    Shape:
        src `(S, N, E)` and tgt `(T, N, E)`, both with N before with `batch_first`, or without N; src_mask `(S, S)` or
        `(N·H, S, S)`, tgt_mask `(T, T)` or `(N·H, T, T)`, memory_mask `(T, S)` or `(N·H, T, S)`, src_key_padding_mask and
        memory_key_padding_mask `(N, S)` or `(S,)`, tgt_key_padding_mask `(N, T)` or `(T,)`, result like tgt.

    Raises:
        RuntimeError: there is no such activation, or a hint of causality comes without its mask.
        ShapeError: the shapes do not fit together.
        DtypeError: the inputs have another dtype than the parameters, or a mask is neither bool nor floating.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> net = nn.Transformer(8, 2, num_encoder_layers=1, num_decoder_layers=1, dim_feedforward=16)
        >>> net(jnp.ones((10, 3, 8)), jnp.ones((5, 3, 8)), tgt_mask=net.generate_square_subsequent_mask(5)).shape
        (5, 3, 8)

    Source: https://arxiv.org/abs/1706.03762
    """

    def __init__(
        self,
        d_model: int = 512,
        nhead: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Activation = F.relu,
        custom_encoder: Any | None = None,
        custom_decoder: Any | None = None,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        super().__init__()

        def make(stack: Callable[..., Module], layer: Callable[..., Module], count: int) -> Module:
            shape = (
                d_model,
                nhead,
                dim_feedforward,
                dropout,
                activation,
                layer_norm_eps,
                batch_first,
                norm_first,
                bias,
            )
            norm = LayerNorm(d_model, layer_norm_eps, bias=bias, device=device, dtype=dtype)
            return stack(layer(*shape, device, dtype), count, norm)

        if custom_encoder is None:
            custom_encoder = make(TransformerEncoder, TransformerEncoderLayer, num_encoder_layers)
        if custom_decoder is None:
            custom_decoder = make(TransformerDecoder, TransformerDecoderLayer, num_decoder_layers)
        self.encoder = custom_encoder
        self.decoder = custom_decoder
        self._reset_parameters()
        self.d_model = d_model
        self.nhead = nhead
        self.batch_first = batch_first

    def _reset_parameters(self) -> None:
        """Draws all matrices anew."""
        for weight in self.parameters():
            if weight.ndim > 1:
                init.xavier_uniform_(weight)

    def forward(
        self,
        src: jax.Array,
        tgt: jax.Array,
        src_mask: Mask = None,
        tgt_mask: Mask = None,
        memory_mask: Mask = None,
        src_key_padding_mask: Mask = None,
        tgt_key_padding_mask: Mask = None,
        memory_key_padding_mask: Mask = None,
        src_is_causal: bool | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> jax.Array:
        """The target sequence after the decoder; masks and hints as for `TransformerEncoder` and `TransformerDecoder`."""
        self._check(src, tgt)
        memory = self.encoder(src, mask=src_mask, src_key_padding_mask=src_key_padding_mask, is_causal=src_is_causal)
        return self.decoder(
            tgt,
            memory,
            tgt_mask=tgt_mask,
            memory_mask=memory_mask,
            tgt_key_padding_mask=tgt_key_padding_mask,
            memory_key_padding_mask=memory_key_padding_mask,
            tgt_is_causal=tgt_is_causal,
            memory_is_causal=memory_is_causal,
        )

    def _check(self, src: jax.Array, tgt: jax.Array) -> None:
        """Raises unless these are sequences of one batch and of the size of the model."""
        size, batch = self.d_model, 0 if self.batch_first else 1
        fit = src.ndim == tgt.ndim and src.ndim in (2, 3) and src.shape[-1] == tgt.shape[-1] == size
        if not fit or (src.ndim == 3 and src.shape[batch] != tgt.shape[batch]):
            shapes = ("(N, S, {})", "(N, T, {})") if self.batch_first else ("(S, N, {})", "(T, N, {})")
            src_shape, tgt_shape = (shape.format(size) for shape in shapes)
            raise ShapeError(
                f"expected src {src_shape} or (S, {size}) and tgt {tgt_shape} or (T, {size}), "
                f"got {describe(src)} and {describe(tgt)}"
            )

    @staticmethod
    def generate_square_subsequent_mask(sz: int, device: Any = None, dtype: DTypeLike | None = None) -> jax.Array:
        """The causal mask `(sz, sz)`: 0 where position i may meet position j ≤ i, and -inf elsewhere.

        Example:
            >>> from flambeau import nn
            >>> nn.Transformer.generate_square_subsequent_mask(2)
            Array([[  0., -inf],
                   [  0.,   0.]], dtype=float32)
        """
        mask = zeros((sz, sz), device, dtype)
        return jnp.where(jnp.tri(sz, dtype=bool), mask, jnp.array(-jnp.inf, mask.dtype))
