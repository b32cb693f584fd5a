"""The cross entropy of a linear layer, whole and in chunks: parity with torch, precision, memory, and mistakes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flambeau import nn
from flambeau._errors import FlambeauWarning, ShapeError
from flambeau.nn import functional as F
from tests.nn.functional.parity import compare, each_reduction, normal

LABELS = np.array([0, 4, 2, 1, 2, 3, 0])
CHUNKS = nn.LinearCrossEntropyOptions(batch_chunk_size=3)


@pytest.mark.parametrize("out", [(), (2,), (2, 3)])
@pytest.mark.parametrize("biased", [False, True])
def test_linear_cross_entropy(torch: Any, out: tuple[int, ...], biased: bool) -> None:
    target = np.random.default_rng(0).integers(0, 5, (7, *out))
    options: dict[str, Any] = {"linear_bias": normal(5, *out, seed=3)} if biased else {}
    ours = each_reduction(F.linear_cross_entropy, jnp.concatenate)
    theirs = each_reduction(torch.nn.functional.linear_cross_entropy, torch.cat)
    given = normal(7, 4), normal(5, *out, 4, seed=1), target
    compare(torch, ours, theirs, *given, ignore_index=2, label_smoothing=0.1, **options)


@pytest.mark.parametrize("size", [1, 3, 7, 20, None])
def test_chunks_change_nothing(torch: Any, size: int | None) -> None:
    weight = np.abs(normal(5))

    def ours(x: jax.Array, w: jax.Array, b: jax.Array) -> jax.Array:
        chosen = nn.LinearCrossEntropyOptions(batch_chunk_size=size)
        function = each_reduction(F.linear_cross_entropy, jnp.concatenate)
        shared = {"linear_bias": b, "weight": jnp.asarray(weight), "ignore_index": 2, "options": chosen}
        return function(x, w, jnp.asarray(LABELS), **shared)

    def theirs(x: Any, w: Any, b: Any) -> Any:
        function = each_reduction(torch.nn.functional.linear_cross_entropy, torch.cat)
        return function(x, w, torch.tensor(LABELS), linear_bias=b, weight=torch.tensor(weight), ignore_index=2)

    compare(torch, ours, theirs, normal(7, 4), normal(5, 4, seed=1), normal(5, seed=2), second=size == 3)


@pytest.mark.parametrize("policy", ["auto", "accurate", "balanced", "compact"])
def test_half_precision(policy: Any) -> None:
    """Chunks in bfloat16 are as near to the exact loss and gradient as the whole is."""
    x, w = jnp.asarray(normal(64, 16), jnp.bfloat16), jnp.asarray(normal(32, 16, seed=1), jnp.bfloat16)
    y = jnp.arange(64) % 32

    def both(x: jax.Array, w: jax.Array, options: Any) -> tuple[jax.Array, jax.Array]:
        return jax.value_and_grad(lambda w: F.linear_cross_entropy(x, w, y, options=options))(w)

    loss, gradient = both(x, w, nn.LinearCrossEntropyOptions(batch_chunk_size=16, acc_policy=policy))
    exact_loss, exact = both(x.astype(jnp.float64), w.astype(jnp.float64), None)
    assert (loss.dtype, gradient.dtype) == (jnp.bfloat16, jnp.bfloat16)
    np.testing.assert_allclose(np.float64(loss), exact_loss, rtol=4e-3)
    np.testing.assert_allclose(gradient.astype(jnp.float64), exact, atol=2e-2 * float(jnp.abs(exact).max()))


def test_chunks_never_hold_all_scores() -> None:
    def loss(x: jax.Array, w: jax.Array) -> jax.Array:
        options = nn.LinearCrossEntropyOptions(batch_chunk_size=8)
        return F.linear_cross_entropy(x, w, jnp.zeros(256, int), options=options)

    shapes = jax.ShapeDtypeStruct((256, 4), "float32"), jax.ShapeDtypeStruct((4096, 4), "float32")
    memory = jax.jit(jax.grad(loss, (0, 1))).lower(*shapes).compile().memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < 256 * 4096 * 4 / 2


def test_a_vector(torch: Any) -> None:
    for options in (None, CHUNKS):
        given = normal(4), normal(5, 4, seed=1)

        def ours(x: jax.Array, w: jax.Array, options: Any = options) -> jax.Array:
            return F.linear_cross_entropy(x, w, jnp.array(3), reduction="none", options=options)

        def theirs(x: Any, w: Any) -> Any:
            return torch.nn.functional.linear_cross_entropy(x, w, torch.tensor(3), reduction="none")

        compare(torch, ours, theirs, *given)


def test_options_that_are_not_used() -> None:
    x, w, y = jnp.asarray(normal(7, 4)), jnp.asarray(normal(5, 4)), jnp.asarray(LABELS)
    with pytest.warns(FlambeauWarning, match="options are not used"):
        found = F.linear_cross_entropy(x, w, y, label_smoothing=0.1, options=CHUNKS)
    np.testing.assert_allclose(found, F.linear_cross_entropy(x, w, y, label_smoothing=0.1))


def test_rows_are_torchs(torch: Any) -> None:
    for method in ("aspect_ratio", "aspect_ratio:3", "aspect_ratio:2", None):
        for size in [5, None] if method is None else [None]:
            for numbers in [(1000, 512, 50_000), (7, 9, 5), (64, 3, 5), (1, 1, 1)]:
                theirs = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=size, chunking_method=method)
                expected = theirs._adjust(*numbers, torch.float32).batch_chunk_size
                assert nn.LinearCrossEntropyOptions(False, size, method).rows(*numbers) == expected


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_chunk_size": 0},
        {"batch_chunk_size": 2.0},
        {"chunking_method": "half"},
        {"chunking_method": "aspect_ratio:0"},
        {"acc_policy": "exact"},
        {"acc_dtype": int},
    ],
)
def test_mistakes_of_options(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"expected {next(iter(settings))}"):
        nn.LinearCrossEntropyOptions(**settings)


def test_sizes_that_do_not_agree() -> None:
    with pytest.raises(ValueError, match="expected batch_chunk_size 16 with 'aspect_ratio' or none, got 3"):
        nn.LinearCrossEntropyOptions(batch_chunk_size=3, chunking_method="aspect_ratio").rows(1000, 512, 50_000)


X, W = jnp.zeros((7, 4)), jnp.zeros((5, 4))


@pytest.mark.parametrize(
    ("x", "w", "options", "error", "message"),
    [
        (X, jnp.zeros(4), {}, ShapeError, r"expected linear_weight \(C, \*, in\)"),
        (X[:, :3], W, {}, ShapeError, r"expected input \(N, 4\) or \(4,\), got float64\[7, 3\]"),
        (X[0], W[:, None], {}, ShapeError, r"expected input \(N, 4\) for several scores"),
        (X, W, {"linear_bias": jnp.zeros(4)}, ShapeError, r"expected linear_bias \(5,\)"),
        (X, W, {"target": jnp.zeros((7, 5)), "ignore_index": 1}, RuntimeError, "expected no ignore_index"),
        (X, W, {"target": jnp.full(7, 5), "options": CHUNKS}, IndexError, "expected classes"),
        (X, W, {"target": jnp.zeros(6, int), "options": CHUNKS}, ShapeError, "expected target"),
        (X, W, {"reduction": "all"}, ValueError, "expected reduction"),
    ],
)
def test_mistakes(x: Any, w: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        F.linear_cross_entropy(x, w, **{"target": jnp.asarray(LABELS), **options})
