"""Lookups by index: rows of a table, and one-hot rows."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from flambeau._errors import ShapeError
from flambeau.nn.functional._checks import describe
from flambeau.nn.functional._inputs import check_integer, known
from flambeau.nn.functional._math import straight_through, vector_norm, widen

__all__ = ["embedding", "one_hot", "renormalize"]


def _check_indices(indices: jax.Array, weight: jax.Array) -> None:
    """Raises unless the indices are integers that, where they are known, are rows of the table."""
    if weight.ndim != 2:
        raise ShapeError(f"expected weight (V, D), got {describe(weight)}")
    check_integer(indices, "input")
    values = known(indices)
    if values is None or values.size == 0:
        return
    low, high, rows = int(values.min()), int(values.max()), weight.shape[0]
    if low < 0 or high >= rows:
        raise IndexError(f"expected indices in [0, {rows - 1}], got {low if low < 0 else high}")


def _rows(weight: jax.Array, indices: jax.Array) -> jax.Array:
    """The rows of the table; NaN for an index outside of it, which nothing else would show under a trace."""
    return weight.at[indices].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


def _clipped(rows: jax.Array, max_norm: float, norm_type: float) -> jax.Array:
    """The rows, those with a norm above `max_norm` brought down to it."""
    wide = widen(rows)
    norms = vector_norm(wide, norm_type, -1, keepdims=True)
    # The 1e-7 is torch's, which so divides without a check for zero.
    return jnp.where(norms > max_norm, wide * (max_norm / (norms + 1e-7)), wide).astype(rows.dtype)


@jax.custom_jvp
def _scale_gradient(x: jax.Array, factor: jax.Array) -> jax.Array:
    """`x`, with a derivative that is `factor` times its own."""
    return x


@_scale_gradient.defjvp
def _scale_gradient_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    return _scale_gradient(*primals), tangents[0] * primals[1]


def _inverse_counts(indices: jax.Array, rows: int, dtype: jnp.dtype) -> jax.Array:
    """One over how often each index occurs among `indices`, in the place of each."""
    counts = jnp.zeros(rows, jnp.int32).at[indices].add(1)
    return 1 / counts[indices].astype(dtype)


def _padding_row(padding_idx: int | None, rows: int) -> int | None:
    """`padding_idx` counted from the front."""
    if padding_idx is None:
        return None
    if not -rows <= padding_idx < rows:
        # PyTorch raises this class here.
        raise AssertionError(f"expected padding_idx in [{-rows}, {rows - 1}], got {padding_idx}")
    return padding_idx % rows


def embedding(
    input: jax.Array,
    weight: jax.Array,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> jax.Array:
    """Looks up rows of a table: yᵢ = weight[inputᵢ].

    Unlike PyTorch's, it does not change `weight` where `max_norm` is given: the result holds the rows brought down to
    that norm, and `renormalize` returns the table to keep. An index outside of the table raises where its value is
    known; under a transform it is not, and the row that is returned for it is NaN.

    Args:
        input: the indices.
        weight: the table.
        padding_idx: a row (negative: from the end) that gets no gradient.
        max_norm: the largest norm a row may have; larger ones are scaled down, and the gradient takes no notice of it.
        norm_type: the p of that norm.
        scale_grad_by_freq: whether to divide the gradient of a row by how often `input` holds its index.
        sparse: only False; JAX has no sparse gradients.

    Shape:
        input `(*)`, weight `(V, D)`, result `(*, D)`.

    Raises:
        ShapeError: `weight` is no matrix.
        DtypeError: `input` holds no integers.
        IndexError: an index is outside of the table.
        AssertionError: `padding_idx` is outside of the table.
        ValueError: `sparse` is True.

    Example:
        >>> embedding(jnp.array([2, 0]), jnp.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]))
        Array([[4., 5.],
               [0., 1.]], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.embedding.html
    """
    if sparse:
        raise ValueError("expected sparse=False: JAX has no sparse gradients, and those of an embedding are dense")
    _check_indices(input, weight)
    padding = _padding_row(padding_idx, weight.shape[0])
    rows = _rows(weight, input)
    if max_norm is not None:
        rows = straight_through(rows, _clipped(rows, max_norm, norm_type))
    if scale_grad_by_freq:
        rows = _scale_gradient(rows, _inverse_counts(input, weight.shape[0], rows.dtype)[..., None])
    if padding is not None:
        # Here and not on the table, where it would be a copy of the whole table.
        rows = jnp.where((input == padding)[..., None], jax.lax.stop_gradient(rows), rows)
    return rows


def renormalize(weight: jax.Array, indices: jax.Array, max_norm: float, norm_type: float = 2.0) -> jax.Array:
    """The table, with those of the rows at `indices` that have a larger norm brought down to `max_norm`.

    This is the change that PyTorch's `embedding` makes in place. Its derivative is the identity, as there.

    Args:
        weight: the table.
        indices: the rows to look at, as often as they come.
        max_norm: the largest norm a row may have.
        norm_type: the p of that norm.

    Shape:
        weight `(V, D)`, indices `(*)`, result `(V, D)`.

    Raises:
        ShapeError: `weight` is no matrix.
        DtypeError: `indices` holds no integers.
        IndexError: an index is outside of the table; under a transform, where it is not known, it is passed over.

    Example:
        >>> renormalize(jnp.array([[3.0, 4.0], [6.0, 8.0]]), jnp.array([0, 0]), max_norm=2.5)
        Array([[1.5, 2. ],
               [6. , 8. ]], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.embedding.html
    """
    _check_indices(indices, weight)
    rows = _clipped(_rows(weight, indices), max_norm, norm_type)
    return straight_through(weight, weight.at[indices].set(rows, mode="drop", wrap_negative_indices=False))


def one_hot(tensor: jax.Array, num_classes: int = -1) -> jax.Array:
    """Writes each index as a row of zeros with a one at its place.

    Args:
        tensor: the indices.
        num_classes: how long a row is; -1 for one more than the largest index, which must then be known.

    Shape:
        tensor `(*)`, result `(*, num_classes)` of integers.

    Raises:
        DtypeError: `tensor` holds no integers.
        RuntimeError: an index is negative or not below `num_classes` (under a transform, where it is not known, its row
            is zeros); or `num_classes` is to be found from values that are not known, or from none at all.

    Example:
        >>> one_hot(jnp.array([0, 2]))
        Array([[1, 0, 0],
               [0, 0, 1]], dtype=int32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.one_hot.html
    """
    check_integer(tensor, "tensor")
    values = known(tensor)
    if num_classes == -1:
        if values is None or values.size == 0:
            raise RuntimeError(f"expected num_classes, which {describe(tensor)} alone does not tell")
        num_classes = int(values.max()) + 1
    if num_classes < 0:
        raise RuntimeError(f"expected num_classes >= 0 or -1, got {num_classes}")
    if values is not None and values.size and not (values.min() >= 0 and values.max() < num_classes):
        raise RuntimeError(f"expected indices in [0, {num_classes - 1}], got {values.min()} to {values.max()}")
    return jax.nn.one_hot(tensor, num_classes, dtype=int)
