"""Adam and AdamW."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from flambeau.optim._options import adam_options
from flambeau.optim._parts import descent
from flambeau.optim.optimizer import Optimizer, Params

__all__ = ["Adam", "AdamW"]


class Adam(Optimizer):
    """Adam: steps of a size that does not depend on the scale of the gradients.

    `m = β₁ m + (1 − β₁) g;  v = β₂ v + (1 − β₂) g²;  p = p − lr · m̂ / (√v̂ + eps)` with `m̂ = m / (1 − β₁ᵗ)` and
    `v̂ = v / (1 − β₂ᵗ)` at a parameter's t-th step.

    Args:
        params: see `Optimizer`.
        lr: the learning rate.
        betas: β₁ and β₂, how slowly the two averages move.
        eps: added to the denominator.
        weight_decay: the strength of the L2 penalty, or of the decay if that is decoupled.
        amsgrad: whether the largest `v` so far takes the place of `v`.
        foreach, capturable, differentiable, fused: accepted for PyTorch's sake, where they choose an implementation. Here XLA
            fuses the update, and it is differentiable inside `fb.grad`.
        maximize: whether to go up the gradient, not down.
        decoupled_weight_decay: whether parameters decay by `lr · weight_decay` and not through their gradients, as in AdamW.

    Raises:
        ValueError: an option makes no sense.

    Example:
        >>> import jax.numpy as jnp
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> net = nn.Linear(2, 1)
        >>> optimizer = fb.optim.Adam(net.parameters(), lr=0.5)
        >>> before = net.bias
        >>> optimizer.step(fb.grad(lambda net: net(jnp.ones((1, 2))).sum())(net))
        >>> print((net.bias - before).round(4))
        [-0.5]

    Source: https://arxiv.org/abs/1412.6980, https://docs.pytorch.org/docs/2.13/generated/torch.optim.Adam.html
    """

    _independent = True
    _counter = "step"
    _renamed: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"count": "step", "mu": "exp_avg", "nu": "exp_avg_sq", "nu_max": "max_exp_avg_sq"}
    )

    def __init__(
        self,
        params: Params,
        lr: float | jax.Array = 1e-3,
        betas: tuple[float | jax.Array, float | jax.Array] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
    ) -> None:
        super().__init__(
            params,
            _adam,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            maximize=maximize,
            foreach=foreach,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=decoupled_weight_decay,
        )

    def _check_options(self, options: dict[str, Any]) -> dict[str, Any]:
        return adam_options(options)


class AdamW(Adam):
    """Adam with decoupled weight decay: `p = p − lr · weight_decay · p` besides Adam's update.

    Args:
        params: see `Optimizer`.
        lr: the learning rate.
        betas: how slowly the two averages of `Adam` move.
        eps: added to the denominator.
        weight_decay: how fast parameters decay.
        amsgrad: see `Adam`.
        maximize: whether to go up the gradient, not down; the decay goes down.
        foreach, capturable, differentiable, fused: see `Adam`.

    Raises:
        ValueError: an option makes no sense.

    Example:
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> fb.optim.AdamW(nn.Linear(2, 1).parameters(), lr=3e-4).param_groups[0]["weight_decay"]
        0.01

    Source: https://arxiv.org/abs/1711.05101, https://docs.pytorch.org/docs/2.13/generated/torch.optim.AdamW.html
    """

    def __init__(
        self,
        params: Params,
        lr: float | jax.Array = 1e-3,
        betas: tuple[float | jax.Array, float | jax.Array] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=True,
        )

    def _load(self, state_dict: Mapping[str, Any]) -> None:
        super()._load(state_dict)
        for group in self.param_groups:
            group["decoupled_weight_decay"] = True  # whatever Adam's state dict says


def _adam(
    lr: Any,
    betas: tuple[Any, Any],
    eps: Any,
    weight_decay: Any,
    amsgrad: bool,
    maximize: bool,
    decoupled_weight_decay: bool,
    **_: Any,
) -> optax.GradientTransformation:
    adam = (_scale_by_amsgrad if amsgrad else optax.scale_by_adam)(*betas, eps)
    return descent(lr, adam, maximize=maximize, weight_decay=weight_decay, decoupled=decoupled_weight_decay)


def _scale_by_amsgrad(b1: Any, b2: Any, eps: Any) -> optax.GradientTransformation:
    """As `optax.scale_by_amsgrad`, but the largest `v` is corrected for the present step, as in PyTorch.

    optax takes the largest of the corrected ones, or corrects nothing.
    """
    shapes = optax.scale_by_amsgrad(b1, b2, eps)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        count = optax.safe_increment(state.count)
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        nu = optax.tree.update_moment_per_elem_norm(updates, state.nu, b2, 2)
        nu_max = jax.tree.map(jnp.maximum, state.nu_max, nu)
        mean, square = optax.tree.bias_correction(mu, b1, count), optax.tree.bias_correction(nu_max, b2, count)
        step = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mean, square)
        return step, optax.ScaleByAmsgradState(count, mu, nu, nu_max)

    return optax.GradientTransformation(shapes.init, update)
