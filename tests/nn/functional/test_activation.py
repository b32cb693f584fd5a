"""Activations: parity with torch at ordinary points and at every kink, extreme inputs, dtypes and errors."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flambeau._errors import DtypeError, FlambeauWarning, ShapeError
from flambeau.core.random import Generator
from flambeau.nn import functional as F
from tests.nn.functional.parity import compare, normal

X = 4 * normal(3, 6)

# Name, keyword arguments, and the points where the function or its derivative has a kink.
ELEMENTWISE: list[tuple[str, dict[str, Any], list[float]]] = [
    ("relu", {}, [0.0]),
    ("relu6", {}, [0.0, 6.0]),
    ("hardtanh", {}, [-1.0, 1.0]),
    ("hardtanh", {"min_val": -0.5, "max_val": 2.0}, [-0.5, 2.0]),
    ("leaky_relu", {}, [0.0]),
    ("leaky_relu", {"negative_slope": -0.3}, [0.0]),
    ("elu", {"alpha": 2.0}, [0.0, 800.0]),
    ("selu", {}, [0.0, 800.0]),
    ("celu", {"alpha": 0.5}, [0.0, 800.0]),
    ("gelu", {}, [0.0, -40.0, 40.0]),
    ("gelu", {"approximate": "tanh"}, [0.0, -40.0, 40.0]),
    ("silu", {}, [0.0, -800.0, 800.0]),
    ("mish", {}, [0.0, -800.0, 19.0, 21.0, 800.0]),
    ("sigmoid", {}, [0.0, -800.0, 800.0]),
    ("tanh", {}, [0.0, -800.0, 800.0]),
    ("softplus", {}, [0.0, 20.0, 21.0, -800.0]),
    ("softplus", {"beta": 0.5, "threshold": 4.0}, [0.0, 8.0, 9.0]),
    ("softsign", {}, [0.0]),
    ("tanhshrink", {}, [0.0]),
    ("softshrink", {}, [-0.5, 0.5]),
    ("softshrink", {"lambd": 0.0}, [0.0]),
    ("hardshrink", {}, [-0.5, 0.5]),
    ("hardsigmoid", {}, [-3.0, 3.0]),
    ("hardswish", {}, [-3.0, 3.0]),
    ("logsigmoid", {}, [0.0, -800.0, 800.0]),
    ("threshold", {"threshold": 0.5, "value": -2.0}, [0.5]),
    ("rrelu", {"lower": 0.1, "upper": 0.5}, [0.0]),
]


@pytest.mark.parametrize(("name", "options", "kinks"), ELEMENTWISE, ids=[f"{n}-{o}" for n, o, _ in ELEMENTWISE])
def test_elementwise(torch: Any, name: str, options: dict[str, Any], kinks: list[float]) -> None:
    """Value and derivatives agree everywhere, the kinks included."""
    x = np.concatenate([X.ravel(), kinks])
    # Of hardsigmoid torch has no second derivative, and the first with a sixth that is rounded to float32.
    how: dict[str, Any] = {"tolerance": 1e-7} if name == "hardsigmoid" else {"second": True, "kinks": len(kinks)}
    compare(torch, getattr(F, name), getattr(torch.nn.functional, name), x, **how, **options)


def everything(x: jax.Array) -> list[jax.Array]:
    """All of the table at once, which compiles once."""
    return [getattr(F, name)(x, **options) for name, options, _ in ELEMENTWISE]


def test_half_precision_is_rounded_once() -> None:
    """bfloat16 comes back as bfloat16, as near to the right value as it can be; float32 as float32."""
    x = jnp.asarray(X, jnp.bfloat16)
    right = jax.jit(everything)(x.astype(jnp.float64))
    for (name, _, _), found, expected in zip(ELEMENTWISE, jax.jit(everything)(x), right):
        assert found.dtype == jnp.bfloat16, name
        np.testing.assert_allclose(found.astype(jnp.float64), expected, rtol=2**-8, atol=1e-6, err_msg=name)
    assert {each.dtype for each in jax.eval_shape(everything, x.astype(jnp.float32))} == {jnp.dtype(jnp.float32)}


def test_nan_stays_nan() -> None:
    for (name, _, _), found in zip(ELEMENTWISE, jax.jit(everything)(jnp.array(jnp.nan))):
        assert jnp.isnan(found), name


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "softsign", "tanhshrink"])
def test_integers_become_the_default_dtype(torch: Any, name: str) -> None:
    compare(torch, getattr(F, name), getattr(torch.nn.functional, name), np.array([-2, 0, 3]), tolerance=1e-6)


def test_softplus_has_its_second_derivative_at_zero() -> None:
    assert jax.jit(jax.grad(jax.grad(lambda x: F.softplus(x) - 2 * F.logsigmoid(x))))(0.0) == pytest.approx(0.75)


@pytest.mark.parametrize(("shape", "slopes"), [((2, 3, 4), 3), ((2, 3), 3), ((2, 3, 4), 1), ((4,), 1), ((), 1)])
def test_prelu(torch: Any, shape: tuple[int, ...], slopes: int) -> None:
    compare(torch, F.prelu, torch.nn.functional.prelu, normal(*shape), normal(slopes, seed=3), second=True)
    zero = np.zeros(shape)
    compare(torch, F.prelu, torch.nn.functional.prelu, zero, normal(slopes, seed=3))


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_glu(torch: Any, dim: int) -> None:
    compare(torch, F.glu, torch.nn.functional.glu, normal(4, 6, 2), dim, second=True)


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "softmin"])
def test_softmax(torch: Any, name: str) -> None:
    ours, theirs = getattr(F, name), getattr(torch.nn.functional, name)
    compare(torch, ours, theirs, normal(3, 4, 2), 1, second=True)
    compare(torch, ours, theirs, np.array([[-1e4, 0.0, 1e4], [-np.inf, 0.0, 1.0]]), -1)
    compare(torch, ours, theirs, np.array(3.0), 0)
    compare(torch, ours, theirs, np.zeros((2, 0)), 1)
    assert ours(jnp.ones(3, jnp.bfloat16), 0).dtype == jnp.bfloat16
    assert ours(jnp.arange(3), 0, dtype=jnp.float32).dtype == jnp.float32
    with pytest.raises(DtypeError, match=r"expected a floating dtype, got int64\[3\]"):
        ours(jnp.arange(3), 0)
    with pytest.raises(IndexError, match=r"expected a dimension in \[-2, 1\], got 2"):
        ours(jnp.ones((3, 4)), 2)


@pytest.mark.parametrize(
    ("name", "rank"), [*(("softmax", rank) for rank in range(5)), ("log_softmax", 3), ("softmin", 3)]
)
def test_softmax_without_dim_chooses_as_torch_and_warns_here(torch: Any, name: str, rank: int) -> None:
    x = normal(*range(2, 2 + rank))
    with pytest.warns(FlambeauWarning, match="pass dim") as caught:
        found = getattr(F, name)(jnp.asarray(x))
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="Implicit dimension"):
        expected = getattr(torch.nn.functional, name)(torch.tensor(x))
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-12)


def test_rrelu_draws_slopes_in_training() -> None:
    x = -jnp.ones(2000)
    slopes = -np.asarray(F.rrelu(x, 0.25, 0.75, training=True, generator=Generator().manual_seed(3)))
    assert 0.25 <= slopes.min() < 0.27 and 0.73 < slopes.max() <= 0.75 and abs(slopes.mean() - 0.5) < 0.02
    again = -F.rrelu(x, 0.25, 0.75, training=True, generator=Generator().manual_seed(3))
    np.testing.assert_array_equal(slopes, again)
    np.testing.assert_array_equal(F.rrelu(-x, training=True), -x)
    of_half = F.rrelu(x.astype(jnp.bfloat16), training=True)
    assert of_half.dtype == jnp.bfloat16


def test_errors_are_those_of_torch() -> None:
    x = jnp.ones((4, 6))
    with pytest.raises(ValueError, match="min_val"):
        F.hardtanh(x, 1.0, -1.0)
    for wrong in (lambda: F.softshrink(x, -1.0), lambda: F.celu(x, 0.0), lambda: F.gelu(x, "erf")):
        with pytest.raises(RuntimeError, match="expected"):
            wrong()
    for lower, upper in ((0.5, 0.25), (0.0, math.inf)):
        with pytest.raises(RuntimeError, match="lower <= upper"):
            F.rrelu(x, lower, upper)
    with pytest.raises(ShapeError, match=r"even size of dimension 0, got float64\[3\]"):
        F.glu(jnp.ones(3), 0)
    with pytest.raises(ShapeError, match=r"or \(6,\) for input float64\[4, 6\], got float64\[3\]"):
        F.prelu(x, jnp.ones(3))
    with pytest.raises(DtypeError, match="weight of dtype float64"):
        F.prelu(x, jnp.ones(6, jnp.float32))
    with pytest.raises(DtypeError, match="floating"):
        F.gelu(jnp.arange(3))


@pytest.mark.parametrize("name", ["celu", "elu", "hardtanh", "leaky_relu", "relu", "rrelu", "selu", "threshold"])
def test_names_of_torchs_changes_in_place(torch: Any, name: str) -> None:
    arguments = (0.5, -2.0) if name == "threshold" else ()
    x = normal(4, 3)
    expected = getattr(torch.nn.functional, f"{name}_")(torch.tensor(x), *arguments)
    np.testing.assert_allclose(getattr(F, f"{name}_")(jnp.asarray(x), *arguments), expected.numpy(), rtol=1e-12)
