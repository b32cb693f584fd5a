"""Losses of one number at a time, and what all losses share: reductions, dtypes, the older arguments."""

from __future__ import annotations

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flambeau._errors import FlambeauWarning, ShapeError
from flambeau.nn import functional as F
from tests.nn.functional.parity import compare, each_reduction, normal

X, Y = normal(3, 4), normal(3, 4, seed=1)
P = 1 / (1 + np.exp(-Y))
W = np.abs(normal(3, 4, seed=2))
INDEX = np.array([1, 0, 3])
SIGN = np.array([[1, -1, 1, -1], [-1, 1, 1, 1], [1, 1, -1, -1]])

# Name, arrays, keyword arguments; each is compared with all reductions.
POINTWISE: list[tuple[str, tuple[np.ndarray, ...], dict[str, Any]]] = [
    ("mse_loss", (X, Y), {}),
    ("mse_loss", (X, Y), {"weight": W}),
    ("l1_loss", (X, Y), {}),
    ("l1_loss", (X, Y), {"weight": W}),
    ("smooth_l1_loss", (X, Y), {"beta": 0.7}),
    ("smooth_l1_loss", (X, Y), {"beta": 0.0}),
    ("huber_loss", (X, Y), {"delta": 0.7}),
    ("huber_loss", (X, Y), {"weight": W}),
    ("kl_div", (X, P), {}),
    ("kl_div", (X, Y), {"log_target": True}),
    ("poisson_nll_loss", (X, W), {}),
    ("poisson_nll_loss", (X, 3 * W), {"full": True}),
    ("poisson_nll_loss", (W, 3 * W), {"log_input": False, "eps": 1e-3}),
    ("gaussian_nll_loss", (X, Y, W), {"full": True}),
    ("gaussian_nll_loss", (X, Y, W), {"eps": 0.5}),
    ("gaussian_nll_loss", (X, Y, W[:, :1]), {}),
    ("gaussian_nll_loss", (X, Y, W[:, 0]), {}),
    ("gaussian_nll_loss", (X, Y, W[:1]), {}),
    ("soft_margin_loss", (X, SIGN), {}),
    ("hinge_embedding_loss", (X, SIGN), {"margin": 0.5}),
    ("margin_ranking_loss", (X, Y, SIGN), {"margin": 0.5}),
    ("binary_cross_entropy", (1 - P, P), {}),
    ("binary_cross_entropy", (1 - P, P), {"weight": W[0]}),
    ("binary_cross_entropy_with_logits", (X, P), {}),
    ("binary_cross_entropy_with_logits", (X, P), {"weight": W[0], "pos_weight": W}),
    ("multilabel_soft_margin_loss", (X, P), {}),
    ("multilabel_soft_margin_loss", (X, P), {"weight": W[0]}),
    ("cross_entropy", (X, INDEX), {}),
    ("cosine_embedding_loss", (X, Y, np.array([1, -1, 1])), {"margin": 0.2}),
]
FIRST_OF = {name: (arrays, options) for name, arrays, options in reversed(POINTWISE)}


@pytest.mark.filterwarnings("ignore:kl_div", "ignore:reduction. 'mean'")
@pytest.mark.parametrize(("name", "arrays", "options"), POINTWISE, ids=[f"{n}-{list(o)}" for n, _, o in POINTWISE])
def test_pointwise(torch: Any, name: str, arrays: Any, options: dict[str, Any]) -> None:
    # Weights are given, not learned: torch has no gradient for all of them.
    fixed = {key: value for key, value in options.items() if not isinstance(value, np.ndarray)}
    weights = {key: value for key, value in options.items() if isinstance(value, np.ndarray)}

    def ours(*arrays: jax.Array) -> jax.Array:
        given = {key: jnp.asarray(value) for key, value in weights.items()}
        return each_reduction(getattr(F, name), jnp.concatenate)(*arrays, **fixed, **given)

    def theirs(*arrays: Any) -> Any:
        given = {key: torch.tensor(value) for key, value in weights.items()}
        return each_reduction(getattr(torch.nn.functional, name), torch.cat)(*arrays, **fixed, **given)

    compare(torch, ours, theirs, *arrays, second=True)


