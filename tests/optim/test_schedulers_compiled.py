"""Schedulers in compiled functions leave what they leave outside of them, and compile once."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from flambeau import optim
from flambeau._errors import StateError
from flambeau.core.cell import Parameter
from flambeau.optim import lr_scheduler
from flambeau.transforms.grad import value_and_grad
from flambeau.transforms.jit import jit
from tests.optim.schedules import SCHEDULES, Schedulers, losses
from tests.optim.small import Net, assert_same, compilations, loss


def made(name: str) -> Any:
    params = [Parameter(jnp.ones(2)) for _ in range(2)]
    groups = [{"params": [params[0]]}, {"params": [params[1]], "lr": 0.05}]
    optimizer = optim.SGD(groups, lr=0.5, momentum=0.9)
    scheduler = SCHEDULES[name](Schedulers(optim), optimizer)
    optimizer.step([jnp.ones(2)] * 2)
    return scheduler


def advance(scheduler: Any, metric: Any) -> list[Any]:
    if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
        scheduler.step(metric)
    else:
        scheduler.step()
    return scheduler.get_last_lr()


def everything(scheduler: Any) -> Any:
    groups = [{k: v for k, v in group.items() if k != "params"} for group in scheduler.optimizer.param_groups]
    return groups, plain(scheduler.state_dict())


def plain(state: Any) -> Any:
    """Lists and dicts of nothing but numbers."""
    if isinstance(state, dict):
        return {name: plain(value) for name, value in state.items() if "lambda" not in str(name)}
    return list(map(plain, state)) if isinstance(state, list) else state


@pytest.mark.parametrize("x64", [True, False], ids=["64 bits", "32 bits"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_same_as_eager(name: str, x64: bool) -> None:
    tolerance = 1e-12 if x64 else 1e-5
    with jax.enable_x64(x64):
        scheduler, twin = made(name), made(name)
        step = jit(advance)
        for epoch, metric in enumerate(losses(14)):
            lrs = step(scheduler, jnp.asarray(metric))
            assert_same(list(map(float, lrs)), list(map(float, advance(twin, metric))), tolerance)
            if epoch == 6:  # a step outside of the compiled function
                advance(scheduler, metric)
                advance(twin, metric)
            if twin.state_dict().get("last_epoch") == getattr(scheduler, "total_steps", None):
                break
        assert_same(everything(scheduler), everything(twin), tolerance)
        assert len(step._programs) == 1


def training_step(net: Net, optimizer: Any, scheduler: Any) -> jax.Array:
    value, grads = value_and_grad(loss)(net)
    optimizer.step(grads)
    scheduler.step()
    return value


@pytest.mark.parametrize("how", ["argument", "closure"])
def test_in_a_training_step(how: str) -> None:
    """Whatever the numbers are, and whichever scheduler of that structure it is, it compiles once."""
    net, twin = Net(), Net()
    optimizer, its = (optim.AdamW(each.parameters(), lr=0.1) for each in (net, twin))
    scheduler, that = (lr_scheduler.OneCycleLR(each, 0.2, total_steps=9) for each in (optimizer, its))
    compiled = jit(training_step)
    closed = jit(lambda: training_step(net, optimizer, scheduler))
    for epoch in range(5):
        if epoch == 3:
            optimizer.param_groups[0]["lr"] = its.param_groups[0]["lr"] = 0.3
        compiled(net, optimizer, scheduler) if how == "argument" else closed()
        training_step(twin, its, that)
    assert_same(dict(net.state_dict()), dict(twin.state_dict()), 1e-10)
    assert_same(everything(scheduler), everything(that), 1e-10)
    assert len((compiled if how == "argument" else closed)._programs) == 1
    other = optim.AdamW(net.parameters(), lr=0.7)
    another = lr_scheduler.OneCycleLR(other, 0.9, total_steps=9)
    with compilations() as compiled_again:
        compiled(net, other, another)
    assert not compiled_again or how == "closure"


def test_outside_of_a_compiled_step_it_recompiles_nothing() -> None:
    net = Net()
    optimizer = optim.Adam(net.parameters(), lr=0.1)
    scheduler = lr_scheduler.CosineAnnealingLR(optimizer, 10)

    @jit
    def step(net: Net, optimizer: Any) -> None:
        optimizer.step(value_and_grad(loss)(net)[1])

    step(net, optimizer)
    scheduler.step()
    with compilations() as compiled:
        for _ in range(4):
            step(net, optimizer)
            scheduler.step()
    assert len(step._programs) == 1 and not compiled


def test_an_exception_changes_nothing() -> None:
    scheduler = made("SequentialLR")

    @jit
    def fail(scheduler: Any) -> None:
        scheduler.step()
        raise KeyError("in the middle")

    before = everything(scheduler)
    with pytest.raises(KeyError, match="in the middle"):
        fail(scheduler)
    assert_same(everything(scheduler), before)

    def broken(epoch: Any) -> float:
        return 1.0 if epoch < 1 else 1 / 0

    scheduler = lr_scheduler.LambdaLR(scheduler.optimizer, broken)
    before = everything(scheduler)
    with pytest.raises(ZeroDivisionError):
        scheduler.step()
    assert_same(everything(scheduler), before)


@pytest.mark.parametrize(
    "decide",
    [
        lambda epoch: 0.5 if epoch > 3 else 1.0,
        lambda epoch: [1.0, 0.5, 0.1][epoch],
        lambda epoch: float(epoch) * 0.1,
        lambda epoch: 1 / len(range(epoch + 1)),
    ],
)
def test_decisions_by_python(decide: Any) -> None:
    """What needs the value of the epoch says so, and works outside."""
    optimizer = optim.SGD([Parameter(jnp.ones(2))], lr=0.5)
    scheduler = lr_scheduler.LambdaLR(optimizer, decide)
    with pytest.raises(StateError, match=r"LambdaLR\.step: inside of a compiled function the epoch is an array"):
        jit(lambda: scheduler.step())()
    assert scheduler.last_epoch == 0
    scheduler.step()
    assert scheduler.get_last_lr() == [0.5 * decide(1)]


def test_made_inside() -> None:
    def make(optimizer: Any) -> Any:
        scheduler = lr_scheduler.SequentialLR(
            optimizer,
            [
                lr_scheduler.LinearLR(optimizer, 0.1, total_iters=2),
                lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 3),
            ],
            milestones=[2],
        )
        scheduler.step()
        return scheduler

    optimizer = optim.SGD([Parameter(jnp.ones(2))], lr=0.5)
    scheduler = jit(make)(optimizer)
    its = optim.SGD([Parameter(jnp.ones(2))], lr=0.5)
    twin = make(its)
    for _ in range(4):
        assert_same(everything(scheduler), everything(twin), 1e-12)
        scheduler.step()
        twin.step()


def test_beyond_the_end_of_one_cycle() -> None:
    """A compiled function cannot raise: the last learning rate stays."""
    scheduler = made("OneCycleLR")
    step = jit(lambda scheduler: scheduler.step())
    seen = []
    for _ in range(17):
        step(scheduler)
        seen.append(scheduler.get_last_lr())
    assert seen[13] != seen[14] == seen[15] == seen[16]


@pytest.mark.parametrize("total", [10_000, 1_000_000])
def test_a_long_cosine_in_32_bits(total: int) -> None:
    """Compiled, the recursion keeps to the cosine to the end: no digits are lost near the minimum."""
    with jax.enable_x64(False):
        optimizer = optim.SGD([Parameter(jnp.ones(2))], lr=0.5)
        scheduler = lr_scheduler.CosineAnnealingLR(optimizer, total)

        step = jit(lambda scheduler: scheduler.step())
        for start in (total // 2, total - 3):
            with pytest.warns(UserWarning, match="The epoch parameter"):
                scheduler.step(start)
            for _ in range(3):
                step(scheduler)
            (exact,) = scheduler._get_closed_form_lr()
            assert scheduler.get_last_lr()[0] == pytest.approx(exact, rel=1e-5, abs=1e-12)
