"""An interpreter of pickles that can build plain data and nothing else.

A pickle is a program: it may import anything and call it. This one knows the opcodes that build numbers, texts, lists,
dicts, sets and tuples; what they may name and call is what the caller's `find` gives for it. Nothing is imported, no
attribute is read or set, and Python's own unpickler is not used. What it allocates is charged before it is made.
"""

from __future__ import annotations

import struct
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

from flambeau.io._file import Allowance, BadFileError, File

__all__ = ["Callee", "Machine", "Stream", "unpickle"]

_CHUNK = 1 << 16

# What things take in memory, roughly.
_ANY, _CONTAINER, _NOTE = 32, 200, 100


class Stream:
    """The bytes from `begin` to `end` of a file, one after the other."""

    def __init__(self, file: File, begin: int, end: int) -> None:
        file.check(begin, end - begin, "the pickle")
        self._file = file
        self._end = end
        self._next = begin  # of what is not in the chunk yet
        self._chunk = b""
        self._at = 0

    @property
    def position(self) -> int:
        """Where in the file the next byte is."""
        return self._next - len(self._chunk) + self._at

    def take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._chunk):
            self._fill(count)
            end = count
        taken = self._chunk[self._at : end]
        self._at = end
        return taken

    def _fill(self, count: int) -> None:
        begin = self.position
        if count > self._end - begin:
            raise BadFileError("the pickle is cut short")
        size = min(max(count, _CHUNK), self._end - begin)
        self._chunk = self._file.content(begin, size, "the pickle")
        self._next, self._at = begin + size, 0

    def line(self) -> bytes:
        line = bytearray()
        while (byte := self.take(1)) != b"\n":
            line += byte
            if len(line) > 1000:
                raise BadFileError("the pickle has a name of more than 1,000 letters")
        return bytes(line)


class Callee(NamedTuple):
    """What a pickle may call: its name, and what is done instead."""

    name: str
    call: Callable[..., Any]


class Machine:
    """The state of a pickle that is being read.

    Args:
        stream: the bytes.
        find: gives what stands for a module and a name, a `Callee` or a value, or raises.
        persistent: gives what stands for a persistent id, or raises.
        allowance: what may be allocated.
    """

    def __init__(
        self,
        stream: Stream,
        find: Callable[[str, str], Any],
        persistent: Callable[[Any], Any],
        allowance: Allowance,
    ) -> None:
        self.stream = stream
        self.find = find
        self.persistent = persistent
        self.spend = allowance.spend
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        while True:
            code = self.stream.take(1)
            if code == STOP:
                return self.pop()
            step = INTERPRETED.get(code)
            if step is None:
                raise BadFileError(_refusal(code))
            self.spend(_ANY)
            step(self)

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise BadFileError("the pickle takes from an empty stack")
        return self.stack.pop()

    def pop_mark(self) -> list[Any]:
        if not self.marks:
            raise BadFileError("the pickle takes up to a mark that it has not set")
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def top(self) -> Any:
        self.stack.append(top := self.pop())
        return top

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def text(self, count: int) -> str:
        data = self.stream.take(count)
        self.spend(4 * count)
        return decoded(data)

    def data(self, count: int) -> bytes:
        data = self.stream.take(count)
        self.spend(count)
        return data

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.stream.take(struct.calcsize(form)))[0]

    def remember(self, index: int) -> None:
        self.spend(_NOTE)
        self.memo[index] = self.top()

    def recall(self, index: int) -> None:
        if index not in self.memo:
            raise BadFileError(f"the pickle recalls what it has not kept, number {index}")
        self.push(self.memo[index])


def unpickle(
    stream: Stream, find: Callable[[str, str], Any], persistent: Callable[[Any], Any], allowance: Allowance
) -> Any:
    """The data that one pickle describes; the stream stands behind it afterwards."""
    return Machine(stream, find, persistent, allowance).run()


def decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        raise BadFileError("the pickle has a text that is not UTF-8") from None


def hashable(value: Any) -> Any:
    """`value`, if it may be a key: hashing tuples of tuples of tuples could take for ever."""
    atoms = (str, bytes, int, float, complex, type(None))
    inside = value if type(value) is tuple else (value,)
    if not all(isinstance(each, atoms) for each in inside):
        raise BadFileError(f"the pickle has a {type(value).__name__} for a key, or in a set")
    return value


# -- opcodes ------------------------------------------------------------------------------------------------------------

STOP = b"."
INTERPRETED: dict[bytes, Callable[[Machine], None]] = {}