@pytest.mark.parametrize(
    ("name", "points", "options"),
    [
        ("l1_loss", [0.0], {}),
        ("smooth_l1_loss", [0.0, 1.0, -1.0], {}),
        ("smooth_l1_loss", [0.0], {"beta": 0.0}),
        ("huber_loss", [0.0, 1.0, -1.0], {}),
    ],
)
def test_derivatives_at_kinks(torch: Any, name: str, points: list[float], options: dict[str, Any]) -> None:
    x = np.array(points)
    compare(torch, getattr(F, name), getattr(torch.nn.functional, name), x, 0 * x, reduction="none", **options)


def test_kl_div_batchmean(torch: Any) -> None:
    compare(torch, F.kl_div, torch.nn.functional.kl_div, X, P, reduction="batchmean")
    zeros = jnp.array([0.0, 1.0])
    expected = torch.nn.functional.kl_div(torch.zeros(2), torch.tensor([0.0, 1.0]), reduction="none")
    np.testing.assert_array_equal(F.kl_div(jnp.zeros(2), zeros, reduction="none"), expected.numpy())
    with pytest.warns(FlambeauWarning, match="batchmean") as caught:
        F.kl_div(zeros, zeros)
    assert caught[0].filename == __file__


OLDER = sorted(name for name in FIRST_OF if "reduce" in inspect.signature(getattr(F, name)).parameters)


@pytest.mark.parametrize("name", OLDER)
def test_older_arguments_warn_at_the_call(name: str) -> None:
    arrays, options = FIRST_OF[name]
    given = [jnp.asarray(array) for array in arrays]

    def trace() -> jax.ShapeDtypeStruct:
        return jax.eval_shape(lambda *xs: getattr(F, name)(*xs, reduction="sum", reduce=False, **options), *given)

    with pytest.warns(FlambeauWarning, match="reduction='none' instead") as caught:
        found = trace()
    assert [each.filename for each in caught] == [__file__]
    assert found.shape == (
        (3,) if name in ("cross_entropy", "cosine_embedding_loss", "multilabel_soft_margin_loss") else (3, 4)
    )


@pytest.mark.parametrize("size_average", [None, True, False])
@pytest.mark.parametrize("reduce", [True, False])
def test_older_arguments_mean_what_they_do_in_torch(torch: Any, size_average: bool | None, reduce: bool | None) -> None:
    with pytest.warns(FlambeauWarning, match="size_average and reduce are deprecated"):
        found = F.mse_loss(jnp.asarray(X), jnp.asarray(Y), size_average, reduce)
    with pytest.warns(UserWarning, match="size_average and reduce"):
        expected = torch.nn.functional.mse_loss(torch.tensor(X), torch.tensor(Y), size_average, reduce)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-12)


@pytest.mark.parametrize("name", sorted(FIRST_OF))
def test_unknown_reductions_are_refused(name: str) -> None:
    arrays, options = FIRST_OF[name]
    with pytest.raises(ValueError, match="reduction to be one of 'none', 'mean', 'sum'"):
        getattr(F, name)(*map(jnp.asarray, arrays), **options, reduction="average")


@pytest.mark.filterwarnings("ignore:kl_div")
def test_half_precision_is_computed_with_in_float32() -> None:
    """A mean over 4,096 elements is right to one rounding, which bfloat16 sums are not."""
    a, b = normal(64, 64), normal(64, 64, seed=1)
    probabilities = 1 / (1 + np.exp(-b))
    x, y = jnp.asarray(a, jnp.bfloat16), jnp.asarray(probabilities, jnp.bfloat16)
    for name in ("mse_loss", "l1_loss", "huber_loss", "kl_div", "binary_cross_entropy_with_logits", "cross_entropy"):
        loss = jax.jit(getattr(F, name))
        found, right = loss(x, y), loss(x.astype(jnp.float64), y.astype(jnp.float64))
        assert found.dtype == jnp.bfloat16
        assert float(found) == pytest.approx(float(right), rel=2**-8)


