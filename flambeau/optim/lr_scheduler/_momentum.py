"""Momentum that is cycled against the learning rate: SGD's, or the first of Adam's betas."""

from __future__ import annotations

from typing import Any

from flambeau.optim.optimizer import Optimizer
from flambeau.optim.param_group import ParamGroup

__all__ = ["has_betas", "set_momentum"]


def has_betas(optimizer: Optimizer) -> bool:
    """Whether the momentum of an optimizer is the first of its betas.

    Raises:
        ValueError: it has none.
    """
    if "momentum" not in optimizer.defaults and "betas" not in optimizer.defaults:
        raise ValueError("optimizer must support momentum or beta1 with `cycle_momentum` option enabled")
    return "betas" in optimizer.defaults


def set_momentum(group: ParamGroup, use_beta1: bool, value: Any) -> None:
    if use_beta1:
        group["betas"] = (value, *group["betas"][1:])
    else:
        group["momentum"] = value
