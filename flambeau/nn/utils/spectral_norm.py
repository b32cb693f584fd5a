"""Spectral normalization in PyTorch's older form: a hook computes the weight before each forward."""

from __future__ import annotations

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from flambeau.core.cell import Parameter, copy
from flambeau.core.hooks import hooks_of
from flambeau.core.module import Module
from flambeau.core.transaction import transaction
from flambeau.nn.utils._norms import as_matrix, default_dim, power_step, precise_matmul, random_unit
from flambeau.nn.utils._reparametrize import check_outside, hook_of, parameter_of, take_hook

__all__ = ["remove_spectral_norm", "spectral_norm"]

ModuleT = TypeVar("ModuleT", bound=Module)


class SpectralNorm:
    """The hook of one normalized weight, which it computes from `<name>_orig`, `<name>_u` and `<name>_v`."""

    def __init__(self, name: str, n_power_iterations: int, dim: int, eps: float) -> None:
        if n_power_iterations <= 0:
            raise ValueError(
                f"Expected n_power_iterations to be positive, but got n_power_iterations={n_power_iterations}"
            )
        self.name = name
        self.dim = dim
        self.n_power_iterations = n_power_iterations
        self.eps = eps

    def compute_weight(self, module: Module, do_power_iteration: bool) -> jax.Array:
        """The weight W / (uᵀ W v), after steps of the power method, which write u and v, where they are asked for."""
        weight = getattr(module, f"{self.name}_orig")
        u, v = getattr(module, f"{self.name}_u"), getattr(module, f"{self.name}_v")
        matrix = as_matrix(weight, self.dim)
        if do_power_iteration:
            for _ in range(self.n_power_iterations):
                v = power_step(matrix.T, u, self.eps)
                u = power_step(matrix, v, self.eps)
            setattr(module, f"{self.name}_u", u)
            setattr(module, f"{self.name}_v", v)
        u, v = lax.stop_gradient((u, v))
        return weight / precise_matmul(u, precise_matmul(matrix, v))

    def __call__(self, module: Module, inputs: Any) -> None:
        setattr(module, self.name, self.compute_weight(module, do_power_iteration=module.training))

    def put_on(self, module: Module) -> None:
        """Replaces the weight, and registers the hooks."""
        weight = parameter_of(module, self.name, "spectral normalization")
        value = weight.get()
        rows, columns = as_matrix(value, self.dim).shape
        u, v = (random_unit(size, value, self.eps) for size in (rows, columns))
        delattr(module, self.name)
        module.register_parameter(f"{self.name}_orig", weight)
        setattr(module, self.name, copy(value))  # there at once, as in PyTorch, but not yet normalized
        module.register_buffer(f"{self.name}_u", u)
        module.register_buffer(f"{self.name}_v", v)
        module.register_forward_pre_hook(self)
        module.register_state_dict_post_hook(_NoteVersion(self.name))
        module.register_load_state_dict_pre_hook(_ReadOlder(self.name, self.dim))

    def take_off(self, module: Module) -> None:
        """Makes the weight a parameter again."""
        weight = Parameter(self.compute_weight(module, do_power_iteration=False))
        for name in (self.name, f"{self.name}_u", f"{self.name}_v", f"{self.name}_orig"):
            delattr(module, name)
        module.register_parameter(self.name, weight)


class _NoteVersion:
    """The hook by which a state dict says that it holds v, as those of PyTorch's first version do not."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, module: Module, state_dict: Any, prefix: str, local_metadata: dict[str, Any]) -> None:
        local_metadata.setdefault("spectral_norm", {})[f"{self.name}.version"] = 1


class _ReadOlder:
    """The hook that finds v for a state dict of PyTorch's first version, which holds W, W_orig and u = W_orig v / ‖W_orig v‖."""

    def __init__(self, name: str, dim: int) -> None:
        self.name = name
        self.dim = dim

    def __call__(
        self,
        module: Module,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        version = local_metadata.get("spectral_norm", {}).get(f"{self.name}.version")
        key = prefix + self.name
        if version is not None or (key not in state_dict and f"{key}_v" in state_dict):
            return  # of today's version, or without one, as from a file that keeps none
        if any(name not in state_dict for name in (key, f"{key}_orig", f"{key}_u")):
            return  # loading says what is missing
        original, weight, u = (jnp.asarray(state_dict[name]) for name in (f"{key}_orig", key, f"{key}_u"))
        del state_dict[key]
        matrix = as_matrix(original, self.dim)
        v = jnp.linalg.pinv(matrix.T @ matrix) @ (matrix.T @ u)
        state_dict[f"{key}_v"] = v * jnp.mean(original / weight) / (u @ (matrix @ v))


def spectral_norm(
    module: ModuleT, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None
) -> ModuleT:
    """Replaces a parameter by W / σ(W), where σ is the largest singular value of W as a matrix `(O, rest)`.

    The power method follows σ, by some steps before each forward in training; `<name>_u` and `<name>_v` hold its vectors.
    `parametrizations.spectral_norm` does the same whenever the weight is read, and is what PyTorch recommends.

    Args:
        module: the module with the parameter, given back.
        name: the parameter's name.
        n_power_iterations: the steps before each forward.
        eps: the smallest norm to divide by.
        dim: the dimension that counts the outputs; by default 0, but 1 for a transposed convolution.

    Raises:
        RuntimeError: the parameter is normalized already.
        ValueError: `n_power_iterations` is not positive; the parameter is None, or of a lazy module that was not called yet.
        AttributeError: there is no such parameter.
        StateError: inside of a transform, unless the module was made there too.

    Example:
        >>> from flambeau import nn
        >>> layer = nn.utils.spectral_norm(nn.Linear(20, 40))
        >>> list(layer.state_dict()), layer.weight_u.shape
        (['bias', 'weight_orig', 'weight_u', 'weight_v'], (40,))

    Source: https://arxiv.org/abs/1802.05957,
    https://docs.pytorch.org/docs/2.13/generated/torch.nn.utils.spectral_norm.html
    """
    check_outside(module, "normalizing the weight of")
    is_own = hook_of(SpectralNorm, name)
    if any(is_own(hook.function) for hook in hooks_of(module, "_forward_pre_hooks")):
        raise RuntimeError(f"Cannot register two spectral_norm hooks on the same parameter {name}")
    hook = SpectralNorm(name, n_power_iterations, default_dim(module) if dim is None else dim, eps)
    transaction(module, lambda: hook.put_on(module))
    return module


def remove_spectral_norm(module: ModuleT, name: str = "weight") -> ModuleT:
    """Makes a normalized weight an ordinary parameter again, with its present value.

    Args:
        module: the module with the weight, given back.
        name: the weight's name.

    Raises:
        ValueError: it is not normalized.
        StateError: inside of a transform, unless the module was made there too.

    Example:
        >>> from flambeau import nn
        >>> layer = nn.utils.remove_spectral_norm(nn.utils.spectral_norm(nn.Linear(20, 40)))
        >>> list(layer.state_dict())
        ['bias', 'weight']

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.utils.remove_spectral_norm.html
    """
    check_outside(module, "taking the normalization off the weight of")
    transaction(module, lambda: _remove(module, name))
    return module


def _remove(module: Module, name: str) -> None:
    hook = take_hook(module, "_forward_pre_hooks", hook_of(SpectralNorm, name))
    if hook is None:
        raise ValueError(f"spectral_norm of '{name}' not found in {module}")
    take_hook(module, "_state_dict_hooks", hook_of(_NoteVersion, name))
    take_hook(module, "_load_state_dict_pre_hooks", hook_of(_ReadOlder, name))
    hook.take_off(module)
