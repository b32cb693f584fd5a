"""Batch normalization."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from flambeau._errors import ShapeError
from flambeau.core.module import Module
from flambeau.nn import functional as F
from flambeau.nn import init
from flambeau.nn._factory import parameter, zeros
from flambeau.nn.functional._checks import describe

__all__ = ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d"]


class NormBase(Module):
    """Running statistics, scale and shift, as batch and instance normalization have them."""

    _version = 2
    _expected: ClassVar[dict[int, str]]
    """For each number of dimensions that the input may have, how its shape is written around `{C}`."""

    weight: jax.Array | None
    bias: jax.Array | None
    running_mean: jax.Array | None
    running_var: jax.Array | None
    num_batches_tracked: jax.Array | None

    def __init__(
        self,
        num_features: int,
        eps: float,
        momentum: float | None,
        affine: bool,
        track_running_stats: bool,
        device: Any,
        dtype: DTypeLike | None,
        bias: bool,
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        shape = (num_features,)
        self.register_parameter("weight", parameter(shape, device, dtype) if affine else None)
        self.register_parameter("bias", parameter(shape, device, dtype) if affine and bias else None)
        self.register_buffer("running_mean", zeros(shape, device, dtype) if track_running_stats else None)
        self.register_buffer("running_var", zeros(shape, device, dtype) if track_running_stats else None)
        self.register_buffer("num_batches_tracked", zeros((), device, jnp.int64) if track_running_stats else None)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Sets the running mean to zeros, the running variance to ones, and the number of batches to zero."""
        if self.running_mean is not None:
            init.zeros_(self.running_mean)
        if self.running_var is not None:
            init.ones_(self.running_var)
        if self.num_batches_tracked is not None:
            init.zeros_(self.num_batches_tracked)

    def reset_parameters(self) -> None:
        """Resets the running statistics, and sets the scale to ones and the shift to zeros."""
        self.reset_running_stats()
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        )

    def _misfit(self, input: jax.Array) -> ShapeError:
        shapes = " or ".join(text.format(C=self.num_features) for text in self._expected.values())
        return ShapeError(f"expected input {shapes}, got {describe(input)}")

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        key, count = f"{prefix}num_batches_tracked", self.num_batches_tracked
        if (local_metadata.get("version") or 0) < 2 and count is not None and key not in state_dict:
            # The number of batches came with version 2; what is older leaves it as it is.
            state_dict = {**state_dict, key: count}
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


class _BatchNorm(NormBase):
    """A batch normalization; a subclass says of what shapes."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: DTypeLike | None = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias)

    def forward(self, input: jax.Array) -> jax.Array:
        mean, var = self.running_mean, self.running_var
        fits = input.ndim in self._expected and (
            input.shape[1] == self.num_features or (mean is None and self.weight is None)
        )
        if not fits:
            raise self._misfit(input)
        if self.training and not self.track_running_stats:
            mean = var = None
        if mean is None or not self.training:
            return F.batch_norm(input, mean, var, self.weight, self.bias, mean is None, eps=self.eps)
        output, self.running_mean, self.running_var = F.batch_norm_with_stats(
            input, mean, var, self.weight, self.bias, True, self._count(), self.eps
        )
        return output

    def _count(self) -> float | jax.Array:
        """Counts the batch, and gives its share of the running statistics."""
        if self.num_batches_tracked is not None:
            self.num_batches_tracked = self.num_batches_tracked + 1
        if self.momentum is not None:
            return self.momentum
        return 0.0 if self.num_batches_tracked is None else 1 / self.num_batches_tracked


class BatchNorm1d(_BatchNorm):
    """Normalizes each channel of sequences or vectors over the batch: (x - mean) / √(var + eps) · weight + bias.

    In training, mean and (biased) variance are those of the batch, and the running statistics move towards them and the
    unbiased variance; in evaluation, the running statistics are used.

    Args:
        num_features: the number of channels C.
        eps: what is added to the variance.
        momentum: the share of a batch in the running statistics; None for the average over all batches.
        affine: whether to end with a learnt scale and shift.
        track_running_stats: whether to keep running statistics; without them, evaluation too takes those of the batch.
        device: where parameters and buffers lie.
        dtype: the dtype of the parameters and statistics.
        bias: whether there is the shift.

    Shape:
        input `(N, C)` or `(N, C, L)`, result like input.

    Raises:
        ShapeError: the input has another number of dimensions or channels.
        DtypeError: the parameters have another dtype than the input.
        ValueError: there is one value per channel only in training.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> layer = nn.BatchNorm1d(100)
        >>> layer(jnp.ones((20, 100))).shape
        (20, 100)
        >>> layer.num_batches_tracked
        Array(1, dtype=int32)

    Source: https://arxiv.org/abs/1502.03167
    """

    _expected: ClassVar = {2: "(N, {C})", 3: "(N, {C}, L)"}


class BatchNorm2d(_BatchNorm):
    """Normalizes each channel of images over the batch: (x - mean) / √(var + eps) · weight + bias.

    In training, mean and (biased) variance are those of the batch, and the running statistics move towards them and the
    unbiased variance; in evaluation, the running statistics are used.

    Args:
        num_features: the number of channels C.
        eps: what is added to the variance.
        momentum: the share of a batch in the running statistics; None for the average over all batches.
        affine: whether to end with a learnt scale and shift.
        track_running_stats: whether to keep running statistics; without them, evaluation too takes those of the batch.
        device: where parameters and buffers lie.
        dtype: the dtype of the parameters and statistics.
        bias: whether there is the shift.

    Shape:
        input `(N, C, H, W)`, result like input.

    Raises:
        ShapeError: the input has another number of dimensions or channels.
        DtypeError: the parameters have another dtype than the input.
        ValueError: there is one value per channel only in training.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> layer = nn.BatchNorm2d(100)
        >>> layer(jnp.ones((2, 100, 4, 4))).shape
        (2, 100, 4, 4)
        >>> layer.num_batches_tracked
        Array(1, dtype=int32)

    Source: https://arxiv.org/abs/1502.03167
    """

    _expected: ClassVar = {4: "(N, {C}, H, W)"}


class BatchNorm3d(_BatchNorm):
    """Normalizes each channel of volumes over the batch: (x - mean) / √(var + eps) · weight + bias.

    In training, mean and (biased) variance are those of the batch, and the running statistics move towards them and the
    unbiased variance; in evaluation, the running statistics are used.

    Args:
        num_features: the number of channels C.
        eps: what is added to the variance.
        momentum: the share of a batch in the running statistics; None for the average over all batches.
        affine: whether to end with a learnt scale and shift.
        track_running_stats: whether to keep running statistics; without them, evaluation too takes those of the batch.
        device: where parameters and buffers lie.
        dtype: the dtype of the parameters and statistics.
        bias: whether there is the shift.

    Shape:
        input `(N, C, D, H, W)`, result like input.

    Raises:
        ShapeError: the input has another number of dimensions or channels.
        DtypeError: the parameters have another dtype than the input.
        ValueError: there is one value per channel only in training.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> layer = nn.BatchNorm3d(100)
        >>> layer(jnp.ones((2, 100, 2, 2, 2))).shape
        (2, 100, 2, 2, 2)
        >>> layer.num_batches_tracked
        Array(1, dtype=int32)

    Source: https://arxiv.org/abs/1502.03167
    """

    _expected: ClassVar = {5: "(N, {C}, D, H, W)"}
