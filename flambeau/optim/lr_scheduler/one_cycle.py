"""OneCycleLR."""

from __future__ import annotations

import math
from typing import Any, Literal

from flambeau.optim.lr_scheduler._arithmetic import choose, cos, smaller
from flambeau.optim.lr_scheduler._momentum import has_betas, set_momentum
from flambeau.optim.lr_scheduler.scheduler import LRScheduler, checked, of_each_group
from flambeau.optim.optimizer import Optimizer

__all__ = ["OneCycleLR"]


class OneCycleLR(LRScheduler):
    """The learning rate goes up once, and then down to almost nothing; the momentum down and up. `step` after each batch.

    Args:
        optimizer: whose learning rates are set.
        max_lr: the highest learning rate, or a list with one for each group.
        total_steps: the number of batches; or else `epochs` and `steps_per_epoch`, whose product it is.
        epochs: the number of epochs.
        steps_per_epoch: the number of batches in each.
        pct_start: the part of the cycle, from 0 to 1, that the learning rate rises.
        anneal_strategy: "cos" or "linear".
        cycle_momentum: whether the momentum is cycled too; of Adam and its kin, the first of the betas.
        base_momentum: the lower bound of the momentum, or a list with one for each group.
        max_momentum: the upper bound of the momentum, or a list with one for each group.
        div_factor: the first learning rate is `max_lr / div_factor`.
        final_div_factor: the last one is `max_lr / div_factor / final_div_factor`.
        three_phase: whether the fall ends at the first learning rate, and a third phase goes from there to the last one.
        last_epoch: the number of the last batch, if training is resumed.

    Raises:
        ValueError: an argument is out of its range, or the optimizer has no momentum; later, `step` was called more often than
            `total_steps`. A compiled function, which cannot raise, leaves the learning rate at its last value then.

    Example:
        >>> import jax.numpy as jnp
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> net = nn.Linear(2, 1)
        >>> grads_of = fb.grad(lambda net: net(jnp.ones((1, 2))).sum())
        >>> optimizer = fb.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        >>> scheduler = fb.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=10, div_factor=4.0)
        >>> for batch in range(3):
        ...     print([round(lr, 6) for lr in scheduler.get_last_lr()], round(optimizer.param_groups[0]["momentum"], 6))
        ...     optimizer.step(grads_of(net))
        ...     scheduler.step()
        [0.25] 0.95
        [0.625] 0.9
        [1.0] 0.85

    Source: https://arxiv.org/abs/1708.07120,
    https://docs.pytorch.org/docs/2.13/generated/torch.optim.lr_scheduler.OneCycleLR.html
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | list[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: Literal["cos", "linear"] = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.85,
        max_momentum: float | list[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        groups = checked(optimizer).param_groups
        self.total_steps = _total(total_steps, epochs, steps_per_epoch)
        if not isinstance(pct_start, float) or not 0 <= pct_start <= 1:
            raise ValueError(f"Expected float between 0 and 1 pct_start, but got {pct_start}")
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"anneal_strategy must be one of 'cos' or 'linear', instead got {anneal_strategy}")
        self._schedule_phases = _phases(self.total_steps, pct_start, three_phase)
        self._anneal_func_type = anneal_strategy
        self.cycle_momentum = cycle_momentum
        max_lrs = of_each_group("max_lr", optimizer, max_lr)
        if cycle_momentum:
            self.use_beta1 = has_betas(optimizer)
        max_momentums = of_each_group("max_momentum", optimizer, max_momentum)
        base_momentums = of_each_group("base_momentum", optimizer, base_momentum)
        for i, group in enumerate(groups if last_epoch == -1 else ()):
            initial_lr = max_lrs[i] / div_factor
            group.update(initial_lr=initial_lr, max_lr=max_lrs[i], min_lr=initial_lr / final_div_factor)
            if cycle_momentum:
                set_momentum(group, self.use_beta1, max_momentums[i])
                group.update(max_momentum=max_momentums[i], base_momentum=base_momentums[i])
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        """The next learning rates. It sets the momentum, too, as in PyTorch."""
        self._warn_outside_of_step()
        if isinstance(self.last_epoch, int) and self.last_epoch > self.total_steps:
            raise ValueError(
                f"Tried to step {self.last_epoch} times. The specified number of total steps is {self.total_steps}"
            )
        if self.cycle_momentum:
            for group in self.optimizer.param_groups:
                set_momentum(group, self.use_beta1, self._at_present(group, "momentum"))
        return [self._at_present(group, "lr") for group in self.optimizer.param_groups]

    def _at_present(self, group: Any, what: str) -> Any:
        """The learning rate or momentum at `last_epoch`."""

        def within(phase: dict[str, Any], begin: float) -> Any:
            end = phase["end_step"]
            done = (smaller(self.last_epoch, self.total_steps) - begin) / (end - begin)
            return self._anneal(group[phase[f"start_{what}"]], group[phase[f"end_{what}"]], done)

        phases = self._schedule_phases
        begins = [0.0, *(phase["end_step"] for phase in phases)]

        def from_phase(i: int) -> Any:
            if i == len(phases) - 1:
                return within(phases[i], begins[i])
            over = self.last_epoch > phases[i]["end_step"]
            return choose(over, lambda: from_phase(i + 1), lambda: within(phases[i], begins[i]))

        return from_phase(0)

    def _anneal(self, start: Any, end: Any, done: Any) -> Any:
        if self._anneal_func_type == "linear":
            return (end - start) * done + start
        return end + (start - end) / 2.0 * (cos(math.pi * done) + 1)


def _total(total_steps: Any, epochs: Any, steps_per_epoch: Any) -> int:
    given = {"total_steps": total_steps}
    if total_steps is None:
        given = {"epochs": epochs, "steps_per_epoch": steps_per_epoch}
        if epochs is None or steps_per_epoch is None:
            raise ValueError("You must define either total_steps OR (epochs AND steps_per_epoch)")
    for name, value in given.items():
        if not isinstance(value, int) or value <= 0:
            raise ValueError(f"Expected positive integer {name}, but got {value}")
    return math.prod(given.values())


def _phases(total_steps: int, pct_start: float, three_phase: bool) -> list[dict[str, Any]]:
    """Of each phase the last step, and what a group calls the values that it goes from and to."""
    top = float(pct_start * total_steps) - 1
    down = float(2 * pct_start * total_steps) - 2
    names = [("initial_lr", "max_momentum"), ("max_lr", "base_momentum"), ("initial_lr", "max_momentum")]
    stops = [top, down] if three_phase else [top]
    names = [*names[: len(stops) + 1], ("min_lr", "max_momentum")]
    return [
        {"end_step": end, "start_lr": lr, "end_lr": next_lr, "start_momentum": m, "end_momentum": next_m}
        for end, (lr, m), (next_lr, next_m) in zip([*stops, total_steps - 1], names, names[1:], strict=False)
    ]
