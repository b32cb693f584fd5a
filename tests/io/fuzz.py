"""Damaged and hostile files without number, each from its own seed, and what must hold when one is loaded."""

from __future__ import annotations

import io
import json
import pickletools
import random
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from flambeau._errors import CheckpointError
from flambeau.io import Tensors, _pickle, load, save
from flambeau.io._file import ALLOWED_BEYOND
from tests.io.hostile import CALLS, DATA, HARM, integer, legacy, pickled, storage, tensor, text, watched, zipped

# Long enough for every tensor of those pickles.
STORAGES = {str(i): bytes(range(96)) for i in range(30)}

GOLDEN = Path(__file__).parent / "golden"

SECONDS = 5.0
MEMORY = ALLOWED_BEYOND + (32 << 20)

EXTREMES = [0, 1, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 32, (1 << 63) - 1, (1 << 64) - 1]


class Fuzzer:
    """Makes a file from a number, always the same one, and loads it.

    Args:
        folder: an empty one, to work in.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.whole = _whole_files(folder)
        for path in (folder / "part", folder / "whole.pt"):
            dict(load(path))  # what JAX imports when it is first used is nothing that a file does
        self.harm = [content for content, _ in HARM.values() if len(content) < 20_000]
        self.pickles = _pickles(self.whole) * 4 + _pickles(self.harm)
        self.pickles += [pickled(opcodes) for opcodes, _ in CALLS.values()]
        self.kinds: list[Callable[[random.Random], bytes]] = [
            self.damaged,
            self.damaged,
            self.damaged_pickle,
            self.edited_pickle,
            self.edited_pickle,
            self.opcodes,
            self.header,
            self.index,
        ]

    def check(self, number: int) -> bool:
        """Whether the file is read; fails if it is neither read nor refused as it has to be."""
        rng = random.Random(number)
        make = rng.choice(self.kinds)
        path = self.folder / ("a.index.json" if make == self.index else "a.pt")
        content = make(rng)
        path.write_bytes(content)
        return harmless(path, len(content), mmap=rng.random() < 0.3)

    def damaged(self, rng: random.Random) -> bytes:
        """A whole file with some bytes changed, cut out, doubled or taken from another."""
        return damaged(
            rng, rng.choice(rng.choice([self.whole, self.whole, self.harm])), rng.choice(self.whole + self.harm)
        )

    def damaged_pickle(self, rng: random.Random) -> bytes:
        """A damaged pickle with everything around it as it should be."""
        return self._around(rng, damaged(rng, rng.choice(self.pickles), rng.choice(self.pickles)))

    def edited_pickle(self, rng: random.Random) -> bytes:
        """The same, damaged by whole opcodes."""
        return self._around(rng, edited(rng, rng.choice(self.pickles)))

    def _around(self, rng: random.Random, pickle: bytes) -> bytes:
        return rng.choice([zipped, legacy])(
            pickle, {key: data for key, data in STORAGES.items() if text(key) in pickle}
        )

    def opcodes(self, rng: random.Random) -> bytes:
        """A pickle of pieces that make sense, one after the other without any."""
        pieces = [rng.choice(PIECES) for _ in range(rng.randint(1, 40))]
        return rng.choice([zipped, legacy])(pickled(*pieces), DATA)

    def header(self, rng: random.Random) -> bytes:
        """A safetensors file whose header is JSON, with anything in it."""
        entries: dict[str, Any] = {
            rng.choice(["a", "b", "", "../a", "__metadata__", "é"]): _entry(rng) for _ in range(rng.randint(0, 4))
        }
        data = json.dumps(entries).encode()
        length = len(data) if rng.random() < 0.8 else rng.choice(EXTREMES)
        content = (length % (1 << 64)).to_bytes(8, "little") + data + bytes(rng.choice([0, 8, 24, 32]))
        return content if rng.random() < 0.7 else damaged(rng, content, content)

    def index(self, rng: random.Random) -> bytes:
        """An index of files, of which only `part` is there."""
        names = [
            "part",
            "../a",
            "/etc/passwd",
            "a.index.json",
            ".",
            "..",
            "part\0",
            "\ud800",
            "a/../part",
            "C:part",
            "",
            3,
            None,
        ]
        places = {
            rng.choice(["a", "b", "c"]): rng.choice(["part", rng.choice(names)]) for _ in range(rng.randint(0, 3))
        }
        index = rng.choice([{"weight_map": places}, {"weight_map": places}, {"weight_map": [places]}, places, [], 3])
        content = json.dumps(index).encode()
        return content if rng.random() < 0.7 else damaged(rng, content, content)


def harmless(path: Path, size: int, mmap: bool = False) -> bool:
    """Loads a file of `size` bytes, and fails if that calls anything, takes too much, or ends in another error."""
    tracemalloc.start()
    start = time.process_time()
    seen: list[str] = []
    try:
        with watched() as seen:
            loaded = load(path, mmap=mmap)
            if isinstance(loaded, Tensors):
                dict(loaded)
            read = True
    except CheckpointError as error:
        assert len(str(error)) < 5000, "the error is too long"
        read = False
    finally:
        seconds, (_, peak) = time.process_time() - start, tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert not seen, seen
    assert seconds < SECONDS, f"it takes {seconds} s"
    assert peak < size + MEMORY, f"it takes {peak >> 20} MiB"
    return read


def damaged(rng: random.Random, content: bytes, other: bytes) -> bytes:
    """`content` after one to three accidents."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        rng.choice(_ACCIDENTS)(rng, data, other)
    return bytes(data)


