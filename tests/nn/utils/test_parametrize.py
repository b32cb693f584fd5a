"""Parametrizations of one's own: as torch's, under the transforms, copied, cached, and what is refused."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flambeau as fb
from flambeau import nn
from flambeau.nn.utils import parametrizations, parametrize
from tests.transforms.small import compiles

X = jnp.ones((2, 3), jnp.float32)


class Symmetric(nn.Module):
    def forward(self, x: jax.Array) -> jax.Array:
        return jnp.triu(x) + jnp.triu(x, 1).T

    def right_inverse(self, a: jax.Array) -> jax.Array:
        return jnp.triu(a)


class Scaled(nn.Module):
    """Has a parameter of its own, and no right_inverse."""

    scale: Any

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(jnp.full((), 2.0, jnp.float32))

    def forward(self, x: jax.Array) -> jax.Array:
        return x * self.scale


class Outer(nn.Module):
    """Of several originals."""

    def forward(self, x: jax.Array, y: jax.Array) -> jax.Array:
        return x[:, None] * y

    def right_inverse(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        return z[:, 0], z[0]


class Counting(nn.Module):
    """Writes to a buffer whenever it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("reads", jnp.zeros((), jnp.float32))

    def forward(self, x: jax.Array) -> jax.Array:
        self.reads = self.reads + 1
        return x * self.reads


class Gives(nn.Module):
    """Gives what a function makes of the original, and of a value by another one."""

    def __init__(self, function: Callable[..., Any], inverse: Callable[[Any], Any] = lambda value: value) -> None:
        super().__init__()
        self.function, self.inverse = function, inverse

    def forward(self, *x: Any) -> Any:
        return self.function(*x)

    def right_inverse(self, value: Any) -> Any:
        return self.inverse(value)


def in_torch(torch: Any, name: str) -> Any:
    """Torch's twin of a class of this file."""
    if name == "Symmetric":
        methods = {"forward": lambda self, x: x.triu() + x.triu(1).T, "right_inverse": lambda self, a: a.triu()}
    elif name == "Scaled":
        methods = {"forward": lambda self, x: x * self.scale}
    else:
        methods = {
            "forward": lambda self, x, y: x[:, None] * y,
            "right_inverse": lambda self, z: (z[:, 0].clone(), z[0].clone()),
        }
    module = type(name, (torch.nn.Module,), methods)()
    if name == "Scaled":
        module.scale = torch.nn.Parameter(torch.tensor(2.0))
    return module


def arrays(state: Any) -> dict[str, np.ndarray]:
    return {name: np.asarray(value.detach() if hasattr(value, "detach") else value) for name, value in state.items()}


def assert_same(ours: Any, theirs: Any) -> None:
    ours, theirs = arrays(ours), arrays(theirs)
    assert list(ours) == list(theirs)
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-6, atol=1e-6, err_msg=name)


def loss(net: Any, x: jax.Array = X) -> jax.Array:
    return (net(x) ** 2).sum()


def symmetric(**options: Any) -> Any:
    return parametrize.register_parametrization(nn.Linear(3, 3), "weight", Symmetric(), **options)


def counting(name: str = "weight") -> Any:
    return parametrize.register_parametrization(nn.Linear(3, 2), name, Counting())


def reads(net: Any) -> float:
    return float(net.parametrizations.weight[0].reads)


# -- as torch's ---------------------------------------------------------------------------------------------------------

CHAINS = [["Symmetric"], ["Scaled"], ["Outer"], ["Symmetric", "Scaled"], ["Outer", "Symmetric", "Scaled"]]


