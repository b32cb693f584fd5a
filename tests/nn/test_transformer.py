"""Transformers: causal hints, copies of layers, activations, what they begin with, custom parts, dropout and mistakes."""

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
from flambeau._errors import ShapeError
from flambeau.nn import functional as F
from flambeau.nn import transformer
from tests.nn.functional.parity import normal

X, MEMORY = jnp.asarray(normal(3, 2, 4), jnp.float32), jnp.asarray(normal(5, 2, 4), jnp.float32)
CAUSAL = nn.Transformer.generate_square_subsequent_mask(3)


def small(**options: Any) -> nn.Transformer:
    return nn.Transformer(4, 2, 1, 2, 6, **options)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "bool"])
def test_generate_square_subsequent_mask(torch: Any, dtype: str) -> None:
    found = nn.Transformer.generate_square_subsequent_mask(4, dtype=jnp.dtype(dtype))
    expected = torch.nn.Transformer.generate_square_subsequent_mask(4, dtype=getattr(torch, dtype))
    assert str(found.dtype) == dtype
    np.testing.assert_array_equal(found.astype(float), expected.double())


def test_causal_masks_are_recognised() -> None:
    """As torch recognises them: square, of all positions, and exactly these values."""
    recognised = transformer._is_causal
    assert recognised(CAUSAL, None, 3) and recognised(jnp.isneginf(CAUSAL), None, 3)
    assert not recognised(CAUSAL, None, 4) and not recognised(CAUSAL[None], None, 3)
    assert not recognised(CAUSAL + 1, None, 3) and not recognised(CAUSAL.T, None, 3) and not recognised(None, None, 3)
    assert not recognised(CAUSAL, False, 3) and recognised(CAUSAL.T, True, 3)
    # While tracing, values are not known.
    assert not jax.jit(lambda mask: jnp.array(recognised(mask, None, 3)))(CAUSAL)


