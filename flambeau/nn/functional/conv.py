"""Convolutions and transposed convolutions over one, two and three spatial dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from flambeau._errors import ShapeError
from flambeau.nn.functional._autocast import lowered
from flambeau.nn.functional._checks import IntOrTuple, check_rank, check_same_dtype, describe, to_tuple

__all__ = ["conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"]

Padding: TypeAlias = IntOrTuple | Literal["valid", "same"]

_SPATIAL = {1: "L", 2: "H, W", 3: "D, H, W"}
# Above so many kernel positions a sum that is written out takes longer to compile than it saves.
_MOST_TAPS = 64


class _Geometry(NamedTuple):
    """How the kernel moves over the input: one entry for each spatial dimension, and the number of groups."""

    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int


def conv1d(
    input: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None = None,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
) -> jax.Array:
    """Convolves sequences: y[o, t] = b[o] + Σ_{c,k} w[o, c, k] x[c, stride·t + dilation·k − padding].

    Args:
        input: the sequences, with or without a batch dimension.
        weight: the kernels.
        bias: added to each output channel.
        stride: how far the kernel moves between two results.
        padding: zeros on both sides, `"valid"` for none, or `"same"` for as many as keep the length (stride 1 only).
        dilation: the distance between two entries of the kernel.
        groups: into how many groups the channels are split that see nothing of each other.

    Shape:
        input `(N, C, L)` or `(C, L)`, weight `(O, C / groups, K)`, bias `(O,)`, result `(N, O, L')` or `(O, L')`.

    Raises:
        ShapeError: an argument has another shape, or the kernel is longer than the padded input.
        DtypeError: the arguments differ in dtype.

    Example:
        >>> conv1d(jnp.arange(5.0)[None], jnp.ones((1, 1, 3)))
        Array([[3., 6., 9.]], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.conv1d.html
    """
    return _conv(1, input, weight, bias, stride, padding, dilation, groups)


def conv2d(
    input: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None = None,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
) -> jax.Array:
    """Convolves images: y[o, i, j] = b[o] + Σ_{c,k,l} w[o, c, k, l] x[c, s·i + d·k − p, s·j + d·l − p].

    Here s is the stride, d the dilation and p the padding of the dimension.

    Args:
        input: the images, with or without a batch dimension.
        weight: the kernels.
        bias: added to each output channel.
        stride: how far the kernel moves between two results.
        padding: zeros on all sides, `"valid"` for none, or `"same"` for as many as keep the size (stride 1 only).
        dilation: the distance between two entries of the kernel.
        groups: into how many groups the channels are split that see nothing of each other.

    Shape:
        input `(N, C, H, W)` or `(C, H, W)`, weight `(O, C / groups, K, L)`, bias `(O,)`,
        result `(N, O, H', W')` or `(O, H', W')`.

    Raises:
        ShapeError: an argument has another shape, or the kernel is larger than the padded input.
        DtypeError: the arguments differ in dtype.

    Example:
        >>> conv2d(jnp.ones((8, 3, 32, 32)), jnp.ones((16, 3, 3, 3)), stride=2, padding=1).shape
        (8, 16, 16, 16)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.conv2d.html
    """
    return _conv(2, input, weight, bias, stride, padding, dilation, groups)


def conv3d(
    input: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None = None,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
) -> jax.Array:
    """Convolves volumes: the sum of `conv2d` with one more dimension, the depth, in front of height and width.

    y[o, t] = b[o] + Σ_{c,k} w[o, c, k] x[c, stride·t + dilation·k − padding], with t and k triples.

    Args:
        input: the volumes, with or without a batch dimension.
        weight: the kernels.
        bias: added to each output channel.
        stride: how far the kernel moves between two results.
        padding: zeros on all sides, `"valid"` for none, or `"same"` for as many as keep the size (stride 1 only).
        dilation: the distance between two entries of the kernel.
        groups: into how many groups the channels are split that see nothing of each other.

    Shape:
        input `(N, C, D, H, W)` or `(C, D, H, W)`, weight `(O, C / groups, J, K, L)`, bias `(O,)`,
        result `(N, O, D', H', W')` or `(O, D', H', W')`.

    Raises:
        ShapeError: an argument has another shape, or the kernel is larger than the padded input.
        DtypeError: the arguments differ in dtype.

    Example:
        >>> conv3d(jnp.ones((1, 2, 4, 4, 4)), jnp.ones((5, 2, 3, 3, 3)), padding="same").shape
        (1, 5, 4, 4, 4)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.conv3d.html
    """
    return _conv(3, input, weight, bias, stride, padding, dilation, groups)


def conv_transpose1d(
    input: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None = None,
    stride: IntOrTuple = 1,
    padding: IntOrTuple = 0,
    output_padding: IntOrTuple = 0,
    groups: int = 1,
    dilation: IntOrTuple = 1,
) -> jax.Array:
    """Applies the transpose of the linear map `conv1d`: y[o, stride·t + dilation·k − padding] += w[c, o, k] x[c, t].

    Args:
        input: the sequences, with or without a batch dimension.
        weight: the kernels of the convolution that is transposed.
        bias: added to each output channel.
        stride: how far the kernel moves between two inputs.
        padding: what is cut off on both sides of the result.
        output_padding: how much longer the result is on its right, less than stride or less than dilation.
        groups: into how many groups the channels are split that see nothing of each other.
        dilation: the distance between two entries of the kernel.

    Shape:
        input `(N, C, L)` or `(C, L)`, weight `(C, O / groups, K)`, bias `(O,)`, result `(N, O, L')` or `(O, L')` with
        L' = stride·(L − 1) − 2·padding + dilation·(K − 1) + output_padding + 1.

    Raises:
        ShapeError: an argument has another shape, or the result would be empty.
        DtypeError: the arguments differ in dtype.

    Example:
        >>> conv_transpose1d(jnp.array([[1.0, 2.0]]), jnp.ones((1, 1, 2)), stride=2)
        Array([[1., 1., 2., 2.]], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.conv_transpose1d.html
    """
    return _conv_transpose(1, input, weight, bias, stride, padding, output_padding, groups, dilation)


def conv_transpose2d(
    input: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None = None,
    stride: IntOrTuple = 1,
    padding: IntOrTuple = 0,
    output_padding: IntOrTuple = 0,
    groups: int = 1,
    dilation: IntOrTuple = 1,
) -> jax.Array:
    """Applies the transpose of the linear map `conv2d`: what its gradient does to images of its result's size.

    y[o, s·i + d·k − p, s·j + d·l − p] += w[c, o, k, l] x[c, i, j], with stride s, dilation d and padding p.

    Args:
        input: the images, with or without a batch dimension.
        weight: the kernels of the convolution that is transposed.
        bias: added to each output channel.
        stride: how far the kernel moves between two inputs.
        padding: what is cut off on all sides of the result.
        output_padding: how much larger the result is at its bottom and right, less than stride or less than dilation.
        groups: into how many groups the channels are split that see nothing of each other.
        dilation: the distance between two entries of the kernel.

    Shape:
        input `(N, C, H, W)` or `(C, H, W)`, weight `(C, O / groups, K, L)`, bias `(O,)`,
        result `(N, O, H', W')` or `(O, H', W')` with H' = s·(H − 1) − 2·p + d·(K − 1) + output_padding + 1.

    Raises:
        ShapeError: an argument has another shape, or the result would be empty.
        DtypeError: the arguments differ in dtype.

    Example:
        >>> conv_transpose2d(jnp.ones((8, 16, 7, 7)), jnp.ones((16, 4, 4, 4)), stride=2, padding=1).shape
        (8, 4, 14, 14)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.conv_transpose2d.html
    """
    return _conv_transpose(2, input, weight, bias, stride, padding, output_padding, groups, dilation)


def conv_transpose3d(
    input: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None = None,
    stride: IntOrTuple = 1,
    padding: IntOrTuple = 0,
    output_padding: IntOrTuple = 0,
    groups: int = 1,
    dilation: IntOrTuple = 1,
) -> jax.Array:
    """Applies the transpose of the linear map `conv3d`: what its gradient does to volumes of its result's size.

    y[o, stride·t + dilation·k − padding] += w[c, o, k] x[c, t], with t and k triples.

    Args:
        input: the volumes, with or without a batch dimension.
        weight: the kernels of the convolution that is transposed.
        bias: added to each output channel.
        stride: how far the kernel moves between two inputs.
        padding: what is cut off on all sides of the result.
        output_padding: how much larger the result is at its far sides, less than stride or less than dilation.
        groups: into how many groups the channels are split that see nothing of each other.
        dilation: the distance between two entries of the kernel.

    Shape:
        input `(N, C, D, H, W)` or `(C, D, H, W)`, weight `(C, O / groups, J, K, L)`, bias `(O,)`,
        result `(N, O, D', H', W')` or `(O, D', H', W')`, sizes as for `conv_transpose2d`.

    Raises:
        ShapeError: an argument has another shape, or the result would be empty.
        DtypeError: the arguments differ in dtype.

    Example:
        >>> conv_transpose3d(jnp.ones((1, 4, 2, 2, 2)), jnp.ones((4, 3, 2, 2, 2)), stride=2).shape
        (1, 3, 4, 4, 4)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.conv_transpose3d.html
    """
    return _conv_transpose(3, input, weight, bias, stride, padding, output_padding, groups, dilation)


def _conv(
    n: int,
    input: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None,
    stride: IntOrTuple,
    padding: Padding,
    dilation: IntOrTuple,
    groups: int,
) -> jax.Array:
    """The convolution over `n` spatial dimensions."""
    input, weight, bias = lowered(input, weight, bias)
    check_rank(weight, n + 2, f"(O, C / groups, {_kernel_letters(n)})", "weight")
    strides, dilations = to_tuple(stride, n, "stride"), to_tuple(dilation, n, "dilation")
    kernel = weight.shape[2:]
    wrong = _misfits(n, input, weight.shape[1] * groups, bias, weight.shape[0], strides, dilations)
    wrong += _bad_groups(weight, groups)
    paddings = _paddings(padding, kernel, strides, dilations)
    if min(min(paddings)) < 0:
        wrong.append(f"expected padding that is not negative, got {padding}")
    if wrong:
        raise ShapeError("; ".join(wrong))
    least = tuple(d * (k - 1) + 1 - sum(pads) for k, d, pads in zip(kernel, dilations, paddings, strict=True))
    if any(size < needed for size, needed in zip(input.shape[-n:], least, strict=True)):
        raise ShapeError(f"expected input with ({_SPATIAL[n]}) of at least {least}, got {describe(input)}")
    check_same_dtype(input, weight=weight, bias=bias)
    batch = input if input.ndim == n + 2 else input[None]
    output = _convolve(batch, weight, _Geometry(strides, paddings, dilations, groups))
    return _finish(output, bias, batched=input.ndim == n + 2)


def _conv_transpose(
    n: int,
    input: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None,
    stride: IntOrTuple,
    padding: IntOrTuple,
    output_padding: IntOrTuple,
    groups: int,
    dilation: IntOrTuple,
) -> jax.Array:
    """The transposed convolution over `n` spatial dimensions."""
    input, weight, bias = lowered(input, weight, bias)
    check_rank(weight, n + 2, f"(C, O / groups, {_kernel_letters(n)})", "weight")
    strides, dilations = to_tuple(stride, n, "stride"), to_tuple(dilation, n, "dilation")
    paddings, extra = to_tuple(padding, n, "padding"), to_tuple(output_padding, n, "output_padding")
    kernel, channels = weight.shape[2:], weight.shape[1] * groups
    wrong = _misfits(n, input, weight.shape[0], bias, channels, strides, dilations)
    wrong += _bad_groups(weight, groups)
    if min(paddings) < 0:
        wrong.append(f"expected padding that is not negative, got {padding}")
    if any(not 0 <= e < max(s, d) for e, s, d in zip(extra, strides, dilations, strict=True)):
        wrong.append(f"expected output_padding from 0 to below stride or dilation, got {output_padding}")
    if wrong:
        raise ShapeError("; ".join(wrong))
    each = zip(input.shape[-n:], strides, paddings, dilations, kernel, extra, strict=True)
    sizes = tuple(s * (size - 1) - 2 * p + d * (k - 1) + e + 1 for size, s, p, d, k, e in each)
    if min(sizes) < 1:
        raise ShapeError(f"expected input large enough for a result, got {describe(input)}, which gives sizes {sizes}")
    check_same_dtype(input, weight=weight, bias=bias)
    batch = input if input.ndim == n + 2 else input[None]
    both_sides = tuple((p, p) for p in paddings)
    output = _transposed(batch, weight, _Geometry(strides, both_sides, dilations, groups), (channels, *sizes))
    return _finish(output, bias, batched=input.ndim == n + 2)


def _kernel_letters(n: int) -> str:
    return ", ".join("JKL"[-n:] if n > 1 else "K")


def _misfits(
    n: int,
    input: jax.Array,
    channels: int,
    bias: jax.Array | None,
    out_channels: int,
    strides: Sequence[int],
    dilations: Sequence[int],
) -> list[str]:
    """What is wrong with the arguments that both kinds of convolution take."""
    one = f"({channels}, {_SPATIAL[n]})"
    many = f"(N, {channels}, {_SPATIAL[n]})"
    wrong = []
    if input.ndim not in (n + 1, n + 2):
        wrong.append(f"expected input {many} or {one}, got {describe(input)}")
    elif input.shape[-n - 1] != channels:
        wrong.append(f"expected input {many if input.ndim == n + 2 else one}, got {describe(input)}")
    if bias is not None and bias.shape != (out_channels,):
        wrong.append(f"expected bias ({out_channels},), got {describe(bias)}")
    wrong += [
        f"expected {name} of at least 1, got {tuple(values)}"
        for name, values in (("stride", strides), ("dilation", dilations))
        if min(values) < 1
    ]
    return wrong


def _bad_groups(weight: jax.Array, groups: int) -> list[str]:
    if groups < 1:
        return [f"expected groups of at least 1, got {groups}"]
    if weight.shape[0] % groups or min(weight.shape) < 1:
        return [f"expected weight not empty and with a multiple of {groups} (groups) kernels, got {describe(weight)}"]
    return []


def _paddings(
    padding: Padding, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[tuple[int, int], ...]:
    """The zeros before and after the input, for each dimension."""
    if not isinstance(padding, str):
        return tuple((p, p) for p in to_tuple(padding, len(kernel), "padding"))
    if padding not in ("valid", "same"):
        raise ShapeError(f"expected padding to be 'valid', 'same', an int or ints, got {padding!r}")
    if padding == "valid":
        return ((0, 0),) * len(kernel)
    if max(strides) > 1:
        raise ShapeError(f"expected stride 1 with padding 'same', got {tuple(strides)}")
    # Where the total is odd, the extra zero goes behind the input.
    totals = [d * (k - 1) for k, d in zip(kernel, dilations, strict=True)]
    return tuple((total // 2, total - total // 2) for total in totals)


def _finish(output: jax.Array, bias: jax.Array | None, *, batched: bool) -> jax.Array:
    if bias is not None:
        output = output + bias.reshape(-1, *[1] * (output.ndim - 2))  # (O,) to (O, 1, ..., 1)
    return output if batched else output[0]


@partial(jax.jit, static_argnums=(2, 3))
def _convolve(x: jax.Array, w: jax.Array, geometry: _Geometry, to_be_transposed: bool = False) -> jax.Array:
    """Takes x `(N, C, *spatial)` and w `(O, C / groups, *kernel)` to `(N, O, *spatial')` in the form that is fast.

    XLA's CPU backend is fast for ungrouped convolutions of one and two dimensions. Measured there on two cores: with
    groups it takes ten to a hundred times as long as PyTorch, the weight's gradient more (3x3, 256 channels, 32 groups:
    1.5 s instead of 3 ms); so do gradients of strided convolutions that are three-dimensional or were transposed. For
    these the CPU gets a sum over kernel positions; GPUs and TPUs have kernels of their own and keep the one operation.

    The choice is left to lowering (`platform_dependent`), not made from `jax.default_backend()`, because an array may
    live on the CPU of a machine that has a GPU, and because a function may be exported for both.
    """
    one_operation = partial(_one_operation, geometry=geometry)
    strided_transpose = to_be_transposed and max(geometry.stride) > 1
    if geometry.groups == 1 and x.ndim < 5 and not strided_transpose:
        return one_operation(x, w)
    depthwise = geometry.groups > 1 and w.shape[1] == 1
    form = _unrolled_taps if depthwise and math.prod(w.shape[2:]) <= _MOST_TAPS else _scanned_taps
    # Without the checkpoint each tap would be kept for the backward pass: the input, once for each kernel position.
    return lax.platform_dependent(x, w, cpu=jax.checkpoint(partial(form, geometry=geometry)), default=one_operation)


def _one_operation(x: jax.Array, w: jax.Array, geometry: _Geometry) -> jax.Array:
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


def _taps(x: jax.Array, w: jax.Array, geometry: _Geometry) -> _Taps:
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


def _unrolled_taps(x: jax.Array, w: jax.Array, geometry: _Geometry) -> jax.Array:
    """The sum of a depthwise convolution: multiplications and additions of slices, which XLA fuses into one loop."""
    padded, weights, starts, sizes = _taps(x, w, geometry)
    (batch, channels), ones, step = x.shape[:2], [1] * len(sizes), (1, 1, *geometry.stride)
    reach = [(size - 1) * s + 1 for size, s in zip((batch, channels, *sizes), step, strict=True)]
    total = jnp.zeros((), padded.dtype)
    for weight, start in zip(weights, starts.tolist(), strict=True):
        tap = lax.slice(padded, start, [a + length for a, length in zip(start, reach, strict=True)], step)
        total += weight.reshape(channels, -1, *ones) * tap[:, :, None]  # (C, O / C, 1, ...) with (N, C, 1, *sizes)
    return total.reshape(batch, w.shape[0], *sizes).astype(x.dtype)


def _scanned_taps(x: jax.Array, w: jax.Array, geometry: _Geometry) -> jax.Array:
    """The sum as a loop of dots, which compiles in the same time for kernels of any size and groups of any number."""
    padded, weights, starts, sizes = _taps(x, w, geometry)
    (batch, channels), points = x.shape[:2], math.prod(sizes)
    _, groups, group_channels, depth = weights.shape
    reach = [(size - 1) * s + 1 for size, s in zip(sizes, geometry.stride, strict=True)]

    @partial(jax.checkpoint, prevent_cse=False)  # the body of a scan needs no guard against common subexpressions
    def add(total: jax.Array, tap: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        weight, start = tap
        part = lax.dynamic_slice(padded, start, (batch, channels, *reach))
        part = part[(..., *(slice(None, None, s) for s in geometry.stride))]
        part = part.reshape(batch, groups, depth, points)  # (N, C, *sizes) to (N, groups, C / groups, points)
        return total + jnp.einsum("goc,ngcp->ngop", weight, part), None

    nothing = jnp.zeros((batch, groups, group_channels, points), padded.dtype)
    total, _ = lax.scan(add, nothing, (weights, jnp.asarray(starts)))
    return total.reshape(batch, w.shape[0], *sizes).astype(x.dtype)


@partial(jax.jit, static_argnums=(2, 3))
def _transposed(x: jax.Array, w: jax.Array, geometry: _Geometry, shape: tuple[int, ...]) -> jax.Array:
    """The transpose of `_convolve` as a map from arrays `(N, *shape)`."""

    def convolution(y: jax.Array) -> jax.Array:
        # An output_padding of a stride or more leaves room for further results, which are no part of x.
        return _convolve(y, w, geometry, True)[(..., *(slice(size) for size in x.shape[2:]))]

    (output,) = jax.linear_transpose(convolution, jax.ShapeDtypeStruct((x.shape[0], *shape), x.dtype))(x)
    return output
