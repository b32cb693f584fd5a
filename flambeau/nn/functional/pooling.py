"""Maxima and averages over windows, of a given size or of as many windows as are asked for."""

from __future__ import annotations

from functools import partial, reduce
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from flambeau.nn.functional._checks import IntOrTuple
from flambeau.nn.functional._windows import (
    OutputSize,
    Window,
    adaptive_windows,
    check_input,
    first_maximum,
    window_counts,
    window_sum,
    windows_of,
)

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
]

Maxima: TypeAlias = Any
"""An array, or with `return_indices` a pair of them. As a union it would have each caller tell which one it is."""


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


def avg_pool1d(
    input: jax.Array,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: IntOrTuple = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> jax.Array:
    """Averages each window of sequences: y[i] = Σₖ x[stride·i − padding + k] / count[i].

    Args:
        input: the sequences, with or without a batch dimension.
        kernel_size: the size of a window.
        stride: how far apart windows are; `kernel_size` if None.
        padding: zeros on each side, at most half a window.
        ceil_mode: whether a last window counts that is not whole, if it starts before the padding behind.
        count_include_pad: whether the zeros of the padding count among what is averaged.

    Shape:
        input `(N, C, L)` or `(C, L)`, result `(N, C, L')` or `(C, L')` with L' = ⌊(L + 2·padding − K) / stride⌋ + 1.

    Raises:
        ShapeError: the input has another rank, is empty, or is smaller than a window; or an argument is out of range.
        DtypeError: the input is not of a floating dtype.

    Example:
        >>> avg_pool1d(jnp.array([[1.0, 3.0, 2.0, 0.0]]), 2)
        Array([[2., 1.]], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.avg_pool1d.html
    """
    return _avg_pool(1, input, kernel_size, stride, padding, ceil_mode, count_include_pad, None)


def avg_pool2d(
    input: jax.Array,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: IntOrTuple = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> jax.Array:
    """Averages each window of images: y[i] = Σₖ x[stride·i − padding + k] / count[i], with i and k pairs.

    Args:
        input: the images, with or without a batch dimension.
        kernel_size: the size of a window.
        stride: how far apart windows are; `kernel_size` if None.
        padding: zeros on each side, at most half a window.
        ceil_mode: whether a last window counts that is not whole, if it starts before the padding behind.
        count_include_pad: whether the zeros of the padding count among what is averaged.
        divisor_override: what each sum is divided by instead.

    Shape:
        input `(N, C, H, W)` or `(C, H, W)`, result `(N, C, H', W')` or `(C, H', W')`.

    Raises:
        ShapeError: the input has another rank, is empty, or is smaller than a window; or an argument is out of range.
        DtypeError: the input is not of a floating dtype.
        ValueError: `divisor_override` is 0.

    Example:
        >>> avg_pool2d(jnp.ones((1, 4, 4)), 3, stride=2, padding=1)[0, 0]
        Array([0.44444445, 0.6666667 ], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.avg_pool2d.html
    """
    return _avg_pool(2, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def avg_pool3d(
    input: jax.Array,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: IntOrTuple = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> jax.Array:
    """Averages each window of volumes: y[i] = Σₖ x[stride·i − padding + k] / count[i], with i and k triples.

    Args:
        input: the volumes, with or without a batch dimension.
        kernel_size: the size of a window.
        stride: how far apart windows are; `kernel_size` if None.
        padding: zeros on each side, at most half a window.
        ceil_mode: whether a last window counts that is not whole, if it starts before the padding behind.
        count_include_pad: whether the zeros of the padding count among what is averaged.
        divisor_override: what each sum is divided by instead.

    Shape:
        input `(N, C, D, H, W)` or `(C, D, H, W)`, result `(N, C, D', H', W')` or `(C, D', H', W')`.

    Raises:
        ShapeError: the input has another rank, is empty, or is smaller than a window; or an argument is out of range.
        DtypeError: the input is not of a floating dtype.
        ValueError: `divisor_override` is 0.

    Example:
        >>> avg_pool3d(jnp.ones((1, 2, 4, 4, 4)), 2).shape
        (1, 2, 2, 2, 2)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.avg_pool3d.html
    """
    return _avg_pool(3, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def adaptive_avg_pool1d(input: jax.Array, output_size: IntOrTuple) -> jax.Array:
    """Averages sequences to a given size: y[i] is the mean of x from ⌊i·L / L'⌋ to ⌈(i + 1)·L / L'⌉.

    Args:
        input: the sequences, with or without a batch dimension.
        output_size: the size of the result.

    Shape:
        input `(N, C, L)` or `(C, L)`, result `(N, C, L')` or `(C, L')`.

    Raises:
        ShapeError: the input has another rank or is empty, or a size is negative.
        DtypeError: the input is not of a floating dtype.

    Example:
        >>> adaptive_avg_pool1d(jnp.array([[1.0, 3.0, 2.0]]), 2)
        Array([[2. , 2.5]], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.adaptive_avg_pool1d.html
    """
    return _adaptive_avg_pool(1, input, output_size)


def adaptive_avg_pool2d(input: jax.Array, output_size: OutputSize) -> jax.Array:
    """Averages images to a given size: y[i] is the mean of x from ⌊i·L / L'⌋ to ⌈(i + 1)·L / L'⌉, in each dimension.

    Args:
        input: the images, with or without a batch dimension.
        output_size: the size of the result; None keeps that of the input.

    Shape:
        input `(N, C, H, W)` or `(C, H, W)`, result `(N, C, H', W')` or `(C, H', W')`.

    Raises:
        ShapeError: the input has another rank or is empty, or a size is negative.
        DtypeError: the input is not of a floating dtype.

    Example:
        >>> adaptive_avg_pool2d(jnp.ones((8, 16, 13, 9)), (6, None)).shape
        (8, 16, 6, 9)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.adaptive_avg_pool2d.html
    """
    return _adaptive_avg_pool(2, input, output_size)


def adaptive_avg_pool3d(input: jax.Array, output_size: OutputSize) -> jax.Array:
    """Averages volumes to a given size: y[i] is the mean of x from ⌊i·L / L'⌋ to ⌈(i + 1)·L / L'⌉, in each dimension.

    Args:
        input: the volumes, with or without a batch dimension.
        output_size: the size of the result; None keeps that of the input.

    Shape:
        input `(N, C, D, H, W)` or `(C, D, H, W)`, result `(N, C, D', H', W')` or `(C, D', H', W')`.

    Raises:
        ShapeError: the input has another rank or is empty, or a size is negative.
        DtypeError: the input is not of a floating dtype.

    Example:
        >>> adaptive_avg_pool3d(jnp.ones((1, 2, 4, 5, 6)), 2).shape
        (1, 2, 2, 2, 2)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.adaptive_avg_pool3d.html
    """
    return _adaptive_avg_pool(3, input, output_size)


def adaptive_max_pool1d(input: jax.Array, output_size: IntOrTuple, return_indices: bool = False) -> Maxima:
    """Takes maxima of sequences to a given size: y[i] is that of x from ⌊i·L / L'⌋ to ⌈(i + 1)·L / L'⌉.

    Equal maxima and NaNs count as in `max_pool1d`.

    Args:
        input: the sequences, with or without a batch dimension; integers or floating numbers.
        output_size: the size of the result.
        return_indices: whether to return the flat indices of the maxima in the spatial dimensions as well.

    Shape:
        input `(N, C, L)` or `(C, L)`, result `(N, C, L')` or `(C, L')`; indices as the result.

    Raises:
        ShapeError: the input has another rank or is empty, or a size is negative.
        DtypeError: the input is neither of an integer nor of a floating dtype.

    Example:
        >>> adaptive_max_pool1d(jnp.array([[1.0, 3.0, 2.0]]), 2)
        Array([[3., 3.]], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.adaptive_max_pool1d.html
    """
    return _adaptive_max_pool(1, input, output_size, return_indices)


def adaptive_max_pool2d(input: jax.Array, output_size: OutputSize, return_indices: bool = False) -> Maxima:
    """Takes maxima of images to a given size: y[i] is that of x from ⌊i·L / L'⌋ to ⌈(i + 1)·L / L'⌉, in each dimension.

    Equal maxima and NaNs count as in `max_pool1d`.

    Args:
        input: the images, with or without a batch dimension; integers or floating numbers.
        output_size: the size of the result; None keeps that of the input.
        return_indices: whether to return the flat indices of the maxima in the spatial dimensions as well.

    Shape:
        input `(N, C, H, W)` or `(C, H, W)`, result `(N, C, H', W')` or `(C, H', W')`; indices as the result.

    Raises:
        ShapeError: the input has another rank or is empty, or a size is negative.
        DtypeError: the input is neither of an integer nor of a floating dtype.

    Example:
        >>> adaptive_max_pool2d(jnp.ones((8, 16, 13, 9)), (6, None)).shape
        (8, 16, 6, 9)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.adaptive_max_pool2d.html
    """
    return _adaptive_max_pool(2, input, output_size, return_indices)


def adaptive_max_pool3d(input: jax.Array, output_size: OutputSize, return_indices: bool = False) -> Maxima:
    """Takes maxima of volumes to a given size: y[i] is that of x from ⌊i·L / L'⌋ to ⌈(i + 1)·L / L'⌉, in each dimension.

    Equal maxima and NaNs count as in `max_pool1d`.

    Args:
        input: the volumes, with or without a batch dimension; integers or floating numbers.
        output_size: the size of the result; None keeps that of the input.
        return_indices: whether to return the flat indices of the maxima in the spatial dimensions as well.

    Shape:
        input `(N, C, D, H, W)` or `(C, D, H, W)`, result `(N, C, D', H', W')` or `(C, D', H', W')`; indices as the
        result.

    Raises:
        ShapeError: the input has another rank or is empty, or a size is negative.
        DtypeError: the input is neither of an integer nor of a floating dtype.

    Example:
        >>> adaptive_max_pool3d(jnp.ones((1, 2, 4, 5, 6)), 2).shape
        (1, 2, 2, 2, 2)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.adaptive_max_pool3d.html
    """
    return _adaptive_max_pool(3, input, output_size, return_indices)


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
    return _maxima(input, windows, return_indices)


def _avg_pool(
    n: int,
    input: jax.Array,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None,
    padding: IntOrTuple,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> jax.Array:
    check_input(n, input, integers=False)
    if divisor_override == 0:
        raise ValueError("expected divisor_override other than 0, got 0")
    windows = windows_of(n, input, kernel_size, stride, padding, 1, ceil_mode)
    return _averages(input, windows, count_include_pad, divisor_override)


def _adaptive_avg_pool(n: int, input: jax.Array, output_size: OutputSize) -> jax.Array:
    check_input(n, input, integers=False)
    return _averages(input, adaptive_windows(n, input, output_size), False, None)


def _adaptive_max_pool(n: int, input: jax.Array, output_size: OutputSize, return_indices: bool) -> Maxima:
    check_input(n, input, integers=True)
    return _maxima(input, adaptive_windows(n, input, output_size), return_indices)


@partial(jax.jit, static_argnums=(1, 2))
def _maxima(x: jax.Array, windows: tuple[Window, ...], return_indices: bool) -> Maxima:
    values, indices = first_maximum(x, windows)
    return (values, indices.astype(int)) if return_indices else values


@partial(jax.jit, static_argnums=(1, 2, 3))
def _averages(x: jax.Array, windows: tuple[Window, ...], include_pad: bool, divisor: int | None) -> jax.Array:
    # 16-bit numbers are summed in 32 bits.
    total = window_sum(x.astype(jnp.promote_types(x.dtype, jnp.float32)), windows)
    if divisor is None:
        counts = np.ix_(*(window_counts(window, include_pad=include_pad) for window in windows))
        total = total / reduce(jnp.multiply, map(jnp.asarray, counts)).astype(total.dtype)
    else:
        total = total / divisor
    return total.astype(x.dtype)
