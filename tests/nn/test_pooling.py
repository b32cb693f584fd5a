"""What pooling and padding layers do besides calling their function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import flambeau as fb
from flambeau import nn

MISTAKES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "neither": (lambda nn: nn.FractionalMaxPool2d(2), "either output_size or output_ratio, got None and None"),
    "both": (lambda nn: nn.FractionalMaxPool3d(2, 3, 0.5), "either output_size or output_ratio, got 3 and 0.5"),
    "ratio": (lambda nn: nn.FractionalMaxPool2d(2, None, (0.5, 1.0)), r"between 0 and 1, got \(0.5, 1.0\)"),
    "kernel": (lambda nn: nn.FractionalMaxPool3d((2, 0, 2), 3), r"kernel_size of at least 1, got \(2, 0, 2\)"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_construction(torch: Any, mistake: str) -> None:
    make, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message):
        make(nn)
    with pytest.raises(ValueError):
        make(torch.nn)


def test_lengths_of_arguments() -> None:
    with pytest.raises(fb.ShapeError, match=r"output_ratio to be a number or 2 numbers, got \(0.5, 0.5, 0.5\)"):
        nn.FractionalMaxPool2d(2, output_ratio=(0.5, 0.5, 0.5))
    with pytest.raises(fb.ShapeError, match="padding to be an int or a tuple of 4 ints"):
        nn.ReflectionPad2d((1, 2))
    with pytest.raises(fb.ShapeError, match="kernel_size to be an int or a tuple of 2 ints"):
        nn.MaxUnpool2d((1, 2, 3))


def test_fractional_pooling_is_random_in_evaluation_too() -> None:
    net, x = (
        nn.FractionalMaxPool2d(2, output_ratio=0.6).eval(),
        jnp.asarray(np.random.default_rng(0).normal(size=(4, 20, 20))),
    )
    fb.manual_seed(0)
    first, second = net(x), net(x)
    fb.manual_seed(0)
    np.testing.assert_array_equal(fb.jit(net)(x), first)
    np.testing.assert_array_equal(fb.jit(net)(x), second)
    assert (first != second).any()


def test_samples_are_a_buffer() -> None:
    samples = jnp.full((1, 4, 2), 0.25)
    net = nn.FractionalMaxPool2d(2, output_ratio=0.6, _random_samples=samples)
    assert list(net.state_dict()) == ["_random_samples"]
    assert list(nn.FractionalMaxPool2d(2, output_ratio=0.6).state_dict()) == []


@pytest.mark.parametrize("n", [1, 2, 3])
def test_padding_with_zeros_is_padding_with_a_constant(n: int) -> None:
    assert isinstance(getattr(nn, f"ZeroPad{n}d")(1), getattr(nn, f"ConstantPad{n}d"))
