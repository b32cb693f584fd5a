"""`fb.grad` and `fb.value_and_grad`: dicts by parameter name, the numbers of torch and of `jax.grad`, state written once.

They are number 5 of the design. Nesting with `fb.jit` is in `test_nesting.py`, backward hooks in `core/test_backward_hooks.py`.
"""

from __future__ import annotations

import copy
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.core import Tracer

import flambeau as fb
from flambeau import nn
from tests.transforms.small import Net, X, same


def loss(net: Any, x: Any = X) -> Any:
    return (net(x) ** 2).sum()


class Tied(nn.Module):
    """Two layers with one weight, and one that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.head: Any
        self.embed = nn.Linear(3, 3, bias=False, dtype=jnp.float64)
        self.frozen = nn.Linear(3, 3, dtype=jnp.float64).requires_grad_(False)
        self.head = nn.Linear(3, 3, dtype=jnp.float64)
        self.head.weight = self.embed.weight

    def forward(self, x: Any) -> Any:
        return self.head(self.frozen(jnp.tanh(self.embed(x))))


# -- 5. With respect to modules -----------------------------------------------------------------------------------------------


def test_gradients_come_by_state_dict_name() -> None:
    """Those of trainable parameters, in the order of `parameters()`, a tied one once."""
    net = Tied()
    gradients = fb.grad(loss)(net)
    assert list(gradients) == ["embed.weight", "head.bias"]
    assert {name: g.shape for name, g in gradients.items()} == {"embed.weight": (3, 3), "head.bias": (3,)}
    net.requires_grad_(True)
    assert list(fb.grad(loss)(net)) == [name for name, _ in net.named_parameters()]


def test_a_tied_gradient_is_the_sum_over_its_places() -> None:
    net = Tied()
    untied = Tied()
    untied.load_state_dict(net.state_dict())
    untied.head.weight = nn.Parameter(net.embed.weight)
    tied, parts = fb.grad(loss)(net), fb.grad(loss)(untied)
    same(tied["embed.weight"], parts["embed.weight"] + parts["head.weight"])


def test_gradients_know_their_parameters() -> None:
    net = Tied()
    gradients = fb.grad(loss)(net)
    for name, parameter in net.named_parameters():
        assert gradients.parameter(name) is (parameter if parameter.requires_grad else None)
    assert [p for p, _ in gradients.by_parameter()] == [p for p in net.parameters() if p.requires_grad]
    copies = gradients.copy(), copy.copy(gradients), copy.deepcopy(gradients)
    for other in (jax.tree.map(lambda g: 2 * g, gradients), *copies):
        assert type(other) is fb.Gradients and list(other) == list(gradients)
        assert other.parameter("head.bias") is net.head.get_parameter("bias")
    assert dict(pickle.loads(pickle.dumps(gradients))).keys() == gradients.keys()
    twin, of_twin = copy.deepcopy((net, gradients))
    assert of_twin.parameter("head.bias") is twin.head.get_parameter("bias")


def test_an_optimizer_finds_its_own() -> None:
    """Among gradients that come by the names of a larger module, and in an order of JAX's."""
    net, twin = Tied(), Tied()
    twin.load_state_dict(net.state_dict())
    whole = fb.grad(loss)(net)
    optimizer = fb.optim.SGD(net.head.parameters(), lr=0.1)
    optimizer.step(jax.tree.unflatten(jax.tree.structure(whole), jax.tree.leaves(whole)))
    same(net.head.bias, twin.head.bias - 0.1 * whole["head.bias"])
    same(net.embed.weight, twin.embed.weight - 0.1 * whole["embed.weight"])


def test_with_respect_to_one_parameter() -> None:
    net: Any = Net()
    weight = net.get_parameter("weight")
    same(fb.grad(lambda weight: (weight.data * X).sum())(weight), X.sum(0))
    same(fb.grad(lambda weight: loss(net))(weight), 4 * (X**2).sum(0))
    assert isinstance(net.weight, jax.Array) and not isinstance(net.weight, Tracer)


# -- 5. The numbers -----------------------------------------------------------------------------------------------------------


def layers(nn: Any, **options: Any) -> Any:
    return nn.Sequential(
        nn.Linear(3, 8, **options), nn.BatchNorm1d(8, **options), nn.ReLU(), nn.Linear(8, 1, **options), nn.Flatten(0)
    )


