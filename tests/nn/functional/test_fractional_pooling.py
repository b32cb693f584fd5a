"""Max pooling at random places: torch's windows for given samples, and new ones from the default generator."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

import flambeau as fb
from flambeau._errors import DtypeError, ShapeError
from flambeau.nn.functional import pooling as F
from tests.nn.functional.parity import compare, normal


@st.composite
def geometries(draw: st.DrawFn) -> tuple[int, tuple[int, ...], dict[str, Any]]:
    n = draw(st.integers(2, 3))
    kernel, counts = (draw(st.tuples(*[st.integers(1, most)] * n)) for most in (3, 4))
    # One more than needed: torch refuses windows that are one apart in three dimensions.
    sizes = tuple(k + count + draw(st.integers(0, 4)) for k, count in zip(kernel, counts))
    by_ratio = {"output_ratio": tuple((count + 0.5) / size for count, size in zip(counts, sizes))}
    return n, sizes, {"kernel_size": kernel, **draw(st.sampled_from([{"output_size": counts}, by_ratio]))}


@settings(max_examples=8)
@given(geometries(), st.integers(0, 99), st.booleans(), st.booleans())
def test_windows_are_torchs(torch: Any, geometry: Any, seed: int, batched: bool, equal: bool) -> None:
    n, sizes, options = geometry
    numbers = np.random.default_rng(seed)
    shape = (2, 3, *sizes)[not batched :]
    x = numbers.choice([-np.inf, 0.0, 1.0, np.nan], shape) if equal else numbers.normal(size=shape)
    samples = numbers.uniform(size=(2 if batched else 1, 3, n))
    ours, theirs = getattr(F, f"fractional_max_pool{n}d"), getattr(torch.nn.functional, f"fractional_max_pool{n}d")
    compare(
        torch,
        lambda x: ours(x, **options, _random_samples=jnp.asarray(samples)),
        lambda x: theirs(x, **options, _random_samples=torch.tensor(samples)),
        x,
    )
    mine = ours(jnp.asarray(x), **options, _random_samples=jnp.asarray(samples), return_indices=True)
    its = theirs(torch.tensor(x), **options, _random_samples=torch.tensor(samples), return_indices=True)
    with_indices = getattr(F, f"fractional_max_pool{n}d_with_indices")
    for pair in (mine, with_indices(jnp.asarray(x), **options, _random_samples=jnp.asarray(samples))):
        np.testing.assert_array_equal(pair[0], its[0])
        np.testing.assert_array_equal(pair[1], its[1])
        assert str(pair[1].dtype) == "int64"


def test_windows_in_float32_are_torchs(torch: Any) -> None:
    """Whether a window starts here or one further may hang on the last bit."""
    numbers = np.random.default_rng(0)
    x, samples = (numbers.uniform(size=shape).astype(np.float32) for shape in ((50, 8, 37, 23), (50, 8, 2)))
    ours = F.fractional_max_pool2d_with_indices(jnp.asarray(x), 2, (19, 12), _random_samples=jnp.asarray(samples))
    theirs = torch.nn.functional.fractional_max_pool2d_with_indices(
        torch.tensor(x), 2, (19, 12), _random_samples=torch.tensor(samples)
    )
    np.testing.assert_array_equal(ours[1], theirs[1])


def test_samples_are_drawn_for_each_image_and_channel() -> None:
    x = jnp.broadcast_to(jnp.arange(40.0) * jnp.ones((40, 1)), (20, 10, 40, 40))
    fb.manual_seed(0)
    first, second = F.fractional_max_pool2d(x, 2, output_ratio=0.6), F.fractional_max_pool2d(x, 2, output_ratio=0.6)
    assert (first != second).any()
    assert len(np.unique(np.asarray(first[:, :, 0]).reshape(200, -1), axis=0)) > 20
    fb.manual_seed(0)
    np.testing.assert_array_equal(fb.jit(lambda x: F.fractional_max_pool2d(x, 2, output_ratio=0.6))(x), first)
    # Equally likely, on the whole: the windows cover the image from one end to the other.
    steps = np.diff(np.asarray(first[:, :, 0]), axis=-1)
    assert set(np.unique(steps)) == {1.0, 2.0}


def test_more_samples_than_images(torch: Any) -> None:
    """As when a module that keeps them meets a smaller last batch."""
    x, samples = normal(1, 2, 6, 6), np.random.default_rng(0).uniform(size=(3, 2, 2))
    ours = F.fractional_max_pool2d(jnp.asarray(x), 2, 3, _random_samples=jnp.asarray(samples))
    theirs = torch.nn.functional.fractional_max_pool2d(torch.tensor(x), 2, 3, _random_samples=torch.tensor(samples))
    np.testing.assert_array_equal(ours, theirs)


def test_windows_one_apart() -> None:
    """In three dimensions, too: torch's own check there asks for one entry more than the windows need."""
    x = jnp.asarray(normal(2, 4, 4, 4))
    np.testing.assert_array_equal(F.fractional_max_pool3d(x, 2, 3), F.max_pool3d(x, 2, 1))


