"""Files that torch wrote, of each dtype, layout and format, read without it; and what of them is refused."""

from __future__ import annotations

from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from flambeau import nn
from flambeau._errors import CheckpointError
from flambeau.io import load
from tests.io.values import DTYPES, LAYOUTS, array_of, numbers, same, tensor_of

torch = pytest.importorskip("torch")

WRITERS = {
    **{f"protocol {protocol}": {"pickle_protocol": protocol} for protocol in (2, 3, 4, 5)},
    "legacy": {"_use_new_zipfile_serialization": False},
    "legacy, protocol 4": {"_use_new_zipfile_serialization": False, "pickle_protocol": 4},
}


@pytest.fixture(params=WRITERS)
def writer(request: pytest.FixtureRequest) -> dict[str, Any]:
    return WRITERS[request.param]


@pytest.fixture(params=[False, True], ids=["read", "mmap"])
def mmap(request: pytest.FixtureRequest) -> bool:
    return request.param


def round_trip(folder: Path, value: Any, mmap: bool = False, **writer: Any) -> Any:
    torch.save(value, folder / "a.pt", **writer)
    return load(folder / "a.pt", mmap=mmap)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes_and_layouts(tmp_path: Path, dtype: str, writer: dict[str, Any], mmap: bool) -> None:
    tensor = tensor_of(torch, numbers(DTYPES[dtype], (4, 3)))
    views = {name: view(tensor) for name, view in LAYOUTS.items()}
    loaded = round_trip(tmp_path, views, mmap, **writer)
    assert loaded.keys() == views.keys()
    for name, view in views.items():
        assert isinstance(loaded[name], jax.Array)
        assert same(loaded[name], array_of(torch, view)), name


@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts_that_only_torch_has(tmp_path: Path, dtype: str, writer: dict[str, Any], mmap: bool) -> None:
    tensor = tensor_of(torch, numbers(DTYPES[dtype], (2, 3, 4)))
    views = {
        "repeated": tensor[:1].expand(5, 3, 4),
        "windows": tensor.unfold(2, 3, 1),
        "permuted": tensor.permute(2, 0, 1),
        "channels last": tensor[None].contiguous(memory_format=torch.channels_last),
        "diagonal": tensor[0, :3, :3].diagonal(),
    }
    loaded = round_trip(tmp_path, views, mmap, **writer)
    assert all(same(loaded[name], array_of(torch, view)) for name, view in views.items())


def test_names_of_one_tensor_are_one_array(tmp_path: Path, writer: dict[str, Any]) -> None:
    weight = torch.arange(12.0).reshape(3, 4)
    state = {"embed": weight, "head": weight, "flat": weight.view(-1), "part": weight[1:], "also": weight[1:]}
    loaded = round_trip(tmp_path, state, **writer)
    assert loaded["embed"] is loaded["head"] and loaded["part"] is loaded["also"]
    assert loaded["flat"] is not loaded["embed"] and same(loaded["flat"], np.arange(12, dtype=np.float32))


