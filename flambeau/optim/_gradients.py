"""Whose gradient is whose: sorts what `step` is given by the parameter groups of an optimizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flambeau._errors import DtypeError, ShapeError
from flambeau.core.cell import Parameter
from flambeau.core.gradients import Gradients
from flambeau.optim.param_group import ParamGroup

__all__ = ["HOW_TO_STEP", "sort_gradients"]

HOW_TO_STEP = (
    "gradients are values here, which a transform returns, and not attributes of the parameters. Write\n"
    "    loss, grads = fb.value_and_grad(loss_of)(net)\n"
    "    optimizer.step(grads)"
)


class _Place(NamedTuple):
    """Where an optimizer has a parameter, and by which name it knows it."""

    group: int
    position: int
    name: str | None


def sort_gradients(groups: Sequence[ParamGroup], grads: Any) -> list[dict[int, jax.Array]]:
    """The gradients of each group, by the number of the parameter in it; those of other parameters are left out.

    Raises:
        TypeError: `grads` is none of the things that `Optimizer.step` takes.
        ValueError: a list has not one entry for each parameter, or no gradient belongs to the groups.
        ShapeError, DtypeError: a gradient does not fit its parameter.
    """
    places: dict[Parameter, _Place] = {}
    for number, group in enumerate(groups):
        names = group.get("param_names") or [None] * len(group["params"])
        for i, (parameter, name) in enumerate(zip(group["params"], names, strict=True)):
            places[parameter] = _Place(number, i, name)
    pairs = [(parameter, name, grad) for parameter, name, grad in _pairs(places, grads) if parameter in places]
    if not pairs:
        raise ValueError(
            "none of the gradients belongs to a parameter of this optimizer: differentiate with respect to the module whose "
            "parameters it was made from"
        )
    found: list[dict[int, jax.Array]] = [{} for _ in groups]
    for parameter, name, grad in pairs:
        number, i, _ = places[parameter]
        grad = _fitting(parameter, name, grad)
        if grad is not None:
            # One that came with two modules has a share of its gradient in each.
            found[number][i] = found[number][i] + grad if i in found[number] else grad
    return found


def _pairs(places: Mapping[Parameter, _Place], grads: Any) -> Iterator[tuple[Parameter | None, str, Any]]:
    """Each gradient, with its parameter and a name for messages."""
    if isinstance(grads, Mapping):
        yield from _by_name(places, grads)
    elif isinstance(grads, (tuple, list)) and grads and all(isinstance(part, Mapping) for part in grads):
        for part in grads:
            yield from _by_name(places, part)
    elif isinstance(grads, (tuple, list)):
        if len(grads) != len(places):
            raise ValueError(
                f"expected one gradient for each of the {len(places)} parameters, in their order, got {len(grads)}"
            )
        for i, ((parameter, place), grad) in enumerate(zip(places.items(), grads, strict=True)):
            yield parameter, place.name or f"parameter {i}", grad
    elif isinstance(grads, (jax.Array, np.ndarray)) and len(places) == 1:
        yield next(iter(places)), "the parameter", grads
    else:
        raise TypeError(f"expected gradients, got {type(grads).__name__}: {HOW_TO_STEP}")


def _by_name(
    places: Mapping[Parameter, _Place], grads: Mapping[str, Any]
) -> Iterator[tuple[Parameter | None, str, Any]]:
    named = {place.name: parameter for parameter, place in places.items() if place.name is not None}
    if not isinstance(grads, Gradients) and not named:
        raise TypeError(
            "a plain dict of gradients says no more than names, and this optimizer was made without any: pass on what "
            "fb.value_and_grad gave (jax.tree.map keeps it what it is), or make the optimizer from net.named_parameters()"
        )
    for name, grad in grads.items():
        owner = grads.parameter(name) if isinstance(grads, Gradients) else None
        yield (named.get(name) if owner is None else owner), name, grad


def _fitting(parameter: Parameter, name: str, grad: Any) -> jax.Array | None:
    """The gradient as an array; None where there is none (JAX has one of type `float0` for integers)."""
    if grad is None or getattr(grad, "dtype", None) == jax.dtypes.float0:
        return None
    if not isinstance(grad, (jax.Array, np.ndarray, np.generic, int, float)):
        raise TypeError(f"expected the gradient of {name} to be an array, got {type(grad).__name__}")
    array = grad if isinstance(grad, jax.Array) else jnp.asarray(grad)
    if array.shape != parameter.shape:
        raise ShapeError(f"expected the gradient of {name} to have shape {parameter.shape}, got {array.shape}")
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise DtypeError(f"expected the gradient of {name} to be of a floating dtype, got {array.dtype}")
    return array