def test_derivatives_vmap_and_empty_results() -> None:
    x, samples = jnp.asarray(normal(2, 2, 5, 5)), jnp.asarray(np.random.default_rng(0).uniform(size=(2, 2, 2)))

    def function(x: jax.Array) -> jax.Array:
        return F.fractional_max_pool2d(x, 2, 3, _random_samples=samples)

    check_grads(function, (x,), order=1, modes=["fwd", "rev"])
    both = jnp.stack([x, -x])
    np.testing.assert_array_equal(jax.vmap(function)(both), jnp.stack([function(lane) for lane in both]))
    assert function(x[:0]).shape == (0, 2, 3, 3)
    values, indices = F.fractional_max_pool2d(x, 2, (0, 3), return_indices=True)
    assert values.shape == indices.shape == (2, 2, 0, 3)
    half = F.fractional_max_pool2d(x.astype(jnp.bfloat16), 2, 3, _random_samples=samples.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16


MISFITS: list[tuple[tuple[int, ...], dict[str, Any], type[Exception], str]] = [
    ((6, 6), {"output_size": 3}, ShapeError, r"expected input \(N, C, H, W\) or \(C, H, W\), got"),
    ((2, 0, 6, 6), {"output_size": 3}, ShapeError, "with no empty dimension but N, got"),
    ((2, 6, 6), {}, ValueError, "expected output_size or output_ratio, got neither"),
    ((2, 6, 6), {"output_size": 6}, ShapeError, r"spatial sizes of at least \(7, 7\), got float64\[2, 6, 6\]"),
    ((2, 6, 6), {"output_ratio": (1.5, 0.5)}, ShapeError, r"spatial sizes of at least \(10, 4\), got"),
    ((2, 6, 6), {"output_ratio": (0.5, 0.5, 0.5)}, ShapeError, "output_ratio to be a number or 2 numbers"),
    ((2, 6, 6), {"output_size": -1}, ShapeError, r"a result of at least 0, got \(2, 2\) and \(-1, -1\)"),
    (
        (2, 6, 6),
        {"output_size": 3, "_random_samples": np.zeros((1, 2))},
        ShapeError,
        r"_random_samples \(1, 2, 2\), got",
    ),
    ((2, 6, 6), {"output_size": 3, "_random_samples": np.zeros((1, 3, 2))}, ShapeError, r"samples \(1, 2, 2\), got"),
    ((2, 6, 6), {"output_size": 3, "_random_samples": np.zeros((1, 2, 3))}, ShapeError, r"samples \(1, 2, 2\), got"),
    ((2, 2, 6, 6), {"output_size": 3, "_random_samples": np.zeros((1, 2, 2))}, ShapeError, r"samples \(2, 2, 2\), got"),
    ((2, 6, 6), {"output_size": 3, "_random_samples": np.zeros((1, 2, 2), np.float32)}, DtypeError, "of dtype float64"),
]


@pytest.mark.parametrize(("shape", "options", "error", "message"), MISFITS)
def test_misfits_are_refused_as_in_torch(
    torch: Any, shape: tuple[int, ...], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    def given(convert: Any) -> dict[str, Any]:
        return {name: convert(value) if name == "_random_samples" else value for name, value in options.items()}

    with pytest.raises(error, match=message):
        F.fractional_max_pool2d(jnp.zeros(shape), 2, **given(jnp.asarray))
    with pytest.raises((RuntimeError, ValueError, IndexError)):
        torch.nn.functional.fractional_max_pool2d(torch.zeros(shape).double(), 2, **given(torch.tensor))


def test_windows_hold_something() -> None:
    """Torch returns minus infinity for a window of size 0."""
    with pytest.raises(ShapeError, match="kernel_size of at least 1"):
        F.fractional_max_pool2d(jnp.zeros((2, 6, 6)), 0, 3)
    with pytest.raises(DtypeError, match="expected input of a floating dtype"):
        F.fractional_max_pool2d(jnp.zeros((2, 6, 6), int), 2, 3)
