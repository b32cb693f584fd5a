"""Lazy layers: as torch's, eager and inside of transforms."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flambeau as fb
from flambeau import nn

SPATIAL = {"1": (7,), "2": (7, 6), "3": (5, 6, 7), "r": ()}
LAZY = {
    "LazyLinear": lambda nn: nn.LazyLinear(3),
    **{f"LazyConv{d}d": lambda nn, d=d: getattr(nn, f"LazyConv{d}d")(6, 3, groups=2, padding=1) for d in "123"},
    **{
        f"LazyConvTranspose{d}d": lambda nn, d=d: getattr(nn, f"LazyConvTranspose{d}d")(6, 3, 2, groups=2)
        for d in "123"
    },
    **{f"LazyBatchNorm{d}d": lambda nn, d=d: getattr(nn, f"LazyBatchNorm{d}d")(momentum=0.3) for d in "123"},
    **{f"LazyInstanceNorm{d}d": lambda nn, d=d: getattr(nn, f"LazyInstanceNorm{d}d")(bias=False) for d in "123"},
}
every_layer = pytest.mark.parametrize("name", LAZY)


def example(name: str) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, 4, *SPATIAL[name[-2]]) if name != "LazyLinear" else (2, 4))


def ones(*shape: int) -> jax.Array:
    return jnp.ones(shape, jnp.float32)


def state(net: Any) -> dict[str, Any]:
    return {name: (value.shape, value.dtype.name) for name, value in net.state_dict().items()}


class Noisy(nn.Module):
    """A lazy network that draws after its lazy layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d(), nn.Dropout(), nn.Linear(4, 2))

    def forward(self, x: jax.Array) -> jax.Array:
        return self.layers(x)


def test_all_are_here() -> None:
    assert set(LAZY) == {name for name in nn.__all__ if name.startswith("Lazy")} - {"LazyModuleMixin"}


@every_layer
def test_as_torch(torch: Any, name: str) -> None:
    ours, other, x = LAZY[name](nn).double(), LAZY[name](torch.nn).double(), example(name)
    assert repr(ours) == repr(other)
    assert list(ours.state_dict()) == list(other.state_dict())
    assert repr(next(ours.parameters())) == repr(next(other.parameters())) == "<UninitializedParameter>"
    other(torch.tensor(x))
    ours(jnp.asarray(x))
    assert repr(ours) == repr(other) and type(ours).__name__ == type(other).__name__
    assert state(ours) == {k: (tuple(v.shape), str(v.dtype).split(".")[1]) for k, v in other.state_dict().items()}
    ours.load_state_dict({k: v.numpy() for k, v in other.state_dict().items()})
    np.testing.assert_allclose(ours(jnp.asarray(x)), other(torch.tensor(x)).detach().numpy(), rtol=1e-9, atol=1e-9)


@every_layer
def test_values_are_those_of_the_ordinary_layer(name: str) -> None:
    fb.manual_seed(3)
    lazy = LAZY[name](nn)
    lazy(jnp.asarray(example(name), jnp.float32))
    fb.manual_seed(3)
    size = next(s for s in ("in_features", "in_channels", "num_features") if hasattr(lazy, s))

    class Ordinary:
        def __getattr__(self, wanted: str) -> Any:
            kind = getattr(nn, wanted.removeprefix("Lazy"))
            usual = {"affine": True, "track_running_stats": True} if "InstanceNorm" in wanted else {}
            return lambda *args, **kwargs: kind(getattr(lazy, size), *args, **usual, **kwargs)

    ordinary = LAZY[name](Ordinary())
    ordinary(jnp.asarray(example(name), jnp.float32))
    assert type(lazy) is type(ordinary) and repr(lazy) == repr(ordinary)
    for one, other in zip(lazy.state_dict().values(), ordinary.state_dict().values(), strict=True):
        np.testing.assert_array_equal(one, other)


