"""Packed and padded sequences: against torch, as pytrees, under the transforms, and what they refuse."""

from __future__ import annotations

import copy
import pickle
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flambeau as fb
from flambeau import nn
from flambeau.nn.utils import rnn
from flambeau.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence

torch = pytest.importorskip("torch")

lengths_of_batches = st.lists(st.integers(1, 6), min_size=1, max_size=5)
trailing = st.sampled_from([(), (2,), (2, 3)])


def sequences_of(lengths: list[int], rest: tuple[int, ...]) -> list[np.ndarray]:
    return [np.random.default_rng(i).normal(size=(length, *rest)) for i, length in enumerate(lengths)]


def assert_same(ours: Any, theirs: Any) -> None:
    """Both None, or arrays that agree to the last bit and in dtype."""
    if theirs is None:
        assert ours is None
        return
    mine, its = np.asarray(ours), theirs.detach().numpy()
    assert (mine.shape, mine.dtype) == (its.shape, its.dtype)
    np.testing.assert_array_equal(mine, its)


@given(lengths_of_batches, trailing, st.booleans(), st.booleans(), st.integers(0, 2))
@settings(max_examples=12)
def test_packing_is_torchs(
    lengths: list[int], rest: tuple[int, ...], batch_first: bool, enforce_sorted: bool, more: int
) -> None:
    """Packed and padded again, with any lengths, to any greater length."""
    lengths = sorted(lengths, reverse=True) if enforce_sorted else lengths
    shape = (len(lengths), max(lengths) + more) if batch_first else (max(lengths) + more, len(lengths))
    x = np.random.default_rng(0).normal(size=(*shape, *rest))
    ours = pack_padded_sequence(jnp.asarray(x), lengths, batch_first, enforce_sorted)
    theirs = torch.nn.utils.rnn.pack_padded_sequence(
        torch.tensor(x), torch.tensor(lengths), batch_first, enforce_sorted
    )
    for mine, its in zip(ours, theirs, strict=True):
        assert_same(mine, its)
    total = max(lengths) + more
    padded = pad_packed_sequence(ours, not batch_first, -1.5, total)
    expected = torch.nn.utils.rnn.pad_packed_sequence(theirs, not batch_first, -1.5, total)
    for mine, its in zip(padded, expected, strict=True):
        assert_same(mine, its)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=5), trailing, st.booleans(), st.sampled_from(["left", "right"]))
@settings(max_examples=30)
def test_padding_is_torchs(lengths: list[int], rest: tuple[int, ...], batch_first: bool, side: Any) -> None:
    sequences = sequences_of(lengths, rest)
    ours = rnn.pad_sequence(sequences, batch_first, 2.5, side)
    tensors = [torch.tensor(sequence) for sequence in sequences]
    assert_same(ours, torch.nn.utils.rnn.pad_sequence(tensors, batch_first, 2.5, side))
    if side == "right":
        for mine, sequence in zip(rnn.unpad_sequence(ours, lengths, batch_first), sequences, strict=True):
            np.testing.assert_array_equal(mine, sequence)


def test_padding_keeps_the_first_dtype() -> None:
    ours = rnn.pad_sequence([jnp.array([1, 2], jnp.int32), jnp.array([3], jnp.int32)], padding_value=1.5)
    assert (ours.dtype, ours.tolist()) == (jnp.int32, [[1, 3], [2, 1]])
    assert rnn.pad_sequence([jnp.ones(2, jnp.bfloat16), jnp.ones(1)]).dtype == jnp.bfloat16
    assert rnn.pad_sequence(jnp.ones((3, 2))).shape == (2, 3)


@given(lengths_of_batches, trailing)
@settings(max_examples=10)
def test_sequences_come_back(lengths: list[int], rest: tuple[int, ...]) -> None:
    sequences = sequences_of(lengths, rest)
    packed = pack_sequence(sequences, enforce_sorted=False)
    theirs = torch.nn.utils.rnn.pack_sequence([torch.tensor(each) for each in sequences], enforce_sorted=False)
    assert_same(packed.data, theirs.data)
    for mine, sequence in zip(rnn.unpack_sequence(packed), sequences, strict=True):
        np.testing.assert_array_equal(mine, sequence)


