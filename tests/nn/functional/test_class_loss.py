"""Losses of classes: parity with torch over shapes, weights and ignored labels, labels out of range, extreme scores."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flambeau._errors import DtypeError, ShapeError
from flambeau.nn import functional as F
from tests.nn.functional.parity import compare, each_reduction, normal

CLASSES = 5


def labels(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).integers(0, CLASSES, shape)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize(("batch", "rest"), [((), ()), ((6,), ()), ((3,), (2,)), ((2,), (1, 3, 2))])
def test_cross_entropy_with_classes(
    torch: Any, batch: tuple[int, ...], rest: tuple[int, ...], smoothing: float
) -> None:
    target = labels(*batch, *rest)
    if batch:
        target.flat[0] = 2
    options: dict[str, Any] = {"ignore_index": 2 if batch else -100, "label_smoothing": smoothing}
    weight = torch.tensor(np.abs(normal(CLASSES))) if rest else None

    def ours(x: jax.Array, y: jax.Array) -> jax.Array:
        w = None if weight is None else jnp.asarray(weight.numpy())
        return each_reduction(F.cross_entropy, jnp.concatenate)(x, y, w, **options)

    def theirs(x: Any, y: Any) -> Any:
        return each_reduction(torch.nn.functional.cross_entropy, torch.cat)(x, y, weight, **options)

    compare(torch, ours, theirs, normal(*batch, CLASSES, *rest), target, second=rest == (2,))


@pytest.mark.parametrize(
    ("shape", "weighted", "smoothing"), [((5,), False, 0.0), ((4, 5), True, 0.3), ((2, 5, 3), True, 0.0)]
)
def test_cross_entropy_with_probabilities(torch: Any, shape: tuple[int, ...], weighted: bool, smoothing: float) -> None:
    target = np.abs(normal(*shape, seed=1))
    weight = [np.abs(normal(CLASSES))] if weighted else []
    ours = each_reduction(F.cross_entropy, jnp.concatenate)
    theirs = each_reduction(torch.nn.functional.cross_entropy, torch.cat)
    compare(torch, ours, theirs, normal(*shape), target, *weight, label_smoothing=smoothing)


@pytest.mark.parametrize(("batch", "rest"), [((), ()), ((6,), ()), ((3,), (2,)), ((2,), (3, 2))])
def test_nll_loss(torch: Any, batch: tuple[int, ...], rest: tuple[int, ...]) -> None:
    target = labels(*batch, *rest)
    weight = np.abs(normal(CLASSES))

    def ours(x: jax.Array, y: jax.Array) -> jax.Array:
        return each_reduction(F.nll_loss, jnp.concatenate)(x, y, jnp.asarray(weight), ignore_index=1)

    def theirs(x: Any, y: Any) -> Any:
        return each_reduction(torch.nn.functional.nll_loss, torch.cat)(x, y, torch.tensor(weight), ignore_index=1)

    compare(torch, ours, theirs, normal(*batch, CLASSES, *rest), target)


def test_weights_are_differentiated_too() -> None:
    """Torch has no such derivative of nll_loss; the quotient of sums, written out, has."""
    x, weight, target = jnp.asarray(normal(6, CLASSES)), jnp.asarray(np.abs(normal(CLASSES))), labels(6)

    def written_out(weight: jax.Array) -> jax.Array:
        each = weight[target]
        return -jnp.sum(each * jax.nn.log_softmax(x)[jnp.arange(6), target]) / jnp.sum(each)

    found = jax.jit(jax.grad(lambda weight: F.cross_entropy(x, jnp.asarray(target), weight)))(weight)
    np.testing.assert_allclose(found, jax.jit(jax.grad(written_out))(weight), rtol=1e-9, atol=1e-12)


compiled_cross_entropy = jax.jit(jax.value_and_grad(F.cross_entropy))


@settings(max_examples=25)
@given(st.lists(st.sampled_from([-100, 0, 1, 2]), min_size=3, max_size=3))
def test_ignored_labels_do_as_in_torch(torch: Any, target: list[int]) -> None:
    """Whichever are ignored, also all of them, for which torch has NaN."""
    x = normal(len(target), 3)
    scores = torch.tensor(x, requires_grad=True)
    expected = torch.nn.functional.cross_entropy(scores, torch.tensor(target))
    expected.backward()
    found, gradient = compiled_cross_entropy(jnp.asarray(x), jnp.asarray(target))
    np.testing.assert_allclose(found, expected.item(), rtol=1e-12)
    np.testing.assert_allclose(gradient, scores.grad.numpy(), rtol=1e-9, atol=1e-12)


def test_extreme_scores(torch: Any) -> None:
    x = np.array([[1e4, 0.0, -1e4], [-1e4, 0.0, 1e4], [-np.inf, 0.0, 1.0], [1e8, 1e8 - 1, 0.0]])
    for target in (np.array([2, 2, 1, 1]), np.array([0, 1, 2, 0])):
        compare(torch, F.cross_entropy, torch.nn.functional.cross_entropy, x, target, reduction="none")
    compare(
        torch,
        F.cross_entropy,
        torch.nn.functional.cross_entropy,
        x[[0, 1, 3]],
        np.array([2, 2, 1]),
        label_smoothing=0.1,
    )


def test_a_large_offset_costs_no_precision() -> None:
    x = np.float32(1e6) + np.arange(8, dtype=np.float32).reshape(2, 4)
    loss = jax.jit(F.cross_entropy)
    expected = loss(x - np.float32(1e6), np.array([0, 3]))
    assert loss(x, np.array([0, 3])) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint32, np.int64])
def test_labels_of_any_integer_dtype(dtype: Any) -> None:
    """More classes than the labels' dtype can count, and an ignore_index that it cannot hold."""
    x = jnp.asarray(normal(3, 300))
    expected, found = (jax.jit(F.cross_entropy)(x, np.array([0, 100, 3], each)) for each in (np.int64, dtype))
    assert found == expected


