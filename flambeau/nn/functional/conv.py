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
from flambeau.nn.functional._checks import IntOrTuple, check_rank, check_same_dtype, describe, to_tuple

__all__ = ["conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"]

Padding: TypeAlias = IntOrTuple | Literal["valid", "same"]

_SPATIAL = {1: "L", 2: "H, W", 3: "D, H, W"}
# Above so many kernel positions a sum with one term for each takes longer to compile than it saves.
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
    check_rank(weight, n + 2, f"(O, C / groups, {_kernel_letters(n)})", "weight")
    strides, dilations = to_tuple(stride, n, "stride"), to_tuple(dilation, n, "dilation")
    kernel = weight.shape[2:]
    wrong = _misfits(n, input, weight.shape[1] * groups, bias, weight.shape[0], strides, dilations)
    wrong += _bad_groups(weight, groups)
    paddings = _paddings(padding, kernel, strides, dilations)
    if min(min(paddings)) < 0:
        wrong.append(f"expected padding that is not negative, got {padding}")
    if not wrong:
        needed = tuple(d * (k - 1) + 1 - low - high for k, d, (low, high) in zip(kernel, dilations, paddings))
        if any(size < least for size, least in zip(input.shape[-n:], needed)):
            wrong.append(f"expected input at least {needed} in its last dimensions, got {describe(input)}")
    if wrong:
        raise ShapeError("; ".join(wrong))
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
    check_rank(weight, n + 2, f"(C, O / groups, {_kernel_letters(n)})", "weight")
    strides, dilations = to_tuple(stride, n, "stride"), to_tuple(dilation, n, "dilation")
    paddings, extra = to_tuple(padding, n, "padding"), to_tuple(output_padding, n, "output_padding")
    kernel, channels = weight.shape[2:], weight.shape[1] * groups
    wrong = _misfits(n, input, weight.shape[0], bias, channels, strides, dilations)
    wrong += _bad_groups(weight, groups)
    if min(paddings) < 0:
        wrong.append(f"expected padding that is not negative, got {padding}")
    if any(not 0 <= e < max(s, d) for e, s, d in zip(extra, strides, dilations)):
        wrong.append(f"expected output_padding from 0 to below stride or dilation, got {output_padding}")
    if not wrong:
        geometry = zip(input.shape[-n:], strides, paddings, dilations, kernel, extra)
        sizes = tuple(s * (size - 1) - 2 * p + d * (k - 1) + e + 1 for size, s, p, d, k, e in geometry)
        if min(sizes) < 1:
            wrong.append(f"expected an input whose result is not empty, got {describe(input)} for a result of {sizes}")
    if wrong:
        raise ShapeError("; ".join(wrong))
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
    totals = [d * (k - 1) for k, d in zip(kernel, dilations)]
    return tuple((total // 2, total - total // 2) for total in totals)


def _finish(output: jax.Array, bias: jax.Array | None, *, batched: bool) -> jax.Array:
    if bias is not None:
        output = output + bias.reshape(-1, *[1] * (output.ndim - 2))  # (O,) to (O, 1, ..., 1)
    return output if batched else output[0]


@partial(jax.jit, static_argnums=2)
def _convolve(x: jax.Array, w: jax.Array, geometry: _Geometry) -> jax.Array:
    """x `(N, C, *spatial)` and w `(O, C / groups, *kernel)` to `(N, O, *spatial')`, in the form that is fast here.

    XLA's CPU backend has a fast path for ungrouped convolutions only. With groups it was measured 10 to 60 times slower
    than PyTorch forward and 70 to 300 times backward (the gradient of the weight), so there the sum over kernel
    positions is written out instead; GPUs and TPUs have kernels of their own and keep the one operation. The choice is
    left to lowering (`platform_dependent`), not made from `jax.default_backend()`, because an array may live on the CPU
    of a machine that has a GPU, and because a function may be exported for both.
    """
    on_accelerators = partial(_one_operation, geometry=geometry)
    if geometry.groups == 1:
        return on_accelerators(x, w)
    on_cpu = partial(_sum_over_taps if math.prod(w.shape[2:]) <= _MOST_TAPS else _loop_over_groups, geometry=geometry)
    # Without the checkpoint each tap's slice would be kept for the backward pass: the input, once for each tap.
    return lax.platform_dependent(x, w, cpu=jax.checkpoint(on_cpu), default=on_accelerators)


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


def _sum_over_taps(x: jax.Array, w: jax.Array, geometry: _Geometry) -> jax.Array:
    """Σₖ wₖ xₖ, where xₖ is the part of the padded input that kernel position k meets: a strided slice."""
    (batch, _, *_), (out_channels, depth, *kernel) = x.shape, w.shape
    # 16-bit inputs are summed in 32 bits, as one convolution would.
    wide = jnp.promote_types(x.dtype, jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x.dtype
    padded = lax.pad(x.astype(wide), jnp.zeros((), wide), [(0, 0, 0)] * 2 + [(*p, 0) for p in geometry.padding])
    reach = [d * (k - 1) for k, d in zip(kernel, geometry.dilation)]
    sizes = [(size - r - 1) // s + 1 for size, r, s in zip(padded.shape[2:], reach, geometry.stride)]
    # (O, C / groups, *kernel) to (groups, O / groups, C / groups, taps)
    weights = w.astype(wide).reshape(geometry.groups, out_channels // geometry.groups, depth, -1)
    total = jnp.zeros((batch, geometry.groups, out_channels // geometry.groups, math.prod(sizes)), wide)
    for k, position in enumerate(np.ndindex(*kernel)):
        start = [i * d for i, d in zip(position, geometry.dilation)]
        stop = [a + (size - 1) * s + 1 for a, size, s in zip(start, sizes, geometry.stride)]
        tap = lax.slice(padded, (0, 0, *start), (*padded.shape[:2], *stop), (1, 1, *geometry.stride))
        tap = tap.reshape(batch, geometry.groups, depth, math.prod(sizes))  # to (N, groups, C / groups, points)
        if depth == 1:  # depthwise: a product of numbers, which XLA fuses; a dot would not be
            total += weights[..., k] * tap
        else:
            total += jnp.einsum("goc,ngcp->ngop", weights[..., k], tap)
    return total.reshape(batch, out_channels, *sizes).astype(x.dtype)


def _loop_over_groups(x: jax.Array, w: jax.Array, geometry: _Geometry) -> jax.Array:
    """One ungrouped convolution after the other: slower than the sum over taps, but compiled once for all of them."""
    groups, (batch, _, *sizes), (out_channels, depth, *kernel) = geometry.groups, x.shape, w.shape
    each_x = jnp.moveaxis(x.reshape(batch, groups, depth, *sizes), 1, 0)  # (N, C, ...) to (groups, N, C / groups, ...)
    each_w = w.reshape(groups, out_channels // groups, depth, *kernel)
    ungrouped = geometry._replace(groups=1)
    each_y = lax.map(lambda pair: _one_operation(*pair, ungrouped), (each_x, each_w))
    return jnp.moveaxis(each_y, 0, 1).reshape(batch, out_channels, *each_y.shape[3:])  # to (N, O, ...)


@partial(jax.jit, static_argnums=(2, 3))
def _transposed(x: jax.Array, w: jax.Array, geometry: _Geometry, shape: tuple[int, ...]) -> jax.Array:
    """The transpose of `_convolve` as a map from arrays `(N, *shape)`: fast and right wherever that one is."""

    def convolution(y: jax.Array) -> jax.Array:
        # An output_padding of a stride or more leaves room for further results, which are no part of x.
        return _convolve(y, w, geometry)[(..., *(slice(size) for size in x.shape[2:]))]

    (output,) = jax.linear_transpose(convolution, jax.ShapeDtypeStruct((x.shape[0], *shape), x.dtype))(x)
    return output
