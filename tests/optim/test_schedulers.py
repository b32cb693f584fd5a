"""The same learning rates, momenta, state and messages as PyTorch's schedulers."""

from __future__ import annotations

import copy
import inspect
import math
import pickle
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flambeau import optim
from flambeau._errors import StateDictError
from flambeau.core.cell import Parameter
from flambeau.optim import lr_scheduler
from tests.optim.schedules import SCHEDULES, Schedulers, losses
from tests.optim.small import compilations

torch = pytest.importorskip("torch")

# PyTorch warns when a scheduler is made of schedulers of schedulers, and when one is copied.
pytestmark = pytest.mark.filterwarnings("ignore:.*In PyTorch 1.1.0 and later", "ignore:Seems like `optimizer.step")

VOID = {"_get_lr_called_within_step", "_is_initial", "_scale_fn_ref"}


def optimizers(name: str = "SGD", **options: Any) -> tuple[Any, Any]:
    """Ours and PyTorch's, with two groups, stepped once."""
    options = options or {"SGD": {"momentum": 0.9}}.get(name, {})
    own = [Parameter(jnp.ones(2)) for _ in range(2)]
    their = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    made = []
    for library, params in ((optim, own), (torch.optim, their)):
        groups = [{"params": [params[0]]}, {"params": [params[1]], "lr": 0.05}]
        made.append(getattr(library, name)(groups, lr=0.5, **options))
    ours, theirs = made
    return ours, theirs


def pair(name: str, optimizer: str = "SGD") -> tuple[Any, Any]:
    """The two schedulers, whose optimizers have been stepped."""
    ours, theirs = optimizers(optimizer)
    schedulers = (SCHEDULES[name](Schedulers(optim), ours), SCHEDULES[name](Schedulers(torch.optim), theirs))
    ours.step([jnp.ones(2)] * 2)
    theirs.step()
    return schedulers


def advance(scheduler: Any, epoch: int) -> None:
    if "Plateau" in type(scheduler).__name__:
        scheduler.step(losses(14)[epoch])
    else:
        scheduler.step()


def plain(state: dict[str, Any]) -> dict[str, Any]:
    """Without what nothing depends on."""
    state = {name: value for name, value in state.items() if name not in VOID}
    if "_schedulers" in state:
        state["_schedulers"] = [plain(inner) for inner in state["_schedulers"]]
    return state


def same(ours: Any, theirs: Any, tolerance: float = 1e-12) -> None:
    """Two nested structures hold the same numbers."""
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for name in theirs:
            same(ours[name], theirs[name], tolerance)
    elif isinstance(theirs, (list, tuple)):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs):
            same(one, other, tolerance)
    elif isinstance(theirs, float):
        assert ours == pytest.approx(theirs, rel=tolerance, abs=tolerance)
    else:
        assert ours == theirs


def options(scheduler: Any) -> list[dict[str, Any]]:
    return [{k: v for k, v in group.items() if k != "params"} for group in scheduler.optimizer.param_groups]


def check(ours: Any, theirs: Any) -> None:
    same(options(ours), options(theirs))
    same(ours.get_last_lr(), theirs.get_last_lr())
    same(plain(ours.state_dict()), plain(theirs.state_dict()))


@pytest.mark.parametrize("x64", [True, False], ids=["64 bits", "32 bits"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule(name: str, x64: bool) -> None:
    """Also without 64 bits the numbers are those of double precision."""
    with jax.enable_x64(x64):
        ours, theirs = pair(name)
        check(ours, theirs)
        for epoch in range(14):
            advance(ours, epoch)
            advance(theirs, epoch)
            check(ours, theirs)


@pytest.mark.parametrize("name", ["CyclicLR", "OneCycleLR"])
def test_cycles_the_first_beta(name: str) -> None:
    ours, theirs = pair(name, "AdamW")
    for epoch in range(14):
        advance(ours, epoch)
        advance(theirs, epoch)
        check(ours, theirs)


@pytest.mark.parametrize("name", SCHEDULES)
def test_goes_on_from_a_state_dict(name: str) -> None:
    """Of ours, and of PyTorch's."""
    ours, theirs = pair(name)
    for epoch in range(5):
        advance(ours, epoch)
        advance(theirs, epoch)
    for state in (pickle.loads(pickle.dumps(ours.state_dict())), theirs.state_dict()):
        again, _ = pair(name)
        again.optimizer.load_state_dict(ours.optimizer.state_dict())
        before = copy.deepcopy(state)
        again.load_state_dict(state)
        same(state, before)
        check(again, theirs)
        for epoch in range(5, 9):
            advance(again, epoch)
        twin = copy.deepcopy(theirs)
        for epoch in range(5, 9):
            advance(twin, epoch)
        check(again, twin)


@pytest.mark.parametrize("name", SCHEDULES)
def test_copies(name: str) -> None:
    """A scheduler that is copied takes its optimizer along."""
    ours, _ = pair(name)
    for epoch in range(3):
        advance(ours, epoch)
    twins = [copy.deepcopy(ours)] if "Lambda" in name or "fn" in name or "Mult" in name else []
    for twin in twins or [copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))]:
        assert twin.optimizer is not ours.optimizer
        before = options(ours)
        for epoch in range(3, 6):
            advance(twin, epoch)
        assert options(ours) == before
        again = copy.deepcopy(ours)
        for epoch in range(3, 6):
            advance(again, epoch)
        assert options(twin) == options(again)


