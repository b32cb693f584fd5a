"""Adamax."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import jax
import optax

from flambeau.optim._options import adam_options
from flambeau.optim._parts import descent
from flambeau.optim.optimizer import Optimizer, Params

__all__ = ["Adamax"]


class Adamax(Optimizer):
    """Adamax: Adam with the largest of the recent gradients in the place of their mean square.

    `m = β₁ m + (1 − β₁) g;  u = max(β₂ u, |g| + eps);  p = p − lr / (1 − β₁ᵗ) · m / u` at a parameter's t-th step.

    Args:
        params: see `Optimizer`.
        lr: the learning rate.
        betas: β₁ and β₂, how slowly the average moves and the largest fades.
        eps: added to the size of the gradient.
        weight_decay: the strength of the L2 penalty.
        maximize: whether to go up the gradient, not down.
        foreach, differentiable, capturable: accepted for PyTorch's sake, where they choose an implementation. Here XLA fuses
            the update, and it is differentiable inside `fb.grad`.

    Raises:
        ValueError: an option makes no sense.

    Example:
        >>> import jax.numpy as jnp
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> net = nn.Linear(2, 1)
        >>> optimizer = fb.optim.Adamax(net.parameters(), lr=0.5)
        >>> before = net.bias
        >>> optimizer.step(fb.grad(lambda net: net(jnp.ones((1, 2))).sum())(net))
        >>> print((net.bias - before).round(4))
        [-0.5]

    Source: https://arxiv.org/abs/1412.6980, https://docs.pytorch.org/docs/2.13/generated/torch.optim.Adamax.html
    """

    _independent = True
    _counter = "step"
    _renamed: ClassVar[Mapping[str, str]] = MappingProxyType({"count": "step", "mu": "exp_avg", "nu": "exp_inf"})

    def __init__(
        self,
        params: Params,
        lr: float | jax.Array = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
    ) -> None:
        super().__init__(
            params,
            _adamax,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            foreach=foreach,
            maximize=maximize,
            differentiable=differentiable,
            capturable=capturable,
        )

    def _check_options(self, options: dict[str, Any]) -> dict[str, Any]:
        return adam_options(options)


def _adamax(
    lr: Any, betas: tuple[Any, Any], eps: Any, weight_decay: Any, maximize: bool, **_: Any
) -> optax.GradientTransformation:
    return descent(lr, optax.scale_by_adamax(*betas, eps), maximize=maximize, weight_decay=weight_decay)
