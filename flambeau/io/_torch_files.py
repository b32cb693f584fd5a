"""Files that `torch.save` wrote, read without torch: zip files, and the ones that it wrote before version 1.6."""

from __future__ import annotations

import zlib
from typing import Any

from flambeau.io._assembly import Assembly
from flambeau.io._file import Allowance, BadFileError, File
from flambeau.io._pickle import Stream, unpickle
from flambeau.io._torch_names import Storage, find, storage_of
from flambeau.io._zip import Entry, directory, place

__all__ = ["read_torch_legacy", "read_torch_zip"]

# -- zip files ------------------------------------------------------------------------------------------------------------


def read_torch_zip(file: File) -> Any:
    """What was given to `torch.save`, with arrays for tensors.

    Raises:
        BadFileError: it is no such file, is damaged, or wants something else than tensors and plain data.
    """
    allowance = Allowance(file.size)
    entries = directory(file, allowance)
    root = next((name.removesuffix("data.pkl") for name in entries if name.endswith("/data.pkl")), None)
    if root is None and any(name.endswith("/archive_format") for name in entries):
        raise BadFileError("is a program of torch.export: in PyTorch, save torch.export.load(path).state_dict")
    if root is None:
        raise BadFileError("is a zip file, but none that torch.save wrote: it has no data.pkl")
    if f"{root}constants.pkl" in entries:
        raise BadFileError("is a program of TorchScript: in PyTorch, save torch.jit.load(path).state_dict()")
    order = _content(file, entries[f"{root}byteorder"]) if f"{root}byteorder" in entries else b"little"
    if order != b"little":
        raise BadFileError("was written on a big-endian machine, which is not read here")
    pickle = entries[f"{root}data.pkl"]
    begin = place(file, pickle)
    # The checksums of tensors are left alone: comparing them would take longer than reading.
    if zlib.crc32(file.content(begin, pickle.size, pickle.name)) != pickle.checksum:
        raise BadFileError(f"its entry {pickle.name!r} is damaged: it has not the checksum that the directory says")
    described = unpickle(Stream(file, begin, begin + pickle.size), find, storage_of, allowance)

    def locate(storage: Storage) -> int:
        entry = entries.get(f"{root}data/{storage.key}")
        if entry is None:
            raise BadFileError(f"has no entry for its storage {storage.key[:100]!r}")
        if storage.size > entry.size:
            raise BadFileError(f"its entry {entry.name[:100]!r} has {entry.size} bytes in the place of {storage.size}")
        return place(file, entry)

    return Assembly(file, locate, allowance).build(described)


def _content(file: File, entry: Entry) -> bytes:
    return file.content(place(file, entry), min(entry.size, 100), entry.name)


# -- legacy files -----------------------------------------------------------------------------------------------------------

_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001


def read_torch_legacy(file: File) -> Any:
    """The same, of a file without a zip file around it: pickles, and the storages behind them, each with its length.

    Raises:
        BadFileError: as in `read_torch_zip`.
    """
    allowance = Allowance(file.size)
    stream = Stream(file, 0, file.size)
    if unpickle(stream, find, _no_storage, allowance) != _MAGIC:
        raise BadFileError("is a pickle, but none that torch.save wrote")
    if unpickle(stream, find, _no_storage, allowance) != _VERSION:
        raise BadFileError(f"is of another version of PyTorch's format than {_VERSION}")
    system = unpickle(stream, find, _no_storage, allowance)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise BadFileError("was written on a big-endian machine, which is not read here")
    widths: dict[str, int] = {}

    def persistent(reference: Any) -> Storage:
        storage = storage_of(reference)
        widths.setdefault(storage.key, storage.dtype.itemsize)
        return storage

    described = unpickle(stream, find, persistent, allowance)
    keys = unpickle(stream, find, _no_storage, allowance)
    places = _places(file, stream.position, keys, widths)

    def locate(storage: Storage) -> int:
        if storage.key not in places:
            raise BadFileError(f"has no values for its storage {storage.key[:100]!r}")
        begin, size = places[storage.key]
        if storage.offset * storage.dtype.itemsize + storage.size > size:
            raise BadFileError(f"its storage {storage.key[:100]!r} has {size} bytes in the place of {storage.size}")
        return begin

    return Assembly(file, locate, allowance).build(described)


def _no_storage(reference: Any) -> Any:
    raise BadFileError("refers to a storage where there is none")


def _places(file: File, begin: int, keys: Any, widths: dict[str, int]) -> dict[str, tuple[int, int]]:
    """Where each storage begins, and how many bytes it has; it stands behind the number of its elements."""
    if not isinstance(keys, list) or not all(type(key) is str and key in widths for key in keys):
        raise BadFileError("has no list of its storages")
    places: dict[str, tuple[int, int]] = {}
    for key in keys:
        count = int.from_bytes(file.content(begin, 8, "the length of a storage"), "little")
        size = count * widths[key]
        file.check(begin + 8, size, f"its storage {key[:100]!r}")
        places[key] = begin + 8, size
        begin += 8 + size
    return places
