"""What happens when modules meet raw JAX transforms, and the hook by which `Module.compile` finds the compiler."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import jax.numpy as jnp
from jax.core import Tracer
from jax.extend.core import get_opaque_trace_state

from flambeau._errors import BakedValueWarning

__all__ = ["reads_would_be_baked", "set_compiler", "warn_baked"]

_eager = get_opaque_trace_state()  # nothing is traced while modules are imported
_warned = False
_compiler: Any = None


def reads_would_be_baked() -> bool:
    """Whether a raw `jax.jit` is tracing here, and nobody was told yet what that means for parameters."""
    if _warned or get_opaque_trace_state() == _eager:
        return False
    # Under vmap and grad, which bake nothing, it is an array.
    return isinstance(jnp.zeros(()), Tracer) and _inside_jit()


def _inside_jit() -> bool:
    """Whether a `jax.jit` is on the stack: scan, checkpoint and eval_shape trace too, but keep nothing for a later call."""
    inside, caller = False, sys._getframe()
    while caller := caller.f_back:
        home, name = caller.f_globals.get("__name__", ""), caller.f_code.co_name
        if home.startswith("jax.") and name in ("eval_shape", "make_jaxpr_f"):
            return False
        inside |= home.startswith("jax.") and home.endswith(".pjit")
    return inside


def warn_baked(name: str) -> None:
    """Warns, once in a process, that a raw `jax.jit` makes constants of the parameters that are read in it."""
    global _warned
    _warned = True
    warnings.warn(
        f"{name} is called under a raw jax.jit: the present values of its parameters become constants of the compiled "
        f"function, and later training does not reach it. Use fb.jit, or the pure form "
        f"fb.functional_call(module, values, args).",
        BakedValueWarning,
        stacklevel=3,
    )


def set_compiler(jit: Any) -> None:
    """The transforms stand above the core, so `fb.jit` introduces itself when it is imported."""
    global _compiler
    _compiler = jit


def compiler(function: Any, **options: Any) -> Any:
    return _compiler(function, **options)
