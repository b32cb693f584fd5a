"""Text from decoders: what they keep of the tokens so far, and the loop that draws one token after the other.

A decoder without a cache looks at all tokens at each step. `make_cache` gives it buffers for the keys and values of every
layer, which `forward` then fills and reads: it is called with the new tokens only. The buffers are not persistent, so
`state_dict` keeps the names of the checkpoint. `generate` does all of this in one compiled program.
"""

from __future__ import annotations

import math
import operator
import weakref
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any, NamedTuple, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.typing import ArrayLike

from flambeau import nn, transforms
from flambeau._errors import DtypeError, ShapeError
from flambeau.models._language import padding_mask
from flambeau.nn import functional as F

__all__ = ["Decoder", "KVCache"]


class Window(NamedTuple):
    """Where the tokens of a call stand, and what they may look at."""

    positions: jax.Array  # (N, L)
    mask: jax.Array | None  # (N, 1, L, S), True where a token may look; None for all up to itself
    start: jax.Array | int  # the slot of the cache that the first token takes
    fresh: bool  # whether nothing comes before these tokens


class LayerCache(nn.Module):
    """The keys and values of one layer, `(N, H, S, E)`."""

    def __init__(self, shape: tuple[int, int, int, int], dtype: Any) -> None:
        super().__init__()
        self.register_buffer("keys", jnp.zeros(shape, dtype), persistent=False)
        self.register_buffer("values", jnp.zeros(shape, dtype), persistent=False)

    def forward(self, key: jax.Array, value: jax.Array, window: Window) -> tuple[jax.Array, jax.Array]:
        """Puts keys and values `(N, H, L, E)` in their slots, and gives all that the window looks at."""
        # What has no place would overwrite the last slots: better no numbers at all. The dtype of what comes is not always
        # the slots': autocast lowers some of it.
        fits = window.start + key.shape[2] <= self.keys.shape[2]
        kept = [jnp.where(fits, new, jnp.nan).astype(self.keys.dtype) for new in (key, value)]
        self.keys = lax.dynamic_update_slice_in_dim(self.keys, kept[0], window.start, axis=2)
        self.values = lax.dynamic_update_slice_in_dim(self.values, kept[1], window.start, axis=2)
        return (key, value) if window.fresh else (self.keys.astype(key.dtype), self.values.astype(value.dtype))


class KVCache(nn.Module):
    """The keys and values of a decoder's layers for the tokens so far, in slots that are filled from left to right.

    Args:
        layers: how many layers the decoder has.
        batch: how many sequences there are.
        heads: how many heads of keys and values a layer has.
        length: how many tokens of each sequence there is place for.
        head_size: how many features a head has.
        dtype: of the keys and values.

    Example:
        >>> from flambeau import models
        >>> cache = models.KVCache(layers=2, batch=1, heads=4, length=16, head_size=8)
        >>> cache.layers[0].keys.shape, list(cache.state_dict())
        ((1, 4, 16, 8), [])
    """

    def __init__(
        self, layers: int, batch: int, heads: int, length: int, head_size: int, dtype: Any = jnp.float32
    ) -> None:
        super().__init__()
        shape = batch, heads, length, head_size
        self.layers = nn.ModuleList(LayerCache(shape, dtype) for _ in range(layers))
        self.register_buffer("valid", jnp.zeros((batch, length), bool), persistent=False)
        self.register_buffer("used", jnp.zeros((), jnp.int32), persistent=False)
        self.empty = True

    def forward(self, real: jax.Array, plain: bool) -> Window:
        """Makes room for tokens, of which `real` `(N, L)` says which are no padding; `plain` that none is."""
        (batch, count), (rows, capacity) = real.shape, self.valid.shape
        start = self.used
        place = capacity - int(_known(start) or 0)
        if batch != rows or count > place:
            raise ShapeError(
                f"expected at most {place} more tokens of {rows} sequences, for which the cache has place, "
                f"got {count} of {batch}; make_cache(batch, length) makes another one"
            )
        seen = self.valid.sum(axis=1, keepdims=True, dtype=jnp.int32)
        self.valid = lax.dynamic_update_slice_in_dim(self.valid, real, start, axis=1)
        self.used = start + count
        window = _looking_back(real, plain)
        if self.empty:
            self.empty = False
            return window._replace(start=start)
        reach = jnp.arange(capacity) <= start + jnp.arange(count)[:, None]  # (L, S)
        mask = self.valid[:, None, None, :] & reach
        return Window(seen + window.positions, mask, start, fresh=False)


def _known(x: jax.Array) -> np.ndarray | None:
    """The values of an array, or None where they are known at run time only, or spread over processes."""
    if isinstance(x, Tracer) or (isinstance(x, jax.Array) and not x.is_fully_addressable):
        return None
    return np.asarray(x)


