"""What layers and containers say when they are made or called in the wrong way."""

from __future__ import annotations

import importlib
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import flambeau as fb
from flambeau import nn


def zeros(*shape: int) -> jax.Array:
    return jnp.zeros(shape, jnp.float32)


# A call, and what the message has to say.
CALLS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "channels": (
        lambda: nn.Conv2d(32, 64, 3)(zeros(8, 16, 28, 28)),
        fb.ShapeError,
        "Conv2d(32, 64, kernel_size=(3, 3), stride=(1, 1)): expected input (N, 32, H, W), got float32[8, 16, 28, 28]",
    ),
    "padded channels": (
        lambda: nn.Conv1d(2, 3, 3, padding=1, padding_mode="circular")(zeros(1, 4, 9)),
        fb.ShapeError,
        "expected input (N, 2, L) or (2, L), got float32[1, 4, 9]",
    ),
    "padded rank": (
        lambda: nn.Conv1d(2, 3, 3, padding=1, padding_mode="circular")(zeros(9)),
        fb.ShapeError,
        "expected input (N, 2, L) or (2, L), got float32[9]",
    ),
    "features": (
        lambda: nn.Linear(4, 2)(zeros(3, 5)),
        fb.ShapeError,
        "Linear(in_features=4, out_features=2, bias=True): expected input (*, 4), got float32[3, 5]",
    ),
    "batch norm channels": (
        lambda: nn.BatchNorm2d(3)(zeros(2, 4, 5, 5)),
        fb.ShapeError,
        "expected input (N, 3, H, W), got float32[2, 4, 5, 5]",
    ),
    "batch norm rank": (
        lambda: nn.BatchNorm1d(3)(zeros(2, 3, 5, 5)),
        fb.ShapeError,
        "expected input (N, 3) or (N, 3, L), got float32[2, 3, 5, 5]",
    ),
    "batch norm of one value": (
        lambda: nn.BatchNorm1d(3)(zeros(1, 3)),
        ValueError,
        "more than 1 value per channel",
    ),
    "instance norm rank": (
        lambda: nn.InstanceNorm2d(3)(zeros(2, 3)),
        fb.ShapeError,
        "expected input (3, H, W) or (N, 3, H, W), got float32[2, 3]",
    ),
    "instance norm channels": (
        lambda: nn.InstanceNorm1d(3, affine=True)(zeros(2, 4, 5)),
        fb.ShapeError,
        "expected input (3, L) or (N, 3, L), got float32[2, 4, 5]",
    ),
    "softmax2d": (
        lambda: nn.Softmax2d()(zeros(2, 3)),
        fb.ShapeError,
        "expected input (N, C, H, W) or (C, H, W), got float32[2, 3]",
    ),
    "output size": (
        lambda: nn.ConvTranspose1d(2, 3, 3, stride=2)(zeros(1, 2, 4), output_size=[11]),
        fb.ShapeError,
        "expected output_size from [9] to [10] for input float32[1, 2, 4], got (11,)",
    ),
    "output rank": (
        lambda: nn.ConvTranspose1d(2, 3, 3)(zeros(1, 2, 4), output_size=(3, 4)),
        fb.ShapeError,
        "expected output_size of 1 or 3 ints, got (3, 4)",
    ),
    "integers": (lambda: nn.Embedding(4, 2)(zeros(3)), fb.DtypeError, "expected input of an integer dtype"),
}

