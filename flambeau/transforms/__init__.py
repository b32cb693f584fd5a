"""JAX's transforms for functions over modules: state is carried in and out."""

from __future__ import annotations

from flambeau.transforms.control_flow import cond, fori_loop, switch, while_loop
from flambeau.transforms.derivatives import hessian, jacfwd, jacrev, jvp, linearize, vjp
from flambeau.transforms.functional_call import functional_call, stack_module_state
from flambeau.transforms.grad import grad, value_and_grad
from flambeau.transforms.jit import Jitted, jit
from flambeau.transforms.remat import checkpoint, checkpoint_sequential
from flambeau.transforms.scan import map, scan
from flambeau.transforms.vmap import vmap

__all__ = [
    "Jitted",
    "checkpoint",
    "checkpoint_sequential",
    "cond",
    "fori_loop",
    "functional_call",
    "grad",
    "hessian",
    "jacfwd",
    "jacrev",
    "jit",
    "jvp",
    "linearize",
    "map",
    "scan",
    "stack_module_state",
    "switch",
    "value_and_grad",
    "vjp",
    "vmap",
    "while_loop",
]
