"""Padding in all modes, of either sign: parity with torch, and what does not fit."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from flambeau._errors import ShapeError
from flambeau.nn.functional import padding as F
from tests.nn.functional.parity import compare, normal

MODES = ["constant", "reflect", "replicate", "circular"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_padding(torch: Any, mode: str, n: int) -> None:
    amounts = (1, 2, 2, 0, 0, 1)[: 2 * n]
    for shape in ((2, 3, 4, 3, 5), (3, 4, 3, 5)):
        x = normal(*shape[: len(shape) - 3 + n])
        compare(torch, F.pad, torch.nn.functional.pad, x, amounts, mode, second=True)


@settings(max_examples=40)
@given(st.data(), st.sampled_from(MODES))
def test_any_amounts(torch: Any, data: st.DataObject, mode: str) -> None:
    """Of either sign; what torch refuses is refused."""
    shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=5))
    count = data.draw(st.integers(0, len(shape) if mode == "constant" else 3))
    amounts = data.draw(st.lists(st.integers(-4, 6), min_size=2 * count, max_size=2 * count))
    x = normal(*shape)
    kept = [size + min(low, 0) + min(high, 0) for size, low, high in zip(shape[::-1], amounts[::2], amounts[1::2])]
    if mode == "circular" and any(max(pair) > n for n, *pair in zip(kept, amounts[::2], amounts[1::2])):
        # Torch goes around once and leaves the rest unset.
        with pytest.raises(ShapeError):
            F.pad(jnp.asarray(x), amounts, "circular")
        return
    try:
        expected = torch.nn.functional.pad(torch.tensor(x), amounts, mode)
    except (RuntimeError, NotImplementedError, IndexError):
        with pytest.raises(ShapeError):
            F.pad(jnp.asarray(x), amounts, mode)  # pyright: ignore[reportArgumentType]
        return
    assume(expected.numel())
    compare(torch, F.pad, torch.nn.functional.pad, x, amounts, mode)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8", "complex64", "bool"])
@pytest.mark.parametrize("mode", MODES)
def test_dtypes(torch: Any, dtype: str, mode: str) -> None:
    x = np.arange(12).reshape(1, 2, 6) % 5
    ours = F.pad(jnp.asarray(x).astype(dtype), (2, 1), mode)  # pyright: ignore[reportArgumentType]
    assert str(ours.dtype) == dtype
    kind = {"bool": torch.uint8}.get(dtype, getattr(torch, dtype))  # torch mirrors no booleans
    theirs = torch.nn.functional.pad(torch.tensor(x).to(getattr(torch, dtype)).to(kind), (2, 1), mode)
    np.testing.assert_array_equal(np.asarray(ours, np.complex128), theirs.to(torch.complex128))


@pytest.mark.parametrize("dtype", ["float64", "float16", "int32", "bool"])
@pytest.mark.parametrize("value", [None, 0, 1, 1.5, -2, np.inf, True])
def test_values(torch: Any, dtype: str, value: float | None) -> None:
    if dtype in ("int32", "bool") and value == np.inf:
        return
    x = np.arange(6).reshape(2, 3) % 2
    theirs = torch.nn.functional.pad(torch.tensor(x).to(getattr(torch, dtype)), (1, 2), value=value)
    ours = F.pad(jnp.asarray(x).astype(dtype), (1, 2), value=value)
    np.testing.assert_array_equal(ours, theirs)
    assert str(ours.dtype) == dtype


def test_a_list_of_amounts_and_none_at_all() -> None:
    x = jnp.asarray(normal(2, 3))
    np.testing.assert_array_equal(F.pad(x, [1, 0]), F.pad(x, (1, 0)))
    np.testing.assert_array_equal(F.pad(x, []), x)
    assert F.pad(x[:0], (1, 2), "reflect").shape == (0, 6)


@pytest.mark.parametrize("mode", MODES)
def test_derivatives_of_both_modes_and_vmap(mode: Any) -> None:
    function, x = partial(F.pad, pad=(1, 2, -1, 1), mode=mode), jnp.asarray(normal(2, 2, 3, 4))
    check_grads(function, (x,), order=1, modes=["fwd", "rev"])
    np.testing.assert_array_equal(jax.vmap(function)(x), jnp.stack([function(lane) for lane in x]))


MISFITS: list[tuple[tuple[int, ...], tuple[int, ...], str, str]] = [
    ((2, 3), (1,), "constant", r"two ints for each of up to 2 dimensions, got \(1,\)"),
    ((2, 3), (1, 1, 1, 1, 1, 1), "constant", r"two ints for each of up to 2 dimensions, got \(1, 1, 1, 1, 1, 1\)"),
    ((2, 3), (-2, -2), "constant", r"cuts no more than there is, got \(\(0, 0\), \(-2, -2\)\) for float64\[2, 3\]"),
    ((3,), (1, 1), "reflect", r"one or two dimensions more than \(1, 1\) pads, got float64\[3\]"),
    ((2, 2, 2, 3), (1, 1), "replicate", r"one or two dimensions more than \(1, 1\) pads, got float64\[2, 2, 2, 3\]"),
    ((2, 3), (), "circular", r"one or two dimensions more than \(\) pads"),
    ((2, 3), (3, 0), "reflect", r"reflect padding of at most 2 in dimension 1, got \(3, 0\) for float64\[2, 3\]"),
    ((2, 3), (-1, -2), "replicate", r"that leaves something of dimension 1, got \(-1, -2\)"),
    ((2, 3), (4, 0), "circular", "circular padding of at most 3 in dimension 1"),
]


@pytest.mark.parametrize(("shape", "amounts", "mode", "message"), MISFITS)
def test_misfits_are_refused_as_in_torch(
    torch: Any, shape: tuple[int, ...], amounts: tuple[int, ...], mode: Any, message: str
) -> None:
    with pytest.raises(ShapeError, match=message):
        F.pad(jnp.zeros(shape), amounts, mode)
    with pytest.raises((RuntimeError, NotImplementedError, IndexError)):
        torch.nn.functional.pad(torch.zeros(shape), amounts, mode)


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(ShapeError, match=r"at most 2 in dimension 1, got \(4, 0\); .* at most 3 in dimension 2, got"):
        F.pad(jnp.zeros((2, 3, 4)), (5, 0, 4, 0), "reflect")


def test_modes(torch: Any) -> None:
    with pytest.raises(ValueError, match="mode to be one of constant, reflect, replicate, circular, got 'mirror'"):
        F.pad(jnp.zeros((2, 3)), (1, 1), "mirror")  # pyright: ignore[reportArgumentType]
    for library, x in ((F, jnp.zeros((2, 3))), (torch.nn.functional, torch.zeros(2, 3))):
        with pytest.raises((ValueError, RuntimeError)):
            library.pad(x, (1, 1), "reflect", 1.0)
    with pytest.raises(ValueError, match=r"expected no value with mode 'circular', got 1\.0"):
        F.pad(jnp.zeros((2, 3)), (1, 1), "circular", 1.0)


def test_amounts_must_be_ints() -> None:
    for amounts in ((1.5, 1), ("1", 1), 3):
        with pytest.raises(TypeError, match="expected pad to be a sequence of ints, got"):
            F.pad(jnp.zeros((2, 3)), amounts)  # pyright: ignore[reportArgumentType]
