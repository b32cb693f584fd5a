"""Maxima over windows, where they stood, and back from there: max pooling and unpooling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from flambeau._errors import ShapeError
from flambeau.nn.functional._checks import IntOrTuple, describe, to_tuple
from flambeau.nn.functional._inputs import check_integer, known
from flambeau.nn.functional._windows import Maxima, check_input, maxima, windows_of

__all__ = [
    "max_pool1d",
    "max_pool1d_with_indices",
    "max_pool2d",
    "max_pool2d_with_indices",
    "max_pool3d",
    "max_pool3d_with_indices",
    "max_unpool1d",
    "max_unpool2d",
    "max_unpool3d",
]


def max_pool1d(
    input: jax.Array,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: IntOrTuple = 0,
    dilation: IntOrTuple = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Maxima:
    """Takes the maximum over each window of sequences: y[i] = maxₖ x[stride·i − padding + dilation·k].

    Of equal maxima the first counts, for the index as for the gradient; a NaN counts more than any number.

    Args:
        input: the sequences, with or without a batch dimension; integers or floating numbers.
        kernel_size: the size of a window.
        stride: how far apart windows are; `kernel_size` if None.
        padding: at most half a window on each side, which holds no maximum.
        dilation: the distance between two entries of a window.
        ceil_mode: whether a last window counts that is not whole, if it starts before the padding behind.
        return_indices: whether to return the flat indices of the maxima in the spatial dimensions as well.

    Shape:
        input `(N, C, L)` or `(C, L)`, result `(N, C, L')` or `(C, L')` with L' = ⌊(L + 2·padding − dilation·(K − 1) −
        1) / stride⌋ + 1; indices as the result.

    Raises:
        ShapeError: the input has another rank, is empty, or is smaller than a window; or an argument is out of range.
        DtypeError: the input is neither of an integer nor of a floating dtype.

    Example:
        >>> max_pool1d(jnp.array([[1.0, 3.0, 2.0, 0.0]]), 2)
        Array([[3., 2.]], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.max_pool1d.html
    """
    return _max_pool(1, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool2d(
    input: jax.Array,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: IntOrTuple = 0,
    dilation: IntOrTuple = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Maxima:
    """Takes the maximum over each window of images: y[i, j] = max_{k,l} x[s·i − p + d·k, s·j − p + d·l].

    Here s is the stride, d the dilation and p the padding. Equal maxima and NaNs count as in `max_pool1d`.

    Args:
        input: the images, with or without a batch dimension; integers or floating numbers.
        kernel_size: the size of a window.
        stride: how far apart windows are; `kernel_size` if None.
        padding: at most half a window on each side, which holds no maximum.
        dilation: the distance between two entries of a window.
        ceil_mode: whether a last window counts that is not whole, if it starts before the padding behind.
        return_indices: whether to return the flat indices of the maxima in the spatial dimensions as well.

    Shape:
        input `(N, C, H, W)` or `(C, H, W)`, result `(N, C, H', W')` or `(C, H', W')`; indices as the result.

    Raises:
        ShapeError: the input has another rank, is empty, or is smaller than a window; or an argument is out of range.
        DtypeError: the input is neither of an integer nor of a floating dtype.

    Example:
        >>> values, indices = max_pool2d(jnp.array([[[1.0, 2.0], [4.0, 3.0]]]), 2, return_indices=True)
        >>> values, indices
        (Array([[[4.]]], dtype=float32), Array([[[2]]], dtype=int32))

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.max_pool2d.html
    """
    return _max_pool(2, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool3d(
    input: jax.Array,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: IntOrTuple = 0,
    dilation: IntOrTuple = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Maxima:
    """Takes the maximum over each window of volumes: y[t] = maxₖ x[stride·t − padding + dilation·k], with t and k triples.

    Args:
        input: the volumes, with or without a batch dimension; integers or floating numbers.
        kernel_size: the size of a window.
        stride: how far apart windows are; `kernel_size` if None.
        padding: at most half a window on each side, which holds no maximum.
        dilation: the distance between two entries of a window.
        ceil_mode: whether a last window counts that is not whole, if it starts before the padding behind.
        return_indices: whether to return the flat indices of the maxima in the spatial dimensions as well.

    Shape:
        input `(N, C, D, H, W)` or `(C, D, H, W)`, result `(N, C, D', H', W')` or `(C, D', H', W')`; indices as the
        result.

    Raises:
        ShapeError: the input has another rank, is empty, or is smaller than a window; or an argument is out of range.
        DtypeError: the input is neither of an integer nor of a floating dtype.

    Example:
        >>> max_pool3d(jnp.ones((1, 2, 4, 4, 4)), 3, stride=1, padding=1).shape
        (1, 2, 4, 4, 4)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.max_pool3d.html
    """
    return _max_pool(3, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool1d_with_indices(
    input: jax.Array,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: IntOrTuple = 0,
    dilation: IntOrTuple = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Takes the maximum over each window of sequences, as `max_pool1d`, and always returns where it stands as well.

    Args:
        input: the sequences, with or without a batch dimension; integers or floating numbers.
        kernel_size: the size of a window.
        stride: how far apart windows are; `kernel_size` if None.
        padding: at most half a window on each side, which holds no maximum.
        dilation: the distance between two entries of a window.
        ceil_mode: whether a last window counts that is not whole, if it starts before the padding behind.
        return_indices: changes nothing; it is there so that both functions are called alike.

    Shape:
        input `(N, C, L)` or `(C, L)`, results `(N, C, L')` or `(C, L')`.

    Raises:
        ShapeError: the input has another rank, is empty, or is smaller than a window; or an argument is out of range.
        DtypeError: the input is neither of an integer nor of a floating dtype.

    Example:
        >>> max_pool1d_with_indices(jnp.array([[1.0, 3.0, 2.0, 0.0]]), 2)
        (Array([[3., 2.]], dtype=float32), Array([[1, 2]], dtype=int32))

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.max_pool1d.html
    """
    return _max_pool(1, input, kernel_size, stride, padding, dilation, ceil_mode, True)


def max_pool2d_with_indices(
    input: jax.Array,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: IntOrTuple = 0,
    dilation: IntOrTuple = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Takes the maximum over each window of images, as `max_pool2d`, and always returns where it stands as well.

    Args:
        input: the images, with or without a batch dimension; integers or floating numbers.
        kernel_size: the size of a window.
        stride: how far apart windows are; `kernel_size` if None.
        padding: at most half a window on each side, which holds no maximum.
        dilation: the distance between two entries of a window.
        ceil_mode: whether a last window counts that is not whole, if it starts before the padding behind.
        return_indices: changes nothing; it is there so that both functions are called alike.

    Shape:
        input `(N, C, H, W)` or `(C, H, W)`, results `(N, C, H', W')` or `(C, H', W')`.

    Raises:
        ShapeError: the input has another rank, is empty, or is smaller than a window; or an argument is out of range.
        DtypeError: the input is neither of an integer nor of a floating dtype.

    Example:
        >>> values, indices = max_pool2d_with_indices(jnp.array([[[1.0, 2.0], [4.0, 3.0]]]), 2)
        >>> indices
        Array([[[2]]], dtype=int32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.max_pool2d.html
    """
    return _max_pool(2, input, kernel_size, stride, padding, dilation, ceil_mode, True)


def max_pool3d_with_indices(
    input: jax.Array,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: IntOrTuple = 0,
    dilation: IntOrTuple = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Takes the maximum over each window of volumes, as `max_pool3d`, and always returns where it stands as well.

    Args:
        input: the volumes, with or without a batch dimension; integers or floating numbers.
        kernel_size: the size of a window.
        stride: how far apart windows are; `kernel_size` if None.
        padding: at most half a window on each side, which holds no maximum.
        dilation: the distance between two entries of a window.
        ceil_mode: whether a last window counts that is not whole, if it starts before the padding behind.
        return_indices: changes nothing; it is there so that both functions are called alike.

    Shape:
        input `(N, C, D, H, W)` or `(C, D, H, W)`, results `(N, C, D', H', W')` or `(C, D', H', W')`.

    Raises:
        ShapeError: the input has another rank, is empty, or is smaller than a window; or an argument is out of range.
        DtypeError: the input is neither of an integer nor of a floating dtype.

    Example:
        >>> [each.shape for each in max_pool3d_with_indices(jnp.ones((1, 2, 4, 4, 4)), 2)]
        [(1, 2, 2, 2, 2), (1, 2, 2, 2, 2)]

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.max_pool3d.html
    """
    return _max_pool(3, input, kernel_size, stride, padding, dilation, ceil_mode, True)


def max_unpool1d(
    input: jax.Array,
    indices: jax.Array,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: IntOrTuple = 0,
    output_size: Sequence[int] | None = None,
) -> jax.Array:
    """Puts the maxima of sequences back where they stood: y[indices[i]] = x[i], and 0 in all other places.

    An index that several maxima share, as overlapping windows have it, holds one of them, and each gets its gradient. An
    index outside of the result raises where its value is known; under a transform it is not, and the channel is NaN.

    Args:
        input: the maxima, with or without a batch dimension.
        indices: where each one stood, flat in the spatial dimensions, as `max_pool1d` returns it.
        kernel_size: the size of a window, as it was given to `max_pool1d`.
        stride: how far apart windows were; `kernel_size` if None.
        padding: the padding of those windows.
        output_size: the size of the result, less than a stride away from the one below; with or without `N, C` in front.

    Shape:
        input and indices `(N, C, L)` or `(C, L)`, result `(N, C, L')` or `(C, L')` with L' = (L − 1)·stride − 2·padding + K
        unless `output_size` says another.

    Raises:
        ShapeError: the input has another rank, or is empty; the indices have another shape; or an argument is out of range.
        DtypeError: the input is not of a floating, the indices not of an integer dtype.
        IndexError: an index is outside of the result.

    Example:
        >>> values, indices = max_pool1d(jnp.array([[1.0, 3.0, 2.0, 0.0]]), 2, return_indices=True)
        >>> max_unpool1d(values, indices, 2)
        Array([[0., 3., 2., 0.]], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.max_unpool1d.html
    """
    return _max_unpool(1, input, indices, kernel_size, stride, padding, output_size)


def max_unpool2d(
    input: jax.Array,
    indices: jax.Array,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: IntOrTuple = 0,
    output_size: Sequence[int] | None = None,
) -> jax.Array:
    """Puts the maxima of images back where they stood: y[indices[i]] = x[i] with i a pair, and 0 elsewhere.

    Shared indices, and such as are outside of the result, count as in `max_unpool1d`.

    Args:
        input: the maxima, with or without a batch dimension.
        indices: where each one stood, flat in the spatial dimensions, as `max_pool2d` returns it.
        kernel_size: the size of a window, as it was given to `max_pool2d`.
        stride: how far apart windows were; `kernel_size` if None.
        padding: the padding of those windows.
        output_size: the size of the result, less than a stride away from the one below; with or without `N, C` in front.

    Shape:
        input and indices `(N, C, H, W)` or `(C, H, W)`, result `(N, C, H', W')` or
        `(C, H', W')` with each size (L − 1)·stride − 2·padding + K unless `output_size` says another.

    Raises:
        ShapeError: the input has another rank, or is empty; the indices have another shape; or an argument is out of range.
        DtypeError: the input is not of a floating, the indices not of an integer dtype.
        IndexError: an index is outside of the result.

    Example:
        >>> max_unpool2d(jnp.array([[[4.0]]]), jnp.array([[[2]]]), 2)
        Array([[[0., 0.],
                [4., 0.]]], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.max_unpool2d.html
    """
    return _max_unpool(2, input, indices, kernel_size, stride, padding, output_size)


def max_unpool3d(
    input: jax.Array,
    indices: jax.Array,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: IntOrTuple = 0,
    output_size: Sequence[int] | None = None,
) -> jax.Array:
    """Puts the maxima of volumes back where they stood: y[indices[i]] = x[i] with i a triple, and 0 elsewhere.

    Shared indices, and such as are outside of the result, count as in `max_unpool1d`.

    Args:
        input: the maxima, with or without a batch dimension.
        indices: where each one stood, flat in the spatial dimensions, as `max_pool3d` returns it.
        kernel_size: the size of a window, as it was given to `max_pool3d`.
        stride: how far apart windows were; `kernel_size` if None.
        padding: the padding of those windows.
        output_size: the size of the result, less than a stride away from the one below; with or without `N, C` in front.

    Shape:
        input and indices `(N, C, D, H, W)` or `(C, D, H, W)`, result `(N, C, D', H', W')` or
        `(C, D', H', W')` with each size (L − 1)·stride − 2·padding + K unless `output_size` says another.

    Raises:
        ShapeError: the input has another rank, or is empty; the indices have another shape; or an argument is out of range.
        DtypeError: the input is not of a floating, the indices not of an integer dtype.
        IndexError: an index is outside of the result.

    Example:
        >>> max_unpool3d(jnp.ones((1, 2, 2, 2)), jnp.zeros((1, 2, 2, 2), int), 2, output_size=(4, 4, 5)).shape
        (1, 4, 4, 5)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.max_unpool3d.html
    """
    return _max_unpool(3, input, indices, kernel_size, stride, padding, output_size)


def _max_pool(
    n: int,
    input: jax.Array,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None,
    padding: IntOrTuple,
    dilation: IntOrTuple,
    ceil_mode: bool,
    return_indices: bool,
) -> Maxima:
    check_input(n, input, integers=True)
    windows = windows_of(n, input, kernel_size, stride, padding, dilation, ceil_mode)
    return maxima(input, windows, return_indices)


def _max_unpool(
    n: int,
    input: jax.Array,
    indices: jax.Array,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None,
    padding: IntOrTuple,
    output_size: Sequence[int] | None,
) -> jax.Array:
    check_input(n, input, integers=False)
    check_integer(indices, "indices")
    if indices.shape != input.shape:
        raise ShapeError(f"expected indices {input.shape} like input, got {describe(indices)}")
    sizes = _unpooled_sizes(n, input, kernel_size, kernel_size if stride is None else stride, padding, output_size)
    values = known(indices)
    if values is not None and values.size and not 0 <= values.min() <= values.max() < math.prod(sizes):
        raise IndexError(f"expected indices within a result of {sizes}, got {values.min()} to {values.max()}")
    return _put_back(input, indices, sizes)


def _unpooled_sizes(
    n: int,
    input: jax.Array,
    kernel_size: IntOrTuple,
    stride: IntOrTuple,
    padding: IntOrTuple,
    output_size: Sequence[int] | None,
) -> tuple[int, ...]:
    """The spatial sizes of an unpooled `input`."""
    kernels, strides = to_tuple(kernel_size, n, "kernel_size"), to_tuple(stride, n, "stride")
    paddings = to_tuple(padding, n, "padding")
    wrong = [
        f"expected {name} of at least {least}, got {values}"
        for name, values, least in (("kernel_size", kernels, 1), ("stride", strides, 1), ("padding", paddings, 0))
        if min(values) < least
    ]
    each = zip(input.shape[-n:], kernels, strides, paddings, strict=True)
    default = tuple((size - 1) * step - 2 * pad + kernel for size, kernel, step, pad in each)
    sizes = default if output_size is None else tuple(output_size)[2 * (len(output_size) == n + 2) :]
    if len(sizes) != n:
        wrong.append(f"expected output_size of {n} or {n + 2} ints, got {output_size}")
    elif any(abs(size - usual) >= step for size, usual, step in zip(sizes, default, strides, strict=True)):
        wrong.append(f"expected output_size less than a stride of {strides} away from {default}, got {sizes}")
    elif min(sizes) < 0:
        wrong.append(f"expected input with room for padding {paddings}, got {describe(input)}")
    if wrong:
        raise ShapeError("; ".join(wrong))
    return sizes


@partial(jax.jit, static_argnums=2)
def _put_back(x: jax.Array, indices: jax.Array, sizes: tuple[int, ...]) -> jax.Array:
    n, points = len(sizes), math.prod(sizes)
    rows = math.prod(x.shape[:-n]), math.prod(x.shape[-n:])
    flat, where = x.reshape(rows), indices.reshape(rows)  # (..., *spatial) to (M, windows)
    outside = ((where < 0) | (where >= points)).any(-1, keepdims=True)
    return jnp.where(outside, jnp.nan, _scatter(flat, where, points)).reshape(*x.shape[:-n], *sizes)


_INSIDE: dict[str, Any] = {"mode": "drop", "wrap_negative_indices": False}


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _scatter(x: jax.Array, indices: jax.Array, points: int) -> jax.Array:
    """Rows of `points` zeros with those of `x` at `indices`; its derivative gives each entry what its place gets."""
    rows = jnp.arange(x.shape[0])[:, None]
    return jnp.zeros((x.shape[0], points), x.dtype).at[rows, indices].set(x, **_INSIDE)


@_scatter.defjvp
def _(
    points: int, primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    # JAX's own derivative of `set` gives the gradient of a shared place to one entry, and looks for it in two passes.
    (x, indices), (tangent, _) = primals, tangents
    rows = jnp.arange(x.shape[0])[:, None]
    moved = jnp.zeros((x.shape[0], points), x.dtype).at[rows, indices].add(tangent, **_INSIDE)
    return _scatter(x, indices, points), moved
