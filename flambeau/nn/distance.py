"""Distances and likenesses of vectors."""

from __future__ import annotations

import jax

from flambeau.core.module import Module
from flambeau.nn import functional as F

__all__ = ["CosineSimilarity", "PairwiseDistance"]


class CosineSimilarity(Module):
    """The cosine of the angle between vectors: x₁ · x₂ / (max(‖x₁‖, eps) · max(‖x₂‖, eps)).

    Args:
        dim: the dimension that holds the vectors, counted after broadcasting.
        eps: the smallest norm to divide by.

    Shape:
        inputs that broadcast to `(*, D, *)`, result `(*, *)`.

    Raises:
        ShapeError: the inputs do not broadcast.
        IndexError: there is no such dimension.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.CosineSimilarity()(jnp.ones((1, 2)), jnp.array([[2.0, 0.0]])).round(4)
        Array([0.7071], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.CosineSimilarity.html
    """

    def __init__(self, dim: int = 1, eps: float = 1e-8) -> None:
        super().__init__()
        self.dim = dim
        self.eps = eps

    def forward(self, x1: jax.Array, x2: jax.Array) -> jax.Array:
        return F.cosine_similarity(x1, x2, self.dim, self.eps)


class PairwiseDistance(Module):
    """The distance between vectors: ‖x₁ - x₂ + eps‖ₚ.

    Args:
        p: the p of the norm.
        eps: what is added to each difference.
        keepdim: whether the result keeps the last dimension.

    Shape:
        inputs `(N, D)` or `(D,)`, result `(N)` or `()`; with `keepdim`, `(N, 1)` or `(1,)`.

    Raises:
        ShapeError: the inputs do not broadcast.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.PairwiseDistance()(jnp.zeros((1, 2)), jnp.array([[3.0, 4.0]])).round(2)
        Array([5.], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.PairwiseDistance.html
    """

    def __init__(self, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> None:
        super().__init__()
        self.norm = p
        self.eps = eps
        self.keepdim = keepdim

    def forward(self, x1: jax.Array, x2: jax.Array) -> jax.Array:
        return F.pairwise_distance(x1, x2, self.norm, self.eps, self.keepdim)
