"""Linear layers."""

from __future__ import annotations

import math
from typing import Any

import jax
from jax.typing import DTypeLike

from flambeau.core.module import Module
from flambeau.nn import functional as F
from flambeau.nn import init
from flambeau.nn._factory import draw_by_fan_in, parameter

__all__ = ["Bilinear", "Identity", "Linear"]


class Identity(Module):
    """Returns its input: y = x. It stands where a layer may be left out.

    Args:
        args: anything, which is ignored.
        kwargs: anything, which is ignored.

    Shape:
        input `(*)`, result `(*)`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.Identity(54, unused=True)(jnp.ones(2))
        Array([1., 1.], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.Identity.html
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def forward(self, input: Any) -> Any:
        return input


class Linear(Module):
    """Maps the last dimension linearly: y = x Wᵀ + b.

    The initial weight and bias are uniform within ±1/√in_features.

    Args:
        in_features: the size of the last dimension of the input.
        out_features: the size of the last dimension of the result.
        bias: whether to add a learnt bias.
        device: where the parameters lie.
        dtype: the dtype of the parameters.

    Shape:
        input `(*, in_features)`, result `(*, out_features)`.

    Raises:
        ShapeError: the input has another last dimension.
        DtypeError: the input has another dtype than the weight.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> layer = nn.Linear(20, 30)
        >>> layer
        Linear(in_features=20, out_features=30, bias=True)
        >>> layer(jnp.ones((128, 20))).shape
        (128, 30)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.Linear.html
    """

    weight: jax.Array
    bias: jax.Array | None

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, device: Any = None, dtype: DTypeLike | None = None
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.register_parameter("weight", parameter((out_features, in_features), device, dtype))
        self.register_parameter("bias", parameter((out_features,), device, dtype) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the parameters anew."""
        draw_by_fan_in(self.weight, self.bias)

    def forward(self, input: jax.Array) -> jax.Array:
        return F.linear(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class Bilinear(Module):
    """Maps pairs of features bilinearly: yₒ = x₁ᵀ Wₒ x₂ + bₒ.

    The initial weight and bias are uniform within ±1/√in1_features.

    Args:
        in1_features: the size of the last dimension of the first input.
        in2_features: the size of the last dimension of the second input.
        out_features: the size of the last dimension of the result.
        bias: whether to add a learnt bias.
        device: where the parameters lie.
        dtype: the dtype of the parameters.

    Shape:
        inputs `(*, in1_features)` and `(*, in2_features)`, result `(*, out_features)`.

    Raises:
        ValueError: `in1_features` is not positive.
        ShapeError: an input has another last dimension, or the others differ.
        DtypeError: an input has another dtype than the weight.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.Bilinear(20, 30, 40)(jnp.ones((128, 20)), jnp.ones((128, 30))).shape
        (128, 40)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.Bilinear.html
    """

    weight: jax.Array
    bias: jax.Array | None

    def __init__(
        self,
        in1_features: int,
        in2_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        super().__init__()
        if in1_features <= 0:
            raise ValueError(f"expected in1_features > 0, got {in1_features}")
        self.in1_features = in1_features
        self.in2_features = in2_features
        self.out_features = out_features
        self.register_parameter("weight", parameter((out_features, in1_features, in2_features), device, dtype))
        self.register_parameter("bias", parameter((out_features,), device, dtype) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the parameters anew."""
        bound = 1 / math.sqrt(self.in1_features)
        init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            init.uniform_(self.bias, -bound, bound)

    def forward(self, input1: jax.Array, input2: jax.Array) -> jax.Array:
        return F.bilinear(input1, input2, self.weight, self.bias)

    def extra_repr(self) -> str:
        return (
            f"in1_features={self.in1_features}, in2_features={self.in2_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}"
        )