@pytest.mark.parametrize("wrap", [lambda f: f, fb.jit], ids=["eager", "jit"])
def test_the_numbers_are_those_of_torch(torch: Any, wrap: Any) -> None:
    """The value, the gradients and the BatchNorm statistics."""
    x = np.random.default_rng(0).normal(size=(16, 3))
    theirs = layers(torch.nn, dtype=torch.float64)
    ours = layers(nn, dtype=jnp.float64)
    ours.load_state_dict({name: value.numpy() for name, value in theirs.state_dict().items()})
    expected = (theirs(torch.from_numpy(x)) ** 2).mean()
    expected.backward()
    value, gradients = wrap(fb.value_and_grad(lambda net: (net(x) ** 2).mean()))(ours)
    np.testing.assert_allclose(value, expected.item(), rtol=1e-12)
    for name, parameter in theirs.named_parameters():
        np.testing.assert_allclose(gradients[name], parameter.grad.numpy(), rtol=1e-9, atol=1e-12)
    for name, statistic in theirs.named_buffers():
        np.testing.assert_allclose(ours.get_buffer(name).data, statistic.numpy(), rtol=1e-12)


@settings(max_examples=4)
@given(st.lists(st.sampled_from(["Tanh", "ReLU", "GELU", "Softplus"]), min_size=1, max_size=3), st.integers(1, 4))
def test_the_numbers_are_those_of_jax_over_the_pure_form(activations: list[str], width: int) -> None:
    parts = [(nn.Linear(3 if i == 0 else width, width), getattr(nn, name)()) for i, name in enumerate(activations)]
    net = nn.Sequential(*(module for part in parts for module in part)).double()
    values = {name: parameter.data for name, parameter in net.named_parameters()}
    expected = jax.grad(lambda values: (fb.functional_call(net, values, X) ** 2).sum())(values)
    gradients = fb.grad(loss)(net)
    assert gradients.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(gradients[name], expected[name], rtol=1e-12)


# -- 5. With respect to arrays ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("argnums", [1, -1])
def test_with_respect_to_an_array(argnums: int) -> None:
    net: Any = Net()
    value, gradient = fb.value_and_grad(loss, argnums=argnums)(net, X)
    same(value, 4 * (X**2).sum())
    same(gradient, 8 * X)


def test_several_arguments_give_a_tuple() -> None:
    gradients, along_x = fb.grad(loss, argnums=(0, 1))(Net(), X)
    same(gradients["weight"], 4 * (X**2).sum(0))
    same(along_x, 8 * X)
    (alone,) = fb.grad(loss, argnums=(1,))(Net(), X)
    same(alone, along_x)


def test_pytrees_and_keyword_arguments() -> None:
    net = Net()
    gradients = fb.grad(lambda tree, *, net: (net(tree["x"]) * tree["rest"][0]).sum())(
        {"x": X, "rest": (3.0,)}, net=net
    )
    same(gradients["x"], 6 * jnp.ones_like(X))
    same(gradients["rest"][0], 2 * X.sum())


def test_more_than_the_value() -> None:
    def both(net: Any, x: Any) -> Any:
        output = net(x)
        return (output**2).sum(), {"output": output, "note": "anything", "net": net}

    net = Net()
    (value, aux), gradients = fb.value_and_grad(both, has_aux=True)(net, X)
    same(value, loss(net))
    same(aux["output"], 2 * X)
    assert (aux["note"], aux["net"]) == ("anything", net)
    again, aux = fb.grad(both, has_aux=True)(net, X)
    same(again["weight"], gradients["weight"])
    same(aux["output"], 2 * X)


def test_complex_and_integer_arguments() -> None:
    z = 1.0 + 2.0j
    same(fb.grad(lambda z: z**3, holomorphic=True)(z), 3 * z**2)
    for function in (lambda z: jnp.abs(z) ** 2, lambda z: (z**2).real, lambda z: z.imag):
        same(fb.grad(function)(z), jax.grad(function)(z))
    gradient = fb.grad(lambda i, x: (i * x).sum(), argnums=(0, 1), allow_int=True)(jnp.arange(3), jnp.ones(3))
    assert gradient[0].dtype == jax.dtypes.float0
    same(gradient[1], [0.0, 1.0, 2.0])


@pytest.mark.parametrize("function", [lambda x: x, lambda x: 3.0, lambda x: np.float64(3.0)])
def test_numbers_count_as_scalars(function: Any) -> None:
    same(fb.grad(function)(1.0), jax.grad(function)(1.0))