@pytest.mark.parametrize("library", [np, jnp])
def test_invert_permutation(library: Any) -> None:
    permutation = library.asarray([2, 0, 3, 1])
    inverse = rnn.invert_permutation(permutation)
    assert (inverse.dtype, inverse.tolist()) == (permutation.dtype, [1, 3, 0, 2])
    assert rnn.invert_permutation(None) is None


def test_as_a_named_tuple() -> None:
    packed = pack_sequence([np.ones(2), np.ones(3)], enforce_sorted=False)
    data, batch_sizes, order, inverse = packed
    assert packed[0] is data and packed[-1] is inverse and len(packed) == 4
    np.testing.assert_array_equal(PackedSequence((data, batch_sizes), sorted_indices=order).unsorted_indices, inverse)
    doubled = packed._replace(data=2 * data)
    np.testing.assert_array_equal(doubled.data, 2 * data)
    assert doubled.batch_sizes.tolist() == batch_sizes.tolist() and doubled.sorted_indices is order
    assert list(packed._asdict()) == list(packed._fields)
    with pytest.raises(AttributeError):
        packed.data = data  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(AssertionError, match="expected data and batch_sizes, or a pair of them"):
        PackedSequence(data)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))])
def test_copies(duplicate: Any) -> None:
    packed = pack_sequence([np.ones(2), np.ones(3)], enforce_sorted=False)
    for mine, its in zip(duplicate(packed), packed, strict=True):
        np.testing.assert_array_equal(mine, its)


def test_as_a_pytree() -> None:
    """The batch sizes are structure, all else is data."""
    packed = pack_sequence([np.ones(3), np.ones(2)])
    leaves, structure = jax.tree.flatten(packed)
    assert len(leaves) == 1
    assert structure == jax.tree.structure(packed._replace(data=packed.data + 1))
    assert structure != jax.tree.structure(pack_sequence([np.ones(3), np.ones(1)]))
    assert [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(packed)] == [".data"]
    np.testing.assert_array_equal(jax.tree.map(lambda each: 2 * each, packed).data, 2 * packed.data)


@pytest.mark.parametrize("transform", [jax.jit, fb.jit])
def test_inside_of_a_compiled_function(transform: Any) -> None:
    """Packed, padded and unpacked inside; packed sequences go in and out with their batch sizes."""
    x, lengths = jnp.arange(12.0).reshape(4, 3), [2, 4, 1]

    @transform
    def through(x: Any, packed: Any) -> Any:
        inner = pack_padded_sequence(x, lengths, enforce_sorted=False)
        return inner, pad_packed_sequence(inner), rnn.unpack_sequence(inner), pad_packed_sequence(packed)

    outside = pack_padded_sequence(x, lengths, enforce_sorted=False)
    inner, padded, sequences, from_argument = through(x, outside)
    assert isinstance(inner, PackedSequence) and isinstance(inner.batch_sizes, np.ndarray)
    expected = (outside, pad_packed_sequence(outside), rnn.unpack_sequence(outside), pad_packed_sequence(outside))
    actual = (inner, padded, sequences, from_argument)
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for mine, its in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(mine, its)


def test_beside_a_module_and_nested() -> None:
    """A result that holds more than arrays, out of two compiled functions."""
    net = nn.Linear(2, 3)

    @fb.jit
    def inner(net: Any, packed: Any) -> Any:
        return net, packed._replace(data=net(packed.data)), "done"

    packed = pack_sequence([np.ones((2, 2), np.float32), np.ones((3, 2), np.float32)], enforce_sorted=False)
    same, output, word = fb.jit(lambda net, packed: inner(net, packed))(net, packed)
    assert same is net and word == "done"
    np.testing.assert_array_equal(output.batch_sizes, packed.batch_sizes)
    np.testing.assert_allclose(output.data, net(packed.data), rtol=1e-6)


