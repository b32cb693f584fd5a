"""Batch normalization."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
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

__all__ = ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm"]


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
        if not (
            self._takes(input.ndim) and (input.shape[1] == self.num_features or (mean is None and self.weight is None))
        ):
            raise self._misfit(input)
        if self.training and not self.track_running_stats:
            mean = var = None
        over_batch = self.training or mean is None
        share = self._count() if self.training and mean is not None else 0.0
        output, new_mean, new_var = F.batch_norm_with_stats(
            input, mean, var, self.weight, self.bias, over_batch, share, self.eps, self._axis_name()
        )
        if self.training and mean is not None:
            self.running_mean, self.running_var = new_mean, new_var
        return output

    def _takes(self, ndim: int) -> bool:
        return ndim in self._expected

    def _axis_name(self) -> Hashable | None:
        """The mapped axis over which the batch is spread."""
        return None

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


class SyncBatchNorm(_BatchNorm):
    """A batch normalization whose statistics are those of the whole batch, also where it is spread over devices.

    Under `fb.jit` every batch normalization is: an array that is sharded over devices is still one array, and its mean is
    the mean of all of it. So with `process_group=None` this layer is `BatchNorm1d`, `2d` or `3d` in one. Only where each
    device runs the program on its own part, under `jax.shard_map` or `jax.vmap(axis_name=...)`, have the means to be
    exchanged: there `process_group` names the mapped axis.

    Args:
        num_features: the number of channels C.
        eps: what is added to the variance.
        momentum: the share of a batch in the running statistics; None for the average over all batches.
        affine: whether to end with a learnt scale and shift.
        track_running_stats: whether to keep running statistics; without them, evaluation too takes those of the batch.
        process_group: the name of the mapped axis over which the batch is spread, or a tuple of several.
        device: where parameters and buffers lie.
        dtype: the dtype of the parameters and statistics.
        bias: whether there is the shift.

    Shape:
        input `(N, C, *)`, result like input.

    Raises:
        ShapeError: the input has fewer than 2 dimensions, or another number of channels.
        DtypeError: the parameters have another dtype than the input.
        ValueError: there is one value per channel only in training.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> layer = nn.SyncBatchNorm(1, process_group="batch")
        >>> call = lambda x: fb.functional_call(layer, dict(layer.state_dict()), x, return_state=True)[0]
        >>> parts = jnp.array([[[-1.0]], [[1.0]]])  # two devices' batches of one
        >>> print(jax.vmap(call, axis_name="batch")(parts).round(3).ravel())
        [-1.  1.]

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.SyncBatchNorm.html
    """

    _expected: ClassVar = {2: "(N, {C}, *)"}

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: Hashable | None = None,
        device: Any = None,
        dtype: DTypeLike | None = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias)
        self.process_group = process_group

    def _takes(self, ndim: int) -> bool:
        return ndim >= 2

    def _axis_name(self) -> Hashable | None:
        return self.process_group if self.training else None

    @classmethod
    def convert_sync_batchnorm(cls, module: Module, process_group: Hashable | None = None) -> Module:
        """Puts a `SyncBatchNorm` in the place of each batch normalization in `module`, with its parameters and statistics.

        Args:
            module: where to look; it is changed in place, and returned, unless it is itself a batch normalization.
            process_group: the name of the mapped axis over which the batch is spread.

        Example:
            >>> from flambeau import nn
            >>> nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)))
            Sequential(
              (0): Linear(in_features=2, out_features=3, bias=True)
              (1): SyncBatchNorm(3, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True)
            )

        Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.SyncBatchNorm.html
        """
        converted = cls._converted(module, process_group) if isinstance(module, _BatchNorm) else module
        for name, child in module.named_children():
            converted.add_module(name, cls.convert_sync_batchnorm(child, process_group))
        return converted

    @classmethod
    def _converted(cls, layer: _BatchNorm, process_group: Hashable | None) -> SyncBatchNorm:
        made = cls(
            layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats, process_group
        )
        made.training = layer.training
        for name, learnt in layer._parameters.items():
            made.register_parameter(name, learnt)
        for name, buffer in layer._buffers.items():
            made.register_buffer(name, buffer)
        return made