def test_what_lies_around_tensors(tmp_path: Path, writer: dict[str, Any]) -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    marked_parameter, marked_tensor = torch.nn.Parameter(torch.ones(3)), torch.ones(4)
    marked_parameter.note, marked_tensor.note = "a", {"b": 1}  # pyright: ignore[reportAttributeAccessIssue]
    shared = ["shared"]
    plain = {
        "numbers": [0, 1, 255, 256, 65536, -1, -(1 << 31), 1 << 31, 1 << 80, -(1 << 80), 2.5, float("inf"), 1j],
        "texts": ["", "a", "ü" * 300, "\ud800", "\0"],
        "bytes": [b"", b"\xff\0", b"x" * 300, bytearray(b"y"), bytearray()],
        "constants": (None, True, False, ()),
        "sets": [set(), {1, "a"}, {(1, 2)}],
        "tuples": [(1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
        "keys": {1: "a", (1, "b"): "c", None: 0, 2.5: 1},
        "counter": Counter("aab"),
        "ordered": OrderedDict(a=OrderedDict(b={})),
        "long": list(range(3000)),
        "shared": [shared, shared],
    }
    odd = {"size": torch.Size([2, 3]), "device": torch.device("cuda", 1), "dtype": torch.bfloat16}
    tensors = {"parameter": parameter, "marked": [marked_parameter, marked_tensor]}
    loaded = round_trip(tmp_path, {**plain, **odd, **tensors}, **writer)
    assert {name: loaded[name] for name in plain} == plain
    assert [type(loaded[name]) for name in plain] == [type(value) for value in plain.values()]
    assert loaded["shared"][0] is loaded["shared"][1]
    assert loaded["size"] == (2, 3) and loaded["device"] == "cuda:1" and loaded["dtype"] == DTYPES["bfloat16"]
    assert same(loaded["parameter"], np.ones(2, np.float32))
    assert [x.shape for x in loaded["marked"]] == [(3,), (4,)]


def test_a_whole_training_state(tmp_path: Path, writer: dict[str, Any]) -> None:
    """A module with its versions, an optimizer with moments, a scheduler with a Counter."""
    twin = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(twin.parameters())
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 2, 5])
    twin(torch.randn(5, 3)).square().sum().backward()
    optimizer.step()
    state = {"model": twin.state_dict(), "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
    loaded = round_trip(tmp_path, {**state, "epoch": 3}, **writer)
    assert loaded["epoch"] == 3 and loaded["scheduler"]["milestones"] == Counter({2: 2, 5: 1})
    assert loaded["model"]._metadata == twin.state_dict()._metadata  # pyright: ignore[reportAttributeAccessIssue]
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    assert str(net.load_state_dict(loaded["model"])) == "<All keys matched successfully>"
    assert all(
        same(value, twin.state_dict()[name].numpy()) for name, value in net.state_dict().items() if "num" not in name
    )
    assert int(net[1].num_batches_tracked) == 1
    moments = optimizer.state_dict()["state"]
    assert all(
        same(loaded["optimizer"]["state"][i]["exp_avg"], entry["exp_avg"].numpy()) for i, entry in moments.items()
    )
    assert loaded["optimizer"]["param_groups"] == optimizer.state_dict()["param_groups"]


def test_only_a_part_of_a_storage_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of a large matrix brings the whole of it into the file, and not into memory."""
    from flambeau.io._file import File

    taken = []
    real = File.read
    monkeypatch.setattr(
        File, "read", lambda self, begin, count, what: taken.append(count) or real(self, begin, count, what)
    )
    loaded = round_trip(tmp_path, torch.arange(1 << 20)[5:7])
    assert loaded.tolist() == [5, 6] and (tmp_path / "a.pt").stat().st_size > 8 << 20 and sum(taken) < 10_000


def test_mapped_arrays_are_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"a": torch.zeros(1000)}, path)
    read, mapped = load(path)["a"], load(path, mmap=True)["a"]
    content = bytearray(path.read_bytes())
    begin = content.index(bytes(4000))
    begin += -begin % 64
    with open(path, "rb+") as file:
        file.seek(begin)
        file.write(np.float32(7).tobytes())
    assert float(read[0]) == 0 and float(mapped[0]) == 7
    jax.jit(lambda x: x.at[0].set(9), donate_argnums=0)(mapped)
    assert path.read_bytes()[begin : begin + 4] == np.float32(7).tobytes(), (
        "a donated array does not write into the file"
    )


def test_64_bits_without_x64(tmp_path: Path) -> None:
    state = {"steps": [torch.tensor(2**31 - 1)], "more": {"count": torch.tensor([1, 2**31])}}
    assert round_trip(tmp_path, state)["more"]["count"].dtype == np.int64
    with jax.enable_x64(False):
        assert round_trip(tmp_path, state["steps"])[0].dtype == np.int32
        with pytest.raises(CheckpointError, match=r"\['more'\]\['count'\] has int64 values that do not fit into int32"):
            round_trip(tmp_path, state)


@pytest.mark.filterwarnings("ignore")  # that much of it is experimental, or deprecated
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.eye(2).to_sparse(), r"torch\._utils\._rebuild_sparse_tensor, .*to_dense"),
        (lambda: torch.eye(2).to_sparse_csr(), r"torch\._utils\._rebuild_sparse_tensor, .*to_dense"),
        (lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), r"_rebuild_qtensor, .*dequantize"),
        (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "_rebuild_nested_tensor, .*padded"),
        (lambda: torch.ones(2, device="meta"), "_rebuild_meta_tensor_no_storage, .*no values"),
        (lambda: torch.ones(2, dtype=torch.complex64).conj(), "conjugated or negated"),
        (lambda: torch.nn.Linear(1, 1), r"torch\.nn\.modules\.linear\.Linear, .*state_dict"),
        (lambda: np.float64(3), r"numpy\..*scalar, .*numbers of Python"),
        (lambda: torch.ones(2).untyped_storage(), "the whole is a bare storage"),
        (lambda: {"a": [torch.ones(2, dtype=torch.complex32)]}, r"torch\.ComplexHalfStorage|torch\.complex32"),
        (lambda: {"f": torch.nn.functional.relu}, r"torch\.nn\.functional\.relu"),
        (lambda: Path("a"), r"pathlib.*Path"),
        (lambda: {frozenset([1]): 2}, "frozenset for a key"),
    ],
)
def test_what_is_refused(tmp_path: Path, make: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        round_trip(tmp_path, make())
    assert str(caught.value).startswith(str(tmp_path / "a.pt"))


def test_programs_of_torchscript(tmp_path: Path) -> None:
    with pytest.warns(DeprecationWarning):
        torch.jit.script(torch.nn.Linear(1, 1)).save(str(tmp_path / "a.pt"))
    with pytest.raises(CheckpointError, match="is a program of TorchScript"):
        load(tmp_path / "a.pt")


def test_programs_of_torch_export(tmp_path: Path) -> None:
    program = torch.export.export(torch.nn.Linear(1, 1), (torch.ones(1, 1),))
    torch.export.save(program, tmp_path / "a.pt2")
    with pytest.raises(CheckpointError, match=r"is a program of torch\.export"):
        load(tmp_path / "a.pt2")


def test_other_byte_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.byteorder", "big")
    torch.save({"a": 1}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="big-endian"):
        load(tmp_path / "a.pt")
    torch.save({"a": 1}, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="big-endian"):
        load(tmp_path / "a.pt")


def test_views_that_would_fill_the_memory(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="more memory than the file's size and 128 MiB"):
        round_trip(tmp_path, torch.zeros(1).expand(1 << 40))
