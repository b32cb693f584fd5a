"""Averages of a model's parameters over training: AveragedModel, and the functions that average."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flambeau._errors import StateError
from flambeau.core.cell import Cell, running
from flambeau.core.dtypes import canonical_dtype
from flambeau.core.module import Module

__all__ = ["AveragedModel", "get_ema_avg_fn", "get_ema_multi_avg_fn", "get_swa_avg_fn", "get_swa_multi_avg_fn"]

Average = Callable[[jax.Array, jax.Array, Any], Any]
ManyAverages = Callable[[list[jax.Array], list[jax.Array], Any], Sequence[Any]]


def get_ema_avg_fn(decay: float = 0.999) -> Average:
    """The function that makes an exponential moving average: `decay · average + (1 − decay) · current`.

    Args:
        decay: how slowly it moves, from 0 to 1.

    Raises:
        ValueError: `decay` is out of its range.

    Example:
        >>> import flambeau as fb
        >>> fb.optim.swa_utils.get_ema_avg_fn(0.75)(1.0, 2.0, 5)
        1.25

    Source: https://docs.pytorch.org/docs/2.13/optim.html#weight-averaging-swa-and-ema
    """
    if not 0 <= decay <= 1:
        raise ValueError(f"Invalid decay value {decay} provided. Please provide a value in [0,1] range.")
    return lambda average, current, _: decay * average + (1 - decay) * current


def get_swa_avg_fn() -> Average:
    """The function that makes an average in which all count the same: `average + (current − average) / (n + 1)`.

    Example:
        >>> import flambeau as fb
        >>> fb.optim.swa_utils.get_swa_avg_fn()(1.0, 2.0, 3)
        1.25

    Source: https://docs.pytorch.org/docs/2.13/optim.html#weight-averaging-swa-and-ema
    """
    return lambda average, current, count: average + (current - average) / (count + 1)


def get_ema_multi_avg_fn(decay: float = 0.999) -> ManyAverages:
    """As `get_ema_avg_fn`, of a function from lists to a list. PyTorch's changes its first list in place.

    Args:
        decay: how slowly it moves, from 0 to 1.

    Raises:
        ValueError: `decay` is out of its range.

    Example:
        >>> import flambeau as fb
        >>> fb.optim.swa_utils.get_ema_multi_avg_fn(0.75)([1.0, 3.0], [2.0, 7.0], 5)
        [1.25, 4.0]

    Source: https://docs.pytorch.org/docs/2.13/optim.html#weight-averaging-swa-and-ema
    """
    return _of_each(get_ema_avg_fn(decay))


def get_swa_multi_avg_fn() -> ManyAverages:
    """As `get_swa_avg_fn`, of a function from lists to a list. PyTorch's changes its first list in place.

    Example:
        >>> import flambeau as fb
        >>> fb.optim.swa_utils.get_swa_multi_avg_fn()([1.0, 3.0], [2.0, 7.0], 3)
        [1.25, 4.0]

    Source: https://docs.pytorch.org/docs/2.13/optim.html#weight-averaging-swa-and-ema
    """
    return _of_each(get_swa_avg_fn())


def _of_each(average: Average) -> ManyAverages:
    return lambda averages, currents, count: [average(a, c, count) for a, c in zip(averages, currents, strict=True)]


class AveragedModel(Module):
    """A copy of a model whose parameters are an average of the model's over training.

    The first `update_parameters` copies, each later one averages. `update_parameters` may stand in a compiled training step.

    Args:
        model: the model to copy.
        device: where the copy is, if elsewhere.
        avg_fn: gives the new average from the average, the model's value and the number of values averaged so far; without
            one, and without `multi_avg_fn`, all values count the same.
        multi_avg_fn: the same from lists of the averages and values of one dtype, and gives a list; PyTorch's changes its first
            list in place.
        use_buffers: whether buffers are averaged too; if not, they are copied each time.

    Raises:
        ValueError: both functions are given.

    Example:
        >>> import jax.numpy as jnp
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> net = nn.Linear(2, 1)
        >>> average = fb.optim.swa_utils.AveragedModel(net, avg_fn=fb.optim.swa_utils.get_ema_avg_fn(0.75))
        >>> for value in (1.0, 2.0):
        ...     net.bias = jnp.full(1, value)
        ...     average.update_parameters(net)
        >>> print(average.module.bias)
        [1.25]

    Source: https://arxiv.org/abs/1803.05407, https://docs.pytorch.org/docs/2.13/optim.html#weight-averaging-swa-and-ema
    """

    n_averaged: jax.Array

    def __init__(
        self,
        model: Module,
        device: Any = None,
        avg_fn: Average | None = None,
        multi_avg_fn: ManyAverages | None = None,
        use_buffers: bool = False,
    ) -> None:
        super().__init__()
        if avg_fn is not None and multi_avg_fn is not None:
            raise ValueError("Only one of avg_fn and multi_avg_fn should be provided")
        self.module = copy.deepcopy(model)
        self.register_buffer("n_averaged", jnp.zeros((), canonical_dtype(np.int64)))
        if device is not None:
            self.to(device=device)
        self.avg_fn = avg_fn
        self.multi_avg_fn = multi_avg_fn
        self.use_buffers = use_buffers

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def update_parameters(self, model: Module) -> None:
        """Takes the present parameters of `model` into the average.

        Raises:
            StateError: `model` has other parameters or buffers than the model that was copied.
        """
        for node in (self, model):
            if running.frame is not None:
                running.frame.require(node)
        averaged, copied = list(self.module.parameters()), list(self.module.buffers())
        sources, buffers = list(model.parameters()), list(model.buffers())
        if [cell.shape for cell in (*averaged, *copied)] != [cell.shape for cell in (*sources, *buffers)]:
            raise StateError(
                "update_parameters takes the model that was copied, or one with the same parameters and buffers"
            )
        if self.use_buffers:
            averaged, copied, sources, buffers = [*averaged, *copied], [], [*sources, *buffers], []
        currents = [_moved(source.get(model), cell) for cell, source in zip(averaged, sources, strict=True)]
        copies = [_moved(source.get(model), cell) for cell, source in zip(copied, buffers, strict=True)]
        averages = self._averages([cell.get(self.module) for cell in averaged], currents)
        for cell, value in zip((*averaged, *copied), (*averages, *copies), strict=True):
            cell.set(value, owner=self.module)
        self.n_averaged = self.n_averaged + 1

    def _averages(self, averages: list[jax.Array], currents: list[jax.Array]) -> list[jax.Array]:
        """The new averages; the first time, the values themselves."""
        many = self.multi_avg_fn or _of_each(self.avg_fn or get_swa_avg_fn())
        new: list[Any] = [None] * len(averages)
        for dtype in dict.fromkeys(average.dtype for average in averages):
            places = [i for i, average in enumerate(averages) if average.dtype == dtype]
            made = many([averages[i] for i in places], [currents[i] for i in places], self.n_averaged)
            if not isinstance(made, Sequence) or len(made) != len(places):
                raise TypeError(
                    f"multi_avg_fn gives a list of the new averages, as arrays do not change; it gave {made!r:.60}"
                )
            for i, average in zip(places, made, strict=True):
                new[i] = jnp.where(self.n_averaged == 0, currents[i], jnp.asarray(average, dtype))
        return new


def _moved(value: jax.Array, cell: Cell) -> jax.Array:
    """`value` in the dtype of `cell`, and outside of transforms where that is."""
    target = cell.peek()
    value = value.astype(target.dtype)
    return value if running.frame is not None else jax.device_put(value, target.sharding)