@pytest.mark.parametrize("chain", CHAINS, ids="+".join)
@pytest.mark.parametrize("leave", [True, False])
def test_as_torch(torch: Any, chain: list[str], leave: bool) -> None:
    ours, theirs = nn.Linear(3, 3), torch.nn.Linear(3, 3)
    ours.load_state_dict(arrays(theirs.state_dict()))
    parameter = ours.get_parameter("weight")
    for name in chain:
        parametrize.register_parametrization(ours, "weight", globals()[name]())
        torch.nn.utils.parametrize.register_parametrization(theirs, "weight", in_torch(torch, name))
    assert repr(ours) == repr(theirs)
    assert_same(ours.state_dict(), theirs.state_dict())
    np.testing.assert_allclose(ours.weight, theirs.weight.detach(), rtol=1e-6)
    (theirs(torch.ones(2, 3)) ** 2).sum().backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters()}
    for grads in (fb.grad(loss)(ours), fb.jit(fb.grad(loss))(ours)):
        assert_same(dict(sorted(grads.items())), dict(sorted(gradients.items())))
    single = chain[0] != "Outer"
    if single:
        assert ours.get_parameter("parametrizations.weight.original") is parameter
    elif not leave:
        with pytest.raises(ValueError, match="in terms of a sequence"):
            parametrize.remove_parametrizations(ours, "weight", leave)
        return
    parametrize.remove_parametrizations(ours, "weight", leave)
    torch.nn.utils.parametrize.remove_parametrizations(theirs, "weight", leave)
    assert repr(ours) == repr(theirs) and type(ours) is nn.Linear
    assert_same(ours.state_dict(), theirs.state_dict())
    assert (ours.get_parameter("weight") is parameter) == single


def test_buffers_too(torch: Any) -> None:
    ours, theirs = nn.BatchNorm1d(3), torch.nn.BatchNorm1d(3)
    parametrize.register_parametrization(ours, "running_var", Gives(lambda x: x + 1))
    twin = type("Gives", (torch.nn.Module,), {"forward": lambda self, x: x + 1})()
    torch.nn.utils.parametrize.register_parametrization(theirs, "running_var", twin)
    assert_same(ours.state_dict(), theirs.state_dict())
    np.testing.assert_allclose(ours.eval()(X), theirs.eval()(torch.ones(2, 3)).detach(), rtol=1e-6)
    for each, by in ((ours, parametrize), (theirs, torch.nn.utils.parametrize)):
        by.remove_parametrizations(each, "running_var")
    assert_same(ours.state_dict(), theirs.state_dict())


def test_names_and_questions() -> None:
    net = symmetric()
    parametrize.register_parametrization(net, "bias", Scaled())
    assert isinstance(net, nn.Linear) and type(net).__name__ == "ParametrizedLinear"
    assert parametrize.type_before_parametrizations(net) is nn.Linear
    assert parametrize.is_parametrized(net) and parametrize.is_parametrized(net, "bias")
    assert not parametrize.is_parametrized(net, "other") and not parametrize.is_parametrized(nn.Linear(2, 3))
    assert isinstance(net.parametrizations.weight, parametrize.ParametrizationList)
    parametrize.remove_parametrizations(net, "weight")
    assert type(net).__name__ == "ParametrizedLinear" and list(net.parametrizations) == ["bias"]
    parametrize.remove_parametrizations(net, "bias")
    assert type(net) is nn.Linear and not hasattr(net, "parametrizations")


def test_training_mode_is_taken_over() -> None:
    inner = Symmetric()
    parametrize.register_parametrization(nn.Linear(3, 3).eval(), "weight", inner)
    assert not inner.training


def test_unsafe_may_change_the_shape() -> None:
    net = nn.Linear(3, 2)
    rows = Gives(lambda x: x[:2], lambda value: jnp.concatenate([value, value]))
    parametrize.register_parametrization(net, "weight", rows, unsafe=True)
    before = net.weight
    assert net.get_parameter("parametrizations.weight.original").shape == (4, 3) and net(X).shape == (2, 2)
    parametrize.register_parametrization(net, "weight", Gives(lambda x: x.T), unsafe=True)
    parametrize.register_parametrization(net, "weight", Scaled())  # unsafe once, unsafe for good
    assert net.parametrizations.weight.unsafe and net.weight.shape == (3, 2)
    parametrize.remove_parametrizations(net, "weight")
    np.testing.assert_array_equal(net.weight, 2 * before.T)


# -- assignment ---------------------------------------------------------------------------------------------------------


def test_assigning_sets_the_originals() -> None:
    net, value = symmetric(), jnp.array([[1.0, 2, 3], [2, 4, 5], [3, 5, 6]], jnp.float32)
    parameter = net.get_parameter("parametrizations.weight.original")
    net.weight = value
    np.testing.assert_array_equal(net.weight, value)
    np.testing.assert_array_equal(parameter.data, jnp.triu(value))
    other = nn.Linear(3, 3)
    net.weight = other.weight  # an array that a parameter holds is a value here, and ties nothing
    assert net.get_parameter("parametrizations.weight.original") is parameter
    net.weight = np.ones((3, 3))  # cast, as for any parameter

    @fb.jit
    def double(net: Any) -> None:
        net.weight = 2 * net.weight

    double(net)
    np.testing.assert_array_equal(net.weight, np.full((3, 3), 2))
    outer = parametrize.register_parametrization(nn.Linear(2, 2), "weight", Outer())
    outer.weight = jnp.array([[1.0, 2], [2, 4]], jnp.float32)
    np.testing.assert_array_equal(outer.weight, [[1, 2], [2, 4]])


