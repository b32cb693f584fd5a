"""Layers that draw: what they draw has the distribution that it should have, compiled as eagerly, and only in training.

The functions' own tests say which values are dropped and how often (`functional/test_dropout.py`, `test_attention.py`,
`test_gumbel_softmax.py`). Here are moments, independence and whole distributions, and what holds for all such layers.
Bounds are five standard deviations of what they bound, or wider, and every test begins with the same seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import flambeau as fb
from flambeau import nn
from flambeau.nn import functional as F


def normal(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(shape).normal(size=shape))


class Attention(nn.Module):
    """`scaled_dot_product_attention`, of which the caller says whether it is training."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: jax.Array) -> jax.Array:
        return F.scaled_dot_product_attention(x, x, x, dropout_p=self.p if self.training else 0.0, is_causal=True)


class SelfAttention(nn.Module):
    """`MultiheadAttention`, which goes another way where its weights are not asked for."""

    def __init__(self, p: float, need_weights: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, p)
        self.need_weights = need_weights

    def forward(self, x: jax.Array) -> Any:
        return self.attention(x, x, x, need_weights=self.need_weights)


Make = Callable[[float], nn.Module]
# How much is random, 0 for nothing, makes a layer; and the shape of an input.
SWITCHED: dict[str, tuple[Make, tuple[int, ...]]] = {
    "Dropout": (nn.Dropout, (20, 30)),
    "Dropout1d": (nn.Dropout1d, (8, 9, 3)),
    "Dropout2d": (nn.Dropout2d, (8, 9, 2, 3)),
    "Dropout3d": (nn.Dropout3d, (8, 9, 2, 1, 3)),
    "AlphaDropout": (nn.AlphaDropout, (20, 30)),
    "FeatureAlphaDropout": (nn.FeatureAlphaDropout, (8, 9, 2, 3)),
    "RReLU": (lambda spread: nn.RReLU(0.4 - spread, 0.4 + spread), (20, 30)),
    "attention": (Attention, (2, 3, 6, 4)),
    "MultiheadAttention": (lambda p: SelfAttention(p, True), (5, 3, 6)),
    "MultiheadAttention without weights": (lambda p: SelfAttention(p, False), (5, 3, 6)),
    "RNN": (lambda p: nn.RNN(4, 3, 2, dropout=p), (6, 5, 4)),
    "LSTM": (lambda p: nn.LSTM(4, 3, 3, dropout=p, bidirectional=True), (6, 5, 4)),
    "GRU": (lambda p: nn.GRU(4, 3, 2, dropout=p), (6, 5, 4)),
}
# These draw in evaluation too.
ALWAYS: dict[str, tuple[Callable[[jax.Array], Any], tuple[int, ...]]] = {
    "FractionalMaxPool2d": (nn.FractionalMaxPool2d(2, output_ratio=0.7), (3, 4, 10, 9)),
    "FractionalMaxPool3d": (nn.FractionalMaxPool3d(2, (5, 4, 4)), (2, 3, 9, 8, 7)),
    "gumbel_softmax": (F.gumbel_softmax, (20, 5)),
}


P = 0.3


def assert_same(found: Any, expected: Any) -> None:
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


# -- all of them --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*SWITCHED, *ALWAYS])
def test_compiled_draws_are_those_of_eager_ones(name: str) -> None:
    """One seed, the same numbers in each call, no two of which are alike, and for whoever draws next."""
    call, shape = ALWAYS[name] if name in ALWAYS else (SWITCHED[name][0](P).double(), SWITCHED[name][1])
    x, runs = normal(*shape), []
    for each in (call, fb.jit(call)):
        fb.manual_seed(1)
        runs.append([each(x), each(x), F.dropout(jnp.ones(40)), F.dropout(jnp.ones(40))])
        first, second = (jax.tree.leaves(output)[0] for output in runs[-1][:2])
        assert (first != second).any()
    assert_same(*runs)


