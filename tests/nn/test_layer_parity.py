"""Every layer of the table against torch, eager and compiled: values, gradients, state, `repr`, names, state dicts."""

from __future__ import annotations

import copy
import inspect
import typing
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flambeau as fb
from flambeau import nn
from tests.layer_table import ROWS, Row

torch = pytest.importorskip("torch")

every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)


def randomised(row: Row) -> Any:
    """The torch twin in float64, with no parameter or statistic at its initial value, which hides much."""
    net = row.make(torch.nn).double()
    numbers = np.random.default_rng(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.tensor(0.3 * numbers.normal(size=parameter.shape)))
        for buffer in net.buffers():
            if buffer.is_floating_point():
                buffer.add_(torch.tensor(numbers.uniform(0.1, 0.5, buffer.shape)))
    return net


def twin_of(row: Row, theirs: Any) -> Any:
    ours = row.make(nn).double()
    ours.load_state_dict({name: value.numpy() for name, value in theirs.state_dict().items()})
    return ours


def numbers_of(output: Any) -> list[np.ndarray]:
    leaves = output if isinstance(output, tuple) else (output,)
    return [leaf.detach().numpy() if isinstance(leaf, torch.Tensor) else np.asarray(leaf) for leaf in leaves]


def assert_close(ours: Any, theirs: Any, tolerance: float = 1e-9) -> None:
    mine, its = numbers_of(ours), numbers_of(theirs)
    for a, b in zip(mine, its, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def assert_same_state(ours: Any, theirs: Any) -> None:
    state = theirs.state_dict()
    assert list(ours.state_dict()) == list(state)
    for name, value in ours.state_dict().items():
        assert_close(value, np.asarray(state[name]))


def differentiated(row: Row) -> list[int]:
    return [i for i, x in enumerate(row.inputs) if x.dtype == np.float64 and i not in row.fixed]


def cotangent(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng([1, *shape]).normal(size=shape)


def their_gradients(row: Row, net: Any) -> tuple[Any, dict[str, Any], list[Any]]:
    """Output, gradients of the parameters by name, and of the floating inputs."""
    places = differentiated(row)
    inputs = [torch.tensor(x, requires_grad=i in places) for i, x in enumerate(row.inputs)]
    output = row.call(net, *inputs)
    results = [leaf for leaf in (output if isinstance(output, tuple) else (output,)) if leaf.is_floating_point()]
    parameters = {name: parameter for name, parameter in net.named_parameters() if parameter.requires_grad}
    wanted = [*parameters.values(), *(inputs[i] for i in places)]
    if not wanted:
        return output, {}, []
    loss = sum((leaf * torch.tensor(cotangent(leaf.shape))).sum() for leaf in results)
    found = torch.autograd.grad(loss, wanted, allow_unused=True)
    found = [torch.zeros_like(w) if g is None else g for g, w in zip(found, wanted)]
    return output, dict(zip(parameters, found)), found[len(parameters) :]


@fb.jit(static_argnums=0)
def our_gradients(row: Row, net: Any, inputs: list[Any]) -> tuple[Any, Any, list[Any]]:
    """The same, compiled."""
    places = differentiated(row)

    def loss(net: Any, given: list[Any]) -> Any:
        filled = list(inputs)
        for place, x in zip(places, given):
            filled[place] = x
        output = row.call(net, *filled)
        leaves = [leaf for leaf in jax.tree.leaves(output) if jnp.issubdtype(leaf.dtype, jnp.floating)]
        return sum(jnp.sum(leaf * cotangent(leaf.shape)) for leaf in leaves), output

    trainable = any(parameter.requires_grad for parameter in net.parameters())
    wanted = (0, 1) if trainable else (1,)
    (_, output), grads = fb.value_and_grad(loss, argnums=wanted, has_aux=True)(net, [inputs[i] for i in places])
    return output, grads[0] if trainable else {}, grads[-1]


@every_row
def test_parity_and_jit(row: Row) -> None:
    """Outputs, gradients and state afterwards: torch's, and the same when compiled."""
    theirs = randomised(row)
    ours = twin_of(row, theirs)
    compiled = copy.deepcopy(ours)
    inputs = [jnp.asarray(x) for x in row.inputs]
    for mode in (True, False):
        for each in (theirs, ours, compiled):
            each.train(mode)
        fb.manual_seed(5)
        eager = row.call(ours, *inputs)
        grads = None
        if mode or changes_in_evaluation(row):
            fb.manual_seed(5)
            output, *grads = our_gradients(row, compiled, inputs)
            assert_close(output, eager)
            assert_same_state(compiled, ours)
        if not (row.random and mode):
            expected, *their_grads = their_gradients(row, theirs)
            assert_close(eager, expected, row.tolerance)
            assert_same_state(ours, theirs)
            if grads is not None:
                compare_gradients(row, grads, their_grads)


def compare_gradients(row: Row, ours: list[Any], theirs: list[Any]) -> None:
    assert ours[0].keys() == theirs[0].keys()
    for name, grad in ours[0].items():
        assert_close(grad, theirs[0][name], row.tolerance)
    for mine, its in zip(ours[1], theirs[1], strict=True):
        assert_close(mine, its, row.tolerance)


def changes_in_evaluation(row: Row) -> bool:
    """Whether the layer does something else there, so that its derivative is another."""
    return row.random or "running_mean" in dict(row.make(nn).named_buffers())


@every_row
def test_state_dict_is_torchs(row: Row) -> None:
    """The same names in the same order, of the same shapes and dtypes; what torch saves is loaded, and back again."""
    theirs, ours = randomised(row).float(), row.make(nn)
    state = {name: value.numpy() for name, value in theirs.state_dict().items()}
    assert {name: (value.shape, value.dtype) for name, value in ours.state_dict().items()} == {
        name: (value.shape, value.dtype) for name, value in state.items()
    }
    ours.load_state_dict(state)
    theirs.load_state_dict({name: torch.tensor(np.asarray(value)) for name, value in ours.state_dict().items()})
    assert_same_state(ours, theirs)


@every_row
def test_repr_is_torchs(row: Row) -> None:
    # The two parameter containers name torch's types of tensors.
    expected = repr(row.make(torch.nn)).replace("torch.FloatTensor", "float32").replace("torch.float32", "float32")
    assert repr(row.make(nn)) == expected


@pytest.mark.parametrize("name", sorted({row.name for row in ROWS}))
def test_constructor_is_torchs(name: str) -> None:
    """The same arguments in the same order with the same defaults."""

    def arguments(cls: Any) -> list[tuple[str, Any, Any]]:
        # Where torch takes anything, what it says that it takes stands in its first overload.
        function = [*typing.get_overloads(cls.__init__), cls.__init__][0]
        parameters = inspect.signature(function).parameters.values()
        # A function that is a default is its library's own.
        return [(p.name, p.kind, getattr(p.default, "__name__", p.default)) for p in parameters]

    assert arguments(getattr(nn, name)) == arguments(getattr(torch.nn, name))


@every_row
def test_attributes_are_torchs(row: Row) -> None:
    """What a layer keeps of its arguments has torch's names and values."""
    theirs, ours = row.make(torch.nn), row.make(nn)
    missing = {}
    for name, value in vars(theirs).items():
        if not name.startswith("_") and not callable(value):
            mine = getattr(ours, name, None)
            if mine != value or isinstance(mine, tuple) != isinstance(value, tuple):
                missing[name] = (mine, value)
    assert not missing
