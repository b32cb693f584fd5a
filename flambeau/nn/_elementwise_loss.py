"""What all losses have in common, and those of each element."""

from __future__ import annotations

from typing import ClassVar

import jax

from flambeau.core.module import Module
from flambeau.nn import functional as F
from flambeau.nn.functional._reduction import resolve_reduction

__all__ = ["GaussianNLLLoss", "HuberLoss", "KLDivLoss", "L1Loss", "Loss", "MSELoss", "PoissonNLLLoss", "SmoothL1Loss"]


class Loss(Module):
    """A loss, which a reduction turns into one number."""

    _reductions: ClassVar[tuple[str, ...]] = ()
    """The reductions besides "mean", "sum" and "none"."""

    def __init__(self, size_average: bool | None = None, reduce: bool | None = None, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = resolve_reduction(reduction, size_average, reduce, self._reductions)


class L1Loss(Loss):
    """The mean absolute error: |x - y|.

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
        >>> nn.L1Loss()(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0]))
        Array(1., dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.L1Loss.html
    """

    def forward(self, input: jax.Array, target: jax.Array) -> jax.Array:
        return F.l1_loss(input, target, reduction=self.reduction)


class MSELoss(Loss):
    """The mean squared error: (x - y)².

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
        >>> nn.MSELoss()(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0]))
        Array(2., dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.MSELoss.html
    """

    def forward(self, input: jax.Array, target: jax.Array) -> jax.Array:
        return F.mse_loss(input, target, reduction=self.reduction)


class SmoothL1Loss(Loss):
    """Quadratic near zero, absolute beyond β: (x - y)² / 2β if |x - y| < β, else |x - y| - β/2.

    Args:
        size_average: deprecated; use `reduction`.
        reduce: deprecated; use `reduction`.
        reduction: "mean", "sum" or "none".
        beta: where the two meet.

    Shape:
        input and target `(*)`, result `()`, or `(*)` for "none".

    Raises:
        ShapeError: shapes that do not go together.
        ValueError: `reduction` is something else.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.SmoothL1Loss()(jnp.array([1.0, 2.0]), jnp.array([2.0, 4.0]))
        Array(1., dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.SmoothL1Loss.html
    """

    def __init__(
        self, size_average: bool | None = None, reduce: bool | None = None, reduction: str = "mean", beta: float = 1.0
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.beta = beta

    def forward(self, input: jax.Array, target: jax.Array) -> jax.Array:
        return F.smooth_l1_loss(input, target, reduction=self.reduction, beta=self.beta)


class HuberLoss(Loss):
    """Quadratic near zero, absolute beyond δ: (x - y)² / 2 if |x - y| < δ, else δ · (|x - y| - δ/2).

    Args:
        reduction: "mean", "sum" or "none".
        delta: where the two meet.

    Shape:
        input and target `(*)`, result `()`, or `(*)` for "none".

    Raises:
        ShapeError: shapes that do not go together.
        TypeError: `delta` is no number.
        ValueError: `reduction` is something else.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.HuberLoss()(jnp.array([1.0, 2.0]), jnp.array([2.0, 4.0]))
        Array(1., dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.HuberLoss.html
    """

    def __init__(self, reduction: str = "mean", delta: float = 1.0) -> None:
        if not isinstance(delta, (int, float)):
            raise TypeError(f"expected delta to be a number, got {delta!r}")
        super().__init__(reduction=reduction)
        self.delta = delta

    def forward(self, input: jax.Array, target: jax.Array) -> jax.Array:
        return F.huber_loss(input, target, reduction=self.reduction, delta=self.delta)


class KLDivLoss(Loss):
    """The Kullback-Leibler divergence of log-probabilities from probabilities: y · (log y - x).

    Args:
        size_average: deprecated; use `reduction`.
        reduce: deprecated; use `reduction`.
        reduction: "mean", "batchmean" (the sum over the batch size, which is the divergence), "sum" or "none".
        log_target: whether the target too is given as logarithms.

    Shape:
        input and target `(*)`, result `()`, or `(*)` for "none".

    Raises:
        ShapeError: shapes that do not go together.
        ValueError: `reduction` is something else.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.KLDivLoss(reduction="sum")(jnp.log(jnp.array([0.5, 0.5])), jnp.array([0.5, 0.5]))
        Array(0., dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.KLDivLoss.html
    """

    _reductions = ("batchmean",)

    def __init__(
        self,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        log_target: bool = False,
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.log_target = log_target

    def forward(self, input: jax.Array, target: jax.Array) -> jax.Array:
        return F.kl_div(input, target, reduction=self.reduction, log_target=self.log_target)


class PoissonNLLLoss(Loss):
    """The negative log-likelihood of counts under a Poisson distribution: exp(x) - y · x, without the term log y!.

    Args:
        log_input: whether the input is the logarithm of the rate.
        full: whether to add Stirling's approximation of log y!.
        size_average: deprecated; use `reduction`.
        eps: what is added to a rate before its logarithm.
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
        >>> nn.PoissonNLLLoss()(jnp.zeros(2), jnp.ones(2))
        Array(1., dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.PoissonNLLLoss.html
    """

    def __init__(
        self,
        log_input: bool = True,
        full: bool = False,
        size_average: bool | None = None,
        eps: float = 1e-8,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.log_input = log_input
        self.full = full
        self.eps = eps

    def forward(self, log_input: jax.Array, target: jax.Array) -> jax.Array:
        return F.poisson_nll_loss(log_input, target, self.log_input, self.full, eps=self.eps, reduction=self.reduction)


class GaussianNLLLoss(Loss):
    """The negative log-likelihood under a normal distribution: (log var + (x - y)² / var) / 2.

    Args:
        full: whether to add the constant log(2π) / 2.
        eps: the smallest variance.
        reduction: "mean", "sum" or "none".

    Shape:
        input `(*)`, target like input, var like input or broadcasting to it, or a number; result `()`, or `(*)` for "none".

    Raises:
        ShapeError: shapes that do not go together.
        ValueError: a variance is negative, or `reduction` is something else.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.GaussianNLLLoss()(jnp.zeros(2), jnp.ones(2), jnp.ones(2))
        Array(0.5, dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.GaussianNLLLoss.html
    """

    def __init__(self, *, full: bool = False, eps: float = 1e-6, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.full = full
        self.eps = eps

    def forward(self, input: jax.Array, target: jax.Array, var: jax.Array | float) -> jax.Array:
        return F.gaussian_nll_loss(input, target, var, full=self.full, eps=self.eps, reduction=self.reduction)