# -- transforms ---------------------------------------------------------------------------------------------------------


def test_all_modules_of_one_kind_share_a_class_and_compile_once() -> None:
    def make() -> Any:
        net = nn.Sequential(symmetric(), nn.Linear(3, 3))
        parametrize.register_parametrization(net[0], "bias", Scaled())
        parametrize.register_parametrization(net[1], "bias", Scaled())
        return net

    def step(net: Any) -> jax.Array:
        return loss(net)

    compiled, first, second = fb.jit(step), make(), make()
    other = nn.Sequential(parametrize.register_parametrization(nn.Linear(3, 3), "bias", Scaled()), nn.Linear(3, 3))
    parametrize.register_parametrization(other[0], "weight", Symmetric())  # in another order
    assert type(first[0]) is type(second[0]) is type(other[0]) and type(first[0]) is not type(first[1])
    compiles(1, lambda: compiled(first))
    np.testing.assert_allclose(compiles(0, lambda: compiled(second)), loss(second), rtol=1e-6)
    compiles(0, lambda: compiled(pickle.loads(pickle.dumps(first))))
    first.load_state_dict(second.state_dict())
    np.testing.assert_allclose(compiles(0, lambda: compiled(first)), loss(second), rtol=1e-6)


def test_a_closed_over_module_is_read_fresh_and_written() -> None:
    net = counting()
    compiled = fb.jit(lambda x: (net(x), net.weight)[0])
    for expected in (3, 5, 7):  # one from registering it
        compiled(X)
        assert reads(net) == expected


@pytest.mark.parametrize("transform", [lambda f: f, fb.jit, lambda f: fb.jit(fb.grad(f)), fb.grad])
def test_state_of_a_parametrization_is_written_as_often_as_eagerly(transform: Any) -> None:
    net = counting()
    transform(lambda net: loss(net) + net.weight.sum())(net)
    assert reads(net) == 3


def test_functional_call_gives_other_originals() -> None:
    net, name = symmetric(), "parametrizations.weight.original"
    values, before = dict(net.state_dict()), net.weight
    values[name] = jnp.ones((3, 3), jnp.float32)

    def pure(values: Any) -> jax.Array:
        return (fb.functional_call(net, values, X) ** 2).sum()

    gradient = jax.jit(jax.grad(pure))(values)
    np.testing.assert_array_equal(net.weight, before)
    net.load_state_dict(values)
    np.testing.assert_allclose(gradient[name], fb.grad(loss)(net)[name], rtol=1e-6)
    assert jnp.array_equal(jnp.tril(gradient[name], -1), jnp.zeros((3, 3)))


def test_inside_of_a_transform_only_what_is_made_there() -> None:
    net = symmetric()
    plain = nn.Linear(3, 3)
    actions: list[Callable[[], Any]] = [
        lambda: parametrize.register_parametrization(plain, "weight", Symmetric()),
        lambda: parametrize.remove_parametrizations(net, "weight"),
    ]
    for action in actions:
        for transform in (fb.jit, fb.grad):
            with pytest.raises(fb.StateError, match="inside of a transform"):
                transform(lambda net, action=action: (action(), loss(net))[1])(net)
    assert type(plain) is nn.Linear and parametrize.is_parametrized(net)
    made = fb.jit(lambda: parametrize.register_parametrization(symmetric(), "bias", Scaled()))()
    assert type(made) is type(parametrize.register_parametrization(net, "bias", Scaled()))
    np.testing.assert_array_equal(made.weight, made.weight.T)
    assert type(fb.jit(lambda: parametrize.remove_parametrizations(symmetric(), "weight"))()) is nn.Linear
    for inner in (fb.jit, lambda fun: fb.vmap(fun, axis_size=2)):

        def between(inner: Any = inner) -> Any:
            net = symmetric()
            return inner(lambda: parametrize.remove_parametrizations(net, "weight").weight)()

        with pytest.raises(fb.StateError, match="inside of a transform"):
            fb.jit(between)()


