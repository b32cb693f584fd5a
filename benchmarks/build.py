"""What it costs to build a GPT-2 of 124 million parameters, with its initial values, in a fresh process.

    python benchmarks/build.py            # five rounds, a minute or two
    python benchmarks/build.py --rounds 1 # for a first look

Every measurement is a process of its own, with all that is compiled in it; imports are not counted. The ways take turns.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

# How much longer than PyTorch may take what builds on the meta device and materializes.
TARGET = 2.0

TORCH, EAGER, META, BFLOAT16 = "torch", "flambeau, eager", "flambeau, meta device", "flambeau, meta device to bfloat16"
WAYS = (TORCH, EAGER, META, BFLOAT16)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="processes of each kind (%(default)s)")
    parser.add_argument("--measure", metavar="WAY", help=argparse.SUPPRESS)  # what the processes are called with
    return parser.parse_args()


def gpt2(nn: Any, depth: int = 12, width: int = 768, words: int = 50257, length: int = 1024) -> Any:
    """The network, of either library: parameters alone, since none is called here."""

    def block() -> Any:
        return nn.ModuleDict(
            {
                "ln_1": nn.LayerNorm(width),
                "attn": nn.ModuleDict({"c_attn": nn.Linear(width, 3 * width), "c_proj": nn.Linear(width, width)}),
                "ln_2": nn.LayerNorm(width),
                "mlp": nn.ModuleDict(
                    {"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)},
                ),
            }
        )

    net = nn.ModuleDict({"wte": nn.Embedding(words, width), "wpe": nn.Embedding(length, width)})
    net["h"] = nn.ModuleList([block() for _ in range(depth)])
    net["ln_f"] = nn.LayerNorm(width)
    net["lm_head"] = nn.Linear(width, words, bias=False)
    net["lm_head"].weight = net["wte"].weight
    return net


def measure(way: str) -> float:
    """Seconds to the last value."""
    if way == TORCH:
        from torch import nn

        start = time.perf_counter()
        gpt2(nn)
        return time.perf_counter() - start
    import jax
    import jax.numpy as jnp

    import flambeau as fb
    from flambeau import nn

    jax.block_until_ready(jnp.zeros(()))  # the devices are there
    start = time.perf_counter()
    if way == EAGER:
        net = gpt2(nn)
    else:
        with fb.device("meta"):
            net = gpt2(nn)
        net.materialize(dtype=jnp.bfloat16 if way == BFLOAT16 else None)
    jax.block_until_ready(list(net.parameters()))
    return time.perf_counter() - start


def in_a_process(way: str) -> float:
    command = [sys.executable, __file__, "--measure", way]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Measures in turns and prints the table."""
    given = options()
    if given.measure:
        print(measure(given.measure))
        return
    console = Console()
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(given.rounds):
        for way in WAYS:
            with console.status(way):
                times[way].append(in_a_process(way))
    table = Table("GPT-2, 124 million parameters", "built in", "x torch")
    for way in WAYS:
        ratio = np.median(np.divide(times[way], times[TORCH]))
        table.add_row(way, f"{np.median(times[way]):.2f} s", f"{ratio:.2f}")
    console.print(table)
    console.print(f"target for the meta device: at most {TARGET} times torch")


if __name__ == "__main__":
    main()
