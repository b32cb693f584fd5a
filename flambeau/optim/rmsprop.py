"""RMSprop."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import jax
import optax

from flambeau.optim._options import is_off, number, switch
from flambeau.optim._parts import counted, descent, heavy_ball
from flambeau.optim.optimizer import Optimizer, Params

__all__ = ["RMSprop"]


class RMSprop(Optimizer):
    """RMSprop: gradients divided by the root of their mean square.

    `v = α v + (1 − α) g²;  p = p − lr · g / (√v + eps)`. With `centered`, the variance `v − m²` takes the place of `v`, where
    `m = α m + (1 − α) g`; with momentum, `b = momentum · b + g / (√v + eps);  p = p − lr · b`.

    Args:
        params: see `Optimizer`.
        lr: the learning rate.
        alpha: α, how slowly the averages move.
        eps: added to the denominator.
        weight_decay: the strength of the L2 penalty.
        momentum: how much of the past updates is kept.
        centered: whether gradients are divided by the root of their variance.
        maximize: whether to go up the gradient, not down.
        capturable, foreach, differentiable: accepted for PyTorch's sake, where they choose an implementation. Here XLA fuses
            the update, and it is differentiable inside `fb.grad`.

    Raises:
        ValueError: an option makes no sense.

    Example:
        >>> import jax.numpy as jnp
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> net = nn.Linear(2, 1)
        >>> optimizer = fb.optim.RMSprop(net.parameters(), lr=0.1)
        >>> before = net.bias
        >>> optimizer.step(fb.grad(lambda net: net(jnp.ones((1, 2))).sum())(net))
        >>> print((net.bias - before).round(4))
        [-1.]

    Source: https://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf,
    https://docs.pytorch.org/docs/2.13/generated/torch.optim.RMSprop.html
    """

    _independent = True
    _counter = "step"
    _renamed: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"nu": "square_avg", "mu": "grad_avg", "trace": "momentum_buffer", "started": "_started"}
    )

    def __init__(
        self,
        params: Params,
        lr: float | jax.Array = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        super().__init__(
            params,
            _rmsprop,
            lr=lr,
            momentum=momentum,
            alpha=alpha,
            eps=eps,
            centered=centered,
            weight_decay=weight_decay,
            capturable=capturable,
            foreach=foreach,
            maximize=maximize,
            differentiable=differentiable,
        )

    def _check_options(self, options: dict[str, Any]) -> dict[str, Any]:
        return {
            **options,
            "lr": number("learning rate", options["lr"], low=0),
            "eps": number("epsilon value", options["eps"], low=0),
            "momentum": switch(number("momentum value", options["momentum"], low=0)),
            "weight_decay": switch(number("weight_decay value", options["weight_decay"], low=0)),
            "alpha": number("alpha value", options["alpha"], low=0),
        }


def _rmsprop(
    lr: Any, momentum: Any, alpha: Any, eps: Any, centered: bool, weight_decay: Any, maximize: bool, **_: Any
) -> optax.GradientTransformation:
    scale = optax.scale_by_stddev if centered else optax.scale_by_rms
    parts = [counted(), scale(alpha, eps, eps_in_sqrt=False)]
    if not is_off(momentum):
        parts.append(heavy_ball(momentum))
    return descent(lr, *parts, maximize=maximize, weight_decay=weight_decay)
