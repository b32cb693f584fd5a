"""ReduceLROnPlateau."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from math import inf
from typing import Any, Literal

import jax

from flambeau.optim.lr_scheduler._arithmetic import choose, larger, when
from flambeau.optim.lr_scheduler.scheduler import EPOCH_IS_DEPRECATED, LRScheduler, checked, numeric, of_each_group
from flambeau.optim.optimizer import Optimizer

__all__ = ["ReduceLROnPlateau"]


class ReduceLROnPlateau(LRScheduler):
    """The learning rate is multiplied by `factor` when a metric has not become better for more than `patience` epochs.

    Args:
        optimizer: whose learning rates are set.
        mode: whether less is better, "min", or more, "max".
        factor: the factor, less than 1.
        patience: the number of epochs without a better metric that are borne.
        threshold: by how much a metric has to be better than the best to count.
        threshold_mode: whether `threshold` is a part of the best ("rel") or a number ("abs").
        cooldown: the number of epochs after a reduction that do not count as bad.
        min_lr: the least learning rate, or a list with one for each group.
        eps: the least reduction; a smaller one is not made.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> optimizer = fb.optim.SGD(nn.Linear(2, 1).parameters(), lr=0.8)
        >>> scheduler = fb.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=1)
        >>> for loss in (3.0, 2.0, 2.0, 2.5):
        ...     scheduler.step(loss)
        ...     print(scheduler.get_last_lr())
        [0.8]
        [0.8]
        [0.8]
        [0.4]

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.optim.lr_scheduler.ReduceLROnPlateau.html
    """

    best: Any = numeric("best")
    cooldown_counter: Any = numeric("cooldown_counter")
    num_bad_epochs: Any = numeric("num_bad_epochs")

    def __init__(
        self,
        optimizer: Optimizer,
        mode: Literal["min", "max"] = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: Literal["rel", "abs"] = "rel",
        cooldown: int = 0,
        min_lr: list[float] | float = 0,
        eps: float = 1e-8,
    ) -> None:
        if factor >= 1.0:
            raise ValueError("Factor should be < 1.0.")
        if mode not in ("min", "max"):
            raise ValueError(f"mode {mode} is unknown!")
        if threshold_mode not in ("rel", "abs"):
            raise ValueError(f"threshold mode {threshold_mode} is unknown!")
        self.optimizer = checked(optimizer)
        self.factor = factor
        self.default_min_lr = None if isinstance(min_lr, (list, tuple)) else min_lr
        self.min_lrs = of_each_group("min_lr", optimizer, min_lr)
        self.patience = patience
        self.cooldown = cooldown
        self.eps = eps
        self.last_epoch = 0
        self._last_lr = self._current()
        self.mode = mode
        self.threshold = threshold
        self.threshold_mode = threshold_mode
        self.mode_worse = inf if mode == "min" else -inf
        self.best = self.mode_worse
        self.cooldown_counter = 0
        self.num_bad_epochs = 0

    @property
    def in_cooldown(self) -> Any:
        """Whether bad epochs do not count at present."""
        return self.cooldown_counter > 0

    def step(self, metrics: Any, epoch: int | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Takes an epoch's metric into account.

        Args:
            metrics: a number; outside of compiled functions its value is waited for.
            epoch: deprecated in PyTorch too: the number of the epoch.
        """
        self._as_a_whole(lambda: self._take(metrics, epoch))

    def _take(self, metrics: Any, epoch: int | None) -> None:
        inside = isinstance(self.last_epoch, jax.Array)
        current = metrics if inside else float(metrics)
        if epoch is not None:
            warnings.warn(EPOCH_IS_DEPRECATED, stacklevel=6)
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        better = self._is_better(current, self.best)
        self.best = choose(better, lambda: current, lambda: self.best)
        bad = choose(better, lambda: 0, lambda: self.num_bad_epochs + 1)
        cooling = self.in_cooldown
        self.cooldown_counter = choose(cooling, lambda: self.cooldown_counter - 1, lambda: self.cooldown_counter)
        self.num_bad_epochs = choose(cooling, lambda: 0, lambda: bad)
        when(self.num_bad_epochs > self.patience, self, self._reduce)
        self._last_lr = self._current()

    def _is_better(self, current: Any, best: Any) -> Any:
        sign = 1 if self.mode == "min" else -1
        if self.threshold_mode == "abs":
            return sign * current < sign * best - self.threshold
        return sign * current < sign * best * (1.0 - sign * self.threshold)

    def _reduce(self) -> None:
        groups = self.optimizer.param_groups
        if len(groups) != len(self.min_lrs):
            if self.default_min_lr is None:
                raise RuntimeError(
                    f"ReduceLROnPlateau was made for {len(self.min_lrs)} parameter groups, and the optimizer has {len(groups)} "
                    f"by now: set `min_lrs` to a list with one for each"
                )
            self.min_lrs = [self.default_min_lr] * len(groups)
        for group, least in zip(groups, self.min_lrs, strict=True):
            old = group["lr"]
            new = larger(old * self.factor, least)
            group["lr"] = choose(old - new > self.eps, lambda new=new: new, lambda old=old: old)
        self.cooldown_counter = self.cooldown
        self.num_bad_epochs = 0

    def _load(self, state_dict: Mapping[str, Any]) -> None:
        super()._load(state_dict)
        self.mode_worse = inf if self.mode == "min" else -inf
