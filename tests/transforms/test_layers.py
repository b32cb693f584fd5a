"""`fb.scan_layers` and `Sequential.scanned`: what the Python loop over the layers gives and leaves."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flambeau as fb
from flambeau import nn
from tests.transforms.small import same
from tests.transforms.states import Observer, assert_same

X = jnp.arange(12.0).reshape(4, 3) / 10


class Block(nn.Module):
    def __init__(self, shared: Any = None) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.dropout = nn.Dropout(0.2)
        self.trace: list[Any] = []
        self.shared = shared

    def forward(self, x: Any, bias: Any) -> Any:
        self.trace.append(x.mean())
        self.last_shape = x.shape
        self.cache = x
        y = self.dropout(jnp.tanh(self.norm(self.linear(x)))) + bias
        return y if self.shared is None else self.shared(y)


class Net(nn.Module):
    def __init__(self, count: int, scan: bool, shared: bool, options: dict[str, Any]) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3) if shared else None
        self.blocks = nn.ModuleList(Block(self.norm) for _ in range(count))
        self.blocks[1].register_forward_hook(_keep)
        self.blocks[count - 1].eval()
        self.scan, self.options = scan, options

    def forward(self, x: Any) -> Any:
        bias = 0.1 * x
        if self.scan:
            return fb.scan_layers(self.blocks, x, bias, **self.options)
        for block in self.blocks:
            x = block(x, bias)
        return x


def _keep(module: Any, args: Any, output: Any) -> None:
    module.kept = output


def outcome(scan: bool, *, compiled: bool, shared: bool = False, **options: Any) -> Any:
    fb.manual_seed(2)
    net = Net(6, scan, shared, options).double()
    run = fb.value_and_grad(lambda net, x: (net(x) ** 2).sum(), argnums=(0, 1))
    run = fb.jit(run) if compiled else run
    observer = Observer(holds=True)
    results = [observer.result(run(net, X)) for _ in range(2)]
    net.scan, net.options = False, {}
    return results, observer.state(net, fb.default_generator)


@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"checkpoint": True},
        {"unroll": 2},
        {"unroll": True},
        {"unroll": True, "checkpoint": True},
        {"checkpoint": True, "policy": jax.checkpoint_policies.dots_saveable},
    ],
)
def test_it_is_the_loop(options: dict[str, Any], shared: bool) -> None:
    expected = outcome(False, compiled=False, shared=shared)
    assert_same(expected, outcome(True, compiled=True, shared=shared, **options))


def plain(scan: bool) -> Any:
    """A network that keeps nothing, and has parameters of two shapes, of which some are not trained."""
    fb.manual_seed(2)
    net = nn.Sequential(*(nn.Sequential(nn.Linear(3, 3), nn.Tanh()) for _ in range(3))).double().scanned(scan)
    net[1].requires_grad_(False)
    return net


@pytest.mark.parametrize(
    "transform",
    [
        lambda function, x: fb.jvp(function, (x,), (x + 1,)),
        lambda function, x: fb.jacfwd(function)(x),
        lambda function, x: fb.jacrev(function)(x),
        lambda function, x: fb.vmap(fb.checkpoint(function))(jnp.stack([x, 2 * x])),
        lambda function, x: fb.grad(lambda x: fb.vmap(function)(jnp.stack([x, x**2])).sum())(x),
        lambda function, x: fb.hessian(lambda x: function(x).sum())(x),
        lambda function, x: dict(fb.grad(lambda net: (net(x) ** 2).sum())(function)),
        lambda function, x: fb.hessian(lambda values: fb.functional_call(function, values, (x,)).sum())(
            dict(function.state_dict())
        ),
        lambda function, x: jax.grad(
            lambda values: jax.vmap(lambda v: fb.functional_call(function, v, (x,)))(values).sum()
        )({name: jnp.stack([value, 2 * value]) for name, value in function.state_dict().items()}),
    ],
    ids="jvp jacfwd jacrev vmap grad-of-vmap hessian weights hessian-of-weights mapped-weights".split(),
)
def test_it_is_the_loop_under_other_transforms(transform: Any) -> None:
    loop, scanned = (fb.jit(transform)(plain(scan), X) for scan in (False, True))
    assert jax.tree.structure(loop) == jax.tree.structure(scanned)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), loop, scanned)


def test_it_is_the_loop_when_not_compiled() -> None:
    assert_same(outcome(False, compiled=False), outcome(True, compiled=False, checkpoint=True))


@pytest.mark.parametrize("unroll", [1, True])
def test_the_layers_are_traced_once(unroll: int | bool) -> None:
    calls = []

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x: Any) -> Any:
            calls.append(x)
            return self.linear(x)

    net = nn.Sequential(*(Counting() for _ in range(20))).double().scanned(unroll=unroll)
    assert fb.jit(fb.grad(lambda net: net(X).sum()))(net)["19.linear.bias"].shape == (3,)
    assert len(calls) == 1
    assert ("scan[" in str(fb.jit(lambda x: net(x)).trace(X).jaxpr)) == (unroll is not True)
    names = list(net.state_dict())
    assert names[:2] == ["0.linear.weight", "0.linear.bias"]
    assert len(names) == 40


def test_layers_unlike_their_neighbours_are_called_by_themselves() -> None:
    wide = [nn.Linear(5, 5) for _ in range(7)]
    layers = [nn.Linear(3, 5), *wide[:4], nn.Tanh(), *wide[4:], nn.Linear(5, 2)]
    net = nn.Sequential(*layers).double()
    expected = net(X)
    np.testing.assert_allclose(fb.jit(net.scanned())(X), expected, rtol=1e-12)
    text = str(fb.jit(lambda x: net(x)).trace(X).jaxpr)
    assert text.count("scan[") == 2
    assert str(fb.jit(lambda x: net(x)).trace(X).jaxpr) == text
    net.scanned(False)
    assert "scan[" not in str(fb.jit(lambda x: net(x)).trace(X).jaxpr)


def test_what_cannot_be_a_loop_is_called_in_turn_and_says_why() -> None:
    class Reading(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.history = [jnp.ones(3)]

        def forward(self, x: Any) -> Any:
            return x * self.history[0]

    net = nn.Sequential(*(Reading() for _ in range(3)))
    with pytest.warns(fb.FlambeauWarning, match=r"called one by one, since they read what Reading.history holds"):
        np.testing.assert_allclose(fb.jit(net.scanned())(X), X)

    class Tagged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tags = {"new"}

        def forward(self, x: Any) -> Any:
            self.tags.add(str(len(self.tags)))
            return x * len(self.tags)

    net = nn.Sequential(*(Tagged() for _ in range(3)))
    same(fb.jit(net.scanned())(X), 8 * X)  # all tags are alike
    net[1](X)
    with pytest.warns(fb.FlambeauWarning, match=r"called one by one, since what `tags` holds is not the same for all"):
        same(fb.jit(net)(X), 36 * X)
    assert [len(each.tags) for each in net] == [3, 4, 3]
    layer = nn.Linear(3, 3).double()
    tied = nn.Sequential(*(nn.Linear(3, 3) for _ in range(3))).double()
    tied[2].weight = tied[0].weight
    with pytest.warns(fb.FlambeauWarning, match="share parameters"):
        np.testing.assert_allclose(fb.jit(tied.scanned())(X), tied.scanned(False)(X), rtol=1e-12)
    # One and the same layer again and again is a loop that carries it.
    again = nn.Sequential(*[layer] * 4)
    np.testing.assert_allclose(fb.jit(again.scanned())(X), again.scanned(False)(X), rtol=1e-12)


def test_layers_whose_output_is_unlike_their_input_are_called_one_by_one() -> None:
    class Growing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", jnp.zeros((), int))

        def forward(self, x: Any) -> Any:
            self.calls += 1
            return jnp.concatenate([x, x], -1)

    class Pairing(nn.Module):
        def forward(self, x: Any) -> Any:
            return x, x

    net = nn.Sequential(Growing(), Growing())
    with pytest.warns(fb.FlambeauWarning, match=r"one by one, since .* to stay float64\[4, 3\], got float64\[4, 6\]"):
        same(fb.jit(net.scanned())(X), jnp.tile(X, (1, 4)))
    assert [int(layer.calls) for layer in net] == [1, 1]
    with pytest.warns(fb.FlambeauWarning, match="expected the step to give a carry like the one that it took"):
        pairs = fb.jit(nn.Sequential(Pairing(), Pairing()).scanned())(X)
    same(pairs[0][1], X)


class Config:
    def __init__(self) -> None:
        self.calls = 0


class Counting(nn.Module):
    """What the layers below share, by whichever way they come to it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.seen: list[Any] = []
        self.named: dict[str, Any] = {}
        self.register_buffer("steps", jnp.zeros(()))


