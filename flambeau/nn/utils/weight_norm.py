"""Weight normalization in PyTorch's older form: a hook computes the weight before each forward."""

from __future__ import annotations

from typing import Any, TypeVar

import jax

from flambeau.core.cell import Parameter
from flambeau.core.hooks import hooks_of
from flambeau.core.module import Module
from flambeau.core.transaction import transaction
from flambeau.nn.utils._norms import norm_except_dim, weight_of
from flambeau.nn.utils._reparametrize import check_outside, hook_of, parameter_of, take_hook

__all__ = ["remove_weight_norm", "weight_norm"]

ModuleT = TypeVar("ModuleT", bound=Module)


class WeightNorm:
    """The hook of one normalized weight, which it computes from `<name>_g` and `<name>_v`."""

    def __init__(self, name: str, dim: int) -> None:
        self.name = name
        self.dim = dim

    def compute_weight(self, module: Module) -> jax.Array:
        """The weight g · v / ‖v‖."""
        return weight_of(getattr(module, f"{self.name}_g"), getattr(module, f"{self.name}_v"), self.dim)

    def __call__(self, module: Module, inputs: Any) -> None:
        setattr(module, self.name, self.compute_weight(module))

    def put_on(self, module: Module) -> None:
        """Replaces the weight, and registers the hook."""
        v = parameter_of(module, self.name, "weight normalization").get()
        del module._parameters[self.name]
        module.register_parameter(f"{self.name}_g", Parameter(norm_except_dim(v, self.dim)))
        module.register_parameter(f"{self.name}_v", Parameter(v))
        self(module, ())
        module.register_forward_pre_hook(self)

    def take_off(self, module: Module) -> None:
        """Makes the weight a parameter again."""
        weight = Parameter(self.compute_weight(module))
        for name in (self.name, f"{self.name}_g", f"{self.name}_v"):
            delattr(module, name)
        module.register_parameter(self.name, weight)


def weight_norm(module: ModuleT, name: str = "weight", dim: int | None = 0) -> ModuleT:
    """Replaces a parameter by its length `<name>_g` and its direction `<name>_v`: w = g · v / ‖v‖.

    The weight is computed before each forward. `parametrizations.weight_norm` computes it whenever it is read, and is what
    PyTorch recommends; it loads the state dicts of this one.

    Args:
        module: the module with the parameter, given back.
        name: the parameter's name.
        dim: the dimension that each has its own length along; None for one length of the whole.

    Raises:
        RuntimeError: the parameter is normalized already.
        ValueError: the parameter is None, or of a lazy module that was not called yet.
        AttributeError: there is no such parameter.
        StateError: inside of a transform, unless the module was made there too.

    Example:
        >>> from flambeau import nn
        >>> layer = nn.utils.weight_norm(nn.Linear(20, 40))
        >>> layer.weight_g.shape, layer.weight_v.shape
        ((40, 1), (40, 20))

    Source: https://arxiv.org/abs/1602.07868,
    https://docs.pytorch.org/docs/2.13/generated/torch.nn.utils.weight_norm.html
    """
    check_outside(module, "normalizing the weight of")
    is_own = hook_of(WeightNorm, name)
    if any(is_own(hook.function) for hook in hooks_of(module, "_forward_pre_hooks")):
        raise RuntimeError(f"Cannot register two weight_norm hooks on the same parameter {name}")
    hook = WeightNorm(name, -1 if dim is None else dim)
    transaction(module, lambda: hook.put_on(module))
    return module


def remove_weight_norm(module: ModuleT, name: str = "weight") -> ModuleT:
    """Makes a normalized weight an ordinary parameter again, with its present value.

    Args:
        module: the module with the weight, given back.
        name: the weight's name.

    Raises:
        ValueError: it is not normalized.
        StateError: inside of a transform, unless the module was made there too.

    Example:
        >>> from flambeau import nn
        >>> layer = nn.utils.remove_weight_norm(nn.utils.weight_norm(nn.Linear(20, 40)))
        >>> list(layer.state_dict())
        ['bias', 'weight']

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.utils.remove_weight_norm.html
    """
    check_outside(module, "taking the normalization off the weight of")
    transaction(module, lambda: _remove(module, name))
    return module


def _remove(module: Module, name: str) -> None:
    hook = take_hook(module, "_forward_pre_hooks", hook_of(WeightNorm, name))
    if hook is None:
        raise ValueError(f"weight_norm of '{name}' not found in {module}")
    hook.take_off(module)