def test_hints_change_no_number() -> None:
    net = nn.TransformerDecoder(nn.TransformerDecoderLayer(4, 2, 6), 1).eval()
    expected = net(X, MEMORY, CAUSAL, tgt_is_causal=False)
    mask = jnp.isneginf(CAUSAL)
    for found in (
        net(X, MEMORY, mask),
        net(X, MEMORY, mask, tgt_is_causal=True),
        fb.jit(lambda x, mask: net(x, MEMORY, mask))(X, mask),
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    # What comes later changes nothing before it.
    changed = net(X.at[2].add(1), MEMORY, CAUSAL)
    np.testing.assert_allclose(changed[:2], expected[:2], rtol=1e-5, atol=1e-5)
    with pytest.raises(RuntimeError, match="there is none"):
        net(X, MEMORY, tgt_is_causal=True)


def test_padding_is_not_looked_at() -> None:
    net = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 6, batch_first=True), 1).eval()
    x, padding = X.swapaxes(0, 1), jnp.array([[False, False, True], [False, True, True]])
    output = net(x, src_key_padding_mask=padding)
    other = net(jnp.where(padding[..., None], 7.0, x), src_key_padding_mask=padding)
    np.testing.assert_allclose(output[~padding], other[~padding], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(net(x[:1, :2])[0], output[0, :2], rtol=1e-4, atol=1e-5)


def test_layers_are_copies() -> None:
    """Equal at first, apart afterwards, and apart from the layer that they were made of."""
    layer = nn.TransformerEncoderLayer(4, 2, 6)
    net = nn.TransformerEncoder(layer, 2)
    states = [dict(each.state_dict()) for each in (layer, *net.layers)]
    for state in states[1:]:
        jax.tree.map(np.testing.assert_array_equal, state, states[0])
    layer.linear1.weight = layer.linear1.weight + 1
    first, second = net.layers
    first.linear1.weight = first.linear1.weight + 2
    weight = states[0]["linear1.weight"]
    np.testing.assert_array_equal(second.linear1.weight, weight)
    assert len({id(cell) for cell in [*layer.parameters(), *net.parameters()]}) == 3 * len(states[0])


@pytest.mark.parametrize("make", [nn.TransformerEncoderLayer, nn.TransformerDecoderLayer])
def test_activations(make: Any) -> None:
    given = (X,) if make is nn.TransformerEncoderLayer else (X, MEMORY)
    layers = [make(4, 2, 6, 0.0, activation) for activation in ("gelu", F.gelu, nn.GELU())]
    for layer in layers[1:]:
        layer.load_state_dict(layers[0].state_dict())
        np.testing.assert_array_equal(layer(*given), layers[0](*given))
    assert "GELU" in repr(layers[2]) and "gelu" not in repr(layers[0])
    for duplicate in (copy.deepcopy(layers[0]), pickle.loads(pickle.dumps(layers[0]))):
        assert duplicate.activation is F.gelu
    with pytest.raises(RuntimeError, match="expected activation 'relu', 'gelu' or a function, got 'tanh'"):
        make(4, 2, activation="tanh")


def test_activation_has_torchs_number(torch: Any) -> None:
    for function in ("relu", "gelu", "silu"):
        for choose in (
            lambda library, name=function: getattr(library.functional, name),
            lambda library: library.GELU(),
        ):
            ours, theirs = (n.TransformerEncoderLayer(4, 2, 6, 0.1, choose(n)) for n in (nn, torch.nn))
            assert ours.activation_relu_or_gelu == theirs.activation_relu_or_gelu


def test_all_matrices_begin_xavier_uniform() -> None:
    """The layers of a `Transformer` differ from one another; and its vectors begin as those of the layers do."""
    net = nn.Transformer(16, 2, 1, 2, 64)
    for name, value in net.state_dict().items():
        if value.ndim > 1:
            bound = np.sqrt(6 / sum(value.shape))
            assert 0.9 * bound < jnp.abs(value).max() <= bound, name
    first, second = net.decoder.layers
    assert (first.linear1.weight != second.linear1.weight).all()
    np.testing.assert_array_equal(first.linear1.bias, second.linear1.bias)
    assert (first.norm1.weight == 1).all() and not first.self_attn.out_proj.bias.any()


def test_custom_parts() -> None:
    class Twice(nn.Module):
        def forward(self, src: Any, **masks: Any) -> Any:
            assert masks == {"mask": None, "src_key_padding_mask": None, "is_causal": None}
            return 2 * src

    net = small(custom_encoder=Twice()).eval()
    np.testing.assert_allclose(net(X, MEMORY), net.decoder(MEMORY, 2 * X), rtol=1e-6)
    decoder = nn.Identity()
    assert small(custom_decoder=decoder).decoder is decoder


def test_training_compiled_is_training() -> None:
    """With dropout: loss, gradients and the generator afterwards are those of eager execution."""
    net = nn.TransformerEncoderLayer(4, 2, 6, 0.3)

    def loss(net: Any, x: jax.Array) -> jax.Array:
        return jnp.square(net(x) - 1).mean()

    fb.manual_seed(4)
    expected, grads = fb.value_and_grad(loss)(net, X)
    state = fb.default_generator.get_state()
    fb.manual_seed(4)
    found, compiled = fb.jit(fb.value_and_grad(loss))(net, X)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_array_equal(fb.default_generator.get_state(), state)
    for name, grad in grads.items():
        np.testing.assert_allclose(compiled[name], grad, rtol=1e-3, atol=1e-5)


def test_what_is_wrong_is_said() -> None:
    net, batch_first = small(), small(batch_first=True)
    for wrong, src, tgt in [
        (net, X, MEMORY[:, :1]),
        (net, X[..., :3], MEMORY),
        (net, X, MEMORY[..., :3]),
        (net, X, MEMORY[:, 0]),
        (net, X[0, 0], X[0, 0]),
        (batch_first, X, MEMORY),
    ]:
        with pytest.raises(ShapeError, match=r"Transformer.*: expected src \(., ., 4\) or \(S, 4\) and tgt"):
            wrong(src, tgt)
    with pytest.raises(ShapeError, match=r"encoder\.layers\.0\.self_attn .*expected attn_mask \(3, 3\)"):
        net(X, MEMORY, src_mask=CAUSAL[:2])
