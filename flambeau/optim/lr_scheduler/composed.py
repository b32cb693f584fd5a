"""Schedulers of schedulers: SequentialLR and ChainedScheduler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flambeau.optim.lr_scheduler._arithmetic import when
from flambeau.optim.lr_scheduler.plateau import ReduceLROnPlateau
from flambeau.optim.lr_scheduler.scheduler import LRScheduler, checked
from flambeau.optim.optimizer import Optimizer

__all__ = ["ChainedScheduler", "SequentialLR"]


class _Composed(LRScheduler):
    """A scheduler that lets others work."""

    _schedulers: tuple[LRScheduler, ...]

    def _adopt(self, schedulers: Sequence[LRScheduler], optimizer: Optimizer) -> None:
        """Checks the schedulers, and keeps them."""
        name = type(self).__name__
        for i, scheduler in enumerate(schedulers):
            if not hasattr(scheduler, "optimizer"):
                raise TypeError(f"{name} at index {i} should have `optimizer` as its attribute.")
            if isinstance(scheduler, ReduceLROnPlateau):
                raise ValueError(
                    f"{name} does not support `ReduceLROnPlateau` scheduler as it requires additional kwargs to be specified "
                    f"when calling `step`, but got one at index {i} in the given schedulers sequence."
                )
            if scheduler.optimizer is not optimizer:
                raise ValueError(
                    f"{name} expects all schedulers to belong to the same optimizer, but got scheduler "
                    f"{type(scheduler).__name__} at index {i} has another one."
                )
        self.optimizer = checked(optimizer)
        self._schedulers = tuple(schedulers)

    def _step_part(self, scheduler: LRScheduler) -> None:
        with scheduler._flag("_is_part"):
            scheduler.step()

    def _steps_first(self) -> bool:
        return any(scheduler._steps_first() for scheduler in self._schedulers)

    def state_dict(self) -> dict[str, Any]:
        """As of every scheduler, with the state of those in it."""
        return {**super().state_dict(), "_schedulers": [scheduler.state_dict() for scheduler in self._schedulers]}

    def _load(self, state_dict: Mapping[str, Any]) -> None:
        super()._load({name: value for name, value in state_dict.items() if name != "_schedulers"})
        for scheduler, saved in zip(self._schedulers, state_dict["_schedulers"], strict=True):
            scheduler._load(saved)


class SequentialLR(_Composed):
    """One scheduler after another: each begins anew at its milestone.

    Args:
        optimizer: whose learning rates are set.
        schedulers: the schedulers, all of this optimizer.
        milestones: the epochs at which the second, third, … begins.
        last_epoch: the number of the last epoch, if training is resumed.

    Raises:
        ValueError: the schedulers and milestones do not fit together.
        TypeError: a scheduler is none.

    Example:
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> from flambeau.optim.lr_scheduler import ConstantLR, ExponentialLR, SequentialLR
        >>> optimizer = fb.optim.SGD(nn.Linear(2, 1).parameters(), lr=0.8)
        >>> warm_up, decay = ConstantLR(optimizer, factor=0.25, total_iters=9), ExponentialLR(optimizer, gamma=0.5)
        >>> scheduler = SequentialLR(optimizer, schedulers=[warm_up, decay], milestones=[2])
        >>> for epoch in range(4):
        ...     print(scheduler.get_last_lr())
        ...     scheduler.step()
        [0.2]
        [0.2]
        [0.8]
        [0.4]

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.optim.lr_scheduler.SequentialLR.html
    """

    def __init__(
        self, optimizer: Optimizer, schedulers: Sequence[LRScheduler], milestones: Sequence[int], last_epoch: int = -1
    ) -> None:
        if not schedulers:
            raise ValueError("SequentialLR expects at least one scheduler, but got no scheduler.")
        self._adopt(schedulers, optimizer)
        if len(milestones) != len(schedulers) - 1:
            raise ValueError(
                f"Sequential Schedulers expects number of schedulers provided to be one more than the number of milestone "
                f"points, but got number of schedulers {len(schedulers)} and the number of milestones to be equal to "
                f"{len(milestones)}"
            )
        for i, scheduler in enumerate(schedulers):
            if i > 0 and isinstance(scheduler, _Composed):
                raise ValueError(
                    f"a {type(scheduler).__name__} cannot begin anew at a milestone, but there is one at index {i}: put it "
                    f"first, or its schedulers into this one"
                )
        self._milestones = list(milestones)
        self.last_epoch = last_epoch + 1
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"]
        # Making them has let each set its first learning rate.
        for scheduler in self._schedulers:
            _take_back(scheduler)
        first = self._schedulers[sum(milestone <= 0 for milestone in milestones)]
        first._initial_step()
        self._last_lr = first.get_last_lr()

    def _go_on(self, epoch: Any) -> None:
        if epoch is not None:
            raise TypeError("SequentialLR.step() takes no epoch")
        self.last_epoch = now = self.last_epoch + 1
        current = sum(milestone <= now for milestone in self._milestones)
        for i, scheduler in enumerate(self._schedulers):
            begins = (current == i) & (now == self._milestones[i - 1]) if i else False
            goes_on = (current == i) & (now != self._milestones[i - 1]) if i else current == 0
            when(begins, self, lambda s=scheduler: self._let(s, anew=True))
            when(goes_on, self, lambda s=scheduler: self._let(s, anew=False))

    def _let(self, scheduler: LRScheduler, anew: bool) -> None:
        if anew:
            scheduler._update_lr(0)
        else:
            self._step_part(scheduler)
        self._last_lr = scheduler.get_last_lr()


class ChainedScheduler(_Composed):
    """Several schedulers at once: each multiplies what the one before has set.

    Args:
        schedulers: the schedulers, all of one optimizer.
        optimizer: the optimizer, if not that of the first scheduler.

    Raises:
        ValueError: there are no schedulers, or they belong to several optimizers.
        TypeError: a scheduler is none.

    Example:
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> from flambeau.optim.lr_scheduler import ChainedScheduler, ConstantLR, ExponentialLR
        >>> optimizer = fb.optim.SGD(nn.Linear(2, 1).parameters(), lr=0.8)
        >>> warm_up, decay = ConstantLR(optimizer, factor=0.25, total_iters=2), ExponentialLR(optimizer, gamma=0.5)
        >>> scheduler = ChainedScheduler([warm_up, decay])
        >>> for epoch in range(3):
        ...     print(scheduler.get_last_lr())
        ...     scheduler.step()
        [0.2]
        [0.1]
        [0.2]

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.optim.lr_scheduler.ChainedScheduler.html
    """

    def __init__(self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None = None) -> None:
        if not schedulers:
            raise ValueError("ChainedScheduler expects at least one scheduler to be chained, but got no scheduler.")
        self._adopt(schedulers, schedulers[0].optimizer if optimizer is None else optimizer)
        self._last_lr = self._current()

    def _go_on(self, epoch: Any) -> None:
        if epoch is not None:
            raise TypeError("ChainedScheduler.step() takes no epoch")
        for scheduler in self._schedulers:
            self._step_part(scheduler)
        self._last_lr = self._current()


def _take_back(scheduler: LRScheduler) -> None:
    """Takes back the step that a scheduler makes when it is made."""
    if isinstance(scheduler, _Composed):
        for inner in scheduler._schedulers:
            _take_back(inner)
    else:
        scheduler.last_epoch = scheduler.last_epoch - 1
