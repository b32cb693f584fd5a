"""Checkpoints that were saved on other devices than those that they are restored on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import flambeau as fb
from tests.io.on_eight_devices import TRAINED, Run, goes_on, holds

pytest.importorskip("orbax.checkpoint")
pytestmark = pytest.mark.filterwarnings("ignore:::orbax", "ignore::DeprecationWarning", "ignore::ResourceWarning")

ROOT = Path(__file__).parents[2]


def run_on_eight_devices(folder: Path) -> None:
    """Runs the tests of `on_eight_devices.py` in a process of its own: how many devices there are is said at its start."""
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
        "FLAMBEAU_LAYOUTS": str(folder),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/io/on_eight_devices.py"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_layouts_of_devices(tmp_path: Path) -> None:
    run = Run("default", seed=0)
    for _ in range(TRAINED):
        run.step()
    with fb.Checkpointer(tmp_path / "from one") as checkpoints:
        checkpoints.save(TRAINED, run.objects())
    np.savez(tmp_path / "one.npz", **run.values())  # pyright: ignore[reportArgumentType]
    after = run.one_more()
    np.savez(tmp_path / "after.npz", **after)  # pyright: ignore[reportArgumentType]

    run_on_eight_devices(tmp_path)

    values = dict(np.load(tmp_path / "eight.npz"))
    other = Run("default", seed=2)
    with fb.Checkpointer(tmp_path / "from eight") as checkpoints:
        restored = checkpoints.restore(other.objects())
    assert restored is not None
    holds(other, values)
    assert restored.values["position"].devices() == {jax.devices()[0]}
    np.testing.assert_array_equal(restored.values["position"], values["net/0.weight"])
    goes_on(other, after)