@pytest.mark.filterwarnings("ignore:The epoch parameter")
@pytest.mark.parametrize(
    "name", [name for name in SCHEDULES if name.split()[0] not in ("SequentialLR", "ChainedScheduler", "SWALR")]
)
def test_closed_forms(name: str) -> None:
    """To go to an epoch at once."""
    ours, theirs = pair(name)
    for epoch in (2, 7, 1, 4):
        for scheduler in (ours, theirs):
            scheduler.step(1.5, epoch) if "Plateau" in name else scheduler.step(epoch)
        check(ours, theirs)
        advance(ours, epoch)
        advance(theirs, epoch)
        check(ours, theirs)


@given(st.integers(1, 7), st.integers(1, 3), st.lists(st.one_of(st.none(), st.floats(0, 40)), max_size=6))
def test_restarts_at_any_epoch(t_0: int, t_mult: int, epochs: list[float | None]) -> None:
    ours, theirs = (
        library.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, t_0, t_mult)
        for library, optimizer in zip((optim, torch.optim), optimizers())
    )
    for epoch in epochs:
        ours.step(epoch)
        theirs.step(epoch)
        check(ours, theirs)


@pytest.mark.parametrize("last_epoch", [0, 3])
@pytest.mark.parametrize(
    "make",
    [
        lambda lib, opt, last: lib.LambdaLR(opt, lambda epoch: 0.9**epoch, last),
        lambda lib, opt, last: lib.MultiplicativeLR(opt, lambda epoch: 0.9, last),
        lambda lib, opt, last: lib.StepLR(opt, 2, last_epoch=last),
        lambda lib, opt, last: lib.MultiStepLR(opt, [2, 4], last_epoch=last),
        lambda lib, opt, last: lib.ConstantLR(opt, 0.5, 3, last),
        lambda lib, opt, last: lib.LinearLR(opt, total_iters=6, last_epoch=last),
        lambda lib, opt, last: lib.ExponentialLR(opt, 0.5, last),
        lambda lib, opt, last: lib.PolynomialLR(opt, 9, 2.0, last),
        lambda lib, opt, last: lib.CosineAnnealingLR(opt, 6, last_epoch=last),
        lambda lib, opt, last: lib.CosineAnnealingWarmRestarts(opt, 3, last_epoch=last),
        lambda lib, opt, last: lib.CyclicLR(opt, 0.1, 0.2, 3, cycle_momentum=False, last_epoch=last),
    ],
)
def test_training_that_is_resumed(make: Any, last_epoch: int) -> None:
    made = optimizers()
    for optimizer in made:
        for i, group in enumerate(optimizer.param_groups):
            group["initial_lr"] = 0.4 - 0.1 * i
    ours, theirs = (
        make(library.lr_scheduler, optimizer, last_epoch) for library, optimizer in zip((optim, torch.optim), made)
    )
    made[0].step([jnp.ones(2)] * 2)
    made[1].step()
    for _ in range(3):
        check(ours, theirs)
        ours.step()
        theirs.step()


