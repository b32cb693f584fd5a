"""The pickle in a file of PyTorch, written: dicts, lists and plain values, and arrays by reference."""

from __future__ import annotations

import math
import struct
from collections import Counter, OrderedDict
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from flambeau.core.cell import Cell
from flambeau.core.module import Module
from flambeau.io._arrays import as_numpy
from flambeau.io._torch_names import DTYPES, STORAGES

__all__ = ["Writer"]

_STORAGE_OF = {dtype: name for name, dtype in STORAGES.items()}
_DEEPEST = 100


class Writer:
    """Writes the pickle of one object, by protocol 2, and collects the arrays in it.

    `arrays` has them by the key of their storage; an array that is there twice has one. `errors` has what cannot be written.
    """

    def __init__(self) -> None:
        self.output = bytearray(b"\x80\x02")
        self.arrays: dict[str, np.ndarray] = {}
        self.errors: list[str] = []
        # By identity, with the object, so that it lives as long; views of numpy that are made here have no other owner.
        self._keys: dict[int, tuple[Any, str]] = {}

    def write(self, value: Any) -> bytes:
        """The whole pickle of `value`."""
        self._any(value, ())
        return bytes(self.output) + b"."

    def _any(self, value: Any, path: tuple[Any, ...]) -> None:
        if isinstance(value, Module):
            value = value.state_dict()
        if len(path) > _DEEPEST:
            self._wrong(path[:1], f"lies in itself, or in more than {_DEEPEST} others")
        elif isinstance(value, (Cell, jax.Array, np.ndarray, np.generic)):
            self._array(value, path)
        elif isinstance(value, Mapping):
            self._dict(value, path)
        elif isinstance(value, (list, tuple)):
            self._sequence(value, path)
        elif isinstance(value, (set, frozenset)):
            self._set(value, path)
        elif not self._plain(value):
            self._wrong(path, f"is {type(value).__name__}")

    def _wrong(self, path: tuple[Any, ...], reason: str) -> None:
        self.errors.append(f"{'.'.join(map(str, path)) or 'the object'} {reason}")

    # -- plain values ---------------------------------------------------------------------------------------------------

    def _plain(self, value: Any) -> bool:
        """Writes a number, a text, bytes or None; says whether it was one."""
        constants = {None: b"N", True: b"\x88", False: b"\x89"}
        if value is None or isinstance(value, bool):
            self.output += constants[value]
        elif isinstance(value, int) and value.bit_length() < 255 * 8:
            self._integer(value)
        elif isinstance(value, float):
            self.output += b"G" + struct.pack(">d", value)
        elif isinstance(value, str):
            self._text(value)
        elif isinstance(value, complex):
            self._call("__builtin__", "complex", value.real, value.imag)
        elif isinstance(value, (bytes, bytearray)):
            self._bytes(value)
        else:
            return False
        return True

    def _integer(self, value: int) -> None:
        if -(1 << 31) <= value < 1 << 31:
            self.output += b"J" + struct.pack("<i", value)
        else:
            size = value.bit_length() // 8 + 1
            self.output += b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)

    def _text(self, value: str) -> None:
        data = value.encode("utf-8", "surrogatepass")
        self.output += b"X" + struct.pack("<I", len(data)) + data

    def _bytes(self, value: bytes | bytearray) -> None:
        if isinstance(value, bytearray):
            self._name("__builtin__", "bytearray")
        self._call("_codecs", "encode", value.decode("latin1"), "latin1")
        if isinstance(value, bytearray):
            self.output += b"\x85R"

    def _name(self, module: str, name: str) -> None:
        self.output += f"c{module}\n{name}\n".encode()

    def _call(self, module: str, name: str, *arguments: Any) -> None:
        self._name(module, name)
        self.output += b"("
        for each in arguments:
            self._plain(each)
        self.output += b"tR"

    # -- containers -----------------------------------------------------------------------------------------------------

    def _dict(self, value: Mapping[Any, Any], path: tuple[Any, ...]) -> None:
        if isinstance(value, OrderedDict):
            self._call("collections", "OrderedDict")
        elif isinstance(value, Counter):
            self._call("collections", "Counter")
        else:
            self.output += b"}"
        self.output += b"("
        for key, each in value.items():
            self._key(key, path)
            self._any(each, (*path, key))
        self.output += b"u"
        metadata = getattr(value, "_metadata", None)
        if isinstance(value, OrderedDict) and metadata is not None:
            self._any({"_metadata": metadata}, path)
            self.output += b"b"

    def _key(self, key: Any, path: tuple[Any, ...]) -> None:
        if isinstance(key, tuple):
            self.output += b"("
            for each in key:
                self._key(each, path)
            self.output += b"t"
        elif not self._plain(key):
            self._wrong(path, f"has a {type(key).__name__} for a key, or in a set")

    def _sequence(self, value: list[Any] | tuple[Any, ...], path: tuple[Any, ...]) -> None:
        self.output += b"](" if isinstance(value, list) else b"("
        for i, each in enumerate(value):
            self._any(each, (*path, i))
        self.output += b"e" if isinstance(value, list) else b"t"

    def _set(self, value: set[Any] | frozenset[Any], path: tuple[Any, ...]) -> None:
        # torch.load has no frozenset on its list.
        self._name("__builtin__", "set")
        self.output += b"]("
        for each in value:
            self._key(each, path)
        self.output += b"e\x85R"

    # -- arrays ---------------------------------------------------------------------------------------------------------

    def _array(self, value: Any, path: tuple[Any, ...]) -> None:
        value = value.get() if isinstance(value, Cell) else value
        array = as_numpy(value)
        if isinstance(array, str):
            self._wrong(path, array)
        elif array.dtype.name not in DTYPES:
            self._wrong(path, f"has dtype {array.dtype}, which PyTorch has not")
        else:
            _, key = self._keys.setdefault(id(value), (value, str(len(self._keys))))
            self.arrays[key] = array
            self._tensor(key, array)

    def _tensor(self, key: str, array: np.ndarray) -> None:
        """A call that makes the tensor from a reference to its storage, its shape and its strides."""
        dtype = DTYPES[array.dtype.name]
        storage = _STORAGE_OF.get(dtype)
        self._name("torch._utils", "_rebuild_tensor_v2" if storage else "_rebuild_tensor_v3")
        self.output += b"(("
        self._text("storage")
        self._name("torch" if storage else "torch.storage", storage or "UntypedStorage")
        self._text(key)
        self._text("cpu")
        self._integer(array.size if storage else array.nbytes)
        self.output += b"tQ"
        self._integer(0)
        strides = [math.prod(max(size, 1) for size in array.shape[i + 1 :]) for i in range(array.ndim)]
        for numbers in (array.shape, strides):
            self.output += b"("
            for each in numbers:
                self._integer(each)
            self.output += b"t"
        self.output += b"\x89"  # requires no gradient
        self._call("collections", "OrderedDict")  # of hooks
        if not storage:
            self._name("torch", dtype.name)
        self.output += b"tR"