LABELLED: list[tuple[Any, type[Exception]]] = [
    (F.cross_entropy, IndexError),
    (lambda x, y: F.cross_entropy(x, y, jnp.ones(CLASSES)), IndexError),
    (lambda x, y: F.cross_entropy(x, y, label_smoothing=0.5), IndexError),
    (F.nll_loss, IndexError),
    (F.multi_margin_loss, RuntimeError),
]


@pytest.mark.parametrize(("loss", "error"), LABELLED)
def test_labels_out_of_range_raise_or_are_nan(loss: Any, error: type[Exception]) -> None:
    x, compiled = jnp.asarray(normal(3, CLASSES)), jax.jit(jax.value_and_grad(loss))
    for wrong in (CLASSES, -1, -99, 2**31 - 1):
        target = np.array([0, wrong, 1])
        with pytest.raises(error, match=rf"classes in \[0, 4\], got {wrong}"):
            loss(x, target)
        value, gradient = compiled(x, target)
        assert np.isnan(value) and np.isnan(gradient).any()


@pytest.mark.parametrize("wrong", [CLASSES, -2])
def test_multilabels_out_of_range_raise_or_are_nan(wrong: int) -> None:
    x, target = jnp.asarray(normal(2, CLASSES)), jnp.array([[0, wrong, -1, -1, -1], [1, -1, -1, -1, -1]])
    with pytest.raises(RuntimeError, match=r"targets in \[-1, 4\]"):
        F.multilabel_margin_loss(x, target)
    value, gradient = jax.jit(jax.value_and_grad(F.multilabel_margin_loss))(x, target)
    assert jnp.isnan(value) and jnp.isnan(gradient).any()


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("shape", [(6, CLASSES), (CLASSES,)])
def test_multi_margin_loss(torch: Any, shape: tuple[int, ...], p: int) -> None:
    weight = np.abs(normal(CLASSES))

    def ours(x: jax.Array, y: jax.Array) -> jax.Array:
        return each_reduction(F.multi_margin_loss, jnp.concatenate)(x, y, p, 0.7, jnp.asarray(weight))

    def theirs(x: Any, y: Any) -> Any:
        return each_reduction(torch.nn.functional.multi_margin_loss, torch.cat)(x, y, p, 0.7, torch.tensor(weight))

    compare(torch, ours, theirs, normal(*shape), labels(*shape[:-1]))


def test_multilabel_margin_loss(torch: Any) -> None:
    target = np.array([[3, 0, -1, 1, 2], [-1, 0, 1, 2, 3], [0, 1, 2, 3, 4], [2, 2, -1, 0, 0]])
    ours = each_reduction(F.multilabel_margin_loss, jnp.concatenate)
    theirs = each_reduction(torch.nn.functional.multilabel_margin_loss, torch.cat)
    compare(torch, ours, theirs, normal(4, CLASSES), target)
    compare(torch, ours, theirs, normal(CLASSES), target[0])


