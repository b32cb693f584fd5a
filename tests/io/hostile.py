"""Files that mean harm, and how to see that they did none."""

from __future__ import annotations

import io
import struct
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager

MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
VERSION = b"\x80\x02M\xe9\x03."
SYSTEM = b"\x80\x02}X\x0d\x00\x00\x00little_endian\x88s."

# What no reading of a file has a reason to do.
_WATCHED = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "subprocess.",
    "socket.",
    "compile",
    "exec",
    "import",
)
_WATCHED += (
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.symlink",
    "os.link",
    "os.chmod",
    "pickle.find_class",
    "shutil.",
    "tempfile.",
)

_seen: list[str] | None = None


def _hook(event: str, arguments: tuple) -> None:
    if _seen is None:
        return
    if event.startswith(_WATCHED):
        _seen.append(f"{event}{arguments[:1]}")
    elif event == "open" and len(arguments) > 1 and arguments[1] not in ("r", "rb", None):
        _seen.append(f"open{arguments}")


sys.addaudithook(_hook)  # for good: Python cannot take a hook away


@contextmanager
def watched() -> Iterator[list[str]]:
    """A list that gets what the block imported, ran, executed, or opened for writing."""
    global _seen
    _seen = seen = []
    try:
        yield seen
    finally:
        _seen = None


def zipped(pickle: bytes, storages: dict[str, bytes] | None = None, **others: bytes) -> bytes:
    """A file as `torch.save` makes it, with the pickle that is given."""
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w") as archive:
        entries = {"data.pkl": pickle, **others, **{f"data/{key}": data for key, data in (storages or {}).items()}}
        for name, data in entries.items():
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), data)
    return output.getvalue()


def legacy(pickle: bytes, storages: dict[str, bytes] | None = None) -> bytes:
    """The same before version 1.6; storages are of bytes."""
    storages = storages or {}
    keys = b"\x80\x02]" + b"".join(text(key) + b"a" for key in storages) + b"."
    data = b"".join(struct.pack("<Q", len(data)) + data for data in storages.values())
    return MAGIC + VERSION + SYSTEM + pickle + keys + data