CONSTRUCTIONS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "everything at once": (
        lambda: nn.Conv2d(3, 4, 3, stride=2, padding="same", groups=2, padding_mode="mirror"),  # pyright: ignore
        ValueError,
        "expected in_channels and out_channels divisible by groups=2, got 3 and 4; expected stride 1 for padding='same', "
        "got (2, 2); expected padding_mode to be one of zeros, reflect, replicate, circular, got 'mirror'",
    ),
    "groups": (lambda: nn.Conv1d(3, 4, 3, groups=0), ValueError, "expected groups > 0, got 0"),
    "padding": (lambda: nn.Conv1d(3, 4, 3, padding="full"), ValueError, "expected padding 'valid', 'same' or ints"),  # pyright: ignore
    "kernel": (
        lambda: nn.Conv2d(3, 4, (3, 3, 3)),
        fb.ShapeError,
        "expected kernel_size to be an int or a tuple of 2 ints",
    ),
    "transposed mode": (
        lambda: nn.ConvTranspose2d(3, 4, 3, padding_mode="reflect"),  # pyright: ignore
        ValueError,
        "expected padding_mode 'zeros' for ConvTranspose2d, got 'reflect'",
    ),
    "keyword": (
        lambda: nn.Conv2d(3, 4, kernel_szie=3),  # pyright: ignore
        TypeError,
        "unexpected keyword argument 'kernel_szie': did you mean 'kernel_size'?",
    ),
    "bilinear": (lambda: nn.Bilinear(0, 1, 2), ValueError, "expected in1_features > 0, got 0"),
    "probability": (lambda: nn.Dropout(1.5), ValueError, "expected a dropout probability in [0, 1], got 1.5"),
    "group norm": (lambda: nn.GroupNorm(3, 4), ValueError, "expected num_channels divisible by num_groups=3, got 4"),
    "padding row": (
        lambda: nn.Embedding(4, 2, padding_idx=4),
        AssertionError,
        "expected padding_idx within the 4 rows",
    ),
    "table": (
        lambda: nn.Embedding(4, 2, _weight=jnp.zeros((2, 4))),
        AssertionError,
        "expected _weight (4, 2), got (2, 4)",
    ),
    "no table": (lambda: nn.Embedding.from_pretrained(jnp.zeros(4)), AssertionError, "expected embeddings (V, D)"),
    "sparse": (lambda: nn.Embedding(4, 2, sparse=True), ValueError, "JAX has no sparse gradients"),
    "unflatten": (lambda: nn.Unflatten(1, 4), TypeError, "expected unflattened_size to be a tuple of ints, got 4"),  # pyright: ignore
    "unflatten floats": (lambda: nn.Unflatten(1, (1.5,)), TypeError, "got (1.5,)"),  # pyright: ignore
    "bounds": (lambda: nn.Hardtanh(1.0, 1.0), AssertionError, "expected max_val > min_val, got 1.0 and 1.0"),
    "reduction": (lambda: nn.MSELoss(reduction="avg"), ValueError, "'none', 'mean', 'sum', got 'avg'"),
    "other reduction": (lambda: nn.MSELoss(reduction="batchmean"), ValueError, "got 'batchmean'"),
    "delta": (lambda: nn.HuberLoss(delta="1"), TypeError, "expected delta to be a number, got '1'"),  # pyright: ignore
    "power": (lambda: nn.MultiMarginLoss(p=3), ValueError, "expected p to be 1 or 2, got 3"),
    "class weights": (lambda: nn.MultiMarginLoss(weight=jnp.zeros((2, 2))), ValueError, "expected weight (C,)"),
    "margin": (lambda: nn.TripletMarginLoss(margin=0.0), ValueError, "expected margin > 0, got 0.0"),
}


@pytest.mark.parametrize("mistake", [*CALLS, *CONSTRUCTIONS])
def test_mistake(mistake: str) -> None:
    function, error, message = {**CALLS, **CONSTRUCTIONS}[mistake]
    with pytest.raises(error) as caught:
        function()
    assert message in str(caught.value)


def test_instance_norm_warns_of_other_channels() -> None:
    with pytest.warns(UserWarning, match="num_features=3 is not used"):
        assert nn.InstanceNorm1d(3)(jnp.zeros((2, 4, 5))).shape == (2, 4, 5)


def test_deprecated_arguments() -> None:
    with pytest.warns(FutureWarning, match="use `min_val`"):
        assert nn.Hardtanh(min_value=-3.0).min_val == -3.0
    with pytest.warns(fb.FlambeauWarning, match="reduction='sum'"):
        assert nn.L1Loss(size_average=False).reduction == "sum"


@pytest.mark.parametrize(
    ("name", "meant"),
    [("batchNorm2d", "BatchNorm2d"), ("ModuleLIst", "ModuleList"), ("LinearLayer", None), ("Relu", "ReLU")],
)
def test_misspelt_layer(name: str, meant: str | None) -> None:
    with pytest.raises(AttributeError) as caught:
        getattr(nn, name)
    question = f". Did you mean: '{meant}'?" if meant else ""
    assert str(caught.value) == f"module 'flambeau.nn' has no attribute '{name}'{question}"
    assert not hasattr(nn, name)


# -- containers ---------------------------------------------------------------------------------------------------------


def layers(count: int) -> list[nn.Module]:
    return [nn.Linear(1, i + 1) for i in range(count)]


@pytest.mark.parametrize(
    "container", [nn.Sequential(*layers(3)), nn.ModuleList(layers(3)), nn.ParameterList([1, 2, 3])]
)
def test_wrong_index(container: Any) -> None:
    for index in (3, -4):
        with pytest.raises(IndexError) as caught:
            container[index]
        assert (
            str(caught.value) == f"index {index} is out of range: this {type(container).__name__} has 3 entries, 0 to 2"
        )


def test_wrong_index_of_few() -> None:
    with pytest.raises(IndexError, match="this ModuleList has none"):
        nn.ModuleList()[0]
    with pytest.raises(IndexError, match="this Sequential has one entry, 0"):
        nn.Sequential(nn.ReLU())[1]


