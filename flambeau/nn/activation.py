"""Activations."""

from __future__ import annotations

from typing import Any

import jax
from jax.typing import DTypeLike

from flambeau.core.module import Module
from flambeau.nn import functional as F
from flambeau.nn import init as initializers
from flambeau.nn._factory import parameter
from flambeau.nn._rectifiers import (
    CELU,
    ELU,
    SELU,
    Hardshrink,
    Hardsigmoid,
    Hardswish,
    Hardtanh,
    Inplace,
    LeakyReLU,
    ReLU,
    ReLU6,
    RReLU,
    Softshrink,
    Threshold,
)
from flambeau.nn._softmax import LogSoftmax, Softmax, Softmax2d, Softmin

__all__ = [
    "CELU",
    "ELU",
    "GELU",
    "GLU",
    "SELU",
    "Hardshrink",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "LeakyReLU",
    "LogSigmoid",
    "LogSoftmax",
    "Mish",
    "PReLU",
    "RReLU",
    "ReLU",
    "ReLU6",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softmax2d",
    "Softmin",
    "Softplus",
    "Softshrink",
    "Softsign",
    "Tanh",
    "Tanhshrink",
    "Threshold",
]


class Tanhshrink(Module):
    """What the hyperbolic tangent takes away: x - tanh(x).

    Shape:
        input `(*)`, result `(*)`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.Tanhshrink()(jnp.array([0.0]))
        Array([0.], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.Tanhshrink.html
    """

    def forward(self, input: jax.Array) -> jax.Array:
        return F.tanhshrink(input)


class GELU(Module):
    """The Gaussian error linear unit: x · Φ(x), with Φ the distribution function of the standard normal distribution.

    Args:
        approximate: "none", or "tanh" for a cheaper formula that is nearly the same.

    Shape:
        input `(*)`, result `(*)`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.GELU()(jnp.array([0.0, 1.0])).round(2)
        Array([0.  , 0.84], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.GELU.html
    """

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = approximate

    def forward(self, input: jax.Array) -> jax.Array:
        return F.gelu(input, self.approximate)

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


class SiLU(Inplace):
    """The sigmoid linear unit, or swish: x / (1 + exp(-x)).

    Args:
        inplace: accepted for PyTorch's sake; arrays are never changed in place.

    Shape:
        input `(*)`, result `(*)`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.SiLU()(jnp.array([0.0, 1.0])).round(1)
        Array([0. , 0.7], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.SiLU.html
    """

    def forward(self, input: jax.Array) -> jax.Array:
        return F.silu(input)


class Mish(Inplace):
    """A smooth function like SiLU: x · tanh(log(1 + exp(x))).

    Args:
        inplace: accepted for PyTorch's sake; arrays are never changed in place.

    Shape:
        input `(*)`, result `(*)`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.Mish()(jnp.array([0.0, 1.0])).round(2)
        Array([0.  , 0.87], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.Mish.html
    """

    def forward(self, input: jax.Array) -> jax.Array:
        return F.mish(input)


class Sigmoid(Module):
    """The logistic function: 1 / (1 + exp(-x)).

    Shape:
        input `(*)`, result `(*)`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.Sigmoid()(jnp.array([0.0]))
        Array([0.5], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.Sigmoid.html
    """

    def forward(self, input: jax.Array) -> jax.Array:
        return F.sigmoid(input)


class LogSigmoid(Module):
    """The logarithm of the sigmoid, without its underflow: -log(1 + exp(-x)).

    Shape:
        input `(*)`, result `(*)`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.LogSigmoid()(jnp.array([-200.0]))
        Array([-200.], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.LogSigmoid.html
    """

    def forward(self, input: jax.Array) -> jax.Array:
        return F.logsigmoid(input)


class Softplus(Module):
    """A smooth rectifier: log(1 + exp(βx)) / β.

    Args:
        beta: how sharp the bend is.
        threshold: from where on, in βx, the function is a straight line.

    Shape:
        input `(*)`, result `(*)`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.Softplus()(jnp.array([0.0, 30.0])).round(4)
        Array([ 0.6931, 30.    ], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.Softplus.html
    """

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        super().__init__()
        self.beta = beta
        self.threshold = threshold

    def forward(self, input: jax.Array) -> jax.Array:
        return F.softplus(input, self.beta, self.threshold)

    def extra_repr(self) -> str:
        return f"beta={self.beta}, threshold={self.threshold}"


class Softsign(Module):
    """A sigmoid with slow tails: x / (1 + |x|).

    Shape:
        input `(*)`, result `(*)`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.Softsign()(jnp.array([1.0, -3.0]))
        Array([ 0.5 , -0.75], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.Softsign.html
    """

    def forward(self, input: jax.Array) -> jax.Array:
        return F.softsign(input)


class Tanh(Module):
    """The hyperbolic tangent: (exp(x) - exp(-x)) / (exp(x) + exp(-x)).

    Shape:
        input `(*)`, result `(*)`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.Tanh()(jnp.array([0.0, 20.0]))
        Array([0., 1.], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.Tanh.html
    """

    def forward(self, input: jax.Array) -> jax.Array:
        return F.tanh(input)


class GLU(Module):
    """The gated linear unit: a · sigmoid(b), with a and b the two halves of the input along `dim`.

    Args:
        dim: the dimension to halve.

    Shape:
        input `(*, 2S, *)`, result `(*, S, *)`.

    Raises:
        ShapeError: the dimension has an odd size.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.GLU()(jnp.array([4.0, 0.0]))
        Array([2.], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.GLU.html
    """

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: jax.Array) -> jax.Array:
        return F.glu(input, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class PReLU(Module):
    """The leaky rectified linear unit with learnt slopes: max(x, 0) + a · min(x, 0).

    Args:
        num_parameters: how many slopes: 1 for all channels, or one for each.
        init: what they begin with.
        device: where they lie.
        dtype: their dtype.

    Shape:
        input `(N, C, *)`, or any other for one slope; result like input.

    Raises:
        ShapeError: the input has another number of channels.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.PReLU()(jnp.array([-1.0, 2.0]))
        Array([-0.25,  2.  ], dtype=float32)

    Source: https://arxiv.org/abs/1502.01852
    """

    weight: jax.Array

    def __init__(
        self, num_parameters: int = 1, init: float = 0.25, device: Any = None, dtype: DTypeLike | None = None
    ) -> None:
        super().__init__()
        self.num_parameters = num_parameters
        self.init = init
        self.register_parameter("weight", parameter((num_parameters,), device, dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets the slopes to what they begin with."""
        initializers.constant_(self.weight, self.init)

    def forward(self, input: jax.Array) -> jax.Array:
        return F.prelu(input, self.weight)

    def extra_repr(self) -> str:
        return f"num_parameters={self.num_parameters}"
