"""`fb.export`: programs in files give what the module gives, with weights in and out, also where only JAX is there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import flambeau as fb
from flambeau import nn
from flambeau.nn import functional as F
from tests.transforms.small import Net, X, same


def network() -> Any:
    """Convolutions with statistics, dropout, and a tied pair of layers."""
    net: Any = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(),
        nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4),
    )  # fmt: skip
    net[8].weight = net[6].weight
    return net.eval()


IMAGES = jnp.sin(jnp.arange(2 * 3 * 6 * 6, dtype=jnp.float32)).reshape(2, 3, 6, 6)
READ = ["0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var", "6.weight", "6.bias", "8.bias"]


def close(got: Any, expected: Any) -> None:
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


# -- What a program gives -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["known", "open"])
def test_weights_in(size: str) -> None:
    """The values of the moment, whatever becomes of the module; any size where the example leaves it open."""
    net = network()
    (batch,) = jax.export.symbolic_shape("batch") if size == "open" else (2,)
    exported = fb.export(net)(jax.ShapeDtypeStruct((batch, 3, 6, 6), jnp.float32))
    expected = net(IMAGES)
    for parameter in net.parameters():
        parameter.data = jnp.zeros_like(parameter.data)
    close(exported.call(IMAGES), expected)
    if size == "open":
        close(exported.call(IMAGES[:1]), expected[:1])
    assert [aval.shape for aval in (*exported.in_avals, *exported.out_avals)] == [(batch, 3, 6, 6), (batch, 4)]
    assert exported.weights == {} and exported.platforms == ("cpu",)
    assert "func.func public @main" in exported.mlir_module() and "Sequential" in exported.mlir_module()


def test_weights_out_serve_many_checkpoints() -> None:
    """By the names of `state_dict`, those that are read, a tied one once; a whole `state_dict` does too."""
    net, other = network(), network()
    exported = fb.export(net, weights="out")(IMAGES)
    assert sorted(exported.weights) == sorted(READ)
    assert exported.weights["0.weight"].shape == (4, 3, 3, 3)
    for each in (net, other):
        state = each.state_dict()
        close(exported.call(state, IMAGES), each(IMAGES))
        close(exported.call({name: np.asarray(state[name]) for name in READ}, IMAGES), each(IMAGES))
        close(fb.jit(exported.call)(dict(state), IMAGES), each(IMAGES))
    with pytest.raises(KeyError, match=r"no value is given for 1\.running_var, 6\.bias"):
        exported.call({name: state[name] for name in READ if name not in ("1.running_var", "6.bias")}, IMAGES)


def test_what_a_state_dict_does_not_hold_stays_in() -> None:
    """Buffers that are not persistent, other arrays, and what lists hold."""

    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", jnp.arange(3.0), persistent=False)
            self.scale: Any = nn.Parameter(jnp.full(3, 2.0))
            self.offset = jnp.ones(3)
            self.more = [jnp.full(3, 10.0)]

        def forward(self, x: Any) -> Any:
            return x * self.scale + self.table + self.offset + self.more[0]

    net = Positions()
    exported = fb.export(net, weights="out")(X)
    net.offset = jnp.zeros(3)
    assert list(exported.weights) == ["scale"]
    same(exported.call({"scale": jnp.ones(3)}, X), X + jnp.arange(3.0) + 11)


def test_functions_of_trees() -> None:
    """Keywords, numbers, trees of arguments and results, a part of a module, gradients, and no argument at all."""
    net: Any = Net()

    def both(batch: Any, power: Any, *, shift: Any) -> Any:
        grads = fb.grad(lambda net: (net(batch["x"]) ** 2).sum())(net)
        return {"y": net(batch["x"]) ** power + shift, "grads": grads, "number": 3}

    for exported, weights in ((fb.export(both), ()), (fb.export(both, weights="out"), ({"weight": net.weight},))):
        got = exported({"x": X}, 2, shift=1.0).call(*weights, {"x": X}, 3, shift=0.5)
        same(got["y"], (2 * X) ** 3 + 0.5)
        same(got["grads"]["weight"], 4 * (X**2).sum(0))
        assert type(got["grads"]) is dict and int(got["number"]) == 3
    same(fb.export(lambda: net.weight)().call(), net.weight)


def test_programs_under_transforms() -> None:
    """Derivatives of what was exported, and of what was read back with some."""
    net: Any = Net()
    exported = fb.export(net, weights="out")(X)
    loss = lambda weights, program: (program.call(weights, X) ** 2).sum()  # noqa: E731
    expected = fb.grad(lambda net: (net(X) ** 2).sum())(net)["weight"]
    for program in (exported, fb.deserialize(exported.serialize(vjp_order=1))):
        same(fb.grad(loss)({"weight": net.weight}, program)["weight"], expected)
    with pytest.raises(ValueError, match="VJP"):
        fb.grad(loss)({"weight": net.weight}, fb.deserialize(exported.serialize()))


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_networks_for_any_batch(layer: Any) -> None:
    net = layer(3, 4, batch_first=True, bidirectional=True, dtype=jnp.float64)
    (batch,) = jax.export.symbolic_shape("batch")
    exported = fb.export(net)(jax.ShapeDtypeStruct((batch, 5, 3), jnp.float64))
    for size in (1, 12):
        x = jnp.sin(jnp.arange(size * 15.0)).reshape(size, 5, 3)
        jax.tree.map(close, exported.call(x), net(x))


class Unpooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pool, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)

    def forward(self, x: Any) -> Any:
        return self.unpool(*self.pool(x))


class AtRandom(nn.Module):
    def forward(self, x: Any) -> Any:
        samples = jnp.broadcast_to(jnp.array([0.2, 0.7]), (*x.shape[:2], 2))
        return F.fractional_max_pool2d(x, 2, output_size=3, _random_samples=samples)


@pytest.mark.parametrize("net", [Unpooled(), AtRandom()], ids=["unpooling", "fractional"])
def test_pooling_by_indices_for_any_batch(net: nn.Module) -> None:
    (batch,) = jax.export.symbolic_shape("batch")
    exported = fb.export(net)(jax.ShapeDtypeStruct((batch, 3, 6, 6), jnp.float64))
    for size in (1, 5):
        x = jnp.sin(jnp.arange(size * 108.0)).reshape(size, 3, 6, 6)
        close(exported.call(x), net(x))


def test_lazy_modules_are_made() -> None:
    net: Any = nn.LazyLinear(2, dtype=jnp.float64)
    exported = fb.export(net)(jax.ShapeDtypeStruct((4, 3), jnp.float64))
    assert net.weight.shape == (2, 3)
    close(exported.call(jnp.ones((4, 3))), net(jnp.ones((4, 3))))


# -- Files --------------------------------------------------------------------------------------------------------------------

ONLY_JAX = """
import sys, numpy, jax, jax.export
folder = sys.argv[1]
load = lambda name: jax.export.deserialize(bytearray(open(f"{folder}/{name}", "rb").read()))
data = numpy.load(f"{folder}/data.npz")
weights = {name[2:]: data[name] for name in data.files if name.startswith("w:")}
for got in (load("in").call(data["x"]), load("out").call(weights, data["x"])):
    numpy.testing.assert_allclose(got, data["y"], rtol=1e-5, atol=1e-6)