@pytest.mark.parametrize(
    "container", [nn.ModuleDict({"relu": nn.ReLU(), "tanh": nn.Tanh()}), nn.ParameterDict(relu := {})]
)
def test_wrong_key(container: Any) -> None:
    has = "'relu', 'tanh'. Did you mean: 'relu'?" if len(container) else "none"
    for use in (lambda: container["rellu"], lambda: container.pop("rellu"), lambda: container.__delitem__("rellu")):
        with pytest.raises(KeyError) as caught:
            use()
        assert str(caught.value) == f"'rellu' is not in this {type(container).__name__}, which has {has}"


@pytest.mark.parametrize("make", [lambda: nn.Sequential(*layers(3)), lambda: nn.ModuleList(layers(3))])
def test_insert(make: Callable[[], Any]) -> None:
    """As Python's list does, which torch does only in part."""
    for index in range(-3, 4):
        container, expected = make(), list(range(3))
        given = list(container)
        container.insert(index, new := nn.ReLU())
        expected.insert(index, 3)
        assert list(container) == [[*given, new][i] for i in expected]
        assert list(dict(container.named_children())) == ["0", "1", "2", "3"]
    for index, module, error in ((4, nn.ReLU(), IndexError), (-4, nn.ReLU(), IndexError), (0, "text", TypeError)):
        container = make()
        before = list(container)
        with pytest.raises(error):
            container.insert(index, module)
        assert list(container) == before


def test_insert_among_names() -> None:
    container = nn.Sequential(OrderedDict(a=nn.ReLU(), b=nn.Tanh()))
    with pytest.raises(KeyError, match="named a, b"):
        container.insert(0, nn.ReLU())
    assert len(container) == 2


@pytest.mark.parametrize("key", ["keys", "training", "a.b", "", 3])
def test_parameter_dict_refuses_a_key_as_a_whole(key: Any) -> None:
    container = nn.ParameterDict({"a": jnp.zeros(1)})
    for value in (jnp.zeros(1), "text"):
        if value == "text" and key in ("a.b", ""):
            continue
        with pytest.raises((KeyError, TypeError)):
            container[key] = value
        assert list(container) == ["a"]


def test_containers_of_parameters_are_not_called() -> None:
    for container in (nn.ParameterList(), nn.ParameterDict()):
        with pytest.raises(RuntimeError, match="should not be called"):
            container()


def test_an_array_given_twice_makes_two_parameters() -> None:
    same = jnp.zeros(2)
    container = nn.ParameterList([same, same])
    assert len(list(container.parameters())) == 2
    container.append(container[0])
    assert len(list(container.parameters())) == 2


def test_changes_in_a_compiled_function_are_there_after() -> None:
    def rotate(container: Any) -> Any:
        container.append(container.pop(0))
        return container[0](zeros(1))

    eager, compiled = nn.ModuleList(layers(3)), nn.ModuleList(layers(3))
    for _ in range(3):
        assert rotate(eager).shape == fb.jit(rotate)(compiled).shape
        assert repr(eager) == repr(compiled)


@pytest.mark.parametrize(
    ("name", "replacement"),
    [
        ("nn.DataParallel", "an array that is sharded over devices is one array"),
        ("nn.Container", "derive from nn.Module"),
        ("nn.quantized", "quantized layers are not part of it"),
        ("nn.functional.scaled_mm", "jax.nn.scaled_matmul"),
        ("nn.utils.stateless", "use fb.functional_call"),
        ("optim.SparseAdam", "take Adam"),
    ],
)
def test_what_there_is_not_says_what_to_use(name: str, replacement: str) -> None:
    package, _, last = f"flambeau.{name}".rpartition(".")
    with pytest.raises(
        fb.AbsentNameError, match=f"there is no {re.escape(name)} in flambeau: .*{re.escape(replacement)}"
    ):
        exec(f"from {package} import {last}")
    assert last not in dir(importlib.import_module(package))


@pytest.mark.parametrize(
    ("package", "name", "meant"),
    [
        ("nn", "ReLu", "ReLU"),
        ("nn.functional", "cross_entrpy", "cross_entropy"),
        ("nn.init", "xavier_unifrom_", "xavier_uniform_"),
        ("nn.utils", "clip_grad_nrom_", "clip_grad_norm_"),
        ("optim", "AdmaW", "AdamW"),
    ],
)
def test_a_misspelt_name_says_what_was_meant(package: str, name: str, meant: str) -> None:
    with pytest.raises(AttributeError, match=f"'flambeau.{package}' has no attribute '{name}'.*'{meant}'"):
        getattr(importlib.import_module(f"flambeau.{package}"), name)
