"""Networks by name: the list, weights from files, mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flambeau as fb
from flambeau import models, nn
from flambeau.models import _registry

SMALL: dict[str, Any] = {"num_classes": 3, "width": 8}


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and bool((x == y).all()) for (a, x), (b, y) in pairs)


def test_the_list_is_in_order_and_each_name_is_a_function_of_the_package() -> None:
    names = models.list()
    assert names == sorted(set(names))
    # Examples in docstrings and docs, which may have run before, register some of their own.
    files = {f"flambeau.models.{path.stem}" for path in Path(models.__file__).parent.glob("[a-z]*.py")}
    own = [name for name, constructor in _registry._CONSTRUCTORS.items() if constructor.__module__ in files]
    assert len(own) > 70 and set(own) <= set(names) & set(models.__all__)
    assert models.list("resnet*") == ["resnet101", "resnet152", "resnet18", "resnet34", "resnet50"]


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_from_a_file(tmp_path: Path, suffix: str) -> None:
    net = models.create("resnet18", **SMALL)
    fb.save(net.state_dict(), tmp_path / f"net{suffix}")
    assert same(models.create("resnet18", tmp_path / f"net{suffix}", **SMALL), net)
    assert same(models.create("resnet18", net.state_dict(), **SMALL), net)
    assert not same(models.create("resnet18", **SMALL), net)


def test_weights_that_do_not_fit() -> None:
    state = models.create("resnet18", **SMALL).state_dict()
    with pytest.raises(fb.StateDictError, match=r"fc\.weight"):
        models.create("resnet18", state, num_classes=4, width=8)


def test_files_older_than_the_counters_of_batch_norm() -> None:
    """Torchvision's first files have no `num_batches_tracked`, and no metadata that would tell their age."""
    net = models.create("resnet18", **SMALL)
    old = {name: value for name, value in net.state_dict().items() if "num_batches" not in name}
    assert same(models.create("resnet18", old, **SMALL), net)


def test_vision_transformers_of_torchvision_with_their_older_names() -> None:
    sizes: dict[str, Any] = {
        "image_size": 16,
        "num_layers": 1,
        "num_heads": 2,
        "hidden_dim": 8,
        "mlp_dim": 16,
        "num_classes": 3,
    }
    net = models.create("vit_b_16", **sizes)
    renamed = {"mlp.0.": "mlp.linear_1.", "mlp.3.": "mlp.linear_2."}
    old = {}
    for name, value in net.state_dict().items():
        for new, older in renamed.items():
            name = name.replace(new, older)
        old[name] = value
    assert "encoder.layers.encoder_layer_0.mlp.linear_2.bias" in old
    assert same(models.create("vit_b_16", old, **sizes), net)
    assert "encoder.layers.encoder_layer_0.mlp.linear_2.bias" in old, "what was given is as it was"


def test_an_unknown_name_is_told_with_those_that_are_like_it() -> None:
    with pytest.raises(ValueError, match="'resnet50'"):
        models.create("resnet_50")
    with pytest.raises(ValueError, match=r"models\.list\(\)"):
        models.create("zzz")


def test_a_name_is_registered_once() -> None:
    def resnet18() -> nn.Module:
        return nn.Identity()

    with pytest.raises(ValueError, match="'resnet18' already"):
        models.register(resnet18)
    assert models.register(models.resnet18) is models.resnet18
    assert isinstance(models.create("resnet18", **SMALL), models.ResNet)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "vgg11"])
def test_without_classes_the_rest_of_a_checkpoint_fits(name: str) -> None:
    """As docs/models.md does it: all but the last layers."""
    with fb.init_empty():
        whole, encoder = models.create(name), models.create(name, num_classes=0)
    shapes = {key: tuple(cell.shape) for key, cell in whole.state_dict(keep_vars=True).items()}
    own = {key: tuple(cell.shape) for key, cell in encoder.state_dict(keep_vars=True).items()}
    assert own.items() <= shapes.items()
    left_out = {key.split(".")[0] for key in shapes.keys() - own.keys()}
    assert left_out == {"fc"} if name == "resnet18" else left_out == {"classifier"}


def test_loading_is_in_the_dtype_of_the_network() -> None:
    net = models.create("resnet18", **SMALL)
    halves = {name: np.asarray(value).astype(np.float16) for name, value in net.state_dict().items()}
    assert models.create("resnet18", halves, **SMALL).fc.weight.dtype == np.float32
