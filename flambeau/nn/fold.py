"""Windows of images as columns, and back, as layers."""

from __future__ import annotations

import jax

from flambeau.core.module import Module
from flambeau.nn import functional as F
from flambeau.nn.functional._checks import IntOrTuple

__all__ = ["Fold", "Unfold"]


class Fold(Module):
    """Sums columns into an image, each where `Unfold` takes it from.

    Args:
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
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.Fold((2, 3), (2, 2))(jnp.ones((4, 2)))
        Array([[[1., 2., 1.],
                [1., 2., 1.]]], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.Fold.html
    """

    def __init__(
        self,
        output_size: IntOrTuple,
        kernel_size: IntOrTuple,
        dilation: IntOrTuple = 1,
        padding: IntOrTuple = 0,
        stride: IntOrTuple = 1,
    ) -> None:
        super().__init__()
        self.output_size = output_size
        self.kernel_size = kernel_size
        self.dilation = dilation
        self.padding = padding
        self.stride = stride

    def forward(self, input: jax.Array) -> jax.Array:
        return F.fold(input, self.output_size, self.kernel_size, self.dilation, self.padding, self.stride)

    def extra_repr(self) -> str:
        window = f"dilation={self.dilation}, padding={self.padding}, stride={self.stride}"
        return f"output_size={self.output_size}, kernel_size={self.kernel_size}, {window}"


class Unfold(Module):
    """Writes each window of an image as a column.

    Args:
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
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.Unfold((2, 3))(jnp.ones((2, 5, 3, 4))).shape
        (2, 30, 4)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.Unfold.html
    """

    def __init__(
        self, kernel_size: IntOrTuple, dilation: IntOrTuple = 1, padding: IntOrTuple = 0, stride: IntOrTuple = 1
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.dilation = dilation
        self.padding = padding
        self.stride = stride

    def forward(self, input: jax.Array) -> jax.Array:
        return F.unfold(input, self.kernel_size, self.dilation, self.padding, self.stride)

    def extra_repr(self) -> str:
        window = f"dilation={self.dilation}, padding={self.padding}, stride={self.stride}"
        return f"kernel_size={self.kernel_size}, {window}"
