"""flambeau: PyTorch's module system on JAX, compiled by XLA, with state that survives every transform."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from flambeau import nn, transforms
from flambeau._errors import (
    AbsentNameError,
    BakedValueWarning,
    CheckpointError,
    DtypeError,
    FlambeauError,
    FlambeauWarning,
    ForwardMissingError,
    HiddenModulesWarning,
    MissingExtraError,
    RecompilationWarning,
    RegistrationError,
    ShapeError,
    StateDictError,
    StateError,
)
from flambeau.core.autocast import autocast, get_autocast_dtype, is_autocast_enabled
from flambeau.core.cell import Buffer, Parameter
from flambeau.core.dtypes import get_default_dtype, set_default_dtype
from flambeau.core.gradients import Gradients
from flambeau.core.meta import device, init_empty
from flambeau.core.module import Module
from flambeau.core.random import (
    Generator,
    default_generator,
    get_rng_state,
    initial_seed,
    manual_seed,
    seed,
    set_rng_state,
)
from flambeau.transforms import (
    Exported,
    Jitted,
    checkpoint,
    checkpoint_sequential,
    compilation_cache,
    cond,
    custom_jvp,
    custom_vjp,
    deserialize,
    disable_jit,
    eval_shape,
    explain,
    export,
    fori_loop,
    functional_call,
    grad,
    hessian,
    jacfwd,
    jacrev,
    jit,
    jvp,
    linearize,
    map,
    scan,
    scan_layers,
    stack_module_state,
    switch,
    value_and_grad,
    vjp,
    vmap,
    while_loop,
)

if TYPE_CHECKING:
    from flambeau import io, models, optim
    from flambeau.io import Checkpointer, load, save

__version__ = "0.1.0"

__all__ = [
    "AbsentNameError",
    "BakedValueWarning",
    "Buffer",
    "CheckpointError",
    "Checkpointer",
    "DtypeError",
    "Exported",
    "FlambeauError",
    "FlambeauWarning",
    "ForwardMissingError",
    "Generator",
    "Gradients",
    "HiddenModulesWarning",
    "Jitted",
    "MissingExtraError",
    "Module",
    "Parameter",
    "RecompilationWarning",
    "RegistrationError",
    "ShapeError",
    "StateDictError",
    "StateError",
    "autocast",
    "checkpoint",
    "checkpoint_sequential",
    "compilation_cache",
    "cond",
    "custom_jvp",
    "custom_vjp",
    "default_generator",
    "deserialize",
    "device",
    "disable_jit",
    "eval_shape",
    "explain",
    "export",
    "fori_loop",
    "functional_call",
    "get_autocast_dtype",
    "get_default_dtype",
    "get_rng_state",
    "grad",
    "hessian",
    "init_empty",
    "initial_seed",
    "io",
    "is_autocast_enabled",
    "jacfwd",
    "jacrev",
    "jit",
    "jvp",
    "linearize",
    "load",
    "manual_seed",
    "map",
    "models",
    "nn",
    "optim",
    "save",
    "scan",
    "scan_layers",
    "seed",
    "set_default_dtype",
    "set_rng_state",
    "stack_module_state",
    "switch",
    "transforms",
    "value_and_grad",
    "vjp",
    "vmap",
    "while_loop",
]

# What needs another package than JAX is imported when it is first used: optax alone takes as long as all of flambeau.
_LATER = {
    "io": "flambeau.io",
    "models": "flambeau.models",
    "optim": "flambeau.optim",
    "Checkpointer": "flambeau.io:Checkpointer",
    "load": "flambeau.io:load",
    "save": "flambeau.io:save",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'flambeau' has no attribute {name!r}")
    module, _, attribute = _LATER[name].partition(":")
    found = importlib.import_module(module)
    globals()[name] = found = getattr(found, attribute) if attribute else found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
