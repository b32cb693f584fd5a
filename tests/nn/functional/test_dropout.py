"""Dropout: what it does to the values, how often, and when it draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flambeau._errors import FlambeauWarning, ShapeError
from flambeau.core.random import Generator, manual_seed, next_key
from flambeau.nn import functional as F

ALPHA = 1.7580993408473766
# Each with an input that it takes without a warning, and the shape of one draw in it.
FUNCTIONS: list[tuple[Callable[..., jax.Array], tuple[int, ...], tuple[int, ...]]] = [
    (F.dropout, (40, 50), (40, 50)),
    (F.alpha_dropout, (40, 50), (40, 50)),
    (F.dropout1d, (40, 50, 3), (40, 50, 1)),
    (F.dropout1d, (2000, 3), (2000, 1)),
    (F.dropout2d, (40, 50, 2, 2), (40, 50, 1, 1)),
    (F.dropout3d, (40, 50, 2, 2, 1), (40, 50, 1, 1, 1)),
    (F.dropout3d, (2000, 1, 2, 2), (2000, 1, 1, 1)),
    (F.feature_alpha_dropout, (40, 50, 3), (40, 50, 1)),
]
ids = [f"{function.__name__}-{len(shape)}" for function, shape, _ in FUNCTIONS]


def generator() -> Generator:
    return Generator().manual_seed(5)


@pytest.mark.parametrize("p", [0.25, 0.8])
@pytest.mark.parametrize(("function", "shape", "draws"), FUNCTIONS, ids=ids)
def test_values_and_frequency(function: Any, shape: tuple[int, ...], draws: tuple[int, ...], p: float) -> None:
    x = jnp.full(shape, 3.0, jnp.float32)
    found = function(x, p, training=True, generator=generator())
    assert found.shape == x.shape and found.dtype == jnp.float32
    scale, shift, dropped = 1 / (1 - p), 0.0, 0.0
    if "alpha" in function.__name__:
        scale = ((1 - p) * (1 + p * ALPHA**2)) ** -0.5
        shift = scale * ALPHA * p
        dropped = shift - scale * ALPHA
    is_dropped = np.isclose(found, dropped, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.asarray(found)[~is_dropped], 3 * scale + shift, rtol=1e-5)
    # All of what one draw decides is decided alike.
    along = tuple(i for i, size in enumerate(draws) if size != shape[i])
    np.testing.assert_array_equal(is_dropped.all(along), is_dropped.any(along))
    # 2,000 draws: five standard deviations.
    assert abs(is_dropped.mean() - p) < 5 * math.sqrt(p * (1 - p) / math.prod(draws))


@pytest.mark.parametrize(("function", "shape", "draws"), FUNCTIONS, ids=ids)
def test_nothing_is_drawn_where_nothing_is_random(function: Any, shape: tuple[int, ...], draws: Any) -> None:
    source, x = generator(), jnp.ones(shape)
    before = source.get_state()
    np.testing.assert_array_equal(function(x, 0.5, training=False, generator=source), x)
    np.testing.assert_array_equal(function(x, 0.0, training=True, generator=source), x)
    np.testing.assert_array_equal(function(x, 1.0, training=True, generator=source), 0)
    gradient = jax.grad(lambda x: function(x, 1.0, training=True, generator=source).sum())(x)
    np.testing.assert_array_equal(gradient, 0)
    np.testing.assert_array_equal(source.get_state(), before)
    for wrong in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="between 0 and 1"):
            function(x, wrong)


def test_gradient_is_that_of_what_is_kept() -> None:
    x = jnp.linspace(1, 2, 100)
    for function, kept_slope in ((F.dropout, 2.0), (F.alpha_dropout, (0.5 * (1 + 0.5 * ALPHA**2)) ** -0.5)):
        found = function(x, training=True, generator=generator())
        gradient = jax.grad(lambda x, f=function: f(x, training=True, generator=generator()).sum())(x)
        np.testing.assert_allclose(np.unique(np.round(gradient, 9)), [0.0, kept_slope], rtol=1e-8)
        moved = function(x + 1, training=True, generator=generator())
        np.testing.assert_allclose(moved - found, gradient, rtol=1e-9)


def test_the_default_generator_is_used_and_moves_on() -> None:
    x = jnp.ones(200)
    manual_seed(3)
    first, second = F.dropout(x), F.dropout(x)
    manual_seed(3)
    np.testing.assert_array_equal(F.dropout(x), first)
    assert (first != second).any()


def test_numbers_do_not_depend_on_64_bit_types() -> None:
    """A configuration that changes dtypes must not change which elements are dropped."""
    found = [F.dropout(jnp.ones(200, jnp.float32), 0.3, generator=generator())]
    with jax.enable_x64(False):
        found.append(F.dropout(jnp.ones(200), 0.3, generator=generator()))
    np.testing.assert_array_equal(found[0], found[1])


def test_compiled_and_eager_draw_alike() -> None:
    key = next_key(generator())

    class Fixed(Generator):
        def next_key(self) -> jax.Array:
            return key

    eager = F.dropout(jnp.ones(200), generator=Fixed())
    np.testing.assert_array_equal(jax.jit(lambda x: F.dropout(x, generator=Fixed()))(jnp.ones(200)), eager)


def test_ranks_are_those_of_torch() -> None:
    for shape in ((3,), (2, 2, 2, 2)):
        with pytest.raises(ShapeError, match=r"\(N, C, L\) or \(C, L\)"):
            F.dropout1d(jnp.ones(shape))
    with pytest.warns(FlambeauWarning, match=r"as \(N, C, L\)") as caught:
        found = F.dropout2d(jnp.ones((40, 50, 3)), generator=generator())
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(found, F.dropout1d(jnp.ones((40, 50, 3)), generator=generator()))
    for function, shape in ((F.dropout2d, (4, 3)), (F.dropout2d, (4, 3, 1, 1, 1)), (F.dropout3d, (4, 3, 2))):
        with pytest.warns(FlambeauWarning, match="deprecated"):
            assert function(jnp.ones(shape)).shape == shape
    for function in (F.dropout2d, F.feature_alpha_dropout):
        with pytest.raises(ShapeError, match=r"\(N, C, \*\), got float64\[3\]"):
            function(jnp.ones(3), training=True)
    np.testing.assert_array_equal(F.feature_alpha_dropout(jnp.ones(3), training=False), jnp.ones(3))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float64])
def test_dtype_stays(dtype: Any) -> None:
    for function in (F.dropout, F.alpha_dropout):
        assert function(jnp.ones(8, dtype), training=True).dtype == dtype
