"""Parameters as one vector, and back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from flambeau._errors import ShapeError
from flambeau.core.cell import Cell, owner_of

__all__ = ["parameters_to_vector", "vector_to_parameters"]


def parameters_to_vector(parameters: Iterable[Any]) -> jax.Array:
    """All parameters, one after the other, as one vector.

    Args:
        parameters: parameters (`net.parameters()`) or arrays.

    Raises:
        ValueError: there are none.

    Example:
        >>> from flambeau import nn
        >>> net = nn.Linear(3, 2)
        >>> nn.utils.parameters_to_vector(net.parameters()).shape
        (8,)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.utils.parameters_to_vector.html
    """
    arrays = [each.get() if isinstance(each, Cell) else jnp.asarray(each) for each in parameters]
    if not arrays:
        raise ValueError(
            "expected at least one parameter, got none: is the module without parameters, the iterator used up?"
        )
    return jnp.concatenate([array.reshape(-1) for array in arrays])


def vector_to_parameters(vec: jax.Array, parameters: Iterable[Any]) -> None:
    """Sets parameters to consecutive parts of a vector: undoes `parameters_to_vector`.

    Args:
        vec: the vector.
        parameters: parameters (`net.parameters()`), or arrays read from a module.

    Raises:
        TypeError: `vec` is no array, or something is neither a parameter nor read from a module.
        ShapeError: the vector has not as many values as the parameters. Then nothing is set; PyTorch leaves a rest alone.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> net = nn.Linear(2, 1)
        >>> nn.utils.vector_to_parameters(jnp.array([1.0, 2.0, 3.0]), net.parameters())
        >>> net.weight, net.bias
        (Array([[1., 2.]], dtype=float32), Array([3.], dtype=float32))

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.utils.vector_to_parameters.html
    """
    if not isinstance(vec, jax.Array):
        raise TypeError(f"expected a jax.Array, got {type(vec).__name__}")
    cells = [_cell_of(each) for each in parameters]
    total = sum(cell.numel() for cell in cells)
    if vec.shape != (total,):
        raise ShapeError(f"expected a vector of the {total} values that the parameters have, got shape {vec.shape}")
    start = 0
    for cell in cells:
        stop = start + cell.numel()
        cell.set(vec[start:stop].reshape(cell.shape).astype(cell.dtype))
        start = stop


def _cell_of(parameter: Any) -> Cell:
    cell = parameter if isinstance(parameter, Cell) else owner_of(parameter)
    if cell is None:
        raise TypeError(
            f"expected a Parameter, or an array read from a module, got {type(parameter).__name__}: pass net.parameters()"
        )
    return cell