def test_dtypes_promote_as_in_torch(torch: Any) -> None:
    for mine, its in (("float32", "float64"), ("float32", "bfloat16"), ("float32", "int64"), ("bfloat16", "float16")):
        found = jax.eval_shape(F.mse_loss, jnp.ones(3, mine), jnp.ones(3, its))
        expected = torch.nn.functional.mse_loss(*(torch.ones(3, dtype=getattr(torch, each)) for each in (mine, its)))
        assert str(found.dtype) == str(expected.dtype).removeprefix("torch.")


def test_float32_stays_float32() -> None:
    for name, (arrays, options) in FIRST_OF.items():
        fixed = {key: value for key, value in options.items() if not isinstance(value, np.ndarray)}
        given = [jnp.asarray(array, jnp.float32 if array.dtype == float else None) for array in arrays]
        found = jax.eval_shape(
            lambda *xs, name=name, fixed=fixed: getattr(F, name)(*xs, reduction="sum", **fixed), *given
        )
        assert found.dtype == jnp.float32, name


@pytest.mark.parametrize("name", ["mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"])
def test_shapes_that_broadcast_warn_and_others_raise(torch: Any, name: str) -> None:
    with pytest.warns(
        FlambeauWarning, match=r"target float64\[4\] broadcasts against the input float64\[3, 4\]"
    ) as caught:
        found = getattr(F, name)(jnp.asarray(X), jnp.asarray(Y[0]))
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="broadcasting"):
        expected = getattr(torch.nn.functional, name)(torch.tensor(X), torch.tensor(Y[0]))
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-12)
    with pytest.raises(ShapeError, match=r"broadcast, got input float64\[3, 4\], target float64\[2, 4\]"):
        getattr(F, name)(jnp.asarray(X), jnp.ones((2, 4)))
    if name != "smooth_l1_loss":
        with pytest.raises(ShapeError, match=r"weight \(3, 4\) like input, got float64\[4\]"):
            getattr(F, name)(jnp.asarray(X), jnp.asarray(Y), weight=jnp.ones(4))


@pytest.mark.parametrize("name", ["kl_div", "poisson_nll_loss", "soft_margin_loss", "hinge_embedding_loss"])
def test_shapes_that_do_not_broadcast_raise(name: str) -> None:
    with pytest.raises(ShapeError, match="broadcast"):
        getattr(F, name)(jnp.ones((3, 4)), jnp.ones((2, 4)), reduction="sum")


def test_gaussian_variance() -> None:
    x, y = jnp.asarray(X), jnp.asarray(Y)
    same = F.gaussian_nll_loss(x, y, jnp.full_like(x, 2.0))
    assert F.gaussian_nll_loss(x, y, 2.0) == F.gaussian_nll_loss(x, y, 2) == same
    for wrong in (-1.0, jnp.asarray(-W)):
        with pytest.raises(ValueError, match="var >= 0"):
            F.gaussian_nll_loss(x, y, wrong)
    for shape in ((4,), (1, 1), (3, 2)):
        with pytest.raises(ValueError, match="var of the shape"):
            F.gaussian_nll_loss(x, y, jnp.ones(shape))
    assert jnp.isnan(jax.jit(F.gaussian_nll_loss)(x, y, jnp.asarray(-W)))


def test_options_out_of_range() -> None:
    x = jnp.ones(3)
    for wrong in (lambda: F.huber_loss(x, x, delta=0.0), lambda: F.smooth_l1_loss(x, x, beta=-1.0)):
        with pytest.raises(RuntimeError, match="expected"):
            wrong()
