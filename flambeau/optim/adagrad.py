"""Adagrad."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from flambeau.optim._options import number, switch
from flambeau.optim._parts import descent
from flambeau.optim.optimizer import Optimizer, Params

__all__ = ["Adagrad"]


class Adagrad(Optimizer):
    """Adagrad: each element's steps shrink as its gradients add up.

    `s = s + g²;  p = p − lr / (1 + (t − 1) · lr_decay) · g / (√s + eps)` at a parameter's t-th step.

    Args:
        params: see `Optimizer`.
        lr: the learning rate.
        lr_decay: how fast the learning rate falls besides.
        weight_decay: the strength of the L2 penalty.
        initial_accumulator_value: what `s` begins with; that of a group of its own counts, which PyTorch does not look at.
        eps: added to the denominator.
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
        >>> optimizer = fb.optim.Adagrad(net.parameters(), lr=0.5)
        >>> before = net.bias
        >>> optimizer.step(fb.grad(lambda net: net(jnp.ones((1, 2))).sum())(net))
        >>> print((net.bias - before).round(4))
        [-0.5]

    Source: https://jmlr.org/papers/v12/duchi11a.html, https://docs.pytorch.org/docs/2.13/generated/torch.optim.Adagrad.html
    """

    # No counter: as in PyTorch, there is state before the first step.
    _independent = True

    def __init__(
        self,
        params: Params,
        lr: float | jax.Array = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        super().__init__(
            params,
            _adagrad,
            lr=lr,
            lr_decay=lr_decay,
            eps=eps,
            weight_decay=weight_decay,
            initial_accumulator_value=initial_accumulator_value,
            foreach=foreach,
            maximize=maximize,
            differentiable=differentiable,
            fused=fused,
        )

    def _check_options(self, options: dict[str, Any]) -> dict[str, Any]:
        start = options["initial_accumulator_value"]
        return {
            **options,
            "lr": number("learning rate", options["lr"], low=0),
            "lr_decay": switch(number("lr_decay value", options["lr_decay"], low=0)),
            "weight_decay": switch(number("weight_decay value", options["weight_decay"], low=0)),
            "initial_accumulator_value": switch(number("initial_accumulator_value value", start, low=0)),
            "eps": number("epsilon value", options["eps"], low=0),
        }


class _AdagradState(NamedTuple):
    step: Any
    sum: Any


def _adagrad(
    lr: Any,
    lr_decay: Any,
    eps: Any,
    weight_decay: Any,
    initial_accumulator_value: Any,
    maximize: bool,
    **_: Any,
) -> optax.GradientTransformation:
    def init(params: Any) -> Any:
        return _AdagradState(jnp.zeros((), jnp.int32), optax.tree.full_like(params, initial_accumulator_value))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        total = jax.tree.map(lambda s, g: s + g * g, state.sum, updates)
        falling = 1 + state.step * lr_decay
        # PyTorch's eps is added to the root; that of optax.scale_by_rss under it.
        step = jax.tree.map(lambda g, s: g / (falling * (jnp.sqrt(s) + eps)), updates, total)
        return step, _AdagradState(optax.safe_increment(state.step), total)

    scaled = optax.GradientTransformation(init, update)
    return descent(lr, scaled, maximize=maximize, weight_decay=weight_decay)
