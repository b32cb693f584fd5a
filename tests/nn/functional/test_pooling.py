"""Pooling over windows of a given size, or that give so many values: parity with torch, and what does not fit."""

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
from flambeau.nn.functional import pooling as F
from tests.nn.functional.parity import compare, normal

SHAPES = {1: (2, 3, 9), 2: (2, 3, 7, 8), 3: (2, 2, 5, 4, 6)}
UNUSUAL = [-math.inf, -1.0, 0.0, 1.0, math.inf, math.nan]


def gradient_of(function: Any, x: np.ndarray) -> tuple[Any, Any, Any]:
    """Value, indices (None if there are none), and the gradient against a fixed cotangent."""

    def pair(x: jax.Array) -> tuple[jax.Array, Any]:
        output = function(x)
        return output if isinstance(output, tuple) else (output, None)

    value, pull, indices = jax.vjp(pair, jnp.asarray(x), has_aux=True)
    return value, indices, pull(jnp.asarray(normal(*value.shape, seed=1)))[0]


def assert_torchs(torch: Any, name: str, x: np.ndarray, *args: Any, **options: Any) -> None:
    """Value, indices and gradient are torch's; what torch refuses is refused."""
    given = torch.tensor(x, requires_grad=True)
    try:
        output = getattr(torch.nn.functional, name)(given, *args, **options)
    except (RuntimeError, ValueError):
        with pytest.raises(ShapeError):
            getattr(F, name)(jnp.asarray(x), *args, **options)
        return
    value, indices, gradient = gradient_of(lambda x: getattr(F, name)(x, *args, **options), x)
    expected, places = output if isinstance(output, tuple) else (output, None)
    np.testing.assert_allclose(value, expected.detach(), rtol=1e-9, atol=1e-9)
    if places is not None:
        np.testing.assert_array_equal(indices, places)
        assert str(indices.dtype) == "int64"
        # Without indices, and without a derivative that asks for them, they are found in another way.
        options.pop("return_indices", None)
        alone = getattr(F, name.removesuffix("_with_indices"))(jnp.asarray(x), *args, **options)
        np.testing.assert_array_equal(alone, value)
    (slope,) = torch.autograd.grad(expected, given, torch.tensor(normal(*expected.shape, seed=1)))
    np.testing.assert_allclose(gradient, slope, rtol=1e-9, atol=1e-9)


# -- windows of a given size --------------------------------------------------------------------------------------------

OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("max_pool", {}),
    ("max_pool", {"stride": 1, "padding": 1, "dilation": 2}),
    ("max_pool", {"stride": 2, "padding": [1], "ceil_mode": True}),
    ("avg_pool", {}),
    ("avg_pool", {"stride": 2, "padding": 1}),
    ("avg_pool", {"stride": (2,), "padding": 1, "ceil_mode": True, "count_include_pad": False}),
    ("lp_pool", {}),
    ("lp_pool", {"stride": 2, "ceil_mode": True}),
]


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_pooling(torch: Any, n: int, name: str, options: dict[str, Any]) -> None:
    args = (2, 3) if name == "lp_pool" else (3,)
    for shape in (SHAPES[n], SHAPES[n][1:]):
        ours, theirs = getattr(F, f"{name}{n}d"), getattr(torch.nn.functional, f"{name}{n}d")
        compare(torch, ours, theirs, normal(*shape), *args, second=name == "lp_pool" and n < 3, **options)


@st.composite
def inputs(draw: st.DrawFn, n: int) -> np.ndarray:
    """With equal numbers, infinities and NaN, or without; with a batch dimension, or without."""
    lead = draw(st.sampled_from([(2,), (2, 1), (1, 2)]))
    shape = (*lead, *draw(st.tuples(*[st.integers(1, 7)] * n)))
    seed = draw(st.integers(0, 99))
    kinds = {"normal": lambda: normal(*shape, seed=seed)}
    for kind, values in (("equal", [-1.0, 0.0, 1.0]), ("unusual", UNUSUAL), ("lowest", [-math.inf])):
        kinds[kind] = partial(np.random.default_rng(seed).choice, values, shape)
    return kinds[draw(st.sampled_from(sorted(kinds)))]()


