"""The directory of a zip file as PyTorch writes them: entries that are stored as they are, one after the other."""

from __future__ import annotations

import struct
from typing import NamedTuple

from flambeau.io._file import Allowance, BadFileError, File

__all__ = ["Entry", "directory", "place"]

_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_LARGE_END = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")

_ENCRYPTED = 1
# What stands where the number is in the 64-bit extension.
_FULL = 0xFFFFFFFF
# What an entry takes in memory, roughly.
_COST = 500


class Entry(NamedTuple):
    """What the directory says about a file inside of the zip file."""

    name: str
    flags: int
    method: int
    checksum: int
    packed: int
    size: int
    position: int


def directory(file: File, allowance: Allowance) -> dict[str, Entry]:
    """The entries by name.

    Raises:
        BadFileError: it is no zip file, is cut short, or has two entries of one name.
    """
    count, size, begin = _where(file)
    if count > size // _ENTRY.size:
        raise BadFileError(f"its directory has no room for {count} entries: it is damaged")
    allowance.spend(size + _COST * count)
    data = file.content(begin, size, "the directory of the zip file")
    entries: dict[str, Entry] = {}
    at = 0
    for _ in range(count):
        entry, at = _entry(data, at)
        if entry.name in entries:
            raise BadFileError(f"has two entries called {entry.name[:100]!r}")
        entries[entry.name] = entry
    return entries


def place(file: File, entry: Entry) -> int:
    """Where the bytes of an entry begin.

    Raises:
        BadFileError: it is compressed, encrypted, or not inside of the file.
    """
    what = f"its entry {entry.name[:100]!r}"
    if entry.flags & _ENCRYPTED or entry.method or entry.packed != entry.size:
        raise BadFileError(f"{what} is compressed or encrypted, which PyTorch never does")
    mark, *_, name_length, extra_length = _unpack(_LOCAL, file, entry.position, what)
    if mark != b"PK\3\4":
        raise BadFileError(f"{what} is not where the directory says: it is damaged")
    begin = entry.position + _LOCAL.size + name_length + extra_length
    file.check(begin, entry.size, what)
    return begin


def _where(file: File) -> tuple[int, int, int]:
    """How many entries the directory has, how long it is, and where."""
    end = file.size - _END.size
    mark, *_, count, size, begin, comment = _unpack(_END, file, end, "the end of the zip file")
    if mark != b"PK\5\6" or comment:
        raise BadFileError("is a zip file without its end: it is cut short, or something was added to it")
    if _FULL in (size, begin) or count == 0xFFFF:
        mark, _, position, _ = _unpack(_LOCATOR, file, end - _LOCATOR.size, "the end of the zip file")
        if mark != b"PK\6\7":
            raise BadFileError("is a zip file without its end: it is damaged")
        mark, *_, count, size, begin = _unpack(_LARGE_END, file, position, "the end of the zip file")
        if mark != b"PK\6\6":
            raise BadFileError("is a zip file without its end: it is damaged")
    return count, size, begin


def _unpack(form: struct.Struct, file: File, begin: int, what: str) -> tuple:
    return form.unpack(file.content(begin, form.size, what))


def _entry(data: bytes, at: int) -> tuple[Entry, int]:
    if len(data) - at < _ENTRY.size:
        raise BadFileError("the directory of the zip file is cut short")
    mark, _, _, flags, method, _, _, checksum, packed, size, *rest = _ENTRY.unpack_from(data, at)
    name_length, extra_length, comment_length, *_, position = rest
    name_begin = at + _ENTRY.size
    extra_begin = name_begin + name_length
    after = extra_begin + extra_length + comment_length
    if mark != b"PK\1\2" or after > len(data):
        raise BadFileError("the directory of the zip file is damaged")
    name = data[name_begin:extra_begin].decode("utf-8", "replace")
    extra = data[extra_begin : extra_begin + extra_length]
    size, packed, position = _large(extra, [size, packed, position])
    return Entry(name, flags, method, checksum, packed, size, position), after


def _large(extra: bytes, numbers: list[int]) -> list[int]:
    """Replaces the numbers that do not fit into 32 bits by those of the extension, which come in this order."""
    if _FULL not in numbers:
        return numbers
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1 and at + 4 + length <= len(extra):
            large = iter(struct.unpack_from(f"<{length // 8}Q", extra, at + 4))
            numbers = [next(large, number) if number == _FULL else number for number in numbers]
            break
        at += 4 + length
    return numbers
