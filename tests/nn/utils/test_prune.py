"""Pruning: masks as torch's, alone and one on top of the other; pruned modules under the transforms; what is refused."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import flambeau as fb
from flambeau import nn
from flambeau.nn.utils import prune
from flambeau.nn.utils._pruning_masks import channel_norms
from tests.nn.utils.twins import LAYERS, assert_same, loss, of_torch
from tests.transforms.small import compiles

torch = pytest.importorskip("torch")
theirs_prune = pytest.importorskip("torch.nn.utils.prune")

Call = tuple[str, dict[str, Any]]

amounts = st.one_of(st.integers(0, 3), st.floats(0, 0.6))
scores = st.booleans()
norms = st.sampled_from([1, 2, 3.5, float("inf"), float("-inf"), "fro"])
calls = st.lists(
    st.one_of(
        st.tuples(st.just("identity"), st.just({})),
        st.tuples(st.just("l1_unstructured"), st.fixed_dictionaries({"amount": amounts, "importance_scores": scores})),
        st.tuples(
            st.just("ln_structured"),
            st.fixed_dictionaries(
                # By scores, since channels that are pruned in part may be of the same norm.
                {"amount": st.integers(0, 1), "n": norms, "dim": st.integers(-2, 1), "importance_scores": st.just(True)}
            ),
        ),
        st.tuples(st.just("custom_from_mask"), st.just({"mask": True})),
    ),
    min_size=1,
    max_size=3,
)


def by_scores(amount: int, dim: int) -> Call:
    return "ln_structured", {"amount": amount, "n": 1, "dim": dim, "importance_scores": True}


def pair(layer: str) -> tuple[Any, Any]:
    """Our layer and torch's, in float64 and with the same values."""
    make, _ = LAYERS[layer]
    torch.manual_seed(0)
    ours, theirs = make(nn).double(), make(torch.nn).double()
    ours.load_state_dict(of_torch(theirs.state_dict()))
    return ours, theirs


def filled(options: dict[str, Any], shape: tuple[int, ...], seed: int) -> dict[str, Any]:
    """Options with arrays of numpy for the flags that ask for scores or a mask."""
    rng = np.random.default_rng(seed)
    given = dict(options)
    if given.pop("importance_scores", False):
        given["importance_scores"] = rng.normal(size=shape)
    if "mask" in given:
        given["mask"] = rng.integers(0, 2, shape)
    return given


def for_torch(options: dict[str, Any]) -> dict[str, Any]:
    return {name: torch.tensor(v) if isinstance(v, np.ndarray) else v for name, v in options.items()}


@given(st.sampled_from(["linear", "conv"]), calls)
@example("linear", [*3 * [by_scores(1, dim=1)], by_scores(0, dim=0)])  # nothing is left to prune
@settings(max_examples=60)
def test_as_torch(layer: str, calls: list[Call]) -> None:
    """Any deterministic methods, one after the other; where torch refuses one, so do we, and nothing has changed."""
    ours, theirs = pair(layer)
    for seed, (name, options) in enumerate(calls):
        before, given = of_torch(theirs.state_dict()), filled(options, tuple(ours.weight.shape), seed)
        try:
            getattr(theirs_prune, name)(theirs, "weight", **for_torch(given))
        except (ValueError, RuntimeError) as error:
            with pytest.raises(type(error)):
                getattr(prune, name)(ours, "weight", **given)
            assert_same(ours.state_dict(), before)
            return
        getattr(prune, name)(ours, "weight", **given)
        assert_same(ours.state_dict(), of_torch(theirs.state_dict()))
        np.testing.assert_array_equal(ours.weight, theirs.weight.detach())
    assert prune.is_pruned(nn.Sequential(ours)) and len(ours._forward_pre_hooks) == 1
    for module, by in ((ours, prune), (theirs, theirs_prune)):
        by.remove(module, "weight")
    assert_same(ours.state_dict(), of_torch(theirs.state_dict()))
    assert not prune.is_pruned(ours)


