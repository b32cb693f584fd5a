"""Batches of sequences of several lengths: padded to one length, or packed without gaps for the recurrent layers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.tree_util import GetAttrKey

from flambeau._errors import ShapeError
from flambeau.core.placement import placement_of, read_to
from flambeau.nn.functional._checks import describe
from flambeau.nn.functional._inputs import known
from flambeau.nn.functional._packing import lengths_of, pack, pad_packed

__all__ = [
    "PackedSequence",
    "invert_permutation",
    "pack_padded_sequence",
    "pack_sequence",
    "pad_packed_sequence",
    "pad_sequence",
    "unpack_sequence",
    "unpad_sequence",
]

Indices: TypeAlias = jax.Array | np.ndarray


def _numbers(values: Any, name: str) -> np.ndarray:
    """Integers that decide about shapes, and so have to be known while a function is compiled."""
    if isinstance(values, Tracer):
        raise ValueError(
            f"expected {name} that are known when the function is compiled, such as a list or an array of numpy, "
            f"got the traced {describe(values)}; close over them or make them a static argument"
        )
    return np.asarray(values).astype(np.int64)


@jax.tree_util.register_pytree_with_keys_class
@dataclass(frozen=True, init=False, eq=False)
class PackedSequence:
    """Sequences of several lengths without gaps: the first time step of all, the second of all that have one, and so on.

    Made by `pack_padded_sequence` and `pack_sequence`. It unpacks as the named tuple that it is in PyTorch,
    `data, batch_sizes, sorted_indices, unsorted_indices = packed`, and is a pytree: `batch_sizes` decides about shapes
    and is part of its structure, so a compiled function is compiled again for other ones.

    Args:
        data: the elements, the longest sequence first in each time step.
        batch_sizes: how many sequences have each time step; an array of numpy, as PyTorch keeps it on the CPU.
        sorted_indices: the order in which the sequences stand, if they were sorted.
        unsorted_indices: the inverse permutation, which is found from `sorted_indices` if None.

    Shape:
        data `(sum of batch_sizes, *)`, batch_sizes `(T,)`, sorted_indices and unsorted_indices `(N,)`.

    Raises:
        ValueError: `batch_sizes` are traced.

    Example:
        >>> packed = pack_sequence([jnp.array([1, 2, 3]), jnp.array([4, 5])])
        >>> packed.data, packed.batch_sizes
        (Array([1, 4, 2, 5, 3], dtype=int32), array([2, 2, 1]))

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.utils.rnn.PackedSequence.html
    """

    data: jax.Array
    batch_sizes: np.ndarray
    sorted_indices: Indices | None
    unsorted_indices: Indices | None

    def __init__(
        self,
        data: Any,
        batch_sizes: Any = None,
        sorted_indices: Indices | None = None,
        unsorted_indices: Indices | None = None,
    ) -> None:
        if batch_sizes is None:
            # The first two may also come as a pair.
            if not (isinstance(data, (list, tuple)) and len(data) == 2):
                raise AssertionError(f"expected data and batch_sizes, or a pair of them, got {describe(data)}")
            data, batch_sizes = data
        if unsorted_indices is None:
            unsorted_indices = invert_permutation(sorted_indices)
        self._fill(data, _numbers(batch_sizes, "batch_sizes"), sorted_indices, unsorted_indices)

    def _fill(self, *values: Any) -> None:
        for name, value in zip(self._fields, values, strict=True):
            object.__setattr__(self, name, value)

    # -- as a named tuple -----------------------------------------------------------------------------------------------

    _fields = ("data", "batch_sizes", "sorted_indices", "unsorted_indices")

    def __iter__(self) -> Iterator[Any]:
        return (getattr(self, name) for name in self._fields)

    def __getitem__(self, index: Any) -> Any:
        return tuple(self)[index]

    def __len__(self) -> int:
        return len(self._fields)

    def _asdict(self) -> dict[str, Any]:
        return dict(zip(self._fields, self, strict=True))

    def _replace(self, **values: Any) -> PackedSequence:
        return PackedSequence(**{**self._asdict(), **values})

    # -- as a pytree ----------------------------------------------------------------------------------------------------

    def tree_flatten(self) -> tuple[tuple[Any, ...], tuple[int, ...]]:
        return (self.data, self.sorted_indices, self.unsorted_indices), tuple(self.batch_sizes.tolist())

    def tree_flatten_with_keys(self) -> tuple[tuple[tuple[Any, Any], ...], tuple[int, ...]]:
        leaves, batch_sizes = self.tree_flatten()
        names = ("data", "sorted_indices", "unsorted_indices")
        return tuple((GetAttrKey(name), leaf) for name, leaf in zip(names, leaves, strict=True)), batch_sizes

    @classmethod
    def tree_unflatten(cls, batch_sizes: tuple[int, ...], leaves: Sequence[Any]) -> PackedSequence:
        # JAX puts all sorts of things in the places of leaves, so nothing is looked at here.
        made, (data, *indices) = object.__new__(cls), leaves
        made._fill(data, np.array(batch_sizes, np.int64), *indices)
        return made

    # -- dtype and device -----------------------------------------------------------------------------------------------

    def to(self, *args: Any, **kwargs: Any) -> PackedSequence:
        """The same with `data` in another dtype, and all of it on another device: see `Module.to`."""
        dtype, place = read_to(args, kwargs)
        data = self.data if dtype is None else self.data.astype(dtype)
        moved = (data, self.sorted_indices, self.unsorted_indices)
        if place is not None:
            moved = jax.device_put(moved, place)
        return PackedSequence(moved[0], self.batch_sizes, *moved[1:])

    def cpu(self) -> PackedSequence:
        """The same on the CPU."""
        return self.to("cpu")

    def cuda(self, device: Any = None) -> PackedSequence:
        """The same on the first GPU, or on `device`."""
        return self.to("gpu" if device is None else device)

    def double(self) -> PackedSequence:
        """The same with `data` in float64 (float32 while JAX runs without x64)."""
        return self.to(jnp.float64)

    def float(self) -> PackedSequence:
        """The same with `data` in float32."""
        return self.to(jnp.float32)

    def half(self) -> PackedSequence:
        """The same with `data` in float16."""
        return self.to(jnp.float16)

    def long(self) -> PackedSequence:
        """The same with `data` in int64 (int32 while JAX runs without x64)."""
        return self.to(jnp.int64)

    def int(self) -> PackedSequence:
        """The same with `data` in int32."""
        return self.to(jnp.int32)

    def short(self) -> PackedSequence:
        """The same with `data` in int16."""
        return self.to(jnp.int16)

    def char(self) -> PackedSequence:
        """The same with `data` in int8."""
        return self.to(jnp.int8)

    def byte(self) -> PackedSequence:
        """The same with `data` in uint8."""
        return self.to(jnp.uint8)


def invert_permutation(permutation: Any) -> Any:
    """The permutation q with q[p[i]] = i, for p as `permutation`; None of None.

    Args:
        permutation: an array, of JAX or numpy, of the integers from 0 to N - 1.

    Shape:
        permutation `(N,)`, result `(N,)`.

    Example:
        >>> invert_permutation(jnp.array([2, 0, 1]))
        Array([1, 2, 0], dtype=int32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.utils.rnn.invert_permutation.html
    """
    if permutation is None:
        return None
    library = np if isinstance(permutation, np.ndarray) else jnp
    return library.argsort(permutation).astype(permutation.dtype)


def pack_padded_sequence(
    input: jax.Array, lengths: Any, batch_first: bool = False, enforce_sorted: bool = True
) -> PackedSequence:
    """Packs padded sequences: of each, its first `lengths[n]` time steps.

    Args:
        input: the padded sequences.
        lengths: how long each is: a list, or an array that is not traced.
        batch_first: whether the batch dimension of `input` comes before the time.
        enforce_sorted: whether the longest have to come first; if not, they are sorted here.

    Shape:
        input `(T, N, *)`, or `(N, T, *)` if `batch_first`; lengths `(N,)`.

    Raises:
        ShapeError: the input or the lengths have another shape, a length is not between 1 and T, or the lengths are not
            sorted.
        ValueError: the lengths are traced.

    Example:
        >>> padded = jnp.array([[1, 2, 0], [3, 0, 0], [4, 5, 6]])
        >>> packed = pack_padded_sequence(padded, [2, 1, 3], batch_first=True, enforce_sorted=False)
        >>> packed.data, packed.batch_sizes, packed.sorted_indices
        (Array([4, 1, 3, 5, 2, 6], dtype=int32), array([3, 2, 1]), array([2, 0, 1]))

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.utils.rnn.pack_padded_sequence.html
    """
    input, counts = jnp.asarray(input), _numbers(lengths, "lengths")
    _check_padded(input, counts, batch_first, enforce_sorted)
    padded = jnp.swapaxes(input, 0, 1) if batch_first else input
    order = None
    if not enforce_sorted:
        order = np.argsort(-counts, kind="stable")
        padded, counts = padded[:, order], counts[order]
    batch_sizes = (counts > np.arange(counts[0])[:, None]).sum(1)
    return PackedSequence(pack(padded, batch_sizes), batch_sizes, order)


def _check_padded(input: jax.Array, lengths: np.ndarray, batch_first: bool, enforce_sorted: bool) -> None:
    if input.ndim < 2:
        raise ShapeError(f"expected input ({'N, T' if batch_first else 'T, N'}, *), got {describe(input)}")
    batch, steps = input.shape[:2] if batch_first else input.shape[1::-1]
    if lengths.shape != (batch,):
        raise ShapeError(f"expected {batch} lengths for input {describe(input)}, got {describe(lengths)}")
    if batch == 0:
        raise ShapeError(f"expected one sequence or more, got {describe(input)}")
    wrong = sorted({each for each in lengths.tolist() if not 1 <= each <= steps})
    if wrong:
        raise ShapeError(f"expected lengths between 1 and {steps}, got {', '.join(map(str, wrong))}")
    if enforce_sorted and (np.diff(lengths) > 0).any():
        raise ShapeError(
            f"expected lengths with the longest first, got {lengths.tolist()}; enforce_sorted=False takes any order"
        )


def pad_packed_sequence(
    sequence: PackedSequence, batch_first: bool = False, padding_value: float = 0.0, total_length: int | None = None
) -> tuple[jax.Array, Indices]:
    """Pads packed sequences, in the order in which they were before packing: the reverse of `pack_padded_sequence`.

    Args:
        sequence: the packed sequences.
        batch_first: whether the batch dimension of the result comes before the time.
        padding_value: what stands behind the end of a sequence.
        total_length: how many time steps the result has; as many as the longest sequence if None.

    Returns:
        The padded sequences and their lengths: an array of numpy, unless their order is traced.

    Shape:
        result `(T, N, *)`, or `(N, T, *)` if `batch_first`, and `(N,)`.

    Raises:
        ValueError: `total_length` is less than the length of the longest sequence.

    Example:
        >>> packed = pack_sequence([jnp.array([4, 5]), jnp.array([1, 2, 3])], enforce_sorted=False)
        >>> padded, lengths = pad_packed_sequence(packed, batch_first=True)
        >>> padded.tolist(), lengths
        ([[4, 5, 0], [1, 2, 3]], array([2, 3]))

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.utils.rnn.pad_packed_sequence.html
    """
    longest, order = len(sequence.batch_sizes), sequence.unsorted_indices
    if total_length is not None and total_length < longest:
        raise ValueError(f"expected total_length of {longest} or more, the longest sequence's, got {total_length}")
    padded = pad_packed(sequence.data, sequence.batch_sizes, padding_value, total_length)
    lengths: Indices = lengths_of(sequence.batch_sizes)
    if order is not None:
        padded, seen = padded[:, order], order if isinstance(order, np.ndarray) else known(order)
        lengths = jnp.asarray(lengths)[order] if seen is None else lengths[seen]
    return jnp.swapaxes(padded, 0, 1) if batch_first else padded, lengths


def pad_sequence(
    sequences: Iterable[Any],
    batch_first: bool = False,
    padding_value: float = 0.0,
    padding_side: Literal["right", "left"] = "right",
) -> jax.Array:
    """Stacks sequences of several lengths, all padded to the length of the longest.

    Args:
        sequences: the sequences; the result has the dtype of the first.
        batch_first: whether the batch dimension of the result comes before the time.
        padding_value: what the sequences are padded with.
        padding_side: whether that stands at their end, `right`, or at their beginning, `left`.

    Shape:
        sequences `(Lₙ, *)`, result `(T, N, *)` with T the greatest Lₙ, or `(N, T, *)` if `batch_first`.

    Raises:
        ShapeError: there are no sequences, or they differ in the other dimensions.
        RuntimeError: `sequences` is not iterable, or there is no such side.

    Example:
        >>> pad_sequence([jnp.array([1, 2, 3]), jnp.array([4])], batch_first=True)
        Array([[1, 2, 3],
               [4, 0, 0]], dtype=int32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.utils.rnn.pad_sequence.html
    """
    if not isinstance(sequences, Iterable):
        raise RuntimeError(f"expected sequences to be iterable, got {describe(sequences)}")
    if padding_side not in ("right", "left"):
        raise RuntimeError(f"expected padding_side 'right' or 'left', got {padding_side!r}")
    arrays = [jnp.asarray(sequence) for sequence in sequences]
    if not arrays:
        raise ShapeError("expected one sequence or more, got none")
    rest = arrays[0].shape[1:]
    wrong = [describe(array) for array in arrays if array.ndim == 0 or array.shape[1:] != rest]
    if wrong:
        raise ShapeError(f"expected sequences ({', '.join(['L', *map(str, rest)])}), got {', '.join(wrong)}")
    # numpy compiles nothing, which jnp would for each pair of lengths.
    traced = any(known(array) is None for array in arrays)
    library: Any = jnp if traced else np
    longest, padded = max(map(len, arrays)), []
    for part in arrays if traced else map(np.asarray, arrays):
        missing = longest - len(part)
        widths = [(0, missing) if padding_side == "right" else (missing, 0), *[(0, 0)] * len(rest)]
        padded.append(library.pad(part, widths, constant_values=padding_value).astype(arrays[0].dtype))
    stacked = library.stack(padded, 0 if batch_first else 1)
    return stacked if traced else jax.device_put(stacked, placement_of(arrays[0]))


def unpad_sequence(padded_sequences: jax.Array, lengths: Any, batch_first: bool = False) -> list[jax.Array]:
    """The sequences, each with its own length, that were padded to one: the reverse of `pad_sequence`.

    Args:
        padded_sequences: the padded sequences.
        lengths: how long each is: a list, or an array that is not traced.
        batch_first: whether the batch dimension of `padded_sequences` comes before the time.

    Shape:
        padded_sequences `(T, N, *)`, or `(N, T, *)` if `batch_first`; lengths `(N,)`, results `(Lₙ, *)`.

    Raises:
        ShapeError: there are not as many lengths as sequences.
        ValueError: the lengths are traced.

    Example:
        >>> unpad_sequence(jnp.array([[1, 2, 3], [4, 0, 0]]), [3, 1], batch_first=True)
        [Array([1, 2, 3], dtype=int32), Array([4], dtype=int32)]

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.utils.rnn.unpad_sequence.html
    """
    batch, counts = padded_sequences.shape[0 if batch_first else 1], _numbers(lengths, "lengths")
    if counts.shape != (batch,):
        raise ShapeError(f"expected {batch} lengths for {describe(padded_sequences)}, got {describe(counts)}")
    if batch_first:
        return [padded_sequences[i, :count] for i, count in enumerate(counts.tolist())]
    return [padded_sequences[:count, i] for i, count in enumerate(counts.tolist())]


def pack_sequence(sequences: Iterable[Any], enforce_sorted: bool = True) -> PackedSequence:
    """Packs sequences of several lengths: `pack_padded_sequence` of what `pad_sequence` gives.

    Args:
        sequences: the sequences.
        enforce_sorted: whether the longest have to come first; if not, they are sorted here.

    Shape:
        sequences `(Lₙ, *)`.

    Raises:
        ShapeError: there are no sequences, one is empty, they differ in the other dimensions, or they are not sorted.

    Example:
        >>> pack_sequence([jnp.array([1, 2, 3]), jnp.array([4, 5]), jnp.array([6])]).data
        Array([1, 4, 6, 2, 5, 3], dtype=int32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.utils.rnn.pack_sequence.html
    """
    arrays = [jnp.asarray(sequence) for sequence in sequences]
    padded = pad_sequence(arrays)
    return pack_padded_sequence(padded, list(map(len, arrays)), enforce_sorted=enforce_sorted)


def unpack_sequence(packed_sequences: PackedSequence) -> list[jax.Array]:
    """The sequences of a `PackedSequence`, each with its own length, in the order that they had before packing.

    Args:
        packed_sequences: the packed sequences.

    Shape:
        results `(Lₙ, *)`.

    Raises:
        ValueError: the order of the sequences, and so their lengths, are traced.

    Example:
        >>> unpack_sequence(pack_sequence([jnp.array([1]), jnp.array([4, 5])], enforce_sorted=False))
        [Array([1], dtype=int32), Array([4, 5], dtype=int32)]

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.utils.rnn.unpack_sequence.html
    """
    return unpad_sequence(*pad_packed_sequence(packed_sequences, batch_first=True), batch_first=True)