@every_layer
def test_made_inside_of_transforms(name: str) -> None:
    x = jnp.asarray(example(name), jnp.float32)

    def loss(net: Any) -> jax.Array:
        return (net(x) ** 2).sum()

    def run(call: Any) -> Any:
        fb.manual_seed(0)
        net = LAZY[name](nn)
        call(net)
        return net

    expected = run(loss)
    for call in (fb.jit(loss), lambda net: fb.grad(lambda x: (net(x) ** 2).sum())(x)):
        got = run(call)
        assert type(got) is type(expected)
        for key, value in expected.state_dict().items():
            np.testing.assert_allclose(got.state_dict()[key], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "inside", [fb.jit, fb.checkpoint, fb.vmap, lambda net: lambda x: fb.scan(lambda c, row: (c, net(row)), 0, x)[1]]
)
def test_made_between_transforms(inside: Any) -> None:
    """In a transform inside of that which made the module."""

    def run(x: jax.Array) -> Any:
        net = nn.LazyLinear(2)
        return inside(net)(x), net.weight

    x = ones(3, 5)
    fb.manual_seed(0)
    y, weight = run(x)
    fb.manual_seed(0)
    compiled_y, compiled_weight = fb.jit(run)(x)
    assert weight.shape == (2, 5)
    np.testing.assert_allclose(compiled_y, y, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(compiled_weight, weight, rtol=1e-5, atol=1e-6)


def test_made_inside_of_a_raw_transform() -> None:
    net = nn.LazyLinear(2)
    assert jax.eval_shape(net, ones(1, 3)).shape == (1, 2)
    assert repr(net) == "Linear(in_features=3, out_features=2, bias=True)"
    assert net(ones(1, 3)).shape == (1, 2) and float(jnp.abs(net.weight).sum()) > 0


def test_a_training_step_that_begins_lazy() -> None:
    x = ones(3, 5)

    @fb.jit
    def forward(net: nn.Module, x: jax.Array) -> jax.Array:
        return net(x)

    fb.manual_seed(0)
    compiled = Noisy()
    first = forward(compiled, x)
    fb.manual_seed(0)
    eager = Noisy()
    np.testing.assert_allclose(first, eager(x), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(fb.get_rng_state(), fb.get_rng_state())
    grads = fb.jit(fb.grad(lambda net: (net(x) ** 2).sum()))(compiled)
    assert sorted(grads) == sorted(name for name, _ in compiled.named_parameters())
    assert repr(compiled) == repr(eager) and "Lazy" not in repr(compiled)


def test_a_module_made_and_called_inside() -> None:
    @fb.jit
    def build(x: jax.Array) -> tuple[jax.Array, nn.Module]:
        net = nn.LazyLinear(2)
        return net(x), net

    output, net = build(ones(1, 3))
    assert repr(net) == "Linear(in_features=3, out_features=2, bias=True)"
    np.testing.assert_allclose(net(ones(1, 3)), output, rtol=1e-6)


@pytest.mark.parametrize("compile", [False, True])
def test_an_exception_leaves_it_lazy_or_made_but_whole(compile: bool) -> None:
    class Failing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.LazyLinear(2)

        def forward(self, x: jax.Array) -> jax.Array:
            self.layer(x)
            raise ArithmeticError

    net = Failing()
    call: Any = fb.jit(lambda net, x: net(x)) if compile else net.__call__
    key = fb.get_rng_state()
    with pytest.raises(ArithmeticError):
        call(*((net,) if compile else ()), ones(1, 3))
    if compile:  # it was made before the call that failed
        assert repr(net.layer) == "Linear(in_features=3, out_features=2, bias=True)"
    else:
        assert repr(net.layer) == "LazyLinear(in_features=0, out_features=2, bias=True)"
        np.testing.assert_array_equal(fb.get_rng_state(), key)
        assert net.layer.has_uninitialized_params()
    assert net.layer(ones(1, 3)).shape == (1, 2)


def test_an_array_from_a_call_that_failed_is_an_array_like_others() -> None:
    kept: list[jax.Array] = []

    class Failing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.LazyLinear(2)

        def forward(self, x: jax.Array) -> None:
            self.layer(x)
            kept.append(self.layer.weight)
            raise ArithmeticError

    net = Failing()
    with pytest.raises(ArithmeticError):
        net(ones(1, 3))
    assert net.layer.has_uninitialized_params()
    np.testing.assert_array_equal(nn.Parameter(kept[0]), kept[0])


def test_state_dicts_give_shapes() -> None:
    source = nn.Conv2d(4, 6, 3, groups=2)
    lazy = nn.LazyConv2d(6, 3, groups=2)
    lazy.load_state_dict(source.state_dict())
    x = ones(1, 4, 5, 5)
    np.testing.assert_array_equal(lazy(x), source(x))
    assert repr(lazy) == repr(source)
    again = nn.LazyConv2d(6, 3, groups=2)
    again.load_state_dict(nn.LazyConv2d(6, 3, groups=2).state_dict())
    assert again.has_uninitialized_params()
    norm = nn.LazyBatchNorm1d()
    norm.load_state_dict(nn.BatchNorm1d(3).state_dict())
    with pytest.raises(fb.ShapeError, match=r"expected input \(N, 3\)"):
        norm(ones(2, 4))


def test_casts_and_copies_stay_lazy() -> None:
    net = copy.deepcopy(pickle.loads(pickle.dumps(nn.LazyLinear(2).half())))
    assert net(jnp.ones((1, 3), jnp.float16)).dtype == jnp.float16


@pytest.mark.parametrize(
    ("layer", "x", "message"),
    [
        (lambda: nn.LazyLinear(2), jnp.ones(()), r"expected input \(\*, in_features\), got float"),
        (lambda: nn.LazyConv2d(2, 3), jnp.ones((2, 2)), r"expected an input of 3 dimensions, or of 4 with the batch"),
        (lambda: nn.LazyConv2d(4, 3, groups=2), jnp.ones((1, 3, 8, 8)), r"divisible by groups=2, got 3 and 4"),
        (lambda: nn.LazyBatchNorm2d(), jnp.ones((2, 2)), r"expected input \(N, C, H, W\)"),
    ],
)
@pytest.mark.parametrize("compile", [False, True])
def test_mistakes(layer: Any, x: jax.Array, message: str, compile: bool) -> None:
    net = layer()
    call = fb.jit(lambda net, x: net(x)) if compile else lambda net, x: net(x)
    with pytest.raises(ValueError, match=message):
        call(net, x)
    assert net.has_uninitialized_params()


class Scale(nn.LazyModuleMixin, nn.Module):
    """A lazy module as a user writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight: Any = nn.UninitializedParameter()

    def initialize_parameters(self, x: Any) -> None:
        self.weight.materialize(x.shape[1:])
        nn.init.ones_(self.weight)

    def forward(self, x: jax.Array) -> jax.Array:
        return x * self.weight


def test_ones_own() -> None:
    net = Scale()
    with pytest.raises(fb.StateError, match="has no shape yet"):
        fb.grad(lambda net: net(ones(2, 3)).sum())(net)
    net.compile()
    assert net(ones(2, 3)).tolist() == [[1.0] * 3] * 2
    assert net(ones(2, 3)).shape == (2, 3) and type(net) is Scale

    class Unfinished(nn.LazyModuleMixin, nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.UninitializedParameter()

    with pytest.raises(NotImplementedError, match="define initialize_parameters"):
        Unfinished()(jnp.ones(2))
    Unfinished.initialize_parameters = lambda self, x: None  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(fb.StateError, match="has not been fully initialized"):
        Unfinished()(jnp.ones(2))