@pytest.mark.parametrize("x64", [True, False], ids=["64 bits", "32 bits"])
def test_other_changes_of_the_learning_rate(x64: bool) -> None:
    """The chained forms start from what the group has, whoever set it."""
    with jax.enable_x64(x64):
        made = optimizers("SGD", momentum=0.0)
        pairs = [
            (library.lr_scheduler.ExponentialLR(opt, 0.7), library.lr_scheduler.CosineAnnealingLR(opt, 5))
            for library, opt in zip((optim, torch.optim), made)
        ]
        made[1].step()
        for epoch in range(9):
            for optimizer, schedulers in zip(made, pairs):
                for scheduler in schedulers:
                    scheduler.step()
                if epoch == 4:
                    optimizer.param_groups[0]["lr"] *= 3
            for ours, theirs in zip(*pairs):
                check(ours, theirs)


@pytest.mark.parametrize(
    "name", [name for name in SCHEDULES if name.split()[0] not in ("OneCycleLR", "CyclicLR")] + ["CyclicLR"]
)
def test_nothing_is_compiled(name: str) -> None:
    scheduler, _ = pair(name)
    advance(scheduler, 0)
    with compilations() as compiled:
        for epoch in range(1, 14):
            advance(scheduler, epoch)
    assert not compiled


@pytest.mark.parametrize("name", [*lr_scheduler.__all__, "SWALR"])
def test_signature(name: str) -> None:
    ours, theirs = (
        inspect.signature(getattr(Schedulers(library), name)).parameters for library in (optim, torch.optim)
    )
    assert [(p.name, p.default, p.kind) for p in ours.values()] == [
        (p.name, p.default, p.kind) for p in theirs.values()
    ]


def test_all_of_torchs_names() -> None:
    assert sorted(lr_scheduler.__all__) == sorted(torch.optim.lr_scheduler.__all__)
    assert sorted(optim.swa_utils.__all__) == sorted(torch.optim.swa_utils.__all__)
    absent = {"SparseAdam", "swap_in_optimizer_params_and_state"}
    assert set(torch.optim.__all__) - set(optim.__all__) == absent


@pytest.mark.parametrize(
    "make",
    [
        lambda lib, opt: lib.LambdaLR(opt, [abs]),
        lambda lib, opt: lib.MultiplicativeLR(opt, [abs, abs, abs]),
        lambda lib, opt: lib.MultiplicativeLR(opt, 0.5),
        lambda lib, opt: lib.StepLR(3, 5),
        lambda lib, opt: lib.ConstantLR(opt, 1.5),
        lambda lib, opt: lib.LinearLR(opt, 0.0),
        lambda lib, opt: lib.LinearLR(opt, 0.5, 1.5),
        lambda lib, opt: lib.CosineAnnealingWarmRestarts(opt, 0),
        lambda lib, opt: lib.CosineAnnealingWarmRestarts(opt, 2, 0),
        lambda lib, opt: lib.CosineAnnealingWarmRestarts(opt, 2, eta_min="low"),
        lambda lib, opt: lib.CosineAnnealingWarmRestarts(opt, 2).step(-1),
        lambda lib, opt: lib.CyclicLR(opt, [0.1], 0.2),
        lambda lib, opt: lib.CyclicLR(opt, 0.1, [0.2]),
        lambda lib, opt: lib.CyclicLR(opt, 0.1, 0.2, mode="square"),
        lambda lib, opt: lib.OneCycleLR(opt, 0.1),
        lambda lib, opt: lib.OneCycleLR(opt, 0.1, total_steps=0),
        lambda lib, opt: lib.OneCycleLR(opt, 0.1, epochs=0, steps_per_epoch=2),
        lambda lib, opt: lib.OneCycleLR(opt, 0.1, epochs=2, steps_per_epoch=-1),
        lambda lib, opt: lib.OneCycleLR(opt, 0.1, 5, pct_start=2),
        lambda lib, opt: lib.OneCycleLR(opt, 0.1, 5, anneal_strategy="wave"),
        lambda lib, opt: lib.ReduceLROnPlateau(opt, factor=1.0),
        lambda lib, opt: lib.ReduceLROnPlateau(opt, mode="less"),
        lambda lib, opt: lib.ReduceLROnPlateau(opt, threshold_mode="both"),
        lambda lib, opt: lib.ReduceLROnPlateau(3),
        lambda lib, opt: lib.SequentialLR(opt, [], []),
        lambda lib, opt: lib.SequentialLR(opt, [3], []),
        lambda lib, opt: lib.SequentialLR(opt, [lib.StepLR(opt, 1)], [2]),
        lambda lib, opt: lib.SequentialLR(opt, [lib.ReduceLROnPlateau(opt)], []),
        lambda lib, opt: lib.ChainedScheduler([]),
        lambda lib, opt: lib.ChainedScheduler([lib.ReduceLROnPlateau(opt)]),
        lambda lib, opt: lib.SWALR(opt, 0.1, anneal_strategy="wave"),
        lambda lib, opt: lib.SWALR(opt, 0.1, anneal_epochs=-1),
        lambda lib, opt: lib.SWALR(opt, [0.1]),
    ],
)
def test_the_same_mistakes(make: Any) -> None:
    ours, theirs = optimizers()
    with pytest.raises((TypeError, ValueError)) as their_error:
        make(Schedulers(torch.optim), theirs)
    with pytest.raises(type(their_error.value)) as error:
        make(Schedulers(optim), ours)
    assert str(error.value) == str(their_error.value)


