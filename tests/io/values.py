"""Values of every dtype, and what makes two arrays the same."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

# PyTorch's dtypes that JAX has, by the name that both have.
DTYPES: dict[str, np.dtype] = {
    name: np.dtype(getattr(jnp, name))
    for name in """float64 float32 float16 bfloat16 float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu
    int64 int32 int16 int8 uint64 uint32 uint16 uint8 bool_ complex128 complex64""".split()
}
DTYPES["bool"] = DTYPES.pop("bool_")

# Ways to look at a matrix of at least two rows and columns, written so that numpy and torch understand them.
LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "plain": lambda x: x,
    "rows": lambda x: x[1:],
    "transposed": lambda x: x.T,
    "column": lambda x: x[:, 1],
    "corner": lambda x: x[1:, 1:],
    "steps": lambda x: x[::2, ::2],
    "scalar": lambda x: x[1, 1],
    "empty": lambda x: x[:0],
    "empty columns": lambda x: x[:, 2:2],
    "added axes": lambda x: x[None, :, None, 1],
}


def numbers(dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Some values of any dtype, all different where that is possible."""
    return np.asarray(np.arange(math.prod(shape)).reshape(shape) % 100, dtype)


def same(a: Any, b: Any) -> bool:
    """Whether two arrays are the same to the bit."""
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def tensor_of(torch: Any, array: np.ndarray) -> Any:
    """A tensor with the bytes of an array, which numpy may have no dtype for."""
    name = "bool" if array.dtype == bool else array.dtype.name
    data = np.ascontiguousarray(array)
    flat = torch.from_numpy(np.frombuffer(data.tobytes(), np.uint8).copy())
    return flat.view(getattr(torch, name)).reshape(array.shape) if array.size else empty(torch, name, array.shape)


def empty(torch: Any, name: str, shape: tuple[int, ...]) -> Any:
    return torch.empty(shape, dtype=getattr(torch, name))


def array_of(torch: Any, tensor: Any) -> np.ndarray:
    """An array with the bytes of a tensor."""
    name = str(tensor.dtype).removeprefix("torch.")
    data = tensor.contiguous().reshape(-1).view(torch.uint8) if tensor.numel() else torch.empty(0, dtype=torch.uint8)
    return data.numpy().view(DTYPES[name]).reshape(tuple(tensor.shape))
