"""`MultiheadAttention`: what its parameters begin with, the order of batch and positions, dropout, compiled, and mistakes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flambeau as fb
from flambeau import nn
from flambeau._errors import DtypeError, ShapeError
from tests.nn.functional.parity import normal


@pytest.mark.parametrize("options", [{}, {"kdim": 30, "vdim": 20, "add_bias_kv": True}], ids=["packed", "separate"])
def test_initial_values(torch: Any, options: dict[str, Any]) -> None:
    """The same bounds or spread as torch's, and zeros where it has zeros."""
    fb.manual_seed(0)
    torch.manual_seed(0)
    ours, theirs = (library.MultiheadAttention(40, 4, **options).state_dict() for library in (nn, torch.nn))
    for name, expected in theirs.items():
        assert abs(ours[name].std() - expected.std().item()) <= expected.std().item() * 3 / np.sqrt(expected.numel())
        if name != "bias_k" and name != "bias_v":
            np.testing.assert_allclose(jnp.abs(ours[name]).max(), expected.abs().max().item(), rtol=0.02)


def test_batch_first_is_another_order() -> None:
    x, y = jnp.asarray(normal(3, 2, 4), jnp.float32), jnp.asarray(normal(5, 2, 4), jnp.float32)
    first, second = nn.MultiheadAttention(4, 2), nn.MultiheadAttention(4, 2, batch_first=True)
    second.load_state_dict(first.state_dict())
    for query, key, value in ((x, x, x), (x, y, y), (x, y, 2 * y)):
        swapped = {id(a): a.swapaxes(0, 1) for a in (query, key, value)}
        output, weights = first(query, key, value)
        found, same = second(*(swapped[id(a)] for a in (query, key, value)))
        np.testing.assert_allclose(found.swapaxes(0, 1), output, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(same, weights, rtol=1e-5, atol=1e-6)
    # Without a batch there is one order.
    np.testing.assert_allclose(first(x[:, 0], x[:, 0], x[:, 0])[0], second(x[:, 0], x[:, 0], x[:, 0])[0], rtol=1e-5)


def test_dropout_compiled_and_differentiated() -> None:
    """The same weights are dropped as eagerly, and the generator ends in the same state."""
    net, x = nn.MultiheadAttention(4, 2, dropout=0.5), jnp.asarray(normal(6, 2, 4), jnp.float32)

    def loss(net: Any, x: jax.Array) -> jax.Array:
        return jnp.square(net(x, x, x, need_weights=False)[0]).sum()

    fb.manual_seed(1)
    expected, grads = fb.value_and_grad(loss)(net, x)
    state = fb.default_generator.get_state()
    fb.manual_seed(1)
    found, compiled = fb.jit(fb.value_and_grad(loss))(net, x)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_array_equal(fb.default_generator.get_state(), state)
    assert compiled.keys() == {"in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"}
    for name, grad in grads.items():
        np.testing.assert_allclose(compiled[name], grad, rtol=1e-4, atol=1e-5)
    assert loss(net, x) != expected
    assert loss(net.eval(), x) == loss(net, x)


def test_what_is_wrong_is_said() -> None:
    for sizes in ((0, 1), (4, 0), (4, 3), (-4, 2)):
        with pytest.raises(ValueError, match="expected num_heads > 0 that divides embed_dim > 0"):
            nn.MultiheadAttention(*sizes)
    net, x = nn.MultiheadAttention(4, 2, batch_first=True), jnp.ones((2, 3, 4), jnp.float32)
    with pytest.raises(ShapeError, match=r"MultiheadAttention.*expected query \(\*, 4\), got float32\[3, 2, 5\]"):
        net(jnp.ones((2, 3, 5), jnp.float32), x, x)
    with pytest.raises(ShapeError, match=r"expected key \(N, S, E\), got float32\[3, 4\]"):
        net(x, x[0], x)
    with pytest.raises(DtypeError, match="expected weight of dtype float64 like input"):
        net(x.astype(jnp.float64), x, x)
