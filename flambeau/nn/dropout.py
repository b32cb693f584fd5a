"""Dropout."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import jax

from flambeau.core.module import Module
from flambeau.nn import functional as F

__all__ = ["AlphaDropout", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "FeatureAlphaDropout"]


class _DropoutNd(Module):
    """A dropout; a subclass says of what."""

    _function: ClassVar[Callable[..., jax.Array]]

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"expected a dropout probability in [0, 1], got {p}")
        self.p = p
        self.inplace = inplace

    def forward(self, input: jax.Array) -> jax.Array:
        return type(self)._function(input, self.p, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace={self.inplace}"


class Dropout(_DropoutNd):
    """Sets elements to zero at random in training and scales the others up: x · mask / (1 - p), mask ~ Bernoulli(1 - p).

    The numbers come from the default generator.

    Args:
        p: the probability to be dropped.
        inplace: accepted for PyTorch's sake; arrays are never changed in place.

    Shape:
        input `(*)`, result `(*)`.

    Raises:
        ValueError: `p` is no probability.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.Dropout(0.2)(jnp.ones((20, 16))).shape
        (20, 16)

    Source: https://arxiv.org/abs/1207.0580
    """

    _function = F.dropout


class Dropout1d(_DropoutNd):
    """Sets whole channels of sequences to zero at random in training and scales the others up by 1 / (1 - p).

    The numbers come from the default generator.

    Args:
        p: the probability to be dropped.
        inplace: accepted for PyTorch's sake; arrays are never changed in place.

    Shape:
        input `(N, C, L)` or `(C, L)`, result like input.

    Raises:
        ValueError: `p` is no probability.
        ShapeError: the input has another number of dimensions.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.Dropout1d(0.2)(jnp.ones((20, 16, 32))).shape
        (20, 16, 32)

    Source: https://arxiv.org/abs/1411.4280
    """

    _function = F.dropout1d


class Dropout2d(_DropoutNd):
    """Sets whole channels of images to zero at random in training and scales the others up by 1 / (1 - p).

    The numbers come from the default generator.

    Args:
        p: the probability to be dropped.
        inplace: accepted for PyTorch's sake; arrays are never changed in place.

    Shape:
        input `(N, C, H, W)` or `(C, H, W)`, result like input.

    Raises:
        ValueError: `p` is no probability.
        ShapeError: the input has another number of dimensions.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.Dropout2d(0.2)(jnp.ones((2, 16, 8, 8))).shape
        (2, 16, 8, 8)

    Source: https://arxiv.org/abs/1411.4280
    """

    _function = F.dropout2d


class Dropout3d(_DropoutNd):
    """Sets whole channels of volumes to zero at random in training and scales the others up by 1 / (1 - p).

    The numbers come from the default generator.

    Args:
        p: the probability to be dropped.
        inplace: accepted for PyTorch's sake; arrays are never changed in place.

    Shape:
        input `(N, C, D, H, W)` or `(C, D, H, W)`, result like input.

    Raises:
        ValueError: `p` is no probability.
        ShapeError: the input has another number of dimensions.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.Dropout3d(0.2)(jnp.ones((2, 16, 4, 4, 4))).shape
        (2, 16, 4, 4, 4)

    Source: https://arxiv.org/abs/1411.4280
    """

    _function = F.dropout3d


class AlphaDropout(_DropoutNd):
    """Drops elements at random in training so that mean and variance stay, for networks of SELUs.

    The numbers come from the default generator.

    Args:
        p: the probability to be dropped.
        inplace: accepted for PyTorch's sake; arrays are never changed in place.

    Shape:
        input `(*)`, result `(*)`.

    Raises:
        ValueError: `p` is no probability.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.AlphaDropout(0.2)(jnp.ones((20, 16))).shape
        (20, 16)

    Source: https://arxiv.org/abs/1706.02515
    """

    _function = F.alpha_dropout


class FeatureAlphaDropout(_DropoutNd):
    """Drops whole channels at random in training so that mean and variance stay, for networks of SELUs.

    The numbers come from the default generator.

    Args:
        p: the probability to be dropped.
        inplace: accepted for PyTorch's sake; arrays are never changed in place.

    Shape:
        input `(N, C, *)`, result like input.

    Raises:
        ValueError: `p` is no probability.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.FeatureAlphaDropout(0.2)(jnp.ones((2, 16, 4, 4, 4))).shape
        (2, 16, 4, 4, 4)

    Source: https://arxiv.org/abs/1706.02515
    """

    _function = F.feature_alpha_dropout