class Sharing(nn.Module):
    def __init__(self, change: Any, shared: Counting, config: Config) -> None:
        super().__init__()
        self.weight = nn.Parameter(jnp.full(3, 0.5))
        self.change, self.shared, self.config, self.seen = change, shared, config, shared.seen
        self.nested = [shared.named]

    def forward(self, x: Any, *given: Any) -> Any:
        return self.change(self, x) * self.weight


def counts_static(layer: Any, x: Any) -> Any:
    layer.shared.calls += 1
    return x * layer.shared.calls


def counts_in_a_buffer(layer: Any, x: Any) -> Any:
    layer.shared.steps = layer.shared.steps + 1
    return x * layer.shared.steps


def counts_in_an_object(layer: Any, x: Any) -> Any:
    layer.config.calls += 1
    return x


def adds_an_attribute(layer: Any, x: Any) -> Any:
    layer.shared.last = getattr(layer.shared, "last", 0.0) + x
    return x


def appends(layer: Any, x: Any) -> Any:
    layer.seen.append(x)
    return x


def appends_by_length(layer: Any, x: Any) -> Any:
    layer.seen.append(x if len(layer.seen) % 2 else "even")
    return x


def fills_by_length(layer: Any, x: Any) -> Any:
    named = layer.nested[0]
    named[str(len(named))] = x
    return x


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        counts_static,
        counts_in_a_buffer,
        counts_in_an_object,
        adds_an_attribute,
        appends,
        appends_by_length,
        fills_by_length,
    ],
)
@pytest.mark.filterwarnings("ignore:scan_layers. layers like Sharing are called one by one")
def test_what_the_layers_share_and_change(change: Any, given: bool) -> None:
    """Each finds what the one before it left, whether they alone hold it or it is an argument, too."""
    left: list[Any] = []
    for transform in (lambda function: function, fb.jit):
        shared, config = Counting(), Config()
        layers = nn.ModuleList(Sharing(change, shared, config) for _ in range(4))
        out = transform(lambda layers, *args: fb.scan_layers(layers, *args))(layers, X, *[shared] * given)
        last = getattr(shared, "last", None)
        left.append([out, last, shared.steps, shared.seen, shared.named, f"{shared.calls} {config.calls}"])
    eager, compiled = map(jax.tree.leaves, left)
    assert len(eager) == len(compiled) > 2
    for a, b in zip(eager, compiled, strict=True):
        same(a, b) if not isinstance(a, str) else np.testing.assert_equal(a, b)


def test_layers_of_which_some_share_a_module() -> None:
    def count(layer: Any, x: Any) -> Any:
        layer.shared.calls = layer.shared.calls + 1
        return x

    first, second = Counting(), Counting()
    del first.steps, second.steps
    layers = [Sharing(count, each, Config()) for each in (first, second, second)]
    with pytest.warns(fb.FlambeauWarning, match="one by one, since some of them share modules that the others do not"):
        fb.jit(lambda x: fb.scan_layers(layers, x))(X)
    assert [layer.shared.calls for layer in layers] == [1, 2, 2]
