"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from flambeau.optim._options import is_off, number, switch
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
    parts = [optax.scale(-1.0)] if maximize else []
    if not is_off(weight_decay):
        parts.append(optax.add_decayed_weights(weight_decay))
    if not is_off(momentum):
        parts.append(_momentum(momentum, dampening, nesterov))
    return optax.chain(*parts, optax.scale(-lr))


class _MomentumState(NamedTuple):
    started: jax.Array
    trace: Any


def _momentum(momentum: Any, dampening: Any, nesterov: bool) -> optax.GradientTransformation:
    """`optax.trace` with what it lacks, PyTorch's dampening. That spares the first step, so it must be known which is first."""
    trace = optax.trace(momentum)

    def init(params: Any) -> Any:
        (zeros,) = cast(optax.TraceState, trace.init(params))
        return _MomentumState(jnp.zeros((), bool), zeros)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        used = jnp.not_equal(momentum, 0)  # while it is 0, PyTorch leaves the buffers alone
        damped = updates
        if not is_off(dampening):
            part = jnp.where(used & state.started, 1 - dampening, 1)
            damped = jax.tree.map(lambda g: part * g, updates)
        buffer, _ = trace.update(damped, optax.TraceState(state.trace))
        # With dampening, PyTorch's nesterov adds the gradient as it was: not what optax.trace(nesterov=True) does.
        step = jax.tree.map(lambda g, b: g + momentum * b, updates, buffer) if nesterov else buffer
        kept = jax.tree.map(lambda new, old: jnp.where(used, new, old), buffer, state.trace)
        return step, _MomentumState(used | state.started, kept)

    return optax.GradientTransformation(init, update)
