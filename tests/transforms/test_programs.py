"""The promise, on random programs: a function under a transform leaves every module as eager execution leaves it.

`FLAMBEAU_PROGRAMS` is how many programs there are: 1,000 unless it is set; `make programs` runs 10,000. They come in shards,
so that `pytest -n 2` shares them out; in CI each shard starts from a seed of its own.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, seed, settings

from flambeau._errors import BakedValueWarning, FlambeauWarning, HiddenModulesWarning, RecompilationWarning, StateError
from flambeau.core.module import Module
from tests.transforms.programs import Program, programs
from tests.transforms.runner import TRANSFORMS, Call, Runner, compare, unforeseen

PROGRAMS = int(os.environ.get("FLAMBEAU_PROGRAMS", "1000"))
SHARD = 50
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much, HealthCheck.large_base_example]
STEP = 1e-5  # of the finite differences

FILLS = re.compile(
    r"\.(append|extend|insert|pop|clear|reverse|add|update|setdefault)\(|\]\)? [+*]?= |trace \+= |del .*\["
)

# JAX's own transforms in the places of those of flambeau, but for `jit` and `grad`.
RAW: dict[str, Any] = TRANSFORMS | {
    "checkpoint": jax.checkpoint, "jacrev": jax.jacrev, "jacfwd": jax.jacfwd, "jvp": jax.jvp, "linearize": jax.linearize,
    "vjp": jax.vjp, "scan": jax.lax.scan, "fori_loop": jax.lax.fori_loop, "while_loop": jax.lax.while_loop,
    "cond": jax.lax.cond, "switch": jax.lax.switch, "vmap": lambda f, randomness: jax.vmap(f), "eval_shape": jax.eval_shape,
    "map": lambda f, xs, reverse=False: jax.lax.scan(lambda _, x: (0, f(x)), 0, xs, reverse=reverse)[1],
}  # fmt: skip


def check(program: Program) -> None:
    """Eager, compiled, differentiated, and compiled with its gradient: all the same, on one world and on a second one."""
    reference = Runner(program).run()
    expectations = [(reference, False)]
    if program.differentiable:
        differentiated = Runner(program, differentiated=True).run()
        compare("fb.value_and_grad", reference, differentiated)
        check_gradients(program, differentiated[0])
        expectations.append((differentiated, True))
    for expected, with_gradient in expectations:
        if program.transforms:
            name = "transformed, with gradients" if with_gradient else "transformed"
            runner = Runner(program, transformed=True, differentiated=with_gradient)
            compare(name, expected, runner.run(), unforeseen(program))
        runner = Runner(program, compiled=True, differentiated=with_gradient)
        name = "fb.jit of fb.value_and_grad" if with_gradient else "fb.jit"
        compare(name, expected, runner.run(), unforeseen(program))
        if program.shared:
            before = runner.compilations()
            compare(f"{name}, a second object", expected, runner.run(), unforeseen(program))
            assert runner.compilations() == before, f"{name}: a second object of the same structure compiled again"
    if program.is_module_call:
        compare("Module.compile", reference, Runner(program).run(lambda net: net.compile()))


def check_raw(program: Program) -> None:
    """JAX's own transforms, alone and inside of flambeau's: what eager execution leaves, or a StateError.

    A list that is changed in a raw transform, and in no call of a module, is a list of Python as any other.
    """
    functions = [*program.step, *program.loss, *(line for line in program.body if line.startswith("    "))]
    if not program.transforms or FILLS.search("\n".join(functions)):
        return
    for differentiated in (False, True) if program.differentiable else (False,):
        expected = Runner(program, differentiated=differentiated).run()
        for compiled in (False, True):
            runner = Runner(program, transformed=True, compiled=compiled, differentiated=differentiated, transforms=RAW)
            name = f"raw transforms, {compiled=}, {differentiated=}"
            compare(name, expected, runner.run(), (StateError.__name__, *unforeseen(program)))


def check_gradients(program: Program, call: Call) -> None:
    """The first call's gradient along one direction is the finite difference of eager execution."""
    if call.raised:
        return

    def move(size: float) -> Callable[[Module], None]:
        def prepare(net: Module) -> None:
            for name, parameter in net.named_parameters():
                if parameter.requires_grad:
                    parameter.data = parameter.data + size * _direction(name, parameter.shape)

        return prepare

    losses = [Runner(program).run(move(size))[0].result for size in (-STEP, STEP)]
    assert not any(isinstance(loss, str) for loss in losses)
    (_, (low, _)), (_, (high, _)) = losses
    slope = sum(np.sum(_direction(name, gradient.shape) * gradient) for name, gradient in call.gradients.items())
    np.testing.assert_allclose(slope, (high - low) / (2 * STEP), rtol=1e-5, atol=1e-6 * (1 + abs(high)))


def _direction(name: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.cos(len(name) + ord(name[0]) + np.arange(np.prod(shape))).reshape(shape)


@pytest.fixture(autouse=True)
def keeping_nothing() -> Iterator[None]:
    """What random programs compile is no use to the next run."""
    seconds = jax.config.values["jax_persistent_cache_min_compile_time_secs"]
    jax.config.update("jax_persistent_cache_min_compile_time_secs", float("inf"))
    yield
    jax.config.update("jax_persistent_cache_min_compile_time_secs", seconds)


@pytest.mark.parametrize("shard", range(-(-PROGRAMS // SHARD)))
def test_programs(shard: int) -> None:
    run(check, shard, PROGRAMS)


@pytest.mark.parametrize("shard", range(-(-PROGRAMS // SHARD // 5)))
def test_raw_transforms_in_programs(shard: int) -> None:
    run(check_raw, shard, PROGRAMS // 5)


def run(check: Callable[[Program], None], shard: int, count: int) -> None:
    """Checks those of `count` programs that are in a shard."""

    # No database: once there is a failure in it, the shards that come after would run that program and no other.
    @settings(max_examples=min(SHARD, count - shard * SHARD), suppress_health_check=SLOW, database=None)
    @given(programs())
    def check_each(program: Program) -> None:
        with warnings.catch_warnings():
            for expected in (HiddenModulesWarning, RecompilationWarning, BakedValueWarning):
                warnings.simplefilter("ignore", expected)
            warnings.filterwarnings("ignore", "scan_layers: layers .* are called one by one", FlambeauWarning)
            check(program)

    if settings().derandomize:
        check_each = seed(shard)(check_each)
    check_each()
    jax.clear_caches()  # thousands of compiled programs in one process make it slow