def test_gradients_and_vmap() -> None:
    lengths = [1, 3]

    def value(x: Any) -> Any:
        padded, _ = pad_packed_sequence(pack_padded_sequence(x, lengths, enforce_sorted=False), padding_value=7.0)
        return jnp.sum(padded * jnp.arange(6.0).reshape(3, 2))

    np.testing.assert_array_equal(fb.grad(value)(jnp.ones((3, 2))), [[0, 1], [0, 3], [0, 5]])
    lanes = jnp.arange(12.0).reshape(2, 3, 2)
    np.testing.assert_array_equal(jax.vmap(value)(lanes), [value(lane) for lane in lanes])
    grads = jax.grad(lambda parts: rnn.pad_sequence(parts).sum() ** 2)([jnp.ones(2), jnp.ones(1)])
    assert [grad.tolist() for grad in grads] == [[6, 6], [6]]


def test_to() -> None:
    packed = pack_sequence([np.ones(2), np.ones(3)], enforce_sorted=False)
    names, dtypes = "double float half long int short char byte", "float64 float32 float16 int64 int32 int16 int8 uint8"
    for name, dtype in zip(names.split(), dtypes.split(), strict=True):
        cast = getattr(packed, name)()
        assert cast.data.dtype == dtype and cast.sorted_indices is packed.sorted_indices
    moved = packed.cpu().to("float32", device=jax.devices()[0])
    assert moved.data.dtype == np.float32 and moved.data.devices() == {jax.devices()[0]}
    np.testing.assert_array_equal(moved.unsorted_indices, packed.unsorted_indices)


zeros = jnp.zeros((3, 2))
MISTAKES: dict[str, tuple[Any, str]] = {
    "too few": (lambda: pack_padded_sequence(zeros, [3]), "expected 2 lengths for input"),
    "matrix": (lambda: pack_padded_sequence(zeros, [[3, 1]]), "expected 2 lengths for input"),
    "zero": (lambda: pack_padded_sequence(zeros, [3, 0]), "expected lengths between 1 and 3, got 0"),
    "too long": (lambda: pack_padded_sequence(zeros, [5, 4]), "expected lengths between 1 and 3, got 4, 5"),
    "unsorted": (lambda: pack_padded_sequence(zeros, [2, 3]), "expected lengths with the longest first, got [2, 3]"),
    "vector": (lambda: pack_padded_sequence(zeros[0], [2]), "expected input (T, N, *), got float64[2]"),
    "no batch": (lambda: pack_padded_sequence(zeros[:, :0], []), "expected one sequence or more, got float64[3, 0]"),
    "none": (lambda: rnn.pad_sequence([]), "expected one sequence or more, got none"),
    "scalar": (lambda: rnn.pad_sequence([zeros[0], 1.0]), "expected sequences (L), got "),
    "features": (lambda: rnn.pad_sequence([zeros, zeros.T]), "expected sequences (L, 2), got float64[2, 3]"),
    "number": (lambda: rnn.pad_sequence(3), "expected sequences to be iterable, got int"),  # pyright: ignore
    "side": (lambda: rnn.pad_sequence([zeros], padding_side="top"), "expected padding_side 'right' or 'left'"),  # pyright: ignore
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake: str) -> None:
    call, message = MISTAKES[mistake]
    with pytest.raises(RuntimeError, match=re.escape(message)):
        call()


def test_what_is_traced_cannot_decide_about_shapes() -> None:
    packed = pack_sequence([np.ones(2), np.ones(3)], enforce_sorted=False)
    with pytest.raises(ValueError, match=r"expected lengths that are known .* got the traced int64\[2\]"):
        fb.jit(lambda lengths: pack_padded_sequence(zeros, lengths))(jnp.array([3, 2]))
    with pytest.raises(ValueError, match="expected batch_sizes that are known"):
        fb.jit(lambda sizes: PackedSequence(zeros, sizes))(jnp.array([2, 1]))
    with pytest.raises(ValueError, match="expected lengths that are known"):
        fb.jit(rnn.unpack_sequence)(packed)
    with pytest.raises(ValueError, match="expected total_length of 3 or more, the longest sequence's, got 2"):
        pad_packed_sequence(packed, total_length=2)
    with pytest.raises(ValueError, match="expected 2 lengths for"):
        rnn.unpad_sequence(zeros, [1, 2, 3])
