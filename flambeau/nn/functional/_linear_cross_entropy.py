"""A linear layer and the cross entropy of its results, in one."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from flambeau._errors import FlambeauWarning, ShapeError
from flambeau.nn.functional._autocast import lowered, raised
from flambeau.nn.functional._checks import check_same_dtype, describe
from flambeau.nn.functional._class_loss import checked_labels, cross_entropy
from flambeau.nn.functional._math import widen
from flambeau.nn.functional._reduction import reduced, resolve_reduction
from flambeau.nn.functional.linear import linear

__all__ = ["LinearCrossEntropyOptions", "linear_cross_entropy"]

Policy = Literal["accurate", "balanced", "compact", "auto"]


@dataclass(frozen=True, slots=True)
class LinearCrossEntropyOptions:
    """How `linear_cross_entropy` goes through a batch in chunks, so that the scores of all of it are never held at once.

    Unlike PyTorch's, the function can be differentiated any number of times, and the same on each device.

    Args:
        allow_retain_graph: changes nothing; a derivative may always be taken again.
        batch_chunk_size: how many rows are taken at once; None for all.
        chunking_method: how to find that number where it is not given: `"aspect_ratio"` takes as many rows as have scores
            of the size of the input, `"aspect_ratio:N"` an Nth of them; `"auto"` is `"aspect_ratio:2"`, or none where there
            is a number; None.
        acc_policy: where `acc_dtype` is used: `"accurate"` for the product, too; `"balanced"` for the scores and the sum of
            the weight's gradient; `"compact"` for the scores alone; `"auto"` is `"balanced"`.
        acc_dtype: the dtype of what is accumulated; None for float32, or that of the input if it is wider.

    Raises:
        ValueError: a setting is none of these.

    Example:
        >>> LinearCrossEntropyOptions(batch_chunk_size=128).rows(1000, 512, 50000)
        128
        >>> LinearCrossEntropyOptions().rows(1000, 512, 50000)
        8

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.LinearCrossEntropyOptions.html
    """

    allow_retain_graph: bool = False
    batch_chunk_size: int | None = None
    chunking_method: str | None = "auto"
    acc_policy: Policy = "auto"
    acc_dtype: DTypeLike | None = None

    def __post_init__(self) -> None:
        if self.acc_policy not in ("auto", "accurate", "balanced", "compact"):
            raise ValueError(
                f"expected acc_policy 'auto', 'accurate', 'balanced' or 'compact', got {self.acc_policy!r}"
            )
        if self.chunking_method not in (None, "auto"):
            name, colon, factor = self.chunking_method.partition(":")
            if name != "aspect_ratio" or (colon and not (factor.isdigit() and int(factor) > 0)):
                expected = "'auto', 'aspect_ratio', 'aspect_ratio:N' or None"
                raise ValueError(f"expected chunking_method {expected}, got {self.chunking_method!r}")
        size = self.batch_chunk_size
        if size is not None and not (isinstance(size, int) and size > 0):
            raise ValueError(f"expected batch_chunk_size to be a positive int or None, got {size!r}")
        if self.acc_dtype is not None and not jnp.issubdtype(self.acc_dtype, jnp.floating):
            raise ValueError(f"expected acc_dtype to be a floating dtype or None, got {self.acc_dtype!r}")

    def rows(self, batch: int, in_features: int, classes: int) -> int:
        """How many rows of a batch are taken at once.

        Raises:
            ValueError: `batch_chunk_size` and `chunking_method` do not agree.
        """
        method = self.chunking_method
        if method == "auto":
            method = None if self.batch_chunk_size else "aspect_ratio:2"
        if method is None:
            return max(1, min(self.batch_chunk_size or batch, batch))
        divisor = int(method.partition(":")[2] or 1)
        target = math.ceil(batch / math.ceil(classes / in_features))
        found = max(1, min((1 << max(target - 1, 0).bit_length()) // divisor, batch))
        if self.batch_chunk_size not in (None, found):
            raise ValueError(f"expected batch_chunk_size {found} with {method!r} or none, got {self.batch_chunk_size}")
        return found


def linear_cross_entropy(
    input: jax.Array,
    linear_weight: jax.Array,
    target: jax.Array,
    *,
    linear_bias: jax.Array | None = None,
    weight: jax.Array | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: LinearCrossEntropyOptions | None = None,
) -> jax.Array:
    """The cross entropy of `linear(input, linear_weight, linear_bias)`.

    With `options` the batch is taken in chunks, and the scores of each are computed again for the derivative: memory for the
    scores of one chunk is enough. That wants classes, not probabilities, `out_features` of `()` and no smoothing; a warning
    says where there is another way taken.

    Args:
        input: the rows that go into the linear layer.
        linear_weight: its weight.
        target: the true classes; or, if it has the shape of the scores, their probabilities.
        linear_bias: its bias.
        weight: a weight for each class.
        reduction: "mean", "sum" or "none".
        ignore_index: a class that does not count; None for -100.
        label_smoothing: the share of a uniform distribution that is mixed into the target.
        options: how to take the batch in chunks; None for all at once.

    Shape:
        input `(N, in)` or `(in,)`, linear_weight `(C, *, in)`, linear_bias `(C, *)`, weight `(C,)`, target `(N, *)` or `()` of
        classes or `(N, C, *)` or `(C,)` of probabilities, result `()`, or `(N, *)` or `()` without reduction.

    Raises:
        ShapeError: the shapes do not fit.
        DtypeError: the classes are no integers, or the others differ in dtype.
        IndexError: a target is no class; under a transform, where it is not known, the loss is NaN.
        ValueError: there is no such reduction.
        RuntimeError: `label_smoothing` is not in [0, 1], or there is an `ignore_index` of probabilities.

    Example:
        >>> linear_cross_entropy(jnp.ones((3, 4)), jnp.zeros((2, 4)), jnp.array([0, 1, 1])).round(4)  # log 2
        Array(0.6931, dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.linear_cross_entropy.html
    """
    reduction = resolve_reduction(reduction)
    input, linear_weight, linear_bias = lowered(input, linear_weight, linear_bias)
    dtype = raised(input).dtype
    _check_shapes(input, linear_weight, linear_bias)
    classes, *out_features, in_features = linear_weight.shape
    shape = (*input.shape[:-1], classes, *out_features)
    if target.shape == shape and ignore_index is not None:
        raise RuntimeError("expected no ignore_index, which says nothing about class probabilities")
    ignored = -100 if ignore_index is None else ignore_index
    if options is not None:
        if not (out_features or label_smoothing or target.shape == shape):
            check_same_dtype(input, linear_weight=linear_weight, linear_bias=linear_bias)
            labels = checked_labels(target, jax.ShapeDtypeStruct(shape, input.dtype), input.ndim - 1, ignored)
            each, counts = _chunked(input, linear_weight, labels, linear_bias, weight, ignored, options)
            if reduction == "mean":
                return (jnp.sum(each) / jnp.sum(counts)).astype(dtype)
            return reduced(each, reduction, dtype)
        warnings.warn(
            "options are not used: chunks want classes as target, one score for each, and no label_smoothing",
            FlambeauWarning,
            stacklevel=2,
        )
    flat = linear_weight.reshape(-1, in_features)  # (C, *, in) to (C·*, in)
    scores = linear(input, flat, None if linear_bias is None else linear_bias.reshape(-1)).reshape(shape)
    return cross_entropy(
        scores, target, weight, ignore_index=ignored, reduction=reduction, label_smoothing=label_smoothing
    )


def _check_shapes(input: jax.Array, weight: jax.Array, bias: jax.Array | None) -> None:
    wrong = []
    if weight.ndim < 2 or 0 in weight.shape:
        raise ShapeError(f"expected linear_weight (C, *, in), none of them empty, got {describe(weight)}")
    if input.ndim not in (1, 2) or input.shape[-1] != weight.shape[-1]:
        wrong.append(f"expected input (N, {weight.shape[-1]}) or ({weight.shape[-1]},), got {describe(input)}")
    elif weight.ndim > 2 and input.ndim == 1:
        wrong.append(f"expected input (N, {weight.shape[-1]}) for several scores of a class, got {describe(input)}")
    if bias is not None and bias.shape != weight.shape[:-1]:
        wrong.append(f"expected linear_bias {weight.shape[:-1]}, got {describe(bias)}")
    if wrong:
        raise ShapeError("; ".join(wrong))


@partial(jax.jit, static_argnums=(5, 6))
def _chunked(
    input: jax.Array,
    linear_weight: jax.Array,
    labels: jax.Array,
    bias: jax.Array | None,
    weight: jax.Array | None,
    ignored: int,
    options: LinearCrossEntropyOptions,
) -> tuple[jax.Array, jax.Array]:
    """The loss of each row, and how much it counts in a mean."""
    classes, features = linear_weight.shape
    wide = jnp.promote_types(input.dtype, jnp.float32) if options.acc_dtype is None else jnp.dtype(options.acc_dtype)
    rows = input.reshape(-1, features)  # (N, in) or (in,) to (N, in)
    size = options.rows(max(len(rows), 1), features, classes)
    missing = -len(rows) % size
    # The rows that fill up the last chunk do not count.
    filled = jnp.pad(rows, ((0, missing), (0, 0))).reshape(-1, size, features)
    targets = jnp.pad(labels.reshape(-1), (0, missing), constant_values=ignored).reshape(-1, size)
    product = wide if options.acc_policy == "accurate" else input.dtype
    # What the scan adds the gradients of the chunks up in is the dtype of what it reads.
    table = linear_weight if options.acc_policy == "compact" else linear_weight.astype(wide)
    shift = None if bias is None else bias.astype(wide)

    @partial(jax.checkpoint, prevent_cse=False)
    def losses(_: None, chunk: tuple[jax.Array, jax.Array]) -> tuple[None, jax.Array]:
        x, y = chunk
        scores = lax.dot_general(
            x.astype(product), table.astype(product), (((1,), (1,)), ((), ())), preferred_element_type=wide
        )
        scores = scores if shift is None else scores + shift
        return None, cross_entropy(scores, y, weight, ignore_index=ignored, reduction="none")

    _, each = lax.scan(losses, None, (filled, targets))
    kept = labels != ignored
    counts = jnp.ones((), wide) if weight is None else widen(weight)[jnp.where(kept, labels, 0)]
    return each.reshape(-1)[: len(rows)].reshape(labels.shape), jnp.where(kept, counts, 0)
