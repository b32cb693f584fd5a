"""From what a pickle of PyTorch describes to what the user gets: the same dicts and lists, with arrays in them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from flambeau.io._arrays import check_shape, from_bytes, to_jax
from flambeau.io._file import Allowance, BadFileError, File
from flambeau.io._pickle import Callee
from flambeau.io._torch_names import Storage, StorageType, TensorView

__all__ = ["Assembly"]

# How deep dicts and lists may lie in each other.
_DEEPEST = 100

# Dtypes by their width, since numpy can stride over its own ones only.
_CARRIERS: dict[int, Any] = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64, 16: np.complex128}


class Assembly:
    """Makes the arrays of one file. Tensors that show the same values of the same storage become one array.

    Args:
        file: that has the values.
        locate: gives where in the file a storage begins, or raises.
        allowance: what may be allocated.
    """

    def __init__(self, file: File, locate: Callable[[Storage], int], allowance: Allowance) -> None:
        self._file = file
        self._locate = locate
        self._spend = allowance.spend
        self._arrays: dict[TensorView, jax.Array] = {}
        # By identity, with what they were made from, so that no other object gets the same one meanwhile.
        self._made: dict[int, tuple[Any, Any]] = {}
        self._open: set[int] = set()

    def build(self, value: Any, path: tuple[Any, ...] = ()) -> Any:
        """`value` with arrays in the place of tensors; lists and dicts stay the same objects."""
        if isinstance(value, TensorView):
            return self._array(value, path)
        if isinstance(value, (Callee, StorageType, Storage)):
            raise BadFileError(f"{_name(path)} is {_noun(value)}, and neither a tensor nor plain data")
        if not isinstance(value, (list, dict, tuple)):
            return value
        if id(value) not in self._made:
            if id(value) in self._open or len(path) >= _DEEPEST:
                raise BadFileError(f"{_name(path)} lies in itself, or in more than {_DEEPEST} others")
            self._open.add(id(value))
            self._made[id(value)] = value, self._container(value, path)
            self._open.discard(id(value))
        return self._made[id(value)][1]

    def _container(self, value: Any, path: tuple[Any, ...]) -> Any:
        if isinstance(value, tuple):
            return tuple(self.build(each, (*path, i)) for i, each in enumerate(value))
        for key in value if isinstance(value, dict) else range(len(value)):
            value[key] = self.build(value[key], (*path, key))
        if isinstance(value, OrderedDict) and hasattr(value, "_metadata"):
            self.build(vars(value)["_metadata"], (*path, "_metadata"))
        return value

    def _array(self, view: TensorView, path: tuple[Any, ...]) -> jax.Array:
        if view not in self._arrays:
            self._arrays[view] = to_jax(_name(path), self._values(view, _name(path)))
        return self._arrays[view]

    def _values(self, view: TensorView, name: str) -> np.ndarray:
        itemsize = view.dtype.itemsize
        self._spend(view.count * itemsize)
        check_shape(name, view.shape, view.dtype)
        if not view.count:
            return np.empty(view.shape, view.dtype)
        start = view.storage.offset * view.storage.dtype.itemsize + view.offset * itemsize
        begin = self._locate(view.storage) + start
        if view.contiguous:
            data = self._file.array(begin, view.count * itemsize, name)
            return from_bytes(data, view.dtype, view.shape)
        # What lies between the elements is never read: a column of a large matrix costs no more than its own size.
        span = self._file.view(begin, view.span * itemsize, name).view(_CARRIERS[itemsize])
        strides = [stride * itemsize for stride in view.strides]
        elements = np.array(np.lib.stride_tricks.as_strided(span, view.shape, strides), order="C")
        return from_bytes(elements.reshape(-1).view(np.uint8), view.dtype, view.shape)


def _name(path: tuple[Any, ...]) -> str:
    keys = [repr(key) if len(str(key)) <= 100 else f"{str(key)[:100]!r}…" for key in path]
    return "".join(f"[{key}]" for key in keys) if len(keys) > 1 else (keys or ["the whole"])[0]


def _noun(value: Callee | StorageType | Storage) -> str:
    if isinstance(value, Callee):
        return f"the function or class {value.name}"
    return "a bare storage" if isinstance(value, Storage) else "the class of a storage"