@pytest.mark.parametrize("layer", ["linear", "conv"])
def test_gradients_outputs_and_state_are_torchs(layer: str) -> None:
    ours, theirs = pair(layer)
    for module, by in ((ours, prune), (theirs, theirs_prune)):
        by.l1_unstructured(module, "weight", amount=4)
        by.l1_unstructured(module, "bias", amount=0.5)
    x = np.random.default_rng(0).normal(size=LAYERS[layer][1][0])
    expected = (theirs(torch.tensor(x)) ** 3).sum()
    expected.backward()
    gradients = {name: p.grad.numpy() for name, p in theirs.named_parameters()}
    for run in (fb.value_and_grad(loss), fb.jit(fb.value_and_grad(loss))):
        value, grads = run(ours, jnp.asarray(x))
        np.testing.assert_allclose(value, expected.item(), rtol=1e-9)
        assert_same(dict(sorted(grads.items())), dict(sorted(gradients.items())))
        assert_same(ours.state_dict(), of_torch(theirs.state_dict()))
    twin, _ = pair(layer)
    for name in ("weight", "bias"):
        prune.identity(twin, name)
    twin.load_state_dict(of_torch(theirs.state_dict()))
    np.testing.assert_allclose(twin(jnp.asarray(x)), theirs(torch.tensor(x)).detach(), rtol=1e-9)


@given(amounts, st.booleans(), st.booleans())
@settings(max_examples=20)
def test_global_pruning_is_torchs(amount: float, before: bool, scored: bool) -> None:
    (first, first_theirs), (second, second_theirs) = pair("linear"), pair("conv")
    by_theirs = {first: first_theirs, second: second_theirs}
    for module, by in ((first, prune), (first_theirs, theirs_prune)) if before else ():
        by.l1_unstructured(module, "weight", amount=2)
    values = {(first, "bias"): np.arange(5.0)} if scored else {}
    names = [(first, "weight"), (second, "weight"), (first, "bias")]
    prune.global_unstructured(iter(names), prune.L1Unstructured, values, amount=amount)
    theirs_prune.global_unstructured(
        [(by_theirs[module], name) for module, name in names],
        theirs_prune.L1Unstructured,
        {(by_theirs[module], name): torch.tensor(value) for (module, name), value in values.items()},
        amount=amount,
    )
    for ours, theirs in by_theirs.items():
        assert_same(ours.state_dict(), of_torch(theirs.state_dict()))


@given(st.integers(0, 15), st.integers(0, 3), st.integers(-2, 1))
@settings(max_examples=20)
def test_random_pruning_takes_the_amount_of_what_is_left(entries: int, channels: int, dim: int) -> None:
    net = prune.random_unstructured(nn.Linear(3, 5), "weight", amount=entries)
    assert int((net.weight_mask == 0).sum()) == entries
    left = 15 - entries
    prune.random_unstructured(net, "weight", amount=0.5)
    assert int((net.weight_mask == 0).sum()) == entries + round(0.5 * left)
    net = prune.random_structured(nn.Linear(4, 4), "weight", amount=channels, dim=dim)
    gone = (net.weight_mask == 0).all(1 - dim % 2)
    assert int(gone.sum()) == channels and int((net.weight_mask == 0).sum()) == 4 * channels
    prune.random_structured(net, "weight", amount=1, dim=dim)
    assert int((net.weight_mask == 0).all(1 - dim % 2).sum()) == channels + 1


def test_random_masks_come_from_the_seed() -> None:
    masks = []
    for seed in (1, 1, 2):
        fb.manual_seed(seed)
        masks.append(prune.RandomUnstructured(0.5).prune(jnp.ones((10, 10))))
    assert jnp.array_equal(masks[0], masks[1]) and not jnp.array_equal(masks[0], masks[2])


@given(st.one_of(norms, st.sampled_from([0, "nuc"])), st.integers(-3, 2), st.integers(0, 5))
@settings(max_examples=20)
def test_norms_of_channels_are_torchs(n: Any, dim: int, zeros: int) -> None:
    x = np.random.default_rng(0).normal(size=(3, 4, 2)) * (np.arange(24) >= zeros).reshape(3, 4, 2)
    expected = theirs_prune._compute_norm(torch.tensor(x), n, dim)
    np.testing.assert_allclose(channel_norms(jnp.asarray(x), n, dim), expected, rtol=1e-12)


def test_a_norm_of_matrices_needs_matrices() -> None:
    with pytest.raises(ValueError, match="'nuc' is one of matrices"):
        prune.ln_structured(nn.Linear(3, 4), "weight", amount=2, n="nuc", dim=0)


