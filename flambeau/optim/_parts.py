"""Pieces of updates that several optimizers have."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from flambeau.optim._options import is_off

__all__ = ["counted", "descent", "heavy_ball"]


def descent(
    lr: Any, *parts: optax.GradientTransformation, maximize: bool, weight_decay: Any = 0, decoupled: bool = False
) -> optax.GradientTransformation:
    """`parts` in the midst of what most optimizers have: the sign, the L2 penalty or the decoupled decay, the learning rate."""
    sign = [optax.scale(-1.0)] if maximize else []
    decay = [] if is_off(weight_decay) else [optax.add_decayed_weights(weight_decay)]
    parts = (*parts, *decay) if decoupled else (*decay, *parts)
    return optax.chain(*sign, *parts, optax.scale(-lr))


class CountState(NamedTuple):
    """How many steps there were."""

    step: Any


def counted() -> optax.GradientTransformation:
    """Counts the steps, for updates that need no count but have one in PyTorch's state."""

    def init(params: Any) -> Any:
        return CountState(jnp.zeros((), jnp.int32))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return updates, CountState(optax.safe_increment(state.step))

    return optax.GradientTransformation(init, update)


class MomentumState(NamedTuple):
    """The buffer, and whether there was a step."""

    started: jax.Array
    trace: Any


def heavy_ball(momentum: Any, dampening: Any = 0, nesterov: bool = False) -> optax.GradientTransformation:
    """`optax.trace` with what it lacks, PyTorch's dampening. That spares the first step, so it must be known which is first."""
    trace = optax.trace(momentum)

    def init(params: Any) -> Any:
        (zeros,) = cast(optax.TraceState, trace.init(params))
        return MomentumState(jnp.zeros((), bool), zeros)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        used = jnp.not_equal(momentum, 0)  # while it is 0, PyTorch leaves the buffers alone
        damped = updates
        if not is_off(dampening):
            part = jnp.where(used & state.started, 1 - dampening, 1)
            damped = jax.tree.map(lambda g: part * g, updates)
        buffer, _ = trace.update(damped, optax.TraceState(state.trace))
        kept = jax.tree.map(lambda new, old: jnp.where(used, new, old), buffer, state.trace)
        # From what is kept, so that XLA does not need the old buffer once more, which would cost a copy of it.
        buffer = jax.tree.map(lambda new, g: jnp.where(used, new, g), kept, damped)
        # With dampening, PyTorch's nesterov adds the gradient as it was: not what optax.trace(nesterov=True) does.
        step = jax.tree.map(lambda g, b: g + momentum * b, updates, buffer) if nesterov else buffer
        return step, MomentumState(used | state.started, kept)

    return optax.GradientTransformation(init, update)
