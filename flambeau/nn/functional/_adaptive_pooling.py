"""Averages and maxima over windows that evenly cover an input, as many as are asked for."""

from __future__ import annotations

import jax

from flambeau.nn.functional._checks import IntOrTuple
from flambeau.nn.functional._windows import Maxima, OutputSize, adaptive_windows, averages, check_input, maxima

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
]


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
        >>> import jax.numpy as jnp
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
        >>> import jax.numpy as jnp
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
        >>> import jax.numpy as jnp
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
        >>> import jax.numpy as jnp
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
        >>> import jax.numpy as jnp
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
        >>> import jax.numpy as jnp
        >>> adaptive_max_pool3d(jnp.ones((1, 2, 4, 5, 6)), 2).shape
        (1, 2, 2, 2, 2)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.adaptive_max_pool3d.html
    """
    return _adaptive_max_pool(3, input, output_size, return_indices)


def adaptive_max_pool1d_with_indices(
    input: jax.Array, output_size: IntOrTuple, return_indices: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Takes maxima of sequences to a given size, as `adaptive_max_pool1d`, and always returns where they stand as well.

    Args:
        input: the sequences, with or without a batch dimension; integers or floating numbers.
        output_size: the size of the result.
        return_indices: changes nothing; it is there so that both functions are called alike.

    Shape:
        input `(N, C, L)` or `(C, L)`, results `(N, C, L')` or `(C, L')`.

    Raises:
        ShapeError: the input has another rank or is empty, or a size is negative.
        DtypeError: the input is neither of an integer nor of a floating dtype.

    Example:
        >>> import jax.numpy as jnp
        >>> adaptive_max_pool1d_with_indices(jnp.array([[1.0, 3.0, 2.0]]), 2)
        (Array([[3., 3.]], dtype=float32), Array([[1, 1]], dtype=int32))

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.adaptive_max_pool1d.html
    """
    return _adaptive_max_pool(1, input, output_size, True)


def adaptive_max_pool2d_with_indices(
    input: jax.Array, output_size: OutputSize, return_indices: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Takes maxima of images to a given size, as `adaptive_max_pool2d`, and always returns where they stand as well.

    Args:
        input: the images, with or without a batch dimension; integers or floating numbers.
        output_size: the size of the result; None keeps that of the input.
        return_indices: changes nothing; it is there so that both functions are called alike.

    Shape:
        input `(N, C, H, W)` or `(C, H, W)`, results `(N, C, H', W')` or `(C, H', W')`.

    Raises:
        ShapeError: the input has another rank or is empty, or a size is negative.
        DtypeError: the input is neither of an integer nor of a floating dtype.

    Example:
        >>> import jax.numpy as jnp
        >>> [each.shape for each in adaptive_max_pool2d_with_indices(jnp.ones((16, 13, 9)), (6, None))]
        [(16, 6, 9), (16, 6, 9)]

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.adaptive_max_pool2d.html
    """
    return _adaptive_max_pool(2, input, output_size, True)


def adaptive_max_pool3d_with_indices(
    input: jax.Array, output_size: OutputSize, return_indices: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Takes maxima of volumes to a given size, as `adaptive_max_pool3d`, and always returns where they stand as well.

    Args:
        input: the volumes, with or without a batch dimension; integers or floating numbers.
        output_size: the size of the result; None keeps that of the input.
        return_indices: changes nothing; it is there so that both functions are called alike.

    Shape:
        input `(N, C, D, H, W)` or `(C, D, H, W)`, results `(N, C, D', H', W')` or `(C, D', H', W')`.

    Raises:
        ShapeError: the input has another rank or is empty, or a size is negative.
        DtypeError: the input is neither of an integer nor of a floating dtype.

    Example:
        >>> import jax.numpy as jnp
        >>> [each.shape for each in adaptive_max_pool3d_with_indices(jnp.ones((2, 4, 5, 6)), 2)]
        [(2, 2, 2, 2), (2, 2, 2, 2)]

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.adaptive_max_pool3d.html
    """
    return _adaptive_max_pool(3, input, output_size, True)


def _adaptive_avg_pool(n: int, input: jax.Array, output_size: OutputSize) -> jax.Array:
    check_input(n, input, integers=False)
    return averages(input, adaptive_windows(n, input, output_size), False, None)


def _adaptive_max_pool(n: int, input: jax.Array, output_size: OutputSize, return_indices: bool) -> Maxima:
    check_input(n, input, integers=True)
    return maxima(input, adaptive_windows(n, input, output_size), return_indices)
