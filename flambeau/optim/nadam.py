"""NAdam."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from flambeau.optim._options import adam_options, number
from flambeau.optim._parts import descent
from flambeau.optim.optimizer import Optimizer, Params

__all__ = ["NAdam"]


class NAdam(Optimizer):
    """NAdam: Adam that looks ahead along its momentum, as Nesterov's method does.

    With `μₜ = β₁ (1 − 0.96^(t · momentum_decay) / 2)`, `Mₜ = μ₁ ⋯ μₜ`, and `m` and `v̂` those of `Adam`:
    `p = p − lr · ((1 − μₜ) / (1 − Mₜ) · g + μₜ₊₁ / (1 − Mₜ₊₁) · m) / (√v̂ + eps)` at a parameter's t-th step.

    Args:
        params: see `Optimizer`.
        lr: the learning rate.
        betas: β₁ and β₂, how slowly the two averages move.
        eps: added to the denominator.
        weight_decay: the strength of the L2 penalty, or of the decay if that is decoupled.
        momentum_decay: how fast the momentum grows to β₁.
        decoupled_weight_decay: whether parameters decay by `lr · weight_decay` and not through their gradients, as in AdamW.
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
        >>> optimizer = fb.optim.NAdam(net.parameters(), lr=0.5)
        >>> before = net.bias
        >>> optimizer.step(fb.grad(lambda net: net(jnp.ones((1, 2))).sum())(net))
        >>> print((net.bias - before).round(4))
        [-0.5282]

    Source: https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ,
    https://docs.pytorch.org/docs/2.13/generated/torch.optim.NAdam.html
    """

    _independent = True
    _counter = "step"

    def __init__(
        self,
        params: Params,
        lr: float | jax.Array = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        super().__init__(
            params,
            _nadam,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            momentum_decay=momentum_decay,
            decoupled_weight_decay=decoupled_weight_decay,
            maximize=maximize,
            foreach=foreach,
            capturable=capturable,
            differentiable=differentiable,
        )

    def _check_options(self, options: dict[str, Any]) -> dict[str, Any]:
        return {
            **adam_options(options),
            "momentum_decay": number("momentum_decay value", options["momentum_decay"], low=0),
        }


class _NAdamState(NamedTuple):
    step: Any
    mu_product: jax.Array
    exp_avg: Any
    exp_avg_sq: Any


def _nadam(
    lr: Any,
    betas: tuple[Any, Any],
    eps: Any,
    weight_decay: Any,
    momentum_decay: Any,
    decoupled_weight_decay: bool,
    maximize: bool,
    **_: Any,
) -> optax.GradientTransformation:
    """PyTorch's momentum grows to β₁ step by step, section 3.1 of the paper; that of optax.nadam is β₁ from the start."""
    b1, b2 = betas

    def init(params: Any) -> Any:
        zeros = optax.tree.zeros_like(params)
        return _NAdamState(jnp.zeros((), jnp.int32), jnp.ones_like(b1), zeros, zeros)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        count = optax.safe_increment(state.step)
        now, after = (b1 * (1 - 0.5 * 0.96 ** (t * momentum_decay)) for t in (count, count + 1))
        product = state.mu_product * now
        exp_avg = optax.tree.update_moment(updates, state.exp_avg, b1, 1)
        exp_avg_sq = optax.tree.update_moment_per_elem_norm(updates, state.exp_avg_sq, b2, 2)
        of_gradient, of_average = (1 - now) / (1 - product), after / (1 - product * after)

        def scaled(g: jax.Array, m: jax.Array, v: jax.Array) -> jax.Array:
            return (of_gradient * g + of_average * m) / (jnp.sqrt(v) + eps)

        square = optax.tree.bias_correction(exp_avg_sq, b2, count)
        step = jax.tree.map(scaled, updates, exp_avg, square)
        return step, _NAdamState(count, product, exp_avg, exp_avg_sq)

    part = optax.GradientTransformation(init, update)
    return descent(lr, part, maximize=maximize, weight_decay=weight_decay, decoupled=decoupled_weight_decay)
