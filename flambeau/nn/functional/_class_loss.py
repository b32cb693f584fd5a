"""Losses of classes: one class of several, several labels at once, and yes or no.

A label that names no class raises where its value is known. Under a transform it is not, and the loss is then NaN, and
so is the gradient: a finite number would be a wrong one.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from flambeau._errors import DtypeError, ShapeError
from flambeau.nn.functional._autocast import raised
from flambeau.nn.functional._checks import describe
from flambeau.nn.functional._inputs import check_integer, known
from flambeau.nn.functional._math import log1p_exp, widen
from flambeau.nn.functional._reduction import check_broadcast, promoted, reduced, resolve_reduction

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "checked_labels",
    "cross_entropy",
    "multi_margin_loss",
    "multilabel_margin_loss",
    "multilabel_soft_margin_loss",
    "nll_loss",
]


def _class_axis(input: jax.Array, weight: jax.Array | None) -> int:
    """The axis of the classes: 1, or 0 of an input `(C,)`."""
    if input.ndim == 0:
        raise ShapeError(f"expected input (C,), (N, C) or (N, C, *), got {describe(input)}")
    axis = min(input.ndim - 1, 1)
    if weight is not None and weight.shape != (input.shape[axis],):
        raise ShapeError(f"expected weight ({input.shape[axis]},), one for each class, got {describe(weight)}")
    return axis


def checked_labels(
    target: jax.Array,
    input: jax.Array | jax.ShapeDtypeStruct,
    axis: int,
    ignore_index: int | None,
    error: type[Exception] = IndexError,
) -> jax.Array:
    """The labels, wide enough for any class, after a check of shape, dtype and, where it is known, range."""
    shape = (*input.shape[:axis], *input.shape[axis + 1 :])
    if target.shape != shape:
        raise ShapeError(f"expected target {shape} of classes for input {describe(input)}, got {describe(target)}")
    check_integer(target, "target")
    values = known(target)
    if values is not None:
        wrong = (values < 0) | (values >= input.shape[axis])
        if ignore_index is not None:
            wrong &= values != ignore_index
        if wrong.any():
            raise error(f"expected classes in [0, {input.shape[axis] - 1}], got {np.ravel(values[wrong])[0]}")
    return target.astype(jnp.promote_types(target.dtype, jnp.int32))


def _pick(x: jax.Array, labels: jax.Array, axis: int) -> jax.Array:
    """The entry of `x` at each label, without the axis of the classes."""
    return jnp.squeeze(jnp.take_along_axis(x, jnp.expand_dims(labels, axis), axis), axis)


def _class_weights(labels: jax.Array, weight: jax.Array | None, classes: int, dtype: jnp.dtype) -> jax.Array:
    """The weight of each label's class; NaN where it is none."""
    if weight is None:
        return jnp.where((labels >= 0) & (labels < classes), jnp.ones((), dtype), jnp.nan)
    return widen(weight).at[labels].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


def _over_labels(loss: jax.Array, kept: jax.Array, weights: jax.Array, reduction: str, dtype: jnp.dtype) -> jax.Array:
    """The loss of the labels that are kept, reduced; its mean is that of their weights."""
    loss = jnp.where(kept, loss, 0)
    if reduction == "mean":
        return (jnp.sum(loss) / jnp.sum(jnp.where(kept, weights, 0))).astype(dtype)
    return reduced(loss, reduction, dtype)


