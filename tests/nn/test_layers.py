"""Every layer of the table: against torch, compiled, differentiated, mapped, in other dtypes, saved, printed and copied."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flambeau as fb
from flambeau import nn
from tests.layer_table import ROWS, Row

torch = pytest.importorskip("torch")

# What no row can show: the base class itself.
ABSTRACT = {"Module"}

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
        assert_close(value, torch.as_tensor(np.asarray(state[name])))


def floats(inputs: Any) -> list[int]:
    return [i for i, x in enumerate(inputs) if jnp.issubdtype(x.dtype, jnp.floating)]


def cotangent(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng([1, *shape]).normal(size=shape)


def their_gradients(row: Row, net: Any) -> tuple[Any, dict[str, Any], list[Any]]:
    """Output, gradients of the parameters by name, and of the floating inputs."""
    inputs = [torch.tensor(x, requires_grad=x.dtype == np.float64) for x in row.inputs]
    output = row.call(net, *inputs)
    results = [leaf for leaf in (output if isinstance(output, tuple) else (output,)) if leaf.is_floating_point()]
    names, parameters = zip(*named) if (named := [n for n in net.named_parameters() if n[1].requires_grad]) else ((), ())
    wanted = [*parameters, *(inputs[i] for i in floats(row.inputs))]
    loss = sum((leaf * torch.tensor(cotangent(leaf.shape))).sum() for leaf in results)
    found = torch.autograd.grad(loss, wanted, allow_unused=True) if wanted else []
    found = [torch.zeros_like(w) if g is None else g for g, w in zip(found, wanted)]
    return output, dict(zip(names, found)), found[len(names) :]


@fb.jit(static_argnums=0)
def our_gradients(row: Row, net: Any, inputs: list[Any]) -> tuple[Any, Any, list[Any]]:
    """The same, compiled."""
    places = floats(inputs)

    def loss(net: Any, given: list[Any]) -> Any:
        filled = list(inputs)
        for place, x in zip(places, given):
            filled[place] = x
        output = row.call(net, *filled)
        leaves = [leaf for leaf in jax.tree.leaves(output) if jnp.issubdtype(leaf.dtype, jnp.floating)]
        return sum(jnp.sum(leaf * cotangent(leaf.shape)) for leaf in leaves), output

    given = [inputs[i] for i in places]
    trainable = any(p.requires_grad for p in net.parameters())
    wanted = (0, 1) if trainable else (1,)
    (_, output), grads = fb.value_and_grad(loss, argnums=wanted, has_aux=True)(net, given)
    return output, grads[0] if trainable else {}, grads[-1]


@every_row
def test_parity_and_jit(row: Row) -> None:
    """Outputs, gradients and state afterwards: torch's, in training and evaluation, and the same when compiled."""
    theirs = randomised(row)
    net = twin_of(row, theirs)
    compiled = copy.deepcopy(net)
    inputs = [jnp.asarray(x) for x in row.inputs]
    for mode in (True, False):
        for each in (theirs, net, compiled):
            each.train(mode)
        fb.manual_seed(5)
        eager = row.call(net, *inputs)
        fb.manual_seed(5)
        output, grads, input_grads = our_gradients(row, compiled, inputs)
        assert_close(output, eager)
        assert_same_state(compiled, net)
        if row.random and mode:
            continue
        expected, expected_grads, expected_input_grads = their_gradients(row, theirs)
        assert_close(eager, expected)
        assert_same_state(net, theirs)
        assert grads.keys() == expected_grads.keys()
        for name, grad in grads.items():
            assert_close(grad, expected_grads[name])
        for mine, its in zip(input_grads, expected_input_grads, strict=True):
            assert_close(mine, its)
