"""Stochastic gradient descent."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from flambeau.optim._options import at_least_zero, is_off, switch
from flambeau.optim.optimizer import Optimizer, Params

__all__ = ["SGD"]


class SGD(Optimizer):
    r"""Stochastic gradient descent, with momentum if wanted.

    `g ← ∇ + weight_decay · p;  b ← momentum · b + (1 − dampening) · g;  p ← p − lr · b`; at a parameter's first step `b` is `g`.
    With `nesterov`, `g + momentum · b` takes the place of the last `b`.

    Args:
        params: see `Optimizer`.
        lr: the learning rate.
        momentum: how much of the past updates is kept.
        dampening: how much of the gradient is left out of the momentum.
        weight_decay: strength of the L2 penalty.
        nesterov: whether to look ahead along the momentum.
        maximize: whether to go up the gradient rather than down.
        foreach, differentiable, fused: accepted for PyTorch's sake; they choose among its implementations, and XLA has one,
            which is fused in a compiled function and differentiable inside `fb.grad`.

    Raises:
        ValueError: an option has a value that makes no sense.

    Example:
        >>> import jax.numpy as jnp
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> net = nn.Linear(2, 1)
        >>> optimizer = fb.optim.SGD(net.parameters(), lr=0.5, momentum=0.9)
        >>> before = net.bias
        >>> optimizer.step(fb.grad(lambda net: net(jnp.ones((1, 2))).sum())(net))
        >>> float((net.bias - before).round(4)[0])
        -0.5

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.optim.SGD.html
    """

    _independent = True
    _counter = "_started"
    _renamed = {"trace": "momentum_buffer", "started": "_started"}

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
            "lr": at_least_zero("learning rate", options["lr"]),
            "momentum": switch(at_least_zero("momentum value", options["momentum"])),
            "dampening": switch(number("dampening", options["dampening"]),
            "weight_decay": switch(at_least_zero("weight_decay value", options["weight_decay"])),
        }
        return checked
