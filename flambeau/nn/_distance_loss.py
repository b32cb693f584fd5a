"""Losses of distances and margins."""

from __future__ import annotations

from collections.abc import Callable

import jax

from flambeau.nn import functional as F
from flambeau.nn._elementwise_loss import Loss
from flambeau.nn.distance import PairwiseDistance

__all__ = [
    "CosineEmbeddingLoss",
    "HingeEmbeddingLoss",
    "MarginRankingLoss",
    "SoftMarginLoss",
    "TripletMarginLoss",
    "TripletMarginWithDistanceLoss",
]


class HingeEmbeddingLoss(Loss):
    """Wants distances small for y = 1 and above a margin for y = -1: x, or max(margin - x, 0).

    Args:
        margin: the margin.
        size_average: deprecated; use `reduction`.
        reduce: deprecated; use `reduction`.
        reduction: "mean", "sum" or "none".

    Shape:
        input and target `(*)`, result `()`, or `(*)` for "none".

    Raises:
        ShapeError: shapes that do not go together.
        ValueError: `reduction` is something else.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.HingeEmbeddingLoss()(jnp.array([0.5, 0.25]), jnp.array([1.0, -1.0]))
        Array(0.625, dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.HingeEmbeddingLoss.html
    """

    def __init__(
        self, margin: float = 1.0, size_average: bool | None = None, reduce: bool | None = None, reduction: str = "mean"
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.margin = margin

    def forward(self, input: jax.Array, target: jax.Array) -> jax.Array:
        return F.hinge_embedding_loss(input, target, self.margin, reduction=self.reduction)


class SoftMarginLoss(Loss):
    """The logistic loss for y = ±1: log(1 + exp(-y x)).

    Args:
        size_average: deprecated; use `reduction`.
        reduce: deprecated; use `reduction`.
        reduction: "mean", "sum" or "none".

    Shape:
        input and target `(*)`, result `()`, or `(*)` for "none".

    Raises:
        ShapeError: shapes that do not go together.
        ValueError: `reduction` is something else.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.SoftMarginLoss()(jnp.zeros(2), jnp.array([1.0, -1.0])).round(4)
        Array(0.6931, dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.SoftMarginLoss.html
    """

    def forward(self, input: jax.Array, target: jax.Array) -> jax.Array:
        return F.soft_margin_loss(input, target, reduction=self.reduction)


class CosineEmbeddingLoss(Loss):
    """Wants vectors alike for y = 1 and unlike for y = -1: 1 - cos(x₁, x₂), or max(cos(x₁, x₂) - margin, 0).

    Args:
        margin: how alike the unlike may be.
        size_average: deprecated; use `reduction`.
        reduce: deprecated; use `reduction`.
        reduction: "mean", "sum" or "none".

    Shape:
        inputs `(N, D)` or `(D,)`, target `(N)` or `()`, result `()`, or like target for "none".

    Raises:
        ShapeError: shapes that do not go together.
        ValueError: `reduction` is something else.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.CosineEmbeddingLoss()(jnp.ones((1, 2)), jnp.ones((1, 2)), jnp.array([-1])).round(4)
        Array(1., dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.CosineEmbeddingLoss.html
    """

    def __init__(
        self, margin: float = 0.0, size_average: bool | None = None, reduce: bool | None = None, reduction: str = "mean"
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.margin = margin

    def forward(self, input1: jax.Array, input2: jax.Array, target: jax.Array) -> jax.Array:
        return F.cosine_embedding_loss(input1, input2, target, self.margin, reduction=self.reduction)


class MarginRankingLoss(Loss):
    """Wants x₁ above x₂ by a margin for y = 1, and below for y = -1: max(-y · (x₁ - x₂) + margin, 0).

    Args:
        margin: the margin.
        size_average: deprecated; use `reduction`.
        reduce: deprecated; use `reduction`.
        reduction: "mean", "sum" or "none".

    Shape:
        inputs and target `(*)`, result `()`, or `(*)` for "none".

    Raises:
        ShapeError: shapes that do not go together.
        ValueError: `reduction` is something else.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.MarginRankingLoss(1.0)(jnp.zeros(1), jnp.ones(1), jnp.ones(1))
        Array(2., dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.MarginRankingLoss.html
    """

    def __init__(
        self, margin: float = 0.0, size_average: bool | None = None, reduce: bool | None = None, reduction: str = "mean"
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.margin = margin

    def forward(self, input1: jax.Array, input2: jax.Array, target: jax.Array) -> jax.Array:
        return F.margin_ranking_loss(input1, input2, target, self.margin, reduction=self.reduction)


class TripletMarginLoss(Loss):
    """Wants an anchor nearer to the positive than to the negative by a margin: max(‖a - p‖ - ‖a - n‖ + margin, 0).

    Args:
        margin: the margin.
        p: the p of the norm.
        eps: what is added to each difference.
        swap: whether the negative's distance is that to the anchor or to the positive, whichever is less.
        size_average: deprecated; use `reduction`.
        reduce: deprecated; use `reduction`.
        reduction: "mean", "sum" or "none".

    Shape:
        anchor, positive and negative `(N, D)` or `(D,)`, result `()`, or `(N)` for "none".

    Raises:
        ShapeError: shapes that do not go together.
        ValueError: `margin` is not positive, or `reduction` is something else.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.TripletMarginLoss()(jnp.zeros((1, 1)), jnp.zeros((1, 1)), jnp.full((1, 1), 0.25)).round(4)
        Array(0.75, dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.TripletMarginLoss.html
    """

    def __init__(
        self,
        margin: float = 1.0,
        p: float = 2.0,
        eps: float = 1e-6,
        swap: bool = False,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        if margin <= 0:
            raise ValueError(f"expected margin > 0, got {margin}")
        super().__init__(size_average, reduce, reduction)
        self.margin = margin
        self.p = p
        self.eps = eps
        self.swap = swap

    def forward(self, anchor: jax.Array, positive: jax.Array, negative: jax.Array) -> jax.Array:
        return F.triplet_margin_loss(
            anchor, positive, negative, self.margin, self.p, self.eps, self.swap, reduction=self.reduction
        )


class TripletMarginWithDistanceLoss(Loss):
    """Wants an anchor nearer to the positive than to the negative, by any distance: max(d(a, p) - d(a, n) + margin, 0).

    Args:
        distance_function: the distance d; None for `PairwiseDistance`.
        margin: the margin.
        swap: whether the negative's distance is that to the anchor or to the positive, whichever is less.
        reduction: "mean", "sum" or "none".

    Shape:
        anchor, positive and negative as the distance wants them, result `()`, or like the distances for "none".

    Raises:
        ShapeError: they have other numbers of dimensions.
        ValueError: `margin` is not positive, or `reduction` is something else.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> loss = nn.TripletMarginWithDistanceLoss(distance_function=lambda x, y: jnp.abs(x - y).max(-1))
        >>> loss(jnp.zeros((1, 1)), jnp.zeros((1, 1)), jnp.full((1, 1), 0.25))
        Array(0.75, dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.TripletMarginWithDistanceLoss.html
    """

    def __init__(
        self,
        *,
        distance_function: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
        margin: float = 1.0,
        swap: bool = False,
        reduction: str = "mean",
    ) -> None:
        if margin <= 0:
            raise ValueError(f"expected margin > 0, got {margin}")
        super().__init__(reduction=reduction)
        self.distance_function = PairwiseDistance() if distance_function is None else distance_function
        self.margin = margin
        self.swap = swap

    def forward(self, anchor: jax.Array, positive: jax.Array, negative: jax.Array) -> jax.Array:
        return F.triplet_margin_with_distance_loss(
            anchor,
            positive,
            negative,
            distance_function=self.distance_function,
            margin=self.margin,
            swap=self.swap,
            reduction=self.reduction,
        )