@pytest.mark.parametrize("name", SWITCHED)
def test_evaluation_draws_nothing(name: str) -> None:
    """It gives what training gives where nothing is random; of a dropout that is the input."""
    make, shape = SWITCHED[name]
    net, certain, x = make(P).double().eval(), make(0.0).double(), normal(*shape)
    certain.load_state_dict(net.state_dict())
    expected, before = certain(x), fb.default_generator.get_state()
    if "Dropout" in name:
        np.testing.assert_array_equal(expected, x)
    for call in (net, fb.jit(net)):
        assert_same(call(x), expected)
        np.testing.assert_array_equal(fb.default_generator.get_state(), before)


# -- what is dropped ----------------------------------------------------------------------------------------------------

# Each with what it adds to (200, 100), where one draw is for a whole channel.
DROPOUTS: dict[str, tuple[int, ...]] = {
    "Dropout": (),
    "Dropout1d": (3,),
    "Dropout2d": (2, 2),
    "Dropout3d": (2, 1, 2),
    "AlphaDropout": (),
    "FeatureAlphaDropout": (2, 2),
}


def channels(name: str, x: jax.Array, p: float) -> np.ndarray:
    """What a dropout makes of each channel `(N, C)`, whose values are equal and have to stay so."""
    spread = jnp.broadcast_to(x.reshape(*x.shape, *[1] * len(DROPOUTS[name])), (*x.shape, *DROPOUTS[name]))
    found = np.asarray(getattr(nn, name)(p)(spread)).reshape(*x.shape, -1)
    np.testing.assert_array_equal(found, np.broadcast_to(found[..., :1], found.shape))
    return found[..., 0]


@pytest.mark.parametrize("p", [0.1, 0.6])
@pytest.mark.parametrize("name", DROPOUTS)
def test_mean_and_variance(name: str, p: float) -> None:
    """A dropout keeps the mean, whatever it is; an alpha dropout mean 0 and variance 1."""
    mean, square = (0.0, 1.0) if "Alpha" in name else (0.7, (1 + 0.7**2) / (1 - p))
    found = channels(name, normal(200, 100) + mean, p)
    for moment, expected in ((found, mean), (found**2, square)):
        assert abs(moment.mean() - expected) < 5 * moment.std() / math.sqrt(moment.size)


def between_layers(p: float) -> jax.Array:
    """What the second layer of a recurrent network reads, where the first one gives ones."""
    net = nn.RNN(1, 8, 2, "relu", bias=False, dropout=p)
    weights = {"ih_l0": jnp.ones((8, 1)), "hh_l0": jnp.zeros((8, 8)), "ih_l1": jnp.eye(8), "hh_l1": jnp.zeros((8, 8))}
    net.load_state_dict({f"weight_{name}": value for name, value in weights.items()})
    return net(jnp.ones((50, 50, 1), jnp.float32))[0]


def attention_weights(p: float) -> jax.Array:
    """The weights of positions that are all alike, times their number."""
    alike = jnp.zeros((10, 5, 20, 3))
    values = jnp.broadcast_to(jnp.eye(20), (10, 5, 20, 20))
    return 20 * F.scaled_dot_product_attention(alike, alike, values, dropout_p=p)


def weights_of_heads(p: float) -> jax.Array:
    alike = jnp.zeros((20, 10, 10), jnp.float32)
    return 20 * nn.MultiheadAttention(10, 5, p)(alike, alike, alike, average_attn_weights=False)[1]


# How to make an array of 20,000 draws, each of which leaves the lowest value of all where something was dropped.
DRAWS: dict[str, Callable[[float], Any]] = {
    **{name: lambda p, name=name: channels(name, jnp.ones((200, 100)), p) for name in DROPOUTS},
    "between layers": between_layers,
    "attention": attention_weights,
    "MultiheadAttention": weights_of_heads,
}


