"""Pooling: averages and power averages here, maxima and windows of other kinds from the files beside."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import jax

from flambeau.core.module import Module
from flambeau.nn import functional as F
from flambeau.nn._adaptive_pooling import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveAvgPool3d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AdaptiveMaxPool3d,
)
from flambeau.nn._fractional_pooling import FractionalMaxPool2d, FractionalMaxPool3d
from flambeau.nn._max_pooling import (
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
    MaxUnpool1d,
    MaxUnpool2d,
    MaxUnpool3d,
)
from flambeau.nn.functional._checks import IntOrTuple, to_tuple

__all__ = [
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "FractionalMaxPool2d",
    "FractionalMaxPool3d",
    "LPPool1d",
    "LPPool2d",
    "LPPool3d",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "MaxUnpool1d",
    "MaxUnpool2d",
    "MaxUnpool3d",
]


class _AvgPool(Module):
    """An average pooling; a subclass says of how many dimensions."""

    _function: ClassVar[Callable[..., jax.Array]]

    def __init__(
        self,
        kernel_size: IntOrTuple,
        stride: IntOrTuple | None = None,
        padding: IntOrTuple = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad
        self.divisor_override = divisor_override

    def forward(self, input: jax.Array) -> jax.Array:
        return type(self)._function(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class _LPPool(Module):
    """A power average pooling; a subclass says of how many dimensions."""

    _function: ClassVar[Callable[..., jax.Array]]

    def __init__(
        self, norm_type: float, kernel_size: IntOrTuple, stride: IntOrTuple | None = None, ceil_mode: bool = False
    ) -> None:
        super().__init__()
        self.norm_type = norm_type
        self.kernel_size = kernel_size
        self.stride = stride
        self.ceil_mode = ceil_mode

    def forward(self, input: jax.Array) -> jax.Array:
        return type(self)._function(input, self.norm_type, self.kernel_size, self.stride, self.ceil_mode)

    def extra_repr(self) -> str:
        return (
            f"norm_type={self.norm_type}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"ceil_mode={self.ceil_mode}"
        )


class AvgPool1d(_AvgPool):
    """The mean of each window of a sequence.

    Args:
        kernel_size: the size of the windows.
        stride: how far the window moves; its size if None.
        padding: how much to add on both sides, at most half the window, of zeros.
        ceil_mode: whether a last window that leaves the padded input counts.
        count_include_pad: whether the added zeros count in the mean.

    Shape:
        input `(N, C, L)` or `(C, L)`, result `(N, C, L')` or `(C, L')`.

    Raises:
        ShapeError: the input has another number of dimensions, or is smaller than the window.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.AvgPool1d(3, stride=2)(jnp.ones((2, 4, 50))).shape
        (2, 4, 24)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.AvgPool1d.html
    """

    def __init__(
        self,
        kernel_size: IntOrTuple,
        stride: IntOrTuple | None = None,
        padding: IntOrTuple = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        size, step = to_tuple(kernel_size, 1, "kernel_size"), None if stride is None else to_tuple(stride, 1, "stride")
        super().__init__(size, step, to_tuple(padding, 1, "padding"), ceil_mode, count_include_pad)

    def forward(self, input: jax.Array) -> jax.Array:
        return F.avg_pool1d(input, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad)


class AvgPool2d(_AvgPool):
    """The mean of each window.

    Args:
        kernel_size: the size of the windows, in each dimension if it is one int.
        stride: how far the window moves; its size if None.
        padding: how much to add on both sides, at most half the window, of zeros.
        ceil_mode: whether a last window that leaves the padded input counts.
        count_include_pad: whether the added zeros count in the mean.
        divisor_override: what to divide the sum by, in the place of the size of the window.

    Shape:
        input `(N, C, H, W)` or `(C, H, W)`, result `(N, C, H', W')` or `(C, H', W')`.

    Raises:
        ShapeError: the input has another number of dimensions, or is smaller than the window.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.AvgPool2d(3, stride=2)(jnp.ones((2, 4, 16, 16))).shape
        (2, 4, 7, 7)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.AvgPool2d.html
    """

    _function = F.avg_pool2d


class AvgPool3d(_AvgPool):
    """The mean of each window.

    Args:
        kernel_size: the size of the windows, in each dimension if it is one int.
        stride: how far the window moves; its size if None.
        padding: how much to add on both sides, at most half the window, of zeros.
        ceil_mode: whether a last window that leaves the padded input counts.
        count_include_pad: whether the added zeros count in the mean.
        divisor_override: what to divide the sum by, in the place of the size of the window.

    Shape:
        input `(N, C, D, H, W)` or `(C, D, H, W)`, result `(N, C, D', H', W')` or `(C, D', H', W')`.

    Raises:
        ShapeError: the input has another number of dimensions, or is smaller than the window.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.AvgPool3d(3, stride=2)(jnp.ones((2, 4, 8, 8, 8))).shape
        (2, 4, 3, 3, 3)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.AvgPool3d.html
    """

    _function = F.avg_pool3d


class LPPool1d(_LPPool):
    """The power average of each window of a sequence: (Σ xᵖ)^(1 / p).

    Args:
        norm_type: p; infinity takes the greatest, minus infinity the least absolute value.
        kernel_size: the size of the windows.
        stride: how far the window moves; its size if None.
        ceil_mode: whether a last window that leaves the input counts, as much as a whole one of the same average.

    Shape:
        input `(N, C, L)` or `(C, L)`, result `(N, C, L')` or `(C, L')`.

    Raises:
        ShapeError: the input has another number of dimensions, or is smaller than the window.
        ValueError: `norm_type` is 0.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.LPPool1d(2, 3, stride=2)(jnp.ones((2, 4, 50))).shape
        (2, 4, 24)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.LPPool1d.html
    """

    _function = F.lp_pool1d


class LPPool2d(_LPPool):
    """The power average of each window: (Σ xᵖ)^(1 / p).

    Args:
        norm_type: p; infinity takes the greatest, minus infinity the least absolute value.
        kernel_size: the size of the windows, in each dimension if it is one int.
        stride: how far the window moves; its size if None.
        ceil_mode: whether a last window that leaves the input counts, as much as a whole one of the same average.

    Shape:
        input `(N, C, H, W)` or `(C, H, W)`, result `(N, C, H', W')` or `(C, H', W')`.

    Raises:
        ShapeError: the input has another number of dimensions, or is smaller than the window.
        ValueError: `norm_type` is 0.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.LPPool2d(2, 3, stride=2)(jnp.ones((2, 4, 16, 16))).shape
        (2, 4, 7, 7)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.LPPool2d.html
    """

    _function = F.lp_pool2d


class LPPool3d(_LPPool):
    """The power average of each window: (Σ xᵖ)^(1 / p).

    Args:
        norm_type: p; infinity takes the greatest, minus infinity the least absolute value.
        kernel_size: the size of the windows, in each dimension if it is one int.
        stride: how far the window moves; its size if None.
        ceil_mode: whether a last window that leaves the input counts, as much as a whole one of the same average.

    Shape:
        input `(N, C, D, H, W)` or `(C, D, H, W)`, result `(N, C, D', H', W')` or `(C, D', H', W')`.

    Raises:
        ShapeError: the input has another number of dimensions, or is smaller than the window.
        ValueError: `norm_type` is 0.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.LPPool3d(2, 3, stride=2)(jnp.ones((2, 4, 8, 8, 8))).shape
        (2, 4, 3, 3, 3)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.LPPool3d.html
    """

    _function = F.lp_pool3d
