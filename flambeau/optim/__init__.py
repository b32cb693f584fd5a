"""PyTorch's optimizers, over optax, with its schedulers and averaged models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flambeau.core.absent import missing_name
from flambeau.optim import lr_scheduler, swa_utils
from flambeau.optim.adadelta import Adadelta
from flambeau.optim.adafactor import Adafactor
from flambeau.optim.adagrad import Adagrad
from flambeau.optim.adam import Adam, AdamW
from flambeau.optim.adamax import Adamax
from flambeau.optim.asgd import ASGD
from flambeau.optim.lbfgs import LBFGS
from flambeau.optim.muon import Muon
from flambeau.optim.nadam import NAdam
from flambeau.optim.optimizer import Optimizer
from flambeau.optim.param_group import ParamGroup
from flambeau.optim.radam import RAdam
from flambeau.optim.rmsprop import RMSprop
from flambeau.optim.rprop import Rprop
from flambeau.optim.sgd import SGD

__all__ = [
    "ASGD",
    "LBFGS",
    "SGD",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Muon",
    "NAdam",
    "Optimizer",
    "ParamGroup",
    "RAdam",
    "RMSprop",
    "Rprop",
    "lr_scheduler",
    "swa_utils",
]

_ABSENT = {
    "SparseAdam": "gradients are dense arrays, so take Adam",
    "swap_in_optimizer_params_and_state": "copy.deepcopy((net, optimizer)) gives copies to trace with",
}

if not TYPE_CHECKING:
    # Hidden from type checkers, which would take every misspelt name for a known one.
    def __getattr__(name: str) -> Any:
        raise missing_name(__name__, name, _ABSENT, __all__)
