"""Losses: those of one number at a time here, those of classes and of distances from the files beside.

All take the older `size_average` and `reduce` where PyTorch does, with a warning. Half-precision inputs are computed
with in float32; the result has the dtype that the inputs promote to.
"""

from __future__ import annotations

import math
import warnings

import jax
import jax.numpy as jnp
from jax.scipy.special import xlogy

from flambeau._errors import FlambeauWarning, ShapeError
from flambeau.nn.functional._autocast import raised
from flambeau.nn.functional._checks import describe
from flambeau.nn.functional._class_loss import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cross_entropy,
    multi_margin_loss,
    multilabel_margin_loss,
    multilabel_soft_margin_loss,
    nll_loss,
)
from flambeau.nn.functional._ctc_loss import ctc_loss
from flambeau.nn.functional._distance_loss import (
    cosine_embedding_loss,
    cosine_similarity,
    hinge_embedding_loss,
    margin_ranking_loss,
    pairwise_distance,
    pdist,
    soft_margin_loss,
    triplet_margin_loss,
    triplet_margin_with_distance_loss,
)
from flambeau.nn.functional._inputs import known
from flambeau.nn.functional._linear_cross_entropy import linear_cross_entropy
from flambeau.nn.functional._math import absolute, straight_through, widen
from flambeau.nn.functional._reduction import check_broadcast, promoted, reduced, resolve_reduction

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cosine_embedding_loss",
    "cosine_similarity",
    "cross_entropy",
    "ctc_loss",
    "gaussian_nll_loss",
    "hinge_embedding_loss",
    "huber_loss",
    "kl_div",
    "l1_loss",
    "linear_cross_entropy",
    "margin_ranking_loss",
    "mse_loss",
    "multi_margin_loss",
    "multilabel_margin_loss",
    "multilabel_soft_margin_loss",
    "nll_loss",
    "pairwise_distance",
    "pdist",
    "poisson_nll_loss",
    "smooth_l1_loss",
    "soft_margin_loss",
    "triplet_margin_loss",
    "triplet_margin_with_distance_loss",
]


def _difference(input: jax.Array, target: jax.Array, weight: jax.Array | None) -> tuple[jnp.dtype, jax.Array]:
    """The dtype of the result, and input - target, with a warning where the two have to broadcast."""
    check_broadcast(input=input, target=target)
    if input.shape != target.shape:
        warnings.warn(
            f"the target {describe(target)} broadcasts against the input {describe(input)}, which is seldom what is "
            "meant: give both the same shape",
            FlambeauWarning,
            stacklevel=3,
        )
    if weight is not None and weight.shape != input.shape:
        raise ShapeError(f"expected weight {input.shape} like input, got {describe(weight)}")
    dtype, (x, y) = promoted(input, target)
    return (dtype if weight is None else jnp.result_type(dtype, weight)), x - y


def _weighted(loss: jax.Array, weight: jax.Array | None, reduction: str, dtype: jnp.dtype) -> jax.Array:
    """The reduced loss; its mean is that of the weights, not of the elements."""
    if weight is None:
        return reduced(loss, reduction, dtype)
    wide = widen(weight)
    if reduction == "mean":
        return (jnp.sum(loss * wide) / jnp.sum(wide)).astype(dtype)
    return reduced(loss * wide, reduction, dtype)


def mse_loss(
    input: jax.Array,
    target: jax.Array,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: jax.Array | None = None,
) -> jax.Array:
    """The squared error: (x - y)².

    Args:
        input: the predictions x.
        target: the true values y.
        size_average: deprecated; use `reduction`.
        reduce: deprecated; use `reduction`.
        reduction: "mean" (over the weights, if there are any), "sum" or "none".
        weight: the weight of each element.

    Shape:
        input, target and weight `(*)`, result `()`, or `(*)` without reduction.

    Raises:
        ShapeError: the shapes do not fit; where they broadcast there is a warning.
        ValueError: there is no such reduction.

    Example:
        >>> mse_loss(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0]))
        Array(2., dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.mse_loss.html
    """
    input, target = raised(input, target)
    reduction = resolve_reduction(reduction, size_average, reduce)
    dtype, error = _difference(input, target, weight)
    return _weighted(error * error, weight, reduction, dtype)


