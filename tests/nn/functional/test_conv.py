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
from flambeau.nn.functional import _convolution, conv_tbc
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


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")  # torch, of what it copies
@pytest.mark.parametrize(("name", "input", "weight", "options"), CONVOLUTIONS)
def test_convolution(
    torch: Any, name: str, input: tuple[int, ...], weight: tuple[int, ...], options: dict[str, Any]
) -> None:
    second = len(weight) < 5  # what is three-dimensional takes long to compile
    given = arrays(input, weight, weight[0])
    compare(torch, getattr(F, name), getattr(torch.nn.functional, name), *given, second=second, **options)


@pytest.mark.parametrize(("name", "input", "weight", "options"), TRANSPOSES)
def test_transposed_convolution(
    torch: Any, name: str, input: tuple[int, ...], weight: tuple[int, ...], options: dict[str, Any]
) -> None:
    second = len(weight) < 5
    given = arrays(input, weight, weight[1] * options.get("groups", 1))
    compare(torch, getattr(F, name), getattr(torch.nn.functional, name), *given, second=second, **options)


def pair(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


@st.composite
def geometries(draw: st.DrawFn) -> dict[str, Any]:
    options = {"stride": draw(pair(1, 3)), "dilation": draw(pair(1, 3)), "groups": draw(st.sampled_from([1, 2, 4]))}
    return {"size": draw(pair(1, 8)), "kernel": draw(pair(1, 3)), "padding": draw(pair(0, 3)), **options}


@settings(max_examples=8)
@given(geometries())
def test_convolution_of_any_geometry(torch: Any, geometry: dict[str, Any]) -> None:
    size, kernel, groups = geometry.pop("size"), geometry.pop("kernel"), geometry["groups"]
    x, w = normal(2, 4, *size), normal(4, 4 // groups, *kernel)
    spans = zip(size, geometry["padding"], geometry["dilation"], kernel)
    if any(n + 2 * p < d * (k - 1) + 1 for n, p, d, k in spans):
        with pytest.raises(ShapeError, match="expected input with"):
            F.conv2d(jnp.asarray(x), jnp.asarray(w), **geometry)
    else:
        compare(torch, F.conv2d, torch.nn.functional.conv2d, x, w, None, **geometry)


@settings(max_examples=8)
@given(geometries(), st.tuples(st.integers(0, 2), st.integers(0, 2)))
def test_transposed_convolution_of_any_geometry(
    torch: Any, geometry: dict[str, Any], output_padding: tuple[int, int]
) -> None:
    size, kernel, groups = geometry.pop("size"), geometry.pop("kernel"), geometry["groups"]
    x, w = normal(2, 4, *size), normal(4, 3, *kernel)
    spans = list(zip(size, kernel, geometry["stride"], geometry["padding"], geometry["dilation"], output_padding))
    assume(all(e < max(s, d) for _, _, s, _, d, e in spans))
    if any(s * (n - 1) - 2 * p + d * (k - 1) + e + 1 < 1 for n, k, s, p, d, e in spans):
        with pytest.raises(ShapeError, match="large enough for a result"):
            F.conv_transpose2d(jnp.asarray(x), jnp.asarray(w), output_padding=output_padding, **geometry)
    else:
        bias = normal(3 * groups)
        options = {**geometry, "output_padding": output_padding}
        compare(torch, F.conv_transpose2d, torch.nn.functional.conv_transpose2d, x, w, bias, **options)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("groups", [1, 2, 8])
def test_half_precision_is_as_exact_as_in_torch(torch: Any, dtype: str, groups: int) -> None:
    x, w = jnp.asarray(normal(2, 8, 9, 9), dtype), jnp.asarray(normal(8, 8 // groups, 5, 5), dtype)
    output, pull = jax.vjp(lambda x, w: F.conv2d(x, w, groups=groups), x, w)
    assert [each.dtype for each in (output, *pull(output))] == [jnp.dtype(dtype)] * 3
    wide = [torch.tensor(np.asarray(each, np.float64)) for each in (x, w)]
    exact = torch.nn.functional.conv2d(*wide, groups=groups)
    theirs = torch.nn.functional.conv2d(*(each.to(getattr(torch, dtype)) for each in wide), groups=groups).double()
    # One rounding of a value up to the greatest: sums in the narrow dtype would be several times as far off.
    rounding = float(jnp.finfo(dtype).eps) / 2 * exact.abs().max().item()
    error = np.abs(np.asarray(output, np.float64) - exact.numpy()).max()
    assert error <= max(rounding, (theirs - exact).abs().max().item())


def test_empty_batches() -> None:
    for groups in (1, 2, 4):
        w = jnp.zeros((4, 4 // groups, 3))
        assert F.conv1d(jnp.zeros((0, 4, 5)), w, groups=groups).shape == (0, 4, 3)
        assert F.conv_transpose1d(jnp.zeros((0, 4, 5)), w, stride=2, groups=groups).shape == (0, 4, 11)


GEOMETRY = _convolution.Geometry((2, 1), ((1, 0), (2, 2)), (1, 2), 1)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_all_forms_are_one_function(groups: int) -> None:
    """What the CPU gets is what other platforms get, which no test here can run."""
    x, w = jnp.asarray(normal(2, 4, 7, 6)), jnp.asarray(normal(8, 4 // groups, 3, 2))
    geometry = GEOMETRY._replace(groups=groups)
    forms = [_convolution._scanned_taps, _convolution._unrolled_taps] if groups == 4 else [_convolution._scanned_taps]
    expected = _convolution._one_operation(x, w, geometry)
    for form in forms:
        np.testing.assert_allclose(form(x, w, geometry), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_derivatives_of_both_modes_and_vmap(groups: int) -> None:
    x, w = jnp.asarray(normal(2, 4, 5)), jnp.asarray(normal(4, 4 // groups, 2))
    for function in (F.conv1d, F.conv_transpose1d):
        of_both = partial(function, stride=2, groups=groups)
        check_grads(of_both, (x, w), order=1, modes=["fwd", "rev"])
        mapped = jax.vmap(of_both)(jnp.stack([x, 2 * x]), jnp.stack([w, 3 * w]))
        np.testing.assert_allclose(mapped, jnp.stack([of_both(x, w), 6 * of_both(x, w)]), rtol=1e-12)


CASES = {"depthwise": ((4, 1, 3, 3), 4, 1), "grouped": ((4, 2, 3, 3), 2, 1), "long": ((4, 1, 9, 9), 4, 4)}


@pytest.mark.parametrize("case", CASES)
def test_the_backward_pass_keeps_the_arguments_alone(case: str) -> None:
    shape, groups, padding = CASES[case]
    x, w = jnp.asarray(normal(2, 4, 8, 8)), jnp.asarray(normal(*shape))
    _, pull = jax.vjp(partial(F.conv2d, padding=padding, groups=groups), x, w)
    starts = 5 * math.prod(shape[2:])  # where the taps of a scan begin: five small ints for each
    assert sum(leaf.size for leaf in jax.tree.leaves(pull)) <= x.size + w.size + starts + 2


@pytest.mark.parametrize("case", CASES)
def test_only_the_cpu_gets_sums_over_taps(case: str) -> None:
    """XLA's CPU backend is up to hundreds of times slower than it need be with groups, in the gradient above all."""
    shape, groups, padding = CASES[case]
    x, w = jnp.asarray(normal(2, 4, 8, 8)), jnp.asarray(normal(*shape))
    both = jax.jit(jax.grad(lambda x, w: F.conv2d(x, w, padding=padding, groups=groups).sum(), (0, 1))).trace(x, w)
    for platform, count in (("cpu", 0), ("cuda", 2), ("tpu", 2)):  # a sum's gradient needs no value, so two remain
        text = both.lower(lowering_platforms=(platform,)).as_text()
        assert text.count("stablehlo.convolution") == count, platform


def test_a_depthwise_weights_gradient_is_as_long_a_program_for_any_kernel() -> None:
    """One sum written out for each tap of 7x7 took more than a second to compile, for each layer of a network."""

    def program(size: int) -> str:
        x, w = jnp.asarray(normal(2, 4, 9, 9)), jnp.asarray(normal(4, 1, size, size))
        function = partial(F.conv2d, x, padding=size // 2, groups=4)
        return jax.jit(jax.grad(lambda w: function(w).sum())).trace(w).lower(lowering_platforms=("cpu",)).as_text()

    small, large = program(3), program(7)
    assert small.count("stablehlo.while") == large.count("stablehlo.while") == 1
    assert small.count("stablehlo.") == large.count("stablehlo.")


@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d"])
def test_depthwise_gradients_within_other_transformations(name: str) -> None:
    x, w = jnp.asarray(normal(2, 4, 6, 6)), jnp.asarray(normal(4, 1, 3, 3))
    layer = partial(getattr(F, name), stride=(1, 2), padding=1, groups=4)
    slopes = jax.grad(lambda x, w: jnp.sin(layer(x, w)).sum(), (0, 1))
    one_by_one = [slopes(x, w), slopes(2 * x, 3 * w)]
    mapped = jax.vmap(slopes)(jnp.stack([x, 2 * x]), jnp.stack([w, 3 * w]))
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-12), mapped, jax.tree.map(lambda *s: jnp.stack(s), *one_by_one)
    )

    def scanned(x: jax.Array, w: jax.Array) -> jax.Array:
        body = jax.checkpoint(lambda total, k: (total + jnp.sin(layer(k * x, k * w)).sum(), None))
        return jax.lax.scan(body, jnp.zeros(()), jnp.arange(1.0, 3.0))[0]

    looped = jax.grad(lambda x, w: sum(jnp.sin(layer(k * x, k * w)).sum() for k in (1.0, 2.0)), (0, 1))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9), jax.grad(scanned, (0, 1))(x, w), looped(x, w))


def test_of_a_strided_transpose_only_the_weights_gradient_is_a_sum() -> None:
    """Everything else is as fast, or faster, in one operation; and where no such gradient is asked for, there is no sum."""
    x, w = jnp.asarray(normal(2, 4, 8, 8)), jnp.asarray(normal(4, 3, 3, 3))
    function = partial(F.conv_transpose2d, stride=2)
    both = jax.jit(jax.grad(lambda x, w: function(x, w).sum(), (0, 1))).trace(x, w)
    for platform, counts in (("cpu", (1, True)), ("cuda", (2, False)), ("tpu", (2, False))):
        text = both.lower(lowering_platforms=(platform,)).as_text()
        assert (text.count("stablehlo.convolution"), "stablehlo.while" in text) == counts, platform
    assert "scan" not in str(jax.make_jaxpr(jax.grad(lambda x: function(x, w).sum()))(x))
    _, pull = jax.vjp(function, x, w)
    assert sum(leaf.size for leaf in jax.tree.leaves(pull)) <= x.size + w.size + 5 * 9 + 1


MISFITS: list[tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any], str]] = [
    ("conv2d", (8, 16, 28, 28), (64, 32, 3, 3), {}, r"input \(N, 32, H, W\), got float64\[8, 16, 28, 28\]"),
    ("conv2d", (16, 28, 28), (64, 32, 3, 3), {}, r"expected input \(32, H, W\), got float64\[16, 28, 28\]"),
    ("conv2d", (28, 28), (64, 32, 3, 3), {}, r"expected input \(N, 32, H, W\) or \(32, H, W\), got float64\[28, 28\]"),
    ("conv3d", (1, 2, 3, 3), (2, 4, 1, 1, 1), {"groups": 2}, r"expected input \(8, D, H, W\), got"),
    ("conv2d", (1, 2, 3, 3), (2, 2, 3), {}, r"expected weight \(O, C / groups, K, L\), got float64\[2, 2, 3\]"),
    ("conv1d", (1, 2, 3), (2, 2, 3), {"bias": jnp.zeros(3)}, r"expected bias \(2,\), got float64\[3\]"),
    ("conv1d", (1, 2, 3), (2, 2, 4), {}, r"expected input with \(L\) of at least \(4,\), got float64\[1, 2, 3\]"),
    ("conv1d", (1, 4, 3), (3, 2, 3), {"groups": 2}, r"multiple of 2 \(groups\) kernels, got float64\[3, 2, 3\]"),
    ("conv1d", (1, 4, 3), (3, 2, 3), {"groups": 0}, "groups of at least 1, got 0"),
    ("conv1d", (1, 2, 3), (2, 2, 3), {"stride": 0, "dilation": -1}, "stride of at least 1.*dilation of at least 1"),
    ("conv1d", (1, 2, 3), (2, 2, 3), {"stride": (1, 1)}, r"stride to be an int or a tuple of 1 ints, got \(1, 1\)"),
    ("conv1d", (1, 2, 3), (2, 2, 3), {"padding": -1}, "padding that is not negative"),
    ("conv1d", (1, 2, 3), (2, 2, 3), {"padding": "full"}, "'valid', 'same', an int or ints, got 'full'"),
    ("conv1d", (1, 2, 3), (2, 2, 3), {"padding": "same", "stride": 2}, "stride 1 with padding 'same', got"),
    ("conv_transpose1d", (1, 3, 3), (2, 2, 3), {}, r"expected input \(N, 2, L\), got float64\[1, 3, 3\]"),
    ("conv_transpose1d", (1, 2, 3), (2, 2, 3), {"padding": 3}, r"large enough for a result, got float64\[1, 2, 3\]"),
    ("conv_transpose1d", (1, 2, 3), (2, 2, 3), {"output_padding": 1}, "output_padding from 0 to below"),
    ("conv_transpose1d", (1, 2, 3), (2, 2, 3), {"groups": 2, "bias": jnp.zeros(2)}, r"expected bias \(4,\)"),
]


@pytest.mark.parametrize(("name", "input", "weight", "options", "message"), MISFITS)
def test_misfits_are_refused_as_in_torch(
    torch: Any, name: str, input: tuple[int, ...], weight: tuple[int, ...], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ShapeError, match=message):
        getattr(F, name)(jnp.zeros(input), jnp.zeros(weight), **options)
    theirs = {key: torch.tensor(np.asarray(value)) if key == "bias" else value for key, value in options.items()}
    with pytest.raises((RuntimeError, ValueError)):
        getattr(torch.nn.functional, name)(torch.zeros(input).double(), torch.zeros(weight).double(), **theirs)


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(ShapeError, match=r"expected input .*; expected bias .*; expected stride .*; expected padding"):
        F.conv1d(jnp.zeros((1, 3, 5)), jnp.zeros((2, 2, 3)), jnp.zeros(5), stride=0, padding=-1)


def test_mixed_dtypes_are_refused() -> None:
    x, w, b = jnp.zeros((1, 2, 3)), jnp.zeros((2, 2, 3), jnp.float32), jnp.zeros(2, jnp.bfloat16)
    with pytest.raises(DtypeError, match=r"weight of dtype float64 like input, got .*; expected bias of dtype float64"):
        F.conv1d(x, w, b)
    with pytest.raises(RuntimeError, match="expected weight"):
        F.conv_transpose1d(x, w)


def test_options_must_be_ints() -> None:
    with pytest.raises(TypeError, match=r"stride to be an int or a tuple of 1 ints, got 1\.5"):
        F.conv1d(jnp.zeros((1, 2, 3)), jnp.zeros((2, 2, 3)), stride=1.5)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("pad", [0, 2])
def test_conv_tbc(torch: Any, pad: int) -> None:
    given = normal(6, 2, 3), normal(4, 3, 5, seed=1), normal(5, seed=2)
    compare(torch, conv_tbc, torch.nn.functional.conv_tbc, *given, pad=pad)


@pytest.mark.parametrize(
    "shapes", [((6, 3), (4, 3, 5), 5), ((6, 2, 2), (4, 3, 5), 5), ((6, 2, 3), (4, 3), 5), ((6, 2, 3), (4, 3, 5), 3)]
)
def test_mistakes_of_conv_tbc(shapes: tuple[tuple[int, ...], tuple[int, ...], int]) -> None:
    with pytest.raises(ShapeError, match=r"expected (input|weight|bias)"):
        input, weight, bias = map(jnp.zeros, shapes)
        conv_tbc(input, weight, bias)
