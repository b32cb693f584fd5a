"""What an optimizer is made from, what its groups and its state are, and what it says about mistakes."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flambeau._errors import DtypeError, ShapeError, StateDictError, StateError
from flambeau.core.cell import Buffer, Parameter, UninitializedParameter
from flambeau.core.gradients import Gradients
from flambeau.core.module import Module
from flambeau.optim import SGD, Adafactor, Adagrad, Adam, AdamW, Optimizer, RMSprop
from flambeau.transforms.grad import grad, value_and_grad
from flambeau.transforms.jit import jit
from tests.optim.small import Net, assert_same, gradients, loss

FACTORIES = [
    lambda params: SGD(params, lr=0.1),
    lambda params: SGD(params, lr=0.1, momentum=0.9, dampening=0.5),
    lambda params: AdamW(params, lr=0.1, amsgrad=True),
    lambda params: Adagrad(params, lr=0.1, initial_accumulator_value=0.5),
    lambda params: Adafactor(params, lr=0.1),
    lambda params: Optimizer(params, optax.adam, learning_rate=0.1),
    lambda params: Optimizer(params, optax.noisy_sgd(0.1, key=jax.random.key(0))),
]


# -- what it is made from -----------------------------------------------------------------------------------------------


def test_ways_to_name_parameters() -> None:
    """Parameters, names with them, arrays read from a module, and dicts of each lead to the same step."""
    results = []
    for params in (
        lambda net: net.parameters(),
        lambda net: net.named_parameters(),
        lambda net: [net.first, net.bias, net.second, net.scale],
        lambda net: [{"params": net.first}, {"params": (p for p in [net.bias, net.second, net.scale])}],
        lambda net: [{"params": [pair]} for pair in net.named_parameters()],
    ):
        net = Net()
        SGD(params(net), lr=0.1).step(gradients(net))
        results.append(dict(net.state_dict()))
    for other in results[1:]:
        assert_same(results[0], other)


def test_names_are_kept() -> None:
    net = Net()
    optimizer = Adam(net.named_parameters(), lr=0.1)
    assert optimizer.param_groups[0]["param_names"] == ["first", "bias", "second", "scale"]
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == ["first", "bias", "second", "scale"]


def test_loaded_names_take_the_place_of_the_own_ones() -> None:
    """As in PyTorch; state goes by the order."""
    net = Net()
    optimizer = Adam(net.named_parameters(), lr=0.1)
    optimizer.step(gradients(net))
    saved = optimizer.state_dict()
    saved["param_groups"][0]["param_names"] = ["a", "b", "c", "d"]
    optimizer.load_state_dict(saved)
    optimizer.step({"a": jnp.ones((3, 4))})
    assert [int(entry["step"]) for entry in optimizer.state.values()] == [2, 1, 1, 1]
    assert "param_names: ['a', 'b', 'c', 'd']" in repr(optimizer)


class Other(Module):
    def __init__(self) -> None:
        super().__init__()
        self.running = Buffer(jnp.zeros(2))
        self.complex = Parameter(jnp.zeros(2, jnp.complex64))
        self.lazy = UninitializedParameter()


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        (lambda net: [], ValueError, "SGD: optimizer got an empty parameter list"),
        (lambda net: [{"params": []}], ValueError, "optimizer got an empty parameter list"),
        (lambda net: net, TypeError, r"iterable of Parameters or dicts, but got Net: pass its parameters\(\)"),
        (lambda net: net.first, TypeError, "iterable of Parameters or dicts, but got ArrayImpl"),
        (lambda net: {"params": net.parameters()}, TypeError, "iterable of Parameters or dicts, but got dict"),
        (lambda net: 3, TypeError, "iterable of Parameters or dicts, but got int"),
        (lambda net: set(net.parameters()), TypeError, "the order of a set changes"),
        (lambda net: [{"params": set(net.parameters())}], TypeError, "the order of a set changes"),
        (lambda net: [net.first, net.first], ValueError, "parameter group with duplicate parameters"),
        (
            lambda net: [{"params": net.first}, {"params": [net.bias, net.first]}],
            ValueError,
            "some parameters appear in more than one parameter group",
        ),
        (lambda net: [net.first + 1], TypeError, "one of the params is an array that belongs to no Parameter"),
        (lambda net: ["first"], TypeError, "one of the params is str"),
        (lambda net: [net], TypeError, "one of the params is Net"),
        (lambda net: [Other().running], TypeError, "belongs to no Parameter"),
        (lambda net: Other().buffers(), TypeError, "one of the params is Buffer"),
        (lambda net: [Other().get_parameter("complex")], DtypeError, "real parameters, got one of complex64"),
        (lambda net: [Other().get_parameter("lazy")], StateError, "no shape yet"),
        (lambda net: [("first", net.first), net.bias], ValueError, "Some param names are missing"),
        (lambda net: [{"params": net.first}, 3], TypeError, "param_group must be a dict, but got int"),
        (
            lambda net: [{"params": [("first", net.first)]}, {"params": net.bias}],
            ValueError,
            "cannot add param group without names",
        ),
        (lambda net: [("w", net.first), ("w", net.bias)], ValueError, "two parameters are named 'w'"),
        (
            lambda net: [{"params": [("w", net.first)]}, {"params": [("w", net.bias)]}],
            ValueError,
            r"named_parameters\(prefix=",
        ),
    ],
)
def test_what_it_cannot_be_made_from(params: Any, error: type[Exception], message: str) -> None:
    net = Net()
    with pytest.raises(error, match=message):
        SGD(params(net), lr=0.1)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda p: SGD(p, lr="fast"), TypeError, "expected learning rate to be a number, got 'fast'"),
        (lambda p: SGD(p, lr=optax.constant_schedule(0.1)), TypeError, "expected learning rate to be a number, got <"),
        (lambda p: SGD(p, lr=float("nan")), ValueError, "Invalid learning rate: nan"),
        (lambda p: SGD(p, lr=jnp.ones(2)), ValueError, "expected one number, got an array of shape"),
        (lambda p: Adam(p, betas=0.9), ValueError, "Invalid betas: expected two numbers, got 0.9"),
        (lambda p: SGD([{"params": list(p), "lr": -2}], lr=0.1), ValueError, "Invalid learning rate: -2"),
        (lambda p: Optimizer(p, {"lr": 0.1}), TypeError, "expected an optax transformation, .* got dict"),
        (lambda p: Optimizer(p, lambda: 3), TypeError, "makes an optax transformation, it made a int"),
        (
            lambda p: Optimizer(p, optax.sgd(0.1), learning_rate=1.0),
            TypeError,
            "'learning_rate' is an option of no one",
        ),
        (
            lambda p: Optimizer([{"params": list(p), "b1": 0.5}], optax.lion, learning_rate=0.1),
            TypeError,
            "'b1' is an option of one group alone",
        ),
    ],
)
def test_options_that_make_no_sense(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make(Net().parameters())


# -- groups -------------------------------------------------------------------------------------------------------------


def test_a_group_is_a_dict() -> None:
    net = Net()
    optimizer = SGD([{"params": net.first, "note": "mine"}, {"params": [net.bias], "momentum": 0.9}], lr=0.1)
    first, second = optimizer.param_groups
    assert first["params"] == [net.get_parameter("first")]
    assert dict(first) == {
        **{"params": first["params"], "lr": 0.1, "momentum": 0, "dampening": 0, "weight_decay": 0, "nesterov": False},
        **{"maximize": False, "foreach": None, "differentiable": False, "fused": None, "note": "mine"},
    }
    assert second["momentum"] == 0.9 and "note" not in second and second.get("note") is None
    assert first.setdefault("initial_lr", first["lr"]) == 0.1
    first.update(lr=0.3, initial_lr=0.4)
    assert (first["lr"], first.pop("initial_lr"), "initial_lr" in first) == (0.3, 0.4, False)
    with pytest.raises(KeyError):
        first["learning_rate"]
    with pytest.raises(TypeError, match="'lr' is an option that the optimizer needs"):
        del first["lr"]
    with pytest.raises(TypeError, match="add_param_group"):
        first["params"] = []
    with pytest.raises(AttributeError, match=r'write group\["lr"\] = '):
        first.lr = 0.5
    assert repr(first) == repr(dict(first)) and "lr" not in dir(first)


@pytest.mark.parametrize("value", [1e-3, 0.1, 1 / 3, 5e-324, 1e300, 0.0, float("inf"), 7])
def test_numbers_read_as_they_were_written(value: float) -> None:
    group = SGD(Net().parameters(), lr=0.1).param_groups[0]
    group["lr"] = value
    assert type(group["lr"]) is float and group["lr"] == value


@pytest.mark.parametrize("value", [1e-3, 3e-4, 0.9, 1 / 3, 1e-8, 123456.0, 5e-324])
def test_numbers_are_exact_in_32_bits(value: float) -> None:
    """Whatever the width of the array: a number that is multiplied again and again goes the way of PyTorch's."""
    with jax.enable_x64(False):
        optimizer = Adam(Net(dtype=np.float32).parameters(), lr=value, betas=(0.9, 0.999))
        group = optimizer.param_groups[0]
        assert group["lr"] == value and group["betas"] == (0.9, 0.999) and group["eps"] == 1e-8
        for _ in range(100):
            group["lr"] *= 0.9
            value *= 0.9
        assert group["lr"] == value
        for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
            assert twin.param_groups[0]["lr"] == value


