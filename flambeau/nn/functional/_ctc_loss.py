"""The loss of sequences whose alignment is not known."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from flambeau._errors import ShapeError
from flambeau.nn.functional._autocast import raised
from flambeau.nn.functional._checks import describe
from flambeau.nn.functional._inputs import check_integer, known
from flambeau.nn.functional._math import straight_through, widen
from flambeau.nn.functional._reduction import reduced, resolve_reduction

__all__ = ["Lengths", "ctc_loss"]

Lengths: TypeAlias = jax.Array | np.ndarray | Sequence[int] | int


def ctc_loss(
    log_probs: jax.Array,
    targets: jax.Array,
    input_lengths: Lengths,
    target_lengths: Lengths,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> jax.Array:
    """The negative log-likelihood of label sequences, summed over all ways to align them with the input.

    An alignment gives each step of the input a label or a blank; what it says is found by dropping repetitions and then
    blanks. The gradient is PyTorch's: that of the scores before the log-softmax which `log_probs` are taken to be from, and
    so the right one in the end.

    Args:
        log_probs: for each step the logarithms of the probabilities of all classes.
        targets: the labels, padded or one sequence after the other.
        input_lengths: how many steps of each input count.
        target_lengths: how many labels each target has.
        blank: the class that is the blank.
        reduction: "mean" (over the batch, after a division by the lengths of the targets), "sum" or "none".
        zero_infinity: whether a target that is too long for its input has loss and gradient 0, not infinity and NaN.

    Shape:
        log_probs `(T, N, C)` or `(T, C)`, targets `(N, S)`, `(S,)` or, one after the other, `(S₁ + … + Sₙ,)`, lengths
        `(N,)`, or `()` and `(1,)` without a batch; result `()`, or `(N,)` or `()` without reduction.

    Raises:
        ShapeError: the shapes do not fit.
        DtypeError: targets or lengths hold no integers.
        RuntimeError: a length is out of range, or the blank is no class.
        IndexError: a label is no class; under a transform, where it is not known, the loss is NaN.
        ValueError: there is no such reduction.

    Example:
        >>> chances = jnp.log(jnp.full((2, 1, 2), 0.5))
        >>> ctc_loss(chances, jnp.array([[1]]), [2], [1], reduction="sum").round(4)  # three alignments of four
        Array(0.2877, dtype=float32)

    Source: https://www.cs.toronto.edu/~graves/icml_2006.pdf
    """
    log_probs = raised(log_probs)
    reduction = resolve_reduction(reduction)
    if log_probs.ndim not in (2, 3):
        raise ShapeError(f"expected log_probs (T, N, C) or (T, C), got {describe(log_probs)}")
    if not 0 <= blank < log_probs.shape[-1]:
        raise RuntimeError(f"expected blank to be one of the {log_probs.shape[-1]} classes, got {blank}")
    batched = log_probs.ndim == 3
    x = widen(log_probs if batched else log_probs[:, None])
    steps = _lengths(input_lengths, x.shape[1], "input_lengths")
    sizes = _lengths(target_lengths, x.shape[1], "target_lengths")
    _check_range(steps, x.shape[0], "input_lengths")
    labels = _padded(jnp.asarray(targets), sizes, x.shape[1], batched)
    # What stands behind a target may be anything.
    labels = jnp.where(jnp.arange(labels.shape[1]) < sizes[:, None], labels, blank)
    _check_labels(labels, x.shape[-1])
    loss = _sequence_losses(x, labels, steps, sizes, blank, zero_infinity)
    if reduction == "mean":
        loss = loss / jnp.maximum(sizes, 1)
    return reduced(loss if batched else loss[0], reduction, log_probs.dtype)


def _lengths(lengths: Lengths, batch: int, name: str) -> jax.Array:
    array = jnp.asarray(lengths)
    check_integer(array, name)
    if array.shape != (batch,) and not (batch == 1 and array.ndim == 0):
        raise ShapeError(f"expected {name} ({batch},), got {describe(array)}")
    return array.reshape(batch)


def _check_range(lengths: jax.Array, most: int, name: str) -> None:
    values = known(lengths)
    if values is not None and values.size and (values.min() < 0 or values.max() > most):
        raise RuntimeError(f"expected {name} from 0 to {most}, got {values.min()} to {values.max()}")


def _check_labels(labels: jax.Array, classes: int) -> None:
    values = known(labels)
    if values is not None and values.size and (values.min() < 0 or values.max() >= classes):
        raise IndexError(f"expected labels in [0, {classes - 1}], got {values.min()} to {values.max()}")


def _padded(targets: jax.Array, sizes: jax.Array, batch: int, batched: bool) -> jax.Array:
    """The labels as `(N, S)`, also those that come one after the other."""
    check_integer(targets, "targets")
    if targets.ndim == 2:
        if targets.shape[0] != batch:
            raise ShapeError(f"expected targets ({batch}, S), got {describe(targets)}")
        _check_range(sizes, targets.shape[1], "target_lengths")
        return targets
    if targets.ndim != 1:
        raise ShapeError(f"expected targets {'(N, S) or (S,)' if batched else '(S,)'}, got {describe(targets)}")
    values = known(sizes)
    if values is None:
        longest = targets.shape[0]
    else:
        longest = int(values.max(initial=0))
        if values.sum() > targets.shape[0]:
            raise RuntimeError(f"expected target_lengths that add up to {targets.shape[0]}, got {values.sum()}")
    if targets.shape[0] == 0:
        return jnp.zeros((batch, 0), targets.dtype)
    starts = jnp.cumsum(sizes) - sizes
    return targets[jnp.minimum(starts[:, None] + jnp.arange(longest), targets.shape[0] - 1)]


@partial(jax.jit, static_argnums=(4, 5))
def _sequence_losses(
    x: jax.Array, labels: jax.Array, steps: jax.Array, sizes: jax.Array, blank: int, zero_infinity: bool
) -> jax.Array:
    """The loss of each sequence of the batch."""
    running = jnp.arange(x.shape[0])[:, None] < steps  # (T, N)
    loss = -_log_likelihood(x, labels, running, sizes, blank)
    # PyTorch's derivative is that with respect to scores: with exp(x) for the sum of which the softmax makes a constant.
    total = jnp.sum(jnp.where(running[..., None], jnp.exp(x), 0), (0, 2))
    impossible = jnp.isinf(loss)
    counts = jnp.where(impossible, 0 if zero_infinity else jnp.nan, 1)
    differentiated = jnp.where(impossible, 0, loss) + counts * total
    return straight_through(differentiated, jnp.where(impossible & zero_infinity, 0, loss))


def _log_likelihood(x: jax.Array, labels: jax.Array, running: jax.Array, sizes: jax.Array, blank: int) -> jax.Array:
    """The logarithm of the likelihood of each sequence, by the forward recursion over its labels with blanks between."""
    batch, longest = labels.shape
    states = jnp.full((batch, 2 * longest + 1), blank, labels.dtype).at[:, 1::2].set(labels)
    # From one label to the next the blank between may be left out, unless the two are the same.
    skips = jnp.zeros(states.shape, bool).at[:, 3::2].set(labels[:, 1:] != labels[:, :-1])
    # NaN for what is no class, from the front or the back; (T, N, C) to (T, N, 2S + 1).
    emitted = jnp.take_along_axis(x, jnp.where(states < 0, x.shape[-1], states)[None], axis=2)

    def step(alpha: jax.Array, given: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        emission, runs = given
        behind = jnp.pad(alpha, ((0, 0), (2, 0)), constant_values=-jnp.inf)
        skipped = jnp.where(skips, behind[:, :-2], -jnp.inf)
        after = emission + _log_sum_exp(jnp.stack([alpha, behind[:, 1:-1], skipped]))
        return jnp.where(runs[:, None], after, alpha), None

    start = jnp.full(states.shape, -jnp.inf, x.dtype).at[:, 0].set(0)
    alpha, _ = lax.scan(step, start, (emitted, running))
    # The end is the last blank or the last label, of which a target without labels has none.
    last = jnp.take_along_axis(alpha, 2 * sizes[:, None], 1)
    label = jnp.take_along_axis(alpha, jnp.maximum(2 * sizes[:, None] - 1, 0), 1)
    return _log_sum_exp(jnp.stack([last, jnp.where(sizes[:, None] > 0, label, -jnp.inf)]))[:, 0]


def _log_sum_exp(x: jax.Array) -> jax.Array:
    """Log Σ exp(x) over the first axis, with gradient 0 where all of it is minus infinity."""
    peak = lax.stop_gradient(jnp.max(x, 0))
    peak = jnp.where(jnp.isinf(peak), 0, peak)
    total = jnp.sum(jnp.exp(x - peak), 0)
    return jnp.where(total == 0, -jnp.inf, jnp.log(jnp.where(total == 0, 1, total)) + peak)
