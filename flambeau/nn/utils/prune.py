"""Pruning: masks on parameters, which a hook applies before each forward.

A pruned `weight` is moved to `weight_orig`, the same `Parameter` as before, beside a buffer `weight_mask`; `weight` is their
product. Masks are made outside of transforms; pruned modules run, compile and are differentiated like others.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from flambeau.core.hooks import hooks_of
from flambeau.core.module import Module
from flambeau.core.transaction import transaction
from flambeau.nn.utils._pruning_masks import like, values_of
from flambeau.nn.utils._pruning_methods import (
    BasePruningMethod,
    CustomFromMask,
    Identity,
    L1Unstructured,
    LnStructured,
    PruningContainer,
    RandomStructured,
    RandomUnstructured,
    take_method,
)
from flambeau.nn.utils._reparametrize import check_outside

__all__ = [
    "BasePruningMethod",
    "CustomFromMask",
    "Identity",
    "L1Unstructured",
    "LnStructured",
    "PruningContainer",
    "RandomStructured",
    "RandomUnstructured",
    "custom_from_mask",
    "global_unstructured",
    "identity",
    "is_pruned",
    "l1_unstructured",
    "ln_structured",
    "random_structured",
    "random_unstructured",
    "remove",
]

ModuleT = TypeVar("ModuleT", bound=Module)


def identity(module: ModuleT, name: str) -> ModuleT:
    """Registers a mask of ones on a parameter, and so prunes nothing of it.

    Args:
        module: the module with the parameter, given back.
        name: the parameter's name.

    Raises:
        AttributeError: there is no such parameter.
        StateError: inside of a transform.

    Example:
        >>> from flambeau import nn
        >>> from flambeau.nn.utils import prune
        >>> prune.identity(nn.Linear(2, 3), "bias").bias_mask
        Array([1., 1., 1.], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.utils.prune.identity.html
    """
    Identity.apply(module, name)
    return module


def random_unstructured(module: ModuleT, name: str, amount: float) -> ModuleT:
    """Prunes entries of a parameter at random.

    Args:
        module: the module with the parameter, given back.
        name: the parameter's name.
        amount: how many of those that are left, as an int, or as a fraction of them.

    Raises:
        AttributeError: there is no such parameter.
        TypeError: the amount is no number.
        ValueError: it is negative, or more than there are.
        StateError: inside of a transform.

    Example:
        >>> from flambeau import nn
        >>> from flambeau.nn.utils import prune
        >>> layer = prune.random_unstructured(nn.Linear(2, 3), "weight", amount=1)
        >>> int((layer.weight_mask == 0).sum())
        1

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.utils.prune.random_unstructured.html
    """
    RandomUnstructured.apply(module, name, amount=amount)
    return module


def l1_unstructured(module: ModuleT, name: str, amount: float, importance_scores: Any = None) -> ModuleT:
    """Prunes the entries of a parameter that have the smallest absolute values.

    Args:
        module: the module with the parameter, given back.
        name: the parameter's name.
        amount: how many of those that are left, as an int, or as a fraction of them.
        importance_scores: what to choose by, in the place of the parameter's values; an array of its shape.

    Raises:
        AttributeError: there is no such parameter.
        TypeError: the amount is no number.
        ValueError: it is negative, or more than there are.
        ShapeError: the scores have another shape.
        StateError: inside of a transform.

    Example:
        >>> from flambeau import nn
        >>> from flambeau.nn.utils import prune
        >>> layer = prune.l1_unstructured(nn.Linear(2, 3), "weight", amount=0.2)
        >>> list(layer.state_dict())
        ['bias', 'weight_orig', 'weight_mask']

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.utils.prune.l1_unstructured.html
    """
    L1Unstructured.apply(module, name, amount=amount, importance_scores=importance_scores)
    return module


def random_structured(module: ModuleT, name: str, amount: float, dim: int) -> ModuleT:
    """Prunes channels of a parameter at random.

    Args:
        module: the module with the parameter, given back.
        name: the parameter's name.
        amount: how many of those that are left, as an int, or as a fraction of them.
        dim: the dimension that counts the channels.

    Raises:
        AttributeError: there is no such parameter.
        TypeError: the amount is no number.
        ValueError: it is negative, or more than there are; the parameter is a vector.
        IndexError: there is no such dimension.
        StateError: inside of a transform.

    Example:
        >>> from flambeau import nn
        >>> from flambeau.nn.utils import prune
        >>> layer = prune.random_structured(nn.Linear(5, 3), "weight", amount=3, dim=1)
        >>> int((layer.weight == 0).all(0).sum())
        3

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.utils.prune.random_structured.html
    """
    RandomStructured.apply(module, name, amount=amount, dim=dim)
    return module


def ln_structured(
    module: ModuleT, name: str, amount: float, n: float | str, dim: int, importance_scores: Any = None
) -> ModuleT:
    """Prunes the channels of a parameter that have the smallest n-norms.

    Args:
        module: the module with the parameter, given back.
        name: the parameter's name.
        amount: how many of those that are left, as an int, or as a fraction of them.
        n: the exponent of the norm; or "fro", or "nuc" for channels that are matrices.
        dim: the dimension that counts the channels.
        importance_scores: what to choose by, in the place of the parameter's values; an array of its shape.

    Raises:
        AttributeError: there is no such parameter.
        TypeError: the amount is no number.
        ValueError: it is negative, or more than there are; the parameter is a vector.
        IndexError: there is no such dimension.
        ShapeError: the scores have another shape.
        StateError: inside of a transform.

    Example:
        >>> from flambeau import nn
        >>> from flambeau.nn.utils import prune
        >>> layer = prune.ln_structured(nn.Conv2d(5, 3, 2), "weight", amount=0.3, n=float("-inf"), dim=1)
        >>> int((layer.weight == 0).all((0, 2, 3)).sum())
        2

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.utils.prune.ln_structured.html
    """
    LnStructured.apply(module, name, amount=amount, n=n, dim=dim, importance_scores=importance_scores)
    return module


def global_unstructured(
    parameters: Iterable[tuple[Module, str]],
    pruning_method: type[BasePruningMethod],
    importance_scores: dict[tuple[Module, str], Any] | None = None,
    **kwargs: Any,
) -> None:
    """Prunes entries of several parameters, chosen among all of them together.

    Args:
        parameters: pairs of a module and a parameter's name.
        pruning_method: an unstructured method, such as `L1Unstructured`.
        importance_scores: what to choose by, in the place of the parameters' values: arrays by such pairs.
        kwargs: what the method takes, such as `amount`.

    Raises:
        TypeError: one of the first three is none of these.
        StateError: inside of a transform.

    Example:
        >>> from flambeau import nn
        >>> from flambeau.nn.utils import prune
        >>> net = nn.Sequential(nn.Linear(10, 4), nn.Linear(4, 1))
        >>> prune.global_unstructured([(net[0], "weight"), (net[1], "weight")], prune.L1Unstructured, amount=10)
        >>> sum(int((mask.data == 0).sum()) for mask in net.buffers())
        10

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.utils.prune.global_unstructured.html
    """
    if not isinstance(parameters, Iterable):
        raise TypeError("global_unstructured(): parameters is not an Iterable")
    if not isinstance(importance_scores, (dict, type(None))):
        raise TypeError("global_unstructured(): importance_scores must be of type dict")
    pairs, scores, masks = list(parameters), [], []
    for module, name in pairs:
        value = getattr(module, name)
        scores.append(values_of(jnp.asarray((importance_scores or {}).get((module, name), value))))
        masks.append(values_of(getattr(module, f"{name}_mask", like(np.ones(value.shape), value))))
    method = pruning_method(**kwargs)
    if method.PRUNING_TYPE != "unstructured":
        raise TypeError(
            f'Only "unstructured" PRUNING_TYPE supported for the `pruning_method`. Found method {pruning_method} of type '
            f"{method.PRUNING_TYPE}"
        )
    flat_scores, flat_mask = (jax.device_put(np.concatenate([a.ravel() for a in each])) for each in (scores, masks))
    mask = values_of(PruningContainer(method).compute_mask(flat_scores, flat_mask))
    ends = np.cumsum([each.size for each in masks])[:-1]
    for (module, name), old, new in zip(pairs, masks, np.split(mask, ends), strict=True):
        custom_from_mask(module, name, new.reshape(old.shape))


def custom_from_mask(module: ModuleT, name: str, mask: Any) -> ModuleT:
    """Prunes what a given mask has 0 for.

    Args:
        module: the module with the parameter, given back.
        name: the parameter's name.
        mask: an array of its shape.

    Raises:
        AttributeError: there is no such parameter.
        ShapeError: the mask has another shape.
        StateError: inside of a transform.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> from flambeau.nn.utils import prune
        >>> prune.custom_from_mask(nn.Linear(5, 3), "bias", mask=jnp.array([0, 1, 0])).bias_mask
        Array([0., 1., 0.], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.utils.prune.custom_from_mask.html
    """
    CustomFromMask.apply(module, name, mask=mask)
    return module


def remove(module: ModuleT, name: str) -> ModuleT:
    """Makes a pruned array an ordinary parameter again; what is pruned stays 0.

    Args:
        module: the module with the parameter, given back.
        name: the parameter's name.

    Raises:
        ValueError: it is not pruned.
        StateError: inside of a transform, unless the module was made there too.

    Example:
        >>> from flambeau import nn
        >>> from flambeau.nn.utils import prune
        >>> layer = prune.remove(prune.random_unstructured(nn.Linear(2, 3), "weight", amount=2), "weight")
        >>> list(layer.state_dict()), int((layer.weight == 0).sum())
        (['bias', 'weight'], 2)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.utils.prune.remove.html
    """
    check_outside(module, "taking the pruning off")
    transaction(module, lambda: _remove(module, name))
    return module


def _remove(module: Module, name: str) -> None:
    method = take_method(module, name)
    if method is None:
        raise ValueError(f"Parameter '{name}' of module {module} has to be pruned before pruning can be removed")
    method.remove(module)


def is_pruned(module: Module) -> bool:
    """Whether something in the module, or below it, is pruned.

    Example:
        >>> from flambeau import nn
        >>> from flambeau.nn.utils import prune
        >>> layer = nn.Linear(5, 7)
        >>> prune.is_pruned(layer), prune.is_pruned(prune.identity(layer, "weight"))
        (False, True)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.utils.prune.is_pruned.html
    """
    hooks = (hook for inner in module.modules() for hook in hooks_of(inner, "_forward_pre_hooks"))
    return any(isinstance(hook.function, BasePruningMethod) for hook in hooks)
