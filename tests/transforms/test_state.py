"""What `fb.jit` leaves behind: arrays, lists, dicts and attributes as eager execution leaves them, updated in place.

The numbers in the headings are those of the design.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest

import flambeau as fb
from flambeau import nn
from tests.transforms.small import Net, X, compiles, same

# -- 3. Writes ----------------------------------------------------------------------------------------------------------------


def test_arrays_are_written() -> None:
    """Buffers, plain arrays, parameters, by whichever way; and in the dtype that they have."""

    @fb.jit
    def step(net: Any, x: Any) -> None:
        net.mean = x.mean(0)
        net.cache = net.cache + 1
        net.fresh = x
        net.get_parameter("weight").copy_(x[1])

    net: Any = Net()
    for calls in (1, 2):
        assert step(net, X) is None
        same(net.mean, X.mean(0))
        same(net.cache, [calls] * 3)
        same(net.fresh, X)
        same(net.weight, X[1])
    assert "fresh" not in net.state_dict() and isinstance(net.fresh, jax.Array)


def test_a_list_that_is_reset() -> None:
    @fb.jit
    def step(net: Net, x: Any) -> None:
        net.trace = []
        net.trace.append(x)
        net.trace.append("and a word")

    net = Net()
    for count in (1, 0):
        compiles(count, lambda: step(net, X))
        assert len(net.trace) == 2 and net.trace[1] == "and a word"
        same(net.trace[0], X)


def test_a_list_that_grows_does_not_compile_again() -> None:
    @fb.jit
    def step(net: Net, x: Any) -> None:
        net.trace.append(x)

    net = Net()
    kept = net.trace
    for calls in range(1, 6):
        compiles(calls == 1, lambda calls=calls: step(net, calls * X))
        assert net.trace is kept and len(kept) == calls
    for calls, x in enumerate(kept, 1):
        same(x, calls * X)


@pytest.mark.filterwarnings("ignore::flambeau.RecompilationWarning")
def test_a_list_that_is_read() -> None:
    """It is right, whatever it costs: and a change of the values alone costs nothing."""

    @fb.jit
    def step(net: Net, x: Any) -> Any:
        net.trace.append(x)
        return sum(net.trace)

    net = Net()
    kept = net.trace
    for calls in range(1, 4):
        same(compiles(1, lambda: step(net, X)), calls * X)
    kept.clear()
    same(compiles(0, lambda: step(net, 2 * X)), 2 * X)
    kept[0] = 5 * X
    same(compiles(0, lambda: step(net, X)), 6 * X)
    assert net.trace is kept and len(kept) == 2


def test_a_dict() -> None:
    @fb.jit
    def step(net: Net, x: Any) -> None:
        net.table["sum"] = net.table.get("sum", 0.0) + x
        net.table.setdefault("inner", {})["last"] = x

    net = Net()
    kept = net.table
    for calls in (1, 2, 3):
        step(net, X)
        same(kept["sum"], calls * X)
    assert net.table is kept and list(kept) == ["sum", "inner"]
    inner = kept["inner"]
    step(net, X)
    assert net.table["inner"] is inner


def test_a_list_under_two_names_stays_one() -> None:
    net: Any = Net()
    outside = net.alias = net.trace

    @fb.jit
    def step(x: Any) -> None:
        net.trace.append(x)
        net.alias.append(x)

    step(X)
    assert net.trace is net.alias is outside and len(outside) == 2


# -- 4. Static attributes -----------------------------------------------------------------------------------------------------


def test_a_static_attribute_that_settles() -> None:
    @fb.jit
    def step(net: Any, x: Any) -> None:
        net.last_shape = x.shape
        net.mode = "used"

    net: Any = Net()
    for _ in range(5):
        step(net, X)
    compiles(0, lambda: step(net, X))
    assert (net.last_shape, net.mode) == ((2, 3), "used")
    step(net, X[:1])
    assert net.last_shape == (1, 3)
    net.last_shape = "overwritten"
    step(net, X)
    assert net.last_shape == (2, 3)


def test_a_static_attribute_that_changes_on_every_call() -> None:
    """It stays right, and one warning names the attribute, the function and the cure."""
    model = nn.Sequential(Net())

    @fb.jit
    def step(model: Any, x: Any) -> Any:
        model[0].calls += 1
        return x * model[0].calls

    with pytest.warns(fb.RecompilationWarning) as caught:
        for calls in range(1, 7):
            same(compiles(1, lambda: step(model, X)), calls * X)
            assert model[0].calls == calls
            assert len(caught) == (calls >= 3)
    (message,) = {str(warning.message) for warning in caught}
    assert "step was compiled 3 times because `0.calls` changes from call to call" in message
    assert "Make it a buffer (self.register_buffer)" in message


def test_other_networks_are_no_change_of_one() -> None:
    step: Any = fb.jit(lambda net, x: net(x))
    for width in range(1, 7):
        assert step(nn.Sequential(nn.Linear(2, width), nn.LeakyReLU(width)), jnp.ones((1, 2), "float32")).shape == (
            1,
            width,
        )
    assert len(step.compilations()) == 6


def test_flags_and_modes_that_are_set_inside() -> None:
    @fb.jit
    def step(net: Net, x: Any) -> Any:
        net.eval()
        net.requires_grad_(False)
        del net.width
        return net.dropout(x)

    net = Net()
    same(step(net, X), X)
    assert not net.training and not net.dropout.training and not hasattr(net, "width")
    assert not any(p.requires_grad for p in net.parameters())


def test_a_layer_that_is_made_and_frozen_inside() -> None:
    @fb.jit
    def step(net: Any) -> None:
        net.child = nn.Linear(2, 2)
        net.child.requires_grad_(False)

    net: Any = Net()
    step(net)
    assert not any(p.requires_grad for p in net.child.parameters()) and net.get_parameter("weight").requires_grad


# -- 11. Memory ---------------------------------------------------------------------------------------------------------------


@fb.jit
def double(net: Net) -> None:
    net.weight = net.weight * 2


def test_cells_are_updated_in_place() -> None:
    net = Net()
    double(net)
    cell = net.get_parameter("weight")
    old, place = cell.peek(), cell.peek().unsafe_buffer_pointer()
    double(net)
    assert old.is_deleted() and cell.peek().unsafe_buffer_pointer() == place
    same(net.weight, [8.0] * 3)


def test_an_array_that_was_read_survives() -> None:
    net = Net()
    double(net)
    held: list[Any] = [net.weight, net.state_dict()["weight"], net.get_parameter("weight").data]
    double(net)
    held.append(net.weight)
    double(net)
    double(net)
    for array, expected in zip(held, (4.0, 4.0, 4.0, 8.0)):
        same(array, [expected] * 3)


def test_an_output_that_is_a_cells_own_array_survives() -> None:
    @fb.jit
    def step(net: Net) -> Any:
        old = net.weight
        net.weight = net.weight + 1
        return old, net.weight, net.mean

    net = Net()
    outputs = [step(net) for _ in range(3)]
    for calls, (old, new, mean) in enumerate(outputs):
        same(old, [2.0 + calls] * 3)
        same(new, [3.0 + calls] * 3)
        same(mean, [0.0] * 3)
    assert net.weight is not outputs[-1][1]


def test_an_argument_survives_that_becomes_state() -> None:
    @fb.jit
    def step(net: Net, x: Any) -> None:
        net.cache = net.mean = x
        net.trace = [x]

    net, x = Net(), jnp.ones(3)
    for _ in range(3):
        step(net, x)
    same(x, [1.0] * 3)
    same(net.trace[0], [1.0] * 3)


def test_a_value_that_is_written_to_two_cells_becomes_two_arrays() -> None:
    @fb.jit
    def step(net: Net, x: Any) -> None:
        net.mean = net.cache = x + net.mean

    net = Net()
    for calls in (1, 2, 3):
        step(net, jnp.ones(3))
        same(net.mean, [calls] * 3)
        same(net.cache, [calls] * 3)
        assert net.mean.unsafe_buffer_pointer() != net.cache.unsafe_buffer_pointer()
    net.mean, net.cache = net.cache, net.mean
    step(net, jnp.ones(3))
    same(net.cache, [4.0] * 3)


def test_without_donation_nothing_is_overwritten() -> None:
    step = fb.jit(lambda net: setattr(net, "weight", net.weight * 2), donate=False)
    net = Net()
    step(net)
    old = net.get_parameter("weight").peek()
    step(net)
    same(old, [4.0] * 3)
    same(net.weight, [8.0] * 3)
