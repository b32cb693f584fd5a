"""Safetensors files: a header in JSON, and the values behind it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from flambeau._errors import CheckpointError
from flambeau.io._arrays import StoredArray, as_numpy, check_shape, raw_bytes
from flambeau.io._file import BadFileError, File
from flambeau.io.tensors import Tensors

__all__ = ["DTYPES", "checked_arrays", "read_safetensors", "write_safetensors"]

# The format's names of dtypes that take whole bytes; it has some smaller ones too.
DTYPES: dict[str, np.dtype] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "U16": np.dtype(np.uint16),
    "U32": np.dtype(np.uint32),
    "U64": np.dtype(np.uint64),
    "I8": np.dtype(np.int8),
    "I16": np.dtype(np.int16),
    "I32": np.dtype(np.int32),
    "I64": np.dtype(np.int64),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "C64": np.dtype(np.complex64),
    "BF16": np.dtype(jnp.bfloat16),
    "F8_E4M3": np.dtype(jnp.float8_e4m3fn),
    "F8_E4M3FNUZ": np.dtype(jnp.float8_e4m3fnuz),
    "F8_E5M2": np.dtype(jnp.float8_e5m2),
    "F8_E5M2FNUZ": np.dtype(jnp.float8_e5m2fnuz),
    "F8_E8M0": np.dtype(jnp.float8_e8m0fnu),
}
_NAMES = {dtype.name: name for name, dtype in DTYPES.items()}

# A header becomes a dozen times as large in memory; this is enough for 150,000 arrays.
_LONGEST_HEADER = 16 << 20

# What the header's length is a multiple of, so that arrays of so many bytes can be mapped without a copy.
_ALIGNMENT = 64

# -- reading ------------------------------------------------------------------------------------------------------------


def read_safetensors(file: File) -> Tensors:
    """The arrays of a safetensors file, none of them read yet.

    Raises:
        BadFileError: it is none, or not whole.
    """
    length = int.from_bytes(file.content(0, 8, "the length of the header"), "little")
    if length > _LONGEST_HEADER:
        raise BadFileError(f"cannot be read as safetensors: its header would be {length} bytes long")
    try:
        # This checks the header, and that the data is all there; what it would read itself lacks the 8-bit floats.
        with safe_open(file.path, framework="numpy"):
            pass
    except SafetensorError as error:
        raise BadFileError(f"cannot be read as safetensors: {error}") from None
    header = json.loads(file.content(8, length, "the header").decode())
    metadata = header.pop("__metadata__", None) or {}
    return Tensors({name: _entry(file, name, entry, 8 + length) for name, entry in header.items()}, metadata)


def _entry(file: File, name: str, entry: dict[str, Any], start: int) -> StoredArray:
    dtype = DTYPES.get(entry["dtype"])
    if dtype is None:
        raise BadFileError(f"{name!r} has dtype {entry['dtype']}, of less than a byte, which is not read here")
    shape = tuple(entry["shape"])
    begin, end = entry["data_offsets"]
    if math.prod(shape) * dtype.itemsize != end - begin:
        raise BadFileError(f"{name!r} has {end - begin} bytes, which is not what {dtype}{list(shape)} takes")
    check_shape(repr(name), shape, dtype)
    file.check(start + begin, end - begin, repr(name))
    return StoredArray(file, dtype, shape, start + begin, end - begin)


# -- writing ------------------------------------------------------------------------------------------------------------


def checked_arrays(state: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of a state dict.

    Raises:
        CheckpointError: some of it is none, or of a dtype that the format does not have; the message lists all.
    """
    arrays: dict[str, np.ndarray] = {}
    errors: list[str] = []
    for name, value in state.items():
        array = as_numpy(value)
        if not _is_name(name):
            errors.append(f"{name!r} cannot be the name of an array")
        elif isinstance(array, str):
            errors.append(f"{name!r} {array}")
        elif array.dtype.name not in _NAMES:
            errors.append(f"{name!r} has dtype {array.dtype}")
        else:
            arrays[name] = array
    if errors:
        raise CheckpointError("a safetensors file holds arrays of its own dtypes only:\n\t" + "\n\t".join(errors))
    return arrays


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and name != "__metadata__" and not any("\ud800" <= each <= "\udfff" for each in name)


def write_safetensors(file: BinaryIO, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None) -> None:
    """Writes what `checked_arrays` gave, one array after the other."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": _texts(metadata)}
    begin, order = 0, sorted(arrays, key=lambda name: _place(name, arrays[name]))
    for name in order:
        array, end = arrays[name], begin + arrays[name].nbytes
        header[name] = {"dtype": _NAMES[array.dtype.name], "shape": list(array.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in order:
        file.write(raw_bytes(arrays[name]))


def _place(name: str, array: np.ndarray) -> tuple[bool, int, str]:
    """The format knows no gaps: first the arrays that leave the next one aligned, then by width, so that all fit theirs."""
    return array.nbytes % _ALIGNMENT != 0, -array.dtype.itemsize, name


def _texts(metadata: Mapping[str, str]) -> dict[str, str]:
    wrong = [
        f"{key!r}: {value!r}"
        for key, value in metadata.items()
        if not (isinstance(key, str) and isinstance(value, str))
    ]
    if wrong:
        raise CheckpointError(f"expected metadata to be texts by name, got {', '.join(wrong)}")
    return dict(metadata)