def test_training_a_pruned_network_agrees_with_eager_and_the_second_one_compiles_nothing() -> None:
    def make(seed: int) -> tuple[Any, fb.optim.Optimizer]:
        fb.manual_seed(seed)
        net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
        optimizer = fb.optim.SGD(net.parameters(), lr=0.1)  # made before, and goes on
        prune.l1_unstructured(net[0], "weight", amount=3)
        prune.global_unstructured([(net[0], "weight"), (net[1], "weight")], prune.L1Unstructured, amount=0.5)
        return net, optimizer

    def step(net: Any, optimizer: Any, x: jax.Array) -> jax.Array:
        value, grads = fb.value_and_grad(loss)(net, x)
        optimizer.step(grads)
        return value

    x, train = jnp.ones((4, 3), jnp.float32), fb.jit(step)
    eager, compiled, another = make(0), make(0), make(1)
    np.testing.assert_allclose(compiles(1, lambda: train(*compiled, x)), step(*eager, x), rtol=1e-5)
    np.testing.assert_allclose(compiles(0, lambda: train(*compiled, x)), step(*eager, x), rtol=1e-5)
    for name, value in eager[0].state_dict().items():
        np.testing.assert_allclose(compiled[0].state_dict()[name], value, rtol=1e-5, atol=1e-7, err_msg=name)
    np.testing.assert_allclose(compiled[0][0].weight, eager[0][0].weight, rtol=1e-5, atol=1e-7)
    expected = loss(another[0], x)
    np.testing.assert_allclose(compiles(0, lambda: train(*another, x)), expected, rtol=1e-5)


