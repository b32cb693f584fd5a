"""What happens when modules meet raw JAX transforms, and the hook by which `Module.compile` finds the compiler."""

from __future__ import annotations

import warnings
from typing import Any

import jax.extend.core

from flambeau._errors import BakedValueWarning

__all__ = ["set_compiler", "warn_if_baked"]

_under_jit = jax.extend.core.unsafe_am_i_under_a_jit_DO_NOT_USE  # pyright: ignore[reportPrivateImportUsage]
_warned = False
_compiler: Any = None


def warn_if_baked(name: str, reads_parameters: bool) -> None:
    """Warns, once in a process, that a raw `jax.jit` makes constants of the parameters that are read in it."""
    global _warned
    if not _warned and _under_jit() and reads_parameters:
        _warned = True
        warnings.warn(
            f"{name} is called under a raw jax.jit: the present values of its parameters become constants of the compiled "
            f"function, and later training does not reach it. Use fb.jit, or the pure form "
            f"fb.functional_call(module, values, args).",
            BakedValueWarning,
            stacklevel=4,
        )


def set_compiler(jit: Any) -> None:
    """The transforms stand above the core, so `fb.jit` introduces itself when it is imported."""
    global _compiler
    _compiler = jit


def compiler(function: Any, **options: Any) -> Any:
    return _compiler(function, **options)
