"""The meta device: modules without values, which get those of eager construction later."""

from __future__ import annotations

import copy
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flambeau as fb
from flambeau import nn


class Net(nn.Module):
    """Layers, a tie, a scaled initial value, a buffer computed in the constructor, a random one, and a shared layer."""

    def __init__(self, width: int, bias: bool = True) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, width)
        self.blocks: Any = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width, bias=bias), nn.BatchNorm1d(width)) for _ in range(3)
        )
        self.blocks.append(self.blocks[0])
        self.head = nn.Linear(width, 7)
        self.head.weight = self.embed.weight
        nn.init.normal_(self.blocks[1][0].weight, std=0.02)
        self.scale: Any = nn.Parameter(0.1 * self.blocks[2][0].weight)
        self.register_buffer("waves", jnp.sin(jnp.arange(width) / 3))
        self.register_buffer("noise", nn.init.uniform_(jnp.zeros(width)))
        self.width = width

    def forward(self, x: Any) -> Any:
        return self.head(self.blocks[0](self.embed(x)) * self.scale.sum() + self.waves)


def same_values(net: Any, other: Any) -> None:
    mine, its = net.state_dict(), other.state_dict()
    assert list(mine) == list(its)
    for name, value in mine.items():
        assert value.dtype == its[name].dtype
        np.testing.assert_allclose(value, its[name], rtol=1e-5, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("context", [lambda: fb.device("meta"), fb.init_empty])
def test_values_are_those_of_eager_construction(context: Any) -> None:
    fb.manual_seed(4)
    eager = [Net(6), nn.Linear(2, 3), Net(5, bias=False)]
    after = fb.get_rng_state()
    fb.manual_seed(4)
    before = fb.get_rng_state()
    with context():
        built = nn.ModuleList([Net(6), nn.Linear(2, 3), Net(5, bias=False)])
    np.testing.assert_array_equal(before, fb.get_rng_state())
    assert [type(net) for net in built] == [Net, nn.Linear, Net]
    assert [repr(net) for net in built] == [repr(net) for net in eager]
    assert built.materialize() is built
    np.testing.assert_array_equal(after, fb.get_rng_state())
    for net, twin in zip(built, eager):
        same_values(net, twin)
    first = built[0]
    assert first.head.get_parameter("weight") is first.embed.get_parameter("weight")
    assert first.blocks[3] is first.blocks[0]
    assert first.double()(jnp.array([1, 2])).shape == (2, 7)


def test_parameters_are_tied() -> None:
    with fb.device("meta"):
        net: Any = nn.ModuleDict({"embed": nn.Embedding(7, 4), "head": nn.Linear(4, 7, bias=False)})
        net["head"].weight = net["embed"].weight
        net["head"].twin = net["embed"].weight
    net.materialize()
    assert len(list(net.parameters())) == 1
    assert [name for name, _ in net.named_parameters(remove_duplicate=False)] == [
        "embed.weight",
        "head.weight",
        "head.twin",
    ]


def test_copies_have_no_values_either_and_get_the_same() -> None:
    """Also those that a constructor makes of a layer that it is given; a real module stays real."""

    def make() -> Any:
        fb.manual_seed(0)
        return nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8), 2)

    real = nn.Linear(2, 2)
    with fb.init_empty():
        net, twin = make(), copy.deepcopy(real)
    np.testing.assert_array_equal(twin.weight, real.weight)
    with pytest.raises(fb.StateError, match="on the meta device"):
        copy.deepcopy(net).layers[0](jnp.ones((1, 3, 4)))
    fb.manual_seed(0)
    net.materialize()
    for name, value in make().state_dict().items():
        np.testing.assert_allclose(net.state_dict()[name], value, rtol=1e-6, err_msg=name)
    layers = net.layers
    assert layers[0].linear1.get_parameter("weight") is not layers[1].linear1.get_parameter("weight")


def test_a_single_layer_by_its_device() -> None:
    layer = nn.Linear(3, 2, device="meta")
    assert layer.weight.shape == (2, 3)
    assert sum(parameter.numel() for parameter in layer.parameters()) == 8
    fb.manual_seed(1)
    layer.materialize()
    fb.manual_seed(1)
    same_values(layer, nn.Linear(3, 2))


def test_dtype_and_place() -> None:
    with fb.device("meta"):
        net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).half()
    assert net[0].weight.dtype == jnp.float16
    net.materialize(dtype=jnp.bfloat16)
    assert {str(value.dtype) for value in net.state_dict().values()} == {"bfloat16", "int64"}
    mesh = jax.make_mesh((1,), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    with fb.device("meta"):
        net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    net.materialize(sharding=lambda name, cell: sharding if name == "0.weight" else None)
    assert net[0].weight.sharding == sharding
    assert net[1].weight.sharding != sharding


def test_part_of_a_network_and_values_from_elsewhere() -> None:
    with fb.device("meta"):
        net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    net[0].load_state_dict(nn.Linear(3, 2).state_dict())
    loaded = np.asarray(net[0].weight)
    net.materialize()
    np.testing.assert_array_equal(net[0].weight, loaded)
    assert net.double()(jnp.ones((1, 3))).shape == (1, 2)
    empty = nn.Linear(3, 2, device="meta").to_empty(device="cpu")
    assert float(jnp.abs(empty.weight).sum()) == 0.0


def test_what_has_no_value_says_so() -> None:
    net: Any = nn.Sequential(nn.Linear(3, 2, device="meta"), nn.ReLU())
    x = jnp.ones((4, 3))
    for use in (lambda: net(x), lambda: fb.jit(net)(x), lambda: net[0].weight + 1, lambda: net[0].weight.sum(), lambda: fb.grad(
        lambda net: net(x).sum())(net)):  # fmt: skip
        with pytest.raises(fb.StateError, match=r"float32\[2, 3\] is on the meta device and has no value yet: call"):
            use()
    assert fb.eval_shape(net, x.astype(jnp.float32)).shape == (4, 2)
    assert net[0].weight.shape == (2, 3)  # it still has none


def test_what_cannot_be_built_says_so() -> None:
    other = nn.Linear(2, 2)

    class Reaching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            nn.init.zeros_(other.weight)

    class Keeping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = [jnp.ones(3)]

    with (
        fb.device("meta"),
        pytest.raises(fb.StateError, match="the constructor writes"),
    ):
        Reaching()
    with fb.device("meta"), pytest.raises(fb.StateError, match="keeps arrays in a plain list"):
        Keeping()
    with fb.device("meta"), pytest.raises(ZeroDivisionError):
        Net(1 // 0)
    assert isinstance(nn.Linear(2, 2).weight, jax.Array)  # the context is over


def test_other_devices() -> None:
    with fb.device("cpu"):
        assert nn.Linear(2, 2).weight.devices() == {jax.devices("cpu")[0]}
