"""Modules made without drawing their initial values."""

from __future__ import annotations

from typing import Any, TypeVar

import jax
import numpy as np

from flambeau.core.capture import abstractly
from flambeau.core.module import Module
from flambeau.core.placement import read_device

__all__ = ["skip_init"]

ModuleT = TypeVar("ModuleT", bound=Module)


def skip_init(module_cls: type[ModuleT], *args: Any, **kwargs: Any) -> ModuleT:
    """Makes a module whose parameters and buffers are not initialised: for one that is about to load its weights.

    The constructor runs on shapes alone, so that nothing is drawn or computed and the generators stay where they are; then
    every array is zeros, where PyTorch's would be whatever memory held.

    Args:
        module_cls: a subclass of `nn.Module`.
        args: for its constructor.
        kwargs: for its constructor. `device` is where the arrays are to lie; the constructor itself need not take it.

    Raises:
        RuntimeError: `module_cls` is no subclass of `nn.Module`.

    Example:
        >>> from flambeau import nn
        >>> layer = nn.utils.skip_init(nn.Linear, 2, out_features=1)
        >>> layer.weight
        Array([[0., 0.]], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.utils.skip_init.html
    """
    if not (isinstance(module_cls, type) and issubclass(module_cls, Module)):
        raise RuntimeError(f"expected a subclass of nn.Module, got {module_cls!r}")
    place = read_device(kwargs.pop("device", None))

    def empty(like: jax.ShapeDtypeStruct) -> jax.Array:
        return jax.device_put(np.zeros(like.shape, like.dtype), place)

    return abstractly(lambda: module_cls(*args, **kwargs), empty)
