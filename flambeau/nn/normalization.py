"""Normalization over other things than the batch: over features, groups of channels, and instances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax.typing import DTypeLike

from flambeau.core.module import Module
from flambeau.nn import functional as F
from flambeau.nn import init
from flambeau.nn._factory import parameter
from flambeau.nn.functional._cross_map import cross_map_normalize

__all__ = ["CrossMapLRN2d", "GroupNorm", "LayerNorm", "LocalResponseNorm", "RMSNorm"]


class _Scaled(Module):
    """A normalization that ends with a learnt scale and shift, or one of them, or none."""

    weight: jax.Array | None
    bias: jax.Array | None

    def _make(self, shape: tuple[int, ...], weight: bool, bias: bool, device: Any, dtype: DTypeLike | None) -> None:
        self.register_parameter("weight", parameter(shape, device, dtype) if weight else None)
        self.register_parameter("bias", parameter(shape, device, dtype) if weight and bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets the scale to ones and the shift to zeros."""
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)


class LayerNorm(_Scaled):
    """Normalizes each row over the last dimensions: (x - mean) / √(var + eps) · weight + bias.

    Args:
        normalized_shape: the sizes of the last dimensions; an int for one.
        eps: what is added to the variance.
        elementwise_affine: whether to end with a learnt scale and shift.
        bias: whether that has the shift.
        device: where the parameters lie.
        dtype: the dtype of the parameters.

    Shape:
        input `(*, *normalized_shape)`, result like input.

    Raises:
        ShapeError: the input has other last dimensions.
        DtypeError: the parameters have another dtype than the input.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.LayerNorm(2)(jnp.array([[0.0, 2.0], [5.0, 5.0]])).round(3)
        Array([[-1.,  1.],
               [ 0.,  0.]], dtype=float32)

    Source: https://arxiv.org/abs/1607.06450
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        super().__init__()
        self.normalized_shape = _shape(normalized_shape)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        self._make(self.normalized_shape, elementwise_affine, bias, device, dtype)

    def forward(self, input: jax.Array) -> jax.Array:
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}, "
            f"bias={self.bias is not None}"
        )


class RMSNorm(_Scaled):
    """Divides each row by its root mean square over the last dimensions: x / √(mean(x²) + eps) · weight.

    Args:
        normalized_shape: the sizes of the last dimensions; an int for one.
        eps: what is added to the mean square; the spacing at 1 of the dtype that is computed with if None.
        elementwise_affine: whether to end with a learnt scale.
        device: where it lies.
        dtype: its dtype.

    Shape:
        input `(*, *normalized_shape)`, result like input.

    Raises:
        ShapeError: the input has other last dimensions.
        DtypeError: the weight has another dtype than the input.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.RMSNorm(2)(jnp.array([[1.0, 7.0]]))
        Array([[0.2, 1.4]], dtype=float32)

    Source: https://arxiv.org/abs/1910.07467
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: Any = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        super().__init__()
        self.normalized_shape = _shape(normalized_shape)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        self._make(self.normalized_shape, elementwise_affine, False, device, dtype)

    def forward(self, input: jax.Array) -> jax.Array:
        return F.rms_norm(input, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class GroupNorm(_Scaled):
    """Normalizes each group of channels of each instance: (x - mean) / √(var + eps) · weight + bias.

    Args:
        num_groups: how many groups the channels make.
        num_channels: how many channels there are.
        eps: what is added to the variance.
        affine: whether to end with a learnt scale and shift.
        device: where the parameters lie.
        dtype: the dtype of the parameters.
        bias: whether there is the shift.

    Shape:
        input `(N, C, *)`, result like input.

    Raises:
        ValueError: the channels do not make that many groups.
        ShapeError: the input has another number of channels.
        DtypeError: the parameters have another dtype than the input.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.GroupNorm(2, 4)(jnp.array([[0.0, 2.0, 5.0, 9.0]])).round(3)
        Array([[-1.,  1., -1.,  1.]], dtype=float32)

    Source: https://arxiv.org/abs/1803.08494
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: Any = None,
        dtype: DTypeLike | None = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if num_channels % num_groups:
            raise ValueError(f"expected num_channels divisible by num_groups={num_groups}, got {num_channels}")
        self.num_groups = num_groups
        self.num_channels = num_channels
        self.eps = eps
        self.affine = affine
        self._make((num_channels,), affine, bias, device, dtype)

    def forward(self, input: jax.Array) -> jax.Array:
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}, "
            f"bias={self.bias is not None}"
        )


class LocalResponseNorm(Module):
    """Divides each channel by the mean square of its neighbours: x / (k + α · mean(x²))^β.

    Args:
        size: how many neighbouring channels are averaged over; what lies outside counts as 0.
        alpha: the factor of the mean square.
        beta: the exponent.
        k: what the mean square is added to.

    Shape:
        input `(N, C, *)` of at least 3 dimensions, result like input.

    Raises:
        ShapeError: the input has fewer dimensions.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.LocalResponseNorm(1, alpha=0.75, beta=0.5)(jnp.full((1, 2, 1), 2.0)).ravel()
        Array([1., 1.], dtype=float32)

    Source: https://papers.nips.cc/paper/4824
    """

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        super().__init__()
        self.size = size
        self.alpha = alpha
        self.beta = beta
        self.k = k

    def forward(self, input: jax.Array) -> jax.Array:
        return F.local_response_norm(input, self.size, self.alpha, self.beta, self.k)

    def extra_repr(self) -> str:
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"


class CrossMapLRN2d(Module):
    """The local response normalization of Lua Torch: x / (k + α / size · Σ x²)^β over neighbouring channels.

    As in PyTorch, the first channel counts as a neighbour of all channels behind its own neighbours, too. PyTorch's gradient
    is that of other windows; here it is the derivative.

    Args:
        size: over how many neighbouring channels, itself included, is summed; of an even number one less.
        alpha: the factor of the sum.
        beta: the exponent.
        k: what the sum is added to.

    Shape:
        input `(N, C, H, W)`, result like input.

    Raises:
        ShapeError: the input has another number of dimensions.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.CrossMapLRN2d(1, alpha=0.75, beta=0.5)(jnp.full((1, 1, 1, 2), 2.0)).ravel()
        Array([1., 1.], dtype=float32)

    Source: https://papers.nips.cc/paper/4824
    """

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1) -> None:
        super().__init__()
        self.size = size
        self.alpha = alpha
        self.beta = beta
        self.k = k

    def forward(self, input: jax.Array) -> jax.Array:
        return cross_map_normalize(input, self.size, self.alpha, self.beta, self.k)

    def extra_repr(self) -> str:
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"


def _shape(normalized_shape: int | Sequence[int]) -> tuple[int, ...]:
    return (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
