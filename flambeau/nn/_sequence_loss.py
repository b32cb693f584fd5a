"""The loss of sequences whose alignment is not known, as a layer."""

from __future__ import annotations

import jax

from flambeau.nn import functional as F
from flambeau.nn._elementwise_loss import Loss
from flambeau.nn.functional._ctc_loss import Lengths

__all__ = ["CTCLoss"]


class CTCLoss(Loss):
    """The negative log-likelihood of label sequences, summed over all ways to align them with the input.

    Args:
        blank: the class that is the blank.
        reduction: "mean" (over the batch, after a division by the lengths of the targets), "sum" or "none".
        zero_infinity: whether a target that is too long for its input has loss and gradient 0, not infinity and NaN.

    Shape:
        log_probs `(T, N, C)` or `(T, C)`, targets `(N, S)`, `(S,)` or, one after the other, `(S₁ + … + Sₙ,)`, lengths
        `(N,)`, or `()` and `(1,)` without a batch; result `()`, or `(N,)` or `()` for "none".

    Raises:
        ShapeError: shapes that do not go together.
        DtypeError: targets or lengths hold no integers.
        RuntimeError: a length is out of range, or the blank is no class.
        IndexError: a label is no class; under a transform, where it is not known, the loss is NaN.
        ValueError: `reduction` is something else.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> chances = jnp.log(jnp.full((2, 1, 2), 0.5))
        >>> nn.CTCLoss(reduction="sum")(chances, jnp.array([[1]]), [2], [1]).round(4)  # three alignments of four
        Array(0.2877, dtype=float32)

    Source: https://www.cs.toronto.edu/~graves/icml_2006.pdf
    """

    def __init__(self, blank: int = 0, reduction: str = "mean", zero_infinity: bool = False) -> None:
        super().__init__(reduction=reduction)
        self.blank = blank
        self.zero_infinity = zero_infinity

    def forward(
        self, log_probs: jax.Array, targets: jax.Array, input_lengths: Lengths, target_lengths: Lengths
    ) -> jax.Array:
        return F.ctc_loss(
            log_probs, targets, input_lengths, target_lengths, self.blank, self.reduction, self.zero_infinity
        )
