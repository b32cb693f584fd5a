"""One maker for each kind of scheduler, from either library, and what a run of it consists of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["SCHEDULES", "Schedulers", "losses"]

# The optimizer has two groups, and a momentum.
SCHEDULES: dict[str, Callable[[Any, Any], Any]] = {
    "LambdaLR": lambda lib, opt: lib.LambdaLR(opt, lambda epoch: 0.95**epoch),
    "LambdaLR for each": lambda lib, opt: lib.LambdaLR(opt, [lambda epoch: 0.9**epoch, lambda epoch: 1 / (1 + epoch)]),
    "MultiplicativeLR": lambda lib, opt: lib.MultiplicativeLR(opt, lambda epoch: 1 - 0.5 / (1 + epoch)),
    "StepLR": lambda lib, opt: lib.StepLR(opt, step_size=3, gamma=0.3),
    "MultiStepLR": lambda lib, opt: lib.MultiStepLR(opt, milestones=[2, 5, 5, 9], gamma=0.5),
    "ConstantLR": lambda lib, opt: lib.ConstantLR(opt, factor=0.25, total_iters=4),
    "LinearLR": lambda lib, opt: lib.LinearLR(opt, start_factor=0.2, end_factor=0.9, total_iters=6),
    "LinearLR downward": lambda lib, opt: lib.LinearLR(opt, start_factor=1.0, end_factor=0.0, total_iters=3),
    "ExponentialLR": lambda lib, opt: lib.ExponentialLR(opt, gamma=0.8),
    "PolynomialLR": lambda lib, opt: lib.PolynomialLR(opt, total_iters=7, power=1.5),
    "CosineAnnealingLR": lambda lib, opt: lib.CosineAnnealingLR(opt, T_max=4, eta_min=0.01),
    "CosineAnnealingWarmRestarts": lambda lib, opt: lib.CosineAnnealingWarmRestarts(opt, T_0=3, eta_min=0.01),
    "WarmRestarts that grow": lambda lib, opt: lib.CosineAnnealingWarmRestarts(opt, T_0=2, T_mult=2),
    "CyclicLR": lambda lib, opt: lib.CyclicLR(opt, [0.01, 0.1], [0.3, 0.5], 3, 4),
    "CyclicLR triangular2": lambda lib, opt: lib.CyclicLR(opt, 0.01, 0.3, 2, mode="triangular2", base_momentum=0.5),
    "CyclicLR exp_range": lambda lib, opt: lib.CyclicLR(
        opt, 0.01, 0.3, 2, mode="exp_range", gamma=0.9, cycle_momentum=False
    ),
    "CyclicLR scale_fn": lambda lib, opt: lib.CyclicLR(
        opt, 0.01, 0.3, 2, scale_fn=lambda x: 1 / (1 + 0.5 * x), scale_mode="iterations"
    ),
    "OneCycleLR": lambda lib, opt: lib.OneCycleLR(opt, max_lr=0.7, total_steps=15),
    "OneCycleLR linear": lambda lib, opt: lib.OneCycleLR(
        opt, [0.7, 0.2], epochs=3, steps_per_epoch=5, pct_start=0.25, anneal_strategy="linear", three_phase=True
    ),
    "OneCycleLR without momentum": lambda lib, opt: lib.OneCycleLR(
        opt, 0.7, 15, cycle_momentum=False, div_factor=3.0, final_div_factor=7.0
    ),
    "SequentialLR": lambda lib, opt: lib.SequentialLR(
        opt,
        [lib.LinearLR(opt, 0.1, total_iters=3), lib.CosineAnnealingLR(opt, 5), lib.ExponentialLR(opt, 0.5)],
        milestones=[3, 8],
    ),
    "SequentialLR nested": lambda lib, opt: lib.SequentialLR(
        opt,
        [
            lib.SequentialLR(opt, [lib.ConstantLR(opt, 0.5), lib.StepLR(opt, 2)], milestones=[2]),
            lib.PolynomialLR(opt, 6),
        ],
        milestones=[6],
    ),
    "SequentialLR with restarts": lambda lib, opt: lib.SequentialLR(
        opt, [lib.ConstantLR(opt, 0.1, 9), lib.CosineAnnealingWarmRestarts(opt, 3)], milestones=[4]
    ),
    "ChainedScheduler": lambda lib, opt: lib.ChainedScheduler(
        [lib.ConstantLR(opt, 0.1, 4), lib.ExponentialLR(opt, 0.9), lib.MultiStepLR(opt, [6])], optimizer=opt
    ),
    "ReduceLROnPlateau": lambda lib, opt: lib.ReduceLROnPlateau(
        opt, factor=0.5, patience=1, cooldown=2, min_lr=[0.1, 0]
    ),
    "ReduceLROnPlateau max abs": lambda lib, opt: lib.ReduceLROnPlateau(
        opt, "max", 0.3, 0, threshold=0.2, threshold_mode="abs", min_lr=0.02
    ),
    "ReduceLROnPlateau max": lambda lib, opt: lib.ReduceLROnPlateau(opt, "max", 0.3, 1, threshold=0.2, eps=0.02),
    "SWALR": lambda lib, opt: lib.SWALR(opt, swa_lr=[0.1, 0.2], anneal_epochs=4),
    "SWALR linear": lambda lib, opt: lib.SWALR(opt, swa_lr=0.3, anneal_epochs=3, anneal_strategy="linear"),
    "SWALR at once": lambda lib, opt: lib.SWALR(opt, swa_lr=0.3, anneal_epochs=0),
}


def losses(epochs: int) -> list[float]:
    """What a training could report: it falls, rises, and stays."""
    return [3.0, 2.0, 2.5, 1.5, 1.5, 1.5, 1.6, 0.5, 0.7, 0.6, 0.6, 0.9, 0.3, 0.4][:epochs]


class Schedulers:
    """The schedulers of a library, and SWALR, under one name."""

    def __init__(self, optim: Any) -> None:
        self.SWALR = optim.swa_utils.SWALR
        self._schedulers = optim.lr_scheduler

    def __getattr__(self, name: str) -> Any:
        return getattr(self._schedulers, name)