assert "flambeau" not in sys.modules
"""


def test_a_process_that_has_only_jax_reads_them(tmp_path: Path) -> None:
    net = network()
    (batch,) = jax.export.symbolic_shape("batch")
    example = jax.ShapeDtypeStruct((batch, 3, 6, 6), jnp.float32)
    for weights in ("in", "out"):
        (tmp_path / weights).write_bytes(fb.export(net, weights=weights)(example).serialize())
    state = net.state_dict()
    np.savez(tmp_path / "data.npz", x=IMAGES, y=net(IMAGES), **{f"w:{name}": state[name] for name in READ})
    done = subprocess.run(
        [sys.executable, "-c", ONLY_JAX, str(tmp_path)], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_what_is_read_back_is_what_was_written() -> None:
    net = network()
    exported = fb.export(net, weights="out")(IMAGES)
    again = fb.deserialize(exported.serialize())
    assert again.weights == exported.weights and repr(again) == repr(exported) == "<fb.Exported Sequential for cpu>"
    np.testing.assert_array_equal(again.call(net.state_dict(), IMAGES), exported.call(net.state_dict(), IMAGES))
    with pytest.raises(fb.CheckpointError, match="got 7 bytes that JAX cannot read"):
        fb.deserialize(b"no file")


def test_other_platforms() -> None:
    net = network()
    exported = fb.export(net, platforms=["cpu", "cuda", "tpu"])(IMAGES)
    assert exported.platforms == ("cpu", "cuda", "tpu")
    close(exported.call(IMAGES), net(IMAGES))


def test_files_want_flatbuffers(monkeypatch: pytest.MonkeyPatch) -> None:
    exported = fb.export(Net())(X)
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    for use in (exported.serialize, lambda: fb.deserialize(b"")):
        with pytest.raises(fb.MissingExtraError, match=r"pip install 'flambeau\[export\]'"):
            use()


# -- Mistakes -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "what"),
    [
        (nn.BatchNorm1d(3, dtype=jnp.float64), r"BatchNorm1d\.running_mean"),
        (nn.Dropout(), r"Generator\.key"),
    ],
)
def test_functions_that_write_state_are_refused(module: Any, what: str) -> None:
    before = {name: np.array(value) for name, value in module.state_dict().items()}
    state = fb.get_rng_state()
    with pytest.raises(fb.StateError, match=rf"changes .*{what}.*Call eval\(\)"):
        fb.export(module)(X)
    same(fb.export(module.eval())(X).call(X), module(X))
    for name, value in module.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    np.testing.assert_array_equal(state, fb.get_rng_state())


def test_lists_and_attributes_are_state_too() -> None:
    net: Any = Net()

    def appends(x: Any) -> Any:
        net.trace.append(x)
        return x

    def counts(x: Any) -> Any:
        net.calls += 1
        return x

    for function, name in ((appends, r"Net\.trace"), (counts, r"Net\.calls")):
        with pytest.raises(fb.StateError, match=rf"export of {function.__name__}: it changes {name}"):
            fb.export(function)(X)
    assert (net.trace, net.calls) == ([], 0)


def test_mistakes_in_examples() -> None:
    net = Net()
    with pytest.raises(TypeError, match=r"got a Net as args\[0\]; let the function close over it"):
        fb.export(lambda net, x: net(x))(net, X)
    with pytest.raises(TypeError, match=r"got a str as kwargs\['mode'\]\[0\]"):
        fb.export(lambda x, mode: x)(X, mode=["fast"])
    with pytest.raises(TypeError, match="arrays as its result, got a str"):
        fb.export(lambda x: "text")(X)
    with pytest.raises(fb.ShapeError, match=r"expected .*3\), got float64\[2, 4\]"):
        fb.export(nn.Linear(3, 2, dtype=jnp.float64))(jnp.ones((2, 4)))
    with pytest.raises(ValueError, match="'in' or 'out', got 'inside'"):
        fb.export(net, weights="inside")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="Shape mismatch"):
        fb.export(net)(X).call(X[:1])
    with pytest.raises(fb.StateError, match="outside of transforms"):
        fb.jit(lambda x: fb.export(lambda y: y * x)(X).call(x))(X)


def test_weights_out_are_those_of_one_module() -> None:
    one, other = Net(), Net()
    with pytest.raises(ValueError, match=r"got those of Net \(weight\) and Net \(weight\)"):
        fb.export(lambda x: one(x) + other(x), weights="out")(X)
    both: Any = nn.ModuleDict({"one": one, "other": other})
    exported = fb.export(lambda x: both["one"](x) + one(x) + both["other"](x), weights="out")(X)
    assert sorted(exported.weights) == ["one.weight", "other.weight"]
    same(exported.call({"one.weight": jnp.ones(3), "other.weight": jnp.zeros(3)}, X), 2 * X)
