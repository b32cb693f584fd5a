"""From bytes to arrays of JAX and back: what fits, and what a dtype of 64 bits becomes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from flambeau.core.cell import Cell
from flambeau.io._file import BadFileError, File, naming

__all__ = ["StoredArray", "as_numpy", "check_shape", "from_bytes", "held_dtype", "raw_bytes", "to_jax"]

# numpy has 64 dimensions, JAX some less; nobody computes with as many.
_MOST_DIMENSIONS = 32
_LARGEST = (1 << 62) - 1


def held_dtype(dtype: np.dtype) -> np.dtype:
    """As which dtype JAX holds values of `dtype`: while it runs without x64, 64 bits become 32."""
    return np.dtype(jax.dtypes.canonicalize_dtype(dtype))


def check_shape(name: str, shape: Sequence[int], dtype: np.dtype) -> None:
    """Refuses a shape that numpy cannot write down, as that of an array without elements may be.

    Raises:
        BadFileError: it has too many dimensions, or too long ones.
    """
    if len(shape) > _MOST_DIMENSIONS or math.prod(max(size, 1) for size in shape) * dtype.itemsize > _LARGEST:
        raise BadFileError(f"{name} has a shape of {len(shape)} dimensions that no array can have")


def from_bytes(data: np.ndarray, dtype: np.dtype, shape: Sequence[int]) -> np.ndarray:
    """Bytes as an array."""
    # A byte that is neither 0 nor 1 is no bool, and would do anything.
    return (data != 0 if dtype == np.bool_ else data.view(dtype)).reshape(shape)


def to_jax(name: str, array: np.ndarray, place: jax.sharding.Sharding | None = None) -> jax.Array:
    """An array of JAX, without a copy where that is possible; 64-bit values come in 32 bits if that is all JAX has now.

    Args:
        name: of the array, for the message.
        array: its values.
        place: where they are to lie; if None, where JAX puts new arrays.

    Raises:
        BadFileError: values do not fit into 32 bits.
    """
    target = held_dtype(array.dtype)
    if target == array.dtype:
        return jax.device_put(array, place)
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = array.astype(target)
    fits = narrow == array if jnp.issubdtype(target, jnp.integer) else np.isfinite(narrow) | ~np.isfinite(array)
    if not fits.all():
        raise BadFileError(
            f"{name} has {array.dtype} values that do not fit into {target}: "
            f'run JAX with 64 bits, jax.config.update("jax_enable_x64", True)'
        )
    return jax.device_put(narrow, place)


def as_numpy(value: Any) -> np.ndarray | str:
    """The array, or what is wrong with a value that is none that a file can hold."""
    if isinstance(value, Cell):
        value = value.get()
    if isinstance(value, Tracer) or not isinstance(value, (jax.Array, np.ndarray, np.generic)):
        return f"is no array but {type(value).__name__}"
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.extended):
        return f"has dtype {value.dtype}"
    return np.asarray(value)


def raw_bytes(array: np.ndarray) -> memoryview:
    """The values in C order, as they lie in a file: little-endian."""
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


class StoredArray(NamedTuple):
    """Where an array lies in a file."""

    file: File
    dtype: np.dtype
    shape: tuple[int, ...]
    begin: int
    size: int

    def read(self, name: str) -> jax.Array:
        with naming(self.file.path):
            data = self.file.array(self.begin, self.size, repr(name))
            return to_jax(repr(name), from_bytes(data, self.dtype, self.shape))
