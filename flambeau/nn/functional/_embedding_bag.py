"""Lookups of several rows of a table at once, of which each bag gives one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from flambeau._errors import ShapeError
from flambeau.nn.functional._checks import describe
from flambeau.nn.functional._inputs import check_integer, known
from flambeau.nn.functional._math import widen
from flambeau.nn.functional.embedding import embedding

__all__ = ["embedding_bag"]

_MODES = ("sum", "mean", "max")


def embedding_bag(
    input: jax.Array,
    weight: jax.Array,
    offsets: jax.Array | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: jax.Array | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> jax.Array:
    """Looks up rows of a table and takes the sum, mean or maximum of each bag of them: y_b = Σ_{i in b} w_i weight[input_i].

    A bag with nothing in it is zeros. As with `embedding`, `weight` is not changed where `max_norm` is given, and an index
    outside of the table that is not known before it runs gives NaN.

    Args:
        input: the indices; a row is a bag, or `offsets` tells the bags.
        weight: the table.
        offsets: where each bag begins, in order, the first at 0.
        max_norm: the largest norm a row may have; larger ones are scaled down, and the gradient takes no notice of it.
        norm_type: the p of that norm.
        scale_grad_by_freq: whether to divide the gradient of a row by how often `input` holds its index (PyTorch, on the
            CPU, may take another row's number); not for "max".
        mode: "sum", "mean" or "max".
        sparse: only False; JAX has no sparse gradients.
        per_sample_weights: a factor for each index; only for "sum".
        include_last_offset: whether the last offset is where the last bag ends.
        padding_idx: a row (negative: from the end) that belongs to no bag.

    Shape:
        input `(B, L)`, or `(L,)` with offsets `(B,)` or `(B + 1,)`, weight `(V, D)`, per_sample_weights like input, result
        `(B, D)`.

    Raises:
        ShapeError: the shapes do not fit, or `weight` is no matrix.
        DtypeError: `input` or `offsets` holds no integers.
        IndexError: an index is outside of the table.
        AssertionError: `padding_idx` is outside of the table.
        RuntimeError: the offsets do not begin at 0, or go beyond the input.
        ValueError: there is no such mode, or options do not go together.

    Example:
        >>> table = jnp.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
        >>> embedding_bag(jnp.array([2, 0, 1]), table, jnp.array([0, 2]))
        Array([[2., 3.],
               [2., 3.]], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.embedding_bag.html
    """
    _check_settings(mode, scale_grad_by_freq, per_sample_weights)
    if per_sample_weights is not None and per_sample_weights.shape != input.shape:
        raise ShapeError(f"expected per_sample_weights {input.shape} like input, got {describe(per_sample_weights)}")
    if input.ndim not in (1, 2):
        raise ShapeError(f"expected input (B, L) or (L,), got {describe(input)}")
    if (offsets is None) == (input.ndim == 1):
        given = "none" if offsets is None else describe(offsets)
        raise ShapeError(f"expected offsets for input (L,), and none for (B, L), got {given} for {describe(input)}")
    rows = widen(embedding(input, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse))
    counts = jnp.ones(input.shape, bool)
    if padding_idx is not None:
        counts = input != padding_idx % weight.shape[0]
    if per_sample_weights is not None:
        rows = rows * per_sample_weights[..., None]
    if offsets is None:
        return _rows_of_bags(rows, counts, mode).astype(weight.dtype)
    bags, number = _bags(offsets, input.shape[0], include_last_offset)
    return _segments(rows, counts, bags, number, mode).astype(weight.dtype)


def _check_settings(mode: str, scale_grad_by_freq: bool, per_sample_weights: jax.Array | None) -> None:
    wrong = []
    if mode not in _MODES:
        wrong.append(f"expected mode 'sum', 'mean' or 'max', got {mode!r}")
    if mode == "max" and scale_grad_by_freq:
        wrong.append("expected scale_grad_by_freq=False for mode 'max'")
    if mode != "sum" and per_sample_weights is not None:
        wrong.append(f"expected no per_sample_weights for mode {mode!r}")
    if wrong:
        raise ValueError("; ".join(wrong))


def _bags(offsets: jax.Array, length: int, include_last: bool) -> tuple[jax.Array, int]:
    """The bag that each index belongs to, and how many bags there are."""
    check_integer(offsets, "offsets")
    if offsets.ndim != 1 or (include_last and not offsets.size):
        raise ShapeError(f"expected offsets {'(B + 1,)' if include_last else '(B,)'}, got {describe(offsets)}")
    values = known(offsets)
    if values is not None and values.size and (values[0] != 0 or values[-1] > length):
        raise RuntimeError(f"expected offsets from 0 to at most {length}, got {values[0]} to {values[-1]}")
    starts = jnp.zeros(length, jnp.int32).at[offsets].add(1, mode="drop")
    return jnp.cumsum(starts) - 1, offsets.shape[0] - include_last


def _average(total: jax.Array, count: jax.Array) -> jax.Array:
    return total / jnp.maximum(count, 1).astype(total.dtype)[:, None]


def _rows_of_bags(rows: jax.Array, counts: jax.Array, mode: str) -> jax.Array:
    """The result for bags of one size, `(B, L, D)`."""
    if mode == "max":
        if rows.shape[1] == 0:
            return jnp.zeros((rows.shape[0], rows.shape[2]), rows.dtype)
        # Of equal maxima the first gets the gradient, as in PyTorch.
        first = jnp.argmax(jnp.where(counts[..., None], rows, -jnp.inf), 1, keepdims=True)
        return jnp.where(counts.any(1)[:, None], jnp.take_along_axis(rows, first, 1)[:, 0], 0)
    total = jnp.sum(jnp.where(counts[..., None], rows, 0), 1)
    return total if mode == "sum" else _average(total, jnp.sum(counts, 1))


def _segments(rows: jax.Array, counts: jax.Array, bags: jax.Array, number: int, mode: str) -> jax.Array:
    """The result for bags of any sizes, whose rows `(L, D)` come one after the other."""
    if mode == "max":
        return _segment_max(rows, counts, bags, number)
    total = jax.ops.segment_sum(jnp.where(counts[:, None], rows, 0), bags, number, indices_are_sorted=True)
    if mode == "sum":
        return total
    return _average(total, jax.ops.segment_sum(counts.astype(int), bags, number, indices_are_sorted=True))


def _segment_max(rows: jax.Array, counts: jax.Array, bags: jax.Array, number: int) -> jax.Array:
    length = rows.shape[0]
    if length == 0:
        return jnp.zeros((number, rows.shape[1]), rows.dtype)
    values = lax.stop_gradient(jnp.where(counts[:, None], rows, -jnp.inf))
    peaks = jax.ops.segment_max(values, bags, number, indices_are_sorted=True)
    # The first place of each maximum, which alone gets the gradient, as in PyTorch; a NaN is one.
    holds = counts[:, None] & ((values == peaks[bags]) | jnp.isnan(values))
    places = jnp.where(holds, jnp.arange(length)[:, None], length)
    first = jax.ops.segment_min(places, bags, number, indices_are_sorted=True)
    found = jnp.take_along_axis(rows, jnp.minimum(first, length - 1), 0)
    return jnp.where(first < length, found, 0)