@pytest.mark.parametrize("twin_of", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_a_copy_is_pruned_on_its_own(twin_of: Any) -> None:
    net = prune.custom_from_mask(prune.identity(nn.Linear(2, 2), "weight"), "weight", [[0, 1], [1, 0]])
    twin = twin_of(net)
    prune.remove(twin, "weight")
    assert prune.is_pruned(net) and not prune.is_pruned(twin)
    np.testing.assert_array_equal(twin.weight, net.weight)


def test_the_parameter_stays_the_same_object() -> None:
    net = nn.Linear(2, 3)
    parameter = net.get_parameter("weight")
    prune.identity(net, "weight")
    assert net.get_parameter("weight_orig") is parameter
    prune.remove(net, "weight")
    assert net.get_parameter("weight") is parameter


def test_containers() -> None:
    net = nn.Linear(2, 3)
    first = prune.L1Unstructured.apply(net, "weight", amount=1)
    container = prune.LnStructured.apply(net, "weight", 1, 2, 0, jnp.ones((3, 2)))
    assert isinstance(container, prune.PruningContainer)
    assert len(container) == 2 and container[0] is first and list(container)[1] is container[-1]
    mask = prune.CustomFromMask(jnp.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"acting on the parameter named 'weight' .* Found 'None'"):
        container.add_pruning_method(mask)
    with pytest.raises(TypeError, match="is not a BasePruningMethod"):
        container.add_pruning_method(3)  # pyright: ignore[reportArgumentType]
    assert prune.CustomFromMask.apply(net, "weight", jnp.zeros((3, 2))) is not container
    assert len(next(iter(net._forward_pre_hooks.values())).function) == 3 and not net.weight.any()


def test_a_mask_that_was_given_is_not_read_while_compiling() -> None:
    """Which mask a method was given does not count as structure, so a compiled function must not depend on it."""

    class ByItself(prune.CustomFromMask):
        def apply_mask(self, module: nn.Module) -> jax.Array:
            return module.bias_orig * self.mask

    net = nn.Linear(2, 3)
    ByItself.apply(net, "bias", mask=[0, 1, 0])
    assert net(jnp.ones(2, jnp.float32)).shape == (3,)
    with pytest.raises(fb.StateError, match="read the buffer bias_mask of the module"):
        fb.jit(net)(jnp.ones(2, jnp.float32))


class Structured(prune.BasePruningMethod):
    """A method of one's own, which lacks the `dim` that a structured one needs on top of others."""

    PRUNING_TYPE = "structured"

    def compute_mask(self, t: jax.Array, default_mask: jax.Array) -> jax.Array:
        return default_mask.at[0].set(0)


class Unknown(Structured):
    PRUNING_TYPE = "chaotic"


def on_top(method: type[prune.BasePruningMethod], **options: Any) -> Any:
    return method.apply(prune.identity(nn.Linear(2, 3), "weight"), "weight", **options)


def inside(function: Any) -> Any:
    net = prune.identity(nn.Linear(2, 3), "bias")
    return fb.jit(lambda: function(net))()


MISTAKES: list[tuple[Any, Any, str]] = [
    (lambda: prune.L1Unstructured(amount="much"), TypeError, "Invalid type for amount: much"),  # pyright: ignore
    (lambda: prune.L1Unstructured(amount=1.1), ValueError, "amount=1.1 should either be"),
    (lambda: prune.RandomStructured(amount=-1), ValueError, "amount=-1 should either be"),
    (lambda: prune.l1_unstructured(nn.Linear(2, 3), "weight", 7), ValueError, "amount=7 should be smaller .*=6"),
    (lambda: prune.ln_structured(nn.Linear(2, 3), "weight", 3, 2, 1), ValueError, "amount=3 should be smaller .*=2"),
    (lambda: prune.ln_structured(nn.Linear(2, 3), "weight", 1, 2, 2), IndexError, "Invalid index 2"),
    (lambda: prune.random_structured(nn.Linear(2, 3), "bias", 1, 0), ValueError, "only be applied to multidimensional"),
    (lambda: prune.identity(nn.Linear(2, 3), "wieght"), AttributeError, "Did you mean: 'weight'"),
    (lambda: prune.identity(nn.Linear(2, 3, bias=False), "bias"), ValueError, "'bias' is None"),
    (lambda: prune.identity(nn.LazyLinear(3), "weight"), ValueError, "no shape yet"),
    (lambda: prune.l1_unstructured(nn.Linear(2, 3), "bias", 1, jnp.ones(2)), ValueError, "of the shape of bias"),
    (lambda: prune.L1Unstructured(1).prune(jnp.ones(3), importance_scores=[1, 2]), ValueError, "of the shape of t"),
    (lambda: prune.custom_from_mask(nn.Linear(2, 3), "bias", jnp.ones(2)), ValueError, r"a mask of the shape \(3,\)"),
    (lambda: prune.remove(nn.Linear(2, 3), "weight"), ValueError, "has to be pruned before"),
    (lambda: prune.L1Unstructured(1).remove(nn.Linear(2, 3)), RuntimeError, "was not applied to a module"),
    (lambda: on_top(Structured), AttributeError, "need to have the attribute `dim`"),
    (lambda: on_top(Unknown), ValueError, "Unrecognized PRUNING_TYPE chaotic"),
    (lambda: on_top(prune.LnStructured, amount=1, n=1, dim=-3), IndexError, "Index is out of bounds"),
    (lambda: prune.global_unstructured(3, prune.Identity), TypeError, "not an Iterable"),  # pyright: ignore
    (lambda: prune.global_unstructured([], prune.Identity, 3), TypeError, "must be of type dict"),  # pyright: ignore
    (
        lambda: prune.global_unstructured([(nn.Linear(2, 3), "bias")], prune.LnStructured, amount=1, n=1),
        TypeError,
        'Only "unstructured" PRUNING_TYPE supported',
    ),
    (lambda: inside(lambda net: prune.identity(net, "weight")), RuntimeError, "pruning Linear inside of a transform"),
    (lambda: inside(lambda net: prune.remove(net, "bias")), RuntimeError, "off Linear inside of a transform"),
    (
        lambda: fb.jit(lambda: prune.l1_unstructured(nn.Linear(2, 3), "weight", 1))(),
        RuntimeError,
        "depends on values, which are not known",
    ),
]


@pytest.mark.parametrize(("mistake", "error", "message"), MISTAKES, ids=[message for _, _, message in MISTAKES])
def test_mistakes(mistake: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        mistake()


def test_a_mistake_leaves_what_was_pruned_before() -> None:
    net = prune.l1_unstructured(nn.Linear(2, 3), "weight", amount=2)
    with pytest.raises(ValueError, match="should be smaller"):
        prune.l1_unstructured(net, "weight", amount=5)
    assert prune.is_pruned(net) and int((net.weight_mask == 0).sum()) == 2
    assert isinstance(next(iter(net._forward_pre_hooks.values())).function, prune.L1Unstructured)