def _looking_back(real: jax.Array, plain: bool) -> Window:
    """The window of tokens before which there are none; padding takes no position, and nobody looks at it."""
    positions = jnp.maximum(jnp.cumsum(real, axis=1, dtype=jnp.int32) - 1, 0)
    causal = jnp.tri(real.shape[1], dtype=bool)
    return Window(positions, None if plain else causal & real[:, None, None, :], start=0, fresh=True)


def window(tokens: jax.Array, attention_mask: jax.Array | None, cache: KVCache | None) -> Window:
    """Where `tokens` `(N, L)` stand and what they may look at: each other, and what the cache holds."""
    mask = padding_mask(tokens, attention_mask)
    real = jnp.ones(tokens.shape, bool) if mask is None else mask[:, 0, 0]  # (N, L)
    plain = mask is None
    return _looking_back(real, plain) if cache is None else cache(real, plain)


def attend(
    query: jax.Array, key: jax.Array, value: jax.Array, window: Window, cache: LayerCache | None, dropout: float
) -> jax.Array:
    """Attention of the window's tokens to each other and to those before, whose keys and values the cache holds."""
    if cache is not None:
        key, value = cache(key, value, window)
    grouped = query.shape[1] != key.shape[1]
    return F.scaled_dot_product_attention(
        query, key, value, window.mask, dropout, is_causal=window.mask is None, enable_gqa=grouped
    )


class Decoder(nn.Module):
    """A network that gives the logits of the token after each token, and can therefore write.

    A subclass has `forward(tokens, attention_mask=None, logits_to_keep=0)`, which gives the logits `(N, L, V)`, of the last
    `logits_to_keep` tokens only if that is not 0; and `new_cache`. Its forward hands `self.cache` to its layers. With
    `table_size` too, `generate` finds tokens that the network does not know.
    """

    max_length: int | None = None  # the longest sequence that it can look at

    def __init__(self) -> None:
        super().__init__()
        self.register_module("cache", None)

    @abstractmethod
    def new_cache(self, batch: int, length: int) -> nn.Module:
        """An empty cache with place for `length` tokens of `batch` sequences."""

    def table_size(self) -> int | None:
        """How many tokens the network knows; None if any number is a token."""
        return None

    def make_cache(self, batch: int, length: int) -> None:
        """From now on `forward` takes the new tokens only, and remembers those before.

        Args:
            batch: how many sequences there are.
            length: how many tokens of each there is place for. Further ones raise; in a compiled function, where it is not
                known how many there were, they give NaN.

        Example:
            >>> import jax.numpy as jnp
            >>> from flambeau import models
            >>> net = models.GPT2LMHeadModel(vocab_size=50, n_positions=16, n_embd=8, n_layer=1, n_head=2).eval()
            >>> tokens = jnp.array([[3, 1, 4]])
            >>> net.make_cache(batch=1, length=16)
            >>> net(tokens).shape, net(tokens[:, :1]).shape, int(net.cache.used)
            ((1, 3, 50), (1, 1, 50), 4)
            >>> net.drop_cache()
        """
        self.cache = self.new_cache(batch, length)

    def drop_cache(self) -> None:
        """Forgets the tokens so far; `forward` takes whole sequences again."""
        self.cache = None

    def generate(
        self,
        tokens: ArrayLike | Sequence[Any],
        max_new_tokens: SupportsIndex,
        temperature: float | jax.Array = 1.0,
        top_k: SupportsIndex | None = None,
        top_p: float | jax.Array | None = None,
        *,
        attention_mask: ArrayLike | Sequence[Any] | None = None,
        eos_token_id: SupportsIndex | Sequence[SupportsIndex] | None = None,
        pad_token_id: SupportsIndex | None = None,
    ) -> jax.Array:
        """Continues sequences: each next token is drawn from softmax(logits / temperature).

        All of it is one program, which is compiled once for each shape of `tokens`, `max_new_tokens` and `top_k`; other
        temperatures above 0 and `top_p` take the same one, and may be arguments of a compiled function, where they are not
        checked. The random numbers are the default generator's. Layers are as in `eval()` meanwhile, whatever mode they are in;
        mode and cache are afterwards what they were before.

        Args:
            tokens: how the sequences begin. Shorter ones are padded on their left. Those of less than 32 bits become int32.
            max_new_tokens: how many tokens are appended.
            temperature: below 1 for likelier tokens, above for unlikelier ones; 0 takes the likeliest.
            top_k: draws from the k likeliest tokens only.
            top_p: draws from the fewest tokens only which together have at least this probability.
            attention_mask: 0 where `tokens` are padding.
            eos_token_id: the token, or tokens, after which a sequence has ended.
            pad_token_id: what follows the end; the first of `eos_token_id` if None.

        Shape:
            tokens `(N, L)`, attention_mask `(N, L)`, result `(N, L + max_new_tokens)`.

        Raises:
            ShapeError: the tokens are no `(N, L)`, become more than the network can look at, or the mask has another shape.
            DtypeError: the tokens are no integers.
            IndexError: there is no such token.
            TypeError: an option is no number, or no integer where one is expected.
            ValueError: an option is out of range, the padding is not on the left, or there is nothing else.

        Example:
            >>> import jax.numpy as jnp
            >>> from flambeau import models
            >>> net = models.GPT2LMHeadModel(vocab_size=50, n_positions=16, n_embd=8, n_layer=1, n_head=2)
            >>> net.generate(jnp.array([[3, 1, 4]]), max_new_tokens=5, top_k=10).shape
            (1, 8)

        Source: https://huggingface.co/docs/transformers/main_classes/text_generation
        """
        tokens = _prompt(self, jnp.asarray(tokens))
        if attention_mask is not None:
            attention_mask = jnp.asarray(attention_mask)
            _check_mask(tokens, attention_mask)
        count = _integer("max_new_tokens", max_new_tokens)
        top_k = None if top_k is None else _integer("top_k", top_k)
        heat, share = _number("temperature", temperature), None if top_p is None else _number("top_p", top_p)
        _check_ranges(count, heat, top_k, share)
        _check_length(self, tokens, count)
        ends = _integers("eos_token_id", () if eos_token_id is None else eos_token_id)
        if pad_token_id is None:
            pad_token_id = ends[0] if ends else 0
        return _compiled(self)(
            self,
            tokens,
            attention_mask,
            jnp.float32(1 if heat == 0 else temperature),
            None if top_p is None else jnp.float32(top_p),
            jnp.asarray(ends, tokens.dtype),
            jnp.asarray(_integer("pad_token_id", pad_token_id), tokens.dtype),
            greedy=heat == 0,
            top_k=top_k,
            max_new_tokens=count,
        )