def edited(rng: random.Random, pickle: bytes) -> bytes:
    """A pickle with one to three of its opcodes taken out, doubled, swapped, moved, or replaced by others."""
    starts = [position for _, _, position in pickletools.genops(pickle)] + [len(pickle)]
    codes = [pickle[begin:end] for begin, end in zip(starts, starts[1:])]
    for _ in range(rng.choice([1, 1, 2, 3])):
        i, j = rng.randrange(len(codes)), rng.randrange(len(codes))
        match rng.randrange(6):
            case 0:
                codes[i] = b""
            case 1:
                codes[i] = codes[j]
            case 2:
                codes[i], codes[j] = codes[j], codes[i]
            case 3:
                codes[i] += rng.choice(PIECES)
            case 4:
                codes[i] = integer(rng.choice([*EXTREMES, -1, 1 << 1000]))
            case _:
                codes[i] *= rng.choice([2, 100])
    return b"".join(codes)


def _somewhere(rng: random.Random, data: bytes | bytearray) -> int:
    return rng.randint(0, len(data))


def _flip(rng: random.Random, data: bytearray, other: bytes) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _overwrite(rng: random.Random, data: bytearray, other: bytes) -> None:
    width = rng.choice([1, 2, 4, 8])
    at = _somewhere(rng, data)
    number = rng.choice([*EXTREMES, len(data)]) % (1 << 8 * width)
    data[at : at + width] = number.to_bytes(width, "little")


def _cut(rng: random.Random, data: bytearray, other: bytes) -> None:
    del data[_somewhere(rng, data) :]


def _take_out(rng: random.Random, data: bytearray, other: bytes) -> None:
    at = _somewhere(rng, data)
    del data[at : at + rng.randint(1, 20)]


def _double(rng: random.Random, data: bytearray, other: bytes) -> None:
    at = _somewhere(rng, data)
    data[at:at] = data[at : at + rng.randint(1, 60)] * rng.choice([1, 1, 2, 50])


def _splice(rng: random.Random, data: bytearray, other: bytes) -> None:
    data[_somewhere(rng, data) :] = other[_somewhere(rng, other) :]


def _insert(rng: random.Random, data: bytearray, other: bytes) -> None:
    at = _somewhere(rng, data)
    data[at:at] = rng.choice(PIECES)


_ACCIDENTS = [_flip, _flip, _overwrite, _overwrite, _cut, _take_out, _double, _splice, _insert]

PIECES = [
    *(
        code
        for code in [*_pickle.INTERPRETED, *_pickle.REFUSED]
        if code not in (b"X", b"T", b"B", b"\x8d", b"\x8e", b"\x96")
    ),
    *[b"(", b")", b"]", b"}", b"t", b"R", b"q\x00", b"q\x01", b"h\x00", b"h\x01", b"a", b"s", b"b", b"Q", b"e", b"u"]
    * 3,
    *(opcodes for opcodes, _ in CALLS.values()),
    *map(text, ("a", "storage", "0", "cpu", "latin1", "_metadata", "os", "system")),
    *map(integer, (-1, 0, 1, 24, 1 << 31, 1 << 63, 1 << 1000)),
    *[tensor(), tensor((2, 3), (12, 2), 1), tensor((1 << 40,), (0,)), storage(), storage(kind="FloatStorage", count=6)]
    * 2,
    *(f"c{name}\n".encode() for name in ("torch._utils\n_rebuild_tensor_v2", "torch._utils\n_rebuild_tensor_v3")),
    *(f"c{name}\n".encode() for name in ("torch._utils\n_rebuild_parameter", "torch._tensor\n_rebuild_from_type_v2")),
    *(
        f"c{name}\n".encode()
        for name in ("collections\nOrderedDict", "collections\nCounter", "torch\nfloat32", "torch\nSize")
    ),
    *(
        f"c{name}\n".encode()
        for name in ("__builtin__\nset", "__builtin__\nbytearray", "_codecs\nencode", "torch\ndevice")
    ),
]


def _entry(rng: random.Random) -> Any:
    begin = rng.choice([0, 0, 8, 24, -1, 1 << 63])
    entry = {
        "dtype": rng.choice(["F32", "F32", "I64", "BOOL", "BF16", "F8_E4M3", "F4", "F33", "", 3, None]),
        "shape": rng.choice([[2], [6], [], [0], [2, 3], [1 << 62, 4], [-1], [1 << 64], [[2]], "6", None]),
        "data_offsets": rng.choice(
            [[begin, begin + 8], [begin, begin + 24], [begin, 1 << 62], [8, 0], [0], None, "08"]
        ),
    }
    return rng.choice([entry, entry, entry, entry, {"a": "b"}, [], 3, [[[[]]]]])


def _whole_files(folder: Path) -> list[bytes]:
    """Files to begin with; one of them is in the folder as the `part` of an index."""
    state = {"a": jnp.arange(6.0).reshape(2, 3), "b": np.ones(5, bool), "c": jnp.ones((), jnp.bfloat16)}
    save(state, folder / "part", metadata={"by": "us"})
    save({"model": state, "epoch": 3, "more": [1.5, "x", b"y", {1, 2}]}, folder / "whole.pt")
    content = [(folder / "part").read_bytes(), (folder / "whole.pt").read_bytes()]
    return content + [path.read_bytes() for path in sorted(GOLDEN.iterdir())]


def _pickles(files: list[bytes]) -> list[bytes]:
    """What lies in those files that are zip files."""
    pickles = []
    for content in files:
        if content.startswith(b"PK") and zipfile.is_zipfile(io.BytesIO(content)):
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                pickles += [
                    archive.read(name) for name in archive.namelist()[:1] if not archive.getinfo(name).flag_bits & 1
                ]
    return [pickle for pickle in pickles if len(pickle) < 10_000 and _is_regular(pickle)]


def _is_regular(pickle: bytes) -> bool:
    """Whether it can be taken apart."""
    try:
        return bool(list(pickletools.genops(pickle)))
    except ValueError:
        return False
