"""JAX's transforms for functions over modules: state is carried in and out."""

from __future__ import annotations

from flambeau.transforms.functional_call import functional_call, stack_module_state
from flambeau.transforms.grad import grad, value_and_grad
from flambeau.transforms.jit import Jitted, jit

__all__ = ["Jitted", "functional_call", "grad", "jit", "stack_module_state", "value_and_grad"]
