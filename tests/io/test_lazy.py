"""`Tensors`: a dict whose arrays are read when they are asked for."""

from __future__ import annotations

import copy
import gc
import os
import pickle
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flambeau import nn
from flambeau._errors import CheckpointError
from flambeau.io import Tensors, load, save
from flambeau.io._file import File
from tests.io.values import same


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save({"a": jnp.zeros((1000, 8), jnp.float32), "b": jnp.ones(3), "c": jnp.ones(2, bool)}, tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is read, by its name."""
    names: list[str] = []
    real = File.read
    monkeypatch.setattr(
        File, "read", lambda self, begin, count, what: names.append(what) or real(self, begin, count, what)
    )
    return names


def test_only_what_is_asked_for_is_read(path: Path, taken: list[str]) -> None:
    tensors = load(path)
    assert sorted(tensors) == ["a", "b", "c"] and len(tensors) == 3 and "a" in tensors and "x" not in tensors
    assert tensors.spec("a") == jax.ShapeDtypeStruct((1000, 8), jnp.float32)
    assert repr(tensors) == "Tensors(3\n  a: float32[1000, 8]\n  b: float64[3]\n  c: bool[2]\n)"
    copy.deepcopy(tensors).pop("c")
    del taken[:]
    assert tensors["b"].tolist() == [1, 1, 1] and taken == ["'b'"]
    assert [name for name, _ in tensors.items()] == list(tensors) and len(taken) == 4
    with pytest.raises(KeyError):
        tensors["x"]


def test_it_is_a_dict_that_changes(path: Path) -> None:
    tensors = load(path)
    other = tensors.copy()
    assert other.pop("c").tolist() == [True, True]
    other["d"] = jnp.zeros(2)
    del other["a"]
    assert sorted(other) == ["b", "d"] and sorted(tensors) == ["a", "b", "c"]
    assert other.spec("d").shape == (2,) and repr(Tensors()) == "Tensors(0)"
    save(other, path)
    assert sorted(load(path)) == ["b", "d"]
    assert tensors["a"].shape == (1000, 8), "what is open stays the file that it was"


def test_load_state_dict_takes_it(path: Path) -> None:
    save({"weight": jnp.ones((3, 2)), "bias": jnp.zeros(3)}, path)
    net = nn.Linear(2, 3)
    assert str(net.load_state_dict(load(path))) == "<All keys matched successfully>"
    assert net.weight.dtype == jnp.float32 and same(net.weight, np.ones((3, 2), np.float32))


def test_mapped_arrays_are_the_file(path: Path, taken: list[str]) -> None:
    tensors = load(path, mmap=True)
    del taken[:]
    mapped = tensors["a"]
    again = tensors["a"]
    assert not taken and mapped.unsafe_buffer_pointer() == again.unsafe_buffer_pointer()
    assert load(path)["a"].unsafe_buffer_pointer() != mapped.unsafe_buffer_pointer()
    with open(path, "rb+") as file:
        file.seek(-8 * 3 - 2 - 4, os.SEEK_END)
        file.write(np.float32(7).tobytes())
    assert float(mapped[-1, -1]) == 7
    donated = jax.jit(lambda x: x + 1, donate_argnums=0)(mapped)
    assert float(donated[-1, -1]) == 8 and float(again[-1, -1]) == 7
    with pytest.raises(CheckpointError, match=r"a\.safetensors: somebody has changed the file since it was opened"):
        tensors["b"]


@pytest.mark.parametrize("mmap", [False, True])
def test_files_that_change_under_way(path: Path, mmap: bool) -> None:
    tensors = load(path, mmap=mmap)
    os.truncate(path, 200)
    with pytest.raises(CheckpointError, match="somebody has changed the file since it was opened"):
        tensors["a"]


def test_a_file_is_closed_with_its_last_tensors(path: Path) -> None:
    def opened() -> int:
        return sum(os.path.realpath(f"/proc/self/fd/{each}") == str(path) for each in os.listdir("/proc/self/fd"))

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("there is no /proc here")
    tensors: Any = load(path)
    other = tensors.copy()
    assert opened() == 1
    del tensors
    assert other["b"].shape == (3,)
    del other
    gc.collect()
    assert opened() == 0


def test_it_cannot_be_pickled_by_accident(path: Path) -> None:
    with pytest.raises(TypeError):
        pickle.dumps(load(path))