def test_derivatives_at_the_margin(torch: Any) -> None:
    x = np.array([1.0, 0.0])
    compare(torch, F.multi_margin_loss, torch.nn.functional.multi_margin_loss, x, np.array(0))
    compare(torch, F.multilabel_margin_loss, torch.nn.functional.multilabel_margin_loss, x, np.array([0, -1]))


def test_binary_cross_entropy_at_its_bounds(torch: Any) -> None:
    """The value stops at 100, and the derivative is torch's, neither 0 nor infinite."""
    x, y = np.array([0.0, 0.0, 1.0, 1.0, 0.5]), torch.tensor([0.0, 1.0, 1.0, 0.0, 0.25]).double()
    theirs = torch.nn.functional.binary_cross_entropy
    compare(
        torch, lambda x: F.binary_cross_entropy(x, jnp.asarray(y.numpy())), lambda x: theirs(x, y), x, tolerance=1e-8
    )


def test_binary_cross_entropy_with_logits_of_any_size(torch: Any) -> None:
    x, y = np.array([-1e4, 1e4, 0.0, 30.0, -800.0]), np.array([1.0, 0.0, 0.5, 1.0, 0.0])
    theirs = torch.nn.functional.binary_cross_entropy_with_logits
    compare(torch, F.binary_cross_entropy_with_logits, theirs, x, y, reduction="none")


def test_binary_cross_entropy_outside_of_the_unit_interval() -> None:
    inside, outside = jnp.array([0.5, 0.5]), jnp.array([0.5, 1.5])
    for arguments in ((inside, outside), (outside, inside), (-outside, inside), (inside, -outside)):
        with pytest.raises(RuntimeError, match=r"in \[0, 1\], got"):
            F.binary_cross_entropy(*arguments)
        assert jnp.isnan(jax.jit(F.binary_cross_entropy)(*arguments))


def test_shapes_and_dtypes_of_cross_entropy() -> None:
    x = jnp.ones((4, 6))
    with pytest.raises(
        ShapeError, match=r"expected target \(4,\) of classes for input float64\[4, 6\], got int64\[3\]"
    ):
        F.cross_entropy(x, jnp.zeros(3, int))
    with pytest.raises(DtypeError, match="target of an integer dtype"):
        F.cross_entropy(x, jnp.zeros(4))
    with pytest.raises(DtypeError, match="target of a floating dtype"):
        F.cross_entropy(x, jnp.zeros((4, 6), int))
    with pytest.raises(ShapeError, match=r"weight \(6,\), one for each class"):
        F.cross_entropy(x, jnp.zeros(4, int), jnp.ones(5))
    with pytest.raises(ShapeError, match=r"\(C,\), \(N, C\) or \(N, C, \*\)"):
        F.nll_loss(jnp.ones(()), jnp.zeros((), int))
    with pytest.raises(RuntimeError, match="label_smoothing"):
        F.cross_entropy(x, jnp.zeros(4, int), label_smoothing=1.5)
    with pytest.raises(RuntimeError, match="ignore_index"):
        F.cross_entropy(x, x, ignore_index=0)
    half = x.astype(jnp.bfloat16)
    for target in (jnp.zeros(4, int), half):
        assert jax.eval_shape(F.cross_entropy, half, target).dtype == jnp.bfloat16


def test_shapes_of_other_losses() -> None:
    x = jnp.ones((4, 6))
    for loss in (F.binary_cross_entropy, F.binary_cross_entropy_with_logits):
        with pytest.raises(ShapeError, match=r"target \(4, 6\) like input, got float64\[6\]"):
            loss(x, x[0])
        with pytest.raises(ShapeError, match="broadcast"):
            loss(x, x, weight=jnp.ones(5))
    with pytest.raises(ShapeError, match="broadcast"):
        F.multilabel_soft_margin_loss(x, jnp.ones((4, 5)))
    with pytest.raises(ShapeError, match=r"\(\*, C\)"):
        F.multilabel_soft_margin_loss(jnp.ones(()), jnp.ones(()))
    with pytest.raises(ShapeError, match=r"\(N, C\), \(C,\) or \(\)"):
        F.multi_margin_loss(x[None], jnp.zeros((1, 6), int))
    with pytest.raises(ShapeError, match="alike"):
        F.multilabel_margin_loss(x, jnp.zeros(6, int))
    with pytest.raises(ValueError, match="p to be 1 or 2"):
        F.multi_margin_loss(x, jnp.zeros(4, int), p=3)