@pytest.mark.parametrize("value", [1e-3, 3e-4, 0.9, 1e-8, 123456.0])
def test_numbers_read_as_decimals_after_a_compiled_function(value: float) -> None:
    """Not as 0.0010000000474974513, and reading and writing back again and again changes nothing."""
    with jax.enable_x64(False):
        group = SGD(Net(dtype=np.float32).parameters(), lr=value * 2).param_groups[0]

        @jit
        def halve() -> None:
            group["lr"] *= 0.5

        halve()
        assert group["lr"] == pytest.approx(value, rel=1e-7) and len(str(group["lr"])) <= 12
        read = group["lr"]
        group["lr"] = group["lr"]
        assert group["lr"] == read


@pytest.mark.parametrize("value", [jnp.asarray(0.25), np.float32(0.25), np.asarray([0.25]), 0.25])
def test_kinds_of_numbers(value: Any) -> None:
    optimizer = AdamW(Net().parameters(), lr=value, betas=(value, value))
    assert optimizer.param_groups[0]["lr"] == 0.25
    optimizer.param_groups[0]["weight_decay"] = value
    optimizer.param_groups[0]["betas"] = [value, value]
    assert optimizer.param_groups[0]["weight_decay"] == 0.25
    assert optimizer.param_groups[0]["betas"] == (0.25, 0.25)


