"""What a file of PyTorch may name, and what stands for it here: tensors and plain data, described and not yet made."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from flambeau.io._file import BadFileError
from flambeau.io._pickle import Callee, hashable

__all__ = ["DTYPES", "STORAGES", "Storage", "StorageType", "TensorView", "find", "storage_of"]

# PyTorch's name of the storage class of a dtype; the newer dtypes have none, and lie in an UntypedStorage.
STORAGES: dict[str, np.dtype] = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(jnp.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
    "ComplexDoubleStorage": np.dtype(np.complex128),
    "ComplexFloatStorage": np.dtype(np.complex64),
}
_UNTYPED = np.dtype(np.uint8)

# The dtypes by PyTorch's names, which are those of numpy and ml_dtypes.
DTYPES: dict[str, np.dtype] = {
    dtype.name: dtype
    for dtype in [
        *STORAGES.values(),
        *map(np.dtype, (np.uint16, np.uint32, np.uint64)),
        *map(np.dtype, (jnp.float8_e4m3fn, jnp.float8_e4m3fnuz)),
        *map(np.dtype, (jnp.float8_e5m2, jnp.float8_e5m2fnuz, jnp.float8_e8m0fnu)),
    ]
}


@dataclass(frozen=True)
class StorageType:
    """The class of a storage."""

    dtype: np.dtype


@dataclass(frozen=True)
class Storage:
    """A run of values of a file: `count` of them, from the one with number `offset`."""

    key: str
    dtype: np.dtype
    count: int
    offset: int = 0

    @property
    def size(self) -> int:
        """In bytes."""
        return self.count * self.dtype.itemsize


@dataclass(frozen=True)
class TensorView:
    """A tensor before it is made: what of a storage it shows. Two of them are equal if they show the same."""

    storage: Storage
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def span(self) -> int:
        """How many elements lie between its first and its last one, both counted."""
        steps = sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        return steps + 1 if self.count else 0

    @property
    def contiguous(self) -> bool:
        expected = 1
        for size, stride in zip(self.shape[::-1], self.strides[::-1], strict=True):
            if size != 1 and stride != expected:
                return not self.count
            expected *= size
        return True


# -- what a pickle may call -----------------------------------------------------------------------------------------------


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _are_counts(values: Any) -> bool:
    return isinstance(values, tuple) and all(map(_is_count, values))


def _view(storage: Any, dtype: np.dtype, offset: Any, shape: Any, strides: Any) -> TensorView:
    if not isinstance(storage, Storage):
        raise BadFileError(f"a tensor lies in a {type(storage).__name__}, which is no storage")
    if not (_is_count(offset) and _are_counts(shape) and _are_counts(strides) and len(shape) == len(strides)):
        raise BadFileError("a tensor has a shape, strides or an offset that are no counts")
    view = TensorView(storage, dtype, offset, shape, strides)
    if view.count and (offset + view.span) * dtype.itemsize > storage.size:
        raise BadFileError(f"a tensor of shape {_short(shape)} ends behind its storage of {storage.size} bytes")
    return view


def _tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, requires_grad: Any = None, hooks: Any = None, marks: Any = None
) -> TensorView:
    """Whether it requires a gradient, and hooks, are left out: what is read is an array."""
    return _tensor_of_dtype(
        storage, offset, shape, strides, requires_grad, hooks, getattr(storage, "dtype", _UNTYPED), marks
    )


def _tensor_of_dtype(
    storage: Any, offset: Any, shape: Any, strides: Any, requires_grad: Any, hooks: Any, dtype: Any, marks: Any = None
) -> TensorView:
    if not isinstance(dtype, np.dtype):
        raise BadFileError(f"a tensor has a {type(dtype).__name__} for its dtype")
    if marks:
        raise BadFileError(
            "a tensor is conjugated or negated when it is used: save tensor.resolve_conj().resolve_neg()"
        )
    return _view(storage, dtype, offset, shape, strides)


def _parameter(data: Any, *_: Any) -> TensorView:
    if not isinstance(data, TensorView):
        raise BadFileError(f"a parameter is made from a {type(data).__name__}")
    return data


_REBUILD = "torch._utils._rebuild_"
_TENSORS: dict[str, Callable[..., Any]] = {
    f"{_REBUILD}tensor": _tensor,
    f"{_REBUILD}tensor_v2": _tensor,
    f"{_REBUILD}tensor_v3": _tensor_of_dtype,
    f"{_REBUILD}parameter": _parameter,
    f"{_REBUILD}parameter_with_state": _parameter,
}


def _with_attributes(function: Any, kind: Any, arguments: Any, state: Any) -> TensorView:
    """A tensor that somebody has set attributes on; they are left out."""
    if not isinstance(function, Callee) or function.name not in _TENSORS or type(arguments) is not tuple:
        raise BadFileError("a tensor is made by what makes no tensors")
    if not isinstance(kind, Callee) or kind.name not in _CLASSES:
        raise BadFileError("a tensor is of a class that is not PyTorch's own")
    return function.call(*arguments)


def _ordered(pairs: Any = ()) -> OrderedDict[Any, Any]:
    """From nothing, or from pairs as Python 2 wrote them."""
    if not isinstance(pairs, (list, tuple)) or not all(
        isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs
    ):
        raise BadFileError("an OrderedDict is made from what are no pairs")
    return OrderedDict((hashable(key), value) for key, value in pairs)


def _counter(counts: Any = None) -> Counter[Any]:
    if counts is not None and type(counts) is not dict:
        raise BadFileError("a Counter is made from what is no dict")
    return Counter(counts)


def _items(values: Any) -> Any:
    if not isinstance(values, (list, tuple)):
        raise BadFileError(f"a set is made from a {type(values).__name__}")
    return map(hashable, values)


def _complex(real: Any, imaginary: Any) -> complex:
    if not isinstance(real, (int, float)) or not isinstance(imaginary, (int, float)):
        raise BadFileError("a complex number is made from what are no numbers")
    try:
        return complex(real, imaginary)
    except OverflowError:
        raise BadFileError("a complex number is made from integers that are too large") from None


def _encoded(text: Any, encoding: Any) -> bytes:
    """How protocol 2 writes bytes."""
    if type(text) is not str or type(encoding) is not str or encoding not in ("latin1", "latin-1"):
        raise BadFileError("bytes are made from what is no text in latin1")
    try:
        return text.encode("latin1")
    except UnicodeEncodeError:
        raise BadFileError("bytes are made from letters that are none of latin1") from None


def _bytearray(data: Any = b"", *encoding: Any) -> bytearray:
    data = _encoded(data, *encoding) if encoding else data
    if type(data) is not bytes:
        raise BadFileError(f"a bytearray is made from a {type(data).__name__}")
    return bytearray(data)


def _size(values: Any = ()) -> tuple[int, ...]:
    if not isinstance(values, (list, tuple)) or not all(map(_is_count, values)):
        raise BadFileError("a torch.Size is made from what are no counts")
    return tuple(values)


def _device(kind: Any, index: Any = None) -> str:
    if type(kind) is not str or not (index is None or _is_count(index)):
        raise BadFileError("a torch.device is made from what is no name and number")
    return kind if index is None else f"{kind}:{_short(index)}"


def _class(*_: Any) -> Any:
    raise BadFileError("a tensor is made by calling its class, as PyTorch did before version 0.4")


_CLASSES = ("torch.Tensor", "torch.nn.parameter.Parameter")
_CALLS: dict[str, Callable[..., Any]] = {
    **_TENSORS,
    **dict.fromkeys(_CLASSES, _class),
    "torch._tensor._rebuild_from_type_v2": _with_attributes,
    "torch.Size": _size,
    "torch.device": _device,
    "collections.OrderedDict": _ordered,
    "collections.Counter": _counter,
    "builtins.set": lambda values=(): set(_items(values)),
    "builtins.frozenset": lambda values=(): frozenset(_items(values)),
    "builtins.complex": _complex,
    "builtins.bytes": lambda: b"",  # how protocol 2 writes none
    "builtins.bytearray": _bytearray,
    "_codecs.encode": _encoded,
}

_KNOWN: dict[str, Any] = {
    **{name: Callee(name, call) for name, call in _CALLS.items()},
    **{f"torch.{name}": dtype for name, dtype in DTYPES.items()},
    **{f"torch.{name}": StorageType(dtype) for name, dtype in STORAGES.items()},
    **{f"torch.cuda.{name}": StorageType(dtype) for name, dtype in STORAGES.items()},
    **{f"torch.{name}UntypedStorage": StorageType(_UNTYPED) for name in ("", "storage.", "cuda.")},
}

# Why something that PyTorch itself may have written is not read, by the beginning of its name.
_REASONS = {
    f"{_REBUILD}sparse": "sparse tensors are not read: save tensor.to_dense()",
    f"{_REBUILD}nested": "nested tensors are not read: save tensor.to_padded_tensor(0)",
    f"{_REBUILD}qtensor": "quantized tensors are not read: save tensor.dequantize()",
    f"{_REBUILD}meta": "a tensor of the meta device has no values",
    f"{_REBUILD}wrapper": "a subclass of Tensor is not read: save plain tensors",
    "torch.distributed.": "distributed tensors are not read: save tensor.full_tensor()",
    "torch.Q": "quantized tensors are not read: save tensor.dequantize()",
    "torch.nn.": "whole modules are not read: save module.state_dict()",
    "torch.jit.": "programs are not read: save module.state_dict()",
    "numpy.": "arrays and numbers of numpy are not read: save tensors and numbers of Python",
}


def find(module: str, name: str) -> Any:
    """What stands for a name of a pickle: something to call in its place, a dtype or the class of a storage.

    Raises:
        BadFileError: it is not on the list, and is neither imported nor called.
    """
    module = {"__builtin__": "builtins", "torch.tensor": "torch._tensor"}.get(module, module)
    whole = f"{module}.{name}"
    if whole in _KNOWN:
        return _KNOWN[whole]
    reasons = (reason for start, reason in _REASONS.items() if whole.startswith(start))
    reason = next(reasons, "tensors and plain data do not need it")
    raise BadFileError(f"wants {_short(whole)}, which is refused: {reason}")


def storage_of(reference: Any) -> Storage:
    """The storage that a persistent id describes: its class, key, device and length, in old files also a part of it."""
    if type(reference) is not tuple or len(reference) not in (5, 6):
        raise BadFileError("refers to something outside of the pickle that is no storage")
    what, kind, key, _, count, *part = reference
    if type(what) is not str or what != "storage":
        raise BadFileError("refers to something outside of the pickle that is no storage")
    if not isinstance(kind, StorageType) or type(key) is not str or not _is_count(count):
        raise BadFileError("refers to a storage by what is no class, key and length")
    if not part or part[0] is None:
        return Storage(key, kind.dtype, count)
    if type(part[0]) is not tuple or len(part[0]) != 3 or not all(map(_is_count, part[0][1:])):
        raise BadFileError("refers to a part of a storage by what is no offset and length")
    _, offset, length = part[0]
    if offset + length > count:
        raise BadFileError("refers to a part of a storage that ends behind it")
    return Storage(key, kind.dtype, length, offset)


def _short(value: Any) -> str:
    """A text for a message, of whatever length a file gives it."""
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]}…"
