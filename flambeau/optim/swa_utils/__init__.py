"""Averages of a model's parameters over training: stochastic weight averaging, and exponential moving averages."""

from __future__ import annotations

from flambeau.optim.swa_utils.averaging import (
    AveragedModel,
    get_ema_avg_fn,
    get_ema_multi_avg_fn,
    get_swa_avg_fn,
    get_swa_multi_avg_fn,
)
from flambeau.optim.swa_utils.batch_norm import update_bn
from flambeau.optim.swa_utils.swalr import SWALR

__all__ = [
    "SWALR",
    "AveragedModel",
    "get_ema_avg_fn",
    "get_ema_multi_avg_fn",
    "get_swa_avg_fn",
    "get_swa_multi_avg_fn",
    "update_bn",
]
