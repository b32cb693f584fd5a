"""Averaged stochastic gradient descent."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from flambeau.optim._options import number, switch
from flambeau.optim._parts import descent
from flambeau.optim.optimizer import Optimizer, Params

__all__ = ["ASGD"]


class ASGD(Optimizer):
    """Stochastic gradient descent that keeps an average of the parameters, as the state "ax".

    `p = (1 − λ η) p − η g;  ax = ax + μ (p − ax)`, then for the next step `η = lr / (1 + λ lr t)^alpha` and
    `μ = 1 / max(1, t − t0)` after a parameter's t-th step. The parameters themselves are not averaged: take the averages from
    `optimizer.state[parameter]["ax"]`.

    Args:
        params: see `Optimizer`.
        lr: the learning rate that η begins with.
        lambd: λ, how fast parameters decay, and η with them.
        alpha: the power of the decay of η.
        t0: the number of steps after which averaging begins.
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
        >>> optimizer = fb.optim.ASGD(net.parameters(), lr=0.5, lambd=0.0)
        >>> before = net.bias
        >>> optimizer.step(fb.grad(lambda net: net(jnp.ones((1, 2))).sum())(net))
        >>> print((net.bias - before).round(4))
        [-0.5]

    Source: https://doi.org/10.1137/0330046, https://docs.pytorch.org/docs/2.13/generated/torch.optim.ASGD.html
    """

    _independent = True
    _counter = "step"

    def __init__(
        self,
        params: Params,
        lr: float | jax.Array = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
    ) -> None:
        super().__init__(
            params,
            _asgd,
            lr=lr,
            lambd=lambd,
            alpha=alpha,
            t0=t0,
            weight_decay=weight_decay,
            foreach=foreach,
            maximize=maximize,
            differentiable=differentiable,
            capturable=capturable,
        )

    def _check_options(self, options: dict[str, Any]) -> dict[str, Any]:
        return {
            **options,
            "lr": number("learning rate", options["lr"], low=0),
            **{name: number(name, options[name]) for name in ("lambd", "alpha", "t0")},
            "weight_decay": switch(number("weight_decay value", options["weight_decay"], low=0)),
        }


class _ASGDState(NamedTuple):
    step: Any
    eta: jax.Array
    mu: jax.Array
    ax: Any


def _asgd(
    lr: Any, lambd: Any, alpha: Any, t0: Any, weight_decay: Any, maximize: bool, **_: Any
) -> optax.GradientTransformation:
    def init(params: Any) -> Any:
        return _ASGDState(jnp.zeros((), jnp.int32), lr, jnp.ones_like(lr), optax.tree.zeros_like(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        eta = jnp.where(state.step == 0, lr, state.eta)  # the learning rate may have changed before the first step
        move = jax.tree.map(lambda g, p: eta * (g + lambd * p), updates, params)

        def averaged(ax: jax.Array, p: jax.Array, u: jax.Array) -> jax.Array:
            return jnp.where(state.mu == 1, p - u, ax + state.mu * (p - u - ax))

        step = optax.safe_increment(state.step)
        new_eta = lr / (1 + lambd * lr * step) ** alpha
        new_mu = 1 / jnp.maximum(1, step - t0)
        return move, _ASGDState(step, new_eta, new_mu, jax.tree.map(averaged, state.ax, params, move))

    # η takes the place of the learning rate.
    return descent(1.0, optax.GradientTransformation(init, update), maximize=maximize, weight_decay=weight_decay)