def test_mistakes() -> None:
    ours, _ = optimizers()
    with pytest.raises(KeyError, match=r"'initial_lr' is not specified in param_groups\[0\]"):
        lr_scheduler.StepLR(ours, 2, last_epoch=3)
    with pytest.raises(ValueError, match="optimizer must support momentum or beta1"):
        lr_scheduler.CyclicLR(optimizers("Adagrad")[0], 0.1, 0.2)
    with pytest.raises(ValueError, match="belong to the same optimizer"):
        lr_scheduler.SequentialLR(ours, [lr_scheduler.StepLR(optimizers()[0], 1)], [])
    parts = [lr_scheduler.StepLR(ours, 1) for _ in range(2)]
    with pytest.raises(
        ValueError, match="a ChainedScheduler cannot begin anew at a milestone, but there is one at index 1"
    ):
        lr_scheduler.SequentialLR(ours, [parts[0], lr_scheduler.ChainedScheduler(parts[1:])], [3])
    scheduler = lr_scheduler.StepLR(ours, 2)
    with pytest.raises(StateDictError, match="StepLR has no T_max: it is the state of another scheduler"):
        scheduler.load_state_dict({"last_epoch": 7, "T_max": 3})
    assert scheduler.last_epoch == 0
    with pytest.warns(UserWarning, match="please use `get_last_lr"):
        scheduler.get_lr()
    with pytest.raises(TypeError, match="LRScheduler defines no get_lr"):
        lr_scheduler.LRScheduler(ours)
    cycle = lr_scheduler.OneCycleLR(ours, 0.1, total_steps=3)
    factors = lr_scheduler.LambdaLR(ours, lambda epoch: 0.5)
    ours.step([jnp.ones(2)] * 2)
    for _ in range(3):
        cycle.step()
    with pytest.raises(ValueError, match="Tried to step 4 times"):
        cycle.step()
    assert cycle.last_epoch == 3
    ours.add_param_group({"params": Parameter(jnp.ones(2))})
    with pytest.raises(ValueError, match="made for 2 parameter groups, and the optimizer has 3 by now"):
        factors.step()


def test_optimizers_that_name_it_otherwise() -> None:
    import optax

    params = [Parameter(jnp.ones(2))]
    with pytest.raises(ValueError, match=r"name the learning rate so, as in Optimizer\(params, lambda lr"):
        lr_scheduler.StepLR(optim.Optimizer(params, optax.lion, learning_rate=0.1), 1)
    optimizer = optim.Optimizer(params, lambda lr: optax.lion(lr), lr=0.8)
    lr_scheduler.StepLR(optimizer, 1, gamma=0.5).step()
    assert optimizer.param_groups[0]["lr"] == 0.4


def test_the_wrong_order() -> None:
    """A scheduler that is stepped before its optimizer skips the first learning rate."""
    ours, _ = optimizers()
    scheduler = lr_scheduler.ExponentialLR(ours, 0.5)
    with pytest.warns(UserWarning, match="before `optimizer.step") as caught:
        scheduler.step()
    assert caught[0].filename == __file__
    scheduler.step()  # once is enough
    ours, _ = optimizers()
    ours.step([jnp.ones(2)] * 2)
    lr_scheduler.ExponentialLR(ours, 0.5).step()


