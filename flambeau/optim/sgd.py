"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import jax
import optax

from flambeau.optim._options import is_off, number, switch
from flambeau.optim._parts import descent, heavy_ball
from flambeau.optim.optimizer import Optimizer, Params

__all__ = ["SGD"]


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum if wanted.

    `g = grad + weight_decay · p;  b = momentum · b + (1 − dampening) · g;  p = p − lr · b`, where `b` is `g` at the first
    step. With `nesterov`, `p = p − lr · (g + momentum · b)`.

    Args:
        params: see `Optimizer`.
        lr: the learning rate.
        momentum: how much of the past updates is kept.
        dampening: how much of the gradient is kept out of the momentum.
        weight_decay: the strength of the L2 penalty.
        nesterov: whether to look ahead along the momentum.
        maximize: whether to go up the gradient, not down.
        foreach, differentiable, fused: accepted for PyTorch's sake, where they choose an implementation. Here XLA fuses the
            update, and it is differentiable inside `fb.grad`.

    Raises:
        ValueError: an option makes no sense.

    Example:
        >>> import jax.numpy as jnp
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> net = nn.Linear(2, 1)
        >>> optimizer = fb.optim.SGD(net.parameters(), lr=0.5, momentum=0.9)
        >>> before = net.bias
        >>> optimizer.step(fb.grad(lambda net: net(jnp.ones((1, 2))).sum())(net))
        >>> print((net.bias - before).round(4))
        [-0.5]

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.optim.SGD.html
    """

    _independent = True
    _counter = "_started"
    _renamed: ClassVar[Mapping[str, str]] = MappingProxyType({"trace": "momentum_buffer", "started": "_started"})

    def __init__(
        self,
        params: Params,
        lr: float | jax.Array = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float | jax.Array = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        super().__init__(
            params,
            _sgd,
            lr=lr,
            momentum=momentum,
            dampening=dampening,
            weight_decay=weight_decay,
            nesterov=nesterov,
            maximize=maximize,
            foreach=foreach,
            differentiable=differentiable,
            fused=fused,
        )

    def _check_options(self, options: dict[str, Any]) -> dict[str, Any]:
        checked = {
            **options,
            "lr": number("learning rate", options["lr"], low=0),
            "momentum": switch(number("momentum value", options["momentum"], low=0)),
            "dampening": switch(number("dampening", options["dampening"])),
            "weight_decay": switch(number("weight_decay value", options["weight_decay"], low=0)),
        }
        if checked["nesterov"] and (is_off(checked["momentum"]) or not is_off(checked["dampening"])):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        return checked


def _sgd(
    lr: Any, momentum: Any, dampening: Any, weight_decay: Any, nesterov: bool, maximize: bool, **_: Any
) -> optax.GradientTransformation:
    buffered = [] if is_off(momentum) else [heavy_ball(momentum, dampening, nesterov)]
    return descent(lr, *buffered, maximize=maximize, weight_decay=weight_decay)