def _opcode(code: bytes) -> Callable[[Callable[[Machine], None]], Callable[[Machine], None]]:
    def put(step: Callable[[Machine], None]) -> Callable[[Machine], None]:
        INTERPRETED[code] = step
        return step

    return put


def _constant(code: bytes, value: Any) -> None:
    INTERPRETED[code] = lambda machine: machine.push(value)


def _number(code: bytes, form: str) -> None:
    INTERPRETED[code] = lambda machine: machine.push(machine.number(form))


def _text(code: bytes, form: str) -> None:
    INTERPRETED[code] = lambda machine: machine.push(machine.text(machine.number(form)))


def _data(code: bytes, form: str, kind: Callable[[bytes], Any] = bytes) -> None:
    INTERPRETED[code] = lambda machine: machine.push(kind(machine.data(machine.number(form))))


def _empty(code: bytes, kind: Callable[[], Any]) -> None:
    def step(machine: Machine) -> None:
        machine.spend(_CONTAINER)
        machine.push(kind())

    INTERPRETED[code] = step


def _tuple(code: bytes, length: int) -> None:
    def step(machine: Machine) -> None:
        machine.spend(_ANY)
        machine.push(tuple([machine.pop() for _ in range(length)][::-1]))

    INTERPRETED[code] = step


_constant(b"N", None)
_constant(b"\x88", True)
_constant(b"\x89", False)
_constant(b")", ())
_number(b"J", "<i")  # BININT
_number(b"K", "<B")
_number(b"M", "<H")
_number(b"G", ">d")  # BINFLOAT
_text(b"X", "<I")  # BINUNICODE
_text(b"\x8c", "<B")
_text(b"\x8d", "<Q")
_text(b"T", "<I")  # BINSTRING, Python 2's str: texts in the files of PyTorch
_text(b"U", "<B")
_data(b"B", "<I")  # BINBYTES
_data(b"C", "<B")
_data(b"\x8e", "<Q")
_data(b"\x96", "<Q", bytearray)
_empty(b"]", list)
_empty(b"}", dict)
_empty(b"\x8f", set)
_tuple(b"\x85", 1)
_tuple(b"\x86", 2)
_tuple(b"\x87", 3)


@_opcode(b"\x80")
def _protocol(machine: Machine) -> None:
    if (version := machine.number("<B")) > 5:
        raise BadFileError(f"the pickle is of protocol {version}; 5 is the last one that is known")


@_opcode(b"\x95")
def _frame(machine: Machine) -> None:
    machine.number("<Q")  # how much to read ahead: a hint


@_opcode(b"\x8a")
def _long(machine: Machine) -> None:
    machine.push(int.from_bytes(machine.data(machine.number("<B")), "little", signed=True))


@_opcode(b"(")
def _mark(machine: Machine) -> None:
    machine.marks.append(len(machine.stack))


@_opcode(b"t")
def _tuple_of_mark(machine: Machine) -> None:
    items = machine.pop_mark()
    machine.spend(_ANY + 8 * len(items))
    machine.push(tuple(items))


@_opcode(b"\x91")
def _frozenset_of_mark(machine: Machine) -> None:
    machine.spend(_CONTAINER)
    machine.push(frozenset(map(hashable, machine.pop_mark())))


def _list(machine: Machine) -> list[Any]:
    if type(target := machine.top()) is not list:
        raise BadFileError(f"the pickle appends to a {type(target).__name__}")
    return target


@_opcode(b"a")
def _append(machine: Machine) -> None:
    value = machine.pop()
    _list(machine).append(value)


@_opcode(b"e")
def _extend(machine: Machine) -> None:
    items = machine.pop_mark()
    _list(machine).extend(items)


@_opcode(b"\x90")
def _add(machine: Machine) -> None:
    items = machine.pop_mark()
    if type(target := machine.top()) is not set:
        raise BadFileError(f"the pickle adds to a {type(target).__name__}")
    target.update(map(hashable, items))


def _put(machine: Machine, items: list[Any]) -> None:
    if type(target := machine.top()) not in (dict, OrderedDict, Counter):
        raise BadFileError(f"the pickle puts entries into a {type(target).__name__}")
    if len(items) % 2:
        raise BadFileError("the pickle puts a key without a value into a dict")
    for key, value in zip(items[::2], items[1::2], strict=True):
        target[hashable(key)] = value


@_opcode(b"s")
def _set_item(machine: Machine) -> None:
    value = machine.pop()
    _put(machine, [machine.pop(), value])


@_opcode(b"u")
def _set_items(machine: Machine) -> None:
    _put(machine, machine.pop_mark())


@_opcode(b"q")
def _remember_short(machine: Machine) -> None:
    machine.remember(machine.number("<B"))