def test_plateau_after_a_new_group() -> None:
    made = optimizers()
    ours, theirs = (lib.lr_scheduler.ReduceLROnPlateau(opt, patience=0) for lib, opt in zip((optim, torch.optim), made))
    made[0].add_param_group({"params": Parameter(jnp.ones(2)), "lr": 0.2})
    made[1].add_param_group({"params": torch.nn.Parameter(torch.ones(2)), "lr": 0.2})
    for loss in (1.0, 2.0):
        ours.step(jnp.asarray(loss))
        theirs.step(loss)
    check(ours, theirs)
    listed = lr_scheduler.ReduceLROnPlateau(optimizers()[0], patience=0, min_lr=[0.1, 0.1])
    listed.optimizer.add_param_group({"params": Parameter(jnp.ones(2))})
    listed.step(1.0)
    with pytest.raises(RuntimeError, match="set `min_lrs` to a list"):
        listed.step(2.0)
    assert listed.last_epoch == 1


class Factor:
    """A function of the epoch with state of its own."""

    def __init__(self, base: float) -> None:
        self.base = base

    def __call__(self, epoch: Any) -> Any:
        return self.base**epoch


@pytest.mark.parametrize(
    "make",
    [
        lambda lib, opt, base: lib.LambdaLR(opt, Factor(base)),
        lambda lib, opt, base: lib.CyclicLR(opt, 0.1, 0.5, 2, scale_fn=Factor(base)),
    ],
)
def test_functions_with_state(make: Any) -> None:
    made = optimizers()
    ours, theirs = (make(lib.lr_scheduler, opt, 0.5) for lib, opt in zip((optim, torch.optim), made))
    made[0].step([jnp.ones(2)] * 2)
    made[1].step()
    for _ in range(3):
        ours.step()
        theirs.step()
    check(ours, theirs)
    again = make(lr_scheduler, optimizers()[0], 0.9)
    again.load_state_dict(theirs.state_dict())
    again.optimizer.load_state_dict(ours.optimizer.state_dict())
    again.step()
    theirs.step()
    check(again, theirs)


class WarmUp:
    """As people write schedulers of their own, for either library."""

    def __init__(self, optimizer: Any, epochs: int) -> None:
        self.epochs = epochs
        super().__init__(optimizer)  # pyright: ignore[reportCallIssue]

    def get_lr(self) -> Iterator[Any] | list[Any]:
        if not self._get_lr_called_within_step:  # pyright: ignore[reportAttributeAccessIssue]
            warnings.warn("call get_last_lr()", stacklevel=2)
        share = min(1.0, (self.last_epoch + 1) / self.epochs)  # pyright: ignore[reportAttributeAccessIssue]
        return [lr * math.sqrt(share) for lr in self.base_lrs]  # pyright: ignore[reportAttributeAccessIssue]


class Every:
    """A scheduler that steps every second time only."""

    def __init__(self, optimizer: Any) -> None:
        self.count = 0
        super().__init__(optimizer)  # pyright: ignore[reportCallIssue]

    def step(self) -> None:
        self.count += 1
        if self.count % 2:
            super().step()  # pyright: ignore[reportAttributeAccessIssue]

    def get_lr(self) -> list[Any]:
        return [lr * 0.5**self.last_epoch for lr in self.base_lrs]  # pyright: ignore[reportAttributeAccessIssue]


def test_a_step_of_ones_own_as_a_part() -> None:
    made = optimizers()
    ours, theirs = (
        library.lr_scheduler.SequentialLR(
            optimizer,
            [
                type("Own", (Every, library.lr_scheduler.LRScheduler), {})(optimizer),
                library.lr_scheduler.ExponentialLR(optimizer, 0.9),
            ],
            milestones=[4],
        )
        for library, optimizer in zip((optim, torch.optim), made)
    )
    made[0].step([jnp.ones(2)] * 2)
    made[1].step()
    for _ in range(6):
        ours.step()
        theirs.step()
        check(ours, theirs)


def test_a_scheduler_of_ones_own() -> None:
    made = optimizers()
    ours, theirs = (
        type("Own", (WarmUp, library.lr_scheduler.LRScheduler), {})(optimizer, 4)
        for library, optimizer in zip((optim, torch.optim), made)
    )
    made[0].step([jnp.ones(2)] * 2)
    made[1].step()
    for _ in range(6):
        ours.step()
        theirs.step()
        check(ours, theirs)
    np.testing.assert_allclose(ours.get_last_lr(), [0.5, 0.05])
