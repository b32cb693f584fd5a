"""The forms of convolutions and of their transposes: one operation of XLA, or on a CPU, where that is slow, sums over taps."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial, reduce, wraps
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero

__all__ = ["Geometry", "convolve", "transposed"]

# Above so many kernel positions a sum that is written out takes longer to compile than it saves.
_MOST_TAPS = 64


class Geometry(NamedTuple):
    """How the kernel moves over the input: one entry for each spatial dimension, and the number of groups."""

    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int


class _Form(Protocol):
    """Computes what `convolve` does."""

    def __call__(self, x: jax.Array, w: jax.Array, geometry: Geometry) -> jax.Array: ...


_Linear = Callable[[jax.Array, jax.Array], jax.Array]


@partial(jax.jit, static_argnums=2)
def convolve(x: jax.Array, w: jax.Array, geometry: Geometry) -> jax.Array:
    """Takes x `(N, C, *spatial)` and w `(O, C / groups, *kernel)` to `(N, O, *spatial')` in the form that is fast.

    XLA's CPU backend is fast for ungrouped convolutions of one and two dimensions. Measured there on two cores: with
    groups it takes ten to a hundred times as long as PyTorch, the weight's gradient more (3x3, 256 channels, 32 groups:
    1.5 s instead of 3 ms); so do gradients of strided convolutions that are three-dimensional. For these the CPU gets a
    sum over kernel positions; GPUs and TPUs have kernels of their own and keep the one operation.

    A depthwise sum is written out, which XLA fuses; the weight's gradient is a loop. Written out, it is a sum for each
    tap: XLA keeps all taps at once, 7x7 of them compile for more than a second, and they run up to four times as long.
    """
    form = _fast_form(w, geometry)
    if form is not _unrolled_taps:
        return form(x, w, geometry)
    return _two_forms(partial(form, geometry=geometry), partial(_scanned_taps, geometry=geometry), x, w)


@partial(jax.jit, static_argnums=(2, 3))
def transposed(x: jax.Array, w: jax.Array, geometry: Geometry, shape: tuple[int, ...]) -> jax.Array:
    """The transpose of `convolve` by w as a map from arrays `(N, *shape)`, applied to x."""
    form = _fast_form(w, geometry)
    value, of_weights = (partial(_transpose, f, geometry=geometry, shape=shape) for f in (form, _scanned_taps))
    # With a stride and no groups a CPU is slow in the weight's gradient alone: there it is a sum.
    if form is _one_operation and max(geometry.stride) > 1:
        return _two_forms(value, of_weights, x, w)
    return value(x, w)


def _fast_form(w: jax.Array, geometry: Geometry) -> _Form:
    if geometry.groups == 1 and w.ndim < 5:
        return _one_operation
    few = math.prod(w.shape[2:]) <= _MOST_TAPS
    return _unrolled_taps if few and _is_depthwise(w, geometry) else _scanned_taps


def _is_depthwise(w: jax.Array, geometry: Geometry) -> bool:
    return geometry.groups > 1 and w.shape[1] == 1


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _two_forms(form: _Linear, of_weights: _Linear, x: jax.Array, w: jax.Array) -> jax.Array:
    """What both forms compute, by the first; but its derivative by w, and so the weight's gradient, by the second."""
    return form(x, w)


def _two_forms_jvp(
    form: _Linear, of_weights: _Linear, primals: tuple[jax.Array, jax.Array], tangents: tuple[Any, Any]
) -> tuple[jax.Array, jax.Array]:
    (x, w), (dx, dw) = primals, tangents
    parts = []  # at least one: JAX does not ask where both are zero
    if not isinstance(dx, SymbolicZero):
        parts.append(_two_forms(form, of_weights, dx, w))
    if not isinstance(dw, SymbolicZero):
        parts.append(of_weights(x, dw))
    return _two_forms(form, of_weights, x, w), reduce(jnp.add, parts)


_two_forms.defjvp(_two_forms_jvp, symbolic_zeros=True)


def _transpose(form: _Form, x: jax.Array, w: jax.Array, geometry: Geometry, shape: tuple[int, ...]) -> jax.Array:
    def forward(y: jax.Array) -> jax.Array:
        # An output_padding of a stride or more leaves room for further results, which are no part of x.
        return form(y, w, geometry)[(..., *(slice(size) for size in x.shape[2:]))]

    (output,) = jax.linear_transpose(forward, jax.ShapeDtypeStruct((x.shape[0], *shape), x.dtype))(x)
    return output


def _on_cpu(form: _Form) -> _Form:
    """A convolution in this form on a CPU, and elsewhere as one operation.

    The choice is left to lowering (`platform_dependent`), not made from `jax.default_backend()`, because an array may
    live on the CPU of a machine that has a GPU, and because a function may be exported for both.
    """

    @wraps(form)
    def chosen(x: jax.Array, w: jax.Array, geometry: Geometry) -> jax.Array:
        # Without the checkpoint each tap would be kept for the backward pass: the input, once for each kernel position.
        taps = jax.checkpoint(partial(form, geometry=geometry))
        return lax.platform_dependent(x, w, cpu=taps, default=partial(_one_operation, geometry=geometry))

    return chosen


