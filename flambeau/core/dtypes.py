"""The default floating dtype, as `torch.get_default_dtype` has it: float32, whether or not JAX runs with x64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

__all__ = ["canonical_dtype", "get_default_dtype", "set_default_dtype"]

_default: np.dtype = np.dtype(np.float32)


def get_default_dtype() -> np.dtype:
    """The dtype that layers and factories use when none is given (float32 unless changed)."""
    return _default


def set_default_dtype(dtype: DTypeLike) -> None:
    """Sets the dtype that layers and factories use when none is given.

    Raises:
        TypeError: `dtype` is not a floating dtype.

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.set_default_dtype.html
    """
    global _default
    chosen = np.dtype(jnp.dtype(dtype))
    if not jnp.issubdtype(chosen, jnp.floating):
        raise TypeError(f"set_default_dtype: expected a floating dtype, got {chosen}")
    _default = chosen


def canonical_dtype(dtype: DTypeLike | None) -> np.dtype:
    """`dtype`, or the default one, as JAX can hold it now: float64 and int64 become 32 bits wide while x64 is off."""
    return jax.dtypes.canonicalize_dtype(_default if dtype is None else dtype)
