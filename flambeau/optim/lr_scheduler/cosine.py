"""Schedules along a cosine: CosineAnnealingLR and CosineAnnealingWarmRestarts."""

from __future__ import annotations

import math
from typing import Any

from flambeau.optim.lr_scheduler._arithmetic import choose, cos, sin
from flambeau.optim.lr_scheduler.scheduler import LRScheduler, numeric
from flambeau.optim.optimizer import Optimizer

__all__ = ["CosineAnnealingLR", "CosineAnnealingWarmRestarts"]


class CosineAnnealingLR(LRScheduler):
    """The learning rate falls along half a cosine: `eta_min + (lr − eta_min) (1 + cos(π t / T_max)) / 2`.

    After `T_max` epochs it rises again, as the cosine does.

    Args:
        optimizer: whose learning rates are set.
        T_max: the number of epochs until the minimum.
        eta_min: the minimum.
        last_epoch: the number of the last epoch, if training is resumed.

    Example:
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> optimizer = fb.optim.SGD(nn.Linear(2, 1).parameters(), lr=0.8)
        >>> scheduler = fb.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)
        >>> for epoch in range(2):
        ...     scheduler.step()
        >>> [round(lr, 6) for lr in scheduler.get_last_lr()]
        [0.4]

    Source: https://arxiv.org/abs/1608.03983,
    https://docs.pytorch.org/docs/2.13/generated/torch.optim.lr_scheduler.CosineAnnealingLR.html
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1) -> None:
        self.T_max = T_max
        self.eta_min = eta_min
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        self._warn_outside_of_step()
        if self._is_initial:
            return self._current()
        resumed = (self._step_count == 1) & (self.last_epoch > 0)
        return choose(resumed, self._get_closed_form_lr, self._next)

    def _next(self) -> list[Any]:
        """From the learning rates of the epoch before; from the minimum upward by a difference, for there is no factor."""
        rises = (self.last_epoch - 1 - self.T_max) % (2 * self.T_max) == 0
        return choose(rises, self._from_the_minimum, self._by_the_factor)

    def _from_the_minimum(self) -> list[Any]:
        part = (1 - math.cos(math.pi / self.T_max)) / 2
        return [lr + (base - self.eta_min) * part for base, lr in zip(self.base_lrs, self._current(), strict=True)]

    def _by_the_factor(self) -> list[Any]:
        # (1 + cos x) / 2 = sin²((π − x) / 2), which keeps its digits near the minimum, also in 32 bits.
        left, quarter = self.T_max - self.last_epoch, math.pi / (2 * self.T_max)
        factor = (sin(left * quarter) / sin((left + 1) * quarter)) ** 2
        return [factor * (lr - self.eta_min) + self.eta_min for lr in self._current()]

    def _get_closed_form_lr(self) -> list[Any]:
        return _anneal(self.base_lrs, self.eta_min, self.last_epoch / self.T_max)


class CosineAnnealingWarmRestarts(LRScheduler):
    """The learning rate falls along half a cosine, and starts anew, each time for `T_mult` times as long.

    Args:
        optimizer: whose learning rates are set.
        T_0: the number of epochs until the first restart.
        T_mult: by what the number of epochs grows at each restart.
        eta_min: the minimum.
        last_epoch: the number of the last epoch, if training is resumed.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> optimizer = fb.optim.SGD(nn.Linear(2, 1).parameters(), lr=0.8)
        >>> scheduler = fb.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=2)
        >>> for epoch in range(3):
        ...     print([round(lr, 6) for lr in scheduler.get_last_lr()])
        ...     scheduler.step()
        [0.8]
        [0.4]
        [0.8]

    Source: https://arxiv.org/abs/1608.03983,
    https://docs.pytorch.org/docs/2.13/generated/torch.optim.lr_scheduler.CosineAnnealingWarmRestarts.html
    """

    T_cur: Any = numeric("T_cur")
    T_i: Any = numeric("T_i")

    def __init__(
        self, optimizer: Optimizer, T_0: int, T_mult: int = 1, eta_min: float = 0.0, last_epoch: int = -1
    ) -> None:
        if not isinstance(T_0, int) or T_0 <= 0:
            raise ValueError(f"Expected positive integer T_0, but got {T_0}")
        if not isinstance(T_mult, int) or T_mult < 1:
            raise ValueError(f"Expected integer T_mult >= 1, but got {T_mult}")
        if not isinstance(eta_min, (float, int)):
            raise ValueError(f"Expected float or int eta_min, but got {eta_min} of type {type(eta_min)}")
        self.T_0 = T_0
        self.T_i = T_0
        self.T_mult = T_mult
        self.eta_min = eta_min
        self.T_cur = last_epoch
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        self._warn_outside_of_step()
        return _anneal(self.base_lrs, self.eta_min, self.T_cur / self.T_i)

    def step(self, epoch: Any = None) -> None:
        """Goes on to the next epoch, or to any: `epoch + i / batches` in the midst of an epoch.

        Raises:
            ValueError: `epoch` is negative.
        """
        super().step(epoch)

    def _go_on(self, epoch: Any) -> None:
        if epoch is None:
            self._restart_when_due()
        elif epoch < 0:
            raise ValueError(f"Expected non-negative epoch, but got {epoch}")
        else:
            self._go_to(epoch)
        with self._flag("_get_lr_called_within_step"):
            self._set_lrs(self.get_lr())

    def _restart_when_due(self) -> None:
        begins, length = self.last_epoch < 0, self.T_i
        now = choose(begins, lambda: 0, lambda: self.T_cur + 1)
        due = now >= length
        self.T_cur = choose(due, lambda: now % length, lambda: now)
        self.T_i = choose(begins, lambda: self.T_0, lambda: choose(due, lambda: length * self.T_mult, lambda: length))
        self.last_epoch = self.last_epoch + 1

    def _go_to(self, epoch: float) -> None:
        if epoch < self.T_0:
            self.T_cur, self.T_i = epoch, self.T_0
        elif self.T_mult == 1:
            self.T_cur = epoch % self.T_0
        else:
            restarts = int(math.log(epoch / self.T_0 * (self.T_mult - 1) + 1, self.T_mult))
            self.T_cur = epoch - self.T_0 * (self.T_mult**restarts - 1) / (self.T_mult - 1)
            self.T_i = self.T_0 * self.T_mult**restarts
        self.last_epoch = math.floor(epoch)


def _anneal(base_lrs: list[Any], least: float, done: Any) -> list[Any]:
    """Along half a cosine from each learning rate to the least."""
    return [least + (lr - least) * (1 + cos(math.pi * done)) / 2 for lr in base_lrs]
