"""Gradients made smaller: by their norm, or value by value.

PyTorch's functions take parameters and change their `.grad`. Here gradients are values, the dict that `fb.value_and_grad`
gives, and it is that dict whose entries these functions replace.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from flambeau._errors import StateError
from flambeau.core.cell import Parameter
from flambeau.core.module import Module
from flambeau.nn.functional._math import widen

__all__ = ["clip_grad_norm", "clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_", "get_total_norm"]

_HOW = (
    "gradients are values here and not attributes of the parameters. Write\n"
    "    loss, grads = fb.value_and_grad(loss_of)(net)\n"
    "    {name}(grads, ...)"
)
_Place = tuple[Any, Any]


def get_total_norm(
    tensors: Any, norm_type: float = 2.0, error_if_nonfinite: bool = False, foreach: bool | None = None
) -> jax.Array:
    """The norm of several arrays as if they were one vector: (Σ |x|ᵖ)^(1/p).

    It is the norm of the arrays' norms, taken in float32 where they are narrower.

    Args:
        tensors: an array, or arrays in any tree: a list, the dict that `fb.grad` gives.
        norm_type: p; `math.inf` or `"inf"` for the largest absolute value.
        error_if_nonfinite: whether to raise where the norm is infinite or NaN; it has to be known for that, so not inside
            of a compiled function.
        foreach: accepted for PyTorch's sake, where it chooses an implementation.

    Raises:
        RuntimeError: the norm is not finite, and `error_if_nonfinite`.
        StateError: `error_if_nonfinite` inside of a transform, where the norm has no value yet.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.utils.get_total_norm([jnp.array([3.0]), jnp.array([[4.0]])])
        Array(5., dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.utils.get_total_norm.html
    """
    arrays = [leaf for leaf in jax.tree.leaves(tensors) if _is_gradient(leaf)]
    if not arrays:
        return jnp.zeros(())
    norm = _norm_of_norms([jnp.asarray(array) for array in arrays], float(norm_type))
    if error_if_nonfinite:
        if isinstance(norm, Tracer):
            raise StateError("error_if_nonfinite=True needs the norm's value, which is not known inside of a transform")
        if not math.isfinite(norm):
            raise RuntimeError(
                f"the total norm of order {float(norm_type)} is {norm}, so the gradients cannot be clipped by it; with "
                f"error_if_nonfinite=False they are scaled all the same"
            )
    return norm


def clip_grads_with_norm_(parameters: Any, max_norm: float, total_norm: Any, foreach: bool | None = None) -> None:
    """Scales gradients by min(1, max_norm / (total_norm + 10⁻⁶)), for a norm that is known already.

    Args:
        parameters: the gradients (PyTorch's name stays), whose entries are replaced: the dict that `fb.grad` gives, or a list.
        max_norm: the largest norm to leave alone.
        total_norm: the norm that they have.
        foreach: accepted for PyTorch's sake.

    Raises:
        TypeError: `parameters` are no gradients, or in a thing whose entries cannot be replaced.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> grads = {"weight": jnp.array([30.0, 40.0])}
        >>> nn.utils.clip_grads_with_norm_(grads, 5.0, nn.utils.get_total_norm(grads))
        >>> print(nn.utils.get_total_norm(grads).round(2))
        5.0

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.utils.clip_grads_with_norm_.html
    """
    places = list(_places(parameters, "clip_grads_with_norm_"))
    _replace(places, _scaled([holder[key] for holder, key in places], max_norm, total_norm))


def clip_grad_norm_(
    parameters: Any,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> jax.Array:
    """Scales gradients so that their norm, all taken as one vector, is at most `max_norm`; gives the norm they had.

    Every gradient is multiplied by min(1, max_norm / (norm + 10⁻⁶)). Works inside of `fb.jit` too.

    Args:
        parameters: the gradients (PyTorch's name stays), whose entries are replaced: the dict that `fb.value_and_grad` gives,
            several of them in a tuple, or a list of arrays.
        max_norm: the largest norm to leave alone.
        norm_type: which norm, see `get_total_norm`.
        error_if_nonfinite: whether to raise where the norm is infinite or NaN.
        foreach: accepted for PyTorch's sake.

    Raises:
        TypeError: `parameters` are no gradients, or in a thing whose entries cannot be replaced.
        RuntimeError: the norm is not finite, and `error_if_nonfinite`; then nothing is changed.

    Example:
        >>> import jax.numpy as jnp
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> net = nn.Linear(2, 1)
        >>> loss, grads = fb.value_and_grad(lambda net: net(100 * jnp.ones((1, 2))).sum())(net)
        >>> print(nn.utils.clip_grad_norm_(grads, 1.0).round(2), nn.utils.get_total_norm(grads).round(2))
        141.42 1.0

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.utils.clip_grad_norm_.html
    """
    places = list(_places(parameters, "clip_grad_norm_"))
    gradients = [holder[key] for holder, key in places]
    total_norm = get_total_norm(gradients, norm_type, error_if_nonfinite)
    _replace(places, _scaled(gradients, max_norm, total_norm))
    return total_norm


def clip_grad_norm(
    parameters: Any,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> jax.Array:
    """The old name of `clip_grad_norm_`.

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.utils.clip_grad_norm.html
    """
    return clip_grad_norm_(parameters, max_norm, norm_type, error_if_nonfinite, foreach)


def clip_grad_value_(parameters: Any, clip_value: float, foreach: bool | None = None) -> None:
    """Moves every value of the gradients into ±`clip_value`.

    Args:
        parameters: the gradients (PyTorch's name stays), whose entries are replaced, as for `clip_grad_norm_`.
        clip_value: the largest absolute value to leave alone.
        foreach: accepted for PyTorch's sake.

    Raises:
        TypeError: `parameters` are no gradients, or in a thing whose entries cannot be replaced.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> grads = [jnp.array([0.5, -3.0])]
        >>> nn.utils.clip_grad_value_(grads, 1.0)
        >>> grads
        [Array([ 0.5, -1. ], dtype=float32)]

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.utils.clip_grad_value_.html
    """
    places = list(_places(parameters, "clip_grad_value_"))
    _replace(places, _clipped([holder[key] for holder, key in places], clip_value))


# One program for all gradients: outside of a transform each operation on a new shape would compile.


@functools.partial(jax.jit, static_argnums=1)
def _norm_of_norms(arrays: list[jax.Array], order: float) -> jax.Array:
    norms = [jnp.linalg.norm(widen(array).ravel(), order) for array in arrays]
    return jnp.linalg.norm(jnp.stack(norms), order)


@jax.jit
def _scaled(gradients: list[jax.Array], max_norm: Any, total_norm: Any) -> list[jax.Array]:
    scale = jnp.minimum(max_norm / (total_norm + 1e-6), 1.0)
    return [(gradient * scale).astype(gradient.dtype) for gradient in gradients]


@jax.jit
def _clipped(gradients: list[jax.Array], limit: Any) -> list[jax.Array]:
    return [jnp.clip(gradient, -limit, limit).astype(gradient.dtype) for gradient in gradients]


def _places(gradients: Any, name: str) -> Iterator[_Place]:
    """Where each gradient is: the dict or list that holds it, and its key."""
    if isinstance(gradients, Module) or not isinstance(gradients, (Mapping, list, tuple)):
        raise TypeError(f"{name}: expected gradients, got {type(gradients).__name__}: {_HOW.format(name=name)}")
    entries = list(gradients.items() if isinstance(gradients, Mapping) else enumerate(gradients))
    for key, entry in entries:
        if isinstance(entry, Parameter):
            raise TypeError(f"{name}: expected gradients, got parameters: {_HOW.format(name=name)}")
        if isinstance(entry, (Mapping, list, tuple)):
            yield from _places(entry, name)
        elif _is_gradient(entry):
            if not isinstance(gradients, (MutableMapping, list)):
                raise TypeError(
                    f"{name}: the entries of a {type(gradients).__name__} cannot be replaced: pass a dict or a list of gradients"
                )
            yield gradients, key


def _replace(places: list[_Place], values: list[jax.Array]) -> None:
    for (holder, key), value in zip(places, values, strict=True):
        holder[key] = value


def _is_gradient(value: Any) -> bool:
    """Whether it is a gradient at all: a parameter that takes no part has none, JAX has one of `float0` for integers."""
    return isinstance(value, (jax.Array, np.ndarray, np.generic, float)) and (
        getattr(value, "dtype", None) != jax.dtypes.float0
    )
