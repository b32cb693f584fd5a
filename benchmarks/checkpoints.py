"""What loading and saving weights costs, against plain reading and writing of as many bytes.

    python benchmarks/checkpoints.py                # 500 MB, a minute or two
    python benchmarks/checkpoints.py --quick        # fewer rounds, for a first look
    python benchmarks/checkpoints.py --megabytes 4000 --folder /data

Each contender loads or saves in a process of its own, whose peak memory is what it took on top of what it began with (what
is saved counts as there). Files are in the page cache when they are loaded; each load ends with a look at every page, so
that mapped files are read too. Each save goes to a new name, for to free an old file's blocks costs some disks more than to
write them, and ends when the disk has it. Rates are medians over rounds in which the contenders take turns.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

# What flambeau is to reach: of the rate of plain reading, and of the size of the tensors in memory.
SPEED, MEMORY = 0.7, 1.2
PAGE = 4096

Arrays = dict[str, np.ndarray]


def weights(megabytes: int) -> Arrays:
    """The shapes of a transformer, as many blocks as fit."""
    block = {"attention.in_proj_weight": (2304, 768), "attention.out_proj.weight": (768, 768), "norm.weight": (768,)}
    block |= {"linear1.weight": (3072, 768), "linear1.bias": (3072,), "linear2.weight": (768, 3072)}
    size = sum(4 * int(np.prod(shape)) for shape in block.values())
    names = {
        f"layers.{i}.{name}": shape for i in range(max(1, megabytes * 10**6 // size)) for name, shape in block.items()
    }
    rng = np.random.default_rng(0)
    return {name: rng.random(shape, np.float32) for name, shape in names.items()}


# -- contenders: imported where they run, so that no process has more than its own ------------------------------------------


def read_plainly(path: str) -> Any:
    memory = np.empty(os.path.getsize(path), np.uint8)
    with open(path, "rb", buffering=0) as file:
        done = 0
        while got := file.readinto(memory.data[done:]):
            done += got
    return {"": memory}


def load_ours(path: str, mmap: bool = False) -> Any:
    import flambeau as fb

    return dict(fb.load(path, mmap=mmap))


def load_torch(path: str, mmap: bool = False) -> Any:
    import torch

    return torch.load(path, mmap=mmap, weights_only=True)


def load_safetensors(path: str, library: str) -> Any:
    from importlib import import_module

    return import_module(f"safetensors.{library}").load_file(path)


LOADERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "plain reading": ("a.safetensors", read_plainly),
    "fb.load": ("a.safetensors", load_ours),
    "fb.load(mmap=True)": ("a.safetensors", lambda path: load_ours(path, mmap=True)),
    "safetensors.torch": ("a.safetensors", lambda path: load_safetensors(path, "torch")),
    "safetensors.numpy": ("a.safetensors", lambda path: load_safetensors(path, "numpy")),
    "safetensors.flax": ("a.safetensors", lambda path: load_safetensors(path, "flax")),
    "fb.load .pt": ("a.pt", load_ours),
    "fb.load(mmap=True) .pt": ("a.pt", lambda path: load_ours(path, mmap=True)),
    "torch.load": ("a.pt", load_torch),
    "torch.load(mmap=True)": ("a.pt", lambda path: load_torch(path, mmap=True)),
}


def write_plainly(arrays: Arrays, path: str) -> None:
    with open(path, "wb", buffering=0) as file:
        for array in arrays.values():
            file.write(array.data)


def save_ours(arrays: Arrays, path: str) -> None:
    import flambeau as fb

    fb.save(arrays, path)


def save_torch(arrays: Arrays, path: str) -> None:
    import torch

    torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, path)


def save_safetensors(arrays: Arrays, path: str) -> None:
    import safetensors.numpy

    safetensors.numpy.save_file(arrays, path)


SAVERS: dict[str, tuple[str, Callable[[Arrays, str], None]]] = {
    "plain writing": ("b.raw", write_plainly),
    "fb.save": ("b.safetensors", save_ours),
    "safetensors.numpy": ("b.safetensors", save_safetensors),
    "fb.save .pt": ("b.pt", save_ours),
    "torch.save": ("b.pt", save_torch),
}


# -- measuring: in a process for each contender and round -----------------------------------------------------------------


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def measured(call: Callable[[], Any], warm_up: Callable[[], Any]) -> dict[str, float]:
    """Seconds of a call, and bytes that the process grew by at most."""
    warm_up()
    gc.collect()
    before = resident()
    start = time.perf_counter()
    result = call()
    seconds = time.perf_counter() - start
    del result
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "memory": max(peak - before, 0)}


def look(loaded: dict[str, Any]) -> Any:
    """Uses a byte of each page."""
    for array in loaded.values():
        np.asarray(array).reshape(-1).view(np.uint8)[::PAGE].sum()
    return loaded


def run(kind: str, name: str, folder: Path, megabytes: int) -> dict[str, float]:
    if kind == "load":
        file, load = LOADERS[name]
        return measured(lambda: look(load(str(folder / file))), lambda: look(load(str(folder / f"small_{file}"))))
    file, save = SAVERS[name]
    arrays = weights(megabytes)
    (folder / file).unlink(missing_ok=True)
    os.sync()

    def call() -> None:
        save(arrays, str(folder / file))
        with open(folder / file, "rb+") as written:
            os.fsync(written.fileno())

    return measured(call, lambda: save({"a": np.ones(3)}, str(folder / f"small_{file}")))


def prepare(folder: Path, megabytes: int) -> None:
    """Writes the files to be loaded, and small ones to begin with."""
    import flambeau as fb

    for suffix in ("safetensors", "pt"):
        fb.save(weights(megabytes), folder / f"a.{suffix}")
        fb.save({"a": np.ones(3, np.float32)}, folder / f"small_a.{suffix}")


def child(*arguments: str) -> dict[str, float] | None:
    """What a process of this program measures; None if the contender is not installed."""
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, env=environment())
    if "ModuleNotFoundError" in done.stderr:
        return None
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout or "{}")


def environment() -> dict[str, str]:
    return {**os.environ, "JAX_PLATFORMS": "cpu"}


def rounds_of(
    kind: str, names: list[str], folder: Path, megabytes: int, rounds: int
) -> dict[str, list[dict[str, float]]]:
    results: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            result = child("--child", kind, name, "--folder", str(folder), "--megabytes", str(megabytes))
            if result is not None:
                results[name].append(result)
    return {name: each for name, each in results.items() if each}


def table_of(kind: str, results: dict[str, list[dict[str, float]]], size: int) -> Table:
    plain, *_ = results
    table = Table(
        title=f"{kind} {size / 1e6:.0f} MB",
        caption=f"to reach: × plain ≥ {SPEED}, memory ≤ {MEMORY} × tensors" if kind == "load" else None,
    )
    table.add_column("")
    for column in ("GB/s", f"× {plain}", "peak memory × tensors"):
        table.add_column(column, justify="right")
    base = np.array([each["seconds"] for each in results[plain]])
    for name, each in results.items():
        seconds = np.array([one["seconds"] for one in each])
        speed, memory = float(np.median(base / seconds)), float(np.median([one["memory"] for one in each])) / size
        missed = kind == "load" and name.startswith("fb.") and (speed < SPEED or memory > MEMORY)
        rate = size / float(np.median(seconds)) / 1e9
        table.add_row(name, f"{rate:.2f}", f"{speed:.2f}", f"{memory:.2f}", style="bold red" if missed else "")
    return table


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, for a first look")
    parser.add_argument("--megabytes", type=int, default=500, help="how much to load and save")
    parser.add_argument("--folder", type=Path, help="where; a temporary folder otherwise")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--prepare", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    given = options()
    if given.child:
        kind, name = given.child
        print(json.dumps(run(kind, name, given.folder, given.megabytes)))
        return
    if given.prepare:
        prepare(given.folder, given.megabytes)
        return
    console = Console()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        child("--prepare", "--folder", folder, "--megabytes", str(given.megabytes))
        size = (Path(folder) / "a.safetensors").stat().st_size
        for kind, names in (("load", [*LOADERS]), ("save", [*SAVERS])):
            results = rounds_of(kind, names, Path(folder), given.megabytes, 3 if given.quick else 7)
            console.print(table_of(kind, results, size))


if __name__ == "__main__":
    main()
