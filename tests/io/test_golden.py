"""Files that torch and safetensors wrote (scripts/make_checkpoints.py), read where neither torch nor its numbers are there."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from flambeau import nn
from flambeau._errors import CheckpointError
from flambeau.io import load
from flambeau.optim import Adam
from tests.io.values import DTYPES, numbers, same

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("name", ["dtypes.pt", "dtypes_legacy.pt", "dtypes.safetensors"])
def test_dtypes(name: str, mmap: bool) -> None:
    loaded = dict(load(GOLDEN / name, mmap=mmap))
    expected = set(DTYPES) - ({"complex128"} if name.endswith("safetensors") else set())
    assert set(loaded) == expected
    one_to_six = numbers(np.float64, (2, 3)) + 1
    assert all(same(loaded[each], one_to_six.astype(DTYPES[each])) for each in expected)


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("name", ["layouts.pt", "layouts_protocol_5.pt", "layouts_legacy.pt"])
def test_layouts(name: str, mmap: bool) -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    expected = {"plain": x, "tied": x, "transposed": x.T, "column": x[:, 1], "corner": x[1:, 2:]}
    expected |= {"repeated": x[[0, 0]], "scalar": x[1, 1], "empty": x[:0], "parameter": x}
    loaded = load(GOLDEN / name, mmap=mmap)
    assert loaded.keys() == expected.keys() and loaded["plain"] is loaded["tied"] is loaded["parameter"]
    assert all(same(loaded[each], array) for each, array in expected.items())


@pytest.mark.parametrize("name", ["training.pt", "training_legacy.pt"])
def test_training(name: str) -> None:
    loaded = load(GOLDEN / name)
    assert (loaded["epoch"], loaded["best"], loaded["note"]) == (3, 0.5, "a")
    assert loaded["scheduler"]["milestones"] == Counter({2: 2, 5: 1})
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    net.load_state_dict(loaded["model"])
    assert same(net[0].weight, loaded["model"]["0.weight"]) and int(net[1].num_batches_tracked) == 1
    optimizer = Adam(net.parameters())
    optimizer.load_state_dict(loaded["optimizer"])
    assert same(optimizer.state_dict()["state"][0]["exp_avg"], loaded["optimizer"]["state"][0]["exp_avg"])


@pytest.mark.parametrize(
    ("name", "message"), [("sparse", "to_dense"), ("quantized", "dequantize"), ("module", "modules.linear.Linear")]
)
def test_refused(name: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load(GOLDEN / f"refused_{name}.pt")


def test_all_of_them_are_small() -> None:
    assert sum(path.stat().st_size for path in GOLDEN.iterdir()) < 100_000
