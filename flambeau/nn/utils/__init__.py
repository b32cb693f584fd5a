"""Helpers of PyTorch's `torch.nn.utils`, with its names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flambeau.core.absent import missing_name
from flambeau.nn.utils import parametrizations, parametrize, prune, rnn
from flambeau.nn.utils.clip_grad import (
    clip_grad_norm,
    clip_grad_norm_,
    clip_grad_value_,
    clip_grads_with_norm_,
    get_total_norm,
)
from flambeau.nn.utils.convert_parameters import parameters_to_vector, vector_to_parameters
from flambeau.nn.utils.fusion import (
    fuse_conv_bn_eval,
    fuse_conv_bn_weights,
    fuse_linear_bn_eval,
    fuse_linear_bn_weights,
)
from flambeau.nn.utils.init import skip_init
from flambeau.nn.utils.spectral_norm import remove_spectral_norm, spectral_norm
from flambeau.nn.utils.weight_norm import remove_weight_norm, weight_norm

__all__ = [
    "clip_grad_norm",
    "clip_grad_norm_",
    "clip_grad_value_",
    "clip_grads_with_norm_",
    "fuse_conv_bn_eval",
    "fuse_conv_bn_weights",
    "fuse_linear_bn_eval",
    "fuse_linear_bn_weights",
    "get_total_norm",
    "parameters_to_vector",
    "parametrizations",
    "parametrize",
    "prune",
    "remove_spectral_norm",
    "remove_weight_norm",
    "rnn",
    "skip_init",
    "spectral_norm",
    "vector_to_parameters",
    "weight_norm",
]

_MEMORY_FORMAT = "XLA chooses the memory layout of every array by itself"
_ABSENT = {
    "convert_conv2d_weight_memory_format": _MEMORY_FORMAT,
    "convert_conv3d_weight_memory_format": _MEMORY_FORMAT,
    "stateless": "use fb.functional_call",
}

if not TYPE_CHECKING:
    # Hidden from type checkers, which would take every misspelt name for a known one.
    def __getattr__(name: str) -> Any:
        raise missing_name(__name__, name, _ABSENT, __all__)
