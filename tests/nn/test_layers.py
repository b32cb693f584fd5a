"""Every layer of the table, without torch: mapped, in other dtypes, by default, saved and copied."""

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
from tests.layer_table import ROWS, Row

every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)


def is_floating(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


def values_of(net: Any) -> dict[str, Any]:
    return {name: cell.data for name, cell in [*net.named_parameters(), *net.named_buffers()]}


def assert_same_values(ours: Any, other: Any, tolerance: float = 0.0) -> None:
    mine, its = jax.tree.leaves(ours), jax.tree.leaves(other)
    for a, b in zip(mine, its, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def test_every_layer_has_a_row() -> None:
    public = {name: getattr(nn, name) for name in nn.__all__}
    layers = {name for name, value in public.items() if isinstance(value, type) and issubclass(value, nn.Module)}
    # The base class does nothing that a row could show; lazy layers are ordinary ones after a call: see test_lazy.py.
    lazy = {name for name in layers if name.startswith("Lazy")}
    assert layers - lazy - {row.name for row in ROWS} == {"Module"}


def test_rows_are_told_apart() -> None:
    assert len({row.id for row in ROWS}) == len(ROWS)


class Called(nn.Module):
    """A module whose `forward` does what the row does with its layer."""

    def __init__(self, row: Row, net: Any) -> None:
        super().__init__()
        self.row = row
        self.net = net

    def forward(self, *inputs: Any) -> Any:
        return self.row.call(self.net, *inputs)


@every_row
def test_vmap_of_the_pure_form(row: Row) -> None:
    """`jax.vmap` over `functional_call` gives what one call after the other gives."""
    net = Called(row, row.make(nn).double().eval())
    values = values_of(net)
    lanes = [jnp.stack([jnp.asarray(x), jnp.asarray(x[..., ::-1])]) for x in row.inputs]

    def pure(*inputs: Any) -> Any:
        return fb.functional_call(net, values, inputs, return_state=True)[0]

    @jax.jit
    def both(*lanes: Any) -> Any:
        one_by_one = [pure(*(x[lane] for x in lanes)) for lane in (0, 1)]
        return jax.vmap(pure)(*lanes), jax.tree.map(lambda *leaves: jnp.stack(leaves), *one_by_one)

    mapped, stacked = both(*lanes)
    assert_same_values(mapped, stacked, 1e-9)


@every_row
def test_scan_and_checkpoint(row: Row) -> None:
    """Two calls in a row, in training: plain, scanned, and through checkpoint; results, gradients and state agree."""
    nets = [Called(row, row.make(nn).double()) for _ in range(3)]
    for net in nets[1:]:
        net.load_state_dict(nets[0].state_dict())
    wanted = [i for i, x in enumerate(row.inputs) if is_floating(x)]
    trainable = any(parameter.requires_grad for parameter in nets[0].parameters())

    def loss(net: Any, given: list[Any], inputs: list[Any], transform: Any) -> Any:
        for place, x in zip(wanted, given):
            inputs[place] = x
        output = transform(net)(*inputs)
        leaves = [leaf for leaf in jax.tree.leaves(output) if is_floating(leaf)]
        return sum((jnp.sum(leaf**2) for leaf in leaves), jnp.zeros(())), output

    def twice(net: Any, lanes: list[Any], transform: Any) -> Any:
        fb.manual_seed(5)
        grad = fb.grad(loss, argnums=(0, 1) if trainable else (1,), has_aux=True)
        first, second = ([x[lane] for x in lanes] for lane in (0, 1))
        grads, output = grad(net, [first[i] for i in wanted], first, transform)
        return grads, [output, transform(net)(*second)], fb.get_rng_state()

    @fb.jit
    def every_way(nets: list[Any], lanes: list[Any]) -> Any:
        plain = twice(nets[0], lanes, lambda net: net)
        again = twice(nets[1], lanes, fb.checkpoint)
        fb.manual_seed(5)
        _, outputs = fb.scan(lambda count, inputs: (count + 1, nets[2](*inputs)), 0, lanes)
        one_by_one = jax.tree.map(lambda *leaves: jnp.stack(leaves), *plain[1])
        return plain, again, (one_by_one, plain[2]), (outputs, fb.get_rng_state())

    lanes = [jnp.stack([jnp.asarray(x), jnp.asarray(x[..., ::-1])]) for x in row.inputs]
    plain, again, one_by_one, scanned = every_way(nets, lanes)
    assert_same_values(again, plain, 1e-9)
    assert_same_values(scanned, one_by_one, 1e-9)
    for net in nets[1:]:
        assert_same_values(dict(net.state_dict()), dict(nets[0].state_dict()), 1e-9)


@every_row
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dtypes(row: Row, dtype: str) -> None:
    """What a layer returns has the dtype of its parameters and inputs, and what it writes keeps it."""
    net = Called(row, row.make(nn).to(dtype)).train(not row.random)
    values = values_of(net)
    inputs = [jax.ShapeDtypeStruct(x.shape, dtype if is_floating(x) else x.dtype) for x in row.inputs]

    def pure(values: Any, *inputs: Any) -> Any:
        return fb.functional_call(net, values, inputs, return_state=True)

    output, state = jax.eval_shape(pure, values, *inputs)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(output) if is_floating(leaf)} == {dtype}
    assert {name: leaf.dtype for name, leaf in state.items()} == {name: leaf.dtype for name, leaf in values.items()}


@every_row
def test_parameters_are_float32(row: Row) -> None:
    """Also while 64-bit types are on, as they are in these tests."""
    for name, value in row.make(nn).state_dict().items():
        assert value.dtype == (jnp.int64 if name.endswith("num_batches_tracked") else jnp.float32)


@every_row
def test_same_seed_same_layer(row: Row) -> None:
    first, second = (row.make(nn) for _ in range(2) if fb.manual_seed(3))
    assert_same_values(dict(first.state_dict()), dict(second.state_dict()))


@every_row
@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["copy", "pickle"]
)
def test_copies(row: Row, duplicate: Any) -> None:
    """A copy is the same and has cells of its own."""
    net = row.make(nn).eval()
    twin = duplicate(net)
    assert repr(twin) == repr(net)
    assert [module.training for module in twin.modules()] == [module.training for module in net.modules()]
    before = dict(net.state_dict())
    assert_same_values(dict(twin.state_dict()), before)
    for cell in [*twin.parameters(), *twin.buffers()]:
        cell.data = cell.data + 1
    assert_same_values(dict(net.state_dict()), before)
