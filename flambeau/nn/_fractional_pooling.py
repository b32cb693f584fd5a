"""Max pooling over windows at random places."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax

from flambeau._errors import ShapeError
from flambeau.core.module import Module
from flambeau.nn import functional as F
from flambeau.nn.functional._checks import IntOrTuple, to_tuple

__all__ = ["FractionalMaxPool2d", "FractionalMaxPool3d"]


class _FractionalMaxPool(Module):
    """A fractional max pooling; a subclass says of how many dimensions, and with what function."""

    _dimensions: ClassVar[int]
    _function: ClassVar[Callable[..., Any]]

    def __init__(
        self,
        kernel_size: IntOrTuple,
        output_size: IntOrTuple | None = None,
        output_ratio: float | Sequence[float] | None = None,
        return_indices: bool = False,
        _random_samples: jax.Array | None = None,
    ) -> None:
        super().__init__()
        if (output_size is None) == (output_ratio is None):
            raise ValueError(f"expected either output_size or output_ratio, got {output_size} and {output_ratio}")
        n = self._dimensions
        self.kernel_size = to_tuple(kernel_size, n, "kernel_size")
        if min(self.kernel_size) < 1:
            raise ValueError(f"expected kernel_size of at least 1, got {kernel_size}")
        self.return_indices = return_indices
        self.register_buffer("_random_samples", _random_samples)
        self.output_size = None if output_size is None else to_tuple(output_size, n, "output_size")
        self.output_ratio = None if output_ratio is None else _ratios(output_ratio, n)

    def forward(self, input: jax.Array) -> Any:
        return type(self)._function(
            input,
            self.kernel_size,
            self.output_size,
            self.output_ratio,
            self.return_indices,
            _random_samples=self._random_samples,
        )


def _ratios(value: float | Sequence[float], n: int) -> tuple[float, ...]:
    ratios = tuple(value) if isinstance(value, Sequence) else (value,) * n
    if len(ratios) != n:
        raise ShapeError(f"expected output_ratio to be a number or {n} numbers, got {value}")
    if not all(0 < ratio < 1 for ratio in ratios):
        raise ValueError(f"expected output_ratio between 0 and 1, got {value}")
    return ratios


class FractionalMaxPool2d(_FractionalMaxPool):
    """The largest value in each window, where windows lie at random places that spread evenly over the image.

    The places come from the default generator, in training as in evaluation, another set for each image and channel.

    Args:
        kernel_size: the size of the windows, in each dimension if it is one int.
        output_size: how many windows, in each dimension if it is one int.
        output_ratio: in its place, how many for each entry of the input, between 0 and 1.
        return_indices: whether to return the place of each largest value, too.
        _random_samples: numbers in [0, 1) `(N, C, 2)` that place the windows always alike; a buffer.

    Shape:
        input `(N, C, H, W)` or `(C, H, W)`, result `(N, C, H', W')` or `(C, H', W')`;
        with `return_indices`, a pair of those.

    Raises:
        ValueError: not just one of `output_size` and `output_ratio` is given, or one of the arguments is out of range.
        ShapeError: the input has another number of dimensions, or is too small for so many windows.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.FractionalMaxPool2d(3, output_ratio=0.5)(jnp.ones((2, 4, 16, 16))).shape
        (2, 4, 8, 8)

    Source: https://arxiv.org/abs/1412.6071
    """

    _dimensions = 2
    _function = F.fractional_max_pool2d


class FractionalMaxPool3d(_FractionalMaxPool):
    """The largest value in each window, where windows lie at random places that spread evenly over the volume.

    The places come from the default generator, in training as in evaluation, another set for each volume and channel.

    Args:
        kernel_size: the size of the windows, in each dimension if it is one int.
        output_size: how many windows, in each dimension if it is one int.
        output_ratio: in its place, how many for each entry of the input, between 0 and 1.
        return_indices: whether to return the place of each largest value, too.
        _random_samples: numbers in [0, 1) `(N, C, 3)` that place the windows always alike; a buffer.

    Shape:
        input `(N, C, D, H, W)` or `(C, D, H, W)`, result `(N, C, D', H', W')` or `(C, D', H', W')`;
        with `return_indices`, a pair of those.

    Raises:
        ValueError: not just one of `output_size` and `output_ratio` is given, or one of the arguments is out of range.
        ShapeError: the input has another number of dimensions, or is too small for so many windows.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.FractionalMaxPool3d(3, output_ratio=0.5)(jnp.ones((2, 4, 8, 8, 8))).shape
        (2, 4, 4, 4, 4)

    Source: https://arxiv.org/abs/1412.6071
    """

    _dimensions = 3
    _function = F.fractional_max_pool3d
