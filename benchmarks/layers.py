"""What a layer costs: forward and gradient of flambeau's under `fb.jit`, against the obvious form under `jax.jit`.

    python benchmarks/layers.py                     # every layer, some minutes
    python benchmarks/layers.py --quick             # fewer rounds, for a first look
    python benchmarks/layers.py --forward           # without gradients
    python benchmarks/layers.py --only lstm pool

No layer may be slower compiled than what one would write in `jax.numpy` without it (`obvious.py`). PyTorch runs beside
them, eagerly, where it is installed. All have to give the same numbers before they are timed. Ratios to the obvious form
are medians over rounds in which the two take turns; times, and ratios to PyTorch's, depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

import flambeau as fb
from flambeau import nn
from measure import in_turns, ratio, seconds
from obvious import ROWS, Row

# What flambeau is to reach, as a multiple of the obvious form; what is above it is marked.
TARGET = 1.1

OURS, OBVIOUS, TORCH = "flambeau", "obvious", "torch eager"


@dataclass(frozen=True)
class Effort:
    """How long to measure: rounds of turns, and seconds that a turn lasts at least."""

    rounds: int = 31
    turn: float = 0.05


QUICK = Effort(rounds=9, turn=0.02)

Step = Callable[[], Any]
"""Gives the loss, the gradients of the parameters by name and a list of those of the floating inputs; or the output alone."""


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, for a first look")
    parser.add_argument("--forward", action="store_true", help="without gradients")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="layers whose name has one of these in it")
    return parser.parse_args()


def chosen(only: list[str] | None) -> list[Row]:
    words = [word.lower() for word in only or [""]]
    rows = [row for row in ROWS if any(word in row.name.lower() for word in words)]
    if not rows:
        raise SystemExit(f"no layer has {' or '.join(words)} in its name: {', '.join(row.name for row in ROWS)}")
    return rows


def floating(row: Row) -> list[int]:
    """Which inputs are differentiated."""
    return [i for i, x in enumerate(row.inputs) if np.issubdtype(x.dtype, np.floating)]


class Twins:
    """A layer and what it computes with, handed to all contenders alike."""

    def __init__(self, row: Row) -> None:
        fb.manual_seed(0)
        self.row = row
        self.net = row.make(nn)
        cells = [self.net.named_parameters(), self.net.named_buffers()] if isinstance(self.net, nn.Module) else [[], []]
        self.parameters, self.buffers = ({name: np.asarray(cell.data) for name, cell in each} for each in cells)
        values = {name: jnp.asarray(value) for name, value in (self.parameters | self.buffers).items()}
        output = jax.eval_shape(lambda *inputs: split(row.obvious(values, *inputs))[0], *row.inputs)
        # What the output is multiplied with, so that no gradient is the same everywhere.
        self.probe = np.asarray(np.random.default_rng(0).standard_normal(output.shape), np.float32)


def split(output: Any) -> tuple[Any, dict[str, Any]]:
    """Output and new buffers of an obvious form."""
    return output if isinstance(output, tuple) else (output, {})


def flambeau_step(twins: Twins, forward: bool) -> Step:
    row, net, probe = twins.row, twins.net, jnp.asarray(twins.probe)
    inputs = [jnp.asarray(x) for x in row.inputs]
    wanted = [0] * bool(twins.parameters) + [i + 1 for i in floating(row)]

    @fb.jit
    def step(probe: jax.Array, *inputs: jax.Array) -> Any:
        if forward:
            return row.call(net, *inputs)

        def loss(net: Any, *inputs: jax.Array) -> jax.Array:
            return (row.call(net, *inputs) * probe).sum()

        value, grads = fb.value_and_grad(loss, argnums=wanted)(net, *inputs)
        return (value, dict(grads[0]), [*grads[1:]]) if twins.parameters else (value, {}, [*grads])

    return lambda: step(probe, *inputs)


def obvious_step(twins: Twins, forward: bool) -> Step:
    row, probe = twins.row, jnp.asarray(twins.probe)
    inputs = [jnp.asarray(x) for x in row.inputs]
    parameters, buffers = ({k: jnp.asarray(v) for k, v in each.items()} for each in (twins.parameters, twins.buffers))
    wanted = [0, *(i + 1 for i in floating(row))]

    @jax.jit
    def compiled(parameters: Any, buffers: Any, probe: jax.Array, *inputs: jax.Array) -> tuple[Any, Any]:
        if forward:
            return split(row.obvious(parameters | buffers, *inputs))

        def loss(parameters: Any, *inputs: jax.Array) -> tuple[jax.Array, Any]:
            output, state = split(row.obvious(parameters | buffers, *inputs))
            return (output * probe).sum(), state

        (value, state), grads = jax.value_and_grad(loss, argnums=wanted, has_aux=True)(parameters, *inputs)
        return (value, grads[0], [*grads[1:]]), state

    def step() -> Any:
        nonlocal buffers
        result, buffers = compiled(parameters, buffers, probe, *inputs)
        return result

    return step


def torch_step(twins: Twins, forward: bool) -> Step:
    import torch

    warnings.filterwarnings("ignore", "LSTM with projections is not supported with oneDNN")
    row, net, probe = twins.row, twins.row.make(torch.nn), torch.tensor(twins.probe)
    if isinstance(net, torch.nn.Module):
        net.load_state_dict({k: torch.tensor(v) for k, v in (twins.parameters | twins.buffers).items()})
    inputs = [torch.tensor(x, requires_grad=i in floating(row)) for i, x in enumerate(row.inputs)]
    parameters = dict(net.named_parameters()) if twins.parameters else {}
    wanted = [*parameters.values(), *(x for x in inputs if x.requires_grad)]

    def run() -> Any:
        with torch.inference_mode():
            return row.call(net, *inputs)

    def step() -> Any:
        value = (row.call(net, *inputs) * probe).sum()
        grads = torch.autograd.grad(value, wanted)
        return value.detach(), dict(zip(parameters, grads)), [*grads[len(parameters) :]]

    return run if forward else step


BUILDERS: dict[str, Callable[[Twins, bool], Step]] = {OURS: flambeau_step, OBVIOUS: obvious_step, TORCH: torch_step}


def steps_of(row: Row, forward: bool) -> dict[str, Step]:
    """Each contender's step, but for torch's where that is not installed."""
    twins, steps = Twins(row), {}
    for name, build in BUILDERS.items():
        try:
            steps[name] = build(twins, forward)
        except ModuleNotFoundError as missing:
            if missing.name != "torch":
                raise
    return steps


def require_same(row: Row, steps: Mapping[str, Step]) -> None:
    """Stops where a contender computes something else."""
    results = {name: jax.tree.leaves(jax.tree.map(np.asarray, step())) for name, step in steps.items()}
    for name, leaves in results.items():
        for found, expected in zip(leaves, results[OBVIOUS], strict=True):
            scale = float(np.abs(expected).max())
            if not np.allclose(found, expected, rtol=1e-3, atol=1e-4 * scale):
                worst = float(np.abs(found - expected).max())
                raise SystemExit(f"{row.name}: {name} computes something else, {worst:.2g} from values of {scale:.2g}")


def measured(row: Row, forward: bool, effort: Effort) -> dict[str, np.ndarray]:
    """Seconds per call of each contender."""
    steps = steps_of(row, forward)
    require_same(row, steps)
    # torch's threads keep the cores busy for a while after a call, which would always fall on the one whose turn is next.
    apart = [{OURS: steps.pop(OURS), OBVIOUS: steps.pop(OBVIOUS)}, steps]
    times: dict[str, np.ndarray] = {}
    for group in filter(None, apart):
        longest = max(seconds(step) for step in group.values())
        times |= in_turns(group, effort.rounds, max(1, round(effort.turn / longest)))
    return times


def main() -> None:
    given = options()
    effort = QUICK if given.quick else Effort()
    console = Console()
    what = "forward" if given.forward else "forward and gradient"
    table = Table(
        title=f"{what}, ms; jax {jax.__version__} on {jax.devices()[0].device_kind}",
        caption=f"to reach: × obvious ≤ {TARGET}",
    )
    table.add_column("layer")
    for column in (OURS, OBVIOUS, TORCH, "× obvious", "× torch"):
        table.add_column(column, justify="right")
    rows = chosen(given.only)
    with console.status("") as status:
        for number, row in enumerate(rows):
            status.update(f"{row.name} ({number + 1} of {len(rows)})")
            times = measured(row, given.forward, effort)
            table.add_row(row.name, *cells(times), style="bold red" if ratio(times, OURS, OBVIOUS) > TARGET else "")
    console.print(table)


def cells(times: Mapping[str, np.ndarray]) -> list[str]:
    milliseconds = [f"{1e3 * np.median(times[name]):.2f}" if name in times else "" for name in BUILDERS]
    return milliseconds + [f"{ratio(times, OURS, name):.2f}" if name in times else "" for name in (OBVIOUS, TORCH)]


if __name__ == "__main__":
    main()
