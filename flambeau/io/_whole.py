"""Files that are written whole or not at all, several of them together."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from typing import BinaryIO

__all__ = ["Batch", "whole"]


class Batch:
    """New files of a folder, each under a name that nobody knows until all are complete."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._temporary: dict[str, str] = {}

    @contextlib.contextmanager
    def new(self, name: str) -> Iterator[BinaryIO]:
        """A file to write, which will take the place of the one called `name`."""
        target = os.path.join(self._folder, name)
        if os.path.exists(target) and not os.path.isfile(target):
            raise OSError(None, "there is something else of that name than a file")
        self._temporary[target] = temporary = os.path.join(self._folder, f".{secrets.token_hex(8)}.tmp")
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())

    def commit(self, before: str | None = None, after: str | None = None) -> None:
        """Gives all of them their names, in the order in which they were made.

        Args:
            before: a file to remove first, since it would call new and old files one whole.
            after: a file to remove in the end, since the new ones take its place.
        """
        self._remove(before)
        for target, temporary in self._temporary.items():
            os.replace(temporary, target)
        self._remove(after)
        if os.name == "posix":
            self._sync()  # so that the new names outlive a crash too

    def discard(self) -> None:
        for temporary in self._temporary.values():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)

    def _remove(self, name: str | None) -> None:
        if name is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self._folder, name))

    def _sync(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def whole(folder: str) -> Iterator[Batch]:
    """New files of `folder`; what is not committed when the body ends, or fails, goes away."""
    if not os.path.isdir(folder):
        raise OSError(None, f"there is no folder {folder}")
    batch = Batch(folder)
    try:
        yield batch
    finally:
        batch.discard()