def each(n: int, low: int, high: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.tuples(*[st.integers(low, high)] * n)


@st.composite
def geometries(draw: st.DrawFn) -> tuple[int, np.ndarray, tuple[int, ...], dict[str, Any]]:
    n = draw(st.integers(1, 3))
    stride = draw(st.one_of(st.none(), each(n, 1, 4)))
    options = {"stride": stride, "padding": draw(each(n, 0, 2)), "ceil_mode": draw(st.booleans())}
    return n, draw(inputs(n)), draw(each(n, 1, 4)), options


@settings(max_examples=25)
@given(geometries(), st.data())
def test_max_pooling_of_any_geometry(torch: Any, geometry: Any, data: st.DataObject) -> None:
    n, x, kernel, options = geometry
    options = {**options, "dilation": data.draw(each(n, 1, 3))}
    # Of a window that leaps over the input torch returns an index outside of it, and writes its gradient there.
    spans = zip(x.shape[-n:], kernel, options["dilation"], options["padding"], strict=True)
    assume(not any(step > size and pad and steps > 1 for size, steps, step, pad in spans))
    assert_torchs(torch, f"max_pool{n}d", x, kernel, **options, return_indices=True)
    assert_torchs(torch, f"max_pool{n}d_with_indices", x, kernel, **options)


def only_torch_refuses(n: int, x: np.ndarray, kernel: tuple[int, ...]) -> bool:
    """Averages over volumes smaller than a window, though padding or `ceil_mode` make up for it as they do for images."""
    return n == 3 and any(size < width for size, width in zip(x.shape[-3:], kernel, strict=True))


@settings(max_examples=25)
@given(geometries(), st.booleans(), st.sampled_from([None, None, 3, -2]))
def test_average_pooling_of_any_geometry(torch: Any, geometry: Any, include: bool, divisor: int | None) -> None:
    n, x, kernel, options = geometry
    assume(not only_torch_refuses(n, x, kernel))
    if n > 1:
        options = {**options, "divisor_override": divisor}
    assert_torchs(torch, f"avg_pool{n}d", x, kernel, **options, count_include_pad=include)


@settings(max_examples=8)
@given(st.data(), st.integers(1, 3))
def test_adaptive_pooling_of_any_size(torch: Any, data: st.DataObject, n: int) -> None:
    x = data.draw(inputs(n))
    sizes = (
        st.integers(1, 9)
        if n == 1
        else st.one_of(st.integers(1, 9), st.tuples(*[st.sampled_from([None, 1, 2, 5])] * n))
    )
    size = data.draw(sizes)
    assert_torchs(torch, f"adaptive_avg_pool{n}d", x, size)
    assert_torchs(torch, f"adaptive_max_pool{n}d", x, size, return_indices=True)
    assert_torchs(torch, f"adaptive_max_pool{n}d_with_indices", x, size)


@pytest.mark.parametrize("kernel", [8, 9, 17])
def test_long_windows(torch: Any, kernel: int) -> None:
    """From some length on they are searched by doubling, in which the first maximum must stay the first."""
    x = np.random.default_rng(0).choice([0.0, 1.0, math.nan], (2, 60), p=[0.6, 0.38, 0.02])
    for options in ({"stride": 1}, {"stride": 3, "padding": 4}, {"stride": 2, "dilation": 3}):
        assert_torchs(torch, "max_pool1d", x, kernel, **options, return_indices=True)


@pytest.mark.parametrize("kernel", [2, 3, 5, (3, 9)])
def test_windows_side_by_side(torch: Any, kernel: Any) -> None:
    """With a rest behind the last ones; and one window for all. The order in which they are read must not matter."""
    x = np.random.default_rng(0).choice([0.0, 1.0, math.nan], (2, 1, 17, 19), p=[0.6, 0.38, 0.02])
    assert_torchs(torch, "max_pool2d", x, kernel, return_indices=True)
    assert_torchs(torch, "max_pool2d", x[..., :12, :11], (12, 10), return_indices=True)
    assert_torchs(torch, "adaptive_max_pool2d", x, 4, return_indices=True)
    for function, args in (("avg_pool2d", (kernel,)), ("adaptive_avg_pool2d", (1,)), ("adaptive_avg_pool2d", (4,))):
        assert_torchs(torch, function, normal(2, 1, 17, 19), *args)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_integers(torch: Any, n: int) -> None:
    """Maxima of them, and averages cut towards zero."""
    x = np.random.default_rng(0).integers(-9, 9, SHAPES[n])
    for name in ("max_pool", "avg_pool"):
        special = {"return_indices": True} if name == "max_pool" else {"ceil_mode": True}
        ours = getattr(F, f"{name}{n}d")(jnp.asarray(x), 3, 2, 1, **special)
        theirs = getattr(torch.nn.functional, f"{name}{n}d")(torch.tensor(x), 3, 2, 1, **special)
        for mine, its in zip(jax.tree.leaves(ours), theirs if isinstance(theirs, tuple) else (theirs,), strict=True):
            np.testing.assert_array_equal(mine, its)
            assert str(mine.dtype) == "int64"
    lowest = jnp.full(SHAPES[n], -128, jnp.int8)
    assert (getattr(F, f"max_pool{n}d")(lowest, 3, padding=1) == -128).all()
    assert (getattr(F, f"avg_pool{n}d")(lowest, 3) == -128).all()  # the sum of a window is no int8


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_averaged_in_float32(torch: Any, dtype: str) -> None:
    x = jnp.asarray(normal(2, 3, 32, 32), dtype)
    theirs = torch.tensor(np.asarray(x, np.float64)).to(getattr(torch, dtype))
    for name, args in (("avg_pool2d", (16,)), ("adaptive_avg_pool2d", (3,)), ("max_pool2d", (3,))):
        ours = getattr(F, name)(x, *args)
        assert str(ours.dtype) == dtype
        expected = getattr(torch.nn.functional, name)(theirs, *args).double()
        np.testing.assert_allclose(np.asarray(ours, np.float64), expected, rtol=float(jnp.finfo(dtype).eps))


# -- powers -------------------------------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(geometries(), st.sampled_from([1, 2, 2.0, 3, 4, 0.5, -1, -2.0, 2.5, math.inf, -math.inf]))
def test_power_averages(torch: Any, geometry: Any, p: float) -> None:
    n, x, kernel, options = geometry
    del options["padding"]
    assume(not np.isnan(x).any() and not np.isinf(x).any())  # a gradient of 0 stands in torch for that of a NaN
    assume(not only_torch_refuses(n, x, kernel))
    if n == 1:
        kernel = kernel[0]  # torch multiplies by it
    assert_torchs(torch, f"lp_pool{n}d", x, p, kernel, **options)


@pytest.mark.parametrize("p", [1, 2, 3])
def test_a_sum_of_zero_has_no_slope(torch: Any, p: float) -> None:
    assert_torchs(torch, "lp_pool1d", np.zeros((1, 4)), p, 2)
    assert_torchs(torch, "lp_pool1d", np.array([[1.0, -1.0, 0.0, 2.0]]), p, 2)


# -- derivatives, batches, compilation ----------------------------------------------------------------------------------

FUNCTIONS = {
    "max_pool2d": partial(F.max_pool2d, kernel_size=3, stride=2, padding=1),
    "max_pool2d side by side": partial(F.max_pool2d, kernel_size=3),
    "avg_pool2d": partial(F.avg_pool2d, kernel_size=3, stride=2, padding=1),
    "lp_pool2d": partial(F.lp_pool2d, norm_type=2, kernel_size=3, stride=2),
    "adaptive_avg_pool2d": partial(F.adaptive_avg_pool2d, output_size=(3, 5)),
    "adaptive_max_pool2d": partial(F.adaptive_max_pool2d, output_size=(3, 5)),
    "adaptive_max_pool2d of all": partial(F.adaptive_max_pool2d, output_size=1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_derivatives_of_both_modes_and_vmap(name: str) -> None:
    function, x = FUNCTIONS[name], jnp.asarray(normal(2, 2, 7, 7))
    check_grads(function, (x[:1],), order=1, modes=["fwd", "rev"])
    np.testing.assert_allclose(jax.vmap(function)(x), jnp.stack([function(lane) for lane in x]), rtol=1e-12)
    assert function(x[:0]).shape == (0, *function(x).shape[1:])


def test_a_maximum_is_differentiated_by_its_index() -> None:
    """XLA's own derivative of a maximum over windows takes many times as long on a CPU."""
    x = jnp.zeros((2, 3, 8, 8))
    text = jax.jit(jax.grad(lambda x: FUNCTIONS["max_pool2d"](x).sum())).lower(x).as_text()
    assert "scatter" in text
    assert "select_and_scatter" not in text


# -- what does not fit --------------------------------------------------------------------------------------------------

MISFITS: list[tuple[str, tuple[int, ...], dict[str, Any], str]] = [
    ("max_pool1d", (9,), {"kernel_size": 2}, r"expected input \(N, C, L\) or \(C, L\), got float64\[9\]"),
    ("max_pool2d", (2, 0, 4, 4), {"kernel_size": 2}, "with no empty dimension but N, got float64"),
    ("max_pool2d", (2, 3, 4, 4), {"kernel_size": 0}, r"kernel_size of at least 1, got \(0, 0\)"),
    ("max_pool2d", (2, 3, 4, 4), {"kernel_size": (1, 2, 3)}, "kernel_size to be an int or a tuple of 2 ints"),
    ("max_pool2d", (2, 3, 4, 4), {"kernel_size": 2, "stride": 0}, r"stride of at least 1, got \(0, 0\)"),
    ("max_pool3d", (2, 3, 4, 4, 4), {"kernel_size": 2, "dilation": 0}, "dilation of at least 1"),
    ("max_pool2d", (2, 3, 4, 4), {"kernel_size": 2, "padding": 2}, "padding from 0 to half of kernel_size"),
    ("avg_pool2d", (2, 3, 4, 4), {"kernel_size": 3, "padding": -1}, "padding from 0 to half of kernel_size"),
    ("avg_pool2d", (4, 4), {"kernel_size": 3}, r"expected input \(N, C, H, W\) or \(C, H, W\), got float64\[4, 4\]"),
    ("avg_pool3d", (2, 3, 4, 4, 4), {"kernel_size": (2, 2, 5)}, r"with \(D, H, W\) of at least \(2, 2, 5\), got"),
    ("lp_pool2d", (2, 3, 4, 4), {"norm_type": 2, "kernel_size": 5}, r"with \(H, W\) of at least \(5, 5\), got"),
    ("adaptive_avg_pool2d", (2, 3, 4, 4), {"output_size": -1}, "output_size that is not negative, got -1"),
    ("adaptive_avg_pool2d", (4, 4), {"output_size": 2}, r"expected input \(N, C, H, W\) or \(C, H, W\), got"),
    ("adaptive_avg_pool3d", (2, 3, 4, 0, 4), {"output_size": 2}, "with no empty dimension but N, got"),
    ("adaptive_max_pool2d", (2, 3, 4, 4), {"output_size": (1, 2, 3)}, "output_size to be an int or 2 ints, got"),
    ("adaptive_max_pool1d", (2, 3, 4), {"output_size": -1}, "output_size that is not negative, got -1"),
]


@pytest.mark.parametrize(("name", "shape", "options", "message"), MISFITS)
def test_misfits_are_refused_as_in_torch(
    torch: Any, name: str, shape: tuple[int, ...], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ShapeError, match=message):
        getattr(F, name)(jnp.zeros(shape), **options)
    with pytest.raises((RuntimeError, ValueError, IndexError)):
        getattr(torch.nn.functional, name)(torch.zeros(shape).double(), **options)


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(
        ShapeError, match=r"kernel_size of at least 1, .*; .*stride of at least 1, .*; .*padding from 0"
    ):
        F.max_pool1d(jnp.zeros((2, 3)), 0, 0, 5)


def test_numbers_that_nothing_is_divided_by(torch: Any) -> None:
    for library, zeros in ((F, jnp.zeros((2, 4, 4))), (torch.nn.functional, torch.zeros(2, 4, 4))):
        with pytest.raises((ValueError, RuntimeError)):
            library.avg_pool2d(zeros, 2, divisor_override=0)
        with pytest.raises((ValueError, ZeroDivisionError)):
            library.lp_pool2d(zeros, 0, 2)
    with pytest.raises(ValueError, match="divisor_override other than 0, got 0"):
        F.avg_pool3d(jnp.zeros((1, 2, 4, 4)), 2, divisor_override=0)


def test_dtypes_without_an_order_or_an_average() -> None:
    flags, integers, numbers = (jnp.zeros((2, 4), dtype) for dtype in (bool, int, complex))
    for x in (flags, numbers):
        for name, args in (("max_pool1d", (2,)), ("avg_pool1d", (2,)), ("adaptive_max_pool1d", (2,))):
            with pytest.raises(DtypeError, match="expected input of a floating or integer dtype, got"):
                getattr(F, name)(x, *args)
    for x in (flags, integers, numbers):
        for name, args in (("adaptive_avg_pool1d", (2,)), ("lp_pool1d", (2, 2))):
            with pytest.raises(DtypeError, match="expected input of a floating dtype, got"):
                getattr(F, name)(x, *args)


def test_options_must_be_ints() -> None:
    with pytest.raises(TypeError, match=r"kernel_size to be an int or a tuple of 1 ints, got 1\.5"):
        F.max_pool1d(jnp.zeros((2, 3)), 1.5)  # pyright: ignore[reportArgumentType]