# -- copies -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("twin_of", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_a_copy_has_its_own_originals(twin_of: Any) -> None:
    net = symmetric()
    twin = twin_of(net)
    assert type(twin) is type(net) and repr(twin) == repr(net)
    np.testing.assert_array_equal(twin.weight, net.weight)
    net.weight = jnp.zeros((3, 3))
    assert jnp.any(twin.weight != 0)
    parametrize.remove_parametrizations(twin, "weight")
    assert type(twin) is nn.Linear and parametrize.is_parametrized(net)


def test_transfer_shares_parametrizations_and_originals(torch: Any) -> None:
    ours = parametrize.register_parametrization(symmetric(), "weight", Scaled())
    theirs = torch.nn.Linear(3, 3)
    for name in ("Symmetric", "Scaled"):
        torch.nn.utils.parametrize.register_parametrization(theirs, "weight", in_torch(torch, name))
    parametrize.register_parametrization(ours, "bias", Gives(lambda x, y: x + y, lambda value: (value, value)))
    to = parametrize.transfer_parametrizations_and_params(ours, nn.Linear(3, 3), "weight")
    expected = torch.nn.utils.parametrize.transfer_parametrizations_and_params(theirs, torch.nn.Linear(3, 3))
    assert list(to.state_dict()) == list(expected.state_dict())
    np.testing.assert_array_equal(to.weight, ours.weight)
    for name in ("weight.original", "weight.1.scale"):
        assert to.get_parameter(f"parametrizations.{name}") is ours.get_parameter(f"parametrizations.{name}")
    empty = parametrize.transfer_parametrizations_and_params(ours, nn.Identity())
    assert set(empty.state_dict()) == set(ours.state_dict())
    np.testing.assert_array_equal(empty.bias, ours.bias)
    assert parametrize.transfer_parametrizations_and_params(nn.Linear(2, 2), to) is to


# -- the cache ----------------------------------------------------------------------------------------------------------


def test_in_a_cached_block_a_weight_is_computed_once() -> None:
    net = counting()
    with parametrize.cached():
        with parametrize.cached():
            first = net.weight
        assert net.weight is first
        net(X)
    assert reads(net) == 2
    assert net.weight is not first and reads(net) == 3


def test_a_kept_value_is_none_of_other_originals() -> None:
    net = symmetric()
    values = {name: value + 1 for name, value in net.state_dict().items()}
    with parametrize.cached():
        output = net(X)
        other = fb.functional_call(net, values, X)
        assert not jnp.allclose(output, other)
        net.load_state_dict(values)
        np.testing.assert_allclose(net(X), other, rtol=1e-6)


def test_a_transform_inside_of_a_block_computes_its_own() -> None:
    net = symmetric()
    expected = fb.grad(loss)(net)
    with parametrize.cached():
        kept = net.weight
        for run in (fb.grad(loss), fb.jit(fb.grad(loss)), fb.grad(fb.jit(loss))):
            assert_same(run(net), expected)
        total, _ = fb.scan(lambda total, _: (total + net.weight, None), jnp.zeros((3, 3)), length=2)
        np.testing.assert_allclose(total, 2 * net.weight, rtol=1e-6)
        assert net.weight is kept


def test_a_block_inside_of_a_compiled_function_counts_as_eagerly() -> None:
    def step(net: Any) -> jax.Array:
        with parametrize.cached():
            return loss(net) + loss(net) + net.weight.sum()

    eager, compiled = counting(), counting()
    run = fb.jit(step)
    compiles(1, lambda: run(compiled))
    compiles(0, lambda: run(compiled))
    step(eager)
    step(eager)
    assert reads(eager) == reads(compiled) == 3


def test_a_block_around_a_compiled_function_that_writes_is_refused() -> None:
    """Eagerly it would write once for the block, compiled once for each call: also if it was compiled before the block."""

    def step(net: Any) -> jax.Array:
        return loss(net) + loss(net)

    net, run = counting(), fb.jit(step)
    run(net)
    with (
        pytest.raises(fb.StateError, match=r"Move `with parametrize.cached\(\):` into the compiled"),
        parametrize.cached(),
    ):
        run(net)
    assert reads(net) == 3
    compiles(0, lambda: run(net))
    pure = symmetric()
    value = run(pure)
    with parametrize.cached():
        assert run(pure) == value


