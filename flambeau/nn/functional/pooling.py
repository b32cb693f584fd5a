"""Pooling: averages and power averages over windows here, maxima and windows of other kinds from the files beside."""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from flambeau.nn.functional._adaptive_pooling import (
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    adaptive_avg_pool3d,
    adaptive_max_pool1d,
    adaptive_max_pool1d_with_indices,
    adaptive_max_pool2d,
    adaptive_max_pool2d_with_indices,
    adaptive_max_pool3d,
    adaptive_max_pool3d_with_indices,
)
from flambeau.nn.functional._checks import IntOrTuple
from flambeau.nn.functional._fractional_pooling import (
    fractional_max_pool2d,
    fractional_max_pool2d_with_indices,
    fractional_max_pool3d,
    fractional_max_pool3d_with_indices,
)
from flambeau.nn.functional._math import absolute, widen
from flambeau.nn.functional._max_pooling import (
    max_pool1d,
    max_pool1d_with_indices,
    max_pool2d,
    max_pool2d_with_indices,
    max_pool3d,
    max_pool3d_with_indices,
    max_unpool1d,
    max_unpool2d,
    max_unpool3d,
)
from flambeau.nn.functional._windows import Window, averages, check_input, maxima, windows_of

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "adaptive_max_pool1d",
    "adaptive_max_pool1d_with_indices",
    "adaptive_max_pool2d",
    "adaptive_max_pool2d_with_indices",
    "adaptive_max_pool3d",
    "adaptive_max_pool3d_with_indices",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "fractional_max_pool2d",
    "fractional_max_pool2d_with_indices",
    "fractional_max_pool3d",
    "fractional_max_pool3d_with_indices",
    "lp_pool1d",
    "lp_pool2d",
    "lp_pool3d",
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
        input: the sequences, with or without a batch dimension; integers, whose averages are cut towards zero, or floating
            numbers.
        kernel_size: the size of a window.
        stride: how far apart windows are; `kernel_size` if None.
        padding: zeros on each side, at most half a window.
        ceil_mode: whether a last window counts that is not whole, if it starts before the padding behind.
        count_include_pad: whether the zeros of the padding count among what is averaged.

    Shape:
        input `(N, C, L)` or `(C, L)`, result `(N, C, L')` or `(C, L')` with L' = ⌊(L + 2·padding − K) / stride⌋ + 1.

    Raises:
        ShapeError: the input has another rank, is empty, or is smaller than a window; or an argument is out of range.
        DtypeError: the input is neither of an integer nor of a floating dtype.

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
        input: the images, with or without a batch dimension; integers, whose averages are cut towards zero, or floating
            numbers.
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
        DtypeError: the input is neither of an integer nor of a floating dtype.
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
        input: the volumes, with or without a batch dimension; integers, whose averages are cut towards zero, or floating
            numbers.
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
        DtypeError: the input is neither of an integer nor of a floating dtype.
        ValueError: `divisor_override` is 0.

    Example:
        >>> avg_pool3d(jnp.ones((1, 2, 4, 4, 4)), 2).shape
        (1, 2, 2, 2, 2)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.avg_pool3d.html
    """
    return _avg_pool(3, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def lp_pool1d(
    input: jax.Array,
    norm_type: float,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    ceil_mode: bool = False,
) -> jax.Array:
    """Takes the power average over each window of sequences: y[i] = (Σₖ x[stride·i + k]ᵖ)^(1 / p).

    A last window that is not whole, as `ceil_mode` has it, counts as much as a whole one of the same average. Where a sum is
    0 its gradient is 0; that of a negative sum is NaN, as is its root, unless 1 / p is whole.

    Args:
        input: the sequences, with or without a batch dimension.
        norm_type: p; with infinity the greatest, with minus infinity the least absolute value.
        kernel_size: the size of a window.
        stride: how far apart windows are; `kernel_size` if None.
        ceil_mode: whether a last window counts that is not whole.

    Shape:
        input `(N, C, L)` or `(C, L)`, result `(N, C, L')` or `(C, L')`.

    Raises:
        ShapeError: the input has another rank, is empty, or is smaller than a window; or an argument is out of range.
        DtypeError: the input is not of a floating dtype.
        ValueError: `norm_type` is 0.

    Example:
        >>> lp_pool1d(jnp.array([[3.0, 4.0, 0.0, 2.0]]), 2, 2)
        Array([[5., 2.]], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.lp_pool1d.html
    """
    return _lp_pool(1, input, norm_type, kernel_size, stride, ceil_mode)


def lp_pool2d(
    input: jax.Array,
    norm_type: float,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    ceil_mode: bool = False,
) -> jax.Array:
    """Takes the power average over each window of images: y[i] = (Σₖ x[stride·i + k]ᵖ)^(1 / p), with i and k pairs.

    Windows that are not whole, sums of 0 and negative sums count as in `lp_pool1d`.

    Args:
        input: the images, with or without a batch dimension.
        norm_type: p; with infinity the greatest, with minus infinity the least absolute value.
        kernel_size: the size of a window.
        stride: how far apart windows are; `kernel_size` if None.
        ceil_mode: whether a last window counts that is not whole.

    Shape:
        input `(N, C, H, W)` or `(C, H, W)`, result `(N, C, H', W')` or `(C, H', W')`.

    Raises:
        ShapeError: the input has another rank, is empty, or is smaller than a window; or an argument is out of range.
        DtypeError: the input is not of a floating dtype.
        ValueError: `norm_type` is 0.

    Example:
        >>> lp_pool2d(jnp.array([[[2.0, 4.0], [4.0, 8.0]]]), 2, 2)
        Array([[[10.]]], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.lp_pool2d.html
    """
    return _lp_pool(2, input, norm_type, kernel_size, stride, ceil_mode)


def lp_pool3d(
    input: jax.Array,
    norm_type: float,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    ceil_mode: bool = False,
) -> jax.Array:
    """Takes the power average over each window of volumes: y[i] = (Σₖ x[stride·i + k]ᵖ)^(1 / p), with i and k triples.

    Windows that are not whole, sums of 0 and negative sums count as in `lp_pool1d`.

    Args:
        input: the volumes, with or without a batch dimension.
        norm_type: p; with infinity the greatest, with minus infinity the least absolute value.
        kernel_size: the size of a window.
        stride: how far apart windows are; `kernel_size` if None.
        ceil_mode: whether a last window counts that is not whole.

    Shape:
        input `(N, C, D, H, W)` or `(C, D, H, W)`, result `(N, C, D', H', W')` or `(C, D', H', W')`.

    Raises:
        ShapeError: the input has another rank, is empty, or is smaller than a window; or an argument is out of range.
        DtypeError: the input is not of a floating dtype.
        ValueError: `norm_type` is 0.

    Example:
        >>> lp_pool3d(jnp.ones((1, 2, 4, 4, 4)), 3, 2)[0, 0, 0, 0]
        Array([2., 2.], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.lp_pool3d.html
    """
    return _lp_pool(3, input, norm_type, kernel_size, stride, ceil_mode)


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
    check_input(n, input, integers=True)
    if divisor_override == 0:
        raise ValueError("expected divisor_override other than 0, got 0")
    windows = windows_of(n, input, kernel_size, stride, padding, 1, ceil_mode)
    return averages(input, windows, count_include_pad, divisor_override)


def _lp_pool(
    n: int,
    input: jax.Array,
    norm_type: float,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None,
    ceil_mode: bool,
) -> jax.Array:
    check_input(n, input, integers=False)
    if norm_type == 0:
        raise ValueError("expected norm_type other than 0, got 0")
    return _power_averages(input, windows_of(n, input, kernel_size, stride, 0, 1, ceil_mode), float(norm_type))


@partial(jax.jit, static_argnums=(1, 2))
def _power_averages(x: jax.Array, windows: tuple[Window, ...], p: float) -> jax.Array:
    if math.isinf(p):
        return math.copysign(1, p) * maxima(math.copysign(1, p) * absolute(x), windows, False)
    total = averages(widen(x) ** p, windows, True, None) * math.prod(window.kernel for window in windows)
    # A root is not differentiated at 0, where that would be infinite, or NaN in the sum that is not taken.
    zero = total == 0
    root = jnp.where(zero, lax.stop_gradient(total) ** (1 / p), jnp.where(zero, 1, total) ** (1 / p))
    return root.astype(x.dtype)
