"""`fb.disable_jit`: functions run as plain Python, to look into them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import jax

__all__ = ["disable_jit"]


def disable_jit(disable: bool = True) -> AbstractContextManager[Any]:
    """A context in which `fb.jit`, and the loops and branches, run as plain Python: `print` and a debugger see the numbers.

    State comes out as ever, and an exception leaves it as it was. It is `jax.disable_jit`, which does the same to JAX's own.

    Args:
        disable: False compiles again inside of such a context.

    Example:
        >>> import jax.numpy as jnp
        >>> import flambeau as fb
        >>> @fb.jit
        ... def double(x):
        ...     print("called with", x)
        ...     return 2 * x
        >>> with fb.disable_jit():
        ...     y = double(jnp.ones(2))
        called with [1. 1.]

    Source: https://docs.jax.dev/en/latest/_autosummary/jax.disable_jit.html
    """
    return jax.disable_jit(disable)


def jit_is_disabled() -> bool:
    """Whether functions run as plain Python here."""
    config: Any = jax.config
    return config.jax_disable_jit
