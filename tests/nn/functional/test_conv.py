"""Convolutions: parity with torch, the forms that the CPU gets, and what they say of arguments that do not fit."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from flambeau._errors import DtypeError, ShapeError
from flambeau.nn.functional import conv as F
from tests.nn.functional.parity import compare, normal

CONVOLUTIONS: list[tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ("conv1d", (2, 4, 9), (3, 4, 3), {}),
    ("conv1d", (4, 9), (3, 4, 3), {"stride": [2], "padding": (1,)}),
    ("conv1d", (2, 4, 9), (6, 2, 3), {"groups": 2, "dilation": 2, "padding": "same"}),
    ("conv1d", (2, 4, 80), (8, 1, 65), {"groups": 4, "padding": 3}),
    ("conv2d", (2, 3, 7, 6), (4, 3, 3, 2), {"stride": (2, 1), "padding": (0, 1), "dilation": (1, 2)}),
    ("conv2d", (3, 7, 6), (4, 3, 3, 2), {"padding": "valid"}),
    ("conv2d", (2, 1, 6, 6), (4, 1, 3, 3), {"padding": 1}),
    ("conv2d", (2, 4, 7, 6), (6, 2, 3, 2), {"groups": 2, "stride": 2, "padding": (2, 1)}),
    ("conv2d", (2, 4, 7, 6), (8, 1, 3, 3), {"groups": 4, "stride": (1, 2), "padding": 1, "dilation": 2}),
    ("conv2d", (4, 7, 6), (4, 1, 3, 3), {"groups": 4, "padding": "same", "dilation": (2, 1)}),
    ("conv3d", (2, 2, 4, 5, 4), (3, 2, 2, 3, 2), {"stride": (1, 2, 1), "padding": (1, 0, 1)}),
    ("conv3d", (2, 4, 5, 4), (4, 1, 3, 3, 3), {"groups": 2, "padding": "same"}),
    ("conv3d", (1, 4, 4, 4, 4), (2, 2, 2, 2, 2), {"groups": 2, "dilation": (1, 2, 1)}),
]
TRANSPOSES: list[tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ("conv_transpose1d", (2, 4, 5), (4, 3, 3), {}),
    ("conv_transpose1d", (4, 5), (4, 3, 3), {"stride": 3, "padding": 1, "output_padding": 2}),
    ("conv_transpose1d", (2, 4, 5), (4, 2, 3), {"groups": 2, "dilation": 3, "output_padding": 2}),
    ("conv_transpose2d", (2, 3, 4, 3), (3, 2, 3, 2), {"padding": (2, 1)}),
    ("conv_transpose2d", (2, 3, 4, 3), (3, 2, 3, 4), {"stride": 2, "padding": 1, "output_padding": (1, 0)}),
    ("conv_transpose2d", (4, 4, 3), (4, 2, 3, 2), {"stride": (2, 1), "groups": 4, "dilation": 2}),
    ("conv_transpose3d", (2, 2, 3, 2, 3), (2, 2, 2, 3, 2), {"stride": (2, 1, 2), "padding": (0, 1, 0)}),
    ("conv_transpose3d", (4, 2, 2, 3), (4, 1, 2, 2, 2), {"stride": 2, "groups": 2, "output_padding": 1}),
]


def arrays(input: tuple[int, ...], weight: tuple[int, ...], out_channels: int) -> list[np.ndarray]:
    return [normal(*input), normal(*weight, seed=1), normal(out_channels, seed=2)]


@pytest.mark.parametrize(("name", "input", "weight", "options"), CONVOLUTIONS)
def test_convolution(
    torch: Any, name: str, input: tuple[int, ...], weight: tuple[int, ...], options: dict[str, Any]
) -> None:
    given = arrays(input, weight, weight[0])
    second = len(weight) < 5  # twice differentiated, the three-dimensional ones take long to compile
    # torch warns that an even kernel may cost it a copy
    with pytest.warns(UserWarning, match="zero-padded copy") if even_same(weight, options) else no_warning():
        compare(torch, getattr(F, name), getattr(torch.nn.functional, name), *given, second=second, **options)


def even_same(weight: tuple[int, ...], options: dict[str, Any]) -> bool:
    return options.get("padding") == "same" and any(size % 2 == 0 for size in weight[2:])


def no_warning() -> Any:
    import contextlib

    return contextlib.nullcontext()
