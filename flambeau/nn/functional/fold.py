"""Windows of images as columns, and sums of columns as images."""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from flambeau._errors import ShapeError
from flambeau.nn.functional._checks import IntOrTuple, check_rank, describe, to_tuple
from flambeau.nn.functional._windows import Window

__all__ = ["fold", "unfold"]


def unfold(
    input: jax.Array,
    kernel_size: IntOrTuple,
    dilation: IntOrTuple = 1,
    padding: IntOrTuple = 0,
    stride: IntOrTuple = 1,
) -> jax.Array:
    """Writes each window as a column: y[c·K + k, l] = x[c, stride·l + dilation·k - padding], with l and k over both dimensions.

    Args:
        input: the images.
        kernel_size: the size of a window.
        dilation: the distance between two entries of a window.
        padding: zeros on all sides.
        stride: how far it is from one window to the next.

    Shape:
        input `(N, C, H, W)` or `(C, H, W)`, result `(N, C·K, L)` or `(C·K, L)` for windows of K entries, of which there
        are L.

    Raises:
        ShapeError: the input has another shape, or no window fits into it.

    Example:
        >>> unfold(jnp.arange(6.0).reshape(1, 2, 3), (2, 2))
        Array([[0., 1.],
               [1., 2.],
               [3., 4.],
               [4., 5.]], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.unfold.html
    """
    check_rank(input, (3, 4), "(N, C, H, W) or (C, H, W)")
    if 0 in input.shape[-3:]:
        raise ShapeError(
            f"expected input (N, C, H, W) or (C, H, W) with no empty dimension but N, got {describe(input)}"
        )
    height, width = input.shape[-2:]
    return _unfold(input, _windows((height, width), kernel_size, dilation, padding, stride))


def fold(
    input: jax.Array,
    output_size: IntOrTuple,
    kernel_size: IntOrTuple,
    dilation: IntOrTuple = 1,
    padding: IntOrTuple = 0,
    stride: IntOrTuple = 1,
) -> jax.Array:
    """Sums columns into an image, each where `unfold` takes it from: the transpose of `unfold`.

    Args:
        input: the columns.
        output_size: the size of the image.
        kernel_size: the size of a window.
        dilation: the distance between two entries of a window.
        padding: how far windows reach over the edges.
        stride: how far it is from one window to the next.

    Shape:
        input `(N, C·K, L)` or `(C·K, L)`, result `(N, C, H, W)` or `(C, H, W)`, for windows of K entries, of which the
        image has L.

    Raises:
        ShapeError: the columns do not fit the windows, or no window fits into the image.

    Example:
        >>> fold(jnp.ones((4, 2)), (2, 3), (2, 2))
        Array([[[1., 2., 1.],
                [1., 2., 1.]]], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.fold.html
    """
    check_rank(input, (2, 3), "(N, C * K, L) or (C * K, L)")
    height, width = to_tuple(output_size, 2, "output_size")
    windows = _windows((height, width), kernel_size, dilation, padding, stride)
    size, count = math.prod(window.kernel for window in windows), math.prod(window.count for window in windows)
    *batch, rows, columns = input.shape
    if rows % size or not rows or columns != count:
        raise ShapeError(f"expected input (N, C * {size}, {count}) or (C * {size}, {count}), got {describe(input)}")
    image = jax.ShapeDtypeStruct((*batch, rows // size, height, width), input.dtype)
    (output,) = jax.linear_transpose(partial(_unfold, windows=windows), image)(input)
    return output


def _windows(
    sizes: tuple[int, int], kernel_size: IntOrTuple, dilation: IntOrTuple, padding: IntOrTuple, stride: IntOrTuple
) -> tuple[Window, Window]:
    """How the windows lie in height and width."""
    kernels, strides = to_tuple(kernel_size, 2, "kernel_size"), to_tuple(stride, 2, "stride")
    paddings, dilations = to_tuple(padding, 2, "padding"), to_tuple(dilation, 2, "dilation")
    wrong = [
        f"expected {name} of at least {least}, got {values}"
        for name, values, least in (
            ("kernel_size", kernels, 1),
            ("stride", strides, 1),
            ("dilation", dilations, 1),
            ("padding", paddings, 0),
        )
        if min(values) < least
    ]
    if wrong:
        raise ShapeError("; ".join(wrong))
    over_height, over_width = map(Window, sizes, kernels, strides, paddings, dilations)
    if over_height.count < 1 or over_width.count < 1:
        least = tuple(window.reach - 2 * window.padding for window in (over_height, over_width))
        raise ShapeError(f"expected images (H, W) of at least {least}, got {sizes}")
    return over_height, over_width


@partial(jax.jit, static_argnames="windows")
def _unfold(x: jax.Array, windows: tuple[Window, Window]) -> jax.Array:
    """The columns, taken apart one axis after the other: kernel + kernel slices instead of kernel²."""
    lead = x.ndim - 2
    for axis, window in ((lead, windows[0]), (lead + 2, windows[1])):
        around = [(0, 0, 0)] * x.ndim
        around[axis] = (window.padding, window.padding, 0)
        x = lax.pad(x, jnp.zeros((), x.dtype), around)
        last = (window.count - 1) * window.stride
        starts = [window.dilation * k for k in range(window.kernel)]
        cuts = [lax.slice_in_dim(x, start, start + last + 1, window.stride, axis) for start in starts]
        x = jnp.stack(cuts, axis)  # (..., size, ...) to (..., kernel, count, ...)
    *batch, channels, tall, height, wide, width = x.shape
    x = jnp.swapaxes(x, -3, -2)  # (*, C, K, H', L, W') to (*, C, K, L, H', W'), and that to (*, C·K·L, H'·W')
    return x.reshape(*batch, channels * tall * wide, height * width)
