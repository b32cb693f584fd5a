"""Files of weights: whole or not there, the same arrays back, and the same files as other libraries write."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import hypothesis.extra.numpy as arrays
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
from hypothesis import given
from hypothesis import strategies as st

from flambeau._errors import CheckpointError
from flambeau.core.cell import Buffer, Parameter
from flambeau.core.module import Module
from flambeau.io import load, save
from flambeau.io._safetensors import DTYPES
from tests.io.values import numbers, same

SHAPES = [(), (3,), (2, 3), (0,), (4, 0, 2), (1, 1, 1)]


class Net(Module):
    def __init__(self, value: float = 1.0) -> None:
        super().__init__()
        self.weight = Parameter(jnp.full((2, 3), value, jnp.bfloat16))
        self.tied = self.weight
        self.count = Buffer(jnp.asarray(7))
        self.hidden = Buffer(jnp.zeros(2), persistent=False)


@contextmanager
def umask(mask: int) -> Iterator[None]:
    old = os.umask(mask)
    try:
        yield
    finally:
        os.umask(old)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_round_trip_of_every_dtype(tmp_path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    array = numbers(dtype, shape)
    save({"array": jnp.asarray(array), "numpy": array}, tmp_path / "a.safetensors")
    loaded = load(tmp_path / "a.safetensors")
    assert all(isinstance(value, jax.Array) for value in loaded.values())
    assert same(loaded["array"], array) and same(loaded["numpy"], array)


STORABLE = st.sampled_from([np.float64, np.float32, np.float16, np.int64, np.uint8, np.bool_, np.complex64])


@given(
    st.dictionaries(
        st.text(max_size=8).filter(lambda name: name != "__metadata__" and name.isprintable()),
        STORABLE.flatmap(lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, min_side=0, max_side=3))),
        max_size=5,
    )
)
def test_round_trip_of_any_state_dict(tmp_path_factory: pytest.TempPathFactory, state: dict[str, np.ndarray]) -> None:
    path = tmp_path_factory.mktemp("any") / "a.safetensors"
    save(state, path)
    loaded = load(path)
    assert loaded.keys() == state.keys()
    assert all(same(loaded[name], array) for name, array in state.items())


@pytest.mark.parametrize("order", ["transposed", "strided", "reversed", "big-endian"])
def test_arrays_that_do_not_lie_in_order(tmp_path: Path, order: str) -> None:
    plain = np.arange(12.0).reshape(3, 4)
    array = {
        "transposed": plain.T,
        "strided": plain[::2, 1:3],
        "reversed": plain[::-1],
        "big-endian": plain.astype(">f8"),
    }[order]
    save({"a": array}, tmp_path / "a")
    np.testing.assert_array_equal(load(tmp_path / "a")["a"], array)


def test_module(tmp_path: Path) -> None:
    """A module is saved as its state dict: tied names both, what is not persistent not."""
    save(Net(3.0), tmp_path / "net.weights")
    loaded = load(str(tmp_path / "net.weights"))
    assert sorted(loaded) == ["count", "tied", "weight"]
    other = Net()
    other.load_state_dict(loaded)
    assert same(other.weight, jnp.full((2, 3), 3, jnp.bfloat16)) and other.tied is other.weight
    save(Net(4.0).state_dict(keep_vars=True), tmp_path / "net.weights")
    assert float(load(tmp_path / "net.weights")["tied"][0, 0]) == 4.0


def test_metadata(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save({"a": jnp.ones(2)}, path, metadata={"format": "pt", "epoch": "3"})
    with safetensors.safe_open(path, framework="numpy") as file:
        assert file.metadata() == {"format": "pt", "epoch": "3"}
    assert list(load(path)) == ["a"]


def test_what_cannot_be_stored(tmp_path: Path) -> None:
    """One error names all of it, and the file that was there stays."""
    path = tmp_path / "a.safetensors"
    save({"a": jnp.ones(2)}, path)
    state = {
        "good": jnp.ones(2),
        "net._extra_state": {"epoch": 3},
        "wide": jnp.ones(2, jnp.complex128),
        "small": jnp.ones(2, jnp.int4),
        "key": jax.random.key(0),
        "__metadata__": jnp.ones(2),
        3: jnp.ones(2),
    }
    with pytest.raises(CheckpointError) as caught:
        save(state, path)  # pyright: ignore[reportArgumentType]
    for part in ("'net._extra_state' is no array but dict", "'wide' has dtype complex128", "'small' has dtype int4"):
        assert part in str(caught.value)
    for part in ("'key' has dtype key<fry>", "'__metadata__' cannot be", "3 cannot be"):
        assert part in str(caught.value)
    assert "'good'" not in str(caught.value)
    assert list(load(path)) == ["a"] and os.listdir(tmp_path) == ["a.safetensors"]
    with pytest.raises(TypeError, match="expected a module or a dict of arrays by name, got list"):
        save([jnp.ones(2)], path)  # pyright: ignore[reportArgumentType]
    with pytest.raises(CheckpointError, match=r"'a' is no array but .*Tracer"):
        jax.jit(lambda x: save({"a": x}, path))(1.0)


# -- files --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["write", "fsync", "replace"])
@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), KeyboardInterrupt(), MemoryError()], ids=repr
)
def test_interrupted_writing_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, error: BaseException
) -> None:
    path = tmp_path / "a.safetensors"
    save({"a": jnp.ones(3)}, path)
    before = path.read_bytes()

    def half_written(file: BinaryIO, arrays: Any, metadata: Any) -> None:
        file.write(b"half")
        raise error

    def fail(*args: Any) -> None:
        raise error

    if moment == "write":
        monkeypatch.setattr("flambeau.io.files.write_safetensors", half_written)
    else:
        monkeypatch.setattr(os, moment, fail)
    expected = CheckpointError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected) as caught:
        save({"b": jnp.zeros(5)}, path)
    assert not isinstance(error, OSError) or str(caught.value) == f"{path} cannot be written: No space left on device"
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_data_is_on_disk_before_the_name_points_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        events.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        real_fsync(descriptor)

    def replace(source: str, target: str) -> None:
        events.append("replace")
        assert load(source)["a"].shape == (3,)
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    save({"a": jnp.ones(3)}, tmp_path / "a")
    assert events == ["file", "replace", "folder"]


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_permissions_are_those_of_a_new_file(tmp_path: Path, mask: int) -> None:
    with umask(mask):
        (tmp_path / "plain").touch()
        save({"a": jnp.ones(2)}, tmp_path / "saved")
    assert (tmp_path / "saved").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot be written: there is no folder .*missing"):
        save({}, tmp_path / "missing" / "a.safetensors")
    with pytest.raises(CheckpointError, match="something else of that name than a file"):
        save({}, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="there is no folder"):
        save({}, tmp_path / "file" / "a")
    assert sorted(os.listdir(tmp_path)) == ["file"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "latest").symlink_to(tmp_path / "real" / "a")
    save({"a": jnp.ones(2)}, tmp_path / "latest")
    assert (tmp_path / "latest").is_symlink() and list(load(tmp_path / "real" / "a")) == ["a"]
    save({"b": jnp.ones(2)}, tmp_path / "latest")
    assert (tmp_path / "latest").is_symlink() and list(load(tmp_path / "real" / "a")) == ["b"]


def test_a_bare_name_is_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save({"a": jnp.ones(2)}, "a.safetensors")
    assert list(load("a.safetensors")) == ["a"]


# -- files that are none ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    path = tmp_path_factory.mktemp("whole") / "a.safetensors"
    save({"a": jnp.arange(6.0).reshape(2, 3), "b": jnp.ones(2, jnp.bool_)}, path, metadata={"by": "us"})
    return path, path.read_bytes()


@given(st.data())
def test_truncated(whole: tuple[Path, bytes], data: st.DataObject) -> None:
    path, content = whole
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(CheckpointError, match=r"cannot be read as safetensors|is no safetensors file") as caught:
        load(path)
    assert str(path) in str(caught.value)


@given(st.data())
def test_damaged(whole: tuple[Path, bytes], data: st.DataObject) -> None:
    """A changed byte is either a clear error or, where it lies in a name or in the numbers, another name or number."""
    path, content = whole
    damaged = bytearray(content)
    damaged[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged)
    try:
        loaded = dict(load(path))
    except CheckpointError as error:
        assert str(path) in str(error)
    else:
        assert sum(value.nbytes for value in loaded.values()) == 50


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is no safetensors file and none that torch.save wrote"),
        (b"GIF89a" + bytes(100), "is no safetensors file and none that torch.save wrote"),
        (b"\xff" * 4 + b"\0" * 4 + b"{}", "its header would be 4294967295 bytes long"),
        (b"\x64\0\0\0\0\0\0\0{}", "cannot be read as safetensors: .*header"),
        (b"\x02\0\0\0\0\0\0\0{}trailing", "not fully covered"),
    ],
)
def test_something_else(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(CheckpointError, match=reason):
        load(tmp_path / "a")


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere\.safetensors cannot be read: No such file"):
        load(tmp_path / "nowhere.safetensors")


def test_dtype_that_jax_has_not(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F4", "shape": [4], "data_offsets": [0, 2]}}).encode()
    (tmp_path / "a").write_bytes(len(header).to_bytes(8, "little") + header + bytes(2))
    with pytest.raises(CheckpointError, match="'a' has dtype F4"):
        load(tmp_path / "a")


# -- 32 bits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "narrow", "fits", "does_not"),
    [
        (np.int64, np.int32, [-(2**31), 2**31 - 1], 2**31),
        (np.int64, np.int32, [0], -(2**31) - 1),
        (np.uint64, np.uint32, [0, 2**32 - 1], 2**32),
        (np.float64, np.float32, [0.1, -np.inf, np.nan, 3e38], 1e39),
    ],
)
def test_64_bits_without_x64(tmp_path: Path, dtype: type, narrow: type, fits: list[Any], does_not: Any) -> None:
    path = tmp_path / "a"
    save({"a": np.asarray(fits, dtype)}, path)
    with jax.enable_x64(False):
        assert same(load(path)["a"], np.asarray(fits, dtype).astype(narrow))
        assert load(path).spec("a").dtype == narrow
    save({"a": np.asarray([*fits, does_not], dtype)}, path)
    assert load(path)["a"].dtype == load(path).spec("a").dtype == dtype
    with (
        jax.enable_x64(False),
        pytest.raises(CheckpointError, match=f"'a' has {np.dtype(dtype)} values that do not fit"),
    ):
        load(path)["a"]


# -- other libraries ----------------------------------------------------------------------------------------------------

TORCH_DTYPES = {
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": jnp.bfloat16,
    "float8_e4m3fn": jnp.float8_e4m3fn,
    "float8_e5m2": jnp.float8_e5m2,
    "int64": np.int64,
    "uint16": np.uint16,
    "bool": np.bool_,
    "complex64": np.complex64,
}


@pytest.mark.parametrize("name", TORCH_DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_torch_reads_ours_and_we_read_its(torch: Any, tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    from safetensors import torch as with_torch

    array = numbers(TORCH_DTYPES[name], shape)
    tensor = torch.from_numpy(numbers(np.float32, shape)).to(getattr(torch, name))
    save({"a": array}, tmp_path / "ours")
    theirs = with_torch.load_file(tmp_path / "ours")["a"]
    assert theirs.dtype == tensor.dtype and theirs.shape == tensor.shape
    assert torch.equal(theirs.to(torch.complex128), tensor.to(torch.complex128))
    with_torch.save_file({"a": tensor}, tmp_path / "theirs")
    assert same(load(tmp_path / "theirs")["a"], array)
