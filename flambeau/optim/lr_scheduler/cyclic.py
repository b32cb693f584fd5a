"""CyclicLR."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from typing import Any, Literal

from flambeau.optim.lr_scheduler._arithmetic import choose, floor
from flambeau.optim.lr_scheduler._momentum import has_betas, set_momentum
from flambeau.optim.lr_scheduler.scheduler import LRScheduler, checked, of_each_group
from flambeau.optim.optimizer import Optimizer

__all__ = ["CyclicLR"]


class CyclicLR(LRScheduler):
    """The learning rate goes up and down between two bounds, and the momentum down and up. `step` after each batch.

    Args:
        optimizer: whose learning rates are set.
        base_lr: the lower bound, or a list with one for each group.
        max_lr: the upper bound, or a list with one for each group.
        step_size_up: the number of batches on the way up.
        step_size_down: the number of batches on the way down, if it is another.
        mode: what the height of a cycle is multiplied by: "triangular" by nothing, "triangular2" by a half at each cycle,
            "exp_range" by `gamma` at each batch.
        gamma: see `mode`.
        scale_fn: gives the factor of the height, in the place of `mode`.
        scale_mode: whether `scale_fn` is called with the number of the "cycle" or that of the batch, "iterations".
        cycle_momentum: whether the momentum is cycled too; of Adam and its kin, the first of the betas.
        base_momentum: the lower bound of the momentum, or a list with one for each group.
        max_momentum: the upper bound of the momentum, or a list with one for each group.
        last_epoch: the number of the last batch, if training is resumed.

    Raises:
        ValueError: a list has not one entry for each group, the mode is unknown, or the optimizer has no momentum.

    Example:
        >>> import jax.numpy as jnp
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> net = nn.Linear(2, 1)
        >>> grads_of = fb.grad(lambda net: net(jnp.ones((1, 2))).sum())
        >>> optimizer = fb.optim.SGD(net.parameters(), lr=0.8, momentum=0.9)
        >>> scheduler = fb.optim.lr_scheduler.CyclicLR(optimizer, base_lr=0.25, max_lr=0.75, step_size_up=2)
        >>> for batch in range(4):
        ...     print(scheduler.get_last_lr(), round(optimizer.param_groups[0]["momentum"], 6))
        ...     optimizer.step(grads_of(net))
        ...     scheduler.step()
        [0.25] 0.9
        [0.5] 0.85
        [0.75] 0.8
        [0.5] 0.85

    Source: https://arxiv.org/abs/1506.01186,
    https://docs.pytorch.org/docs/2.13/generated/torch.optim.lr_scheduler.CyclicLR.html
    """

    def __init__(
        self,
        optimizer: Optimizer,
        base_lr: float | list[float],
        max_lr: float | list[float],
        step_size_up: int = 2000,
        step_size_down: int | None = None,
        mode: Literal["triangular", "triangular2", "exp_range"] = "triangular",
        gamma: float = 1.0,
        scale_fn: Callable[[float], float] | None = None,
        scale_mode: Literal["cycle", "iterations"] = "cycle",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.8,
        max_momentum: float | list[float] = 0.9,
        last_epoch: int = -1,
    ) -> None:
        groups = checked(optimizer).param_groups
        base_lrs = of_each_group("base_lr", optimizer, base_lr)
        self.max_lrs = of_each_group("max_lr", optimizer, max_lr)
        up = float(step_size_up)
        self.total_size = up + (up if step_size_down is None else float(step_size_down))
        self.step_ratio = up / self.total_size
        if scale_fn is None and mode not in ("triangular", "triangular2", "exp_range"):
            raise ValueError("mode is invalid and scale_fn is None")
        self.mode = mode
        self.gamma = gamma
        self._scale_fn_custom = scale_fn
        own = "iterations" if mode == "exp_range" else "cycle"
        self.scale_mode = scale_mode if scale_fn is not None else own
        self.cycle_momentum = cycle_momentum
        if cycle_momentum:
            self.use_beta1 = has_betas(optimizer)
            self.base_momentums = of_each_group("base_momentum", optimizer, base_momentum)
            self.max_momentums = of_each_group("max_momentum", optimizer, max_momentum)
        if last_epoch == -1:
            for i, group in enumerate(groups):
                group["lr"] = base_lrs[i]
                if cycle_momentum:
                    set_momentum(group, self.use_beta1, self.max_momentums[i])
                    group["max_momentum"] = self.max_momentums[i]
                    group["base_momentum"] = self.base_momentums[i]
        super().__init__(optimizer, last_epoch)
        self.base_lrs = base_lrs

    def scale_fn(self, x: Any) -> Any:
        """What the height of a cycle is multiplied by, at the cycle or the batch of number `x`."""
        if self._scale_fn_custom is not None:
            return self._scale_fn_custom(x)
        if self.mode == "exp_range":
            return self.gamma**x
        return 1 / 2.0 ** (x - 1) if self.mode == "triangular2" else 1.0

    def get_lr(self) -> list[Any]:
        """The next learning rates. It sets the momentum, too, as in PyTorch."""
        self._warn_outside_of_step()
        cycle = floor(1 + self.last_epoch / self.total_size)
        done = (self.last_epoch % self.total_size) / self.total_size
        rising = done <= self.step_ratio
        height = choose(rising, lambda: done / self.step_ratio, lambda: (done - 1) / (self.step_ratio - 1))
        height = height * self.scale_fn(cycle if self.scale_mode == "cycle" else self.last_epoch)
        if self.cycle_momentum:
            bounds = zip(self.optimizer.param_groups, self.base_momentums, self.max_momentums, strict=True)
            for group, least, most in bounds:
                set_momentum(group, self.use_beta1, most - (most - least) * height)
        return [base + (most - base) * height for base, most in zip(self.base_lrs, self.max_lrs, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """As of every scheduler; of a `scale_fn` that is an object, and no function, its attributes."""
        custom = self._scale_fn_custom
        saved = None if custom is None or isinstance(custom, types.FunctionType) else dict(vars(custom))
        return {**super().state_dict(), "_scale_fn_custom": saved}

    def _load(self, state_dict: Mapping[str, Any]) -> None:
        super()._load({name: value for name, value in state_dict.items() if name != "_scale_fn_custom"})
        if state_dict["_scale_fn_custom"] is not None:
            vars(self._scale_fn_custom).update(state_dict["_scale_fn_custom"])
