"""Weights in safetensors files: written whole or not at all, and read back as arrays of JAX."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from jax.core import Tracer
from safetensors import SafetensorError, safe_open

from flambeau._errors import CheckpointError
from flambeau.core.cell import Cell
from flambeau.core.module import Module

__all__ = ["load", "save"]

Path = str | os.PathLike[str]

# The format's names of dtypes that take whole bytes; it has some smaller ones too.
_DTYPES: dict[str, np.dtype] = {
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

_STORABLE = {dtype.name for dtype in _DTYPES.values()}


def save(state_dict: Module | Mapping[str, Any], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Writes arrays by name into a safetensors file, which takes the place of one that is there only when it is complete.

    Args:
        state_dict: what `net.state_dict()` gives, or the module itself. Tied parameters are written under each of their names.
        path: of the file, with any suffix; its folder has to exist.
        metadata: texts to keep in the file's header.

    Raises:
        CheckpointError: something in it is no array, or has a dtype that the format does not have (the message lists all), or
            the file cannot be written.

    Example:
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> net, twin = nn.Linear(2, 3), nn.Linear(2, 3)
        >>> fb.save(net, "linear.safetensors")
        >>> twin.load_state_dict(fb.load("linear.safetensors"))
        <All keys matched successfully>
        >>> bool((twin.weight == net.weight).all())
        True

    Source: https://huggingface.co/docs/safetensors
    """
    state = state_dict.state_dict() if isinstance(state_dict, Module) else state_dict
    arrays = _to_numpy(state)
    try:
        with _replacing(os.path.realpath(path)) as temporary:
            safetensors.numpy.save_file(arrays, temporary, None if metadata is None else dict(metadata))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{os.fspath(path)} cannot be written: {_reason(error)}") from error


def load(path: Path) -> dict[str, jax.Array]:
    """Reads a safetensors file, whoever wrote it.

    While JAX runs without x64, 64-bit values come in 32 bits.

    Args:
        path: of the file.

    Returns:
        Arrays by name, for `net.load_state_dict`.

    Raises:
        CheckpointError: there is no such file, it is no whole safetensors file, has a dtype of less than a byte, or 64-bit values
            that do not fit into 32.

    Source: https://huggingface.co/docs/safetensors
    """
    try:
        with open(path, "rb") as file:
            # This checks the header, and that the data is all there; what it would read itself lacks the 8-bit floats.
            with safe_open(path, framework="numpy"):
                pass
            return dict(_read(file))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{os.fspath(path)} cannot be read as safetensors: {_reason(error)}") from error
    except _UnfitError as error:
        raise CheckpointError(f"{os.fspath(path)}: {error}") from None


# -- writing ------------------------------------------------------------------------------------------------------------


def _to_numpy(state: Mapping[str, Any]) -> dict[str, np.ndarray]:
    if not isinstance(state, Mapping):
        raise TypeError(f"expected a module or a dict of arrays by name, got {type(state).__name__}")
    arrays: dict[str, np.ndarray] = {}
    errors: list[str] = []
    for name, value in state.items():
        if isinstance(value, Cell):
            value = value.get()
        if not isinstance(name, str) or name == "__metadata__":
            errors.append(f"{name!r} cannot be the name of an array")
        elif isinstance(value, Tracer) or not isinstance(value, (jax.Array, np.ndarray, np.generic)):
            errors.append(f"{name!r} is no array but {type(value).__name__}")
        elif value.dtype.name not in _STORABLE:
            errors.append(f"{name!r} has dtype {value.dtype}")
        else:
            arrays[name] = np.asarray(value, order="C")
    if errors:
        raise CheckpointError("a safetensors file holds arrays of its own dtypes only:\n\t" + "\n\t".join(errors))
    return arrays


@contextlib.contextmanager
def _replacing(path: str) -> Iterator[str]:
    """The name of a new file that takes the place of `path` when the body is done, and goes away when it fails."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise OSError(None, "there is something else of that name than a file")
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise OSError(None, f"there is no folder {folder}")
    temporary = os.path.join(folder, f".{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            mode = os.fstat(file.fileno()).st_mode  # what the umask makes of a new file: safetensors makes private ones
        yield temporary
        os.chmod(temporary, stat.S_IMODE(mode))
        _sync(temporary, os.O_RDWR)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    if os.name == "posix":
        _sync(folder, os.O_RDONLY)  # so that the new name outlives a crash too


def _sync(path: str, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# -- reading ------------------------------------------------------------------------------------------------------------


class _UnfitError(Exception):
    """An array that JAX cannot hold."""


def _read(file: BinaryIO) -> Iterator[tuple[str, jax.Array]]:
    size = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    for name, entry in header.items():
        dtype = _DTYPES.get(entry["dtype"])
        if dtype is None:
            raise _UnfitError(f"{name!r} has dtype {entry['dtype']}, of less than a byte, which is not read here")
        begin, end = entry["data_offsets"]
        file.seek(8 + size + begin)
        data = np.fromfile(file, np.uint8, end - begin)
        array = data.astype(bool) if dtype == np.bool_ else data.view(dtype)
        yield name, _to_jax(name, array.reshape(entry["shape"]))


def _to_jax(name: str, array: np.ndarray) -> jax.Array:
    target = jax.dtypes.canonicalize_dtype(array.dtype)
    if target == array.dtype:
        return jnp.asarray(array)
    with np.errstate(over="ignore"):
        narrow = array.astype(target)
    fits = np.isfinite(narrow) | ~np.isfinite(array) if jnp.issubdtype(target, jnp.floating) else narrow == array
    if not fits.all():
        raise _UnfitError(
            f"{name!r} has {array.dtype} values that do not fit into {target}: "
            f'run JAX with 64 bits, jax.config.update("jax_enable_x64", True)'
        )
    return jnp.asarray(narrow)


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)
