"""Losses of classes and labels."""

from __future__ import annotations

import warnings
from typing import Any

import jax

from flambeau.nn import functional as F
from flambeau.nn._elementwise_loss import Loss
from flambeau.nn.functional._checks import describe

__all__ = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "CrossEntropyLoss",
    "MultiLabelMarginLoss",
    "MultiLabelSoftMarginLoss",
    "MultiMarginLoss",
    "NLLLoss",
    "NLLLoss2d",
    "WeightedLoss",
]


class WeightedLoss(Loss):
    """A loss with weights, which are a buffer."""

    weight: jax.Array | None

    def __init__(
        self,
        weight: Any = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.register_buffer("weight", weight)


class NLLLoss(WeightedLoss):
    """The negative log-likelihood of classes: -w_y · x_y, with log-probabilities x.

    Args:
        weight: a factor for each class, which goes into a buffer.
        size_average: deprecated; use `reduction`.
        ignore_index: a label that counts nothing.
        reduce: deprecated; use `reduction`.
        reduction: "mean", "sum" or "none".

    Shape:
        input `(N, C)`, `(C,)` or `(N, C, *)`, target `(N)`, `()` or `(N, *)` of labels, result `()`, or like target for "none".

    Raises:
        ShapeError: shapes that do not go together.
        DtypeError: the target holds no integers.
        ValueError: `reduction` is something else.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.NLLLoss()(jnp.log(jnp.array([[0.5, 0.5]])), jnp.array([1])).round(4)
        Array(0.6931, dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.NLLLoss.html
    """

    def __init__(
        self,
        weight: Any = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(weight, size_average, reduce, reduction)
        self.ignore_index = ignore_index

    def forward(self, input: jax.Array, target: jax.Array) -> jax.Array:
        return F.nll_loss(input, target, self.weight, ignore_index=self.ignore_index, reduction=self.reduction)


class NLLLoss2d(NLLLoss):
    """The older name of `NLLLoss`, which warns.

    Args:
        weight: a factor for each class, which goes into a buffer.
        size_average: deprecated; use `reduction`.
        ignore_index: a label that counts nothing.
        reduce: deprecated; use `reduction`.
        reduction: "mean", "sum" or "none".

    Shape:
        input `(N, C, H, W)`, target `(N, H, W)` of labels, result `()`, or like target for "none".

    Raises:
        ShapeError: shapes that do not go together.
        DtypeError: the target holds no integers.
        ValueError: `reduction` is something else.

    Example:
        >>> import warnings
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> with warnings.catch_warnings(action="ignore"):
        ...     loss = nn.NLLLoss2d()
        >>> loss(jnp.full((1, 2, 1, 3), -0.5), jnp.zeros((1, 1, 3), int))
        Array(0.5, dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.NLLLoss.html
    """

    def __init__(
        self,
        weight: Any = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        warnings.warn("NLLLoss2d is deprecated; write NLLLoss instead", FutureWarning, stacklevel=2)
        super().__init__(weight, size_average, ignore_index, reduce, reduction)


class CrossEntropyLoss(WeightedLoss):
    """The cross entropy of scores: -w_y · log softmax(x)_y for labels y, -Σ_c w_c y_c log softmax(x)_c for probabilities y.

    Args:
        weight: a factor for each class, which goes into a buffer.
        size_average: deprecated; use `reduction`.
        ignore_index: a label that counts nothing.
        reduce: deprecated; use `reduction`.
        reduction: "mean", "sum" or "none".
        label_smoothing: the share of the target, in [0, 1], that is spread evenly over all classes.

    Shape:
        input `(N, C)`, `(C,)` or `(N, C, *)`, target `(N)`, `()` or `(N, *)` of labels or like input of probabilities, result
        `()`, or one number for each label for "none".

    Raises:
        ShapeError: shapes that do not go together.
        DtypeError: the target holds neither integers nor floating numbers.
        ValueError: `reduction` is something else.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.CrossEntropyLoss()(jnp.zeros((3, 2)), jnp.array([0, 1, 1])).round(4)
        Array(0.6931, dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.CrossEntropyLoss.html
    """

    def __init__(
        self,
        weight: Any = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(weight, size_average, reduce, reduction)
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing

    def forward(self, input: jax.Array, target: jax.Array) -> jax.Array:
        return F.cross_entropy(
            input,
            target,
            self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )


class BCELoss(WeightedLoss):
    """The cross entropy of probabilities: -w · (y log x + (1 - y) log(1 - x)), with logarithms of at least -100.

    Args:
        weight: a factor for each element, which goes into a buffer.
        size_average: deprecated; use `reduction`.
        reduce: deprecated; use `reduction`.
        reduction: "mean", "sum" or "none".

    Shape:
        input and target `(*)`, result `()`, or `(*)` for "none".

    Raises:
        ShapeError: shapes that do not go together.
        RuntimeError: a number is outside of [0, 1] (under a transform, where it is not known, nothing is said).
        ValueError: `reduction` is something else.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.BCELoss()(jnp.array([0.5]), jnp.array([1.0])).round(4)
        Array(0.6931, dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.BCELoss.html
    """

    def forward(self, input: jax.Array, target: jax.Array) -> jax.Array:
        return F.binary_cross_entropy(input, target, self.weight, reduction=self.reduction)


class BCEWithLogitsLoss(WeightedLoss):
    """The cross entropy of scores for yes or no: -w · (v y log σ(x) + (1 - y) log(1 - σ(x))), for scores of any size.

    Args:
        weight: a factor for each element, which goes into a buffer.
        size_average: deprecated; use `reduction`.
        reduce: deprecated; use `reduction`.
        reduction: "mean", "sum" or "none".
        pos_weight: the factor v of the yes, which goes into a buffer.

    Shape:
        input and target `(*)`, result `()`, or `(*)` for "none".

    Raises:
        ShapeError: shapes that do not go together.
        ValueError: `reduction` is something else.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.BCEWithLogitsLoss()(jnp.array([0.0]), jnp.array([1.0])).round(4)
        Array(0.6931, dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.BCEWithLogitsLoss.html
    """

    pos_weight: jax.Array | None

    def __init__(
        self,
        weight: Any = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        pos_weight: Any = None,
    ) -> None:
        super().__init__(weight, size_average, reduce, reduction)
        self.register_buffer("pos_weight", pos_weight)

    def forward(self, input: jax.Array, target: jax.Array) -> jax.Array:
        return F.binary_cross_entropy_with_logits(
            input, target, self.weight, reduction=self.reduction, pos_weight=self.pos_weight
        )


class MultiLabelSoftMarginLoss(WeightedLoss):
    """The mean over the classes of yes-or-no cross entropies: -Σ_c w_c · (y_c log σ(x_c) + (1 - y_c) log σ(-x_c)) / C.

    Args:
        weight: a factor for each class, which goes into a buffer.
        size_average: deprecated; use `reduction`.
        reduce: deprecated; use `reduction`.
        reduction: "mean", "sum" or "none".

    Shape:
        input and target `(N, C)` or `(C,)`, result `()`, or `(N)` for "none".

    Raises:
        ShapeError: shapes that do not go together.
        ValueError: `reduction` is something else.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.MultiLabelSoftMarginLoss()(jnp.zeros((1, 2)), jnp.array([[1.0, 0.0]])).round(4)
        Array(0.6931, dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.MultiLabelSoftMarginLoss.html
    """

    def forward(self, input: jax.Array, target: jax.Array) -> jax.Array:
        return F.multilabel_soft_margin_loss(input, target, self.weight, reduction=self.reduction)


class MultiMarginLoss(WeightedLoss):
    """Wants the score of the true class above all others by a margin: w_y · Σ_{c≠y} max(margin - x_y + x_c, 0)ᵖ / C.

    Args:
        p: 1 or 2.
        margin: the margin.
        weight: a factor for each class, which goes into a buffer.
        size_average: deprecated; use `reduction`.
        reduce: deprecated; use `reduction`.
        reduction: "mean", "sum" or "none".

    Shape:
        input `(N, C)` or `(C,)`, target `(N)` or `()` of labels, result `()`, or like target for "none".

    Raises:
        ShapeError: shapes that do not go together.
        ValueError: `p` is neither 1 nor 2, `weight` is no vector, or `reduction` is something else.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.MultiMarginLoss()(jnp.array([[0.5, 0.5]]), jnp.array([0]))
        Array(0.5, dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.MultiMarginLoss.html
    """

    def __init__(
        self,
        p: int = 1,
        margin: float = 1.0,
        weight: Any = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        if p not in (1, 2):
            raise ValueError(f"expected p to be 1 or 2, got {p}")
        if weight is not None and weight.ndim != 1:
            raise ValueError(f"expected weight (C,), got {describe(weight)}")
        super().__init__(weight, size_average, reduce, reduction)
        self.p = p
        self.margin = margin

    def forward(self, input: jax.Array, target: jax.Array) -> jax.Array:
        return F.multi_margin_loss(input, target, self.p, self.margin, self.weight, reduction=self.reduction)


class MultiLabelMarginLoss(Loss):
    """Wants the score of each true label above all that are not true by 1: Σ_y Σ_c max(1 - x_y + x_c, 0) / C.

    Args:
        size_average: deprecated; use `reduction`.
        reduce: deprecated; use `reduction`.
        reduction: "mean", "sum" or "none".

    Shape:
        input `(N, C)` or `(C,)`, target like input of labels, ended by a -1, result `()`, or `(N)` for "none".

    Raises:
        ShapeError: shapes that do not go together.
        ValueError: `reduction` is something else.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.MultiLabelMarginLoss()(jnp.array([[0.5, 0.5]]), jnp.array([[1, -1]]))
        Array(0.5, dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.MultiLabelMarginLoss.html
    """

    def forward(self, input: jax.Array, target: jax.Array) -> jax.Array:
        return F.multilabel_margin_loss(input, target, reduction=self.reduction)
