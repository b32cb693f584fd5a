"""Schedules by a factor that depends on the epoch alone: StepLR, MultiStepLR, ConstantLR, LinearLR and their kin."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable
from typing import Any

from flambeau.optim.lr_scheduler._arithmetic import choose, smaller
from flambeau.optim.lr_scheduler.scheduler import LRScheduler
from flambeau.optim.optimizer import Optimizer

__all__ = ["ConstantLR", "ExponentialLR", "LinearLR", "MultiStepLR", "PolynomialLR", "StepLR"]


class _Decay(LRScheduler):
    """A schedule with two forms: a factor from the last learning rate to the next, and one from the initial learning rate."""

    @abstractmethod
    def _next_factor(self) -> Any:
        """From the learning rate of the epoch before to that of `last_epoch`."""

    @abstractmethod
    def _whole_factor(self) -> Any:
        """From the initial learning rate to that of `last_epoch`."""

    def get_lr(self) -> list[Any]:
        self._warn_outside_of_step()
        factor = self._next_factor()
        return [lr * factor for lr in self._current()]

    def _get_closed_form_lr(self) -> list[Any]:
        factor = self._whole_factor()
        return [lr * factor for lr in self.base_lrs]


class StepLR(_Decay):
    """The learning rate is multiplied by `gamma` every `step_size` epochs.

    Args:
        optimizer: whose learning rates are set.
        step_size: the number of epochs.
        gamma: the factor.
        last_epoch: the number of the last epoch, if training is resumed.

    Example:
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> optimizer = fb.optim.SGD(nn.Linear(2, 1).parameters(), lr=0.8)
        >>> scheduler = fb.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
        >>> for epoch in range(4):
        ...     scheduler.step()
        ...     print(scheduler.get_last_lr())
        [0.8]
        [0.4]
        [0.4]
        [0.2]

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.optim.lr_scheduler.StepLR.html
    """

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1) -> None:
        self.step_size = step_size
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def _next_factor(self) -> Any:
        stays = (self.last_epoch == 0) | (self.last_epoch % self.step_size != 0)
        return choose(stays, lambda: 1.0, lambda: self.gamma)

    def _whole_factor(self) -> Any:
        return self.gamma ** (self.last_epoch // self.step_size)


class MultiStepLR(_Decay):
    """The learning rate is multiplied by `gamma` at each of the milestones.

    Args:
        optimizer: whose learning rates are set.
        milestones: epochs; one that is there twice counts twice.
        gamma: the factor.
        last_epoch: the number of the last epoch, if training is resumed.

    Example:
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> optimizer = fb.optim.SGD(nn.Linear(2, 1).parameters(), lr=0.8)
        >>> scheduler = fb.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[1, 3], gamma=0.5)
        >>> for epoch in range(3):
        ...     scheduler.step()
        ...     print(scheduler.get_last_lr())
        [0.4]
        [0.4]
        [0.2]

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.optim.lr_scheduler.MultiStepLR.html
    """

    def __init__(
        self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1, last_epoch: int = -1
    ) -> None:
        self.milestones = Counter(milestones)
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def _next_factor(self) -> Any:
        return self.gamma ** sum(times * (self.last_epoch == epoch) for epoch, times in self.milestones.items())

    def _whole_factor(self) -> Any:
        return self.gamma ** sum(times * (self.last_epoch >= epoch) for epoch, times in self.milestones.items())


class ConstantLR(_Decay):
    """The learning rate is multiplied by `factor` for the first `total_iters` epochs.

    Args:
        optimizer: whose learning rates are set.
        factor: the factor, from 0 to 1.
        total_iters: the number of epochs.
        last_epoch: the number of the last epoch, if training is resumed.

    Raises:
        ValueError: the factor is out of its range.

    Example:
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> optimizer = fb.optim.SGD(nn.Linear(2, 1).parameters(), lr=0.8)
        >>> scheduler = fb.optim.lr_scheduler.ConstantLR(optimizer, factor=0.5, total_iters=2)
        >>> for epoch in range(3):
        ...     print(scheduler.get_last_lr())
        ...     scheduler.step()
        [0.4]
        [0.4]
        [0.8]

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.optim.lr_scheduler.ConstantLR.html
    """

    def __init__(
        self, optimizer: Optimizer, factor: float = 1.0 / 3, total_iters: int = 5, last_epoch: int = -1
    ) -> None:
        if not 0 <= factor <= 1:
            raise ValueError("Constant multiplicative factor expected to be between 0 and 1.")
        self.factor = factor
        self.total_iters = total_iters
        super().__init__(optimizer, last_epoch)

    def _next_factor(self) -> Any:
        def later() -> Any:
            return choose(self.last_epoch != self.total_iters, lambda: 1.0, lambda: 1.0 / self.factor)

        return choose(self.last_epoch == 0, lambda: self.factor, later)

    def _whole_factor(self) -> Any:
        return choose(self.last_epoch >= self.total_iters, lambda: 1.0, lambda: self.factor)


class LinearLR(_Decay):
    """The learning rate is multiplied by a factor that changes linearly over `total_iters` epochs: a warm-up, by default.

    Args:
        optimizer: whose learning rates are set.
        start_factor: the factor at the first epoch, above 0 and up to 1.
        end_factor: the factor in the end, from 0 to 1.
        total_iters: the number of epochs.
        last_epoch: the number of the last epoch, if training is resumed.

    Raises:
        ValueError: a factor is out of its range.

    Example:
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> optimizer = fb.optim.SGD(nn.Linear(2, 1).parameters(), lr=0.8)
        >>> scheduler = fb.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.25, total_iters=3)
        >>> for epoch in range(4):
        ...     print([round(lr, 6) for lr in scheduler.get_last_lr()])
        ...     scheduler.step()
        [0.2]
        [0.4]
        [0.6]
        [0.8]

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.optim.lr_scheduler.LinearLR.html
    """

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1.0 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        if not 0 < start_factor <= 1:
            raise ValueError("Starting multiplicative factor expected to be greater than 0 and less or equal to 1.")
        if not 0 <= end_factor <= 1:
            raise ValueError("Ending multiplicative factor expected to be between 0 and 1.")
        self.start_factor = start_factor
        self.end_factor = end_factor
        self.total_iters = total_iters
        super().__init__(optimizer, last_epoch)

    def _next_factor(self) -> Any:
        rise = self.end_factor - self.start_factor

        def between() -> Any:
            return 1.0 + rise / (self.total_iters * self.start_factor + (self.last_epoch - 1) * rise)

        def later() -> Any:
            return choose(self._is_initial | (self.last_epoch > self.total_iters), lambda: 1.0, between)

        return choose(self.last_epoch == 0, lambda: self.start_factor, later)

    def _whole_factor(self) -> Any:
        done = smaller(self.total_iters, self.last_epoch) / self.total_iters
        return self.start_factor + (self.end_factor - self.start_factor) * done


class ExponentialLR(_Decay):
    """The learning rate is multiplied by `gamma` at every epoch.

    Args:
        optimizer: whose learning rates are set.
        gamma: the factor.
        last_epoch: the number of the last epoch, if training is resumed.

    Example:
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> optimizer = fb.optim.SGD(nn.Linear(2, 1).parameters(), lr=0.8)
        >>> scheduler = fb.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
        >>> for epoch in range(2):
        ...     scheduler.step()
        >>> scheduler.get_last_lr()
        [0.2]

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.optim.lr_scheduler.ExponentialLR.html
    """

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def _next_factor(self) -> Any:
        return 1.0 if self._is_initial else self.gamma

    def _whole_factor(self) -> Any:
        return self.gamma**self.last_epoch


class PolynomialLR(_Decay):
    """The learning rate falls to zero over `total_iters` epochs: `lr · (1 − t / total_iters)^power`.

    Args:
        optimizer: whose learning rates are set.
        total_iters: the number of epochs.
        power: the power.
        last_epoch: the number of the last epoch, if training is resumed.

    Example:
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> optimizer = fb.optim.SGD(nn.Linear(2, 1).parameters(), lr=0.8)
        >>> scheduler = fb.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=4, power=2.0)
        >>> for epoch in range(2):
        ...     scheduler.step()
        >>> [round(lr, 6) for lr in scheduler.get_last_lr()]
        [0.2]

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.optim.lr_scheduler.PolynomialLR.html
    """

    def __init__(self, optimizer: Optimizer, total_iters: int = 5, power: float = 1.0, last_epoch: int = -1) -> None:
        self.total_iters = total_iters
        self.power = power
        super().__init__(optimizer, last_epoch)

    def _next_factor(self) -> Any:
        def between() -> Any:
            left = self.total_iters - self.last_epoch
            return (left / (left + 1)) ** self.power

        return choose(self._is_initial | (self.last_epoch > self.total_iters), lambda: 1.0, between)

    def _whole_factor(self) -> Any:
        return (1.0 - smaller(self.total_iters, self.last_epoch) / self.total_iters) ** self.power
