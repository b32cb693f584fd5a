"""What an embedding does besides looking up: the padding row, tables that are given, and norms that are kept small."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import flambeau as fb
from flambeau import nn

INDICES = jnp.array([[1, 3, 1], [0, 2, 5]])


@pytest.mark.parametrize("padding_idx", [0, 2, -1, -6])
def test_padding_row(padding_idx: int) -> None:
    """It is zero, gets no gradient, and is counted from the front."""
    net = nn.Embedding(6, 3, padding_idx=padding_idx)
    row = padding_idx % 6
    assert net.padding_idx == row
    assert not net.weight[row].any()
    assert all(net.weight[i].any() for i in range(6) if i != row)
    gradient = fb.grad(lambda net: net(jnp.arange(6)).sum())(net)["weight"]
    np.testing.assert_array_equal(gradient.sum(1), [0 if i == row else 3 for i in range(6)])


def test_given_table() -> None:
    """A table that is given stays as it is, the padding row too, and is not learnt unless wanted."""
    table = jnp.arange(12.0, dtype=jnp.float32).reshape(4, 3)
    net = nn.Embedding.from_pretrained(table, padding_idx=1)
    np.testing.assert_array_equal(net.weight, table)
    assert (net.num_embeddings, net.embedding_dim, net.padding_idx) == (4, 3, 1)
    assert not net.get_parameter("weight").requires_grad
    assert nn.Embedding.from_pretrained(table, freeze=False).get_parameter("weight").requires_grad
    assert nn.Embedding.from_pretrained(np.ones((2, 2), np.float32)).weight.shape == (2, 2)


def test_a_given_table_is_copied() -> None:
    """So that freezing the layer does not freeze the module that the table came from."""
    other = nn.Embedding(4, 3)
    for table in (other.weight, other.get_parameter("weight")):
        net = nn.Embedding.from_pretrained(table)
        assert net.get_parameter("weight") is not other.get_parameter("weight")
        np.testing.assert_array_equal(net.weight, other.weight)
    assert other.get_parameter("weight").requires_grad


@pytest.mark.parametrize("compiled", [False, True])
def test_norms_are_brought_down_in_the_table(torch: Any, compiled: bool) -> None:
    """Only of the rows that are looked up, and for good."""
    theirs = torch.nn.Embedding(6, 3, max_norm=1.5, norm_type=2.0).double()
    ours = nn.Embedding(6, 3, max_norm=1.5).double()
    start = theirs.weight.detach().numpy().copy() * 2
    theirs.load_state_dict({"weight": torch.tensor(start)})
    ours.load_state_dict({"weight": start})
    parameter = ours.get_parameter("weight")
    call = fb.jit(lambda net, i: net(i)) if compiled else lambda net, i: net(i)
    for indices in (INDICES, jnp.array([4, 4])):
        output = call(ours, indices)
        expected = theirs(torch.tensor(np.asarray(indices))).detach().numpy()
        np.testing.assert_allclose(output, expected, rtol=1e-12)
        np.testing.assert_allclose(ours.weight, theirs.weight.detach().numpy(), rtol=1e-12)
    assert ours.get_parameter("weight") is parameter
    assert np.linalg.norm(ours.weight, axis=1).max() < 1.5 < np.linalg.norm(start, axis=1).max()