# -- mistakes -----------------------------------------------------------------------------------------------------------

TWICE = Gives(lambda x: x, lambda value: (value, value))
UNFIT: list[tuple[nn.Module, str]] = [
    (Gives(lambda x: x[:2]), r"what a parametrization gives to be float32\[3, 3\], got float32\[2, 3\]"),
    (Gives(lambda x: x.astype(jnp.float16)), "what a parametrization gives to be of dtype float32, got float16"),
    (Gives(lambda x: 1), "must return an array. Got int"),
    (Gives(lambda x: x, lambda value: value.astype(jnp.float16)), "gives .*to be of dtype float32, got float16"),
    (Gives(lambda x: x, lambda value: "no"), "must return an array or a sequence of arrays. Got str"),
]


@pytest.mark.parametrize(("parametrization", "message"), UNFIT, ids=[message for _, message in UNFIT])
@pytest.mark.parametrize("further", [False, True])
def test_a_parametrization_that_does_not_fit(parametrization: nn.Module, message: str, further: bool) -> None:
    net = symmetric() if further else nn.Linear(3, 3)
    kind, before = type(net), arrays(net.state_dict())
    with pytest.raises(ValueError, match=message if "sequence" not in message else "must return an array"):
        parametrize.register_parametrization(net, "weight", parametrization)
    assert type(net) is kind
    assert_same(net.state_dict(), before)


def test_mistakes() -> None:
    with pytest.raises(ValueError, match=r"does not have a parameter, .* with name 'wieght'. Did you mean: 'weight'"):
        parametrize.register_parametrization(nn.Linear(3, 3), "wieght", Symmetric())
    with pytest.raises(ValueError, match="does not have a parametrization on weight"):
        parametrize.remove_parametrizations(nn.Linear(3, 3), "weight")
    with pytest.raises(ValueError, match="requires one or more modules"):
        parametrize.ParametrizationList([], jnp.ones(3))
    net = symmetric()
    with pytest.raises(KeyError, match="'weight' already exists"):
        net.weight = nn.Parameter(jnp.ones((3, 3)))
    with pytest.raises(ValueError, match=r"expected shape \(3, 3\), got \(2, 2\)"):
        net.weight = jnp.ones((2, 2))
    parametrize.register_parametrization(net, "weight", Scaled())
    with pytest.raises(RuntimeError, match="Scaled does not implement right_inverse"):
        net.weight = jnp.ones((3, 3), jnp.float32)


def test_right_inverse_has_to_give_what_it_gave() -> None:
    inverses = [lambda value: (value, value), lambda value: value, lambda value: (value,) * 3, lambda value: [value, 1]]
    gives: Any = Gives(lambda x, y: x + y, inverses[0])
    net = parametrize.register_parametrization(nn.Linear(3, 3), "weight", gives)
    for inverse, message in zip(inverses[1:], ["sequence of arrays. Got float32", "2 arrays, .* got 3", "Got int"]):
        gives.inverse = inverse
        with pytest.raises(ValueError, match=message):
            net.weight = net.weight
    single: Any = Gives(lambda x: x)
    net = parametrize.register_parametrization(nn.Linear(3, 3), "weight", single)
    single.inverse = inverses[0]
    with pytest.raises(ValueError, match="expected right_inverse to give an array, as it did before, got tuple"):
        net.weight = net.weight + 1


def test_an_attribute_error_inside_of_a_parametrization_is_shown() -> None:
    net = parametrize.register_parametrization(nn.Linear(3, 3), "weight", Gives(lambda x: x.nothing), unsafe=True)
    with pytest.raises(RuntimeError, match=r"ParametrizedLinear\.weight: a parametrization failed: .*'nothing'"):
        net(X)


def test_orthogonal_rows_stay_through_training() -> None:
    net = parametrizations.orthogonal(nn.Linear(3, 2))
    optimizer = fb.optim.SGD(net.parameters(), lr=0.1)

    @fb.jit
    def step(net: Any, optimizer: Any) -> None:
        optimizer.step(fb.grad(loss)(net))

    before = net.weight
    for _ in range(3):
        step(net, optimizer)
    assert not jnp.allclose(net.weight, before, atol=1e-3)
    np.testing.assert_allclose(net.weight @ net.weight.T, np.eye(2), atol=1e-5)