def _one_operation(x: jax.Array, w: jax.Array, geometry: Geometry) -> jax.Array:
    spatial = "DHW"[-(x.ndim - 2) :]
    return lax.conv_general_dilated(
        x,
        w,
        geometry.stride,
        geometry.padding,
        rhs_dilation=geometry.dilation,
        dimension_numbers=("NC" + spatial, "OI" + spatial, "NC" + spatial),
        feature_group_count=geometry.groups,
    )


class _Taps(NamedTuple):
    """A convolution as Σₖ wₖ xₖ, where the tap xₖ is the part of the padded input that kernel position k meets."""

    padded: jax.Array  # (N, C, *padded spatial)
    weights: jax.Array  # (taps, groups, O / groups, C / groups)
    starts: np.ndarray  # (taps, 2 + spatial dimensions): the index in `padded` at which each tap begins
    sizes: tuple[int, ...]  # spatial sizes of the result, and so of each tap


def _taps(x: jax.Array, w: jax.Array, geometry: Geometry) -> _Taps:
    (out_channels, depth, *kernel), groups = w.shape, geometry.groups
    # 16-bit inputs are summed in 32 bits, as one convolution would.
    wide = jnp.promote_types(x.dtype, jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x.dtype
    padded = lax.pad(x.astype(wide), jnp.zeros((), wide), [(0, 0, 0)] * 2 + [(*p, 0) for p in geometry.padding])
    # (O, C / groups, *kernel) to (groups, O / groups, C / groups, taps) to taps first
    weights = jnp.moveaxis(w.astype(wide).reshape(groups, out_channels // groups, depth, -1), -1, 0)
    starts = np.array(list(np.ndindex(1, 1, *kernel)), np.int32) * np.array((1, 1, *geometry.dilation), np.int32)
    spaces = zip(padded.shape, starts[-1].tolist(), (1, 1, *geometry.stride), strict=True)
    sizes = tuple((size - last - 1) // s + 1 for size, last, s in spaces)
    return _Taps(padded, weights, starts, sizes[2:])


@_on_cpu
def _unrolled_taps(x: jax.Array, w: jax.Array, geometry: Geometry) -> jax.Array:
    """The sum of a depthwise convolution: multiplications and additions of slices, which XLA fuses into one loop."""
    padded, weights, starts, sizes = _taps(x, w, geometry)
    (batch, channels), ones, step = x.shape[:2], [1] * len(sizes), (1, 1, *geometry.stride)
    reach = [(size - 1) * s + 1 for size, s in zip((batch, channels, *sizes), step, strict=True)]
    total = jnp.zeros((), padded.dtype)
    for weight, start in zip(weights, starts.tolist(), strict=True):
        tap = lax.slice(padded, start, [a + length for a, length in zip(start, reach, strict=True)], step)
        total += weight.reshape(channels, -1, *ones) * tap[:, :, None]  # (C, O / C, 1, ...) with (N, C, 1, *sizes)
    return total.reshape(batch, w.shape[0], *sizes).astype(x.dtype)


@_on_cpu
def _scanned_taps(x: jax.Array, w: jax.Array, geometry: Geometry) -> jax.Array:
    """The sum as a loop, which compiles in the same time for kernels of any size and groups of any number."""
    padded, weights, starts, sizes = _taps(x, w, geometry)
    phases, starts = _phases(padded, starts, geometry.stride)
    (batch, channels), points = x.shape[:2], math.prod(sizes)
    _, groups, group_channels, depth = weights.shape
    product = jnp.multiply if _is_depthwise(w, geometry) else partial(jnp.einsum, "goc,ngcp->ngop")

    @partial(jax.checkpoint, prevent_cse=False)  # the body of a scan needs no guard against common subexpressions
    def add(total: jax.Array, tap: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        weight, start = tap
        part = lax.dynamic_slice(phases, start, (1, batch, channels, *sizes))
        part = part.reshape(batch, groups, depth, points)  # (1, N, C, *sizes) to (N, groups, C / groups, points)
        return total + product(weight, part), None

    nothing = jnp.zeros((batch, groups, group_channels, points), padded.dtype)
    total, _ = lax.scan(add, nothing, (weights, jnp.asarray(starts)))
    return total.reshape(batch, w.shape[0], *sizes).astype(x.dtype)


def _phases(padded: jax.Array, starts: np.ndarray, stride: tuple[int, ...]) -> tuple[jax.Array, np.ndarray]:
    """The input as `(phases, N, C, *spatial / stride)`, where the taps have no gaps, and where in it each tap begins."""
    gaps = [(0, -size % s, 0) for size, s in zip(padded.shape[2:], stride, strict=True)]
    padded = lax.pad(padded, jnp.zeros((), padded.dtype), [(0, 0, 0)] * 2 + gaps)
    each = [(..., *(slice(i, None, s) for i, s in zip(phase, stride, strict=True))) for phase in np.ndindex(*stride)]
    phase = np.ravel_multi_index(tuple((starts[:, 2:] % stride).T), stride)
    places = np.column_stack([phase, starts[:, :2], starts[:, 2:] // stride]).astype(np.int32)
    return jnp.stack([padded[part] for part in each]), places
