"""A file that is read: ranges of its bytes, none of them longer than the file, and what reading it may allocate."""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
import weakref
from collections.abc import Iterator

import numpy as np

from flambeau._errors import CheckpointError

__all__ = ["ALLOWED_BEYOND", "Allowance", "BadFileError", "File", "Path", "naming"]

Path = str | os.PathLike[str]

# Reading a file may allocate its size and this, whatever the file claims.
ALLOWED_BEYOND = 128 << 20

# XLA takes memory that lies so as it is, without a copy.
ALIGNMENT = 64


class BadFileError(Exception):
    """A file is not what it should be; `naming` says which."""


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turns what can go wrong with a file into an error that names it."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{os.fspath(path)} cannot be read: {error.strerror or error}") from error
    except BadFileError as error:
        raise CheckpointError(f"{os.fspath(path)}: {error}") from None


class Allowance:
    """How many bytes may still be allocated for a file."""

    def __init__(self, size: int) -> None:
        self.left = size + ALLOWED_BEYOND

    def spend(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise BadFileError(
                f"holds what would take more memory than the file's size and {ALLOWED_BEYOND >> 20} MiB: it is damaged, or "
                "its tensors are views that overlap each other many times (in PyTorch, save a clone() of each)"
            )


class File:
    """An open file, closed when nothing refers to it any more.

    Args:
        path: of the file.
        mapped: whether ranges are views of the mapped file rather than read. That needs no memory and takes no time until the
            bytes are used; a file that somebody changes then changes the arrays, and cutting it short kills the process.
    """

    def __init__(self, path: Path, mapped: bool = False) -> None:
        self.path = path
        self.mapped = mapped
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - it stays open as long as this object
        weakref.finalize(self, self._file.close)
        self._lock = threading.Lock()
        self._opened = self._state()
        self.size = self._opened[0]
        self._map: np.ndarray | None = None

    def _state(self) -> tuple[int, int]:
        status = os.fstat(self._file.fileno())
        return status.st_size, status.st_mtime_ns

    def check(self, begin: int, count: int, what: str) -> None:
        """Refuses a range that is not inside of the file, or of another file than the one that was opened."""
        if self._state() != self._opened:
            raise BadFileError("somebody has changed the file since it was opened")
        if begin < 0 or count < 0 or begin + count > self.size:
            raise BadFileError(f"{what} would end at byte {begin + count} of {self.size}: it is damaged or cut short")

    def read(self, begin: int, count: int, what: str) -> np.ndarray:
        """Bytes of the file in memory of their own, laid so that XLA can take them without a copy."""
        self.check(begin, count, what)
        memory = np.empty(count + ALIGNMENT, np.uint8)
        shift = -memory.ctypes.data % ALIGNMENT
        data = memory[shift : shift + count]
        view, done = data.data, 0
        with self._lock:
            self._file.seek(begin)
            while done < count:
                got = self._file.readinto(view[done:])
                if not got:
                    break
                done += got
        if done < count:
            raise BadFileError(f"{what} ends too early: somebody has changed the file while it was read")
        return data

    def content(self, begin: int, count: int, what: str) -> bytes:
        """Bytes of the file that are no array's."""
        self.check(begin, count, what)
        parts, left = [], count
        with self._lock:
            self._file.seek(begin)
            while left and (part := self._file.read(left)):
                parts.append(part)
                left -= len(part)
        if left:
            raise BadFileError(f"{what} ends too early: somebody has changed the file while it was read")
        return b"".join(parts)

    def view(self, begin: int, count: int, what: str) -> np.ndarray:
        """Bytes of the mapped file, which are read when they are used."""
        self.check(begin, count, what)
        if self._map is None:
            # An empty file cannot be mapped, and has no other bytes than none.
            mapped = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ) if self.size else b""
            self._map = np.frombuffer(mapped, np.uint8)
        return self._map[begin : begin + count]

    def array(self, begin: int, count: int, what: str) -> np.ndarray:
        """Bytes for an array: of the mapped file, or read."""
        return self.view(begin, count, what) if self.mapped else self.read(begin, count, what)
