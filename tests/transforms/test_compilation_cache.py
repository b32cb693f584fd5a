"""`fb.compilation_cache`: a second process finds everything that the first one compiled."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache.compilation_cache import reset_cache

import flambeau as fb

ROOT = Path(__file__).parent.parent.parent

# Everything that could bring an id, an address or the order of a set into a program: several modules of one class, closures,
# statistics, random keys, lists, optimizer state, a scan and a rule of one's own.
TRAIN = """
import sys
import jax, jax.numpy as jnp
import flambeau as fb
from flambeau import nn
from flambeau.nn import functional as F

hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
fb.compilation_cache(sys.argv[1])
padding = [object() for _ in range(int(sys.argv[2]))]

@fb.custom_vjp
def through(x):
    return jnp.round(x)
through.defvjp(lambda x: (through(x), None), lambda _, y_bar: (y_bar,))

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.layer, self.dropout = nn.BatchNorm1d(width), nn.Linear(width, width), nn.Dropout(0.1)
        self.trace = []
    def forward(self, x):
        y = self.dropout(self.layer(self.norm(x)))
        self.trace = [y.mean()]
        return through(x + y)

fb.manual_seed(0)
net = nn.Sequential(nn.Linear(3, 4), *(Block(4) for _ in range(2)), nn.Linear(4, 2))
optimizer = fb.optim.AdamW(net.parameters(), lr=1e-2)

@fb.jit
def step(x, y):
    def loss(net):
        total, _ = fb.scan(lambda total, rows: (total + F.cross_entropy(net(rows), y), None), jnp.zeros(()), x)
        return total
    value, grads = fb.value_and_grad(loss)(net)
    optimizer.step(grads)
    return value

values = [float(step(jnp.ones((2, 5, 3)), jnp.zeros(5, int))) for _ in range(2)]
net.eval()
values.append(float(fb.jit(net)(jnp.ones((1, 3))).sum()))
print(sum(event.endswith("cache_hits") for event in hits), sum(event.endswith("cache_misses") for event in hits), values)
"""


def train(folder: Path, seed: int) -> tuple[int, int, str]:
    """Runs the program in a fresh process whose hashes and addresses are others; gives hits, misses and values."""
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, str(folder), str(1000 * seed)],
        cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": str(seed)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    hits, misses, values = done.stdout.split(maxsplit=2)
    return int(hits), int(misses), values


def entries(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name.endswith("-cache")}


def test_a_second_process_compiles_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    _, misses, values = train(folder, 1)
    made = entries(folder)
    assert misses >= len(made) > 0
    assert any(name.startswith("jit_step-") for name in made)
    hits, misses, again = train(folder, 2)
    assert (misses, entries(folder), again) == (0, made, values)
    assert hits >= len(made)


@pytest.fixture
def settings() -> Iterator[None]:
    """Puts JAX's settings back."""
    config: Any = jax.config
    names = ["compilation_cache_dir", "persistent_cache_min_compile_time_secs", "persistent_cache_min_entry_size_bytes"]
    names = [f"jax_{name}" for name in (*names, "enable_compilation_cache")]
    before = {name: getattr(config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    reset_cache()


def test_it_may_come_late_and_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: None) -> None:
    """After JAX compiled something; a relative path and a `~` hold wherever the process goes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    jax.jit(lambda x: x + 1)(1.0)
    for number, name in enumerate(("first", "~/second", tmp_path / "first")):
        folder = fb.compilation_cache(name)
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / "elsewhere")
        before = entries(folder)
        fb.jit(lambda x, n=number: x * n + n)(jnp.ones(3 + number))
        assert entries(folder) > before
        monkeypatch.chdir(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"first", "home", "elsewhere"}


def test_folders_that_cannot_be(tmp_path: Path, settings: None) -> None:
    (tmp_path / "file").write_text("")
    before = jax.config.values["jax_compilation_cache_dir"]
    for wrong in (tmp_path / "file", tmp_path / "file" / "folder"):
        with pytest.raises(OSError, match=r"compilation_cache: the folder .*file.* cannot be written to"):
            fb.compilation_cache(wrong)
    with pytest.raises(ValueError, match="expected a folder of this machine, got gs://bucket/cache"):
        fb.compilation_cache("gs://bucket/cache")
    assert jax.config.values["jax_compilation_cache_dir"] == before
