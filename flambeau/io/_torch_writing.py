"""Files of PyTorch, written without torch: a zip file of the pickle and the values of each storage."""

from __future__ import annotations

import zipfile
from typing import Any, BinaryIO

import numpy as np

from flambeau._errors import CheckpointError
from flambeau.core.cell import Cell
from flambeau.io._arrays import as_numpy, raw_bytes
from flambeau.io._torch_pickle import Writer

__all__ = ["write_torch"]

# Where values begin, so that the file can be mapped: a multiple of this, as in PyTorch's own files.
_ALIGNMENT = 64
_LOCAL_HEADER = 30
# By far less than what fits into 32 bits; the header is longer where sizes are written in 64.
_LARGE = 1 << 30
_LARGE_EXTENSION = 20


def write_torch(file: BinaryIO, value: Any) -> None:
    """Writes what `torch.load(weights_only=True)` reads.

    Raises:
        CheckpointError: it holds what PyTorch would not read; the message lists all.
    """
    writer = _Writer()
    pickle = writer.write(value)
    if writer.errors:
        raise CheckpointError(
            "a file of PyTorch holds arrays, and dicts, lists and plain values of Python:\n\t"
            + "\n\t".join(writer.errors)
        )
    with zipfile.ZipFile(file, "w") as archive:
        _put(archive, file, "data.pkl", pickle)
        _put(archive, file, "byteorder", b"little")
        for key, array in writer.arrays.items():
            _put(archive, file, f"data/{key}", raw_bytes(array))
        _put(archive, file, "version", b"3\n")


class _Writer(Writer):
    """Writes scalars as PyTorch's optimizers need them, which count in place."""

    def _array(self, value: Any, path: tuple[Any, ...]) -> None:
        array = None if isinstance(value, Cell) or value.ndim else as_numpy(value)
        if not isinstance(array, np.ndarray):
            super()._array(value, path)
        elif path[-3:-2] == ("state",) and path[-1] == "step" and array.dtype.kind in "iu":
            # That of one parameter in an optimizer's state. PyTorch steps many at once only where it is a float.
            super()._array(array.astype(np.float32), path)
        else:
            # A copy, so that it has a storage of its own: one that many parameters share would be counted up for each.
            super()._array(array.copy(), path)


def _put(archive: zipfile.ZipFile, file: BinaryIO, name: str, data: bytes | memoryview) -> None:
    entry = zipfile.ZipInfo(f"archive/{name}")  # of 1980, so that equal states give equal files
    entry.file_size = len(data)
    large = len(data) > _LARGE
    begin = file.tell() + _LOCAL_HEADER + len(entry.filename) + 4 + (_LARGE_EXTENSION if large else 0)
    padding = -begin % _ALIGNMENT
    entry.extra = b"FB" + padding.to_bytes(2, "little") + bytes(padding)
    with archive.open(entry, "w", force_zip64=large) as stream:
        stream.write(data)