@_opcode(b"r")
def _remember_long(machine: Machine) -> None:
    machine.remember(machine.number("<I"))


@_opcode(b"\x94")
def _memoize(machine: Machine) -> None:
    machine.remember(len(machine.memo))


@_opcode(b"h")
def _recall_short(machine: Machine) -> None:
    machine.recall(machine.number("<B"))


@_opcode(b"j")
def _recall_long(machine: Machine) -> None:
    machine.recall(machine.number("<I"))


@_opcode(b"c")
def _global(machine: Machine) -> None:
    module, name = decoded(machine.stream.line()), decoded(machine.stream.line())
    machine.push(machine.find(module, name))


@_opcode(b"\x93")
def _stack_global(machine: Machine) -> None:
    name, module = machine.pop(), machine.pop()
    if type(name) is not str or type(module) is not str:
        raise BadFileError("the pickle names something by what is no text")
    machine.push(machine.find(module, name))


@_opcode(b"R")
def _reduce(machine: Machine) -> None:
    arguments, callee = machine.pop(), machine.pop()
    if not isinstance(callee, Callee):
        raise BadFileError(f"the pickle calls a {type(callee).__name__}")
    if type(arguments) is not tuple:
        raise BadFileError(f"the pickle calls {callee.name} with a {type(arguments).__name__} of arguments")
    # A pickle that calls with one long list again and again copies it each time.
    machine.spend(_CONTAINER + sum(map(_cost_of_copy, arguments)))
    try:
        machine.push(callee.call(*arguments))
    except TypeError:
        raise BadFileError(
            f"the pickle calls {callee.name} with {len(arguments)} arguments that it does not take"
        ) from None


def _cost_of_copy(value: Any) -> int:
    if isinstance(value, (list, tuple, dict)):
        return 4 * _ANY * len(value)
    return 2 * len(value) if isinstance(value, (str, bytes)) else 0


@_opcode(b"b")
def _build(machine: Machine) -> None:
    """Sets attributes. The only ones are the versions of modules that PyTorch keeps on a state dict."""
    state, target = machine.pop(), machine.top()
    if type(target) is not OrderedDict or type(state) is not dict or set(state) != {"_metadata"}:
        raise BadFileError(f"the pickle sets attributes of a {type(target).__name__}")
    metadata = state["_metadata"]
    if not isinstance(metadata, dict) or not all(isinstance(each, dict) for each in metadata.values()):
        raise BadFileError(f"the pickle has a {type(metadata).__name__} for the metadata of a state dict")
    target.__dict__["_metadata"] = metadata


@_opcode(b"Q")
def _persistent(machine: Machine) -> None:
    machine.push(machine.persistent(machine.pop()))


_TEXTUAL = "belongs to protocol 0, which PyTorch does not write"
_CLASSES = "makes objects of classes"
_REGISTERED = "names what only the program that wrote it knows"
_UNUSED = "is nothing that a checkpoint needs"

REFUSED: dict[bytes, tuple[str, str]] = {
    b"I": ("INT", _TEXTUAL),
    b"L": ("LONG", _TEXTUAL),
    b"S": ("STRING", _TEXTUAL),
    b"V": ("UNICODE", _TEXTUAL),
    b"F": ("FLOAT", _TEXTUAL),
    b"l": ("LIST", _TEXTUAL),
    b"d": ("DICT", _TEXTUAL),
    b"g": ("GET", _TEXTUAL),
    b"p": ("PUT", _TEXTUAL),
    b"P": ("PERSID", _TEXTUAL),
    b"\x8b": ("LONG4", "is an integer of more than 255 bytes"),
    b"i": ("INST", _CLASSES),
    b"o": ("OBJ", _CLASSES),
    b"\x81": ("NEWOBJ", _CLASSES),
    b"\x92": ("NEWOBJ_EX", _CLASSES),
    b"\x82": ("EXT1", _REGISTERED),
    b"\x83": ("EXT2", _REGISTERED),
    b"\x84": ("EXT4", _REGISTERED),
    b"\x97": ("NEXT_BUFFER", _UNUSED),
    b"\x98": ("READONLY_BUFFER", _UNUSED),
    b"0": ("POP", _UNUSED),
    b"1": ("POP_MARK", _UNUSED),
    b"2": ("DUP", _UNUSED),
}


def _refusal(code: bytes) -> str:
    if code not in REFUSED:
        return f"the pickle has {code!r} where an opcode belongs: it is damaged"
    name, reason = REFUSED[code]
    return f"the pickle has the opcode {name}, which {reason}"