def nll_loss(
    input: jax.Array,
    target: jax.Array,
    weight: jax.Array | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """The negative log-likelihood of classes: -w_y · x_y, with log-probabilities x.

    Args:
        input: the log-probabilities.
        target: the true classes y.
        weight: a weight w for each class.
        size_average: deprecated; use `reduction`.
        ignore_index: a target that does not count.
        reduce: deprecated; use `reduction`.
        reduction: "mean" over the weights of the targets that count, "sum" or "none".

    Shape:
        input `(N, C, *)` or `(C,)`, target `(N, *)` or `()`, weight `(C,)`, result `()`, or like target without
        reduction.

    Raises:
        ShapeError: the shapes do not fit.
        DtypeError: the target holds no integers.
        IndexError: a target is no class; under a transform, where it is not known, the loss is NaN.
        ValueError: there is no such reduction.

    Example:
        >>> nll_loss(jnp.array([[-1.0, -2.0], [-3.0, -4.0]]), jnp.array([0, 1]))
        Array(2.5, dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.nll_loss.html
    """
    input, weight = raised(input, weight)
    reduction = resolve_reduction(reduction, size_average, reduce)
    axis = _class_axis(input, weight)
    labels = checked_labels(target, input, axis, ignore_index)
    x = widen(input)
    kept = labels != ignore_index
    safe = jnp.where(kept, labels, 0)
    weights = _class_weights(safe, weight, input.shape[axis], x.dtype)
    return _over_labels(-weights * _pick(x, safe, axis), kept, weights, reduction, input.dtype)


def cross_entropy(
    input: jax.Array,
    target: jax.Array,
    weight: jax.Array | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> jax.Array:
    """The cross entropy of scores with classes or with probabilities.

    It is -w_y · log softmax(x)_y with classes y, and -Σ_c w_c p_c log softmax(x)_c with probabilities p.

    Args:
        input: the scores x.
        target: the true classes y; or, if it has the shape of the input, their probabilities p.
        weight: a weight w for each class.
        size_average: deprecated; use `reduction`.
        ignore_index: a class that does not count.
        reduce: deprecated; use `reduction`.
        reduction: "mean" (over the weights of the targets that count; of probabilities, over rows), "sum" or "none".
        label_smoothing: the share of a uniform distribution that is mixed into the target.

    Shape:
        input `(N, C, *)` or `(C,)`, target `(N, *)` or `()` of classes or like input of probabilities, weight `(C,)`,
        result `()`, or `(N, *)` or `()` without reduction.

    Raises:
        ShapeError: the shapes do not fit.
        DtypeError: the classes are no integers, or the probabilities no floating numbers.
        IndexError: a target is no class; under a transform, where it is not known, the loss is NaN.
        ValueError: there is no such reduction.
        RuntimeError: `label_smoothing` is not in [0, 1], or there is an `ignore_index` of probabilities.

    Example:
        >>> scores = jnp.array([[0.0, 1000.0], [0.0, 1000.0]])
        >>> cross_entropy(scores, jnp.array([0, 1]), reduction="none")
        Array([1000.,    0.], dtype=float32)
        >>> cross_entropy(scores, jnp.array([[0.5, 0.5], [0.25, 0.75]]), reduction="none")
        Array([500., 250.], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.cross_entropy.html
    """
    input, target, weight = raised(input, target, weight)
    reduction = resolve_reduction(reduction, size_average, reduce)
    if not 0 <= label_smoothing <= 1:
        raise RuntimeError(f"expected label_smoothing in [0, 1], got {label_smoothing}")
    axis = _class_axis(input, weight)
    if input.shape == target.shape:
        if ignore_index >= 0:
            raise RuntimeError("expected no ignore_index, which says nothing about class probabilities")
        return _soft_cross_entropy(input, target, weight, reduction, label_smoothing, axis)
    labels = checked_labels(target, input, axis, ignore_index)
    return _hard_cross_entropy(input, labels, weight, ignore_index, reduction, label_smoothing, axis)


def _soft_cross_entropy(
    input: jax.Array, target: jax.Array, weight: jax.Array | None, reduction: str, smoothing: float, axis: int
) -> jax.Array:
    """The cross entropy with class probabilities."""
    if not jnp.issubdtype(target.dtype, jnp.floating):
        raise DtypeError(f"expected target of a floating dtype, like input in shape, got {describe(target)}")
    dtype, (x, probabilities) = promoted(input, target)
    classes = input.shape[axis]
    if smoothing > 0:
        probabilities = probabilities * (1 - smoothing) + smoothing / classes
    if weight is not None:
        probabilities = probabilities * _along(weight, axis, x.ndim)
    loss = -jnp.sum(probabilities * jax.nn.log_softmax(x, axis), axis)
    return reduced(loss, reduction, dtype)


def _hard_cross_entropy(
    input: jax.Array,
    labels: jax.Array,
    weight: jax.Array | None,
    ignore_index: int,
    reduction: str,
    smoothing: float,
    axis: int,
) -> jax.Array:
    """The cross entropy with classes, for which the log-softmax need not be written out."""
    x = widen(input)
    classes = x.shape[axis]
    peak = lax.stop_gradient(jnp.max(x, axis, keepdims=True))
    shifted = x - peak
    log_total = jnp.log(jnp.sum(jnp.exp(shifted), axis))
    kept = labels != ignore_index
    safe = jnp.where(kept, labels, 0)
    weights = _class_weights(safe, weight, classes, x.dtype)
    # Picked from x, not from what is shifted, which then is never stored.
    loss = weights * (log_total - (_pick(x, safe, axis) - jnp.squeeze(peak, axis)))
    if smoothing > 0:
        against_each = jnp.expand_dims(log_total, axis) - shifted
        each = 1 if weight is None else _along(weight, axis, x.ndim)
        loss = (1 - smoothing) * loss + smoothing / classes * jnp.sum(each * against_each, axis)
    return _over_labels(loss, kept, weights, reduction, input.dtype)


def _along(weight: jax.Array, axis: int, ndim: int) -> jax.Array:
    """A weight `(C,)` as it broadcasts against an array of `ndim` dimensions with the classes on `axis`."""
    return widen(weight).reshape(-1, *[1] * (ndim - axis - 1))


def _check_unit_interval(x: jax.Array, name: str) -> None:
    values = known(x)
    if values is not None and not ((values >= 0) & (values <= 1)).all():
        raise RuntimeError(f"expected all of {name} in [0, 1], got {values.min()} to {values.max()}")


@jax.custom_jvp
def _log_bounded(x: jax.Array, y: jax.Array) -> jax.Array:
    """-y log x - (1 - y) log(1 - x), with logarithms of at least -100."""
    return (y - 1) * jnp.maximum(jnp.log1p(-x), -100) - y * jnp.maximum(jnp.log(x), -100)


@_log_bounded.defjvp
def _log_bounded_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    # PyTorch's derivative: large, but neither 0 nor infinite, where a logarithm has met its bound.
    (x, y), (dx, dy) = primals, tangents
    slope = (x - y) / jnp.maximum((1 - x) * x, 1e-12)
    return _log_bounded(x, y), slope * dx + (jnp.maximum(jnp.log1p(-x), -100) - jnp.maximum(jnp.log(x), -100)) * dy


def binary_cross_entropy(
    input: jax.Array,
    target: jax.Array,
    weight: jax.Array | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """The cross entropy of probabilities: -w · (y log x + (1 - y) log(1 - x)), with logarithms of at least -100.

    Args:
        input: the probabilities x.
        target: the true probabilities y.
        weight: a weight w for each element.
        size_average: deprecated; use `reduction`.
        reduce: deprecated; use `reduction`.
        reduction: "mean", "sum" or "none".

    Shape:
        input and target `(*)`, weight any that broadcasts to it, result `()`, or `(*)` without reduction.

    Raises:
        ShapeError: the shapes do not fit.
        ValueError: there is no such reduction.
        RuntimeError: input or target is not in [0, 1]; under a transform, where it is not known, the loss is NaN.

    Example:
        >>> binary_cross_entropy(jnp.array([1.0, 0.0]), jnp.array([1.0, 1.0]))
        Array(50., dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.binary_cross_entropy.html
    """
    input, target, weight = raised(input, target, weight)
    reduction = resolve_reduction(reduction, size_average, reduce)
    if target.shape != input.shape:
        raise ShapeError(f"expected target {input.shape} like input, got {describe(target)}")
    _check_unit_interval(input, "input")
    _check_unit_interval(target, "target")
    dtype, (x, y) = promoted(input, target)
    loss = _log_bounded(x, jnp.where((y >= 0) & (y <= 1), y, jnp.nan))
    if weight is not None:
        check_broadcast(input=input, weight=weight)
        loss = loss * widen(weight)
    return reduced(loss, reduction, dtype)


def binary_cross_entropy_with_logits(
    input: jax.Array,
    target: jax.Array,
    weight: jax.Array | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: jax.Array | None = None,
) -> jax.Array:
    """The cross entropy of scores for yes or no: -w · (v y log σ(x) + (1 - y) log(1 - σ(x))), for scores of any size.

    Args:
        input: the scores x.
        target: the true probabilities y.
        weight: a weight w for each element.
        size_average: deprecated; use `reduction`.
        reduce: deprecated; use `reduction`.
        reduction: "mean", "sum" or "none".
        pos_weight: a weight v of what is true.

    Shape:
        input and target `(*)`, weight and pos_weight any that broadcast to it, result `()`, or `(*)` without reduction.

    Raises:
        ShapeError: the shapes do not fit.
        ValueError: there is no such reduction.

    Example:
        >>> binary_cross_entropy_with_logits(jnp.array([1000.0, -1000.0]), jnp.array([1.0, 1.0]))
        Array(500., dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.binary_cross_entropy_with_logits.html
    """
    input, target, weight, pos_weight = raised(input, target, weight, pos_weight)
    reduction = resolve_reduction(reduction, size_average, reduce)
    if target.shape != input.shape:
        raise ShapeError(f"expected target {input.shape} like input, got {describe(target)}")
    dtype, (x, y) = promoted(input, target)
    missed = log1p_exp(-x)
    if pos_weight is not None:
        check_broadcast(input=input, pos_weight=pos_weight)
        missed = missed * ((widen(pos_weight) - 1) * y + 1)
    loss = (1 - y) * x + missed
    if weight is not None:
        check_broadcast(input=input, weight=weight)
        loss = loss * widen(weight)
    return reduced(loss, reduction, dtype)


def multilabel_soft_margin_loss(
    input: jax.Array,
    target: jax.Array,
    weight: jax.Array | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """The mean over the classes of yes-or-no cross entropies: -Σ_c w_c · (y_c log σ(x_c) + (1 - y_c) log σ(-x_c)) / C.

    Args:
        input: the scores x.
        target: y, 1 for the labels that are true and 0 for others.
        weight: a weight w for each class.
        size_average: deprecated; use `reduction`.
        reduce: deprecated; use `reduction`.
        reduction: "mean", "sum" or "none".

    Shape:
        input and target `(*, C)`, weight any that broadcasts to it, result `()`, or `(*)` without reduction.

    Raises:
        ShapeError: the shapes do not fit.
        ValueError: there is no such reduction.

    Example:
        >>> multilabel_soft_margin_loss(jnp.array([[1000.0, -1000.0]]), jnp.array([[1.0, 1.0]]))
        Array(500., dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.multilabel_soft_margin_loss.html
    """
    input, target, weight = raised(input, target, weight)
    reduction = resolve_reduction(reduction, size_average, reduce)
    if not check_broadcast(input=input, target=target):
        raise ShapeError(f"expected input (*, C), got {describe(input)}")
    dtype, (x, y) = promoted(input, target)
    loss = (1 - y) * x + log1p_exp(-x)
    if weight is not None:
        check_broadcast(input=input, weight=weight)
        loss = loss * widen(weight)
    return reduced(jnp.mean(loss, -1), reduction, dtype)


def multi_margin_loss(
    input: jax.Array,
    target: jax.Array,
    p: int = 1,
    margin: float = 1.0,
    weight: jax.Array | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """Wants the score of the true class above all others by a margin: w_y · Σ_{c≠y} max(margin - x_y + x_c, 0)ᵖ / C.

    Args:
        input: the scores x.
        target: the true classes y.
        p: the exponent, 1 or 2.
        margin: by how much.
        weight: a weight w for each class.
        size_average: deprecated; use `reduction`.
        reduce: deprecated; use `reduction`.
        reduction: "mean", "sum" or "none".

    Shape:
        input `(N, C)`, `(C,)` or `()`, target `(N,)`, of a single row `()` or `(1,)`, weight `(C,)`, result `()`, or like
        target without reduction.

    Raises:
        ShapeError: the shapes do not fit.
        DtypeError: the target holds no integers.
        RuntimeError: a target is no class; under a transform, where it is not known, the loss is NaN.
        ValueError: there is no such reduction, or `p` is neither 1 nor 2.

    Example:
        >>> multi_margin_loss(jnp.array([[0.5, 1.0, -2.0]]), jnp.array([0]))
        Array(0.5, dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.multi_margin_loss.html
    """
    input, weight = raised(input, weight)
    reduction = resolve_reduction(reduction, size_average, reduce)
    if p not in (1, 2):
        raise ValueError(f"expected p to be 1 or 2, got {p}")
    if input.ndim > 2:
        raise ShapeError(f"expected input (N, C), (C,) or (), got {describe(input)}")
    shape = target.shape
    if input.ndim < 2 and shape in ((), (1,)):
        input, target = input.reshape(1, -1), target.reshape(1)
    axis = _class_axis(input, weight)
    labels = checked_labels(target, input, axis, None, RuntimeError)
    x = widen(input)
    weights = _class_weights(labels, weight, x.shape[axis], x.dtype)
    # A wrong label must spoil the scores and not the loss alone, for the rectifier lets no NaN back into the gradient.
    x = jnp.where(jnp.isnan(weights)[..., None], jnp.nan, 1) * x
    is_true = lax.broadcasted_iota(labels.dtype, x.shape, axis) == labels[..., None]
    short = jax.nn.relu(margin - _pick(x, labels, axis)[..., None] + x) ** p
    return reduced((weights * jnp.mean(jnp.where(is_true, 0, short), axis)).reshape(shape), reduction, input.dtype)


def multilabel_margin_loss(
    input: jax.Array,
    target: jax.Array,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """Wants the score of each true label above all that are not true by 1: Σ_y Σ_c max(1 - x_y + x_c, 0) / C.

    Args:
        input: the scores x.
        target: the true labels y, ended by a -1 if they are fewer than the classes.
        size_average: deprecated; use `reduction`.
        reduce: deprecated; use `reduction`.
        reduction: "mean", "sum" or "none".

    Shape:
        input and target `(N, C)`, `(C,)` or `()`, result `()`, or `(N,)` or `()` without reduction.

    Raises:
        ShapeError: the shapes do not fit.
        DtypeError: the target holds no integers.
        RuntimeError: a target is neither a class nor -1; under a transform, where it is not known, the loss is NaN.
        ValueError: there is no such reduction.

    Example:
        >>> multilabel_margin_loss(jnp.array([[0.5, 1.0, -2.0, -2.0]]), jnp.array([[1, -1, 0, 0]]))
        Array(0.125, dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.multilabel_margin_loss.html
    """
    input = raised(input)
    reduction = resolve_reduction(reduction, size_average, reduce)
    if input.ndim > 2 or target.shape != input.shape:
        raise ShapeError(
            f"expected input and target (N, C), (C,) or () alike, got {describe(input)} and {describe(target)}"
        )
    if input.ndim == 0:
        input, target = input.reshape(1), target.reshape(1)
    check_integer(target, "target")
    classes = input.shape[-1]
    values = known(target)
    if values is not None and values.size and not (values.min() >= -1 and values.max() < classes):
        raise RuntimeError(f"expected targets in [-1, {classes - 1}], got {values.min()} to {values.max()}")
    labels = target.astype(jnp.promote_types(target.dtype, jnp.int32))
    x = widen(input)
    row_loss = partial(_multilabel_margin_row, classes=classes)
    loss = row_loss(x, labels) if x.ndim == 1 else jax.vmap(row_loss)(x, labels)
    return reduced(loss, reduction, input.dtype)


def _multilabel_margin_row(x: jax.Array, labels: jax.Array, classes: int) -> jax.Array:
    """The multilabel margin loss of one row `(C,)`."""
    # A wrong label must spoil the scores and not the loss alone, for the rectifier lets no NaN back into the gradient.
    x = jnp.where(jnp.all((labels >= -1) & (labels < classes)), 1, jnp.nan) * x
    given = jnp.cumprod(labels >= 0).astype(bool)
    is_true = jnp.any(given[:, None] & (labels[:, None] == jnp.arange(classes)), 0)
    x_true = x[jnp.where(given, labels, 0)]
    short = jax.nn.relu(1 - x_true[:, None] + x)  # (label, class)
    return jnp.sum(jnp.where(given[:, None] & ~is_true, short, 0)) / classes