def test_an_array_given_as_a_number_stays_the_users() -> None:
    net = Net()
    optimizer = SGD(net.parameters(), lr=0.1)
    given = jnp.asarray(0.5, jnp.float64)
    optimizer.param_groups[0]["lr"] = given

    @jit
    def decay() -> None:
        optimizer.param_groups[0]["lr"] *= 0.5

    decay()
    assert optimizer.param_groups[0]["lr"] == 0.25 and float(given) == 0.5


def test_changes_that_come_too_late() -> None:
    """State that would have had to be kept from the first step on is not made up; the group stays as it was."""
    optimizer = Adam(Net().parameters(), lr=0.1)
    optimizer.step([jnp.ones(p.shape) for p in optimizer.param_groups[0]["params"]])
    with pytest.raises(StateError, match="'max_exp_avg_sq' from the first step on: make a new optimizer"):
        optimizer.param_groups[0]["amsgrad"] = True
    assert optimizer.param_groups[0]["amsgrad"] is False
    optimizer.step([jnp.ones(p.shape) for p in optimizer.param_groups[0]["params"]])


def test_changes_before_the_first_step() -> None:
    """They are what the optimizer could have been made with."""
    net, twin = Net(), Net()
    optimizer, its = RMSprop(net.parameters(), lr=0.1), RMSprop(twin.parameters(), lr=0.1, momentum=0.9, centered=True)
    optimizer.param_groups[0].update(momentum=0.9, centered=True)
    for _ in range(3):
        optimizer.step(gradients(net))
        its.step(gradients(twin))
    assert_same(dict(net.state_dict()), dict(twin.state_dict()))
    assert_same(optimizer.state_dict(), its.state_dict())


def test_groups_added_later() -> None:
    net = Net()
    optimizer = Adam([net.first], lr=0.1)
    optimizer.step(gradients(net))
    optimizer.add_param_group({"params": [net.bias, net.second], "lr": 0.5})
    optimizer.step(gradients(net))
    assert [int(entry["step"]) for entry in optimizer.state.values()] == [2, 1, 1]
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.5]
    with pytest.raises(ValueError, match="more than one parameter group"):
        optimizer.add_param_group({"params": net.first})
    with pytest.raises(ValueError, match="Invalid learning rate"):
        optimizer.add_param_group({"params": net.scale, "lr": -1.0})
    assert len(optimizer.param_groups) == 2
    with pytest.raises(AttributeError, match="append"):
        optimizer.param_groups.append({"params": net.scale})  # pyright: ignore[reportAttributeAccessIssue]


