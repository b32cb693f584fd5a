"""`update_bn`: the statistics of BatchNorm layers, taken anew."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax

from flambeau.core.module import Module

__all__ = ["update_bn"]


def update_bn(loader: Iterable[Any], model: Module, device: Any = None) -> None:
    """Computes the running statistics of all BatchNorm layers anew, as averages over the batches of `loader`.

    Args:
        loader: gives batches: an array, or a list or tuple whose first element is what `model` takes.
        model: the model, which is in training mode meanwhile.
        device: where the batches are put first.

    Example:
        >>> import jax.numpy as jnp
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> net = nn.BatchNorm1d(1)
        >>> fb.optim.swa_utils.update_bn([jnp.array([[1.0], [3.0]]), jnp.array([[5.0], [7.0]])], net)
        >>> print(net.running_mean)
        [4.]

    Source: https://docs.pytorch.org/docs/2.13/optim.html#weight-averaging-swa-and-ema
    """
    layers: list[Any] = [module for module in model.modules() if _is_batch_norm(module)]
    if not layers:
        return
    momenta, was_training = [layer.momentum for layer in layers], model.training
    model.train()
    try:
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # which makes an average of all batches
        for batch in loader:
            batch = batch[0] if isinstance(batch, (list, tuple)) else batch
            model(batch if device is None else jax.device_put(batch, device))
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        model.train(was_training)


def _is_batch_norm(module: Module) -> bool:
    # By name: optimizers import no layers. InstanceNorm has the same attributes, and no average of all batches.
    return any(kind.__name__ == "_BatchNorm" for kind in type(module).__mro__)
