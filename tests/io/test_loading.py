"""`load_into`: weights whose names are others, and what became of each."""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from flambeau import nn
from flambeau._errors import StateDictError
from flambeau.io import load, load_into, save
from tests.io.values import same


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def state(prefix: str = "") -> dict[str, np.ndarray]:
    values = {name: np.full(value.shape, 7, value.dtype) for name, value in network().state_dict().items()}
    return {prefix + name: value for name, value in values.items()}


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_from_a_file(tmp_path: Path, suffix: str) -> None:
    save(state("module."), tmp_path / f"a.{suffix}")
    net = network()
    report = load_into(net, tmp_path / f"a.{suffix}", strip_prefix="module.")
    assert report.loaded and set(report.loaded) == set(net.state_dict())
    assert not (report.missing or report.unexpected or report.wrong_shape or report.cast)
    assert all(same(value, state()[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize(
    "rename",
    [
        {"fc.": "0.", "bn.": "1.", "scale": "1.weight"},
        {"fc.weight": "0.weight", "fc.": "0.", "bn.": "1.", "scale": "1.weight"},
        lambda name: name.replace("fc", "0").replace("bn", "1").replace("scale", "1.weight"),
    ],
)
def test_rename(rename: object) -> None:
    names = {"0": "fc", "1": "bn"}
    given = {f"{names[name[0]]}{name[1:]}": value for name, value in state().items()}
    given["scale"] = given.pop("bn.weight")
    net = network()
    load_into(net, given, rename=rename)  # pyright: ignore[reportArgumentType]
    assert same(net[1].weight, np.full(3, 7, np.float32))


def test_the_longest_beginning_counts() -> None:
    net = nn.Linear(1, 1)
    given = {"a.b.weight": jnp.ones((1, 1)), "a.bias": jnp.ones(1)}
    assert load_into(net, given, rename={"a.": "", "a.b.": ""}).loaded == ["weight", "bias"]


def test_what_does_not_fit_is_told() -> None:
    given = state()
    given["0.weight"] = np.ones((3, 5), np.float32)
    given["0.bias"] = np.arange(3, dtype=np.float16)
    given["head.weight"] = given.pop("1.bias")
    net = network()
    before = net[0].weight
    report = load_into(net, given, strict=False)
    assert report.wrong_shape == {"0.weight": ((3, 2), (3, 5))} and report.missing == ["1.bias"]
    assert report.unexpected == ["head.weight"] and report.cast == {"0.bias": ("float16", "float32")}
    assert sorted(report.loaded) == ["0.bias", "1.num_batches_tracked", "1.running_mean", "1.running_var", "1.weight"]
    assert net[0].weight is before and same(net[0].bias, np.arange(3, dtype=np.float32))
    text = str(report)
    for line in ("5 loaded", "0.weight    │ (3, 5)", "missing", "head.weight", "float16", "float32"):
        assert line in text
    again = network()
    again.load_state_dict(net.state_dict())
    with pytest.raises(StateDictError) as caught:
        load_into(again, given)
    for line in (
        'Missing key(s) in state_dict: "1.bias"',
        'Unexpected key(s) in state_dict: "head.weight"',
        "size mismatch",
    ):
        assert line in str(caught.value)
    assert all(same(again.state_dict()[name], value) for name, value in net.state_dict().items()), "nothing is loaded"


def test_a_long_report_is_cut() -> None:
    report = load_into(nn.Identity(), {f"name{i}": jnp.ones(1) for i in range(60)}, strict=False)
    assert "name49" in str(report) and "name50" not in str(report) and "and 10 more" in str(report)


def test_none_leaves_out(tmp_path: Path) -> None:
    save({**state(), "head.weight": np.ones(2**20)}, tmp_path / "a")
    report = load_into(network(), load(tmp_path / "a"), rename=lambda name: None if name.startswith("head.") else name)
    assert len(report.loaded) == 7


def test_two_of_one_name() -> None:
    with pytest.raises(StateDictError, match=r"'a\.weight' and 'weight' both become 'weight'"):
        load_into(nn.Linear(1, 1), {"a.weight": jnp.ones((1, 1)), "weight": jnp.ones((1, 1))}, rename={"a.": ""})
    with pytest.raises(TypeError, match="expected a path or a dict of arrays by name, got list"):
        load_into(nn.Linear(1, 1), [1])  # pyright: ignore[reportArgumentType]


def test_lazy_and_odd_shapes() -> None:
    """A lazy module takes its shape from the checkpoint; an array of one number is a scalar, as in PyTorch."""
    net = nn.Sequential(nn.LazyLinear(3), nn.BatchNorm1d(3))
    given = {**state(), "1.num_batches_tracked": np.full(1, 4)}
    report = load_into(net, given, strict=False)
    assert net[0].weight.shape == (3, 2) and not report.wrong_shape and int(net[1].num_batches_tracked) == 4


def test_values_that_are_no_arrays() -> None:
    with pytest.raises(StateDictError, match="expected an array of JAX or numpy in the checkpoint, got str"):
        load_into(nn.Linear(1, 1, bias=False), {"weight": "text"})
    assert load_into(nn.Linear(1, 1), {"note": "text", **nn.Linear(1, 1).state_dict()}, strict=False).unexpected == [
        "note"
    ]