def _prompt(model: Decoder, tokens: jax.Array) -> jax.Array:
    """Tokens that the network knows, with room for any that follows them."""
    if tokens.ndim != 2 or tokens.shape[1] == 0:
        raise ShapeError(f"expected tokens (N, L) with L > 0, got {tokens.dtype}{list(tokens.shape)}")
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise DtypeError(f"expected integer tokens, got {tokens.dtype}{list(tokens.shape)}")
    if tokens.dtype.itemsize < 4:
        tokens = tokens.astype(jnp.int32)
    # Compiled, the table would give NaN, of which nothing shows in the tokens that follow.
    values, rows = _known(tokens), model.table_size()
    if values is not None and values.size and rows is not None:
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= rows:
            raise IndexError(f"expected indices in [0, {rows - 1}], got {low if low < 0 else high}")
    return tokens


def _number(name: str, value: float | jax.Array) -> float | None:
    """A number as Python's, or None where it is known at run time only."""
    if not isinstance(value, Real) and getattr(value, "shape", None) != ():
        raise TypeError(f"expected {name} to be a number, got {value!r}")
    return None if isinstance(value, Tracer) else float(value)


def _integer(name: str, value: SupportsIndex) -> int:
    """An integer as Python's."""
    if isinstance(value, Tracer):
        raise TypeError(
            f"expected {name} to be known while compiling, since the program depends on it, got {value}; name it in the "
            "static_argnames of fb.jit"
        )
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"expected {name} to be an int, got {value!r}") from None


def _integers(name: str, values: Any) -> list[int]:
    """Integers as Python's, of one or several."""
    # An array of no dimensions counts as iterable.
    several = isinstance(values, Iterable) and getattr(values, "ndim", 1) > 0
    given: list[Any] = list(values) if several else [values]
    return [_integer(name, value) for value in given]


def _check_mask(tokens: jax.Array, attention_mask: jax.Array) -> None:
    """Raises for a mask of another shape, and for one that is known to hide a last token, or all."""
    padding_mask(tokens, attention_mask)
    mask = _known(attention_mask)
    if mask is None:
        return
    real = mask != 0
    empty = np.flatnonzero(~real.any(axis=1))
    if len(empty):
        raise ValueError(f"expected a token in each row of attention_mask, got none in row {empty[0]}")
    if not real[:, -1].all():
        raise ValueError(
            "expected padding on the left, where it keeps no token from its successor, got some on the right"
        )