def l1_loss(
    input: jax.Array,
    target: jax.Array,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: jax.Array | None = None,
) -> jax.Array:
    """The absolute error: |x - y|, with derivative 0 at 0.

    Args:
        input: the predictions x.
        target: the true values y.
        size_average: deprecated; use `reduction`.
        reduce: deprecated; use `reduction`.
        reduction: "mean" (over the weights, if there are any), "sum" or "none".
        weight: the weight of each element.

    Shape:
        input, target and weight `(*)`, result `()`, or `(*)` without reduction.

    Raises:
        ShapeError: the shapes do not fit; where they broadcast there is a warning.
        ValueError: there is no such reduction.

    Example:
        >>> l1_loss(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0]))
        Array(1., dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.l1_loss.html
    """
    input, target = raised(input, target)
    reduction = resolve_reduction(reduction, size_average, reduce)
    dtype, error = _difference(input, target, weight)
    return _weighted(absolute(error), weight, reduction, dtype)


def smooth_l1_loss(
    input: jax.Array,
    target: jax.Array,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    beta: float = 1.0,
) -> jax.Array:
    """The absolute error, rounded off below beta: d² / 2β if |d| < β, else |d| - β/2, with d = x - y.

    Args:
        input: the predictions x.
        target: the true values y.
        size_average: deprecated; use `reduction`.
        reduce: deprecated; use `reduction`.
        reduction: "mean", "sum" or "none".
        beta: where the parabola ends; 0 for the absolute error.

    Shape:
        input and target `(*)`, result `()`, or `(*)` without reduction.

    Raises:
        ShapeError: the shapes do not fit; where they broadcast there is a warning.
        ValueError: there is no such reduction.
        RuntimeError: `beta` is negative.

    Example:
        >>> smooth_l1_loss(jnp.array([0.5, 3.0]), jnp.zeros(2), reduction="none")
        Array([0.125, 2.5  ], dtype=float32)

    Source: https://arxiv.org/abs/1504.08083
    """
    input, target = raised(input, target)
    reduction = resolve_reduction(reduction, size_average, reduce)
    if beta < 0:
        raise RuntimeError(f"expected beta >= 0, got {beta}")
    dtype, error = _difference(input, target, None)
    size = absolute(error)
    loss = size if beta == 0 else jnp.where(size < beta, 0.5 / beta * error * error, size - 0.5 * beta)
    return reduced(loss, reduction, dtype)


def huber_loss(
    input: jax.Array,
    target: jax.Array,
    reduction: str = "mean",
    delta: float = 1.0,
    weight: jax.Array | None = None,
) -> jax.Array:
    """The squared error, straightened out above delta: d² / 2 if |d| <= δ, else δ · (|d| - δ/2), with d = x - y.

    Args:
        input: the predictions x.
        target: the true values y.
        reduction: "mean" (over the elements, also if there are weights), "sum" or "none".
        delta: where the parabola ends.
        weight: the weight of each element.

    Shape:
        input, target and weight `(*)`, result `()`, or `(*)` without reduction.

    Raises:
        ShapeError: the shapes do not fit; where they broadcast there is a warning.
        ValueError: there is no such reduction.
        RuntimeError: `delta` is not positive.

    Example:
        >>> huber_loss(jnp.array([0.5, 3.0]), jnp.zeros(2), reduction="none", delta=2.0)
        Array([0.125, 4.   ], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.huber_loss.html
    """
    input, target = raised(input, target)
    reduction = resolve_reduction(reduction)
    if delta <= 0:
        raise RuntimeError(f"expected delta > 0, got {delta}")
    dtype, error = _difference(input, target, weight)
    size = absolute(error)
    loss = jnp.where(size <= delta, 0.5 * error * error, delta * (size - 0.5 * delta))
    return reduced(loss if weight is None else loss * widen(weight), reduction, dtype)


