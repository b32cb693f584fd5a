"""Convolutions and transposed convolutions over one, two and three spatial dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import jax

from flambeau._errors import ShapeError
from flambeau.nn.functional._autocast import lowered
from flambeau.nn.functional._checks import IntOrTuple, check_rank, check_same_dtype, describe, to_tuple
from flambeau.nn.functional._convolution import Geometry, convolve, transposed

__all__ = ["conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"]

Padding: TypeAlias = IntOrTuple | Literal["valid", "same"]

_SPATIAL = {1: "L", 2: "H, W", 3: "D, H, W"}


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
        >>> import jax.numpy as jnp
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
        >>> import jax.numpy as jnp
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
        >>> import jax.numpy as jnp
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
        >>> import jax.numpy as jnp
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
        >>> import jax.numpy as jnp
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
        >>> import jax.numpy as jnp
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
    output = convolve(batch, weight, Geometry(strides, paddings, dilations, groups))
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
    output = transposed(batch, weight, Geometry(strides, both_sides, dilations, groups), (channels, *sizes))
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
