"""Dropout: of elements and of whole channels, to zero or to the lowest value of SELU.

Where a function takes `inplace`, it is there so that calls written for PyTorch work: arrays are immutable, so the
argument changes nothing and the result is returned. Nothing is drawn, and the generator stays as it is, outside of
training and where `p` is 0 or 1.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from flambeau._errors import FlambeauWarning, ShapeError
from flambeau.core.random import next_key
from flambeau.nn.functional._checks import check_rank, describe
from flambeau.nn.functional._math import widen

if TYPE_CHECKING:
    from flambeau.core.random import Generator

__all__ = ["alpha_dropout", "dropout", "dropout1d", "dropout2d", "dropout3d", "feature_alpha_dropout"]

# The negative saturation value of SELU is minus this: its scale times its alpha.
_SATURATION = 1.7580993408473766


def _check_probability(p: float) -> None:
    if not 0 <= p <= 1:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")


def _kept(shape: tuple[int, ...], p: float, generator: Generator | None) -> jax.Array:
    """Which elements stay, each with probability 1 - p."""
    # In float32 whatever the configuration, so that the numbers do not depend on whether 64-bit types are on.
    return jax.random.bernoulli(next_key(generator), jnp.float32(1 - p), shape)


def _channels(input: jax.Array, training: bool) -> tuple[int, ...]:
    """The shape of one draw for each channel of `(N, C, *)`; where nothing is drawn any input will do."""
    if not training:
        return input.shape
    if input.ndim < 2:
        raise ShapeError(f"expected input (N, C, *), got {describe(input)}")
    return (*input.shape[:2], *[1] * (input.ndim - 2))


def _to_zero(
    input: jax.Array, shape: tuple[int, ...], p: float, training: bool, generator: Generator | None
) -> jax.Array:
    """Dropout with one draw for each element of `shape`, which broadcasts to the input."""
    if not training or p == 0 or input.size == 0:
        return input
    if p == 1:
        return jnp.zeros_like(input)
    return jnp.where(_kept(shape, p, generator), widen(input) * (1 / (1 - p)), 0).astype(input.dtype)


def _to_saturation(
    input: jax.Array, shape: tuple[int, ...], p: float, training: bool, generator: Generator | None
) -> jax.Array:
    """Alpha dropout with one draw for each element of `shape`, which broadcasts to the input."""
    if not training or p == 0 or input.size == 0:
        return input
    if p == 1:
        return jnp.zeros_like(input)
    scale = 1 / math.sqrt((_SATURATION**2 * p + 1) * (1 - p))
    shift = scale * _SATURATION * p
    kept = _kept(shape, p, generator)
    return jnp.where(kept, widen(input) * scale + shift, shift - scale * _SATURATION).astype(input.dtype)


def dropout(
    input: jax.Array,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    generator: Generator | None = None,
) -> jax.Array:
    """Sets elements to zero at random and scales the others up: x · mask / (1 - p) with mask ~ Bernoulli(1 - p).

    Args:
        input: any floating array.
        p: the probability of zero.
        training: whether to do anything.
        inplace: changes nothing.
        generator: where the mask comes from; the default generator if None.

    Shape:
        input `(*)`, result `(*)`.

    Raises:
        ValueError: `p` is not in [0, 1].

    Example:
        >>> sorted(set(dropout(jnp.ones(1000), p=0.75).tolist()))
        [0.0, 4.0]

    Source: https://arxiv.org/abs/1207.0580
    """
    _check_probability(p)
    return _to_zero(input, input.shape, p, training, generator)


def dropout1d(
    input: jax.Array,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    generator: Generator | None = None,
) -> jax.Array:
    """Sets whole channels of sequences to zero at random and scales the others by 1 / (1 - p).

    Args:
        input: the features.
        p: the probability of zero.
        training: whether to do anything.
        inplace: changes nothing.
        generator: where the mask comes from; the default generator if None.

    Shape:
        input `(N, C, L)` or `(C, L)`, result like input.

    Raises:
        ValueError: `p` is not in [0, 1].
        ShapeError: the input has another number of dimensions.

    Example:
        >>> {row.sum().item() for row in dropout1d(jnp.ones((100, 3)))} <= {0.0, 6.0}
        True

    Source: https://arxiv.org/abs/1411.4280
    """
    _check_probability(p)
    check_rank(input, (2, 3), "(N, C, L) or (C, L)")
    batched = input if input.ndim == 3 else input[None]
    return _to_zero(batched, _channels(batched, training), p, training, generator).reshape(input.shape)


def dropout2d(
    input: jax.Array,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    generator: Generator | None = None,
) -> jax.Array:
    """Sets whole channels of images to zero at random and scales the others by 1 / (1 - p).

    As in PyTorch, an input of 3 dimensions is read as `(N, C, L)` with a warning, and one of other than 3 or 4
    dimensions is taken with a warning that it is deprecated.

    Args:
        input: the features.
        p: the probability of zero.
        training: whether to do anything.
        inplace: changes nothing.
        generator: where the mask comes from; the default generator if None.

    Shape:
        input `(N, C, H, W)`, result like input.

    Raises:
        ValueError: `p` is not in [0, 1].
        ShapeError: the input has fewer than 2 dimensions.

    Example:
        >>> {image.sum().item() for image in dropout2d(jnp.ones((100, 1, 2, 2)))} <= {0.0, 8.0}
        True

    Source: https://arxiv.org/abs/1411.4280
    """
    _check_probability(p)
    shape = _channels(input, training)
    if input.ndim == 3:
        warnings.warn(
            "dropout2d reads an input of 3 dimensions as (N, C, L), not as (C, H, W); use dropout1d for that",
            FlambeauWarning,
            stacklevel=2,
        )
    elif input.ndim != 4:
        warnings.warn(
            f"dropout2d of an input of {input.ndim} dimensions is deprecated: expected (N, C, H, W)",
            FlambeauWarning,
            stacklevel=2,
        )
    return _to_zero(input, shape, p, training, generator)


def dropout3d(
    input: jax.Array,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    generator: Generator | None = None,
) -> jax.Array:
    """Sets whole channels of volumes to zero at random and scales the others by 1 / (1 - p).

    As in PyTorch, an input of other than 4 or 5 dimensions is taken as `(C, *)`, with a warning that it is deprecated.

    Args:
        input: the features.
        p: the probability of zero.
        training: whether to do anything.
        inplace: changes nothing.
        generator: where the mask comes from; the default generator if None.

    Shape:
        input `(N, C, D, H, W)` or `(C, D, H, W)`, result like input.

    Raises:
        ValueError: `p` is not in [0, 1].
        ShapeError: the input has no dimensions.

    Example:
        >>> {volume.sum().item() for volume in dropout3d(jnp.ones((100, 2, 2, 2)))} <= {0.0, 16.0}
        True

    Source: https://arxiv.org/abs/1411.4280
    """
    _check_probability(p)
    if input.ndim not in (4, 5):
        warnings.warn(
            f"dropout3d of an input of {input.ndim} dimensions is deprecated: expected (N, C, D, H, W) or (C, D, H, W)",
            FlambeauWarning,
            stacklevel=2,
        )
    batched = input if input.ndim == 5 else input[None]
    return _to_zero(batched, _channels(batched, training), p, training, generator).reshape(input.shape)


def alpha_dropout(
    input: jax.Array,
    p: float = 0.5,
    training: bool = False,
    inplace: bool = False,
    *,
    generator: Generator | None = None,
) -> jax.Array:
    """Sets elements to SELU's lowest value -α′ at random, so that mean 0 and variance 1 stay what they are.

    The result is a · (x · mask - α′ · (1 - mask)) + b with a = ((1 - p)(1 + p α′²))^(-1/2), b = a α′ p, α′ = 1.7581.

    Args:
        input: any floating array.
        p: the probability of the lowest value.
        training: whether to do anything.
        inplace: changes nothing.
        generator: where the mask comes from; the default generator if None.

    Shape:
        input `(*)`, result `(*)`.

    Raises:
        ValueError: `p` is not in [0, 1].

    Example:
        >>> sorted({round(each, 3) for each in alpha_dropout(jnp.zeros(1000), training=True).tolist()})
        [-0.779, 0.779]

    Source: https://arxiv.org/abs/1706.02515
    """
    _check_probability(p)
    return _to_saturation(input, input.shape, p, training, generator)


def feature_alpha_dropout(
    input: jax.Array,
    p: float = 0.5,
    training: bool = False,
    inplace: bool = False,
    *,
    generator: Generator | None = None,
) -> jax.Array:
    """Sets whole channels to SELU's lowest value at random: `alpha_dropout` with one draw for each channel.

    Args:
        input: the features.
        p: the probability of the lowest value.
        training: whether to do anything.
        inplace: changes nothing.
        generator: where the mask comes from; the default generator if None.

    Shape:
        input `(N, C, *)`, result like input.

    Raises:
        ValueError: `p` is not in [0, 1].
        ShapeError: the input has fewer than 2 dimensions, in training.

    Example:
        >>> channels = feature_alpha_dropout(jnp.zeros((9, 9, 4)), training=True).reshape(-1, 4)
        >>> {len(set(channel.tolist())) for channel in channels}
        {1}

    Source: https://arxiv.org/abs/1706.02515
    """
    _check_probability(p)
    return _to_saturation(input, _channels(input, training), p, training, generator)
