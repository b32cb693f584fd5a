"""Weights in several files, as Hugging Face lays them out: an index in JSON says which file has which array."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from flambeau.io._file import BadFileError, File, Path, naming
from flambeau.io.tensors import Tensors

__all__ = ["INDEX", "in_folder", "index_of", "parts", "read_index", "size_in_bytes"]

# What is added to the name that a single file would have.
INDEX = ".index.json"

# What the libraries of Hugging Face call the weights in a folder, the preferred one first.
_NAMES = (
    "model.safetensors",
    "diffusion_pytorch_model.safetensors",
    "pytorch_model.bin",
    "diffusion_pytorch_model.bin",
)

_LONGEST_INDEX = 16 << 20
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def in_folder(folder: str) -> str:
    """The file of weights, or the index, of a folder."""
    for name in _NAMES:
        for each in (name, name + INDEX):
            if os.path.isfile(path := os.path.join(folder, each)):
                return path
    raise BadFileError(f"is a folder that has none of {', '.join(_NAMES)}, nor an index of them: name the file")


def read_index(path: Path, read: Callable[[str], Any]) -> Tensors:
    """The arrays of all the files that an index names, none of a safetensors file read yet.

    Args:
        path: of the index.
        read: gives the arrays of the file of a path.

    Raises:
        BadFileError: it is no index, it names a file outside of its folder, or an array that its file has not.
    """
    places = _weight_map(path)
    folder = os.path.dirname(os.path.abspath(path))
    files: dict[str, Mapping[str, Any]] = {}
    for file in dict.fromkeys(places.values()):
        with naming(shard := os.path.join(folder, file)):
            files[file] = read(shard)
            if not isinstance(files[file], Mapping):
                raise BadFileError("is no dict of arrays by name, as a part of a checkpoint is")
    missing = [f"{name!r} in {file!r}" for name, file in places.items() if name not in files[file]]
    if missing:
        raise BadFileError(f"names arrays that are not there: {', '.join(missing[:10])}")
    tensors = Tensors()
    for name, file in places.items():
        tensors.adopt(name, files[file])
    return tensors


def _weight_map(path: Path) -> dict[str, str]:
    file = File(path)
    if file.size > _LONGEST_INDEX:
        raise BadFileError(f"is an index of {file.size} bytes, which is more than {_LONGEST_INDEX >> 20} MiB")
    try:
        index = json.loads(file.content(0, file.size, "the index").decode())
    except (ValueError, RecursionError):
        raise BadFileError("is no index: it is not JSON") from None
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict):
        raise BadFileError("is no index: it has no weight_map")
    for name, shard in places.items():
        if not isinstance(shard, str) or not _is_plain(shard):
            raise BadFileError(f"names {str(shard)[:100]!r} as the file of {name[:100]!r}, which is no file beside it")
    return places


def _is_plain(name: str) -> bool:
    """Whether it is a name in the folder of the index, on any system, and not an index again."""
    return bool(re.fullmatch(r"[^/\\:\0\ud800-\udfff]+", name)) and name not in (".", "..") and not name.endswith(INDEX)


def size_in_bytes(size: int | str) -> int:
    """The number of bytes of `"5GB"`, `"200MiB"` or an int."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]I?B)", size.upper()) if isinstance(size, str) else None
    count = int(float(match[1]) * _UNITS[match[2]]) if match else size
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError(f"expected max_shard_size to be a number of bytes or a text such as '5GB', got {size!r}")
    return count


def parts(arrays: Mapping[str, np.ndarray], limit: int) -> Iterator[dict[str, np.ndarray]]:
    """The arrays in order, as many together as have at most `limit` bytes; a larger one is by itself."""
    part: dict[str, np.ndarray] = {}
    size = 0
    for name, array in arrays.items():
        if part and size + array.nbytes > limit:
            yield part
            part, size = {}, 0
        part[name] = array
        size += array.nbytes
    yield part


def index_of(files: Mapping[str, Mapping[str, np.ndarray]]) -> bytes:
    """The text of an index."""
    index = {
        "metadata": {"total_size": sum(array.nbytes for part in files.values() for array in part.values())},
        "weight_map": {name: file for file, part in files.items() for name in part},
    }
    return (json.dumps(index, indent=2, sort_keys=True) + "\n").encode()