def _check_ranges(max_new_tokens: int, temperature: float | None, top_k: int | None, top_p: float | None) -> None:
    wrong = []
    if max_new_tokens < 1:
        wrong.append(f"max_new_tokens > 0, got {max_new_tokens}")
    if temperature is not None and not 0 <= temperature < math.inf:
        wrong.append(f"0 <= temperature < inf, got {temperature}")
    if top_k is not None and top_k < 1:
        wrong.append(f"top_k > 0, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        wrong.append(f"0 < top_p <= 1, got {top_p}")
    if wrong:
        raise ValueError(f"expected {'; '.join(wrong)}")


def _check_length(model: Decoder, tokens: jax.Array, max_new_tokens: int) -> None:
    length = tokens.shape[1] + max_new_tokens
    if model.max_length is not None and length > model.max_length:
        raise ShapeError(
            f"expected at most {model.max_length} tokens, as many as there are positions, got {tokens.shape[1]} "
            f"and max_new_tokens={max_new_tokens}"
        )


class _Choice(NamedTuple):
    """How the next token is chosen."""

    temperature: jax.Array
    top_p: jax.Array | None
    greedy: bool
    top_k: int | None

    def of(self, logits: jax.Array) -> jax.Array:
        """A token for each row of `logits` `(N, V)`."""
        if self.greedy:
            return jnp.argmax(logits, axis=-1)
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        # With 0 for the likeliest, the quotients have the right limit when the temperature vanishes.
        lowest = jnp.finfo(jnp.float32).tiny
        logits = (logits - logits.max(axis=-1, keepdims=True)) / jnp.maximum(self.temperature, lowest)
        if self.top_k is not None or self.top_p is not None:
            count = logits.shape[-1]
            likeliest = lax.top_k(logits, count if self.top_k is None else min(self.top_k, count))[0]  # (N, K)
            logits = jnp.where(logits < self._least(likeliest), -jnp.inf, logits)
        return jnp.argmax(F.gumbel_softmax(logits, hard=True), axis=-1)

    def _least(self, likeliest: jax.Array) -> jax.Array:
        """The least logit of those that are drawn from, of descending ones."""
        if self.top_p is None:
            return likeliest[:, -1:]
        probabilities = jax.nn.softmax(likeliest)
        likelier = jnp.cumsum(probabilities, axis=-1) - probabilities
        return jnp.min(jnp.where(likelier < self.top_p, likeliest, jnp.inf), axis=-1, keepdims=True)


# Each network has its own, so that its programs go when it does.
_programs: weakref.WeakKeyDictionary[Decoder, transforms.Jitted[..., jax.Array]] = weakref.WeakKeyDictionary()


def _compiled(model: Decoder) -> transforms.Jitted[..., jax.Array]:
    if model not in _programs:
        _programs[model] = transforms.jit(_generate, static_argnames=("greedy", "top_k", "max_new_tokens"))
    return _programs[model]


def _generate(
    model: Decoder,
    tokens: jax.Array,
    attention_mask: jax.Array | None,
    temperature: jax.Array,
    top_p: jax.Array | None,
    ends: jax.Array,
    pad: jax.Array,
    *,
    greedy: bool,
    top_k: int | None,
    max_new_tokens: int,
) -> jax.Array:
    """The prompt at once, and then one token after the other until all sequences have ended."""
    training = [module for module in model.modules() if module.training]
    outer = model.cache
    for module in training:
        module.training = False
    batch, prompt = tokens.shape
    choice = _Choice(temperature, top_p, greedy, top_k)
    # The last token is not looked at any more.
    model.make_cache(batch, prompt + max_new_tokens - 1)

    def choose(logits: jax.Array, ended: jax.Array) -> tuple[jax.Array, jax.Array]:
        token = jnp.where(ended, pad, choice.of(logits[:, -1]).astype(tokens.dtype))
        return token, ended | jnp.isin(token, ends)

    def unfinished(state: Any) -> jax.Array:
        count, _, ended, _ = state
        return (count < max_new_tokens) & ~jnp.all(ended)

    def step(state: Any) -> Any:
        count, token, ended, written = state
        token, ended = choose(model(token[:, None]), ended)
        written = lax.dynamic_update_slice_in_dim(written, token[:, None], count, axis=1)
        return count + 1, token, ended, written

    token, ended = choose(model(tokens, attention_mask, logits_to_keep=1), jnp.zeros(batch, bool))
    written = jnp.full((batch, max_new_tokens), pad).at[:, 0].set(token)
    _, _, _, written = transforms.while_loop(unfinished, step, (jnp.int32(1), token, ended, written))
    model.cache = outer
    for module in training:
        module.training = True
    return jnp.concatenate([tokens, written], axis=1)
