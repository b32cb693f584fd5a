"""Files that we write for torch: `torch.load(weights_only=True)` reads them, and so do we."""

from __future__ import annotations

import os
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flambeau as fb
from flambeau import nn
from flambeau._errors import CheckpointError
from flambeau.io import Tensors, load, save
from flambeau.io._file import Allowance, File
from flambeau.io._zip import directory, place
from tests.io.values import DTYPES, array_of, numbers, same

SHAPES = [(), (3,), (2, 3), (0,), (4, 0, 2), (1, 1, 1)]

PLAIN: dict[Any, Any] = {
    "numbers": [
        0,
        255,
        256,
        -1,
        -(1 << 31),
        1 << 31,
        (1 << 31) - 1,
        1 << 80,
        -(1 << 80),
        127,
        128,
        2.5,
        float("inf"),
        1j,
    ],
    "texts": ["", "a", "ü" * 300, "\ud800"],
    "bytes": [b"", b"\xff\0", bytearray(b"y"), bytearray()],
    "constants": (None, True, False, ()),
    "sets": [set(), {1, "a"}, {(1, 2)}],
    "keys": {1: "a", (1, "b"): "c", None: 0},
    "counter": Counter("aab"),
    "ordered": OrderedDict(a=OrderedDict(b={})),
}


@pytest.mark.parametrize("dtype", DTYPES)
def test_torch_reads_ours(torch: Any, tmp_path: Path, dtype: str) -> None:
    arrays = {str(shape): numbers(DTYPES[dtype], shape) for shape in SHAPES}
    arrays["transposed"] = numbers(DTYPES[dtype], (2, 3)).T
    state = {"jax": {name: jnp.asarray(array) for name, array in arrays.items()}, "numpy": arrays}
    save(state, tmp_path / "a.pt")
    for mmap in (False, True):
        theirs, ours = torch.load(tmp_path / "a.pt", weights_only=True, mmap=mmap), load(tmp_path / "a.pt", mmap=mmap)
        for kind in state:
            assert all(same(array_of(torch, theirs[kind][name]), array) for name, array in arrays.items())
            assert all(same(ours[kind][name], array) for name, array in arrays.items())


def test_plain_values(torch: Any, tmp_path: Path) -> None:
    save(PLAIN, tmp_path / "a.pth")
    assert torch.load(tmp_path / "a.pth", weights_only=True) == PLAIN == load(tmp_path / "a.pth")


LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5) | st.binary(max_size=5)
)
KEYS = st.text(max_size=5) | st.integers()


@given(st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3)))
def test_round_trip_of_any_plain_value(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.mktemp("any") / "a.pt"
    save(value, path)
    assert load(path) == value


def test_module_and_optimizer(torch: Any, tmp_path: Path) -> None:
    net, twin = (
        nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)),
        torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)),
    )
    optimizer = fb.optim.AdamW(net.parameters(), lr=0.1)
    optimizer.step(fb.grad(lambda net: (net(jnp.arange(6, dtype=jnp.float32).reshape(2, 3)) ** 2).sum())(net))
    save({"model": net, "optimizer": optimizer.state_dict(), "epoch": 3}, tmp_path / "last.pt")
    theirs = torch.load(tmp_path / "last.pt", weights_only=True)
    twin.load_state_dict(theirs["model"])
    torch_optimizer = torch.optim.AdamW(twin.parameters())
    torch_optimizer.load_state_dict(theirs["optimizer"])
    assert same(twin[0].weight.detach().numpy(), net[0].weight)
    assert torch_optimizer.param_groups[0]["lr"] == 0.1
    ours = load(tmp_path / "last.pt")
    again = fb.optim.AdamW(net.parameters())
    again.load_state_dict(ours["optimizer"])
    moments = [state["exp_avg"] for state in torch_optimizer.state_dict()["state"].values()]
    mine = [state["exp_avg"] for state in again.state_dict()["state"].values()]
    assert len(moments) == 4 and all(same(a.numpy(), b) for a, b in zip(moments, mine))