# -- 5. State -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("argnums", [0, 1, (0, 1)])
def test_state_is_written_once(argnums: Any) -> None:
    """What the function writes is there, with no tracer left, and the function runs once."""

    def step(net: Any, x: Any) -> Any:
        net.calls += 1
        net.mean = net.mean + (net.weight * x).mean(0)
        net.trace.append(net(x))
        net.table["last"] = net.weight
        net.last_shape = x.shape
        return (net.trace[-1] ** 2).sum()

    net: Any = Net()
    kept = net.trace
    for calls in (1, 2):
        fb.grad(step, argnums=argnums)(net, X)
        same(net.mean, calls * 2 * X.mean(0))
        assert (net.calls, net.last_shape, len(kept)) == (calls, (2, 3), calls) and net.trace is kept
    found = [net.mean, net.weight, *kept, net.table["last"]]
    assert not any(isinstance(array, Tracer) for array in found)
    same(kept[0], 2 * X)


def test_batchnorm_counts_its_batches() -> None:
    norm: Any = nn.BatchNorm1d(3, dtype=jnp.float64)
    fb.value_and_grad(loss)(norm)
    assert int(norm.num_batches_tracked) == 1
    same(norm.running_mean, 0.1 * X.mean(0))


def test_a_parameter_that_is_written_inside() -> None:
    """The gradient is with respect to the value at the start; what is written stays."""
    net = Net()

    def step(net: Any) -> Any:
        net.weight = net.weight * 3
        return loss(net)

    gradients = fb.grad(step)(net)
    same(net.weight, [6.0] * 3)
    same(gradients["weight"], 2 * 3**2 * 2 * (X**2).sum(0))


def test_what_is_closed_over_is_constant_and_written() -> None:
    outer, net = Net(3.0), Net()

    def step(net: Any) -> Any:
        outer.mean = outer.weight * net.weight
        return (outer(net(X))).sum()

    same(fb.grad(step)(net)["weight"], 3 * X.sum(0))
    same(outer.mean, [6.0] * 3)


def test_a_frozen_parameter_passes_gradients_on() -> None:
    net = nn.Sequential(Net(), Net(3.0))
    net[1].requires_grad_(False)
    gradients = fb.grad(lambda net: net(X).sum())(net)
    assert list(gradients) == ["0.weight"]
    same(gradients["0.weight"], 3 * X.sum(0))


# -- 5. Mistakes --------------------------------------------------------------------------------------------------------------


def vector(net: Any) -> Any:
    return net(X).sum(0)


MISTAKES: dict[str, tuple[Any, type[Exception], str]] = {
    "a vector": (lambda: fb.grad(vector)(Net()), fb.ShapeError, r"vector: expected a scalar .*float64\[3\]; reduce it"),
    "a pair": (lambda: fb.grad(lambda net: (loss(net), 1))(Net()), TypeError, "got a tuple; .* needs has_aux=True"),
    "nothing": (
        lambda: fb.grad(lambda net: None)(Net()),
        TypeError,
        "expected a scalar to differentiate, got a NoneType",
    ),
    "an integer": (
        lambda: fb.grad(lambda x: x.astype(int))(1.0),
        fb.DtypeError,
        "a scalar of floating dtype .*got int64",
    ),
    "by an integer": (
        lambda: fb.grad(lambda x: x * 1.0)(3),
        fb.DtypeError,
        "got int.*; cast it, or pass allow_int=True",
    ),
    "by a real": (lambda: fb.grad(lambda z: z, holomorphic=True)(1.0), fb.DtypeError, "expected complex.*, got float"),
    "to a real": (lambda: fb.grad(jnp.abs, holomorphic=True)(1j), fb.DtypeError, "complex.* dtype .*got float64"),
    "to a complex": (
        lambda: fb.grad(lambda z: 2 * z)(1j),
        fb.DtypeError,
        "a scalar of floating dtype .*got complex128",
    ),
    "no argument": (
        lambda: fb.grad(lambda: 1.0)(),
        TypeError,
        "positional argument 0, and there is none. Pass the module",
    ),
    "a wrong argument": (
        lambda: fb.grad(loss, argnums=2)(Net(), X),
        ValueError,
        "argnums 2 does not fit a call with 2",
    ),
    "all frozen": (
        lambda: fb.grad(loss)(Net().requires_grad_(False)),
        ValueError,
        "Net has no parameter with requires_grad",
    ),
    "a list": (
        lambda: fb.grad(lambda nets: 0.0)([Net()]),
        TypeError,
        "a Net inside of a list. Put modules into .*ModuleList",
    ),
}


@pytest.mark.parametrize("wrap", ["eager", "jit"])
@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name: str, wrap: str) -> None:
    call, kind, message = MISTAKES[name]
    with pytest.raises(kind, match=message):
        call() if wrap == "eager" else fb.jit(lambda: call())()
