"""Adadelta."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import jax
import optax

from flambeau.optim._options import number, switch
from flambeau.optim._parts import counted, descent
from flambeau.optim.optimizer import Optimizer, Params

__all__ = ["Adadelta"]


class Adadelta(Optimizer):
    """Adadelta: steps whose size follows from the sizes of past steps and gradients.

    `v = ρ v + (1 − ρ) g²;  δ = √(u + eps) / √(v + eps) · g;  u = ρ u + (1 − ρ) δ²;  p = p − lr · δ`.

    Args:
        params: see `Optimizer`.
        lr: what the step is multiplied by.
        rho: ρ, how slowly the two averages move.
        eps: added under both roots.
        weight_decay: the strength of the L2 penalty.
        maximize: whether to go up the gradient, not down.
        foreach, capturable, differentiable: accepted for PyTorch's sake, where they choose an implementation. Here XLA fuses
            the update, and it is differentiable inside `fb.grad`.

    Raises:
        ValueError: an option makes no sense.

    Example:
        >>> import jax.numpy as jnp
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> net = nn.Linear(2, 1)
        >>> optimizer = fb.optim.Adadelta(net.parameters(), lr=100.0)
        >>> before = net.bias
        >>> optimizer.step(fb.grad(lambda net: net(jnp.ones((1, 2))).sum())(net))
        >>> print((net.bias - before).round(4))
        [-0.3162]

    Source: https://arxiv.org/abs/1212.5701, https://docs.pytorch.org/docs/2.13/generated/torch.optim.Adadelta.html
    """

    _independent = True
    _counter = "step"
    _renamed: ClassVar[Mapping[str, str]] = MappingProxyType({"e_g": "square_avg", "e_x": "acc_delta"})

    def __init__(
        self,
        params: Params,
        lr: float | jax.Array = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        super().__init__(
            params,
            _adadelta,
            lr=lr,
            rho=rho,
            eps=eps,
            weight_decay=weight_decay,
            maximize=maximize,
            capturable=capturable,
            foreach=foreach,
            differentiable=differentiable,
        )

    def _check_options(self, options: dict[str, Any]) -> dict[str, Any]:
        return {
            **options,
            "lr": number("learning rate", options["lr"], low=0),
            "rho": number("rho value", options["rho"], low=0, high=1),
            "eps": number("epsilon value", options["eps"], low=0),
            "weight_decay": switch(number("weight_decay value", options["weight_decay"], low=0)),
        }


def _adadelta(lr: Any, rho: Any, eps: Any, weight_decay: Any, maximize: bool, **_: Any) -> optax.GradientTransformation:
    scaled = optax.scale_by_adadelta(rho, eps)
    return descent(lr, counted(), scaled, maximize=maximize, weight_decay=weight_decay)
