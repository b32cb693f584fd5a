"""How the benchmarks measure: contenders take turns, so that what else the machine does falls on all alike."""

from __future__ import annotations

import gc
import multiprocessing
import random
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

Call = Callable[[], Any]

COMPILATION = "/jax/core/compile/backend_compile_duration"


def seconds(call: Call, repeat: int = 1) -> float:
    """Mean time of `repeat` calls in a row, the last one waited for."""
    result = None
    start = time.perf_counter()
    for _ in range(repeat):
        result = call()
    jax.block_until_ready(result)
    return (time.perf_counter() - start) / repeat


def in_turns(calls: Mapping[str, Call], rounds: int, repeat: int) -> dict[str, np.ndarray]:
    """Seconds per call of each contender in each round; every round has them in another order, drawn from one seed.

    A contender pays for what the one before it left in the caches, so that none may always follow the same one.
    """
    for call in calls.values():
        seconds(call, repeat)
    with _quiet_collector():
        names, order = list(calls), random.Random(0)
        times = {name: np.empty(rounds) for name in names}
        for number in range(rounds):
            order.shuffle(names)
            for name in names:
                times[name][number] = seconds(calls[name], repeat)
    return times


def ratio(times: Mapping[str, np.ndarray], name: str, base: str) -> float:
    """Median over the rounds of `name`'s time by `base`'s in the same round."""
    return float(np.median(times[name] / times[base]))


def in_fresh_processes() -> ProcessPoolExecutor:
    """Runs each task that it is given in a process of its own, one after the other."""
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1)


@contextmanager
def compilations() -> Iterator[list[str]]:
    """A list that gets one entry for each program that XLA compiles inside the block."""
    seen: list[str] = []

    def listen(event: str, duration_secs: float, **details: str | int) -> None:
        if event == COMPILATION:
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@contextmanager
def _quiet_collector() -> Iterator[None]:
    """The garbage collector goes on, but no longer walks through what the imports of six libraries left in memory."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
