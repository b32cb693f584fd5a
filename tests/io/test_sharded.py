"""Weights in several files beside an index, as Hugging Face lays them out."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flambeau._errors import CheckpointError
from flambeau.io import load, save
from flambeau.io._sharded import parts, size_in_bytes
from tests.io.values import same

STATE = {name: np.full(10, i, np.float32) for i, name in enumerate("abcde")}


def write_index(folder: Path, places: Any) -> Path:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return folder / "model.safetensors.index.json"


def test_round_trip(tmp_path: Path) -> None:
    save(STATE, tmp_path / "model.safetensors", metadata={"epoch": "3"}, max_shard_size=80)
    names = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    assert sorted(os.listdir(tmp_path)) == [*names, "model.safetensors.index.json"]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 200}
    assert index["weight_map"] == dict(zip("abcde", [names[0], names[0], names[1], names[1], names[2]]))
    assert load(tmp_path / names[0]).metadata == {"epoch": "3"} and list(load(tmp_path / names[2])) == ["e"]
    for path in (tmp_path, tmp_path / "model.safetensors", tmp_path / "model.safetensors.index.json"):
        for mmap in (False, True):
            loaded = load(path, mmap=mmap)
            assert list(loaded) == list("abcde") and all(same(loaded[name], array) for name, array in STATE.items())


def test_one_takes_the_place_of_the_other(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for size, count in [(None, 1), (80, 3), (80, 3), (40, 5), ("1GB", 1), (200, 1)]:
        save({**STATE, "e": np.full(10, count, np.float32)}, path, max_shard_size=size)
        assert float(load(path)["e"][0]) == float(load(tmp_path)["e"][0]) == count
        assert path.exists() == (count == 1) and (tmp_path / "model.safetensors.index.json").exists() == (count > 1)


@pytest.mark.parametrize("moment", [1, 2, 3, 4])
def test_interrupted_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int) -> None:
    """Old and new files are never one whole: what is loaded is the one or the other, or nothing."""
    path = tmp_path / "model.safetensors"
    save(STATE, path, max_shard_size=80)
    calls = 0
    real = os.replace

    def replace(source: str, target: str) -> None:
        nonlocal calls
        calls += 1
        if calls == moment:
            raise OSError(5, "Input/output error")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(CheckpointError, match="Input/output error"):
        save({name: array + 100 for name, array in STATE.items()}, path, max_shard_size=80)
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]
    with pytest.raises(CheckpointError):
        load(path)


def test_parts_of_pytorch(tmp_path: Path) -> None:
    save({"a": jnp.ones(2), "b": jnp.zeros(2)}, tmp_path / "pytorch_model-00001-of-00002.bin")
    save({"c": jnp.ones(3)}, tmp_path / "pytorch_model-00002-of-00002.bin")
    names = {"a": "pytorch_model-00001-of-00002.bin", "c": "pytorch_model-00002-of-00002.bin"}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": names}))
    loaded = load(tmp_path)
    assert list(loaded) == ["a", "c"] and all(isinstance(array, jax.Array) for array in loaded.values())


@pytest.mark.parametrize(
    "name",
    ["../secret", "/etc/passwd", "a/../../secret", "..", ".", "", "a\\b", "C:secret", "a\0", "b.index.json", "\ud800"],
)
def test_names_outside_of_the_folder(tmp_path: Path, name: str) -> None:
    save({"a": jnp.ones(2)}, tmp_path / "secret")
    (tmp_path / "inner").mkdir()
    with pytest.raises(
        CheckpointError, match=r"index\.json: names '.*' as the file of 'a', which is no file beside it"
    ):
        load(write_index(tmp_path / "inner", {"a": name}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "it is not JSON"),
        ("[" * 100_000, "it is not JSON"),
        ("[]", "no weight_map"),
        ('{"weight_map": []}', "no weight_map"),
        ('{"weight_map": {"a": 3}}', "names '3' as the file of 'a'"),
        ('{"weight_map": {"a": "nowhere"}}', "nowhere cannot be read: No such file"),
        ('{"weight_map": {"x": "part"}}', "names arrays that are not there: 'x' in 'part'"),
        ('{"weight_map": {"x": "list.pt"}}', r"list\.pt: is no dict of arrays"),
        ('{"weight_map": {"x": "damaged"}}', "damaged: is no safetensors file"),
    ],
)
def test_what_is_no_index(tmp_path: Path, content: str, message: str) -> None:
    save({"a": jnp.ones(2)}, tmp_path / "part")
    save([1], tmp_path / "list.pt")
    (tmp_path / "damaged").write_text("damaged")
    (tmp_path / "a.index.json").write_text(content)
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path / "a.index.json")


def test_folders(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is a folder that has none of model\.safetensors, .*: name the file"):
        load(tmp_path)
    save({"b": jnp.ones(2)}, tmp_path / "pytorch_model.bin")
    assert list(load(tmp_path)) == ["b"]
    save({"a": jnp.ones(2)}, tmp_path / "model.safetensors")
    assert list(load(tmp_path)) == ["a"]


@given(st.lists(st.integers(0, 9), max_size=10), st.integers(1, 200))
def test_parts_are_as_few_as_the_order_allows(lengths: list[int], limit: int) -> None:
    arrays = {str(i): np.zeros(length) for i, length in enumerate(lengths)}
    shards = list(parts(arrays, limit))
    sizes = [sum(array.nbytes for array in shard.values()) for shard in shards]
    assert [name for shard in shards for name in shard] == list(arrays) and (all(shards) or not arrays)
    assert all(size <= limit or len(shard) == 1 for size, shard in zip(sizes, shards))
    assert all(size + next(iter(after.values())).nbytes > limit for size, after in zip(sizes, shards[1:]))


def test_sizes() -> None:
    sizes = ["5GB", "200 MiB", "1.5kb", 7]
    assert [size_in_bytes(size) for size in sizes] == [5 * 10**9, 200 << 20, 1500, 7]
    for wrong in ("5", "GB", 0, -1, "0MB", True, 1.5):
        with pytest.raises(ValueError, match="expected max_shard_size to be a number of bytes or a text such as '5GB'"):
            size_in_bytes(wrong)  # pyright: ignore[reportArgumentType]
