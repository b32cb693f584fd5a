"""Distances and similarities of vectors, and the losses that pull pairs together or push them apart."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from flambeau._errors import ShapeError
from flambeau.nn.functional._autocast import raised
from flambeau.nn.functional._checks import check_rank, describe
from flambeau.nn.functional._inputs import axis_of
from flambeau.nn.functional._math import absolute, clamp_min, log1p_exp, straight_through, vector_norm, widen
from flambeau.nn.functional._reduction import check_broadcast, promoted, reduced, resolve_reduction

__all__ = [
    "cosine_embedding_loss",
    "cosine_similarity",
    "hinge_embedding_loss",
    "margin_ranking_loss",
    "pairwise_distance",
    "pdist",
    "soft_margin_loss",
    "triplet_margin_loss",
    "triplet_margin_with_distance_loss",
]


def _direction(x: jax.Array, axis: int, eps: float) -> jax.Array:
    """X / max(‖x‖, eps), where the gradient takes no notice of the bound."""
    norm = vector_norm(x, 2, axis, keepdims=True)
    return x / straight_through(norm, jnp.maximum(norm, eps))


def cosine_similarity(x1: jax.Array, x2: jax.Array, dim: int = 1, eps: float = 1e-8) -> jax.Array:
    """The cosine of the angle between vectors: x₁ · x₂ / (max(‖x₁‖, eps) · max(‖x₂‖, eps)).

    Args:
        x1: the first vectors.
        x2: the second vectors.
        dim: the dimension that holds the vectors, counted after broadcasting.
        eps: the smallest norm to divide by.

    Shape:
        x1 and x2 `(*, D, *)`, result `(*)`.

    Raises:
        ShapeError: the shapes do not broadcast.
        IndexError: there is no such dimension.

    Example:
        >>> cosine_similarity(jnp.array([[3.0, 4.0]]), jnp.array([[1.0, 0.0]]))
        Array([0.6], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.cosine_similarity.html
    """
    x1, x2 = raised(x1, x2)
    shape = check_broadcast(x1=x1, x2=x2) or (1,)  # two numbers count as vectors, of which 0 is the only dimension
    axis = axis_of(dim, len(shape))
    dtype, (a, b) = promoted(x1, x2)
    a, b = jnp.broadcast_to(a, shape), jnp.broadcast_to(b, shape)
    return jnp.sum(_direction(a, axis, eps) * _direction(b, axis, eps), axis).astype(dtype)


def pairwise_distance(
    x1: jax.Array, x2: jax.Array, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
) -> jax.Array:
    """The distance between vectors in the p-norm: ‖x₁ - x₂ + eps‖ₚ.

    Args:
        x1: the first vectors.
        x2: the second vectors.
        p: the exponent of the norm.
        eps: what is added to each difference, so that no distance is 0.
        keepdim: whether the result keeps the last dimension, with size 1.

    Shape:
        x1 and x2 `(*, D)`, result `(*)`, or `(*, 1)` with `keepdim`.

    Raises:
        ShapeError: the shapes do not broadcast.

    Example:
        >>> pairwise_distance(jnp.array([[3.0, 4.0]]), jnp.zeros((1, 2)), eps=0.0)
        Array([5.], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.pairwise_distance.html
    """
    x1, x2 = raised(x1, x2)
    if not check_broadcast(x1=x1, x2=x2):
        raise ShapeError("expected vectors, got two numbers")
    dtype, (a, b) = promoted(x1, x2)
    return vector_norm(a - b + eps, p, -1, keepdims=keepdim).astype(dtype)


def pdist(input: jax.Array, p: float = 2) -> jax.Array:
    """The distances between all pairs of vectors in the p-norm: ‖xᵢ - xⱼ‖ₚ for i < j.

    Args:
        input: the vectors.
        p: the exponent of the norm.

    Shape:
        input `(N, D)`, result `(N·(N - 1)/2,)`: first those from the first vector to the others, then from the second.

    Raises:
        ShapeError: the input has another number of dimensions.
        RuntimeError: `p` is negative.

    Example:
        >>> pdist(jnp.array([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]]))
        Array([5.       , 1.       , 4.2426405], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.pdist.html
    """
    input = raised(input)
    check_rank(input, 2, "(N, D)")
    if not p >= 0:
        raise RuntimeError(f"expected p >= 0, got {p}")
    first, second = np.triu_indices(input.shape[0], 1)
    x = widen(input)
    difference = x[first] - x[second]
    if p == float("inf"):
        return _greatest(absolute(difference)).astype(input.dtype)
    return vector_norm(difference, p, -1).astype(input.dtype)


def _greatest(size: jax.Array) -> jax.Array:
    """The greatest of each row, with derivative 1 in each place that has it; 0 for rows of nothing."""
    greatest = jnp.max(size, axis=-1, initial=0)
    return straight_through(jnp.sum(jnp.where(size == greatest[..., None], size, 0), axis=-1), greatest)


def triplet_margin_loss(
    anchor: jax.Array,
    positive: jax.Array,
    negative: jax.Array,
    margin: float = 1.0,
    p: float = 2,
    eps: float = 1e-6,
    swap: bool = False,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """Wants each anchor nearer to its positive than to its negative: max(d(a, p) - d(a, n) + margin, 0).

    Args:
        anchor: the vectors a.
        positive: the vectors that should be near.
        negative: the vectors that should be far.
        margin: by how much.
        p: the exponent of the norm.
        eps: what is added to each difference.
        swap: whether d(p, n) takes the place of d(a, n) where it is smaller.
        size_average: deprecated; use `reduction`.
        reduce: deprecated; use `reduction`.
        reduction: "mean", "sum" or "none".

    Shape:
        anchor, positive and negative `(*, D)`, result `()`, or `(*)` without reduction.

    Raises:
        ShapeError: the shapes do not broadcast, or have other numbers of dimensions.
        ValueError: there is no such reduction, or the margin is not positive.

    Example:
        >>> a, p, n = jnp.zeros((1, 2)), jnp.array([[3.0, 4.0]]), jnp.array([[0.0, 4.0]])
        >>> triplet_margin_loss(a, p, n, eps=0.0)
        Array(2., dtype=float32)

    Source: http://www.bmva.org/bmvc/2016/papers/paper119/index.html
    """
    anchor, positive, negative = raised(anchor, positive, negative)
    reduction = resolve_reduction(reduction, size_average, reduce)
    if margin <= 0:
        raise ValueError(f"expected margin > 0, got {margin}")
    check_broadcast(anchor=anchor, positive=positive, negative=negative)
    _check_same_rank(anchor, positive, negative)
    dtype, (a, near, far) = promoted(anchor, positive, negative)
    loss = _margin_loss(a, near, far, partial(pairwise_distance, p=p, eps=eps), margin, swap)
    return reduced(loss, reduction, dtype)


def triplet_margin_with_distance_loss(
    anchor: jax.Array,
    positive: jax.Array,
    negative: jax.Array,
    *,
    distance_function: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
    margin: float = 1.0,
    swap: bool = False,
    reduction: str = "mean",
) -> jax.Array:
    """Wants each anchor nearer to its positive than to its negative, by any distance: max(d(a, p) - d(a, n) + margin, 0).

    Args:
        anchor: the entries a.
        positive: the entries that should be near.
        negative: the entries that should be far.
        distance_function: the distance d; None for `pairwise_distance`.
        margin: by how much.
        swap: whether d(p, n) takes the place of d(a, n) where it is smaller.
        reduction: "mean", "sum" or "none".

    Shape:
        anchor, positive and negative as the distance wants them, result `()`, or like the distances without reduction.

    Raises:
        ShapeError: they have other numbers of dimensions.
        ValueError: there is no such reduction, or the margin is not positive.

    Example:
        >>> a, p, n = jnp.zeros((1, 2)), jnp.array([[3.0, 4.0]]), jnp.array([[0.0, 4.0]])
        >>> triplet_margin_with_distance_loss(a, p, n, distance_function=lambda x, y: jnp.abs(x - y).max(-1))
        Array(1., dtype=float32)

    Source: http://www.bmva.org/bmvc/2016/papers/paper119/index.html
    """
    reduction = resolve_reduction(reduction)
    if margin <= 0:
        raise ValueError(f"expected margin > 0, got {margin}")
    _check_same_rank(anchor, positive, negative)
    distance = pairwise_distance if distance_function is None else distance_function
    loss = _margin_loss(anchor, positive, negative, distance, margin, swap)
    return reduced(loss, reduction, loss.dtype)


def _check_same_rank(anchor: jax.Array, positive: jax.Array, negative: jax.Array) -> None:
    if not anchor.ndim == positive.ndim == negative.ndim:
        given = f"{describe(anchor)}, {describe(positive)} and {describe(negative)}"
        raise ShapeError(f"expected three arrays (*, D) of as many dimensions, got {given}")


def _margin_loss(
    anchor: jax.Array,
    positive: jax.Array,
    negative: jax.Array,
    distance: Callable[[jax.Array, jax.Array], jax.Array],
    margin: float,
    swap: bool,
) -> jax.Array:
    to_near, to_far = distance(anchor, positive), distance(anchor, negative)
    if swap:
        to_far = jnp.minimum(to_far, distance(positive, negative))
    return clamp_min(margin + to_near - to_far, 0)


def cosine_embedding_loss(
    input1: jax.Array,
    input2: jax.Array,
    target: jax.Array,
    margin: float = 0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """Wants pairs to point the same way or not: 1 - cos where the target is 1, max(cos - margin, 0) where it is -1.

    Args:
        input1: the first vectors.
        input2: the second vectors.
        target: 1 for pairs that belong together, -1 for others.
        margin: the cosine that others may have.
        size_average: deprecated; use `reduction`.
        reduce: deprecated; use `reduction`.
        reduction: "mean", "sum" or "none".

    Shape:
        input1 and input2 `(N, D)` and target `(N,)`, or `(D,)` and `()`; result `()`, or like target without reduction.

    Raises:
        ShapeError: the shapes do not fit.
        ValueError: there is no such reduction.

    Example:
        >>> x, y = jnp.array([[2.0, 0.0], [2.0, 0.0]]), jnp.array([[0.0, 2.0], [2.0, 0.0]])
        >>> cosine_embedding_loss(x, y, jnp.array([1, -1]), margin=0.25, reduction="none")
        Array([1.  , 0.75], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.cosine_embedding_loss.html
    """
    input1, input2 = raised(input1, input2)
    reduction = resolve_reduction(reduction, size_average, reduce)
    if target.ndim > 1 or input1.ndim != target.ndim + 1 or input2.ndim != target.ndim + 1:
        given = f"{describe(input1)}, {describe(input2)} and {describe(target)}"
        raise ShapeError(f"expected inputs (N, D) and a target (N,), or inputs (D,) and a target (), got {given}")
    check_broadcast(target=target, input1=input1[..., 0], input2=input2[..., 0])
    check_broadcast(input1=input1, input2=input2)
    dtype, (a, b) = promoted(input1, input2)
    # Unlike cosine_similarity, PyTorch's loss adds its epsilon to the squares.
    squares = (jnp.sum(a * a, -1) + 1e-12) * (jnp.sum(b * b, -1) + 1e-12)
    cosine = jnp.sum(a * b, -1) * lax.rsqrt(squares)
    loss = jnp.where(target == 1, 1 - cosine, jnp.where(target == -1, clamp_min(cosine - margin, 0), 0))
    return reduced(loss, reduction, dtype)


def hinge_embedding_loss(
    input: jax.Array,
    target: jax.Array,
    margin: float = 1.0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """Wants distances small where the target is 1, and above the margin where it is -1: x, or max(margin - x, 0).

    Args:
        input: the distances x.
        target: 1 or -1.
        margin: how large distances should be where the target is -1.
        size_average: deprecated; use `reduction`.
        reduce: deprecated; use `reduction`.
        reduction: "mean", "sum" or "none".

    Shape:
        input and target `(*)`, result `()`, or `(*)` without reduction.

    Raises:
        ShapeError: the shapes do not broadcast.
        ValueError: there is no such reduction.

    Example:
        >>> hinge_embedding_loss(jnp.array([0.5, 0.25, 3.0]), jnp.array([1, -1, -1]), reduction="none")
        Array([0.5 , 0.75, 0.  ], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.hinge_embedding_loss.html
    """
    input = raised(input)
    reduction = resolve_reduction(reduction, size_average, reduce)
    check_broadcast(input=input, target=target)
    dtype, (x, y) = promoted(input, target)
    # Another target than 1 and -1 gets both terms, as in torch.
    loss = jnp.where(y != 1, clamp_min(margin - x, 0), 0) + jnp.where(y != -1, x, 0)
    return reduced(loss, reduction, dtype)


def margin_ranking_loss(
    input1: jax.Array,
    input2: jax.Array,
    target: jax.Array,
    margin: float = 0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """Wants one of two scores to be the larger: max(-y · (x₁ - x₂) + margin, 0).

    Args:
        input1: the scores x₁.
        input2: the scores x₂.
        target: y, 1 where x₁ should be the larger and -1 where x₂ should be.
        margin: by how much.
        size_average: deprecated; use `reduction`.
        reduce: deprecated; use `reduction`.
        reduction: "mean", "sum" or "none".

    Shape:
        input1, input2 and target `(*)`, result `()`, or `(*)` without reduction.

    Raises:
        ShapeError: the shapes do not broadcast, or have other numbers of dimensions.
        ValueError: there is no such reduction.

    Example:
        >>> margin_ranking_loss(jnp.array([1.0, 3.0]), jnp.array([2.0, 1.0]), jnp.array([1, 1]), reduction="none")
        Array([1., 0.], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.margin_ranking_loss.html
    """
    input1, input2 = raised(input1, input2)
    reduction = resolve_reduction(reduction, size_average, reduce)
    check_broadcast(input1=input1, input2=input2, target=target)
    if not input1.ndim == input2.ndim == target.ndim:
        given = f"{describe(input1)}, {describe(input2)} and {describe(target)}"
        raise ShapeError(f"expected three arrays of as many dimensions, got {given}")
    dtype, (a, b, y) = promoted(input1, input2, target)
    return reduced(clamp_min(-y * (a - b) + margin, 0), reduction, dtype)


def soft_margin_loss(
    input: jax.Array,
    target: jax.Array,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """The logistic loss of scores for two classes: log(1 + exp(-y · x)), without its overflow.

    Args:
        input: the scores x.
        target: y, 1 or -1.
        size_average: deprecated; use `reduction`.
        reduce: deprecated; use `reduction`.
        reduction: "mean", "sum" or "none".

    Shape:
        input and target `(*)`, result `()`, or `(*)` without reduction.

    Raises:
        ShapeError: the shapes do not broadcast.
        ValueError: there is no such reduction.

    Example:
        >>> soft_margin_loss(jnp.array([-1000.0, 1000.0]), jnp.array([1.0, 1.0]), reduction="none")
        Array([1000.,    0.], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.soft_margin_loss.html
    """
    input, target = raised(input, target)
    reduction = resolve_reduction(reduction, size_average, reduce)
    check_broadcast(input=input, target=target)
    dtype, (x, y) = promoted(input, target)
    return reduced(log1p_exp(-y * x), reduction, dtype)
