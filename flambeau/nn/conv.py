"""Convolutions and transposed convolutions over one, two and three spatial dimensions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, TypeAlias

import jax
from jax.typing import DTypeLike

from flambeau._errors import ShapeError
from flambeau.core.module import Module
from flambeau.nn import functional as F
from flambeau.nn._factory import draw_by_fan_in, parameter
from flambeau.nn.functional._checks import IntOrTuple, describe, to_tuple

__all__ = ["Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"]

Padding: TypeAlias = IntOrTuple | Literal["valid", "same"]
PaddingMode: TypeAlias = Literal["zeros", "reflect", "replicate", "circular"]

_SPATIAL = {1: "L", 2: "H, W", 3: "D, H, W"}
_MODES = ("zeros", "reflect", "replicate", "circular")


class ConvBase(Module):
    """The settings and parameters that convolutions and transposed ones have in common."""

    _dims: ClassVar[int]
    _function: ClassVar[Callable[..., jax.Array]]

    weight: jax.Array
    bias: jax.Array | None
    padding_mode: PaddingMode

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrTuple,
        stride: IntOrTuple,
        padding: Padding,
        dilation: IntOrTuple,
        transposed: bool,
        output_padding: IntOrTuple,
        groups: int,
        bias: bool,
        padding_mode: PaddingMode,
        device: Any,
        dtype: DTypeLike | None,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = to_tuple(kernel_size, self._dims, "kernel_size")
        self.stride = to_tuple(stride, self._dims, "stride")
        self.padding = padding if isinstance(padding, str) else to_tuple(padding, self._dims, "padding")
        self.dilation = to_tuple(dilation, self._dims, "dilation")
        self.transposed = transposed
        self.output_padding = to_tuple(output_padding, self._dims, "output_padding")
        self.groups = groups
        self.padding_mode = padding_mode
        self._check_settings()
        self.register_parameter("weight", parameter(self._weight_shape(), device, dtype))
        self.register_parameter("bias", parameter((out_channels,), device, dtype) if bias else None)
        self.reset_parameters()

    def _weight_shape(self) -> tuple[int, ...]:
        channels = self.out_channels, self.in_channels
        first, second = channels[::-1] if self.transposed else channels
        return first, second // self.groups, *self.kernel_size

    def _check_settings(self) -> None:
        wrong = []
        if self.groups <= 0:
            wrong.append(f"expected groups > 0, got {self.groups}")
        elif self.in_channels % self.groups or self.out_channels % self.groups:
            channels = f"{self.in_channels} and {self.out_channels}"
            wrong.append(f"expected in_channels and out_channels divisible by groups={self.groups}, got {channels}")
        if isinstance(self.padding, str) and self.padding not in ("valid", "same"):
            wrong.append(f"expected padding 'valid', 'same' or ints, got {self.padding!r}")
        if self.padding == "same" and set(self.stride) != {1}:
            wrong.append(f"expected stride 1 for padding='same', got {self.stride}")
        if self.padding_mode not in _MODES:
            wrong.append(f"expected padding_mode to be one of {', '.join(_MODES)}, got {self.padding_mode!r}")
        if wrong:
            raise ValueError("; ".join(wrong))

    def reset_parameters(self) -> None:
        """Draws the parameters anew."""
        draw_by_fan_in(self.weight, self.bias)

    def extra_repr(self) -> str:
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"]
        for name, usual in (("padding", 0), ("dilation", 1), ("output_padding", 0)):
            value = getattr(self, name)
            parts += [] if value == (usual,) * self._dims else [f"{name}={value}"]
        parts += [] if self.groups == 1 else [f"groups={self.groups}"]
        parts += [] if self.bias is not None else ["bias=False"]
        parts += [] if self.padding_mode == "zeros" else [f"padding_mode={self.padding_mode}"]
        return ", ".join(parts)


class _Conv(ConvBase):
    """A convolution; a subclass says of how many dimensions."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrTuple,
        stride: IntOrTuple = 1,
        padding: Padding = 0,
        dilation: IntOrTuple = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        device: Any = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            False,
            0,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )

    def forward(self, input: jax.Array) -> jax.Array:
        return self._conv_forward(input, self.weight, self.bias)

    def _conv_forward(self, input: jax.Array, weight: jax.Array, bias: jax.Array | None) -> jax.Array:
        """The layer with other parameters: what subclasses that change the weight call, by PyTorch's name."""
        convolve, padding = type(self)._function, self.padding
        if self.padding_mode != "zeros":
            input, padding = self._padded(input, self.padding_mode), 0
        return convolve(input, weight, bias, self.stride, padding, self.dilation, self.groups)

    def _padded(self, input: jax.Array, mode: Literal["reflect", "replicate", "circular"]) -> jax.Array:
        """The input with what the mode puts around it."""
        ranks = (self._dims + 1, self._dims + 2)
        if input.ndim not in ranks or input.shape[-self._dims - 1] != self.in_channels:
            # Said here, because a convolution would show the padded shape.
            one = f"{self.in_channels}, {_SPATIAL[self._dims]}"
            raise ShapeError(f"expected input (N, {one}) or ({one}), got {describe(input)}")
        return F.pad(input, self._margins(), mode=mode)

    def _margins(self) -> list[int]:
        """The padding as `pad` takes it: before and after, from the last dimension to the first."""
        if isinstance(self.padding, str):
            moves = zip(self.dilation, self.kernel_size, strict=True)
            missing = [dilation * (size - 1) if self.padding == "same" else 0 for dilation, size in moves]
            sides = [(total // 2, total - total // 2) for total in missing]
        else:
            sides = [(size, size) for size in self.padding]
        return [size for pair in reversed(sides) for size in pair]


class _ConvTranspose(ConvBase):
    """A transposed convolution; a subclass says of how many dimensions."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrTuple,
        stride: IntOrTuple = 1,
        padding: IntOrTuple = 0,
        output_padding: IntOrTuple = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: IntOrTuple = 1,
        padding_mode: Literal["zeros"] = "zeros",
        device: Any = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        if padding_mode != "zeros":
            raise ValueError(f"expected padding_mode 'zeros' for {type(self).__name__}, got {padding_mode!r}")
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            True,
            output_padding,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )

    def forward(self, input: jax.Array, output_size: Sequence[int] | None = None) -> jax.Array:
        convolve = type(self)._function
        extra = self.output_padding if output_size is None else self._padding_for(input, tuple(output_size))
        return convolve(input, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation)

    def _padding_for(self, input: jax.Array, output_size: tuple[int, ...]) -> tuple[int, ...]:
        """The output padding that leads to `output_size`, which may begin with the batch and channel dimensions."""
        others = input.ndim - self._dims
        wanted = output_size[others:] if len(output_size) == input.ndim else output_size
        if len(wanted) != self._dims:
            raise ShapeError(f"expected output_size of {self._dims} or {input.ndim} ints, got {output_size}")
        least = [
            (size - 1) * stride - 2 * int(padding) + dilation * (kernel - 1) + 1
            for size, stride, padding, dilation, kernel in zip(
                input.shape[others:], self.stride, self.padding, self.dilation, self.kernel_size, strict=True
            )
        ]
        most = [size + stride - 1 for size, stride in zip(least, self.stride, strict=True)]
        if not all(low <= size <= high for low, size, high in zip(least, wanted, most, strict=True)):
            raise ShapeError(
                f"expected output_size from {least} to {most} for input {describe(input)}, got {output_size}"
            )
        return tuple(size - low for size, low in zip(wanted, least, strict=True))


class Conv1d(_Conv):
    """Convolves sequences: y[o, t] = b[o] + Σ w[o, c, k] x[c, stride·t + dilation·k − padding].

    The initial weight and bias are uniform within ±1/√(in_channels / groups · size of the kernel).

    Args:
        in_channels: the channels of the input.
        out_channels: the channels of the result.
        kernel_size: the size of the kernel.
        stride: how far the kernel moves between two results.
        padding: how much to add on both sides, `"valid"` for none, or `"same"` for as much as keeps the size.
        dilation: the distance between two entries of the kernel.
        groups: into how many groups the channels are split that see nothing of each other.
        bias: whether to add a learnt bias.
        padding_mode: what to add: `"zeros"`, `"reflect"`, `"replicate"` or `"circular"`.
        device: where the parameters lie.
        dtype: the dtype of the parameters.

    Shape:
        input `(N, C, L)` or `(C, L)`, result `(N, O, L')` or `(O, L')`.

    Raises:
        ValueError: settings that do not go together; the message lists all.
        ShapeError: the input has another number of dimensions or channels, or is smaller than the kernel.
        DtypeError: the input has another dtype than the weight.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> layer = nn.Conv1d(16, 33, 3, stride=2)
        >>> layer(jnp.ones((20, 16, 16))).shape
        (20, 33, 7)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.Conv1d.html
    """

    _dims = 1
    _function = F.conv1d


class Conv2d(_Conv):
    """Convolves images: y[o, p, q] = b[o] + Σ w[o, c, k, l] x[c, stride·p + dilation·k − padding, …].

    The initial weight and bias are uniform within ±1/√(in_channels / groups · size of the kernel).

    Args:
        in_channels: the channels of the input.
        out_channels: the channels of the result.
        kernel_size: the size of the kernel, in each dimension if it is one int.
        stride: how far the kernel moves between two results.
        padding: how much to add on both sides, `"valid"` for none, or `"same"` for as much as keeps the size.
        dilation: the distance between two entries of the kernel.
        groups: into how many groups the channels are split that see nothing of each other.
        bias: whether to add a learnt bias.
        padding_mode: what to add: `"zeros"`, `"reflect"`, `"replicate"` or `"circular"`.
        device: where the parameters lie.
        dtype: the dtype of the parameters.

    Shape:
        input `(N, C, H, W)` or `(C, H, W)`, result `(N, O, H', W')` or `(O, H', W')`.

    Raises:
        ValueError: settings that do not go together; the message lists all.
        ShapeError: the input has another number of dimensions or channels, or is smaller than the kernel.
        DtypeError: the input has another dtype than the weight.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> layer = nn.Conv2d(16, 33, 3, stride=2)
        >>> layer(jnp.ones((20, 16, 16, 16))).shape
        (20, 33, 7, 7)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.Conv2d.html
    """

    _dims = 2
    _function = F.conv2d


class Conv3d(_Conv):
    """Convolves volumes: y[o, p, q, r] = b[o] + Σ w[o, c, k, l, m] x[c, stride·p + dilation·k − padding, …].

    The initial weight and bias are uniform within ±1/√(in_channels / groups · size of the kernel).

    Args:
        in_channels: the channels of the input.
        out_channels: the channels of the result.
        kernel_size: the size of the kernel, in each dimension if it is one int.
        stride: how far the kernel moves between two results.
        padding: how much to add on both sides, `"valid"` for none, or `"same"` for as much as keeps the size.
        dilation: the distance between two entries of the kernel.
        groups: into how many groups the channels are split that see nothing of each other.
        bias: whether to add a learnt bias.
        padding_mode: what to add: `"zeros"`, `"reflect"`, `"replicate"` or `"circular"`.
        device: where the parameters lie.
        dtype: the dtype of the parameters.

    Shape:
        input `(N, C, D, H, W)` or `(C, D, H, W)`, result `(N, O, D', H', W')` or `(O, D', H', W')`.

    Raises:
        ValueError: settings that do not go together; the message lists all.
        ShapeError: the input has another number of dimensions or channels, or is smaller than the kernel.
        DtypeError: the input has another dtype than the weight.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> layer = nn.Conv3d(16, 33, 3, stride=2)
        >>> layer(jnp.ones((20, 16, 8, 8, 8))).shape
        (20, 33, 3, 3, 3)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.Conv3d.html
    """

    _dims = 3
    _function = F.conv3d


class ConvTranspose1d(_ConvTranspose):
    """The transpose of a convolution of sequences, from its result's shape to its input's.

    The initial weight and bias are uniform within ±1/√(out_channels / groups · size of the kernel).

    Args:
        in_channels: the channels of the input.
        out_channels: the channels of the result.
        kernel_size: the size of the kernel.
        stride: how far the kernel moves in the result between two entries of the input.
        padding: how much to take away from both sides of the result.
        output_padding: how much to add to the end of the result.
        groups: into how many groups the channels are split that see nothing of each other.
        bias: whether to add a learnt bias.
        dilation: the distance between two entries of the kernel.
        padding_mode: only `"zeros"`.
        device: where the parameters lie.
        dtype: the dtype of the parameters.

    Shape:
        input `(N, C, L)` or `(C, L)`, result `(N, O, L')` or `(O, L')`. The call takes a second
        argument `output_size`, in the place of `output_padding`: the shape of the result, or its last dimension.

    Raises:
        ValueError: settings that do not go together; the message lists all.
        ShapeError: the input has another number of dimensions or channels, or `output_size` cannot be reached.
        DtypeError: the input has another dtype than the weight.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> layer = nn.ConvTranspose1d(16, 33, 3, stride=2)
        >>> layer(jnp.ones((2, 16, 12))).shape
        (2, 33, 25)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.ConvTranspose1d.html
    """

    _dims = 1
    _function = F.conv_transpose1d


class ConvTranspose2d(_ConvTranspose):
    """The transpose of a convolution of images, from its result's shape to its input's.

    The initial weight and bias are uniform within ±1/√(out_channels / groups · size of the kernel).

    Args:
        in_channels: the channels of the input.
        out_channels: the channels of the result.
        kernel_size: the size of the kernel, in each dimension if it is one int.
        stride: how far the kernel moves in the result between two entries of the input.
        padding: how much to take away from both sides of the result.
        output_padding: how much to add to the end of the result.
        groups: into how many groups the channels are split that see nothing of each other.
        bias: whether to add a learnt bias.
        dilation: the distance between two entries of the kernel.
        padding_mode: only `"zeros"`.
        device: where the parameters lie.
        dtype: the dtype of the parameters.

    Shape:
        input `(N, C, H, W)` or `(C, H, W)`, result `(N, O, H', W')` or `(O, H', W')`. The call takes a second
        argument `output_size`, in the place of `output_padding`: the shape of the result, or its last 2 dimensions.

    Raises:
        ValueError: settings that do not go together; the message lists all.
        ShapeError: the input has another number of dimensions or channels, or `output_size` cannot be reached.
        DtypeError: the input has another dtype than the weight.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> layer = nn.ConvTranspose2d(16, 33, 3, stride=2)
        >>> layer(jnp.ones((2, 16, 12, 12))).shape
        (2, 33, 25, 25)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.ConvTranspose2d.html
    """

    _dims = 2
    _function = F.conv_transpose2d


class ConvTranspose3d(_ConvTranspose):
    """The transpose of a convolution of volumes, from its result's shape to its input's.

    The initial weight and bias are uniform within ±1/√(out_channels / groups · size of the kernel).

    Args:
        in_channels: the channels of the input.
        out_channels: the channels of the result.
        kernel_size: the size of the kernel, in each dimension if it is one int.
        stride: how far the kernel moves in the result between two entries of the input.
        padding: how much to take away from both sides of the result.
        output_padding: how much to add to the end of the result.
        groups: into how many groups the channels are split that see nothing of each other.
        bias: whether to add a learnt bias.
        dilation: the distance between two entries of the kernel.
        padding_mode: only `"zeros"`.
        device: where the parameters lie.
        dtype: the dtype of the parameters.

    Shape:
        input `(N, C, D, H, W)` or `(C, D, H, W)`, result `(N, O, D', H', W')` or `(O, D', H', W')`. The call takes a second
        argument `output_size`, in the place of `output_padding`: the shape of the result, or its last 3 dimensions.

    Raises:
        ValueError: settings that do not go together; the message lists all.
        ShapeError: the input has another number of dimensions or channels, or `output_size` cannot be reached.
        DtypeError: the input has another dtype than the weight.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> layer = nn.ConvTranspose3d(16, 33, 3, stride=2)
        >>> layer(jnp.ones((2, 16, 6, 6, 6))).shape
        (2, 33, 13, 13, 13)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.ConvTranspose3d.html
    """

    _dims = 3
    _function = F.conv_transpose3d
