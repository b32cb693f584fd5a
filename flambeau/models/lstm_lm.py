"""A language model on an LSTM, with the names of PyTorch's example `word_language_model`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from flambeau import nn
from flambeau._errors import ShapeError
from flambeau.models._language import padding_mask
from flambeau.models._registry import register
from flambeau.models.generation import Decoder
from flambeau.nn import init

__all__ = ["LSTMLanguageModel"]


class Memory(nn.Module):
    """Output and cell state of each layer of an LSTM, `(layers, N, H)`, after the tokens so far."""

    def __init__(self, layers: int, batch: int, size: int, dtype: Any) -> None:
        super().__init__()
        self.register_buffer("hidden", jnp.zeros((layers, batch, size), dtype), persistent=False)
        self.register_buffer("cell", jnp.zeros((layers, batch, size), dtype), persistent=False)


@register
class LSTMLanguageModel(Decoder):
    """A table of tokens, an LSTM, and a linear head.

    With `make_cache(batch)` the LSTM goes on where the call before ended, as one trains it on a long text that is cut into
    pieces: gradients end where a piece begins. Two things differ from PyTorch's example: the batch comes first, and the
    result are logits, for `F.cross_entropy`, rather than their log-softmax.

    Args:
        ntoken: how many tokens there are.
        ninp: how many features a token has.
        nhid: how many features a layer of the LSTM has.
        nlayers: how many layers it has.
        dropout: between the layers, before them, and after them.
        tie_weights: whether the head shares the table of tokens.

    Shape:
        tokens `(N, L)`, result `(N, L, ntoken)`, or `(N, logits_to_keep, ntoken)`.

    Raises:
        ValueError: `tie_weights` with `nhid` unlike `ninp`, or an `attention_mask`, since an LSTM reads what is padding too.
        ShapeError: the tokens are no integers `(N, L)`, or not as many sequences as the cache is for.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import models
        >>> net = models.LSTMLanguageModel(ntoken=50, ninp=8, nhid=8, nlayers=1, dropout=0.0)
        >>> net(jnp.array([[3, 1, 4]])).shape
        (1, 3, 50)
        >>> net.generate(jnp.array([[3, 1, 4]]), max_new_tokens=5).shape
        (1, 8)

    Source: https://github.com/pytorch/examples/tree/main/word_language_model
    """

    def __init__(
        self,
        ntoken: int = 33278,
        ninp: int = 200,
        nhid: int = 200,
        nlayers: int = 2,
        dropout: float = 0.2,
        tie_weights: bool = False,
    ) -> None:
        super().__init__()
        if tie_weights and nhid != ninp:
            raise ValueError(f"expected nhid like ninp={ninp} with tie_weights, got {nhid}")
        self.drop = nn.Dropout(dropout)
        self.encoder = nn.Embedding(ntoken, ninp)
        # PyTorch warns of dropout between the layers where there is one layer only.
        self.rnn = nn.LSTM(ninp, nhid, nlayers, batch_first=True, dropout=dropout if nlayers > 1 else 0.0)
        self.decoder = nn.Linear(nhid, ntoken)
        if tie_weights:
            self.decoder.weight = self.encoder.weight
        init.uniform_(self.encoder.weight, -0.1, 0.1)
        init.uniform_(self.decoder.weight, -0.1, 0.1)
        assert self.decoder.bias is not None
        init.zeros_(self.decoder.bias)

    def forward(self, tokens: jax.Array, attention_mask: jax.Array | None = None, logits_to_keep: int = 0) -> jax.Array:
        padding_mask(tokens, None)
        if attention_mask is not None:
            raise ValueError(
                "expected no attention_mask, since an LSTM reads all tokens; give it sequences of one length"
            )
        x, memory = self.drop(self.encoder(tokens)), self.cache
        if memory is None:
            x, _ = self.rnn(x)
        else:
            if memory.hidden.shape[1] != len(tokens):
                raise ShapeError(f"expected {memory.hidden.shape[1]} sequences, as in the cache, got {len(tokens)}")
            x, (memory.hidden, memory.cell) = self.rnn(x, (memory.hidden, memory.cell))
        return self.decoder(self.drop(x)[:, -logits_to_keep:])

    def table_size(self) -> int:
        return len(self.encoder.weight)

    def new_cache(self, batch: int, length: int) -> Memory:
        return Memory(self.rnn.num_layers, batch, self.rnn.hidden_size, self.encoder.weight.dtype)
