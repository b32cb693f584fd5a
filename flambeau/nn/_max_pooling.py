"""Max pooling, and unpooling, which puts the maxima back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax

from flambeau.core.module import Module
from flambeau.nn import functional as F
from flambeau.nn.functional._checks import IntOrTuple, to_tuple

__all__ = ["MaxPool1d", "MaxPool2d", "MaxPool3d", "MaxUnpool1d", "MaxUnpool2d", "MaxUnpool3d"]


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


class _MaxUnpool(Module):
    """An unpooling; a subclass says of how many dimensions, and with what function."""

    _dimensions: ClassVar[int]
    _function: ClassVar[Callable[..., jax.Array]]

    def __init__(self, kernel_size: IntOrTuple, stride: IntOrTuple | None = None, padding: IntOrTuple = 0) -> None:
        super().__init__()
        self.kernel_size = to_tuple(kernel_size, self._dimensions, "kernel_size")
        self.stride = to_tuple(kernel_size if stride is None else stride, self._dimensions, "stride")
        self.padding = to_tuple(padding, self._dimensions, "padding")

    def forward(self, input: jax.Array, indices: jax.Array, output_size: Sequence[int] | None = None) -> jax.Array:
        return type(self)._function(input, indices, self.kernel_size, self.stride, self.padding, output_size)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


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


class MaxUnpool1d(_MaxUnpool):
    """Puts the maxima that `MaxPool1d` took back where they stood, among zeros: y[indices[i]] = x[i].

    Args:
        kernel_size: the size of the windows of the pooling.
        stride: how far its window moved; its size if None.
        padding: how much it added on both sides.

    Shape:
        input and indices `(N, C, L)` or `(C, L)`, result `(N, C, L')` or `(C, L')` with each size
        (L − 1)·stride − 2·padding + kernel_size; or the call's `output_size`, which is less than a stride away from it.

    Raises:
        ShapeError: the input has another number of dimensions, the indices have another shape, or `output_size` does not fit.
        IndexError: an index is outside of the result.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> x = jnp.ones((2, 4, 51))
        >>> nn.MaxUnpool1d(2)(*nn.MaxPool1d(2, return_indices=True)(x), output_size=x.shape).shape
        (2, 4, 51)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.MaxUnpool1d.html
    """

    _dimensions = 1
    _function = F.max_unpool1d


class MaxUnpool2d(_MaxUnpool):
    """Puts the maxima that `MaxPool2d` took back where they stood, among zeros: y[indices[i]] = x[i].

    Args:
        kernel_size: the size of the windows of the pooling.
        stride: how far its window moved; its size if None.
        padding: how much it added on both sides.

    Shape:
        input and indices `(N, C, H, W)` or `(C, H, W)`, result `(N, C, H', W')` or `(C, H', W')` with each size
        (L − 1)·stride − 2·padding + kernel_size; or the call's `output_size`, which is less than a stride away from it.

    Raises:
        ShapeError: the input has another number of dimensions, the indices have another shape, or `output_size` does not fit.
        IndexError: an index is outside of the result.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> x = jnp.ones((2, 4, 17, 17))
        >>> nn.MaxUnpool2d(2)(*nn.MaxPool2d(2, return_indices=True)(x), output_size=x.shape).shape
        (2, 4, 17, 17)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.MaxUnpool2d.html
    """

    _dimensions = 2
    _function = F.max_unpool2d


class MaxUnpool3d(_MaxUnpool):
    """Puts the maxima that `MaxPool3d` took back where they stood, among zeros: y[indices[i]] = x[i].

    Args:
        kernel_size: the size of the windows of the pooling.
        stride: how far its window moved; its size if None.
        padding: how much it added on both sides.

    Shape:
        input and indices `(N, C, D, H, W)` or `(C, D, H, W)`, result `(N, C, D', H', W')` or `(C, D', H', W')` with each size
        (L − 1)·stride − 2·padding + kernel_size; or the call's `output_size`, which is less than a stride away from it.

    Raises:
        ShapeError: the input has another number of dimensions, the indices have another shape, or `output_size` does not fit.
        IndexError: an index is outside of the result.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> x = jnp.ones((2, 4, 9, 9, 9))
        >>> nn.MaxUnpool3d(2)(*nn.MaxPool3d(2, return_indices=True)(x), output_size=x.shape).shape
        (2, 4, 9, 9, 9)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.MaxUnpool3d.html
    """

    _dimensions = 3
    _function = F.max_unpool3d
