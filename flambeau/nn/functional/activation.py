"""Activation functions: the smooth ones here, those with kinks and the softmax family from the files beside.

Where a function takes `inplace`, it is there so that calls written for PyTorch work: arrays are immutable, so the
argument changes nothing and the result is returned.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax

from flambeau._errors import ShapeError
from flambeau.core.dtypes import canonical_dtype
from flambeau.nn.functional._autocast import raised
from flambeau.nn.functional._checks import describe
from flambeau.nn.functional._inputs import axis_of
from flambeau.nn.functional._math import absolute, log1p_exp, widen
from flambeau.nn.functional._rectifiers import (
    celu,
    elu,
    hardshrink,
    hardsigmoid,
    hardswish,
    hardtanh,
    leaky_relu,
    prelu,
    relu,
    relu6,
    rrelu,
    selu,
    softshrink,
    threshold,
)
from flambeau.nn.functional._softmax import gumbel_softmax, log_softmax, softmax, softmin

__all__ = [
    "celu",
    "elu",
    "gelu",
    "glu",
    "gumbel_softmax",
    "hardshrink",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "leaky_relu",
    "log_softmax",
    "logsigmoid",
    "mish",
    "prelu",
    "relu",
    "relu6",
    "rrelu",
    "selu",
    "sigmoid",
    "silu",
    "softmax",
    "softmin",
    "softplus",
    "softshrink",
    "softsign",
    "tanh",
    "tanhshrink",
    "threshold",
]


def _floating(input: jax.Array) -> jax.Array:
    """`input`, integers as numbers of the default floating dtype."""
    return input if jnp.issubdtype(input.dtype, jnp.inexact) else input.astype(canonical_dtype(None))


def sigmoid(input: jax.Array) -> jax.Array:
    """The logistic function: 1 / (1 + exp(-x)).

    Args:
        input: any array; integers become the default floating dtype.

    Shape:
        input `(*)`, result `(*)`.

    Example:
        >>> sigmoid(jnp.array([-1000.0, 0.0, 1000.0]))
        Array([0. , 0.5, 1. ], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.sigmoid.html
    """
    return lax.logistic(_floating(input))


def tanh(input: jax.Array) -> jax.Array:
    """The hyperbolic tangent: (exp(x) - exp(-x)) / (exp(x) + exp(-x)).

    Args:
        input: any array; integers become the default floating dtype.

    Shape:
        input `(*)`, result `(*)`.

    Example:
        >>> tanh(jnp.array([-1000.0, 0.0, 1000.0]))
        Array([-1.,  0.,  1.], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.tanh.html
    """
    return lax.tanh(_floating(input))


def gelu(input: jax.Array, approximate: str = "none") -> jax.Array:
    """The Gaussian error linear unit: x · Φ(x), with Φ the distribution function of the standard normal distribution.

    Args:
        input: any floating array.
        approximate: "none", or "tanh" for x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³))).

    Shape:
        input `(*)`, result `(*)`.

    Raises:
        RuntimeError: `approximate` is something else.

    Example:
        >>> print(f"{gelu(jnp.array(1.0)):.4f}, {gelu(jnp.array(1.0), 'tanh'):.4f}")
        0.8413, 0.8412

    Source: https://arxiv.org/abs/1606.08415
    """
    x = widen(input)
    if approximate == "none":
        twice = 1 + lax.erf(x * math.sqrt(0.5))
    elif approximate == "tanh":
        twice = 1 + jnp.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x)))
    else:
        raise RuntimeError(f"expected approximate='none' or 'tanh', got {approximate!r}")
    return (0.5 * x * twice).astype(input.dtype)


def silu(input: jax.Array, inplace: bool = False) -> jax.Array:
    """The sigmoid linear unit, or swish: x / (1 + exp(-x)).

    Args:
        input: any floating array.
        inplace: changes nothing.

    Shape:
        input `(*)`, result `(*)`.

    Example:
        >>> silu(jnp.array([-100.0, 0.0, 100.0]))
        Array([ -0.,   0., 100.], dtype=float32)

    Source: https://arxiv.org/abs/1702.03118
    """
    x = widen(input)
    return (x * lax.logistic(x)).astype(input.dtype)


def mish(input: jax.Array, inplace: bool = False) -> jax.Array:
    """A smooth function like silu: x · tanh(log(1 + exp(x))).

    Args:
        input: any floating array.
        inplace: changes nothing.

    Shape:
        input `(*)`, result `(*)`.

    Example:
        >>> print(f"{mish(jnp.array(1.0)):.4f}")
        0.8651

    Source: https://arxiv.org/abs/1908.08681
    """
    x = widen(input)
    # With e = exp(x) the hyperbolic tangent is (e² + 2e) / (e² + 2e + 2): one exponential, and 1 from x = 20 on.
    e = jnp.exp(jnp.minimum(x, 20))
    n = e * (e + 2)
    return (x * (n / (n + 2))).astype(input.dtype)


def softplus(input: jax.Array, beta: float = 1.0, threshold: float = 20.0) -> jax.Array:
    """A smooth rectifier: log(1 + exp(βx)) / β, and x itself where βx is above the threshold.

    Args:
        input: any floating array.
        beta: how sharp the bend is.
        threshold: from where on the function is a straight line.

    Shape:
        input `(*)`, result `(*)`.

    Example:
        >>> softplus(jnp.array([-1000.0, 1000.0]))
        Array([   0., 1000.], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.softplus.html
    """
    input = raised(input)
    x = widen(input)
    scaled = x * beta
    return jnp.where(scaled > threshold, x, log1p_exp(scaled) / beta).astype(input.dtype)


def logsigmoid(input: jax.Array) -> jax.Array:
    """The logarithm of the sigmoid, without its underflow: -log(1 + exp(-x)).

    Args:
        input: any floating array.

    Shape:
        input `(*)`, result `(*)`.

    Example:
        >>> logsigmoid(jnp.array([-1000.0, 1000.0]))
        Array([-1000.,    -0.], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.logsigmoid.html
    """
    return (-log1p_exp(-widen(input))).astype(input.dtype)


def softsign(input: jax.Array) -> jax.Array:
    """A sigmoid with slow tails: x / (1 + |x|).

    Args:
        input: any array; integers become the default floating dtype.

    Shape:
        input `(*)`, result `(*)`.

    Example:
        >>> softsign(jnp.array([-3.0, 0.0, 1.0]))
        Array([-0.75,  0.  ,  0.5 ], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.softsign.html
    """
    given = _floating(input)
    x = widen(given)
    return (x / (1 + absolute(x))).astype(given.dtype)


def tanhshrink(input: jax.Array) -> jax.Array:
    """What the hyperbolic tangent takes away: x - tanh(x).

    Args:
        input: any array; integers become the default floating dtype.

    Shape:
        input `(*)`, result `(*)`.

    Example:
        >>> tanhshrink(jnp.array([0.0, 100.0]))
        Array([ 0., 99.], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.tanhshrink.html
    """
    given = _floating(input)
    x = widen(given)
    return (x - lax.tanh(x)).astype(given.dtype)


def glu(input: jax.Array, dim: int = -1) -> jax.Array:
    """The gated linear unit: a · sigmoid(b), with a and b the two halves of the input along `dim`.

    Args:
        input: any floating array.
        dim: the dimension to halve.

    Shape:
        input `(*, 2C, *)`, result `(*, C, *)`.

    Raises:
        IndexError: there is no such dimension.
        ShapeError: it has an odd size.

    Example:
        >>> glu(jnp.array([2.0, 4.0, 0.0, 100.0]))
        Array([1., 4.], dtype=float32)

    Source: https://arxiv.org/abs/1612.08083
    """
    axis = axis_of(dim, input.ndim)
    if input.ndim == 0 or input.shape[axis] % 2:
        raise ShapeError(f"expected an even size of dimension {dim}, got {describe(input)}")
    value, gate = jnp.split(widen(input), 2, axis)
    return (value * lax.logistic(gate)).astype(input.dtype)
