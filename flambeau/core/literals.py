"""Constants of JAX's programs that come out as they stand in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np

__all__ = ["as_arrays", "evaluating"]


def evaluating(closed: jax.extend.core.ClosedJaxpr) -> Callable[..., list[Any]]:
    """The function that a jaxpr is: of arrays, to arrays."""
    evaluate = jax.extend.core.jaxpr_as_fun(closed)
    return lambda *arrays: as_arrays(evaluate(*arrays))


def as_arrays(tree: Any) -> Any:
    """What JAX gave, with arrays in the places of small constants.

    What a program gives without computing it is a number of Python's or an array of numpy's where JAX evaluates the program
    step by step, as `jax.checkpoint` does outside of `jit`. Gradients of integers, which have no values, stay what they are.
    """
    return jax.tree.map(_as_array, tree)


def _as_array(value: Any) -> Any:
    if isinstance(value, jax.Array) or (isinstance(value, np.ndarray) and value.dtype == jax.dtypes.float0):
        return value
    return jnp.asarray(value)
