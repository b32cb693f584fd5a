"""`state_dict` and `load_state_dict`, held against torch's."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flambeau as fb
from flambeau import nn
from flambeau._errors import StateDictError
from flambeau.core.cell import Parameter
from tests.core.twins import Library, agree, ours

PROGRAMS: dict[str, Any] = {}


def program(function: Any) -> Any:
    """Adds a program that must do on ours what it does on torch's modules."""
    assert function.__name__ not in PROGRAMS
    PROGRAMS[function.__name__] = function
    return function


def with_extra_state(lib: Library) -> Any:
    class Extra(lib.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = lib.nn.Linear(2, 2)
            self.notes: Any = {"epoch": 0}

        def get_extra_state(self) -> Any:
            return self.notes

        def set_extra_state(self, state: Any) -> None:
            self.notes = state

    return Extra


# -- out ---------------------------------------------------------------------------------------------------------------------


@program
def state_dicts(lib: Library) -> Any:
    net = lib.filled(lib.Net())
    return net.state_dict(), net.layers.state_dict(), net.state_dict(prefix="p."), lib.nn.ReLU().state_dict()


@program
def kind_and_versions(lib: Library) -> Any:
    class Newer(lib.nn.Module):
        _version = 7

    net = lib.Net()
    net.newer = Newer()
    state = net.state_dict()
    return type(state).__name__.endswith("Dict"), isinstance(state, OrderedDict), state._metadata  # type: ignore[attr-defined]


@program
def destination(lib: Library) -> Any:
    block, given = lib.filled(lib.Block()), {"there": 1}
    result = block.state_dict(destination=given, prefix="x.")
    return result is given, given


@program
def keep_vars(lib: Library) -> Any:
    net = lib.filled(lib.Net())
    state = net.state_dict(keep_vars=True)
    parameter = net.get_parameter("first.fc.weight")
    return [
        type(state["first.fc.weight"]).__name__,
        state["first.fc.weight"] is parameter,
        state["layers.0.fc.weight"] is parameter,
        type(net.state_dict()["first.fc.weight"]).__name__ == "Parameter",
    ]


@program
def extra_state(lib: Library) -> Any:
    one, two = with_extra_state(lib)(), with_extra_state(lib)()
    one.notes = {"epoch": 3}
    state = one.state_dict(prefix="")
    two.load_state_dict(state)
    return list(state), state["_extra_state"], two.notes


@program
def extra_state_of_a_child(lib: Library) -> Any:
    outer = lib.nn.Sequential(with_extra_state(lib)())
    outer[0].notes = 5
    return list(outer.state_dict()), outer.state_dict()["0._extra_state"]


@program
def extra_state_missing(lib: Library) -> Any:
    module = with_extra_state(lib)()
    state = module.state_dict()
    del state["_extra_state"]
    return str(module.load_state_dict(state, strict=False))


@program
def extra_state_unexpected(lib: Library) -> Any:
    module = lib.nn.Linear(1, 1)
    return str(module.load_state_dict({**module.state_dict(), "_extra_state": 1}, strict=False))


# -- in ----------------------------------------------------------------------------------------------------------------------


@program
def loading(lib: Library) -> Any:
    source, target = lib.filled(lib.Net()), lib.Net().double()
    before = dict(target.named_parameters())
    result = target.load_state_dict(source.state_dict())
    source.get_parameter("first.fc.weight").data = lib.array(np.zeros((3, 3)))
    same = [before[name] is parameter for name, parameter in target.named_parameters()]
    flags = [parameter.requires_grad for parameter in target.parameters()]
    return repr(result), result, same, flags, target.state_dict()


@program
def loading_casts(lib: Library) -> Any:
    source = lib.filled(lib.Net())
    return [
        lib_target.load_state_dict(source.state_dict()) and lib_target.state_dict()
        for lib_target in (lib.Net().float(), lib.Net().half())
    ]


@program
def assigning(lib: Library) -> Any:
    # Without ties: torch, which puts new parameters in place, unties them.
    source, target = lib.filled(lib.Block()), lib.Block().float()
    target.load_state_dict(source.state_dict(), assign=True)
    return target.state_dict(), [parameter.requires_grad for parameter in target.parameters()]


@program
def assigning_parameters_keeps_the_flag_of_the_module(lib: Library) -> Any:
    target = lib.nn.Linear(1, 1)
    given = {
        name: lib.nn.Parameter(lib.array(np.ones(p.shape)), requires_grad=False)
        for name, p in target.named_parameters()
    }
    target.load_state_dict(given, assign=True)
    return target.state_dict(), [parameter.requires_grad for parameter in target.parameters()]


@program
def an_old_scalar(lib: Library) -> Any:
    block = lib.Block()
    block.load_state_dict({**block.state_dict(), "steps": lib.array([7])})
    return block.steps


@program
def the_given_dict_stays(lib: Library) -> Any:
    block = lib.Block()
    given = dict(block.state_dict())
    block.register_load_state_dict_pre_hook(lambda module, state, *rest: state.clear())
    result = block.load_state_dict(given, strict=False)
    return list(given), list(result.missing_keys)


def changed(change: Any, **kwargs: Any) -> Any:
    """Loads a network's state dict after `change`, not strictly and strictly."""

    def load(lib: Library) -> Any:
        net = lib.filled(lib.Net())
        state = net.state_dict()
        change(lib, state)
        result = net.load_state_dict(state, strict=False, **kwargs)
        return list(result.missing_keys), list(result.unexpected_keys), str(result)

    return load


def rename(state: Any, old: str, new: str) -> None:
    state[new] = state.pop(old)


CHANGES: dict[str, Any] = {
    "nothing": lambda lib, state: None,
    "missing": lambda lib, state: [state.pop(key) for key in ("first.fc.bias", "layers.2.steps", "layers.0.scale")],
    "unexpected": lambda lib, state: state.update({"new": lib.array([1.0]), "layers.9.weight": lib.array([1.0])}),
    "renamed": lambda lib, state: rename(state, "first.fc.weight", "first.fc.wieght"),
    "below a parameter": lambda lib, state: rename(state, "first.scale", "first.scale.value"),
    "above a module": lambda lib, state: rename(state, "first.fc.weight", "first.fc"),
    "not persistent": lambda lib, state: state.update({"first.scratch": lib.array([1.0, 2.0])}),
    "absent": lambda lib, state: state.update({"first.absent": lib.array([1.0]), "first.missing": lib.array([1.0])}),
    "below an absent module": lambda lib, state: state.update({"gone.weight": lib.array([1.0])}),
    "an empty name": lambda lib, state: state.update({"": lib.array([1.0])}),
    "all": lambda lib, state: state.clear(),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("assign", [False, True])
def test_keys_that_do_not_match(torch: Any, name: str, assign: bool) -> None:
    agree(torch, changed(CHANGES[name], assign=assign))
    lib = ours()
    net = lib.filled(lib.Net())
    before, state = dict(net.state_dict()), net.state_dict()
    CHANGES[name](lib, state)
    state = OrderedDict((key, value + 1) for key, value in state.items())
    result = net.load_state_dict(copy.copy(state), strict=False)
    if not (result.missing_keys or result.unexpected_keys):
        net.load_state_dict(state)
        return
    net.load_state_dict(before)
    held = net.state_dict()
    with pytest.raises(StateDictError) as caught:
        net.load_state_dict(state)
    for key in result.missing_keys + result.unexpected_keys:
        assert f'"{key}"' in str(caught.value)
    assert all(value is held[key] for key, value in net.state_dict().items())


def test_everything_wrong_is_in_one_error(torch: Any) -> None:
    """The keys and shapes that torch names, all at once, and a module that is as it was."""

    def load(lib: Library) -> Any:
        net = lib.filled(lib.Net())
        state = OrderedDict((key, value * 0) for key, value in net.state_dict().items())
        del state["first.fc.bias"]
        state["new"] = lib.array([1.0])
        state["layers.2.fc.weight"] = lib.array(np.zeros((5, 3)))
        state["layers.2.fc.bias"] = lib.array(np.zeros((2, 1)))
        state["layers.0.offset"] = "text"
        return net.load_state_dict(state)

    found = agree(torch, load)
    for message in (str(found.ours), str(found.theirs)):
        lines = [line.strip() for line in message.splitlines()]
        assert lines[0] == "Error(s) in loading state_dict for Net:"
        assert lines[1].startswith('Missing key(s) in state_dict: "first.fc.bias"')
        assert lines[2].startswith('Unexpected key(s) in state_dict: "new"')
        assert [line.split(":")[0] for line in lines[4:]] == [
            "size mismatch for layers.2.fc.weight",
            "size mismatch for layers.2.fc.bias",
        ]
        assert '"layers.0.offset"' in lines[3] and "str" in lines[3]
    assert "expected the model's shape (2, 3), got (5, 3) in the checkpoint" in str(found.ours)


def test_a_failed_load_changes_nothing() -> None:
    """Not in parameters, buffers, dtypes or extra state; nor does an error in a hook."""
    lib = ours()
    net = lib.filled(lib.Net())
    net.extra = with_extra_state(lib)()
    twin = copy.deepcopy(net)
    state = OrderedDict((key, value) for key, value in twin.float().state_dict().items())
    state["extra._extra_state"] = {"epoch": 9}
    state["layers.2.fc.weight"] = jnp.zeros((1, 1))

    def snapshot() -> Any:
        return [
            (key, id(value)) for key, value in net.state_dict().items() if "extra_state" not in key
        ], net.extra.notes

    before = snapshot()
    for assign in (False, True):
        with pytest.raises(StateDictError, match="size mismatch"):
            net.load_state_dict(state, assign=assign)
        assert snapshot() == before
    del state["layers.2.fc.weight"]

    def fail(*given: Any) -> None:
        raise ZeroDivisionError

    for register in (net.layers.register_load_state_dict_post_hook, net.extra.register_load_state_dict_pre_hook):
        with register(fail), pytest.raises(ZeroDivisionError):
            net.load_state_dict(state, strict=False)
        assert snapshot() == before


@program
def what_is_no_mapping(lib: Library) -> Any:
    return lib.Block().load_state_dict([("scale", lib.array([1.0]))])


@pytest.mark.parametrize("name", PROGRAMS)
def test_as_torch(torch: Any, name: str) -> None:
    agree(torch, PROGRAMS[name])


# -- what arrays mean here ---------------------------------------------------------------------------------------------------


def test_loaded_arrays_are_copies() -> None:
    """An array belongs to one cell: two modules never share one through a state dict, nor with its owner."""
    source, target = nn.Linear(2, 2), nn.Linear(2, 2)
    state = source.state_dict()
    for assign in (False, True):
        target.load_state_dict(state, assign=assign)
        assert target.weight is not source.weight and target.weight is not state["weight"]
        fb.nn.init.zeros_(target.weight)
        assert (source.weight == state["weight"]).all() and not (source.weight == 0).any()
    held = {"weight": np.ones((2, 2), np.float32), "bias": np.ones(2, np.float32)}
    target.load_state_dict(held)
    held["weight"][:] = 5
    assert (target.weight == 1).all()


def test_state_dicts_stay_as_they_were() -> None:
    linear = nn.Linear(2, 2).double()
    state = linear.state_dict()
    old = np.array(state["weight"])
    step = fb.jit(lambda linear: setattr(linear, "weight", linear.weight * 2))
    for _ in range(2):
        step(linear)
    np.testing.assert_array_equal(state["weight"], old)
    np.testing.assert_array_equal(linear.weight, old * 4)
    linear.load_state_dict(state)
    np.testing.assert_array_equal(linear.weight, old)


def test_tied_parameters_are_saved_under_each_name_and_loaded_into_one() -> None:
    lib = ours()
    net = lib.filled(lib.Net())
    state = net.state_dict()
    assert state["first.fc.weight"] is state["layers.0.fc.weight"]
    net.load_state_dict({key: np.asarray(value) + 1 for key, value in state.items()})
    assert net.get_parameter("first.fc.weight") is net.get_parameter("layers.0.fc.weight")
    np.testing.assert_array_equal(net.first.fc.weight, state["first.fc.weight"] + 1)


def test_in_a_compiled_function() -> None:
    lib = ours()
    net, other = lib.filled(lib.Net()), lib.filled(lib.Net())

    @fb.jit
    def average(net: Any, other: Any) -> Any:
        theirs = other.state_dict()
        net.load_state_dict({key: (value + theirs[key]) / 2 for key, value in net.state_dict().items()})
        return net.state_dict()

    fb.nn.init.ones_(other.first.fc.weight)
    expected = (net.first.fc.weight + 1) / 2
    state = average(net, other)
    np.testing.assert_allclose(net.first.fc.weight, expected)
    np.testing.assert_allclose(state["first.fc.weight"], expected)
    assert list(state) == list(net.state_dict()) and isinstance(net.get_parameter("first.fc.weight"), Parameter)
    before = net.first.fc.weight
    with pytest.raises(StateDictError, match="Missing key"):
        fb.jit(lambda net: net.load_state_dict({"first.fc.weight": jnp.zeros((3, 3))}))(net)
    assert net.first.fc.weight is before


def test_load_forgets_no_device() -> None:
    """Loading copies into the parameter where it lies; `assign` takes the array as it is."""
    device = jax.devices()[0]
    linear = nn.Linear(2, 2).to(device)
    linear.load_state_dict({key: np.zeros(value.shape) for key, value in linear.state_dict().items()})
    assert linear.weight.committed and linear.weight.dtype == jnp.float32
    linear.load_state_dict({key: jnp.zeros(value.shape) for key, value in linear.state_dict().items()}, assign=True)
    assert not linear.weight.committed and linear.weight.dtype == jnp.float64
