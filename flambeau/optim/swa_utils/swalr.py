"""SWALR."""

from __future__ import annotations

import math
from typing import Any, Literal

from flambeau.optim.lr_scheduler._arithmetic import choose, cos, larger, smaller
from flambeau.optim.lr_scheduler.scheduler import LRScheduler, checked, of_each_group
from flambeau.optim.optimizer import Optimizer

__all__ = ["SWALR"]


class SWALR(LRScheduler):
    """The learning rate goes to a constant and stays there: for the last part of a training whose parameters are averaged.

    Args:
        optimizer: whose learning rates are set.
        swa_lr: the constant, or a list with one for each group.
        anneal_epochs: the number of epochs until it is reached.
        anneal_strategy: how it is reached, "cos" or "linear".
        last_epoch: the number of the last epoch, if training is resumed.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> optimizer = fb.optim.SGD(nn.Linear(2, 1).parameters(), lr=0.8)
        >>> scheduler = fb.optim.swa_utils.SWALR(optimizer, swa_lr=0.2, anneal_epochs=2, anneal_strategy="linear")
        >>> for epoch in range(3):
        ...     print([round(lr, 6) for lr in scheduler.get_last_lr()])
        ...     scheduler.step()
        [0.8]
        [0.5]
        [0.2]

    Source: https://arxiv.org/abs/1803.05407, https://docs.pytorch.org/docs/2.13/optim.html#weight-averaging-swa-and-ema
    """

    def __init__(
        self,
        optimizer: Optimizer,
        swa_lr: float | list[float],
        anneal_epochs: int = 10,
        anneal_strategy: Literal["cos", "linear"] = "cos",
        last_epoch: int = -1,
    ) -> None:
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"anneal_strategy must be one of 'cos' or 'linear', instead got {anneal_strategy}")
        if not isinstance(anneal_epochs, int) or anneal_epochs < 0:
            raise ValueError(f"anneal_epochs must be equal or greater than 0, got {anneal_epochs}")
        for group, lr in zip(checked(optimizer).param_groups, of_each_group("swa_lr", optimizer, swa_lr), strict=True):
            group["swa_lr"] = lr
        self.anneal_epochs = anneal_epochs
        self._anneal_strategy = anneal_strategy
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        self._warn_outside_of_step()
        step = self._step_count - 1
        if self.anneal_epochs == 0:
            step = larger(1, step)
        before, now = self._share(step - 1), self._share(step)

        def annealed(lr: Any, swa_lr: Any) -> Any:
            first = choose(before == 1, lambda: swa_lr, lambda: (lr - before * swa_lr) / (1 - before))
            return swa_lr * now + first * (1 - now)

        return [annealed(group["lr"], group["swa_lr"]) for group in self.optimizer.param_groups]

    def _share(self, step: Any) -> Any:
        """How much of the constant there is in the learning rate after some steps."""
        done = larger(0, smaller(1, step / max(1, self.anneal_epochs)))
        return done if self._anneal_strategy == "linear" else (1 - cos(math.pi * done)) / 2
