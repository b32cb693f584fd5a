"""What the layers with a weight share: how its array is made, and PyTorch's default distribution."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from flambeau.core.cell import Parameter, running
from flambeau.core.dtypes import canonical_dtype
from flambeau.core.placement import read_device
from flambeau.nn import init

__all__ = ["draw_by_fan_in", "parameter", "zeros"]


def zeros(shape: tuple[int, ...], device: Any, dtype: DTypeLike | None) -> jax.Array:
    """Zeros in a dtype, or the default one; on a device (or its name) or sharding, or where JAX puts arrays."""
    place, dtype = read_device(device), canonical_dtype(dtype)
    if running.frame is not None:
        return jnp.zeros(shape, dtype, device=place)
    # numpy's need no compilation, which jnp.zeros would, for each shape.
    return jax.device_put(np.zeros(shape, dtype), place)


def parameter(shape: tuple[int, ...], device: Any, dtype: DTypeLike | None) -> Parameter:
    """A parameter whose values are still to be drawn."""
    return Parameter(zeros(shape, device, dtype))


def draw_by_fan_in(weight: jax.Array, bias: jax.Array | None) -> None:
    """Draws weight `(O, I, *kernel)` and bias `(O,)`, both of a module, uniformly within ±1/√(I · kernel)."""
    # With this `a`, the bound of He et al. (https://arxiv.org/abs/1502.01852) is the one above.
    init.kaiming_uniform_(weight, a=math.sqrt(5))
    if bias is not None:
        fan_in = math.prod(weight.shape[1:])
        bound = 1 / math.sqrt(fan_in) if fan_in > 0 else 0.0
        init.uniform_(bias, -bound, bound)