@pytest.mark.parametrize("name", DRAWS)
def test_each_draw_is_its_own(name: str) -> None:
    """Neither a neighbour along any axis nor the next call says anything about a draw; what is kept is scaled alike."""
    found, another = (np.asarray(DRAWS[name](P)) for _ in range(2))
    dropped, later = (np.isclose(each, each.min(), atol=1e-6) for each in (found, another))
    assert found.size == 20_000
    assert abs(dropped.mean() - P) < 5 * math.sqrt(P * (1 - P) / dropped.size)
    if "Alpha" not in name:
        np.testing.assert_allclose(found, np.where(dropped, 0, 1 / (1 - P)), rtol=1e-5)
    neighbours = [(np.delete(dropped, 0, axis), np.delete(dropped, -1, axis)) for axis in range(dropped.ndim)]
    for one, other in [(dropped, later), *neighbours]:
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 5 / math.sqrt(one.size)


# -- what is chosen -----------------------------------------------------------------------------------------------------


def test_slopes_are_uniform() -> None:
    """Those of what is negative, by the greatest distance between the distributions; the rest stays."""
    x = jnp.linspace(-3, 3, 20_001)[:, None] * jnp.ones(2)
    found = np.asarray(nn.RReLU(0.2, 0.9)(x))
    np.testing.assert_array_equal(found[x >= 0], x[x >= 0])
    slopes = found[:10_000] / x[:10_000]
    assert slopes.min() >= 0.2 and slopes.max() <= 0.9
    distance: Any = stats.kstest(np.ravel(slopes), stats.uniform(0.2, 0.7).cdf).statistic
    # The chance of more is 2 · exp(-2 · 2.8²), as that of five standard deviations.
    assert distance < 2.8 / math.sqrt(slopes.size)
    for one, other in ((slopes[1:], slopes[:-1]), (slopes[:, 0], slopes[:, 1])):
        assert abs(np.corrcoef(np.ravel(one), np.ravel(other))[0, 1]) < 5 / math.sqrt(one.size)


@pytest.mark.parametrize("n", [2, 3])
def test_windows_cover_the_input_from_random_places(n: int) -> None:
    """They start at 0, end at the end, leave nothing out between, and lie as numbers from 0 to 1 in equal steps place them."""
    sizes, counts, kernel, planes = (13, 11, 8)[:n], (5, 4, 3)[:n], 3, 2000
    x = jnp.broadcast_to(jnp.arange(math.prod(sizes), dtype=jnp.float64).reshape(sizes), (40, 50, *sizes))

    def starts(samples: jax.Array | None = None) -> list[np.ndarray]:
        """For each dimension where its windows start: `(planes, count)`. The last entry is each window's greatest."""
        make = getattr(nn, f"FractionalMaxPool{n}d")
        indices = np.asarray(make(kernel, counts, return_indices=True, _random_samples=samples)(x)[1])
        ends = [each.reshape(planes, *counts) for each in np.unravel_index(indices, sizes)]
        return [np.moveaxis(each, i + 1, 1).reshape(planes, counts[i], -1)[..., 0] - 2 for i, each in enumerate(ends)]

    steps = jnp.broadcast_to((jnp.arange(planes) + 0.5).reshape(40, 50, 1) / planes, (40, 50, n))
    drawn = starts()
    for found, expected, size in zip(drawn, starts(steps), sizes):
        assert (found[:, 0] == 0).all() and (found[:, -1] == size - kernel).all()
        assert set(np.unique(np.diff(found))) == {2, 3}
        # Each start is one of two neighbouring places, so that the mean says it all; the steps are as fine as they are.
        assert (abs(found.mean(0) - expected.mean(0)) <= 5 * found.std(0) / math.sqrt(planes) + 5 / planes).all()
    second = [found[:, 1] for found in drawn]
    for one, other in [(second[0], second[1]), (second[0], second[-1]), *((each[1:], each[:-1]) for each in second)]:
        assert abs(np.corrcoef(one, other)[0, 1]) < 5 / math.sqrt(len(one))