def text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def integer(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def integers(*values: int) -> bytes:
    return b"(" + b"".join(map(integer, values)) + b"t"


def storage(key: str = "0", count: int = 24, kind: str = "ByteStorage") -> bytes:
    return b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu") + integer(count) + b"tQ"


def tensor(
    shape: tuple[int, ...] = (24,), strides: tuple[int, ...] = (1,), offset: int = 0, source: bytes | None = None
) -> bytes:
    """The opcodes of a tensor."""
    arguments = (storage() if source is None else source) + integer(offset) + integers(*shape) + integers(*strides)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"\x89ccollections\nOrderedDict\n)RtR"


def pickled(*opcodes: bytes) -> bytes:
    return b"\x80\x02" + b"".join(opcodes) + b"."


DATA = {"0": bytes(range(24))}

# Opcodes that would call something, with the name that has to be in the error.
CALLS: dict[str, tuple[bytes, str]] = {
    "os.system": (b"cos\nsystem\n" + text("true") + b"\x85R", "os.system"),
    "posix.system": (b"cposix\nsystem\n" + text("true") + b"\x85R", "posix.system"),
    "eval": (b"c__builtin__\neval\n" + text("1/0") + b"\x85R", "builtins.eval"),
    "exec, protocol 4": (text("builtins") + text("exec") + b"\x93" + text("1/0") + b"\x85R", "builtins.exec"),
    "getattr": (b"c__builtin__\ngetattr\nctorch\nSize\n" + text("__class__") + b"\x86R", "builtins.getattr"),
    "a chain of attributes": (
        b"ccollections\nOrderedDict.__init__.__globals__\n)R",
        "OrderedDict.__init__.__globals__",
    ),
    "attributes, protocol 4": (text("torch") + text("Size.__reduce__") + b"\x93)R", "torch.Size.__reduce__"),
    "a pickle in a pickle": (b"ctorch.storage\n_load_from_bytes\nC\x02N.\x85R", "torch.storage._load_from_bytes"),
    "import": (b"cimportlib\nimport_module\n" + text("antigravity") + b"\x85R", "importlib.import_module"),
    "a method of a module": (b"ctorch.nn.modules.linear\nLinear\n)\x81", "torch.nn.modules.linear.Linear"),
    "subprocess": (b"csubprocess\nPopen\n" + text("true") + b"\x85R", "subprocess.Popen"),
    "numpy.load": (b"cnumpy\nload\n" + text("/etc/passwd") + b"\x85R", "numpy.load"),
    "INST": (b"(" + text("true") + b"ios\nsystem\n", "INST"),
    "OBJ": (b"(cos\nsystem\n" + text("true") + b"o", "os.system"),
    "NEWOBJ": (b"ccollections\nOrderedDict\n)\x81", "NEWOBJ"),
    "NEWOBJ_EX": (b"ccollections\nOrderedDict\n)}\x92", "NEWOBJ_EX"),
    "EXT1": (b"\x82\x01", "EXT1"),
    "a text that is called": (text("os.system") + b")R", "calls a str"),
    "a tensor that is called": (tensor() + b")R", "calls a TensorView"),
    "the class of a tensor": (b"ctorch\nTensor\n)R", "calling its class"),
    "a class for a function": (
        b"ctorch._tensor\n_rebuild_from_type_v2\n(ccollections\nOrderedDict\nctorch\nTensor\n)NtR",
        "makes no tensors",
    ),
    "attributes of a dict": (
        b"ccollections\nOrderedDict\n)R}" + text("items") + b"Nsb",
        "sets attributes of a OrderedDict",
    ),
    "attributes of a list": (b"]}b", "sets attributes of a list"),
    "metadata that is none": (b"ccollections\nOrderedDict\n)R}" + text("_metadata") + b"Nsb", "metadata of a state"),
    "other bytes than latin1": (b"c_codecs\nencode\n" + text("a") + text("rot13") + b"\x86R", "no text in latin1"),
    "a bytearray by its length": (
        b"c__builtin__\nbytearray\n" + integer(1 << 40) + b"\x85R",
        "bytearray is made from a int",
    ),
}

# Files of other kinds of harm, with what the error has to say.
HARM: dict[str, tuple[bytes, str]] = {
    "a storage behind the file": (zipped(pickled(tensor()), {"0": bytes(23)}), "has 23 bytes in the place of 24"),
    "a storage that is not there": (zipped(pickled(tensor())), "no entry for its storage '0'"),
    "a storage of another folder": (
        zipped(pickled(tensor(source=storage("../../etc/passwd"))), DATA),
        "no entry for its storage",
    ),
    "a huge tensor": (zipped(pickled(tensor((1 << 60,))), DATA), "ends behind its storage"),
    "a huge shape": (zipped(pickled(tensor((1 << 62, 1 << 62), (0, 0))), DATA), "more memory"),
    "a shape of huge numbers": (zipped(pickled(tensor((1 << 2000,) * 30, (1 << 2000,) * 30)), DATA), "ends behind"),
    "an empty tensor of a huge shape": (
        zipped(pickled(tensor((0, 1 << 62, 1 << 62), (1, 1, 1))), DATA),
        "no array can have",
    ),
    "a negative stride": (zipped(pickled(tensor((3,), (-1,), 5)), DATA), "are no counts"),
    "a negative offset": (zipped(pickled(tensor((3,), (1,), -1)), DATA), "are no counts"),
    "a negative size": (zipped(pickled(tensor((-3,))), DATA), "are no counts"),
    "a hundred dimensions": (
        zipped(pickled(tensor((1,) * 100, (1,) * 100)), DATA),
        "100 dimensions that no array can have",
    ),
    "strides that are too few": (zipped(pickled(tensor((3, 2))), DATA), "are no counts"),
    "an offset behind the storage": (
        zipped(pickled(tensor((1,), (1,), 24)), DATA),
        "ends behind its storage of 24 bytes",
    ),
    "a huge storage": (
        zipped(pickled(tensor(source=storage(count=1 << 62))), DATA),
        "in the place of 4611686018427387904",
    ),
    "many copies": (
        zipped(pickled(b"]", *(tensor((1 << 24,), (0,), i) + b"a" for i in range(24))), DATA),
        "more memory",
    ),
    "a list in itself": (zipped(pickled(b"]q\x00h\x00a")), "lies in itself"),
    "a dict in itself": (zipped(pickled(b"}q\x00", text("a"), b"h\x00s")), "lies in itself"),
    "a tuple in its list": (zipped(pickled(b"]q\x00h\x00\x85a")), "lies in itself"),
    "metadata in itself": (
        zipped(
            pickled(
                b"ccollections\nOrderedDict\n)Rq\x00}", text("_metadata"), b"}", text(""), b"}", text("a"), b"h\x00sssb"
            )
        ),
        "lies in itself",
    ),
    "deep lists": (zipped(pickled(b"]" * 100_000 + b"a" * 99_999)), "in more than 100 others"),
    "deep tuples": (zipped(pickled(b")" + b"\x85" * 100_000)), "in more than 100 others"),
    "keys that hash for ever": (zipped(pickled(b"})q\x00", b"h\x00\x86q\x00" * 60, b"Ns")), "tuple for a key"),
    "a set that grows": (
        zipped(
            pickled(
                b"](",
                *(integer(i) for i in range(5000)),
                b"eq\x00",
                b"c__builtin__\nset\nq\x01",
                b"h\x01h\x00\x85R" * 5000,
            )
        ),
        "more memory",
    ),
    "many small dicts": (zipped(pickled(b"](" + b"}" * 1_000_000 + b"e")), "more memory"),
    "a text behind the end": (zipped(b"\x80\x02X\xff\xff\xff\xffabc."), "cut short"),
    "bytes behind the end": (zipped(b"\x80\x04\x8e" + b"\xff" * 8 + b"abc."), "cut short"),
    "no end": (zipped(b"\x80\x02]"), "cut short"),
    "an endless name": (zipped(b"\x80\x02c" + b"a" * 5000), "more than 1,000 letters"),
    "an empty pickle": (zipped(b""), "cut short"),
    "an empty stack": (zipped(pickled()), "empty stack"),
    "a mark that is not set": (zipped(pickled(b"t")), "a mark that it has not set"),
    "below a mark": (zipped(pickled(b"]N(a")), "empty stack"),
    "an unknown memo": (zipped(pickled(b"h\x07")), "has not kept, number 7"),
    "an unknown protocol": (zipped(b"\x80\x63N."), "of protocol 99"),
    "an unknown opcode": (zipped(b"\x80\x02\xff."), "where an opcode belongs"),
    "a list for a dict": (zipped(pickled(b"]", text("a"), b"Ns")), "puts entries into a list"),
    "a dict for a list": (zipped(pickled(b"}Na")), "appends to a dict"),
    "a list for a set": (zipped(pickled(b"](N\x90")), "adds to a list"),
    "half an entry": (zipped(pickled(b"}(Nu")), "key without a value"),
    "a key that cannot be one": (zipped(pickled(b"}]Ns")), "a list for a key"),
    "a bare class": (zipped(pickled(b"ctorch\nFloatStorage\n")), "the class of a storage"),
    "a bare function": (zipped(pickled(b"c__builtin__\nset\n")), "the function or class builtins.set"),
    "arguments that do not fit": (zipped(pickled(b"ctorch._utils\n_rebuild_tensor_v2\n)R")), "that it does not take"),
    "no arguments": (zipped(pickled(b"ctorch\nSize\n]R")), "with a list of arguments"),
    "another persistent id": (zipped(pickled(text("a") + b"Q")), "no storage"),
    "a module as persistent id": (zipped(pickled(b"(" + text("module") + b"NNNNtQ")), "no storage"),
    "a dtype as a persistent id": (zipped(pickled(b"(ctorch\nfloat32\nNNNNtQ")), "no storage"),
    "a size of no counts": (zipped(pickled(b"ctorch\nSize\n(Nt\x85R")), "what are no counts"),
    "no pickle": (zipped(b"N.").replace(b"data.pkl", b"data.pk_"), "no data.pkl"),
    "a compressed pickle": (b"", "compressed or encrypted"),
    "an encrypted pickle": (b"", "compressed or encrypted"),
    "two pickles": (b"", "two entries"),
    "a legacy pickle that calls": (legacy(pickled(CALLS["os.system"][0])), "os.system"),
    "a legacy storage behind the file": (legacy(pickled(tensor()), {"0": bytes(24)})[:-1], "damaged or cut short"),
    "a legacy storage that is shorter": (
        legacy(pickled(tensor()), {"0": bytes(23)}),
        "has 23 bytes in the place of 24",
    ),
    "a legacy storage that is not there": (legacy(pickled(tensor())), "has no values for its storage '0'"),
    "legacy keys that nobody wants": (legacy(pickled(b"N"), {"0": b""}), "no list of its storages"),
    "another magic number": (b"\x80\x02K\x01." + VERSION, "none that torch.save wrote"),
    "another version": (MAGIC + b"\x80\x02K\x01.", "another version"),
    "a magic number that calls": (pickled(CALLS["os.system"][0]), "os.system"),
    "an old tar file": (bytes(257) + b"ustar" + bytes(300), "before version 0.1.10"),
}


def _odd_zips() -> None:
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + b"0" * 10_000_000)
    HARM["a compressed pickle"] = (output.getvalue(), HARM["a compressed pickle"][1])
    plain = bytearray(zipped(b"N."))
    plain[plain.index(b"PK\1\2") + 8] |= 1
    HARM["an encrypted pickle"] = (bytes(plain), HARM["an encrypted pickle"][1])
    twice = zipped(b"N.", version=b"N.", versiom=b"N.").replace(b"versiom", b"version")
    HARM["two pickles"] = (twice, HARM["two pickles"][1])


_odd_zips()