# -- the step -----------------------------------------------------------------------------------------------------------


def test_forms_of_gradients() -> None:
    """Each of them makes the same step."""
    forms = {
        "as grad gives them": lambda grads: grads,
        "through jax.tree.map": lambda grads: jax.tree.map(lambda g: g * 1.0, grads),
        "a dict by name": dict,
        "a tuple": lambda grads: (grads,),
        "in order": lambda grads: [grads[name] for name in ("first", "bias", "second", "scale")],
        "of numpy": lambda grads: {name: np.asarray(grad) for name, grad in grads.items()},
        "in parts": lambda grads: ({"first": grads["first"]}, {k: g for k, g in grads.items() if k != "first"}),
        "in halves": lambda grads: (jax.tree.map(lambda g: g / 2, grads), jax.tree.map(lambda g: g / 2, grads)),
        "after a copy": lambda grads: pickle.loads(pickle.dumps(grads)),
    }
    results = {}
    for name, form in forms.items():
        net = Net()
        Adam(net.named_parameters(), lr=0.1).step(form(gradients(net)))
        results[name] = dict(net.state_dict())
    for name, result in results.items():
        assert_same(results["as grad gives them"], result, 0.0 if name != "in halves" else 1e-12)


def test_gradients_of_two_modules_at_once() -> None:
    one, other = Net(0), Net(1)
    optimizer = SGD([*one.parameters(), *other.parameters()], lr=1.0)
    before = [one.bias, other.bias]
    grads = grad(lambda one, other: one.bias.sum() + 2 * other.bias.sum(), argnums=(0, 1))(one, other)
    optimizer.step(grads)
    np.testing.assert_allclose(one.bias - before[0], -1.0)
    np.testing.assert_allclose(other.bias - before[1], -2.0)


def test_one_parameter_alone() -> None:
    parameter = Parameter(jnp.asarray([1.0, 2.0]))
    optimizer = SGD([parameter], lr=0.5)
    optimizer.step(grad(lambda p: (parameter.data**2).sum())(parameter))
    np.testing.assert_array_equal(parameter.data, [0.0, 0.0])


def test_parameters_without_gradient_are_left_alone() -> None:
    net = Net()
    net.get_parameter("bias").requires_grad_(False)
    optimizer = Adam(net.parameters(), lr=0.1)
    bias = net.bias
    optimizer.step(gradients(net))
    optimizer.step([jnp.ones((3, 4)), None, None, None])
    assert net.bias is bias
    steps = {net_name(net, parameter): int(entry["step"]) for parameter, entry in optimizer.state.items()}
    assert steps == {"first": 2, "second": 1, "scale": 1}


def net_name(net: Net, parameter: Parameter) -> str:
    return next(name for name, other in net.named_parameters() if other is parameter)


def test_gradients_of_others_are_left_aside() -> None:
    net = Net()
    before = dict(net.state_dict())
    SGD([net.bias], lr=0.1).step(gradients(net))
    after = dict(net.state_dict())
    assert [name for name in before if before[name] is not after[name]] == ["bias"]


@pytest.mark.parametrize(
    ("grads", "error", "message"),
    [
        (lambda net: gradients(Net(1)), ValueError, "none of the gradients belongs to a parameter of this optimizer"),
        (lambda net: Gradients(), ValueError, "none of the gradients"),
        (lambda net: dict(gradients(net)), TypeError, r"made without any: .*net\.named_parameters\(\)"),
        (lambda net: [jnp.ones(3)], ValueError, "one gradient for each of the 4 parameters, in their order, got 1"),
        (lambda net: (gradients(net), jnp.ones(3)), ValueError, "one gradient for each of the 4 parameters"),
        (lambda net: loss, TypeError, "takes the gradients, got a closure"),
        (lambda net: jnp.ones(3), TypeError, "expected gradients, got ArrayImpl"),
        (lambda net: 0.5, TypeError, "expected gradients, got float"),
        (
            lambda net: [jnp.ones((4, 3)), None, None, None],
            ShapeError,
            r"gradient of parameter 0 to have shape \(3, 4\), got \(4, 3\)",
        ),
        (
            lambda net: [None, jnp.ones(3, int), None, None],
            DtypeError,
            "parameter 1 to be of a floating dtype, got int64",
        ),
        (lambda net: [None, "bias", None, None], TypeError, "gradient of parameter 1 to be an array, got str"),
    ],
)
def test_gradients_that_do_not_fit(grads: Any, error: type[Exception], message: str) -> None:
    """Nothing is changed then, also not by those that would fit."""
    net = Net()
    optimizer = Adam(net.parameters(), lr=0.1)
    before = dict(net.state_dict())
    with pytest.raises(error, match=message):
        optimizer.step(grads(net))
    assert all(before[name] is value for name, value in net.state_dict().items())
    assert optimizer.state_dict()["state"] == {}


