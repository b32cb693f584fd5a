"""RAdam."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from flambeau.optim._options import adam_options
from flambeau.optim._parts import descent
from flambeau.optim.optimizer import Optimizer, Params

__all__ = ["RAdam"]


class RAdam(Optimizer):
    """RAdam: Adam that holds back as long as the mean square has seen few gradients.

    With `m` and `v` those of `Adam`, `ρ∞ = 2 / (1 − β₂) − 1` and `ρ = ρ∞ − 2 t β₂ᵗ / (1 − β₂ᵗ)` at a parameter's t-th step:
    `p = p − lr · m̂ · r · √(1 − β₂ᵗ) / (√v + eps)` with `r² = (ρ − 4)(ρ − 2) ρ∞ / ((ρ∞ − 4)(ρ∞ − 2) ρ)` where `ρ > 5`, and
    `p = p − lr · m̂` before.

    Args:
        params: see `Optimizer`.
        lr: the learning rate.
        betas: β₁ and β₂, how slowly the two averages move.
        eps: added to the denominator.
        weight_decay: the strength of the L2 penalty, or of the decay if that is decoupled.
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
        >>> optimizer = fb.optim.RAdam(net.parameters(), lr=0.5)
        >>> before = net.bias
        >>> optimizer.step(fb.grad(lambda net: net(jnp.ones((1, 2))).sum())(net))
        >>> print((net.bias - before).round(4))
        [-0.5]

    Source: https://arxiv.org/abs/1908.03265, https://docs.pytorch.org/docs/2.13/generated/torch.optim.RAdam.html
    """

    _independent = True
    _counter = "step"

    def __init__(
        self,
        params: Params,
        lr: float | jax.Array = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        super().__init__(
            params,
            _radam,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            maximize=maximize,
            foreach=foreach,
            capturable=capturable,
            decoupled_weight_decay=decoupled_weight_decay,
            differentiable=differentiable,
        )

    def _check_options(self, options: dict[str, Any]) -> dict[str, Any]:
        return adam_options(options)


class _RAdamState(NamedTuple):
    step: Any
    exp_avg: Any
    exp_avg_sq: Any


def _radam(
    lr: Any,
    betas: tuple[Any, Any],
    eps: Any,
    weight_decay: Any,
    decoupled_weight_decay: bool,
    maximize: bool,
    **_: Any,
) -> optax.GradientTransformation:
    """PyTorch's eps is added before `v` is corrected for its bias, that of optax.scale_by_radam after it."""
    b1, b2 = betas

    def init(params: Any) -> Any:
        zeros = optax.tree.zeros_like(params)
        return _RAdamState(jnp.zeros((), jnp.int32), zeros, zeros)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        count = optax.safe_increment(state.step)
        exp_avg = optax.tree.update_moment(updates, state.exp_avg, b1, 1)
        exp_avg_sq = optax.tree.update_moment_per_elem_norm(updates, state.exp_avg_sq, b2, 2)
        rectified, factor = _rectification(b2, count)

        def scaled(m: jax.Array, v: jax.Array) -> jax.Array:
            # Where it is not used, the root of a zero must not put a NaN into a derivative.
            root = jnp.sqrt(jnp.where(rectified, v, 1))
            return m * jnp.where(rectified, factor / (root + eps), 1)

        step = jax.tree.map(scaled, optax.tree.bias_correction(exp_avg, b1, count), exp_avg_sq)
        return step, _RAdamState(count, exp_avg, exp_avg_sq)

    part = optax.GradientTransformation(init, update)
    return descent(lr, part, maximize=maximize, weight_decay=weight_decay, decoupled=decoupled_weight_decay)


def _rectification(b2: Any, count: Any) -> tuple[Any, Any]:
    """Whether enough gradients were seen, and `r · √(1 − β₂ᵗ)` if so."""
    corrected = 1 - b2**count
    most = 2 / (1 - b2) - 1
    length = most - 2 * count * b2**count / corrected
    rectified = length > 5
    length = jnp.where(rectified, length, most)
    share = (length - 4) * (length - 2) * most / ((most - 4) * (most - 2) * length)
    return rectified, jnp.where(rectified, jnp.sqrt(share * corrected), 1)
