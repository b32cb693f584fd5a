"""Pooling over one, two and three spatial dimensions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax

from flambeau.core.module import Module
from flambeau.nn import functional as F
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
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
]


class _MaxPool(Module):
    """A max pooling; a subclass says of how many dimensions."""

    _function: ClassVar[Callable[..., Any]]

    def __init__(
        self,
        kernel_size: IntOrTuple,
        stride: IntOrTuple | None = None,
        padding: IntOrTuple = 0,
        dilation: IntOrTuple = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.dilation = dilation
        self.return_indices = return_indices
        self.ceil_mode = ceil_mode

    def forward(self, input: jax.Array) -> Any:
        return type(self)._function(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            ceil_mode=self.ceil_mode,
            return_indices=self.return_indices,
        )

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, dilation={self.dilation}, "
            f"ceil_mode={self.ceil_mode}"
        )


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


class _AdaptiveAvgPool(Module):
    """An average pooling to a given size; a subclass says of how many dimensions."""

    _function: ClassVar[Callable[..., jax.Array]]

    def __init__(self, output_size: int | Sequence[int | None] | None) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, input: jax.Array) -> jax.Array:
        return type(self)._function(input, self.output_size)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class _AdaptiveMaxPool(Module):
    """A max pooling to a given size; a subclass says of how many dimensions."""

    _function: ClassVar[Callable[..., Any]]

    def __init__(self, output_size: int | Sequence[int | None] | None, return_indices: bool = False) -> None:
        super().__init__()
        self.output_size = output_size
        self.return_indices = return_indices

    def forward(self, input: jax.Array) -> Any:
        return type(self)._function(input, self.output_size, self.return_indices)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class MaxPool1d(_MaxPool):
    """The largest value in each window of a sequence.

    Args:
        kernel_size: the size of the windows.
        stride: how far the window moves; its size if None.
        padding: how much to add on both sides, at most half the window, of what is never the largest.
        dilation: the distance between two entries of the window.
        return_indices: whether to return the place of each largest value, too.
        ceil_mode: whether a last window that leaves the padded input counts.

    Shape:
        input `(N, C, L)` or `(C, L)`, result `(N, C, L')` or `(C, L')`;
        with `return_indices`, a pair of those.

    Raises:
        ShapeError: the input has another number of dimensions, or is smaller than the window.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.MaxPool1d(3, stride=2)(jnp.ones((2, 4, 50))).shape
        (2, 4, 24)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.MaxPool1d.html
    """

    _function = F.max_pool1d


class MaxPool2d(_MaxPool):
    """The largest value in each window.

    Args:
        kernel_size: the size of the windows, in each dimension if it is one int.
        stride: how far the window moves; its size if None.
        padding: how much to add on both sides, at most half the window, of what is never the largest.
        dilation: the distance between two entries of the window.
        return_indices: whether to return the place of each largest value, too.
        ceil_mode: whether a last window that leaves the padded input counts.

    Shape:
        input `(N, C, H, W)` or `(C, H, W)`, result `(N, C, H', W')` or `(C, H', W')`;
        with `return_indices`, a pair of those.

    Raises:
        ShapeError: the input has another number of dimensions, or is smaller than the window.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.MaxPool2d(3, stride=2)(jnp.ones((2, 4, 16, 16))).shape
        (2, 4, 7, 7)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.MaxPool2d.html
    """

    _function = F.max_pool2d


class MaxPool3d(_MaxPool):
    """The largest value in each window.

    Args:
        kernel_size: the size of the windows, in each dimension if it is one int.
        stride: how far the window moves; its size if None.
        padding: how much to add on both sides, at most half the window, of what is never the largest.
        dilation: the distance between two entries of the window.
        return_indices: whether to return the place of each largest value, too.
        ceil_mode: whether a last window that leaves the padded input counts.

    Shape:
        input `(N, C, D, H, W)` or `(C, D, H, W)`, result `(N, C, D', H', W')` or `(C, D', H', W')`;
        with `return_indices`, a pair of those.

    Raises:
        ShapeError: the input has another number of dimensions, or is smaller than the window.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.MaxPool3d(3, stride=2)(jnp.ones((2, 4, 8, 8, 8))).shape
        (2, 4, 3, 3, 3)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.MaxPool3d.html
    """

    _function = F.max_pool3d


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


class AdaptiveAvgPool1d(_AdaptiveAvgPool):
    """The means of windows that cover the input evenly, as many as are asked for.

    Args:
        output_size: how many.

    Shape:
        input `(N, C, L)` or `(C, L)`, result `(N, C, L')` or `(C, L')`.

    Raises:
        ShapeError: the input has another number of dimensions.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.AdaptiveAvgPool1d(5)(jnp.ones((2, 4, 50))).shape
        (2, 4, 5)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.AdaptiveAvgPool1d.html
    """

    _function = F.adaptive_avg_pool1d


class AdaptiveAvgPool2d(_AdaptiveAvgPool):
    """The means of windows that cover the input evenly, as many as are asked for.

    Args:
        output_size: how many, in each dimension if it is one int; None for as many as the input has.

    Shape:
        input `(N, C, H, W)` or `(C, H, W)`, result `(N, C, H', W')` or `(C, H', W')`.

    Raises:
        ShapeError: the input has another number of dimensions.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.AdaptiveAvgPool2d(5)(jnp.ones((2, 4, 16, 16))).shape
        (2, 4, 5, 5)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.AdaptiveAvgPool2d.html
    """

    _function = F.adaptive_avg_pool2d


class AdaptiveAvgPool3d(_AdaptiveAvgPool):
    """The means of windows that cover the input evenly, as many as are asked for.

    Args:
        output_size: how many, in each dimension if it is one int; None for as many as the input has.

    Shape:
        input `(N, C, D, H, W)` or `(C, D, H, W)`, result `(N, C, D', H', W')` or `(C, D', H', W')`.

    Raises:
        ShapeError: the input has another number of dimensions.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.AdaptiveAvgPool3d(5)(jnp.ones((2, 4, 8, 8, 8))).shape
        (2, 4, 5, 5, 5)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.AdaptiveAvgPool3d.html
    """

    _function = F.adaptive_avg_pool3d


class AdaptiveMaxPool1d(_AdaptiveMaxPool):
    """The largest values of windows that cover the input evenly, as many as are asked for.

    Args:
        output_size: how many.
        return_indices: whether to return the place of each largest value, too.

    Shape:
        input `(N, C, L)` or `(C, L)`, result `(N, C, L')` or `(C, L')`;
        with `return_indices`, a pair of those.

    Raises:
        ShapeError: the input has another number of dimensions.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.AdaptiveMaxPool1d(5)(jnp.ones((2, 4, 50))).shape
        (2, 4, 5)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.AdaptiveMaxPool1d.html
    """

    _function = F.adaptive_max_pool1d


class AdaptiveMaxPool2d(_AdaptiveMaxPool):
    """The largest values of windows that cover the input evenly, as many as are asked for.

    Args:
        output_size: how many, in each dimension if it is one int; None for as many as the input has.
        return_indices: whether to return the place of each largest value, too.

    Shape:
        input `(N, C, H, W)` or `(C, H, W)`, result `(N, C, H', W')` or `(C, H', W')`;
        with `return_indices`, a pair of those.

    Raises:
        ShapeError: the input has another number of dimensions.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.AdaptiveMaxPool2d(5)(jnp.ones((2, 4, 16, 16))).shape
        (2, 4, 5, 5)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.AdaptiveMaxPool2d.html
    """

    _function = F.adaptive_max_pool2d


class AdaptiveMaxPool3d(_AdaptiveMaxPool):
    """The largest values of windows that cover the input evenly, as many as are asked for.

    Args:
        output_size: how many, in each dimension if it is one int; None for as many as the input has.
        return_indices: whether to return the place of each largest value, too.

    Shape:
        input `(N, C, D, H, W)` or `(C, D, H, W)`, result `(N, C, D', H', W')` or `(C, D', H', W')`;
        with `return_indices`, a pair of those.

    Raises:
        ShapeError: the input has another number of dimensions.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.AdaptiveMaxPool3d(5)(jnp.ones((2, 4, 8, 8, 8))).shape
        (2, 4, 5, 5, 5)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.AdaptiveMaxPool3d.html
    """

    _function = F.adaptive_max_pool3d
