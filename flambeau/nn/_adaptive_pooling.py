"""Pooling to a size that is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax

from flambeau.core.module import Module
from flambeau.nn import functional as F

__all__ = [
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d",
]


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
