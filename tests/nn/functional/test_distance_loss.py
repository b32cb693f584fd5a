"""Distances, similarities, and the losses of pairs and triplets."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flambeau._errors import ShapeError
from flambeau.nn import functional as F
from tests.nn.functional.parity import compare, each_reduction, normal

X, Y, Z = normal(3, 4), normal(3, 4, seed=1), normal(3, 4, seed=2)


@pytest.mark.parametrize(
    ("shapes", "dim"), [(((3, 4), (3, 4)), 1), (((3, 4), (4,)), -1), (((2, 1, 4), (3, 4)), 2), (((4,), (4,)), 0)]
)
def test_cosine_similarity(torch: Any, shapes: Any, dim: int) -> None:
    arrays = [normal(*shape, seed=i) for i, shape in enumerate(shapes)]
    compare(torch, F.cosine_similarity, torch.nn.functional.cosine_similarity, *arrays, dim, second=len(shapes[0]) == 2)


def test_cosine_similarity_of_short_vectors(torch: Any) -> None:
    """Below eps the norm is bounded, and its gradient takes no notice."""
    for x in (np.zeros((1, 2)), np.array([[3e-3, 4e-3]])):
        compare(torch, F.cosine_similarity, torch.nn.functional.cosine_similarity, x, np.ones((1, 2)), 1, 0.1)


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, 0.5, float("inf")])
def test_pairwise_distance(torch: Any, p: float) -> None:
    """Also where coordinates, or whole vectors, are equal."""
    theirs = torch.nn.functional.pairwise_distance
    others = np.stack([Y[0], X[1] + (np.arange(4) > 1), X[2]])
    compare(torch, F.pairwise_distance, theirs, X, others, p, 0.0)
    if p == 2:
        compare(torch, F.pairwise_distance, theirs, X, Y[0], keepdim=True, second=True)


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, float("inf")])
def test_pdist(torch: Any, p: float) -> None:
    """Also of vectors that are equal, and where two coordinates are equally far apart."""
    for x in (X, np.array([[1.0, 2.0], [1.0, 2.0], [2.0, 3.0], [1.0, 1.0]])):
        compare(torch, F.pdist, torch.nn.functional.pdist, x, p)


def test_pdist_of_few_and_of_wrong() -> None:
    for shape, count in (((0, 3), 0), ((1, 3), 0), ((4, 0), 6)):
        np.testing.assert_array_equal(F.pdist(jnp.zeros(shape)), np.zeros(count))
        np.testing.assert_array_equal(F.pdist(jnp.zeros(shape), float("inf")), np.zeros(count))
    assert F.pdist(jnp.ones((3, 2), jnp.bfloat16)).dtype == jnp.bfloat16
    with pytest.raises(ShapeError, match=r"expected input \(N, D\), got float64\[3\]"):
        F.pdist(jnp.ones(3))
    for wrong in (-1.0, float("nan")):
        with pytest.raises(RuntimeError, match="expected p >= 0"):
            F.pdist(jnp.ones((3, 2)), wrong)


@pytest.mark.parametrize("options", [{}, {"swap": True}, {"p": 1.0, "margin": 0.3}])
def test_triplet_margin_loss(torch: Any, options: dict[str, Any]) -> None:
    ours = each_reduction(F.triplet_margin_loss, jnp.concatenate)
    compare(torch, ours, each_reduction(torch.nn.functional.triplet_margin_loss, torch.cat), X, Y, Z, **options)


def test_cosine_embedding_loss_of_one_pair(torch: Any) -> None:
    for target in (1, -1):
        compare(torch, F.cosine_embedding_loss, torch.nn.functional.cosine_embedding_loss, X[0], Y[0], np.array(target))
    zero, theirs = np.zeros((1, 4)), torch.nn.functional.cosine_embedding_loss
    compare(torch, F.cosine_embedding_loss, theirs, zero, X[:1], np.array([1]), tolerance=1e-8)


def test_derivatives_at_the_margin(torch: Any) -> None:
    """Where a hinge is just met torch lets the gradient through."""
    one, two = np.ones(2), np.array([1.0, 2.0])
    theirs = torch.nn.functional
    compare(torch, F.hinge_embedding_loss, theirs.hinge_embedding_loss, one, np.array([-1, 1]), reduction="none")
    compare(
        torch, F.margin_ranking_loss, theirs.margin_ranking_loss, one, two, np.array([1, 1]), -1.0, reduction="none"
    )
    a, n = np.zeros((1, 2)), np.array([[0.0, 2.0]])
    compare(torch, F.triplet_margin_loss, theirs.triplet_margin_loss, a, n / 2, n, 1.0, 2, 0.0)


def test_other_targets_do_as_in_torch(torch: Any) -> None:
    target = np.array([0, 1, -1])
    theirs = torch.nn.functional
    compare(torch, F.hinge_embedding_loss, theirs.hinge_embedding_loss, X[:, 0], target, reduction="none")
    compare(torch, F.cosine_embedding_loss, theirs.cosine_embedding_loss, X, Y, target, reduction="none")


def test_soft_margin_loss_does_not_overflow() -> None:
    np.testing.assert_allclose(F.soft_margin_loss(jnp.array([-1e4, 1e4]), jnp.ones(2), reduction="none"), [1e4, 0])


def test_dtypes() -> None:
    half = jnp.asarray(X, jnp.bfloat16)
    for function in (F.cosine_similarity, F.pairwise_distance, lambda x, y: F.triplet_margin_loss(x, y, x)):
        assert jax.eval_shape(function, half, half).dtype == jnp.bfloat16


def test_shapes() -> None:
    x = jnp.asarray(X)
    for call in (
        lambda: F.cosine_similarity(x, x[:2]),
        lambda: F.pairwise_distance(x, x[:2]),
        lambda: F.triplet_margin_loss(x, x, x[:2]),
        lambda: F.cosine_embedding_loss(x, x, jnp.ones(2)),
        lambda: F.margin_ranking_loss(x, x, x[:2]),
    ):
        with pytest.raises(ShapeError, match="broadcast"):
            call()
    for call in (
        lambda: F.triplet_margin_loss(x, x, x[0]),
        lambda: F.margin_ranking_loss(x, x, x[0]),
        lambda: F.cosine_embedding_loss(x[None], x[None], jnp.ones((1, 3))),
        lambda: F.pairwise_distance(jnp.ones(()), jnp.ones(())),
    ):
        with pytest.raises(ShapeError, match="expected"):
            call()
    with pytest.raises(IndexError):
        F.cosine_similarity(x, x, 2)
    with pytest.raises(ValueError, match="margin > 0"):
        F.triplet_margin_loss(x, x, x, margin=0)


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("distance", [None, "pairwise_distance", "cosine_similarity"])
def test_triplet_margin_with_distance_loss(torch: Any, distance: str | None, swap: bool) -> None:
    def call(functional: Any, concatenate: Any) -> Any:
        function = None if distance is None else getattr(functional, distance)
        reduced = each_reduction(functional.triplet_margin_with_distance_loss, concatenate)
        return lambda *given: reduced(*given, distance_function=function, margin=0.7, swap=swap)

    ours, theirs = call(F, jnp.concatenate), call(torch.nn.functional, torch.cat)
    compare(torch, ours, theirs, normal(5, 3), normal(5, 3, seed=1), normal(5, 3, seed=2))


def test_mistakes_of_triplets_with_distance() -> None:
    x = jnp.zeros((5, 3))
    with pytest.raises(ValueError, match="expected margin > 0, got 0"):
        F.triplet_margin_with_distance_loss(x, x, x, margin=0)
    with pytest.raises(ShapeError, match="of as many dimensions"):
        F.triplet_margin_with_distance_loss(x, x, x[0])
