"""Activations that normalize: the softmax and its kin."""

from __future__ import annotations

import jax

from flambeau.core.module import Module
from flambeau.nn import functional as F
from flambeau.nn.functional._checks import check_rank

__all__ = ["LogSoftmax", "Softmax", "Softmax2d", "Softmin"]


class Softmax(Module):
    """Turns scores into probabilities along `dim`: exp(xᵢ) / Σⱼ exp(xⱼ).

    Args:
        dim: the dimension that sums to 1. Leaving it out is deprecated, as in PyTorch: it is then 0 or 1.

    Shape:
        input `(*)`, result `(*)`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.Softmax(dim=-1)(jnp.array([1.0, 1.0]))
        Array([0.5, 0.5], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.Softmax.html
    """

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: jax.Array) -> jax.Array:
        return F.softmax(input, self.dim, _stacklevel=5)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class LogSoftmax(Module):
    """The logarithm of the softmax along `dim`, without its underflow: xᵢ - log Σⱼ exp(xⱼ).

    Args:
        dim: the dimension that is normalized. Leaving it out is deprecated, as in PyTorch: it is then 0 or 1.

    Shape:
        input `(*)`, result `(*)`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.LogSoftmax(dim=-1)(jnp.array([0.0, -200.0]))
        Array([   0., -200.], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.LogSoftmax.html
    """

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: jax.Array) -> jax.Array:
        return F.log_softmax(input, self.dim, _stacklevel=5)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class Softmin(Module):
    """The softmax of the negated input, which favours the smallest: exp(-xᵢ) / Σⱼ exp(-xⱼ).

    Args:
        dim: the dimension that sums to 1. Leaving it out is deprecated, as in PyTorch: it is then 0 or 1.

    Shape:
        input `(*)`, result `(*)`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.Softmin(dim=-1)(jnp.array([0.0, 200.0]))
        Array([1., 0.], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.Softmin.html
    """

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: jax.Array) -> jax.Array:
        return F.softmin(input, self.dim, _stacklevel=5)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class Softmax2d(Module):
    """Turns the scores of the channels into probabilities, at each place of an image: exp(x_c) / Σ_d exp(x_d).

    Shape:
        input `(N, C, H, W)` or `(C, H, W)`, result like input.

    Raises:
        ShapeError: the input has another number of dimensions.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.Softmax2d()(jnp.ones((2, 1, 1))).ravel()
        Array([0.5, 0.5], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.Softmax2d.html
    """

    def forward(self, input: jax.Array) -> jax.Array:
        check_rank(input, (3, 4), "(N, C, H, W) or (C, H, W)")
        return F.softmax(input, -3)
