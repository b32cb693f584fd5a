"""What the first training step costs in a fresh process: without `fb.compilation_cache`, with an empty one, with a filled one.

    python benchmarks/cold_start.py            # five rounds, some minutes
    python benchmarks/cold_start.py --rounds 1 # for a first look
    python benchmarks/cold_start.py --depth 8  # more to compile

Every measurement is a process of its own; the three take turns. What is left with a filled cache is Python: importing,
tracing, and reading what was compiled.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

PARTS = ("import", "network", "first step", "second step", "process")
WAYS = ("no cache", "empty cache", "filled cache")


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="processes of each kind (%(default)s)")
    parser.add_argument("--depth", type=int, default=4, help="residual blocks of the network (%(default)s)")
    parser.add_argument("--width", type=int, default=16, help="channels of the network (%(default)s)")
    parser.add_argument("--measure", metavar="FOLDER", help=argparse.SUPPRESS)  # what the processes are called with
    return parser.parse_args()


def measure(folder: str, depth: int, width: int) -> dict[str, float]:
    """Seconds of each part of a program that trains a small residual network; `folder` may be empty, for no cache."""
    times: dict[str, float] = {}
    clock = time.perf_counter()

    def lap(part: str) -> None:
        nonlocal clock
        now = time.perf_counter()
        times[part], clock = now - clock, now

    import jax
    import jax.numpy as jnp

    import flambeau as fb
    from flambeau import nn
    from flambeau.nn import functional as F

    class Residual(nn.Module):
        def __init__(self, width: int):
            super().__init__()
            self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
            self.norm1, self.norm2 = (nn.BatchNorm2d(width) for _ in range(2))

        def forward(self, x):
            y = F.relu(self.norm1(self.conv1(x)))
            return F.relu(x + self.norm2(self.conv2(y)))

    @fb.jit
    def train(net, optimizer, x, y):
        loss, grads = fb.value_and_grad(lambda net: F.cross_entropy(net(x), y))(net)
        optimizer.step(grads)
        return loss

    if folder:
        fb.compilation_cache(folder)
    lap("import")
    fb.manual_seed(0)
    body = [Residual(width) for _ in range(depth)]
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(width, 10)]
    net = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), *body, *pool)
    optimizer = fb.optim.AdamW(net.parameters(), lr=1e-3)
    x, y = jnp.ones((8, 3, 32, 32)), jnp.arange(8)
    jax.block_until_ready([parameter.data for parameter in net.parameters()])
    lap("network")
    for part in ("first step", "second step"):
        train(net, optimizer, x, y).block_until_ready()
        lap(part)
    return times


def in_a_process(folder: str, chosen: argparse.Namespace) -> dict[str, float]:
    """The parts of `measure` in a process of its own, and the whole of it."""
    sizes = ["--depth", str(chosen.depth), "--width", str(chosen.width)]
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, __file__, "--measure", folder, *sizes], stdout=subprocess.PIPE, text=True, check=True
    )
    return {**json.loads(done.stdout), "process": time.perf_counter() - start}


def rounds(chosen: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """The times of each way in each round."""
    times: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(chosen.rounds):
        with tempfile.TemporaryDirectory() as folder:
            entries: list[int] = []
            # The empty cache is the filled one of the process after it.
            for way, used in zip(WAYS, ("", folder, folder)):
                times[way].append(in_a_process(used, chosen))
                entries.append(len(list(Path(folder).glob("*-cache"))))
            if not 0 < entries[1] == entries[2]:
                raise SystemExit(f"the second process did not find what the first one compiled: {entries} entries")
    return times


def table(times: dict[str, list[dict[str, float]]]) -> Table:
    """Medians over the rounds."""
    made = Table(
        title="seconds in a fresh process", caption="medians; the process is the whole of it, Python's start among it"
    )
    made.add_column("")
    for part in PARTS:
        made.add_column(part, justify="right")
    made.add_column("first step ×", justify="right")
    base = np.median([each["first step"] for each in times[WAYS[0]]])
    for way in WAYS:
        medians = {part: np.median([each[part] for each in times[way]]) for part in PARTS}
        made.add_row(way, *(f"{medians[part]:.2f}" for part in PARTS), f"{medians['first step'] / base:.2f}")
    return made


def main() -> None:
    chosen = options()
    if chosen.measure is not None:
        print(json.dumps(measure(chosen.measure, chosen.depth, chosen.width)))
        return
    console = Console()
    console.print(
        f"residual network of {chosen.depth} blocks of {chosen.width} channels, batch 8, AdamW; {chosen.rounds} rounds"
    )
    console.print(table(rounds(chosen)))


if __name__ == "__main__":
    main()
