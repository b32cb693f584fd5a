"""Mixed precision: which functions compute in what, and that a compiled function knows it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flambeau as fb
from flambeau import nn
from flambeau.nn import functional as F

HALF, SINGLE, DOUBLE = (jnp.dtype(dtype) for dtype in (jnp.bfloat16, jnp.float32, jnp.float64))
RANDOM = np.random.default_rng(0)


def single(*shape: int) -> jax.Array:
    return jnp.asarray(RANDOM.normal(size=shape), SINGLE)


X, Y, IMAGE, LABELS = single(4, 6), single(4, 6), single(2, 3, 4, 4), jnp.arange(4)
CHANCE = jnp.full((4, 6), 0.4, SINGLE)

# Torch's lists, each function called with float32 arrays, and with half-precision ones.
LOW: dict[str, Callable[[Any], Any]] = {
    "linear": lambda cast: F.linear(cast(X), Y),
    "conv1d": lambda cast: F.conv1d(cast(IMAGE[0]), single(2, 4, 2)),
    "conv2d": lambda cast: F.conv2d(cast(IMAGE), single(2, 3, 2, 2), single(2)),
    "conv3d": lambda cast: F.conv3d(cast(IMAGE), single(2, 2, 2, 2, 2)),
    "conv_transpose2d": lambda cast: F.conv_transpose2d(cast(IMAGE), single(3, 2, 2, 2)),
    "conv_tbc": lambda cast: F.conv_tbc(cast(IMAGE[0]), single(2, 4, 2), single(2)),
    "prelu": lambda cast: F.prelu(cast(X), single(6)),
    "scaled_dot_product_attention": lambda cast: F.scaled_dot_product_attention(cast(IMAGE), IMAGE, IMAGE),
    "RNN": lambda cast: nn.RNN(6, 3)(cast(X))[0],
    "LSTM": lambda cast: nn.LSTM(6, 3, 2, bidirectional=True)(cast(X))[0],
    "GRUCell": lambda cast: nn.GRUCell(6, 3)(cast(X)),
    "MultiheadAttention": lambda cast: nn.MultiheadAttention(6, 2)(cast(X), X, X, need_weights=False)[0],
}
WIDE: dict[str, Callable[[Any], Any]] = {
    "softmax": lambda cast: F.softmax(cast(X), -1),
    "log_softmax": lambda cast: F.log_softmax(cast(X), -1),
    "softmin": lambda cast: F.softmin(cast(X), -1),
    "gumbel_softmax": lambda cast: F.gumbel_softmax(cast(X)),
    "softplus": lambda cast: F.softplus(cast(X)),
    "layer_norm": lambda cast: F.layer_norm(cast(X), (6,), single(6), single(6)),
    "group_norm": lambda cast: F.group_norm(cast(X), 2, single(6)),
    "rms_norm": lambda cast: F.rms_norm(cast(X), (6,), single(6)),
    "normalize": lambda cast: F.normalize(cast(X)),
    "cosine_similarity": lambda cast: F.cosine_similarity(cast(X), Y),
    "pairwise_distance": lambda cast: F.pairwise_distance(cast(X), Y),
    "pdist": lambda cast: F.pdist(cast(X)),
    "interpolate": lambda cast: F.interpolate(cast(IMAGE), scale_factor=2),
    "cross_entropy": lambda cast: F.cross_entropy(cast(X), LABELS, weight=single(6)),
    "nll_loss": lambda cast: F.nll_loss(cast(X), LABELS),
    "linear_cross_entropy": lambda cast: F.linear_cross_entropy(cast(X), Y, LABELS - LABELS),
    "mse_loss": lambda cast: F.mse_loss(cast(X), Y),
    "l1_loss": lambda cast: F.l1_loss(cast(X), Y),
    "smooth_l1_loss": lambda cast: F.smooth_l1_loss(cast(X), Y),
    "huber_loss": lambda cast: F.huber_loss(cast(X), Y),
    "kl_div": lambda cast: F.kl_div(cast(X), CHANCE, reduction="sum"),
    "poisson_nll_loss": lambda cast: F.poisson_nll_loss(cast(X), CHANCE),
    "gaussian_nll_loss": lambda cast: F.gaussian_nll_loss(cast(X), Y, CHANCE),
    "binary_cross_entropy": lambda cast: F.binary_cross_entropy(cast(CHANCE), CHANCE),
    "binary_cross_entropy_with_logits": lambda cast: F.binary_cross_entropy_with_logits(cast(X), CHANCE),
    "multilabel_soft_margin_loss": lambda cast: F.multilabel_soft_margin_loss(cast(X), CHANCE),
    "multi_margin_loss": lambda cast: F.multi_margin_loss(cast(X), LABELS),
    "multilabel_margin_loss": lambda cast: F.multilabel_margin_loss(cast(X), jnp.zeros((4, 6), int)),
    "hinge_embedding_loss": lambda cast: F.hinge_embedding_loss(cast(X), jnp.ones((4, 6), int)),
    "margin_ranking_loss": lambda cast: F.margin_ranking_loss(cast(X), Y, jnp.ones((4, 6), int)),
    "soft_margin_loss": lambda cast: F.soft_margin_loss(cast(X), jnp.sign(Y)),
    "cosine_embedding_loss": lambda cast: F.cosine_embedding_loss(cast(X), Y, jnp.ones(4, int)),
    "triplet_margin_loss": lambda cast: F.triplet_margin_loss(cast(X), Y, 2 * Y),
    "bilinear": lambda cast: F.bilinear(cast(X), Y, single(2, 6, 6)),
    "grid_sample": lambda cast: F.grid_sample(cast(IMAGE), single(2, 3, 3, 2), align_corners=False),
    "TransformerEncoderLayer": lambda cast: nn.TransformerEncoderLayer(6, 2, 8)(cast(X)),
    "attention weights": lambda cast: nn.MultiheadAttention(6, 2)(cast(X), X, X)[1],
}
KEPT: dict[str, Callable[[Any], Any]] = {
    "relu": lambda cast: F.relu(cast(X)),
    "gelu": lambda cast: F.gelu(cast(X)),
    "max_pool2d": lambda cast: F.max_pool2d(cast(IMAGE), 2),
    "dropout": lambda cast: F.dropout(cast(X)),
    "BatchNorm1d": lambda cast: nn.BatchNorm1d(6)(cast(X)),
}


@pytest.mark.parametrize("name", [*LOW, *WIDE, *KEPT])
@pytest.mark.parametrize("dtype", [HALF, SINGLE], ids=str)
def test_dtypes(name: str, dtype: Any) -> None:
    run = {**LOW, **WIDE, **KEPT}[name]
    with fb.autocast(HALF):
        result = fb.jit(lambda: run(lambda array: array.astype(dtype)))()
    assert result.dtype == (HALF if name in LOW else SINGLE if name in WIDE else dtype)
    assert bool(jnp.isfinite(result).all())


def test_double_precision_and_integers_stay() -> None:
    with fb.autocast(HALF):
        assert F.linear(X.astype(DOUBLE), Y.astype(DOUBLE)).dtype == DOUBLE
        assert F.mse_loss(X.astype(DOUBLE), Y.astype(DOUBLE)).dtype == DOUBLE
        assert F.embedding(LABELS, X).dtype == SINGLE


def make() -> Any:
    fb.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 6))


def test_training_in_half_precision() -> None:
    """Parameters, gradients, statistics and optimizer state stay in float32; compiled is as eager, and near to float32."""

    def step(net: Any, optimizer: Any) -> Any:
        with fb.autocast(HALF):
            loss, grads = fb.value_and_grad(lambda net: F.cross_entropy(net(X), LABELS))(net)
        optimizer.step(grads)
        return loss, dict(grads)

    def run(wrap: Any) -> Any:
        net = make()
        optimizer = fb.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        results = [wrap(step)(net, optimizer) for _ in range(3)]
        return results, dict(net.state_dict())

    eager, compiled = run(lambda fun: fun), run(fb.jit)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(compiled)} == {"float32", "int64"}
    # XLA may keep more digits between two operations than eager execution, which rounds after each.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0.1, atol=0.02), eager, compiled)


def test_a_compiled_function_knows_whether_it_is_on() -> None:
    net = make()
    traces = []

    @fb.jit
    def call(net: Any, x: Any) -> Any:
        traces.append(1)
        return net(x)

    for _ in range(3):
        assert call(net, X).dtype == SINGLE
        with fb.autocast(HALF):
            assert call(net, X).dtype == HALF
        with fb.autocast(jnp.float16):
            assert call(net, X).dtype == jnp.float16
    assert len(traces) == 3


def test_a_compiled_function_knows_options_of_jax() -> None:
    call = fb.jit(lambda x, y: F.linear(x, y))
    texts = [call.lower(X, Y).as_text()]
    call(X, Y)
    with jax.default_matmul_precision("highest"):
        call(X, Y)
        texts.append(call.lower(X, Y).as_text())
    assert "HIGHEST" not in texts[0] and "HIGHEST" in texts[1]


def test_nesting_switching_off_and_exceptions() -> None:
    autocast = fb.autocast(HALF)
    with autocast, autocast:
        with fb.autocast(enabled=False):
            assert not fb.is_autocast_enabled() and F.linear(X, Y).dtype == SINGLE
        assert fb.get_autocast_dtype() == HALF
        with pytest.raises(ZeroDivisionError), fb.autocast("cuda", dtype=jnp.float16):
            assert F.linear(X, Y).dtype == jnp.float16
            raise ZeroDivisionError
        assert F.linear(X, Y).dtype == HALF
    assert not fb.is_autocast_enabled() and F.linear(X, Y).dtype == SINGLE


def test_as_a_decorator() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 2)

        @fb.autocast(HALF)
        def forward(self, x: Any) -> Any:
            return self.layer(x)

    net = Net()
    assert net(X).dtype == fb.jit(net)(X).dtype == HALF
    assert not fb.is_autocast_enabled()


def test_another_thread_has_its_own() -> None:
    seen = []
    with fb.autocast(HALF):
        thread = threading.Thread(target=lambda: seen.append(F.linear(X, Y).dtype))
        thread.start()
        thread.join()
    assert seen == [SINGLE]


def test_mistakes() -> None:
    with pytest.raises(fb.DtypeError, match="expected bfloat16 or float16, got float32"):
        fb.autocast(jnp.float32)
    with pytest.raises(TypeError, match="takes one dtype"):
        fb.autocast(jnp.bfloat16, jnp.float16)


@pytest.mark.parametrize("name", ["linear", "conv2d", "prelu", "mse_loss", "l1_loss", "layer_norm"])
def test_numbers_are_torchs(torch: Any, name: str) -> None:
    weight = {
        "linear": (2, 6),
        "conv2d": (2, 3, 2, 2),
        "prelu": (6,),
        "mse_loss": (4, 6),
        "l1_loss": (4, 6),
        "layer_norm": (6,),
    }
    first, second = np.asarray(IMAGE if name == "conv2d" else X), np.asarray(single(*weight[name]))

    def call(functional: Any, array: Any) -> Any:
        if name == "layer_norm":
            return functional.layer_norm(array(first), (6,), array(second))
        return getattr(functional, name)(array(first), array(second))

    with torch.autocast("cpu", torch.bfloat16):
        expected = call(torch.nn.functional, torch.tensor)
    with fb.autocast(HALF):
        got = call(F, jnp.asarray)
    assert str(got.dtype) == str(expected.dtype).removeprefix("torch.")
    np.testing.assert_allclose(got.astype(SINGLE), expected.float().numpy(), rtol=1e-2, atol=1e-2)
