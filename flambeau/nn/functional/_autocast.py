"""What a function does under `autocast`: one line at its beginning says it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flambeau.core.cell import running

__all__ = ["lowered", "promoted", "raised"]


def lowered(*arrays: Any) -> Any:
    """The arrays in half precision, while `autocast` is on; one by itself, several as a tuple."""
    return _cast(arrays, running.autocast)


def raised(*arrays: Any) -> Any:
    """The arrays in float32, while `autocast` is on."""
    return _cast(arrays, None if running.autocast is None else jnp.dtype(jnp.float32))


def promoted(*arrays: Any) -> Any:
    """The arrays in the widest dtype among them, while `autocast` is on."""
    if running.autocast is None:
        return _cast(arrays, None)
    floating = [array.dtype for array in arrays if _is_floating(array)]
    widest = jnp.result_type(*floating) if floating else None
    return tuple(array.astype(widest) if _is_floating(array) else array for array in arrays)


def _cast(arrays: tuple[Any, ...], dtype: np.dtype | None) -> Any:
    # float64 is a choice that someone made, which torch leaves alone too.
    if dtype is not None:
        arrays = tuple(
            array.astype(dtype) if _is_floating(array) and array.dtype.itemsize <= 4 else array for array in arrays
        )
    return arrays[0] if len(arrays) == 1 else arrays


def _is_floating(value: Any) -> bool:
    return isinstance(value, (jax.Array, np.ndarray)) and jnp.issubdtype(value.dtype, jnp.floating)
