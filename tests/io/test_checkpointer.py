"""`fb.Checkpointer`: training that is interrupted goes on as if it had not been."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flambeau as fb
from flambeau import nn

pytest.importorskip("orbax.checkpoint")
pytestmark = pytest.mark.filterwarnings("ignore:::orbax", "ignore::DeprecationWarning", "ignore::ResourceWarning")

NAN = float("nan")
X = jnp.arange(12.0).reshape(4, 3) / 10


class Run:
    """A network with state of every kind, an optimizer with a schedule, and a generator of its own."""

    def __init__(self, seed: int = 0) -> None:
        fb.manual_seed(seed)
        self.net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Linear(4, 1)).double()
        self.optimizer = fb.optim.AdamW(self.net.parameters(), lr=0.1, betas=(0.8, 0.9))
        self.schedule = fb.optim.lr_scheduler.StepLR(self.optimizer, step_size=3, gamma=0.5)
        self.train = fb.jit(self._train)

    def _train(self, net: Any, optimizer: Any, x: Any) -> Any:
        loss, grads = fb.value_and_grad(lambda net: (net(x) ** 2).mean())(net)
        optimizer.step(grads)
        return loss

    def step(self) -> float:
        loss = self.train(self.net, self.optimizer, X)
        self.schedule.step()
        return float(loss)

    def objects(self) -> dict[str, Any]:
        return {
            "net": self.net,
            "optimizer": self.optimizer,
            "schedule": self.schedule,
            "generator": fb.default_generator,
        }

    def arrays(self) -> list[np.ndarray]:
        state = dict(self.net.state_dict()), self.optimizer.state_dict(), fb.get_rng_state()
        return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


def same(one: list[np.ndarray], other: list[np.ndarray]) -> None:
    for a, b in zip(one, other, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("asynchronous", [True, False])
def test_ten_steps_and_ten_more_are_twenty(tmp_path: Path, asynchronous: bool) -> None:
    whole = Run()
    losses = [whole.step() for _ in range(20)]
    expected = whole.arrays()
    first = Run()
    with fb.Checkpointer(tmp_path / "run", asynchronous=asynchronous) as checkpoints:
        for step in range(12):
            if step == 10:
                checkpoints.save(10, {**first.objects(), "position": step})
            first.step()  # what is saved is what was there, though its arrays are given away meanwhile
    second = Run(seed=1)
    with fb.Checkpointer(tmp_path / "run") as checkpoints:
        restored = checkpoints.restore(second.objects())
    assert restored == fb.io.Restored(10, {"position": 10})
    assert [second.step() for _ in range(10)] == losses[10:]
    same(second.arrays(), expected)


def test_the_last_ones_and_the_best(tmp_path: Path) -> None:
    with fb.Checkpointer(tmp_path, keep=2, best="accuracy", mode="max") as checkpoints:
        assert (checkpoints.restore(), checkpoints.latest_step(), checkpoints.best_step()) == (None, None, None)
        for step, accuracy in enumerate([0.1, 0.9, 0.3, 0.4, 0.2]):
            checkpoints.save(step, {"step": step}, {"accuracy": accuracy, "loss": 1.0})
        checkpoints.wait()
        assert (checkpoints.steps(), checkpoints.best_step(), checkpoints.latest_step()) == ([1, 3, 4], 1, 4)
        assert [checkpoints.restore(step=step) for step in ("best", None, 3)] == [  # pyright: ignore[reportArgumentType]
            (1, {"step": 1}),
            (4, {"step": 4}),
            (3, {"step": 3}),
        ]


def test_values_come_back_as_they_were(tmp_path: Path) -> None:
    values = {
        "numbers": [1, 2.5, float("inf"), True, None, 3 - 2j, 2**80],
        "nested": {"a/b": {"c": jnp.ones(2, jnp.bfloat16)}, "a": {"b/c": jnp.arange(3, dtype=jnp.int8)}},
        "pairs": {7: ("x", ()), 8: {}},
        "empty": jnp.zeros((0, 3), jnp.float16),
        "scalar": jnp.array(True),
        "numpy": np.arange(4.0),
    }
    with fb.Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(0, values)
        restored = checkpoints.restore()
    assert restored is not None
    assert jax.tree.structure(restored.values) == jax.tree.structure(values)
    for mine, its in zip(jax.tree.leaves(restored.values), jax.tree.leaves(values)):
        assert getattr(mine, "dtype", type(mine)) == getattr(its, "dtype", type(its))
        np.testing.assert_array_equal(mine, its)


def test_arrays_come_to_where_the_module_is(tmp_path: Path) -> None:
    mesh = jax.make_mesh((1,), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    net, twin = nn.Linear(3, 2), nn.Linear(3, 2).to(sharding=sharding)
    with fb.Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(0, {"net": net})
        checkpoints.restore({"net": twin})
    np.testing.assert_array_equal(twin.weight, net.weight)
    assert twin.weight.sharding == sharding


@pytest.mark.parametrize("make", ["lazy", "meta"])
def test_modules_without_values_get_them(tmp_path: Path, make: str) -> None:
    net = nn.Linear(3, 2)
    if make == "lazy":
        twin: Any = nn.LazyLinear(2)
    else:
        with fb.device("meta"):
            twin = nn.Linear(3, 2)
    with fb.Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(0, {"net": net})
        checkpoints.restore({"net": twin})
    np.testing.assert_array_equal(twin.weight, net.weight)
    np.testing.assert_array_equal(twin.bias, net.bias)


def test_keys_come_back_as_keys(tmp_path: Path) -> None:
    keys = {"default": jax.random.key(3), "several": jax.random.split(jax.random.key(1, impl="rbg"), 2)}
    with fb.Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(0, keys)
        restored = checkpoints.restore()
    assert restored is not None
    for name, key in keys.items():
        found = restored.values[name]
        assert (found.dtype, found.shape) == (key.dtype, key.shape)
        np.testing.assert_array_equal(jax.random.key_data(found), jax.random.key_data(key))


def test_values_of_64_bits_fit_or_are_refused(tmp_path: Path) -> None:
    """While JAX runs without x64; in a sharding too."""
    net = nn.Linear(2, 1).double()
    net.register_buffer("count", jnp.array([3, 2**40]))
    with jax.enable_x64(False):
        twin = nn.Linear(2, 1)
        twin.register_buffer("count", jnp.zeros(2, int))
        twin.to(sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0]))
    with fb.Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(0, {"net": net, "x": np.arange(3.0)})
        net.count = jnp.array([3, 2**20])
        checkpoints.save(1, {"net": net, "x": np.arange(3.0)})
        with jax.enable_x64(False):
            with pytest.raises(fb.CheckpointError, match="'net/count' has int64 values that do not fit into int32"):
                checkpoints.restore({"net": twin}, step=0)
            restored = checkpoints.restore({"net": twin}, step=1)
            assert restored is not None and restored.values["x"].dtype == jnp.float32
            assert restored.values["x"].tolist() == [0, 1, 2] and twin.count.tolist() == [3, 2**20]


def test_mistakes_change_nothing(tmp_path: Path) -> None:
    run = Run()
    with fb.Checkpointer(tmp_path, best="loss") as checkpoints:
        with pytest.raises(ValueError, match="expected metrics with 'loss'"):
            checkpoints.save(1, run.objects())
        with pytest.raises(TypeError, match="expected thing to be arrays, numbers, texts, or lists"):
            checkpoints.save(1, {"thing": object()}, {"loss": 1})
        with pytest.raises(TypeError, match="expected the keys of thing to be texts or ints"):
            checkpoints.save(1, {"thing": {1.5: 0}}, {"loss": 1})
        checkpoints.save(1, {"net": nn.Linear(3, 4).double(), "optimizer": run.optimizer, "n": 0}, {"loss": 1})
        with pytest.raises(fb.CheckpointError, match="has step 1, so step 1 cannot be saved"):
            checkpoints.save(1, run.objects(), {"loss": 1})
        before = run.arrays()
        with pytest.raises(fb.CheckpointError, match=r"has no step 7; there are \[1\]"):
            checkpoints.restore(run.objects(), step=7)
        with pytest.raises(fb.CheckpointError, match="has no 'schedule'; it has net, optimizer, n"):
            checkpoints.restore(run.objects())
        with pytest.raises(TypeError, match="expected 'n' to be a module"):
            checkpoints.restore({"n": 3})
        with pytest.raises(fb.StateDictError):  # the optimizer fits, the network does not
            checkpoints.restore({"optimizer": run.optimizer, "net": run.net})
        same(run.arrays(), before)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"keep": 0}, ValueError, "expected keep to be at least 1, got 0"),
        ({"keep": 1.5}, TypeError, "expected keep to be an int, got 1.5"),
        ({"keep": True}, TypeError, "expected keep to be an int, got True"),
        ({"best": 3}, TypeError, "expected best to be the name of a metric, got a int"),
        ({"mode": "least"}, ValueError, "expected mode to be 'min' or 'max', got 'least'"),
    ],
)
def test_arguments_of_the_constructor(
    tmp_path: Path, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        fb.Checkpointer(tmp_path, **arguments)


def test_arguments_of_save_and_restore(tmp_path: Path) -> None:
    net = nn.Linear(1, 1)
    with fb.Checkpointer(tmp_path) as checkpoints:
        for step, error in ((1.5, TypeError), ("1", TypeError), (True, TypeError), (-1, ValueError)):
            with pytest.raises(error, match="expected step to be"):
                checkpoints.save(step, {})  # pyright: ignore[reportArgumentType]
            with pytest.raises(error, match="expected step to be"):
                checkpoints.restore(step=step)  # pyright: ignore[reportArgumentType]
        for call in (lambda: checkpoints.save(0, net), lambda: checkpoints.restore(net)):  # pyright: ignore
            with pytest.raises(TypeError, match=r'got a Linear: write \{"net": net\}'):
                call()
        with pytest.raises(TypeError, match="expected the names in state to be texts, got 3"):
            checkpoints.save(0, {3: 1})  # pyright: ignore[reportArgumentType]
        for nested in (net, fb.Generator()):
            with pytest.raises(TypeError, match=r"all/x is a .* put it into state itself"):
                checkpoints.save(0, {"all": {"x": nested}})
        for wrong in (None, "0.5", [1.0], jnp.ones(2), np.ones((1, 1)), 1j):
            with pytest.raises(TypeError, match="expected the metric 'loss' to be a number"):
                checkpoints.save(0, {}, {"loss": wrong})  # pyright: ignore[reportArgumentType]
        with pytest.raises(TypeError, match="expected metrics to be a dict of numbers by name, got a float"):
            checkpoints.save(0, {}, 0.5)  # pyright: ignore[reportArgumentType]
        for step, fine in enumerate((jnp.array(0.5), np.float32(0.5), np.array(1), True)):
            checkpoints.save(np.int64(step), {}, {"loss": fine})  # pyright: ignore[reportArgumentType]
        checkpoints.wait()
        assert checkpoints.steps() == [1, 2, 3]


@pytest.mark.parametrize(
    ("mode", "losses", "steps", "best"),
    [
        ("min", [0.1, NAN, 0.5, 0.6, 0.7], [0, 3, 4], 0),
        ("max", [0.9, NAN, 0.5, 0.6, 0.7], [0, 3, 4], 0),
        ("min", [NAN, 0.5], [0, 1], 1),
        ("max", [NAN, float("-inf"), NAN, NAN, NAN], [1, 3, 4], 1),
        ("min", [NAN, NAN, NAN], [1, 2], None),
        ("min", [0.1, 0.1, 0.5, 0.5], [1, 2, 3], 1),
    ],
)
def test_nan_is_never_the_best(tmp_path: Path, mode: Any, losses: list[float], steps: list[int], best: int) -> None:
    with fb.Checkpointer(tmp_path, keep=2, best="loss", mode=mode, asynchronous=False) as checkpoints:
        for step, loss in enumerate(losses):
            checkpoints.save(step, {"step": step}, {"loss": loss})
        assert (checkpoints.steps(), checkpoints.best_step()) == (steps, best)
        restored = checkpoints.restore(step="best")
        assert restored == (None if best is None else (best, {"step": best}))


def test_the_best_among_those_without_the_metric(tmp_path: Path) -> None:
    with fb.Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(0, {}, {"accuracy": 1.0})
        checkpoints.save(1, {})
    with fb.Checkpointer(tmp_path, keep=1, best="loss") as checkpoints:
        assert checkpoints.best_step() is None
        for step, loss in enumerate([0.5, 0.6], start=2):
            checkpoints.save(step, {}, {"loss": loss})
        checkpoints.wait()
        assert (checkpoints.steps(), checkpoints.best_step()) == ([2, 3], 2)


@pytest.mark.parametrize("inside", [["data"], ["_CHECKPOINT_METADATA", "state"], [], None])
def test_what_is_no_checkpoint_stays(tmp_path: Path, inside: list[str] | None) -> None:
    """A folder with other things in it, such as a checkpoint of another program, an empty one, or a file."""
    (tmp_path / "notes").mkdir()
    (tmp_path / "007").mkdir()
    with fb.Checkpointer(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, {"x": 1})
    thing = tmp_path / "7"
    if inside is None:
        thing.write_text("mine")
    else:
        thing.mkdir()
        for name in inside:
            (thing / name).write_text("{}")
    with pytest.raises(
        fb.CheckpointError, match=f"{thing} is no checkpoint .*: move it away, or choose another folder"
    ):
        fb.Checkpointer(tmp_path, keep=1)
    thing.rename(tmp_path / "seven")
    with fb.Checkpointer(tmp_path, keep=1) as checkpoints:
        (tmp_path / "8").mkdir()
        with pytest.raises(fb.CheckpointError, match="has a 8 that this Checkpointer did not write"):
            checkpoints.save(8, {"x": 8})
        checkpoints.save(9, {"x": 9})
    assert sorted(os.listdir(tmp_path)) == ["007", "8", "9", "notes", "seven"]


@pytest.mark.parametrize("gone", ["_CHECKPOINT_METADATA", "rest", "commit_success.txt"])
def test_a_process_that_is_killed_while_it_removes_an_old_one(tmp_path: Path, gone: str) -> None:
    with fb.Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(0, {"x": 0})
        checkpoints.save(1, {"x": 1})
    if gone == "rest":
        shutil.rmtree(tmp_path / "0" / gone)
    else:
        (tmp_path / "0" / gone).unlink()
    with fb.Checkpointer(tmp_path, keep=1) as checkpoints:
        assert checkpoints.restore() == (1, {"x": 1})
        checkpoints.save(2, {"x": 2})
    assert os.listdir(tmp_path) == ["2"]


def test_after_close(tmp_path: Path) -> None:
    checkpoints = fb.Checkpointer(tmp_path, best="loss")
    checkpoints.save(0, {"x": 1}, {"loss": 1})
    checkpoints.close()
    checkpoints.close()
    for call in (
        lambda: checkpoints.save(1, {"x": 1}, {"loss": 1}),
        checkpoints.restore,
        checkpoints.steps,
        checkpoints.latest_step,
        checkpoints.best_step,
        checkpoints.wait,
    ):
        with pytest.raises(fb.CheckpointError, match="has been closed: make a new one"):
            call()
    with fb.Checkpointer(tmp_path) as checkpoints:
        assert checkpoints.restore() == (0, {"x": 1})


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may become larger than a MiB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


LARGE = np.random.default_rng(0).random(1 << 19)


def test_a_save_that_fails_at_once(tmp_path: Path) -> None:
    with fb.Checkpointer(tmp_path, keep=1, asynchronous=False) as checkpoints:
        checkpoints.save(0, {"x": 0})
        with full_disk(), pytest.raises(fb.CheckpointError, match=rf"(?s)step 1 .* to {tmp_path}: .*\(steps: 0\)"):
            checkpoints.save(1, {"x": LARGE})
        assert checkpoints.restore() == (0, {"x": 0})
        checkpoints.save(1, {"x": 1})
        assert checkpoints.restore() == (1, {"x": 1})


@pytest.mark.parametrize("found", ["wait", "close", "save", "leave"])
def test_a_save_that_fails_later(tmp_path: Path, found: str) -> None:
    checkpoints = fb.Checkpointer(tmp_path, keep=1)
    checkpoints.save(0, {"x": 0})
    checkpoints.wait()
    with full_disk():
        checkpoints.save(1, {"x": LARGE})
        with pytest.raises(fb.CheckpointError, match=rf"(?s)step 1 .* to {tmp_path}: .*\(steps: 0\)") as caught:
            if found == "save":
                checkpoints.save(2, {"x": 2})
            elif found == "leave":
                checkpoints.__exit__(None, None, None)
            else:
                getattr(checkpoints, found)()
    if found == "save":
        assert caught.value.__notes__ == ["step 2 is saved all the same"]
        checkpoints.wait()
        assert (checkpoints.steps(), checkpoints.restore()) == ([2], (2, {"x": 2}))
    checkpoints.close()
    with fb.Checkpointer(tmp_path) as checkpoints:
        assert checkpoints.latest_step() == (2 if found == "save" else 0)


def test_a_failure_does_not_hide_the_error_of_the_training(tmp_path: Path) -> None:
    with full_disk(), pytest.raises(ZeroDivisionError) as caught, fb.Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": LARGE})
        raise ZeroDivisionError
    (note,) = caught.value.__notes__
    assert note.startswith("step 1 cannot be written")


def test_folders_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for folder in (file, file / "run"):
        with pytest.raises(fb.CheckpointError, match=f"{folder} cannot be a folder of checkpoints: "):
            fb.Checkpointer(folder)
    with fb.Checkpointer(tmp_path / "old") as checkpoints:
        checkpoints.save(0, {"x": 1})
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(fb.CheckpointError, match="new has no checkpoints, and cannot be written"):
        fb.Checkpointer(tmp_path / "new")
    with fb.Checkpointer(tmp_path / "old") as checkpoints:  # those that are there can be read
        assert checkpoints.restore() == (0, {"x": 1})


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    run, other = Run(), nn.Linear(3, 4)
    run.step()
    with fb.Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(3, {"net": run.net, "optimizer": run.optimizer, "generator": run.net})
        before = run.arrays()
        with pytest.raises(fb.StateDictError, match=rf"(?s)'net' of step 3 in {tmp_path} does not fit this Linear: .*"):
            checkpoints.restore({"net": other})
        with pytest.raises(fb.CheckpointError, match=r"'net' of step 3 in .* is not the state of such a AdamW"):
            checkpoints.restore({"generator": run.net, "net": run.optimizer})
        with pytest.raises(
            fb.CheckpointError, match=r"'generator' of step 3 in .* is not the state of such a Generator"
        ):
            checkpoints.restore({"generator": fb.default_generator})
        with pytest.raises(fb.StateDictError, match="'optimizer' of step 3"):
            checkpoints.restore({"optimizer": run.net})
        same(run.arrays(), before)


def test_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    with pytest.raises(fb.MissingExtraError, match=r"pip install 'flambeau\[checkpointer\]'"):
        fb.Checkpointer(tmp_path)


TRAINING = """
import sys
import jax
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_disable_most_optimizations", True)  # as here, for the same bits
import flambeau as fb
from tests.io.test_checkpointer import Run