def kl_div(
    input: jax.Array,
    target: jax.Array,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> jax.Array:
    """The Kullback-Leibler divergence: p · (log p - x), with log-probabilities x.

    Args:
        input: the predictions x.
        target: the true probabilities p, or log p.
        size_average: deprecated; use `reduction`.
        reduce: deprecated; use `reduction`.
        reduction: "batchmean" for the divergence of distributions, the sum over the number of rows; "sum", "none", or
            "mean" over all elements, which as in PyTorch warns that it is no divergence.
        log_target: whether the target is log p.

    Shape:
        input and target `(*)`, result `()`, or `(*)` without reduction.

    Raises:
        ShapeError: the shapes do not broadcast.
        ValueError: there is no such reduction.

    Example:
        >>> loss = kl_div(jnp.log(jnp.array([[0.5, 0.5]])), jnp.array([[0.0, 1.0]]), reduction="batchmean")
        >>> print(f"{loss:.4f}")
        0.6931

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.kl_div.html
    """
    input, target = raised(input, target)
    if reduction == "mean" and size_average is None and reduce is None:
        warnings.warn(
            "kl_div with reduction='mean' averages over classes too and is no divergence: use reduction='batchmean'",
            FlambeauWarning,
            stacklevel=2,
        )
    reduction = resolve_reduction(reduction, size_average, reduce, others=("batchmean",))
    check_broadcast(input=input, target=target)
    dtype, (x, y) = promoted(input, target)
    loss = jnp.exp(y) * (y - x) if log_target else xlogy(y, y) - y * x
    if reduction == "batchmean":
        return (jnp.sum(loss) / (input.shape[0] if input.ndim else 1)).astype(dtype)
    return reduced(loss, reduction, dtype)


def poisson_nll_loss(
    input: jax.Array,
    target: jax.Array,
    log_input: bool = True,
    full: bool = False,
    size_average: bool | None = None,
    eps: float = 1e-8,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """The negative log-likelihood of counts under Poisson distributions: exp(x) - y · x, plus log(y!) if full.

    Args:
        input: the logarithms x of the expectations, or the expectations.
        target: the counts y.
        log_input: whether the input is a logarithm; else the loss is x - y · log(x + eps).
        full: whether to add log(y!) by Stirling's formula, y log y - y + log(2πy) / 2, where y > 1.
        size_average: deprecated; use `reduction`.
        eps: keeps log(0) away where the input is no logarithm.
        reduce: deprecated; use `reduction`.
        reduction: "mean", "sum" or "none".

    Shape:
        input and target `(*)`, result `()`, or `(*)` without reduction.

    Raises:
        ShapeError: the shapes do not broadcast.
        ValueError: there is no such reduction.

    Example:
        >>> poisson_nll_loss(jnp.array([0.0, 0.0]), jnp.array([1.0, 3.0]))
        Array(1., dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.poisson_nll_loss.html
    """
    input, target = raised(input, target)
    reduction = resolve_reduction(reduction, size_average, reduce)
    check_broadcast(input=input, target=target)
    dtype, (x, y) = promoted(input, target)
    loss = jnp.exp(x) - y * x if log_input else x - y * jnp.log(x + eps)
    if full:
        large = jnp.where(y > 1, y, 1)
        stirling = large * jnp.log(large) - large + 0.5 * jnp.log(2 * math.pi * large)
        loss = loss + jnp.where(y > 1, stirling, 0)
    return reduced(loss, reduction, dtype)


def _variance(var: jax.Array | float, input: jax.Array) -> jax.Array:
    """The variance, such that it broadcasts against the input in at most one dimension."""
    if isinstance(var, int | float):
        if var < 0:
            raise ValueError(f"expected var >= 0, got {var}")
        return jnp.full_like(input, var)
    values = known(var)
    if values is not None and (values < 0).any():
        raise ValueError(f"expected var >= 0, got {values.min()}")
    if var.shape == input.shape:
        return var
    if var.shape == input.shape[:-1]:
        return var[..., None]
    unequal = [mine for mine, its in zip(var.shape, input.shape, strict=False) if mine != its]
    if var.ndim != input.ndim or unequal != [1]:
        raise ValueError(
            f"expected var of the shape of input {describe(input)} or with one size 1, got {describe(var)}"
        )
    return var


def gaussian_nll_loss(
    input: jax.Array,
    target: jax.Array,
    var: jax.Array | float,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> jax.Array:
    """The negative log-likelihood under normal distributions: (log v + (x - y)² / v) / 2, plus log(2π) / 2 if full.

    The variance is at least eps; its gradient takes no notice of that.

    Args:
        input: the expectations x.
        target: the true values y.
        var: the variances v: one number, one for each element, or one for each row.
        full: whether to add the constant.
        eps: the smallest variance.
        reduction: "mean", "sum" or "none".

    Shape:
        input and target `(*)`, var like input, without its last dimension or with one dimension of size 1, result `()`,
        or `(*)` without reduction.

    Raises:
        ShapeError: the shapes of input and target do not broadcast.
        ValueError: there is no such reduction, or `var` has another shape or a negative element (under a transform,
            where its values are not known, the loss of such an element is NaN).

    Example:
        >>> gaussian_nll_loss(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0]), jnp.ones(2))
        Array(1., dtype=float32)

    Source: https://ieeexplore.ieee.org/document/374138
    """
    input, target, var = raised(input, target, var)
    reduction = resolve_reduction(reduction)
    check_broadcast(input=input, target=target)
    dtype, (x, y, v) = promoted(input, target, _variance(var, input))
    bounded = straight_through(v, jnp.where(v < 0, jnp.nan, jnp.maximum(v, eps)))
    loss = 0.5 * (jnp.log(bounded) + (x - y) ** 2 / bounded)
    return reduced(loss + 0.5 * math.log(2 * math.pi) if full else loss, reduction, dtype)
