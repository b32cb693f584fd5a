"""JAX's transforms for functions over modules: state is carried in and out."""

from __future__ import annotations

from flambeau.transforms.compilation_cache import compilation_cache
from flambeau.transforms.control_flow import cond, fori_loop, switch, while_loop
from flambeau.transforms.custom import custom_jvp, custom_vjp
from flambeau.transforms.derivatives import hessian, jacfwd, jacrev, jvp, linearize, vjp
from flambeau.transforms.disable_jit import disable_jit
from flambeau.transforms.eval_shape import eval_shape
from flambeau.transforms.explain import CellUse, Explanation, explain
from flambeau.transforms.export import Exported, deserialize, export
from flambeau.transforms.functional_call import functional_call, stack_module_state
from flambeau.transforms.grad import grad, value_and_grad
from flambeau.transforms.jit import Jitted, jit
from flambeau.transforms.layers import scan_layers
from flambeau.transforms.remat import checkpoint, checkpoint_sequential
from flambeau.transforms.scan import map, scan
from flambeau.transforms.vmap import vmap

__all__ = [
    "CellUse",
    "Explanation",
    "Exported",
    "Jitted",
    "checkpoint",
    "checkpoint_sequential",
    "compilation_cache",
    "cond",
    "custom_jvp",
    "custom_vjp",
    "deserialize",
    "disable_jit",
    "eval_shape",
    "explain",
    "export",
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
    "scan_layers",
    "stack_module_state",
    "switch",
    "value_and_grad",
    "vjp",
    "vmap",
    "while_loop",
]
