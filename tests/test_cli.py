"""`flambeau inspect` and `flambeau convert`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import flambeau as fb
from flambeau import nn
from flambeau.cli import main


@pytest.fixture
def net() -> Any:
    layers = [nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)) for _ in range(11)]
    return nn.Sequential(*layers).double()


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def same(state: Any, other: Any) -> None:
    assert sorted(state) == sorted(other)
    for name in state:
        assert state[name].dtype == other[name].dtype
        np.testing.assert_array_equal(state[name], other[name])


def test_a_table(net: Any, capsys: pytest.CaptureFixture[str]) -> None:
    fb.save(net, "net.safetensors", {"epoch": "3", "note": "[red]"})
    assert main(["inspect", "net.safetensors"]) == 0
    out = capsys.readouterr().out
    assert out.index("│ 9.1.weight ") < out.index("│ 10.0.bias ")
    assert "│ 0.0.weight               │ float64 │ [2, 2] │ 32 bytes │" in out
    assert f"77 arrays, {11 * 15:,} numbers, {(11 * (14 * 8 + 8)) / 1000:.1f} kB" in out
    assert "epoch: 3" in out
    assert "note: [red]" in out


def test_a_tree_and_what_is_no_array(net: Any, capsys: pytest.CaptureFixture[str]) -> None:
    fb.save({"model": net, "epochs": [1, 2.5], "best": None}, "last.pt")
    assert main(["inspect", "last.pt", "--tree"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == ["last.pt  1.3 kB", "├── model  1.3 kB", "│   ├── 0  120 bytes", "│   │   ├── 0  48 bytes"]
    assert lines[-4:-1] == ["│   ├── 0  1", "│   └── 1  2.5", "└── best  None"]
    assert main(["inspect", "last.pt", "--json", "--key", "model"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["3.1.num_batches_tracked"] == {"dtype": "int64", "shape": [], "bytes": 8}
    assert main(["inspect", "last.pt", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["epochs.1"], found["best"]) == ({"value": 2.5}, {"value": None})


def test_conversion_there_and_back(net: Any) -> None:
    fb.save(net, "net.safetensors")
    assert main(["convert", "net.safetensors", "net.pt"]) == 0
    same(fb.load("net.pt"), net.state_dict())
    assert main(["convert", "net.pt", "parts.safetensors", "--max-shard-size", "0.5kB"]) == 0
    assert Path("parts.safetensors.index.json").exists()
    same(fb.load("parts.safetensors"), net.state_dict())


def test_names_dtypes_and_entries(net: Any) -> None:
    fb.save({"state": {"model": {f"module.{name}": value for name, value in net.state_dict().items()}}}, "last.pt")
    options = (
        "--key state.model --strip-prefix module. --rename 0.=first. --rename 1.0.bias=other --dtype bfloat16".split()
    )
    assert main(["convert", "last.pt", "net.safetensors", *options]) == 0
    state = fb.load("net.safetensors")
    assert {"first.0.weight", "other", "1.0.weight"} < set(state)
    assert state["first.0.weight"].dtype == jnp.bfloat16
    assert state["first.1.num_batches_tracked"].dtype == jnp.int64
    np.testing.assert_array_equal(state["other"], net[1][0].bias.astype(jnp.bfloat16))


def test_values_of_64_bits_stay_where_jax_has_32() -> None:
    fb.save({"large": jnp.array(2**40 + 1)}, "large.pt")
    command = [sys.executable, "-m", "flambeau.cli", "convert", "large.pt", "large.safetensors"]
    subprocess.run(command, check=True, timeout=120, capture_output=True)
    assert int(fb.load("large.safetensors")["large"]) == 2**40 + 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("inspect none.pt", "none.pt cannot be read: No such file"),
        ("inspect last.pt --key modell", "last.pt has no entry 'modell'; there is 'model', 'epoch'"),
        ("inspect last.pt --key epoch", "expected last.pt to hold arrays by name, it holds a int"),
        (
            "convert last.pt net.safetensors",
            "last.pt holds 'model', 'epoch'; choose the entry with the arrays by --key",
        ),
        ("convert last.pt net.safetensors --key model --rename a", "expected --rename OLD=NEW, got 'a'"),
        (
            "convert last.pt net.safetensors --key model --dtype half-ish",
            "expected --dtype to be a dtype such as bfloat16",
        ),
        ("convert last.pt net.safetensors --key model --rename a=b", "'a' and 'b' both become 'b'"),
        ("convert last.pt net.pt --key model --max-shard-size 1", "belong to safetensors files"),
        ("convert last.pt no/net.pt --key model", "no/net.pt cannot be written"),
    ],
)
def test_mistakes(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    fb.save({"model": {"a": jnp.ones(1), "b": jnp.ones(1)}, "epoch": 3}, "last.pt")
    assert main(arguments.split()) == 1
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in Path().iterdir()) == ["last.pt"]
