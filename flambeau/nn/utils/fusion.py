"""A batch normalization folded into the layer before it, for evaluation."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from flambeau._errors import ShapeError, StateError
from flambeau.core.cell import Parameter, owner_of
from flambeau.core.module import Module
from flambeau.nn.batchnorm import NormBase
from flambeau.nn.conv import ConvBase
from flambeau.nn.functional._math import widen
from flambeau.nn.linear import Linear

__all__ = ["fuse_conv_bn_eval", "fuse_conv_bn_weights", "fuse_linear_bn_eval", "fuse_linear_bn_weights"]

ConvT = TypeVar("ConvT", bound=ConvBase)
LinearT = TypeVar("LinearT", bound=Linear)


def fuse_conv_bn_eval(conv: ConvT, bn: NormBase, transpose: bool = False) -> ConvT:
    """A new convolution that gives what `bn(conv(x))` gives in evaluation.

    Args:
        conv: the convolution.
        bn: the batch normalization that follows it.
        transpose: whether it is a transposed convolution, whose weight has the output channels second.

    Raises:
        StateError: one of them is in training mode, or `bn` has no running statistics.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval()
        >>> fused = nn.utils.fuse_conv_bn_eval(net[0], net[1])
        >>> x = jnp.ones((1, 3, 5, 5))
        >>> bool(jnp.allclose(fused(x), net(x), atol=1e-5))
        True

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.utils.fuse_conv_bn_eval.html
    """
    mean, var = _statistics(conv, bn)
    fused = copy.deepcopy(conv)
    weight, bias = fuse_conv_bn_weights(fused.weight, fused.bias, mean, var, bn.eps, bn.weight, bn.bias, transpose)
    return _with_parameters(fused, weight, bias)


def fuse_conv_bn_weights(
    conv_w: jax.Array,
    conv_b: jax.Array | None,
    bn_rm: jax.Array,
    bn_rv: jax.Array,
    bn_eps: float,
    bn_w: jax.Array | None,
    bn_b: jax.Array | None,
    transpose: bool = False,
) -> tuple[Parameter, Parameter]:
    """Weight and bias of a convolution with a batch normalization after it: w · s and (b - mean) · s + β, s = γ / √(var + eps).

    They are trainable where those given were read from trainable parameters.

    Args:
        conv_w: the weight, `(O, I, *kernel)`, or `(I, O, *kernel)` with `transpose`.
        conv_b: the bias `(O,)`, or None.
        bn_rm: the running mean `(O,)`.
        bn_rv: the running variance `(O,)`.
        bn_eps: what is added to it.
        bn_w: γ `(O,)`, or None for ones.
        bn_b: β `(O,)`, or None for zeros.
        transpose: whether the output channels are the second dimension.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> ones = jnp.ones(1)
        >>> weight, bias = nn.utils.fuse_conv_bn_weights(jnp.ones((1, 1, 1)), None, ones, ones, 0.0, 2 * ones, ones)
        >>> weight.data, bias.data
        (Array([[[2.]]], dtype=float32), Array([-1.], dtype=float32))

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.utils.fuse_conv_bn_weights.html
    """
    scale, shift = _affine(conv_b, bn_rm, bn_rv, bn_eps, bn_w, bn_b)
    shape = (1, -1) if transpose else (-1, 1)
    # (O,) to (O, 1, *kernel of ones)
    weight = widen(conv_w) * scale.reshape(*shape, *[1] * (conv_w.ndim - 2))
    return _parameters(weight, shift, conv_w, conv_b)


def fuse_linear_bn_eval(linear: LinearT, bn: NormBase) -> LinearT:
    """A new linear layer that gives what `bn(linear(x))` gives in evaluation.

    Args:
        linear: the linear layer.
        bn: the batch normalization that follows it.

    Raises:
        StateError: one of them is in training mode, or `bn` has no running statistics.
        ShapeError: `bn` has neither as many features as the layer gives, nor one.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> net = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8)).eval()
        >>> fused = nn.utils.fuse_linear_bn_eval(net[0], net[1])
        >>> x = jnp.ones((2, 3))
        >>> bool(jnp.allclose(fused(x), net(x), atol=1e-5))
        True

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.utils.fuse_linear_bn_eval.html
    """
    mean, var = _statistics(linear, bn)
    if bn.num_features not in (linear.out_features, 1):
        raise ShapeError(
            f"expected a batch normalization of {linear.out_features} features or one, got {bn.num_features}"
        )
    fused = copy.deepcopy(linear)
    weight, bias = fuse_linear_bn_weights(fused.weight, fused.bias, mean, var, bn.eps, bn.weight, bn.bias)
    return _with_parameters(fused, weight, bias)


def fuse_linear_bn_weights(
    linear_w: jax.Array,
    linear_b: jax.Array | None,
    bn_rm: jax.Array,
    bn_rv: jax.Array,
    bn_eps: float,
    bn_w: jax.Array | None,
    bn_b: jax.Array | None,
) -> tuple[Parameter, Parameter]:
    """Weight and bias of a linear layer with a batch normalization after it, as `fuse_conv_bn_weights`.

    Args:
        linear_w: the weight `(O, I)`.
        linear_b: the bias `(O,)`, or None.
        bn_rm: the running mean `(O,)`.
        bn_rv: the running variance `(O,)`.
        bn_eps: what is added to it.
        bn_w: the scale `(O,)`, or None for ones.
        bn_b: the shift `(O,)`, or None for zeros.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> ones = jnp.ones(1)
        >>> weight, bias = nn.utils.fuse_linear_bn_weights(jnp.ones((1, 1)), ones, ones, ones, 0.0, 2 * ones, ones)
        >>> weight.data, bias.data
        (Array([[2.]], dtype=float32), Array([1.], dtype=float32))

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.utils.fuse_linear_bn_weights.html
    """
    scale, shift = _affine(linear_b, bn_rm, bn_rv, bn_eps, bn_w, bn_b)
    weight = widen(linear_w) * scale[:, None]
    return _parameters(weight, jnp.broadcast_to(shift, weight.shape[:1]), linear_w, linear_b)


def _statistics(layer: Module, bn: NormBase) -> tuple[jax.Array, jax.Array]:
    if layer.training or bn.training:
        raise StateError("a batch normalization is folded into a layer for evaluation: call eval() on both first")
    if bn.running_mean is None or bn.running_var is None:
        raise StateError(
            "this batch normalization has no running statistics, so it depends on each batch and cannot be folded"
        )
    return bn.running_mean, bn.running_var


def _affine(bias: Any, mean: Any, var: Any, eps: float, weight: Any, shift: Any) -> tuple[jax.Array, jax.Array]:
    """γ / √(var + eps), and (bias - mean) times that, plus β."""
    scale = lax.rsqrt(widen(var) + eps)
    if weight is not None:
        scale = scale * weight
    moved = ((0 if bias is None else bias) - widen(mean)) * scale
    return scale, moved if shift is None else moved + shift


def _parameters(
    weight: jax.Array, bias: jax.Array, like: jax.Array, bias_like: jax.Array | None
) -> tuple[Parameter, Parameter]:
    """In the dtypes of the layer's own, and trainable where those are; a bias that the layer lacks is not, as in PyTorch."""
    return (
        Parameter(weight.astype(like.dtype), _is_trainable(like)),
        Parameter(bias.astype((like if bias_like is None else bias_like).dtype), _is_trainable(bias_like)),
    )


def _with_parameters(layer: Any, weight: Parameter, bias: Parameter) -> Any:
    layer.weight, layer.bias = weight, bias
    return layer


def _is_trainable(array: jax.Array | None) -> bool:
    owner = owner_of(array)
    return isinstance(owner, Parameter) and owner.requires_grad