def test_names_in_messages() -> None:
    net = Net()
    grads = gradients(net)
    grads["bias"] = jnp.ones(7)
    with pytest.raises(ShapeError, match="gradient of bias to have shape"):
        SGD(net.parameters(), lr=0.1).step(grads)
    with pytest.raises(ShapeError, match="gradient of bias to have shape"):
        SGD(net.named_parameters(), lr=0.1).step([None, jnp.ones(7), None, None])


def test_a_step_without_gradients_says_how_it_is_done() -> None:
    optimizer = SGD(Net().parameters(), lr=0.1)
    for call in (optimizer.step, lambda: optimizer.step(closure=loss), lambda: optimizer.step(loss)):
        with pytest.raises(TypeError, match=r"fb\.value_and_grad\(loss_of\)\(net\)\n    optimizer\.step\(grads\)"):
            call()
    with pytest.raises(TypeError, match="unexpected keyword argument 'value'"):
        optimizer.step(gradients(Net()), value=1.0)
    optimizer.zero_grad()
    optimizer.zero_grad(set_to_none=False)


def test_integers_have_no_gradients() -> None:
    net = Net()
    net.index = Parameter(jnp.arange(3), requires_grad=False)
    optimizer = Adam(net.parameters(), lr=0.1)
    _, grads = value_and_grad(lambda first, index: (first**2).sum(), argnums=(0, 1), allow_int=True)(
        net.first, net.index
    )
    optimizer.step([grads[0], None, None, None, grads[1]])
    np.testing.assert_array_equal(net.index, [0, 1, 2])


# -- state --------------------------------------------------------------------------------------------------------------


def test_state() -> None:
    net = Net()
    optimizer = Adam(net.parameters(), lr=0.1)
    assert optimizer.state_dict()["state"] == {} and optimizer.state == {}
    grads = gradients(net)
    optimizer.step(grads)
    entry = optimizer.state[net.get_parameter("bias")]
    assert list(entry) == ["step", "exp_avg", "exp_avg_sq"]
    np.testing.assert_allclose(entry["exp_avg"], 0.1 * grads["bias"], rtol=1e-12)
    with pytest.raises(TypeError):
        entry["exp_avg"] = jnp.zeros(3)  # pyright: ignore[reportIndexIssue]
    optimizer.step(grads)
    assert int(entry["step"]) == 1 and int(optimizer.state[net.get_parameter("bias")]["step"]) == 2


@pytest.mark.parametrize("make", FACTORIES)
def test_round_trip_of_the_state_dict(make: Any) -> None:
    """Two runs, one of which stops in the middle and goes on from its state dict, are the same to the bit."""
    net, again = Net(), Net()
    optimizer = make(net.parameters())
    for i in range(3):
        optimizer.step(gradients(net))
        if i == 1:
            optimizer.step([*list(gradients(net).values())[:1], None, None, None])
    other = make(again.parameters())
    other.step(gradients(again))  # state that loading has to replace
    again.load_state_dict(net.state_dict())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert_same(_plain(other.state_dict()), _plain(optimizer.state_dict()))
    for _ in range(2):
        optimizer.step(gradients(net))
        other.step(gradients(again))
    assert_same(dict(again.state_dict()), dict(net.state_dict()))
    assert_same(_plain(other.state_dict()), _plain(optimizer.state_dict()))


def _plain(state: Any) -> Any:
    """With random keys as the numbers that they are, which can be compared."""
    return jax.tree.map(
        lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else np.asarray(leaf) if _is_array(leaf) else leaf,
        state,
    )


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array)


