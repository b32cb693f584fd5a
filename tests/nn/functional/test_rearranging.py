"""Moves of pixels, channels and windows: parity with torch, and each the reverse or transpose of another."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flambeau._errors import ShapeError
from flambeau.nn import functional as F
from tests.nn.functional.parity import compare, normal


@pytest.mark.parametrize(
    ("name", "shape", "number"),
    [
        ("pixel_shuffle", (2, 18, 2, 3), 3),
        ("pixel_shuffle", (4, 2, 3), 2),
        ("pixel_unshuffle", (2, 3, 4, 6), 2),
        ("pixel_unshuffle", (1, 3, 3), 3),
        ("channel_shuffle", (2, 6, 3), 3),
        ("channel_shuffle", (2, 6, 3, 2), 2),
    ],
)
def test_shuffles(torch: Any, name: str, shape: tuple[int, ...], number: int) -> None:
    compare(torch, getattr(F, name), getattr(torch.nn.functional, name), normal(*shape), number)


def test_shuffles_that_torch_does_not_differentiate(torch: Any) -> None:
    assert F.pixel_shuffle(jnp.zeros((2, 3, 4, 0, 3)), 2).shape == (2, 3, 1, 0, 6)
    x = normal(2, 6, 3, 2)
    expected = torch.nn.functional.native_channel_shuffle(torch.tensor(x), 3)
    np.testing.assert_array_equal(F.native_channel_shuffle(jnp.asarray(x), 3), expected.numpy())


def test_unshuffle_reverses_shuffle() -> None:
    x = jnp.asarray(normal(2, 12, 3, 5))
    np.testing.assert_array_equal(F.pixel_unshuffle(F.pixel_shuffle(x, 2), 2), x)


@pytest.mark.parametrize("name", ["pixel_shuffle", "pixel_unshuffle", "channel_shuffle"])
def test_mistakes_of_shuffles(name: str) -> None:
    with pytest.raises(ShapeError, match="divisible by"):
        getattr(F, name)(jnp.zeros((1, 3, 5, 5)), 2)
    with pytest.raises(ShapeError, match="expected input"):
        getattr(F, name)(jnp.zeros((4, 4)), 2)
    with pytest.raises(ValueError, match="of at least 1"):
        getattr(F, name)(jnp.zeros((1, 4, 4, 4)), 0)


@pytest.mark.parametrize("batch", [(), (2,), (0,)])
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 2},
        {"kernel_size": (2, 3), "dilation": (2, 1), "padding": (1, 2), "stride": (1, 3)},
        {"kernel_size": (1, 5), "stride": 2},
    ],
)
def test_unfold(torch: Any, batch: tuple[int, ...], options: dict[str, Any]) -> None:
    compare(torch, F.unfold, torch.nn.functional.unfold, normal(*batch, 3, 5, 6), **options)


@settings(max_examples=10)
@given(
    size=st.tuples(st.integers(3, 7), st.integers(3, 7)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.integers(0, 2),
)
def test_fold_of_any_geometry(
    torch: Any, size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], padding: int
) -> None:
    counts = [(n + 2 * padding - k) // s + 1 for n, k, s in zip(size, kernel, stride)]
    columns = normal(2, 2 * kernel[0] * kernel[1], counts[0] * counts[1])
    options = {"kernel_size": kernel, "padding": padding, "stride": stride}

    def ours(x: jax.Array) -> jax.Array:
        return F.fold(x, size, **options)

    def theirs(x: Any) -> Any:
        return torch.nn.functional.fold(x, size, **options)

    compare(torch, ours, theirs, columns)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: F.unfold(x[0, 0], 2), r"expected input \(N, C, H, W\) or"),
        (lambda x: F.unfold(x[:, :0], 2), "no empty dimension"),
        (lambda x: F.unfold(x, 5), r"of at least \(5, 5\), got \(4, 4\)"),
        (lambda x: F.unfold(x, 2, stride=0), "expected stride of at least 1"),
        (lambda x: F.unfold(x, 2, padding=-1), "expected padding of at least 0"),
        (lambda x: F.fold(x[0, :, :3], 3, 2), r"expected input \(N, C \* 4, 4\) or"),
        (lambda x: F.fold(x, 3, 2), r"expected input \(N, C \* K, L\) or"),
    ],
)
def test_mistakes_of_windows(call: Any, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        call(jnp.zeros((1, 3, 4, 4)))
