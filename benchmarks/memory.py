"""What memory a training step takes: flambeau's, and that of lists of arrays through one donated `jax.jit`.

    python benchmarks/memory.py                # some minutes
    python benchmarks/memory.py --scale 2      # narrower networks

"by XLA" is the memory analysis of the compiled step: arguments, results that do not lie in arguments' place, and what it
needs meanwhile. "measured" is the arguments, and what a process of its own grows by at its highest during some steps.
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
from rich.console import Console
from rich.table import Table

from mlp import BASELINE
from networks import BUILDERS, TRAININGS

# What flambeau's step may take, of the hand-donated one's.
TARGET = 1.0
# Two programs that do the same differ by some copies of small arrays.
TOLERANCE = 0.01
STEPS = 4


def resident(what: str) -> int:
    """Bytes of this process: now (VmRSS), or at its highest (VmHWM)."""
    found = re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def run(network: str, name: str, scale: int) -> dict[str, float]:
    """The memory of one contender, in this process."""
    training = replace(TRAININGS[network], scale=scale)
    contender = BUILDERS[name](training)
    assert contender.lower is not None
    plan = contender.lower().compile().memory_analysis()
    arguments = plan.argument_size_in_bytes
    planned = arguments + plan.output_size_in_bytes - plan.alias_size_in_bytes + plan.temp_size_in_bytes
    for _ in range(STEPS):
        jax.block_until_ready(contender.step())
    gc.collect()
    rest = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the highest begins anew
    for _ in range(STEPS):
        jax.block_until_ready(contender.step())
    return {"planned": planned, "measured": arguments + resident("VmHWM") - rest}


def child(network: str, name: str, scale: int) -> dict[str, float]:
    """What a process of this program finds."""
    command = [sys.executable, __file__, "--child", network, name, "--scale", str(scale)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def table_of(network: str, scale: int) -> Table:
    table = Table(title=f"memory of a step, {network}", caption=f"to reach: ≤ {TARGET}")
    table.add_column("contender")
    for column in ("by XLA, MB", "× hand", "measured, MB", "× hand"):
        table.add_column(column, justify="right")
    found = {name: child(network, name, scale) for name in BUILDERS}
    for name, own in found.items():
        cells: list[str] = []
        missed = False
        for key in ("planned", "measured"):
            ratio = own[key] / found[BASELINE][key]
            missed |= key == "planned" and ratio > TARGET + TOLERANCE
            cells += [f"{own[key] / 1e6:.1f}", f"{ratio:.3f}"]
        table.add_row(name, *cells, style="bold red" if missed else "")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--network", nargs="+", choices=TRAININGS, default=[*TRAININGS], help="which of them (all)")
    parser.add_argument("--scale", type=int, default=8, help="times the width of the narrowest (%(default)s)")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        network, name = given.child
        print(json.dumps(run(network, name, given.scale)))
        return
    for network in given.network:
        Console().print(table_of(network, given.scale))


if __name__ == "__main__":
    main()
