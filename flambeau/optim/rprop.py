"""Rprop."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from flambeau.optim._options import number
from flambeau.optim._parts import descent
from flambeau.optim.optimizer import Optimizer, Params

__all__ = ["Rprop"]


class Rprop(Optimizer):
    """Resilient backpropagation: steps that grow while the sign of the gradient stays, and shrink when it turns.

    For each element, the step size is multiplied by η₊ where the gradient has the sign it had before, by η₋ where it has the
    other one, and kept between its bounds; then `p = p − size · sign(g)`, but where the sign turned nothing moves, and the next
    step counts as the first. For gradients of whole data sets, not of batches.

    Args:
        params: see `Optimizer`.
        lr: the first step size.
        etas: η₋ and η₊.
        step_sizes: the bounds of the step size.
        maximize: whether to go up the gradient, not down.
        capturable, foreach, differentiable: accepted for PyTorch's sake, where they choose an implementation. Here XLA fuses
            the update, and it is differentiable inside `fb.grad`.

    Raises:
        ValueError: an option makes no sense.

    Example:
        >>> import jax.numpy as jnp
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> net = nn.Linear(2, 1)
        >>> optimizer = fb.optim.Rprop(net.parameters(), lr=0.5)
        >>> before = net.bias
        >>> for _ in range(2):
        ...     optimizer.step(fb.grad(lambda net: net(jnp.ones((1, 2))).sum())(net))
        >>> print((net.bias - before).round(4))
        [-1.1]

    Source: https://doi.org/10.1109/ICNN.1993.298623, https://docs.pytorch.org/docs/2.13/generated/torch.optim.Rprop.html
    """

    _independent = True
    _counter = "step"

    def __init__(
        self,
        params: Params,
        lr: float | jax.Array = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50),
        *,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        super().__init__(
            params,
            _rprop,
            lr=lr,
            etas=etas,
            step_sizes=step_sizes,
            foreach=foreach,
            maximize=maximize,
            differentiable=differentiable,
            capturable=capturable,
        )

    def _check_options(self, options: dict[str, Any]) -> dict[str, Any]:
        lr = number("learning rate", options["lr"], low=0)
        minus, plus = (number("eta value", eta) for eta in options["etas"])
        if not 0 < minus < 1 < plus:
            raise ValueError(f"Invalid eta values: {minus}, {plus}")
        smallest, largest = (number("step size", size) for size in options["step_sizes"])
        return {**options, "lr": lr, "etas": (minus, plus), "step_sizes": (smallest, largest)}


class _RpropState(NamedTuple):
    step: Any
    prev: Any
    step_size: Any


def _rprop(
    lr: Any, etas: tuple[Any, Any], step_sizes: tuple[Any, Any], maximize: bool, **_: Any
) -> optax.GradientTransformation:
    """Step sizes stay in their bounds at every step, and the gradient is kept: optax.scale_by_rprop does neither."""
    minus, plus = etas

    def init(params: Any) -> Any:
        return _RpropState(jnp.zeros((), jnp.int32), optax.tree.zeros_like(params), optax.tree.full_like(params, lr))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        turns = jax.tree.map(lambda g, prev: jnp.sign(g * prev), updates, state.prev)

        def resized(size: jax.Array, turn: jax.Array) -> jax.Array:
            size = jnp.where(state.step == 0, lr, size)  # the learning rate may have changed before the first step
            return jnp.clip(size * jnp.where(turn > 0, plus, jnp.where(turn < 0, minus, 1)), *step_sizes)

        sizes = jax.tree.map(resized, state.step_size, turns)
        kept = jax.tree.map(lambda g, turn: jnp.where(turn < 0, 0, g), updates, turns)
        step = jax.tree.map(lambda g, size: jnp.sign(g) * size, kept, sizes)
        return step, _RpropState(optax.safe_increment(state.step), kept, sizes)

    # The step size takes the place of the learning rate.
    return descent(1.0, optax.GradientTransformation(init, update), maximize=maximize)
