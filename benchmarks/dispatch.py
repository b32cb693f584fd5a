"""What a compiled call costs: flambeau, and others, against lists of arrays through one donated `jax.jit`.

    python benchmarks/dispatch.py            # everything, ten minutes
    python benchmarks/dispatch.py --quick    # fewer rounds, for a first look
    python benchmarks/dispatch.py --network mlp --only equinox torch

The networks are so narrow that nearly all of the time is dispatch: an MLP, with which all libraries are compared, and those
of ResNet-50 and GPT-2 small, with the state of an optimizer, statistics and random numbers. A call is timed among its like, as
in a training loop, and where steps and forwards alternate ("both"). Ratios are medians over rounds in which all contenders
take turns, and means over some processes; single times depend on the machine and on what else runs on it.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

import mlp
import networks
from measure import compilations, in_fresh_processes, in_turns, ratio, seconds
from mlp import BASELINE, FLAMBEAU, Contender, Workload, flambeau_module

Builders = Mapping[str, Callable[[], Contender]]

# What flambeau is to reach, as multiples of the hand-flattened one.
STEP_TARGET = 1.05
FORWARD_TARGET = 1.1
FIRST_CALL_TARGET = 1.3
# What the baseline's own second instance reaches, to tell how far ratios can be trusted.
CONTROL = "the same once more"


@dataclass(frozen=True)
class Effort:
    """How long to measure: processes, rounds of calls in turns, calls per turn, and repetitions of the first call."""

    processes: int = 5
    rounds: int = 80
    repeat: int = 20
    first_calls: int = 7


QUICK = Effort(processes=2, rounds=20, repeat=10, first_calls=3)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, for a first look")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="contenders whose name has one of these in it")
    names = ("mlp", *networks.TRAININGS)
    parser.add_argument("--network", nargs="+", choices=names, default=names, help="which of them (all)")
    parser.add_argument("--depth", type=int, default=Workload.depth, help="layers of the MLP (%(default)s)")
    parser.add_argument("--width", type=int, default=Workload.width, help="width of each of them (%(default)s)")
    return parser.parse_args()


def builders_of(builders: Mapping[str, Callable[[Any], Contender]], given: Any, only: list[str] | None) -> Builders:
    """What builds each of the contenders that are wanted; the baseline is always among them, and once more, as a control."""
    wanted = [word.lower() for word in only or [""]]
    names = [name for name in builders if name == BASELINE or any(word in name.lower() for word in wanted)]
    found = {name: partial(builders[name], given) for name in names}
    return {BASELINE: found[BASELINE], CONTROL: found[BASELINE], **found}


def build(builders: Builders, names: Sequence[str]) -> dict[str, Contender]:
    """The contenders in the order of their names, without those whose package is not installed."""
    built: dict[str, Contender] = {}
    for name in names:
        try:
            built[name] = builders[name]()
        except ModuleNotFoundError as missing:
            if (missing.name or "").split(".")[0] == "flambeau":
                raise
    return built


def require_same_losses(contenders: Mapping[str, Contender]) -> None:
    """Stops when a contender does not do the work that the baseline does: its losses over some steps tell."""
    losses = {name: [float(each.step()) for _ in range(4)] for name, each in contenders.items()}
    for name, values in losses.items():
        if not np.allclose(values, losses[BASELINE], rtol=1e-4):
            raise SystemExit(f"{name} computes something else: losses {values}, expected {losses[BASELINE]}")


def _step_and_forward(of: Contender) -> Callable[[], Any]:
    def both() -> Any:
        of.step()
        return of.forward()

    return both


CALLS: dict[str, Callable[[Contender], Callable[[], Any]]] = {
    "step": lambda of: of.step,
    "forward": lambda of: of.forward,
    "both": _step_and_forward,
}

Times = dict[str, dict[str, np.ndarray]]  # seconds per call of each contender in each round, by the kind of call


def time_calls(builders: Builders, effort: Effort, seed: int) -> Times:
    """Builds all contenders, in an order drawn from the seed, and lets them take turns."""
    built = build(builders, random.Random(seed).sample(list(builders), len(builders)))
    require_same_losses(built)
    return {
        title: in_turns({name: call_of(each) for name, each in built.items()}, effort.rounds, effort.repeat)
        for title, call_of in CALLS.items()
    }


def time_in_processes(builders: Builders, effort: Effort) -> list[Times]:
    """The same in some fresh processes, one after the other.

    Where its arrays come to lie in memory makes a contender some percent faster or slower for as long as it lives, and what
    was built before in a process makes all of them slower.
    """
    with in_fresh_processes() as pool:
        return list(pool.map(partial(time_calls, builders, effort), range(effort.processes)))


def calls_table(builders: Builders, effort: Effort) -> Table:
    """Time of a call, for the training step, for the forward, and for one of each."""
    caption = f"to reach: step ≤ {STEP_TARGET}, forward ≤ {FORWARD_TARGET}"
    table = Table("contender", title="time per call", caption=caption)
    timed = time_in_processes(builders, effort)
    for title in CALLS:
        table.add_column(f"{title} µs", justify="right")
        table.add_column("× hand", justify="right")
    for name in builders:
        if name in timed[0]["step"]:
            columns = [[times[title] for times in timed] for title in CALLS]
            table.add_row(name, *(cell for column in columns for cell in _time_and_ratio(column, name)))
        else:
            table.add_row(name, "not installed", style="dim")
    return table


def _time_and_ratio(processes: Sequence[Mapping[str, np.ndarray]], name: str) -> tuple[str, str]:
    microseconds = np.mean([1e6 * np.median(times[name]) for times in processes])
    return f"{microseconds:.0f}", f"{np.mean([ratio(times, name, BASELINE) for times in processes]):.2f}"


def first_calls(builders: Builders, call_of: Callable[[Contender], Callable], effort: Effort) -> dict[str, np.ndarray]:
    """Seconds of the first call (trace, compile, run) with nothing cached, the two in turns."""
    names = (BASELINE, FLAMBEAU)
    times = {name: np.empty(effort.first_calls) for name in names}
    for number in range(effort.first_calls):
        for name in names if number % 2 else names[::-1]:
            call = call_of(builders[name]())
            jax.clear_caches()
            times[name][number] = seconds(call)
    return times


def first_call_table(builders: Builders, effort: Effort) -> Table:
    """Time of the first call, flambeau beside the baseline."""
    table = Table(title="first call: trace, compile, run", caption=f"to reach: ≤ {FIRST_CALL_TARGET}")
    table.add_column("of")
    for column in ("hand ms", "flambeau ms", "ratio"):
        table.add_column(column, justify="right")
    for title, call_of in (("step", lambda each: each.step), ("forward", lambda each: each.forward)):
        times = first_calls(builders, call_of, effort)
        hand, ours = (f"{1e3 * np.median(times[name]):.0f}" for name in (BASELINE, FLAMBEAU))
        table.add_row(title, hand, ours, f"{ratio(times, FLAMBEAU, BASELINE):.2f}")
    return table


def compilations_table(work: Workload) -> Table:
    """How many programs XLA compiles where flambeau should compile none."""
    table = Table(title="compilations of flambeau", caption="to reach: 0 and 0 after the first")
    table.add_column("event")
    table.add_column("programs", justify="right")
    for event, count in count_compilations(work).items():
        table.add_row(event, str(count))
    return table


def count_compilations(work: Workload) -> dict[str, int]:
    """Compilations of one training step: at first, for a second module, and for a toggle between two seen modes."""
    import flambeau as fb
    from flambeau.nn import functional as F

    @fb.jit
    def train(net, optimizer, x, y):
        loss, grads = fb.value_and_grad(lambda net: F.mse_loss(net(x), y))(net)
        optimizer.step(grads)
        return loss

    x, y = map(jax.numpy.asarray, work.batch_of_data())
    nets = [flambeau_module(work) for _ in range(2)]
    optimizers = [fb.optim.SGD(net.parameters(), lr=work.lr) for net in nets]
    counts: dict[str, int] = {}

    def run(event: str, which: int, *modes: bool) -> None:
        with compilations() as seen:
            for mode in modes:
                nets[which].train(mode)
                train(nets[which], optimizers[which], x, y).block_until_ready()
        counts[event] = len(seen)

    run("first call", 0, True)
    run("second module of the same structure", 1, True)
    run("first call in eval()", 0, False)
    run("train()/eval() toggled, both seen", 0, True, False, True, False)
    return counts


def main() -> None:
    given = options()
    effort = QUICK if given.quick else Effort()
    console = Console()
    console.print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}")
    for network in given.network:
        if network == "mlp":
            work = Workload(depth=given.depth, width=given.width)
            title = f"MLP of {work.depth} layers of width {work.width}, batch {work.batch}, SGD"
            builders = builders_of(mlp.BUILDERS, work, given.only)
        else:
            work = networks.TRAININGS[network]
            title = work.title
            builders = builders_of(networks.BUILDERS, work, given.only)
            # Half a minute for each first call.
            effort = replace(effort, processes=min(2, effort.processes), first_calls=min(3, effort.first_calls))
        console.rule(title)
        console.print(calls_table(builders, effort))
        if FLAMBEAU in builders:
            console.print(first_call_table(builders, effort))
            if isinstance(work, Workload):
                console.print(compilations_table(work))


if __name__ == "__main__":
    main()
