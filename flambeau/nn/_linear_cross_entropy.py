"""A linear layer with the cross entropy of its results, as a layer."""

from __future__ import annotations

import math
from typing import Any

import jax
from jax.typing import DTypeLike

from flambeau._errors import ShapeError
from flambeau.nn import functional as F
from flambeau.nn._class_loss import WeightedLoss
from flambeau.nn.functional._checks import describe
from flambeau.nn.functional._linear_cross_entropy import LinearCrossEntropyOptions
from flambeau.nn.linear import Linear

__all__ = ["LinearCrossEntropyLoss", "LinearCrossEntropyOptions"]


class LinearCrossEntropyLoss(WeightedLoss):
    """A linear layer that scores classes, and the cross entropy of those scores.

    Args:
        in_features: the size of the input.
        num_classes: how many classes there are.
        out_features: of what shape the scores of each class are.
        bias: whether the linear layer has a bias.
        device: where its parameters lie.
        dtype: the dtype of its parameters.
        reduction: "mean", "sum" or "none".
        weight: a factor for each class, which goes into a buffer.
        ignore_index: a label that counts nothing; None for -100.
        label_smoothing: the share of a uniform distribution that is mixed into the target.
        options: how to take the batch in chunks; None for all at once.

    Shape:
        input `(N, in_features)` or `(in_features,)`, target `(N, *out_features)` or `()` of labels, or `(N, C, *out_features)`
        or `(C,)` of probabilities, result `()`, or like labels for "none".

    Raises:
        ShapeError: shapes that do not go together.
        DtypeError: the target holds neither integers nor, in the shape of the scores, floating numbers.
        RuntimeError: `label_smoothing` is not in [0, 1], or there is an `ignore_index` of probabilities.
        ValueError: `reduction` is something else.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> loss = nn.LinearCrossEntropyLoss(4, 10, options=nn.LinearCrossEntropyOptions(batch_chunk_size=2))
        >>> loss(jnp.zeros((3, 4)), jnp.array([1, 2, 3])).round(4)  # log 10
        Array(2.3026, dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.LinearCrossEntropyLoss.html
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        out_features: tuple[int, ...] = (),
        bias: bool = False,
        device: Any = None,
        dtype: DTypeLike | None = None,
        reduction: str = "mean",
        weight: Any = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        options: LinearCrossEntropyOptions | None = None,
    ) -> None:
        if weight is not None and weight.shape != (num_classes,):
            raise ShapeError(f"expected weight ({num_classes},), got {describe(weight)}")
        if not 0 <= label_smoothing <= 1:
            raise RuntimeError(f"expected label_smoothing in [0, 1], got {label_smoothing}")
        super().__init__(weight, reduction=reduction)
        self.num_classes = num_classes
        self.out_features = out_features
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing
        scores = math.prod(out_features, start=num_classes)
        self.linear = Linear(in_features, scores, bias=bias, device=device, dtype=dtype)
        self.options = options

    def forward(self, input: jax.Array, target: jax.Array) -> jax.Array:
        weight, bias = self.linear.weight, self.linear.bias
        shape = (self.num_classes, *self.out_features)
        return F.linear_cross_entropy(
            input,
            weight.reshape(*shape, self.linear.in_features),  # (C·*, in) to (C, *, in)
            target,
            linear_bias=None if bias is None else bias.reshape(shape),
            weight=self.weight,
            reduction=self.reduction,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            options=self.options,
        )

    def extra_repr(self) -> str:
        shown = {
            "in_features": self.linear.in_features,
            "num_classes": self.num_classes,
            "out_features": self.out_features,
            "bias": self.linear.bias is not None,
            "reduction": self.reduction,
            "ignore_index": self.ignore_index,
            "label_smoothing": self.label_smoothing,
            "options": self.options,
        }
        return ", ".join(f"{name}={value}" for name, value in shown.items())
