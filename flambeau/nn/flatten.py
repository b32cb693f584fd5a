"""Reshapes as layers."""

from __future__ import annotations

from collections.abc import Sequence

import jax

from flambeau.core.module import Module
from flambeau.nn import functional as F

__all__ = ["Flatten", "Unflatten"]


class Flatten(Module):
    """Joins the dimensions from `start_dim` to `end_dim`, both included, into one.

    Args:
        start_dim: the first dimension to join.
        end_dim: the last dimension to join.

    Shape:
        input `(*, S₁, …, Sₖ, *)`, result `(*, S₁·…·Sₖ, *)`.

    Raises:
        IndexError: there is no such dimension.
        ShapeError: `start_dim` comes after `end_dim`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.Flatten()(jnp.ones((32, 1, 5, 5))).shape
        (32, 25)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.Flatten.html
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim = start_dim
        self.end_dim = end_dim

    def forward(self, input: jax.Array) -> jax.Array:
        return F.flatten(input, self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Unflatten(Module):
    """Splits one dimension into several: the reverse of `Flatten`. Dimensions have no names here, only numbers.

    Args:
        dim: the dimension to split.
        unflattened_size: what it becomes; one of them may be -1, and is then found from the others.

    Shape:
        input `(*, S, *)`, result `(*, S₁, …, Sₖ, *)` with S₁·…·Sₖ = S.

    Raises:
        TypeError: `unflattened_size` is no sequence of ints.
        IndexError: there is no such dimension.
        ShapeError: the sizes do not make up the dimension.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.Unflatten(1, (2, 5, 5))(jnp.ones((2, 50))).shape
        (2, 2, 5, 5)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.Unflatten.html
    """

    def __init__(self, dim: int, unflattened_size: Sequence[int]) -> None:
        super().__init__()
        if not isinstance(unflattened_size, (tuple, list)):
            raise TypeError(f"expected unflattened_size to be a tuple of ints, got {unflattened_size!r}")
        if not all(isinstance(size, int) for size in unflattened_size):
            raise TypeError(f"expected unflattened_size to be a tuple of ints, got {unflattened_size!r}")
        self.dim = dim
        self.unflattened_size = unflattened_size

    def forward(self, input: jax.Array) -> jax.Array:
        return F.unflatten(input, self.dim, self.unflattened_size)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"