folder, last = sys.argv[1], int(sys.argv[2])
run = Run(seed=int(sys.argv[3]))
with fb.Checkpointer(folder, keep=2) as checkpoints:
    restored = checkpoints.restore(run.objects())
    for step in range(0 if restored is None else restored.step, last):
        run.step()
        checkpoints.save(step + 1, run.objects())
        print(step + 1, flush=True)
"""


def training(folder: Path, last: int, seed: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", "-c", TRAINING, str(folder), str(last), str(seed)]
    root = Path(__file__).parents[2]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=root)


def test_a_process_that_is_killed_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    process = training(tmp_path, 1000, 0)
    assert process.stdout is not None
    assert all(process.stdout.readline() for _ in range(5))
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    with fb.Checkpointer(tmp_path) as checkpoints:
        (*_, last) = checkpoints.steps()
    assert last >= 4  # those from before the last one that it began are complete
    finishing = training(tmp_path, last + 5, 7)
    finishing.communicate(timeout=120)
    assert finishing.returncode == 0
    run = Run(seed=3)
    with fb.Checkpointer(tmp_path) as checkpoints:
        restored = checkpoints.restore(run.objects())
    assert restored is not None and restored.step == last + 5
    found, whole = run.arrays(), Run()
    for _ in range(last + 5):
        whole.step()
    same(found, whole.arrays())
