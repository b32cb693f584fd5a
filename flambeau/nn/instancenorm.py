"""Instance normalization."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import jax
from jax.typing import DTypeLike

from flambeau.nn import functional as F
from flambeau.nn.batchnorm import NormBase

__all__ = ["InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d"]


class _InstanceNorm(NormBase):
    """An instance normalization; a subclass says of what shapes."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: Any = None,
        dtype: DTypeLike | None = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias)

    def forward(self, input: jax.Array) -> jax.Array:
        batched = input.ndim == max(self._expected)
        if input.ndim not in self._expected:
            raise self._misfit(input)
        if input.shape[batched] != self.num_features:
            if self.affine or self.track_running_stats:
                raise self._misfit(input)
            warnings.warn(
                f"{self._misfit(input)}; without affine, num_features={self.num_features} is not used", stacklevel=2
            )
        own = self.training or not self.track_running_stats
        momentum = 0.0 if self.momentum is None else self.momentum
        output, mean, var = F.instance_norm_with_stats(
            input if batched else input[None],
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            own,
            momentum,
            self.eps,
        )
        if own and mean is not None:
            self.running_mean, self.running_var = mean, var
        return output if batched else output[0]


class InstanceNorm1d(_InstanceNorm):
    """Normalizes each channel of each of the sequences over its positions: (x - mean) / √(var + eps) · weight + bias.

    Args:
        num_features: the number of channels C.
        eps: what is added to the variance.
        momentum: the share of a batch in the running statistics; None leaves them as they are.
        affine: whether to end with a learnt scale and shift.
        track_running_stats: whether to keep running statistics, and to use them in evaluation.
        device: where parameters and buffers lie.
        dtype: the dtype of the parameters and statistics.
        bias: whether there is the shift.

    Shape:
        input `(N, C, L)` or `(C, L)`, result like input.

    Raises:
        ShapeError: the input has another number of dimensions or channels (of channels, only a warning where there are
            neither parameters nor statistics).
        DtypeError: the parameters have another dtype than the input.
        ValueError: there is one position only.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.InstanceNorm1d(100)(jnp.ones((20, 100, 40))).shape
        (20, 100, 40)

    Source: https://arxiv.org/abs/1607.08022
    """

    _expected: ClassVar = {2: "({C}, L)", 3: "(N, {C}, L)"}


class InstanceNorm2d(_InstanceNorm):
    """Normalizes each channel of each of the images over its positions: (x - mean) / √(var + eps) · weight + bias.

    Args:
        num_features: the number of channels C.
        eps: what is added to the variance.
        momentum: the share of a batch in the running statistics; None leaves them as they are.
        affine: whether to end with a learnt scale and shift.
        track_running_stats: whether to keep running statistics, and to use them in evaluation.
        device: where parameters and buffers lie.
        dtype: the dtype of the parameters and statistics.
        bias: whether there is the shift.

    Shape:
        input `(N, C, H, W)` or `(C, H, W)`, result like input.

    Raises:
        ShapeError: the input has another number of dimensions or channels (of channels, only a warning where there are
            neither parameters nor statistics).
        DtypeError: the parameters have another dtype than the input.
        ValueError: there is one position only.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.InstanceNorm2d(100)(jnp.ones((2, 100, 4, 4))).shape
        (2, 100, 4, 4)

    Source: https://arxiv.org/abs/1607.08022
    """

    _expected: ClassVar = {3: "({C}, H, W)", 4: "(N, {C}, H, W)"}


class InstanceNorm3d(_InstanceNorm):
    """Normalizes each channel of each of the volumes over its positions: (x - mean) / √(var + eps) · weight + bias.

    Args:
        num_features: the number of channels C.
        eps: what is added to the variance.
        momentum: the share of a batch in the running statistics; None leaves them as they are.
        affine: whether to end with a learnt scale and shift.
        track_running_stats: whether to keep running statistics, and to use them in evaluation.
        device: where parameters and buffers lie.
        dtype: the dtype of the parameters and statistics.
        bias: whether there is the shift.

    Shape:
        input `(N, C, D, H, W)` or `(C, D, H, W)`, result like input.

    Raises:
        ShapeError: the input has another number of dimensions or channels (of channels, only a warning where there are
            neither parameters nor statistics).
        DtypeError: the parameters have another dtype than the input.
        ValueError: there is one position only.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.InstanceNorm3d(100)(jnp.ones((2, 100, 2, 2, 2))).shape
        (2, 100, 2, 2, 2)

    Source: https://arxiv.org/abs/1607.08022
    """

    _expected: ClassVar = {4: "({C}, D, H, W)", 5: "(N, {C}, D, H, W)"}
