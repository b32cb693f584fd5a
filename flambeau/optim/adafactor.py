"""Adafactor."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from flambeau.optim._options import is_off, limited, switch
from flambeau.optim.optimizer import Optimizer, Params

__all__ = ["Adafactor"]


class Adafactor(Optimizer):
    """Adafactor: mean squares of matrices are kept as a column and a row, and steps are as large as their parameters.

    For a matrix `R = R + w (mean of g² over the last axis − R)`, `C` likewise over the last but one, and
    `v = R C / max(mean R, ε₁)`; for fewer dimensions `v = v + w (g² − v)`, where `w = t^beta2_decay` at a parameter's t-th step.
    Then `u = g / √max(v, ε₁²)` and `p = p − max(ε₂, rms p) · min(lr, 1/√t) · u / max(1, rms u / d)`.

    Args:
        params: see `Optimizer`.
        lr: the largest relative step, and what `weight_decay` is multiplied by.
        beta2_decay: the power of `w`.
        eps: ε₁, by default the rounding unit of the parameter's dtype, and ε₂.
        d: how large the root mean square of `u` may be.
        weight_decay: how fast parameters decay: `p = p − lr · weight_decay · p`.
        foreach: accepted for PyTorch's sake, where it chooses an implementation. Here XLA fuses the update, and it is
            differentiable inside `fb.grad`.
        maximize: whether to go up the gradient, not down.

    Raises:
        ValueError: an option makes no sense.

    Example:
        >>> import jax.numpy as jnp
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> net = nn.Linear(2, 1)
        >>> optimizer = fb.optim.Adafactor(net.parameters(), lr=0.5)
        >>> net.bias = jnp.ones(1)
        >>> optimizer.step(fb.grad(lambda net: net(jnp.ones((1, 2))).sum())(net))
        >>> print(net.bias)
        [0.5]

    Source: https://arxiv.org/abs/1804.04235, https://docs.pytorch.org/docs/2.13/generated/torch.optim.Adafactor.html
    """

    _independent = True
    _counter = "step"

    def __init__(
        self,
        params: Params,
        lr: float | jax.Array = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            _adafactor,
            lr=lr,
            beta2_decay=beta2_decay,
            eps=eps,
            d=d,
            weight_decay=weight_decay,
            foreach=foreach,
            maximize=maximize,
        )

    def _check_options(self, options: dict[str, Any]) -> dict[str, Any]:
        first, second = options["eps"]
        return {
            **options,
            "lr": limited("Learning rate", options["lr"], low=0),
            "beta2_decay": limited("beta2_decay", options["beta2_decay"], high=0),
            "eps": (None if first is None else limited("epsilon1", first, low=0), limited("epsilon2", second, low=0)),
            "d": limited("Clipping threshold d", options["d"], low=1),
            "weight_decay": switch(limited("weight_decay", options["weight_decay"], low=0)),
        }


class _AdafactorState(NamedTuple):
    step: Any
    row_var: dict[Any, jax.Array]
    col_var: dict[Any, jax.Array]
    variance: dict[Any, jax.Array]


def _adafactor(
    lr: Any,
    beta2_decay: Any,
    eps: tuple[Any, Any],
    d: Any,
    weight_decay: Any,
    maximize: bool,
    **_: Any,
) -> optax.GradientTransformation:
    """PyTorch's ε₁ bounds `v` from below; optax.scale_by_factored_rms adds it to g², and factors large matrices only."""

    def init(params: Any) -> Any:
        matrices = {name: p for name, p in params.items() if p.ndim > 1}
        return _AdafactorState(
            jnp.zeros((), jnp.int32),
            {name: jnp.zeros((*p.shape[:-1], 1), p.dtype) for name, p in matrices.items()},
            {name: jnp.zeros((*p.shape[:-2], 1, p.shape[-1]), p.dtype) for name, p in matrices.items()},
            {name: jnp.zeros_like(p) for name, p in params.items() if p.ndim <= 1},
        )

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        count = optax.safe_increment(state.step)
        squares = jax.tree.map(lambda g: g * g, updates)
        share = jnp.asarray(count, lr.dtype) ** beta2_decay

        def moved(old: dict[Any, jax.Array], axis: int | None) -> dict[Any, jax.Array]:
            new = {n: squares[n] if axis is None else squares[n].mean(axis, keepdims=True) for n in old}
            return {n: old[n] + share * (new[n] - old[n]) for n in old}

        new = _AdafactorState(count, moved(state.row_var, -1), moved(state.col_var, -2), moved(state.variance, None))
        largest = jnp.minimum(lr, 1 / jnp.sqrt(jnp.asarray(count, lr.dtype)))

        def move(name: Any, p: jax.Array) -> jax.Array:
            u = _scaled(updates[name], name, new, _rounding(name, state) if eps[0] is None else eps[0])
            u = jnp.maximum(eps[1], _rms(p)) * largest / jnp.maximum(1, _rms(u) / d) * u
            u = -u if maximize else u
            return -u if is_off(weight_decay) else -u - lr * weight_decay * p

        return {name: move(name, p) for name, p in params.items()}, new

    return optax.GradientTransformation(init, update)


def _scaled(g: jax.Array, name: Any, state: _AdafactorState, eps: Any) -> jax.Array:
    if name in state.variance:
        v = state.variance[name]
    else:
        row = state.row_var[name]
        v = row * state.col_var[name] / jnp.maximum(row.mean(-2, keepdims=True), eps)
    return g * jax.lax.rsqrt(jnp.maximum(v, eps * eps))


def _rounding(name: Any, state: _AdafactorState) -> float:
    """Of the parameter's dtype, which its state has too, while the update is computed in 32 bits at least."""
    array = state.variance[name] if name in state.variance else state.row_var[name]
    return float(jnp.finfo(array.dtype).eps)


def _rms(x: jax.Array) -> jax.Array:
    # `max`: an empty parameter has no mean.
    return jnp.sqrt((x * x).sum() / max(1, math.prod(x.shape)))