def _is_key(leaf: Any) -> bool:
    return _is_array(leaf) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def test_a_fresh_state_dict_takes_state_away() -> None:
    net = Net()
    fresh = Adam(net.parameters(), lr=0.1).state_dict()
    optimizer = Adam(net.parameters(), lr=0.3)
    optimizer.step(gradients(net))
    optimizer.load_state_dict(fresh)
    assert optimizer.state == {} and optimizer.param_groups[0]["lr"] == 0.1


def test_loading_changes_options() -> None:
    """Also those that the optimizer was made without."""
    net, again = Net(), Net()
    optimizer = SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.5, nesterov=True)
    optimizer.param_groups[0]["initial_lr"] = 0.7
    optimizer.step(gradients(net))
    again.load_state_dict(net.state_dict())
    other = SGD(again.parameters())
    other.load_state_dict(optimizer.state_dict())
    assert repr(other) == repr(optimizer)
    for _ in range(2):
        optimizer.step(gradients(net))
        other.step(gradients(again))
    assert_same(dict(again.state_dict()), dict(net.state_dict()))


def test_adamw_stays_decoupled() -> None:
    net = Net()
    optimizer = AdamW(net.parameters())
    optimizer.load_state_dict(Adam(net.parameters(), lr=0.3).state_dict())
    assert optimizer.param_groups[0]["lr"] == 0.3 and optimizer.param_groups[0]["decoupled_weight_decay"] is True


def test_state_dicts_that_do_not_fit() -> None:
    """One error lists everything, and nothing is changed."""
    net = Net()
    optimizer = Adam(net.parameters(), lr=0.1)
    optimizer.step(gradients(net))
    before = optimizer.state_dict()
    wrong = copy.deepcopy(before)
    wrong["param_groups"][0].update(lr=0.5, weight_decay=0.5)
    wrong["state"][0]["exp_avg"] = np.zeros(3)
    del wrong["state"][1]["step"]
    wrong["state"][2]["momentum_buffer"] = np.zeros(3)
    with pytest.raises(StateDictError) as caught:
        optimizer.load_state_dict(wrong)
    assert sorted(str(caught.value).split("\n\t")) == [
        "Error(s) in loading state_dict for Adam:",
        "state[0]: expected 'exp_avg' of shape (3, 4), got (3,)",
        "state[1] lacks 'step'",
        "state[2] has 'momentum_buffer', which this optimizer does not keep",
    ]
    assert_same(optimizer.state_dict(), before)
    with pytest.raises(ValueError, match="different number of parameter groups: 2, not 1"):
        optimizer.load_state_dict({**before, "param_groups": before["param_groups"] * 2})
    with pytest.raises(ValueError, match=r"doesn't match the size of optimizer's group: \[1\], not \[4\]"):
        optimizer.load_state_dict(SGD([net.bias]).state_dict())


@pytest.mark.parametrize("make", FACTORIES[:6])
def test_copies(make: Any) -> None:
    """A network and its optimizer that are copied together go on together, and apart from the originals."""
    net = Net()
    optimizer = make(net.parameters())
    optimizer.step([jnp.ones((3, 4)), None, None, jnp.ones(())])
    optimizer.param_groups[0]["lr"] = 0.3
    pairs = [copy.deepcopy((net, optimizer)), pickle.loads(pickle.dumps((net, optimizer)))]
    before = dict(net.state_dict())
    for twin, its in pairs:
        its.step(gradients(twin))
        assert all(before[name] is value for name, value in net.state_dict().items())
    optimizer.step(gradients(net))
    for twin, its in pairs:
        assert_same(dict(twin.state_dict()), dict(net.state_dict()))
        assert_same(its.state_dict(), optimizer.state_dict())


def test_arrays_that_the_user_holds_stay_whole() -> None:
    net = Net()
    optimizer = Adam(net.parameters(), lr=0.1)
    optimizer.step(gradients(net))
    held = [*net.state_dict().values(), *jax.tree.leaves(optimizer.state_dict()["state"])]
    copies = [np.array(value) for value in held]
    for _ in range(2):
        optimizer.step(gradients(net))
    assert_same(held, copies)


def test_optimizers_are_not_kept_alive() -> None:
    net = Net()
    optimizer = Adam(net.parameters(), lr=0.1)
    optimizer.step(gradients(net))
    gone = [weakref.ref(thing) for thing in (net, optimizer, optimizer.param_groups[0])]
    del net, optimizer
    gc.collect()
    assert [ref() for ref in gone] == [None, None, None]
