"""Checkpoints between layouts of devices. `test_layouts.py` runs this file in a process that has eight of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.extend.core
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, Sharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

import flambeau as fb
from flambeau import nn

pytestmark = pytest.mark.filterwarnings("ignore:::orbax", "ignore::DeprecationWarning", "ignore::ResourceWarning")

X = np.arange(64.0).reshape(8, 8) / 30
TRAINED = 2
Placement = Callable[[int], Sharding] | None


def sharded(shape: tuple[int, int], matrices: P, vectors: P) -> Placement:
    """Over a mesh of so many devices, which there are in the process that has eight alone."""

    def place(dimensions: int) -> Sharding:
        devices = np.array(jax.devices()[: shape[0] * shape[1]]).reshape(shape)
        return NamedSharding(Mesh(devices, ("data", "model")), {2: matrices, 1: vectors}.get(dimensions, P()))

    return place


# Where parameters and buffers of so many dimensions are to lie; None where JAX puts them.
LAYOUTS: dict[str, Placement] = {
    "eight": sharded((2, 4), P("model", "data"), P("model")),
    "eight, other axes": sharded((2, 4), P(None, ("data", "model")), P()),
    "four": sharded((2, 2), P("model", "data"), P("model")),
    "four, other axes": sharded((4, 1), P(None, "data"), P()),
    "the sixth": lambda dimensions: SingleDeviceSharding(jax.devices()[5]),
    "default": None,
}


@fb.jit
def train(net: Any, optimizer: Any, x: Any) -> Any:
    loss, grads = fb.value_and_grad(lambda net: (net(x) ** 2).mean())(net)
    optimizer.step(grads)
    return loss


class Run:
    """A network in a layout, its optimizer, and the default generator, whose numbers its dropout draws."""

    def __init__(self, layout: str, seed: int) -> None:
        fb.manual_seed(seed)
        # A bias in front of the norm would have no gradient but for rounding, and Adam makes steps of any.
        first = nn.Linear(8, 16, bias=False)
        self.net = nn.Sequential(first, nn.BatchNorm1d(16), nn.Dropout(0.2), nn.Linear(16, 4)).double()
        place = LAYOUTS[layout]
        if place is not None:
            self.net._apply(lambda array: jax.device_put(array, place(array.ndim)))
        self.optimizer = fb.optim.Adam(self.net.parameters(), lr=0.01)

    def step(self) -> float:
        return float(train(self.net, self.optimizer, X))

    def objects(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer, "net": self.net, "generator": fb.default_generator}

    def arrays(self) -> dict[str, jax.Array]:
        """All that is saved, by the paths of the checkpoint."""
        moments = self.optimizer.state_dict()["state"].items()
        return {
            **{f"net/{name}": value for name, value in self.net.state_dict().items()},
            **{f"optimizer/state/{i}/{name}": value for i, state in moments for name, value in state.items()},
            "generator": fb.get_rng_state(),
        }

    def values(self) -> dict[str, np.ndarray]:
        return {name: np.array(array) for name, array in self.arrays().items()}

    def one_more(self) -> dict[str, np.ndarray]:
        """The loss of one step, and the values after it."""
        return {"loss": np.array(self.step()), **self.values()}

    def places(self) -> dict[str, Sharding | None]:
        """Where each lies, None where nobody put it; and where state that Adam does not have yet is to lie."""
        places = {name: place_of(array) for name, array in self.arrays().items()}
        for i, parameter in enumerate(self.net.parameters()):
            for name in ("exp_avg", "exp_avg_sq"):
                places.setdefault(f"optimizer/state/{i}/{name}", place_of(parameter.data))
            places.setdefault(f"optimizer/state/{i}/step", None)
        return places


def place_of(array: jax.Array) -> Sharding | None:
    return array.sharding if array.committed else None  # pyright: ignore[reportAttributeAccessIssue]


class Saved(NamedTuple):
    folder: Path
    values: dict[str, np.ndarray]
    after: dict[str, np.ndarray]
    """What goes on from there."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Saved]:
    """The checkpoint of a run in a layout."""
    made: dict[str, Saved] = {}

    def save(layout: str) -> Saved:
        if layout not in made:
            folder = tmp_path_factory.mktemp("run")
            run = Run(layout, seed=0)
            for _ in range(TRAINED):
                run.step()
            values = run.values()
            with fb.Checkpointer(folder) as checkpoints:
                checkpoints.save(TRAINED, run.objects())
            made[layout] = Saved(folder, values, run.one_more())
        return made[layout]

    return save


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What orbax is asked for, by path."""
    orbax: Any = pytest.importorskip("orbax.checkpoint")
    real, seen = orbax.CheckpointManager.restore, {}

    def restore(self: Any, step: int, args: Any) -> Any:
        seen.update(args["arrays"].item if "arrays" in args.keys() else {})  # noqa: SIM118
        return real(self, step, args=args)

    monkeypatch.setattr(orbax.CheckpointManager, "restore", restore)
    return seen


def restored(folder: Path, run: Run) -> None:
    with fb.Checkpointer(folder) as checkpoints:
        assert checkpoints.restore(run.objects()) == (TRAINED, {})


def holds(run: Run, values: dict[str, np.ndarray]) -> None:
    """Bit by bit."""
    arrays = run.arrays()
    assert arrays.keys() == values.keys()
    for name, value in values.items():
        assert arrays[name].dtype == value.dtype, name
        np.testing.assert_array_equal(arrays[name], value, err_msg=name)


def goes_on(run: Run, expected: dict[str, np.ndarray]) -> None:
    """As it went on elsewhere, where sums were added up in another order."""
    found = run.one_more()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-10, atol=1e-12, err_msg=name)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("eight", "eight, other axes"),
        ("eight", "four, other axes"),
        ("eight", "the sixth"),
        ("four", "eight"),
    ],
)
def test_a_new_run_goes_on_in_another_layout(
    saved: Callable[[str], Saved], asked: dict[str, Any], source: str, target: str
) -> None:
    folder, values, after = saved(source)
    run = Run(target, seed=1)
    places = run.places()
    restored(folder, run)
    holds(run, values)
    assert run.places() == places
    for name, wanted in asked.items():
        assert isinstance(wanted, np.ndarray if places[name] is None else jax.ShapeDtypeStruct), name
        assert getattr(wanted, "sharding", None) == places[name], name
    assert asked.keys() == values.keys()
    goes_on(run, after)


def test_a_step_leaves_everything_on_its_mesh() -> None:
    """By the names of its axes, also where the same step ran on another mesh before."""
    for layout in ("eight", "four", "eight", "four, other axes"):
        run = Run(layout, seed=0)
        mesh = getattr(run.net[0].weight.sharding, "mesh")  # noqa: B009
        for _ in range(2):
            run.step()
        assert {getattr(array.sharding, "mesh", None) for array in run.arrays().values()} == {mesh}


def test_a_checkpoint_of_shardings_without_a_name(tmp_path: Path) -> None:
    """What JAX gives where a program that was traced on one mesh runs on another."""
    doubled = jax.make_jaxpr(jax.jit(lambda x: 2 * x))(Run("four", seed=0).net[0].weight)
    weight = Run("eight", seed=0).net[0].weight
    (unnamed,) = jax.jit(jax.extend.core.jaxpr_as_fun(doubled))(weight)
    assert not isinstance(unnamed.sharding, NamedSharding)
    with fb.Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(1, {"weight": unnamed})
        restored = checkpoints.restore()
    assert restored is not None
    np.testing.assert_array_equal(restored.values["weight"], 2 * weight)


def test_a_run_that_has_begun_keeps_its_layout(saved: Callable[[str], Saved]) -> None:
    folder, values, after = saved("eight")
    run = Run("four", seed=1)
    run.step()
    places = run.places()
    assert None not in places.values()
    restored(folder, run)
    holds(run, values)
    assert run.places() == places
    goes_on(run, after)


def test_each_part_goes_to_its_device_at_once(saved: Callable[[str], Saved]) -> None:
    folder, values, _ = saved("eight")
    net = Run("four", seed=1).net
    with fb.Checkpointer(folder) as checkpoints, jax.transfer_guard_device_to_device("disallow_explicit"):
        checkpoints.restore({"net": net})
    np.testing.assert_array_equal(net[0].weight, values["net/0.weight"])


@pytest.mark.parametrize("name", ["net.safetensors", "net.pt"])
@pytest.mark.parametrize(("source", "target"), [("eight", "four"), ("four", "default"), ("default", "eight")])
def test_files_of_weights_know_no_layout(tmp_path: Path, name: str, source: str, target: str) -> None:
    net, twin = Run(source, seed=0).net, Run(target, seed=1).net
    places = {key: place_of(value) for key, value in twin.state_dict().items()}
    fb.save(net, tmp_path / name)
    tensors = fb.load(tmp_path / name)
    for load in (twin.load_state_dict, lambda state: fb.io.load_into(twin, state)):
        load({key: np.zeros_like(value) for key, value in tensors.items()})
        load(tensors)
        for key, value in net.state_dict().items():
            np.testing.assert_array_equal(twin.state_dict()[key], value, err_msg=key)
        assert {key: place_of(value) for key, value in twin.state_dict().items()} == places


def test_a_state_dict_of_another_layout_is_copied_into_the_present_one() -> None:
    net, twin = Run("eight", seed=0).net, Run("four, other axes", seed=1).net
    places = {key: place_of(value) for key, value in twin.state_dict().items()}
    twin.load_state_dict(net.state_dict())
    assert {key: place_of(value) for key, value in twin.state_dict().items()} == places
    np.testing.assert_array_equal(twin[0].weight, net[0].weight)


def test_state_of_an_optimizer_in_another_layout_comes_to_its_parameters() -> None:
    run, other = Run("eight", seed=0), Run("four, other axes", seed=1)
    run.step()
    other.net.load_state_dict(run.net.state_dict())
    places = other.places()
    other.optimizer.load_state_dict(run.optimizer.state_dict())
    assert other.places() == places
    fb.manual_seed(2)
    loss = run.step()
    fb.manual_seed(2)
    np.testing.assert_allclose(other.step(), loss, rtol=1e-10)


def test_between_processes_with_one_device_and_with_eight(asked: dict[str, Any]) -> None:
    """The folder has what a process with one device wrote; it reads what is written here."""
    folder = Path(os.environ["FLAMBEAU_LAYOUTS"])
    run = Run("eight", seed=1)
    places = run.places()
    restored(folder / "from one", run)
    holds(run, dict(np.load(folder / "one.npz")))
    assert run.places() == places
    assert {name: getattr(wanted, "sharding", None) for name, wanted in asked.items()} == places
    np.savez(folder / "eight.npz", **run.values())  # pyright: ignore[reportArgumentType]
    with fb.Checkpointer(folder / "from eight") as checkpoints:
        checkpoints.save(TRAINED, {**run.objects(), "position": run.net[0].weight})
    goes_on(run, dict(np.load(folder / "after.npz")))
