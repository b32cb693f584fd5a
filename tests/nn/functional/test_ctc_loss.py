"""The loss of unaligned sequences: parity with torch, the sum over alignments written out, and lengths that are traced."""

from __future__ import annotations

from itertools import groupby, product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flambeau._errors import DtypeError, ShapeError
from flambeau.nn import functional as F
from tests.nn.functional.parity import compare, normal

TARGETS = np.array([[1, 1, 2], [3, 9, -7], [2, 3, 2], [0, 0, 0]])  # what is behind a target may be anything
STEPS, SIZES = [7, 6, 7, 0], [3, 1, 3, 0]


def log_probs(*shape: int) -> np.ndarray:
    return np.asarray(jax.nn.log_softmax(jnp.asarray(normal(*shape)), -1))


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("joined", [False, True])
def test_ctc_loss(torch: Any, reduction: str, joined: bool) -> None:
    targets = TARGETS
    if joined:
        targets = np.concatenate([row[:size] for row, size in zip(TARGETS, SIZES)])

    def ours(x: jax.Array, y: jax.Array) -> jax.Array:
        return F.ctc_loss(x, y, STEPS, SIZES, reduction=reduction)

    def theirs(x: Any, y: Any) -> Any:
        return torch.nn.functional.ctc_loss(x, y, STEPS, SIZES, reduction=reduction)

    compare(torch, ours, theirs, log_probs(7, 4, 4), targets)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_without_batch(torch: Any, reduction: str) -> None:
    def ours(x: jax.Array) -> jax.Array:
        return F.ctc_loss(x, jnp.array([1, 0]), 5, 2, 3, reduction)

    def theirs(x: Any) -> Any:
        lengths = torch.tensor(5), torch.tensor(2)
        return torch.nn.functional.ctc_loss(x, torch.tensor([1, 0]), *lengths, 3, reduction)

    compare(torch, ours, theirs, log_probs(6, 4))


@pytest.mark.parametrize("zero_infinity", [False, True])
def test_targets_that_do_not_fit(torch: Any, zero_infinity: bool) -> None:
    """The repetition needs a blank, and so a third step: the loss is infinite, or 0."""

    def ours(x: jax.Array) -> jax.Array:
        targets = jnp.array([[1, 1], [1, 2]])
        return F.ctc_loss(x, targets, [2, 2], [2, 2], reduction="none", zero_infinity=zero_infinity)

    def theirs(x: Any) -> Any:
        targets, two = torch.tensor([[1, 1], [1, 2]]), (2, 2)
        return torch.nn.functional.ctc_loss(x, targets, two, two, reduction="none", zero_infinity=zero_infinity)

    compare(torch, ours, theirs, log_probs(2, 2, 3))


@settings(max_examples=20)
@given(steps=st.integers(1, 4), labels=st.lists(st.integers(1, 2), max_size=3))
def test_is_the_sum_over_alignments(steps: int, labels: list[int]) -> None:
    x = log_probs(4, 1, 3)
    total = 0.0
    for path in product(range(3), repeat=steps):
        if [label for label, _ in groupby(path) if label] == labels:
            total += np.exp(sum(x[t, 0, label] for t, label in enumerate(path)))
    with np.errstate(divide="ignore"):
        expected = -np.log(total)
    targets = jnp.array([[*labels, *[0] * (3 - len(labels))]])
    found = F.ctc_loss(jnp.asarray(x), targets, [steps], [len(labels)], reduction="sum")
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


def test_derivatives_of_scores() -> None:
    """Through a log-softmax the gradient is the true one, and so is its own derivative."""
    targets = jnp.array([[1, 2]])

    def loss(scores: jax.Array) -> jax.Array:
        return F.ctc_loss(jax.nn.log_softmax(scores, -1), targets, [3], [2], reduction="sum")

    scores, step = jnp.asarray(normal(3, 1, 3)), jnp.asarray(normal(3, 1, 3, seed=1))

    def along(t: jax.Array) -> jax.Array:
        return loss(scores + t * step)

    h = 1e-4
    low, middle, high = (along(jnp.asarray(t)) for t in (-h, 0.0, h))
    slope = jnp.sum(jax.grad(loss)(scores) * step)
    np.testing.assert_allclose(slope, (high - low) / (2 * h), rtol=1e-6)
    curvature = jax.jvp(lambda s: jnp.sum(jax.grad(loss)(s) * step), (scores,), (step,))[1]
    np.testing.assert_allclose(curvature, (high - 2 * middle + low) / h**2, rtol=1e-5)


@pytest.mark.parametrize("joined", [False, True])
def test_traced_lengths(joined: bool) -> None:
    x = jnp.asarray(log_probs(7, 4, 4))
    targets = np.concatenate([row[:size] for row, size in zip(TARGETS, SIZES)]) if joined else TARGETS
    arguments = jnp.asarray(targets), jnp.array(STEPS), jnp.array(SIZES)
    found = jax.jit(lambda *given: F.ctc_loss(x, *given, reduction="none"))(*arguments)
    np.testing.assert_allclose(found, F.ctc_loss(x, *arguments, reduction="none"), rtol=1e-12)


def test_traced_labels_that_are_none() -> None:
    x = jnp.asarray(log_probs(3, 2, 4))
    loss = jax.jit(lambda y: F.ctc_loss(x, y, [3, 3], [1, 1], reduction="none"))
    assert jnp.isnan(loss(jnp.array([[4], [-1]]))).all()
    with pytest.raises(IndexError, match=r"expected labels in \[0, 3\], got -1 to 4"):
        F.ctc_loss(x, jnp.array([[4], [-1]]), [3, 3], [1, 1])


@pytest.mark.parametrize(
    ("targets", "steps", "sizes", "blank", "error", "message"),
    [
        ([[1], [1]], [3, 4], [1, 1], 0, RuntimeError, "expected input_lengths from 0 to 3, got 3 to 4"),
        ([[1], [1]], [3, 3], [1, 2], 0, RuntimeError, "expected target_lengths from 0 to 1"),
        ([1, 1, 1], [3, 3], [2, 2], 0, RuntimeError, "add up to 3, got 4"),
        ([[1], [1]], [3], [1, 1], 0, ShapeError, r"expected input_lengths \(2,\)"),
        ([[1]], [3, 3], [1, 1], 0, ShapeError, r"expected targets \(2, S\)"),
        ([[1], [1]], [3, 3], [1, 1], 4, RuntimeError, "expected blank to be one of the 4 classes"),
        ([[1.0], [1.0]], [3, 3], [1, 1], 0, DtypeError, "expected targets of an integer dtype"),
        ([[1], [1]], [3.0, 3.0], [1, 1], 0, DtypeError, "expected input_lengths of an integer dtype"),
    ],
)
def test_mistakes(targets: Any, steps: Any, sizes: Any, blank: int, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        F.ctc_loss(jnp.asarray(log_probs(3, 2, 4)), jnp.array(targets), steps, sizes, blank)