@pytest.mark.parametrize("many_at_once", [False, True])
def test_adam_goes_on_in_torch(torch: Any, tmp_path: Path, many_at_once: bool) -> None:
    """Which counts the steps of each parameter in place."""
    net, twin = nn.Linear(3, 2).double(), torch.nn.Linear(3, 2).double()
    optimizer = fb.optim.Adam(net.parameters(), lr=0.1)
    x = jnp.arange(6, dtype=jnp.float64).reshape(2, 3)

    def step() -> None:
        optimizer.step(fb.grad(lambda net: (net(x) ** 2).sum())(net))

    step()
    save({"net": net, "opt": optimizer.state_dict()}, tmp_path / "last.pt")
    theirs = torch.load(tmp_path / "last.pt", weights_only=True)
    twin.load_state_dict(theirs["net"])
    torch_optimizer = torch.optim.Adam(twin.parameters(), foreach=many_at_once)
    torch_optimizer.load_state_dict(theirs["opt"])
    for _ in range(3):
        step()
        torch_optimizer.zero_grad()
        (twin(torch.tensor(x.tolist(), dtype=torch.float64)) ** 2).sum().backward()
        torch_optimizer.step()
    assert [entry["step"].item() for entry in torch_optimizer.state_dict()["state"].values()] == [4, 4]
    for mine, its in zip(net.parameters(), twin.parameters(), strict=True):
        np.testing.assert_allclose(mine.get(), its.detach().numpy(), rtol=1e-12)
    again = fb.optim.Adam(net.parameters())
    again.load_state_dict(load(tmp_path / "last.pt")["opt"])
    (entry, _) = again.state_dict()["state"].values()
    assert entry["step"] == 1 and entry["step"].dtype == optimizer.state_dict()["state"][0]["step"].dtype


def test_tied_arrays_stay_tied(torch: Any, tmp_path: Path) -> None:
    net = nn.Module()
    net.a = nn.Parameter(jnp.ones(1000, jnp.float32))
    net.b = net.a
    save(net.state_dict(keep_vars=True), tmp_path / "a.bin")
    theirs, ours = torch.load(tmp_path / "a.bin", weights_only=True), load(tmp_path / "a.bin")
    assert theirs["a"].data_ptr() == theirs["b"].data_ptr() and ours["a"] is ours["b"]
    assert (tmp_path / "a.bin").stat().st_size < 6000


def test_format_and_its_arguments(tmp_path: Path) -> None:
    save({"a": jnp.ones(2)}, tmp_path / "a", format="torch")
    save({"a": jnp.ones(2)}, tmp_path / "a.pt", format="safetensors")
    assert zipfile.is_zipfile(tmp_path / "a") and isinstance(load(tmp_path / "a.pt"), Tensors)
    with pytest.raises(ValueError, match="belong to safetensors"):
        save({}, tmp_path / "b.pt", metadata={"a": "b"})
    with pytest.raises(ValueError, match="belong to safetensors"):
        save({}, tmp_path / "b.pt", max_shard_size=3)
    with pytest.raises(ValueError, match="expected format to be 'safetensors' or 'torch', got 'npz'"):
        save({}, tmp_path / "b", format="npz")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("large", [1 << 30, 10])
def test_values_begin_where_they_can_be_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: int) -> None:
    monkeypatch.setattr("flambeau.io._torch_writing._LARGE", large)
    state = {str(i): jnp.arange(i) for i in range(5)}
    save(state, tmp_path / "a.pt")
    file = File(tmp_path / "a.pt")
    entries = directory(file, Allowance(file.size))
    assert next(iter(entries)) == "archive/data.pkl" and all(place(file, entry) % 64 == 0 for entry in entries.values())
    assert all(same(load(tmp_path / "a.pt")[name], array) for name, array in state.items())
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        assert archive.testzip() is None
    save(state, tmp_path / "b.pt")
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


def test_what_cannot_be_written(tmp_path: Path) -> None:
    """One error names all of it, and the file that was there stays."""
    save({"a": 1}, tmp_path / "a.pt")
    endless: list[Any] = []
    endless.append(endless)
    state = {
        "model": {"key": jax.random.key(0), "small": jnp.ones(2, jnp.int4), "good": jnp.ones(2)},
        "other": [object(), {frozenset(): 1}],
        "huge": 1 << 3000,
        "endless": endless,
    }
    with pytest.raises(CheckpointError) as caught:
        save(state, tmp_path / "a.pt")
    message = str(caught.value)
    for part in (
        "model.key has dtype key<fry>",
        "model.small has dtype int4, which",
        "other.0 is object",
        "huge is int",
    ):
        assert part in message
    for part in ("other.1 has a frozenset for a key", "endless lies in itself, or in more than 100 others"):
        assert part in message
    assert "good" not in message and load(tmp_path / "a.pt") == {"a": 1} and os.listdir(tmp_path) == ["a.pt"]
    with pytest.raises(CheckpointError, match=r"a is no array but .*Tracer"):
        jax.jit(lambda x: save({"a": x}, tmp_path / "a.pt"))(1.0)
