"""Padding of the last dimensions of an array."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from flambeau._errors import ShapeError
from flambeau.nn.functional._checks import describe

__all__ = ["pad"]

_MODES = ("constant", "reflect", "replicate", "circular")


def pad(
    input: jax.Array,
    pad: Sequence[int],
    mode: Literal["constant", "reflect", "replicate", "circular"] = "constant",
    value: float | None = None,
) -> jax.Array:
    """Extends the last dimensions of an array, or cuts them where an amount is negative.

    Args:
        input: the array; modes other than `"constant"` want one or two dimensions more than they pad, at most three.
        pad: before and after the last dimension, then before and after the one in front of it, and so on.
        mode: what stands in the new places: `"constant"` one number; `"reflect"` the array mirrored at its first and
            last entry, which are not repeated; `"replicate"` the nearest entry; `"circular"` the array from its other end.
        value: the number for mode `"constant"`; 0 if None.

    Shape:
        input `(*, H, W)`, result `(*, top + H + bottom, left + W + right)` for pad `(left, right, top, bottom)`.

    Raises:
        ShapeError: the amounts do not fit the input: a reflection takes less than the size, a circular padding at most the
            size that negative amounts leave (PyTorch returns unset memory for more), and no more may be cut than there is.
        ValueError: there is no such mode, or it takes no value.
        TypeError: `pad` holds other things than ints.

    Example:
        >>> pad(jnp.array([[1, 2, 3]]), (2, 1), mode="reflect")
        Array([[3, 2, 1, 2, 3, 2]], dtype=int32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.pad.html
    """
    amounts = _ints(pad)
    if mode not in _MODES:
        raise ValueError(f"expected mode to be one of {', '.join(_MODES)}, got {mode!r}")
    if len(amounts) % 2 or len(amounts) > 2 * input.ndim:
        raise ShapeError(f"expected pad to hold two ints for each of up to {input.ndim} dimensions, got {amounts}")
    pairs = tuple(zip(amounts[::2], amounts[1::2], strict=True))[::-1]
    first = input.ndim - len(pairs)
    if mode == "constant":
        return _constant(input, ((0, 0),) * first + pairs, 0 if value is None else value)
    if value is not None:
        raise ValueError(f"expected no value with mode {mode!r}, got {value}")
    if len(pairs) not in (1, 2, 3) or first not in (1, 2):
        raise ShapeError(f"expected input with one or two dimensions more than {amounts} pads, got {describe(input)}")
    _check_amounts(input, first, pairs, mode)
    return _extend(input, pairs, mode)


def _ints(pad: Sequence[int]) -> tuple[int, ...]:
    try:
        return tuple(map(operator.index, pad))
    except TypeError:
        raise TypeError(f"expected pad to be a sequence of ints, got {pad!r}") from None


def _constant(x: jax.Array, pairs: tuple[tuple[int, int], ...], value: float) -> jax.Array:
    if any(size + min(low, 0) + min(high, 0) < 0 for size, (low, high) in zip(x.shape, pairs, strict=True)):
        raise ShapeError(f"expected pad that cuts no more than there is, got {pairs} for {describe(x)}")
    return lax.pad(x, jnp.asarray(value, x.dtype), [(low, high, 0) for low, high in pairs])


def _check_amounts(x: jax.Array, first: int, pairs: tuple[tuple[int, int], ...], mode: str) -> None:
    """Raises where there are not enough entries to take the new ones from."""
    wrong = []
    for axis, (low, high) in enumerate(pairs, first):
        size = x.shape[axis]
        # A circular padding goes around what negative amounts leave of the axis.
        most = {"reflect": size - 1, "circular": size + min(low, 0) + min(high, 0)}.get(mode)
        if most is not None and max(low, high) > most:
            wrong.append(f"expected {mode} padding of at most {most} in dimension {axis}, got {(low, high)}")
        if low + size + high < (mode != "circular"):
            wrong.append(f"expected {mode} padding that leaves something of dimension {axis}, got {(low, high)}")
    if wrong:
        raise ShapeError(f"{'; '.join(wrong)} for {describe(x)}")


@partial(jax.jit, static_argnums=(1, 2))
def _extend(x: jax.Array, pairs: tuple[tuple[int, int], ...], mode: str) -> jax.Array:
    """Pads with entries of `x` itself, one axis after the other."""
    for axis, (low, high) in enumerate(pairs, x.ndim - len(pairs)):
        x = _extend_axis(x, axis, low, high, mode)
    return x


def _extend_axis(x: jax.Array, axis: int, low: int, high: int, mode: str) -> jax.Array:
    before, after = max(low, 0), max(high, 0)
    cut = partial(lax.slice_in_dim, axis=axis)
    if mode == "circular":
        # Cut first: what was cut off does not come back at the other end.
        x = cut(x, max(-low, 0), x.shape[axis] - max(-high, 0))
        size = x.shape[axis]
        return lax.concatenate([cut(x, size - before, size), x, cut(x, 0, after)], axis)
    size = x.shape[axis]
    if mode == "reflect":
        mirrored = lax.rev(cut(x, 1, before + 1), (axis,)), lax.rev(cut(x, size - 1 - after, size - 1), (axis,))
        longer = lax.concatenate([mirrored[0], x, mirrored[1]], axis)
    else:
        head, tail = jnp.repeat(cut(x, 0, 1), before, axis), jnp.repeat(cut(x, size - 1, size), after, axis)
        longer = lax.concatenate([head, x, tail], axis)
    # Cut last: what is cut off at one end may still be mirrored at the other.
    return cut(longer, max(-low, 0), longer.shape[axis] - max(-high, 0))
