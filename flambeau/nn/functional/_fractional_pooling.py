"""Maxima over windows that lie at random, so many as make a fraction of the input's size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from flambeau._errors import ShapeError
from flambeau.core.random import next_key
from flambeau.nn.functional._checks import IntOrTuple, check_same_dtype, describe, to_tuple
from flambeau.nn.functional._math import widen
from flambeau.nn.functional._windows import Maxima, Window, at_indices, check_input, first_along

__all__ = [
    "fractional_max_pool2d",
    "fractional_max_pool2d_with_indices",
    "fractional_max_pool3d",
    "fractional_max_pool3d_with_indices",
]

Ratio: TypeAlias = float | Sequence[float]
"""A number for every spatial dimension, or one for each."""


def fractional_max_pool2d(
    input: jax.Array,
    kernel_size: IntOrTuple,
    output_size: IntOrTuple | None = None,
    output_ratio: Ratio | None = None,
    return_indices: bool = False,
    _random_samples: jax.Array | None = None,
) -> Maxima:
    """Takes maxima of images over windows at random places: one of size K starts at ⌊(i + u)·α⌋ − ⌊u·α⌋.

    Here α = (L − K) / (L' − 1) in each dimension, where the last window ends with the image, and u is uniform in [0, 1),
    another one for each image, channel and dimension. Equal maxima and NaNs count as in `max_pool1d`. The random numbers
    come from the default generator, in training as in evaluation.

    Args:
        input: the images, with or without a batch dimension.
        kernel_size: the size of a window.
        output_size: the size of the result.
        output_ratio: where there is no `output_size`, the size of the result as a part of the input's.
        return_indices: whether to return the flat indices of the maxima in the spatial dimensions as well.
        _random_samples: the numbers u `(N, C, 2)`, for the width first and then for the height.

    Shape:
        input `(N, C, H, W)` or `(C, H, W)`, result `(N, C, H', W')` or `(C, H', W')`; indices as the result.

    Raises:
        ShapeError: the input has another rank, is empty, or is too small for so many windows; or the samples do not fit.
        DtypeError: the input is not of a floating dtype, or the samples have another one.
        ValueError: neither `output_size` nor `output_ratio` is given.

    Example:
        >>> fractional_max_pool2d(jnp.ones((2, 4, 9, 12)), 2, output_ratio=0.5).shape
        (2, 4, 4, 6)

    Source: https://arxiv.org/abs/1412.6071
    """
    values, indices = _pool(2, input, kernel_size, output_size, output_ratio, _random_samples)
    return (values, indices) if return_indices else values


def fractional_max_pool3d(
    input: jax.Array,
    kernel_size: IntOrTuple,
    output_size: IntOrTuple | None = None,
    output_ratio: Ratio | None = None,
    return_indices: bool = False,
    _random_samples: jax.Array | None = None,
) -> Maxima:
    """Takes maxima of volumes over windows at random places, one of size K at ⌊(i + u)·α⌋ − ⌊u·α⌋ in each dimension.

    α and u are those of `fractional_max_pool2d`. PyTorch refuses L' + K − 1 = L here, where windows are one apart; this
    function takes it, as both do in two dimensions.

    Args:
        input: the volumes, with or without a batch dimension.
        kernel_size: the size of a window.
        output_size: the size of the result.
        output_ratio: where there is no `output_size`, the size of the result as a part of the input's.
        return_indices: whether to return the flat indices of the maxima in the spatial dimensions as well.
        _random_samples: the numbers u `(N, C, 3)`, for depth, height and width.

    Shape:
        input `(N, C, D, H, W)` or `(C, D, H, W)`, result `(N, C, D', H', W')` or `(C, D', H', W')`; indices as the
        result.

    Raises:
        ShapeError: the input has another rank, is empty, or is too small for so many windows; or the samples do not fit.
        DtypeError: the input is not of a floating dtype, or the samples have another one.
        ValueError: neither `output_size` nor `output_ratio` is given.

    Example:
        >>> fractional_max_pool3d(jnp.ones((2, 4, 6, 9, 12)), 2, output_size=(3, 4, 5)).shape
        (2, 4, 3, 4, 5)

    Source: https://arxiv.org/abs/1412.6071
    """
    values, indices = _pool(3, input, kernel_size, output_size, output_ratio, _random_samples)
    return (values, indices) if return_indices else values


def fractional_max_pool2d_with_indices(
    input: jax.Array,
    kernel_size: IntOrTuple,
    output_size: IntOrTuple | None = None,
    output_ratio: Ratio | None = None,
    return_indices: bool = False,
    _random_samples: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Takes maxima of images at random places, as `fractional_max_pool2d`, and always returns where they stand as well.

    Args:
        input: the images, with or without a batch dimension.
        kernel_size: the size of a window.
        output_size: the size of the result.
        output_ratio: where there is no `output_size`, the size of the result as a part of the input's.
        return_indices: changes nothing; it is there so that both functions are called alike.
        _random_samples: what places the windows, `(N, C, 2)`.

    Shape:
        input `(N, C, H, W)` or `(C, H, W)`, results `(N, C, H', W')` or `(C, H', W')`.

    Raises:
        ShapeError: the input has another rank, is empty, or is too small for so many windows; or the samples do not fit.
        DtypeError: the input is not of a floating dtype, or the samples have another one.
        ValueError: neither `output_size` nor `output_ratio` is given.

    Example:
        >>> image = jnp.array([[[1.0, 2.0], [4.0, 3.0]]])
        >>> fractional_max_pool2d_with_indices(image, 2, output_size=1)
        (Array([[[4.]]], dtype=float32), Array([[[2]]], dtype=int32))

    Source: https://arxiv.org/abs/1412.6071
    """
    return _pool(2, input, kernel_size, output_size, output_ratio, _random_samples)


def fractional_max_pool3d_with_indices(
    input: jax.Array,
    kernel_size: IntOrTuple,
    output_size: IntOrTuple | None = None,
    output_ratio: Ratio | None = None,
    return_indices: bool = False,
    _random_samples: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Takes maxima of volumes at random places, as `fractional_max_pool3d`, and always returns where they stand as well.

    Args:
        input: the volumes, with or without a batch dimension.
        kernel_size: the size of a window.
        output_size: the size of the result.
        output_ratio: where there is no `output_size`, the size of the result as a part of the input's.
        return_indices: changes nothing; it is there so that both functions are called alike.
        _random_samples: what places the windows, `(N, C, 3)`.

    Shape:
        input `(N, C, D, H, W)` or `(C, D, H, W)`, results `(N, C, D', H', W')` or `(C, D', H', W')`.

    Raises:
        ShapeError: the input has another rank, is empty, or is too small for so many windows; or the samples do not fit.
        DtypeError: the input is not of a floating dtype, or the samples have another one.
        ValueError: neither `output_size` nor `output_ratio` is given.

    Example:
        >>> [each.shape for each in fractional_max_pool3d_with_indices(jnp.ones((2, 6, 6, 6)), 2, output_ratio=0.5)]
        [(2, 3, 3, 3), (2, 3, 3, 3)]

    Source: https://arxiv.org/abs/1412.6071
    """
    return _pool(3, input, kernel_size, output_size, output_ratio, _random_samples)


def _pool(
    n: int,
    input: jax.Array,
    kernel_size: IntOrTuple,
    output_size: IntOrTuple | None,
    output_ratio: Ratio | None,
    samples: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    check_input(n, input, integers=False)
    kernels, sizes = to_tuple(kernel_size, n, "kernel_size"), input.shape[-n:]
    counts = _result_sizes(sizes, output_size, output_ratio)
    if min(kernels) < 1 or min(counts) < 0:
        raise ShapeError(f"expected kernel_size of at least 1 and a result of at least 0, got {kernels} and {counts}")
    if any(count + kernel - 1 > size for count, kernel, size in zip(counts, kernels, sizes, strict=True)):
        least = tuple(count + kernel - 1 for count, kernel in zip(counts, kernels, strict=True))
        raise ShapeError(f"expected input with spatial sizes of at least {least}, got {describe(input)}")
    batch, channels = (1, *input.shape)[-n - 2 : -n]
    if samples is None:
        # In float32 whatever the input, so that narrower numbers do not make for fewer places.
        samples = jax.random.uniform(next_key(), (batch, channels, n), jnp.float32)
    else:
        check_same_dtype(input, _random_samples=samples)
        if samples.ndim != 3 or samples.shape[0] < batch or samples.shape[1:] != (channels, n):
            raise ShapeError(f"expected _random_samples ({batch}, {channels}, {n}), got {describe(samples)}")
    return _random_maxima(input, samples[:batch], kernels, counts)


def _result_sizes(
    sizes: tuple[int, ...], output_size: IntOrTuple | None, output_ratio: Ratio | None
) -> tuple[int, ...]:
    n = len(sizes)
    if output_size is not None:
        return to_tuple(output_size, n, "output_size")
    if output_ratio is None:
        raise ValueError("expected output_size or output_ratio, got neither")
    ratios = tuple(output_ratio) if isinstance(output_ratio, Sequence) else (output_ratio,) * n
    if len(ratios) != n:
        raise ShapeError(f"expected output_ratio to be a number or {n} numbers, got {output_ratio}")
    return tuple(int(size * ratio) for size, ratio in zip(sizes, ratios, strict=True))


@partial(jax.jit, static_argnums=(2, 3))
def _random_maxima(
    x: jax.Array, samples: jax.Array, kernels: tuple[int, ...], counts: tuple[int, ...]
) -> tuple[jax.Array, jax.Array]:
    n, sizes = len(kernels), x.shape[-len(kernels) :]
    if 0 in counts:
        empty = (*x.shape[:-n], *counts)
        return jnp.zeros(empty, x.dtype), jnp.zeros(empty, int)
    order = (1, 0) if n == 2 else (0, 1, 2)  # as PyTorch reads the samples
    planes = widen(samples).reshape(-1, n)  # (N, C, n) to (N·C, n)
    index = jnp.broadcast_to(lax.iota(jnp.int32, math.prod(sizes)).reshape(sizes), (planes.shape[0], *sizes))
    # The derivative is that of reading at the indices, so that none is needed of the search.
    pair = lax.stop_gradient(x).reshape(-1, *sizes), index
    for axis in reversed(range(n)):
        starts = _starts(planes[:, order[axis]], sizes[axis], kernels[axis], counts[axis])
        places = starts[:, :, None] + np.arange(kernels[axis], dtype=np.int32)
        places = places.reshape(planes.shape[0], counts[axis] * kernels[axis])  # (N·C, L', K) to (N·C, L'·K)
        places = jnp.expand_dims(places, [1 + other for other in range(n) if other != axis])
        spread = tuple(jnp.take_along_axis(each, places, axis + 1) for each in pair)
        window = Window(counts[axis] * kernels[axis], kernels[axis], kernels[axis])
        pair = first_along((spread[0], spread[1]), axis + 1, window, nowhere=math.prod(sizes))
    indices = pair[1].reshape(*x.shape[:-n], *counts)
    return at_indices(x, indices, n), indices.astype(int)


def _starts(samples: jax.Array, size: int, kernel: int, count: int) -> jax.Array:
    """Where `count` windows start along an axis, for each of the samples: `(M,)` to `(M, count)`."""
    step = np.asarray(size - kernel, samples.dtype) / np.asarray(max(count - 1, 1), samples.dtype)
    shift = samples[:, None]
    inner = jnp.trunc((np.arange(count - 1, dtype=samples.dtype) + shift) * step) - jnp.trunc(shift * step)
    return jnp.pad(inner, ((0, 0), (0, 1)), constant_values=size - kernel).astype(jnp.int32)
