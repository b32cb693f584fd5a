"""What the language models share: heads of attention, their first weights, and older names of their checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from flambeau import nn
from flambeau._errors import ShapeError
from flambeau.nn import init

__all__ = ["Pretrained", "draw_normal", "merge_heads", "padding_mask", "split_heads"]


def split_heads(x: jax.Array, heads: int) -> jax.Array:
    """The features of each position, dealt out to the heads."""
    batch, length, features = x.shape
    return x.reshape(batch, length, heads, features // heads).swapaxes(1, 2)  # (N, L, H·E) -> (N, H, L, E)


def merge_heads(x: jax.Array) -> jax.Array:
    """The heads' features side by side."""
    batch, heads, length, features = x.shape
    return x.swapaxes(1, 2).reshape(batch, length, heads * features)  # (N, H, L, E) -> (N, L, H·E)


def draw_normal(module: nn.Module, std: float) -> None:
    """Draws the weights of all linear layers and tables of `module` from N(0, std²), and sets biases to zero."""
    for layer in module.modules():
        if not isinstance(layer, (nn.Linear, nn.Embedding)):
            continue
        init.normal_(layer.weight, std=std)
        if isinstance(layer, nn.Linear) and layer.bias is not None:
            init.zeros_(layer.bias)
        elif isinstance(layer, nn.Embedding) and layer.padding_idx is not None:
            layer.weight = layer.weight.at[layer.padding_idx].set(0)


class Pretrained(nn.Module):
    """A network of whose published checkpoints some name their entries otherwise, hold more, or hold tied ones once."""

    def translated(self, name: str) -> str | None:
        """The present name of an entry of a checkpoint; None for one that is of no use."""
        return name

    def tied(self) -> dict[str, str]:
        """The names that a checkpoint may lack, each with that of the same array."""
        return {}

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Brings the names up to date, in place: what is loaded into the layers below is taken from the same dict."""
        assert isinstance(state_dict, dict)
        given = {key: state_dict.pop(key) for key in list(state_dict) if key.startswith(prefix)}
        for key, value in given.items():
            name = self.translated(key.removeprefix(prefix))
            if name is not None:
                state_dict[prefix + name] = value
        for name, twin in self.tied().items():
            if prefix + name not in state_dict and prefix + twin in state_dict:
                state_dict[prefix + name] = state_dict[prefix + twin]
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


def padding_mask(tokens: jax.Array, attention_mask: jax.Array | None) -> jax.Array | None:
    """True for the tokens that any other may look at: `(N, 1, 1, L)`; None for all of them.

    Raises:
        ShapeError: the tokens are no integers `(N, L)`, or the mask has another shape.
    """
    if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise ShapeError(f"expected integer tokens (N, L), got {tokens.dtype}{list(tokens.shape)}")
    if attention_mask is None:
        return None
    if attention_mask.shape != tokens.shape:
        raise ShapeError(
            f"expected attention_mask of the tokens' shape {list(tokens.shape)}, got {list(attention_mask.shape)}"
        )
    return (attention_mask != 0)[:, None, None, :]
