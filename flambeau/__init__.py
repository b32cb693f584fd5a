"""flambeau: PyTorch's module system on JAX, compiled by XLA, with state that survives every transform."""

from flambeau import io, nn, optim, transforms
from flambeau._errors import *  # noqa: F403
from flambeau._errors import __all__ as _error_names
from flambeau.core.cell import Buffer, Parameter
from flambeau.core.dtypes import get_default_dtype, set_default_dtype
from flambeau.core.gradients import Gradients
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
from flambeau.io import load, save
from flambeau.transforms import Jitted, functional_call, grad, jit, value_and_grad

__version__ = "0.1.0"

__all__ = [
    "Buffer",
    "Generator",
    "Gradients",
    "Jitted",
    "Module",
    "Parameter",
    "default_generator",
    "functional_call",
    "get_default_dtype",
    "get_rng_state",
    "grad",
    "initial_seed",
    "io",
    "jit",
    "load",
    "manual_seed",
    "nn",
    "optim",
    "save",
    "seed",
    "set_default_dtype",
    "set_rng_state",
    "transforms",
    "value_and_grad",
    *_error_names,
]
