"""Attention: parity with torch for masks, shared heads and projections; dropout; which calls a fused kernel may take; errors."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flambeau as fb
from flambeau._errors import DtypeError, ShapeError
from flambeau.nn import functional as F
from flambeau.nn.functional import attention
from tests.nn.functional.parity import compare, normal

MASK = np.array([[True, False, True, True], [False] * 4, [False, False, False, True]])
FLOATING = np.where(MASK, normal(3, 4), -np.inf)
# Query, key, value, and the options.
CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "vectors": ((3, 2), (4, 2), (4, 5), {}),
    "batch": ((2, 3, 2), (2, 4, 2), (2, 4, 2), {"scale": 0.3}),
    "broadcast": ((2, 3, 2), (2, 1, 4, 2), (1, 1, 4, 2), {}),
    "causal": ((1, 2, 3, 2), (1, 2, 4, 2), (1, 2, 4, 2), {"is_causal": True}),
    "mask": ((1, 2, 3, 2), (1, 2, 4, 2), (1, 2, 4, 2), {"attn_mask": MASK}),
    "mask and causal": ((1, 2, 3, 2), (1, 2, 4, 2), (1, 2, 4, 2), {"attn_mask": MASK, "is_causal": True}),
    "mask of keys": ((2, 2, 3, 2), (2, 2, 4, 2), (2, 2, 4, 2), {"attn_mask": MASK[:2, None, None]}),
    "floating mask": ((1, 2, 3, 2), (1, 2, 4, 2), (1, 2, 4, 2), {"attn_mask": FLOATING}),
    "shared heads": ((2, 4, 3, 2), (2, 2, 4, 2), (2, 2, 4, 3), {"enable_gqa": True}),
    "one head for all": ((3, 3, 2), (1, 4, 2), (1, 4, 2), {"enable_gqa": True, "attn_mask": MASK, "scale": 2.0}),
    "no keys": ((2, 3, 2), (2, 0, 2), (2, 0, 2), {}),
}


@pytest.mark.parametrize("case", CASES)
def test_scaled_dot_product_attention(torch: Any, case: str) -> None:
    """A query that meets no key gets zeros, and gradients of zero."""
    *shapes, options = CASES[case]
    arrays = [normal(*shape, seed=i) for i, shape in enumerate(shapes)]
    theirs = torch.nn.functional.scaled_dot_product_attention
    compare(torch, F.scaled_dot_product_attention, theirs, *arrays, **options)


@settings(max_examples=4)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.booleans())
def test_shared_heads_are_repeated_heads(shared: int, group: int, queries: int, keys: int, causal: bool) -> None:
    query, key = jnp.asarray(normal(2, shared * group, queries, 2)), jnp.asarray(normal(2, shared, keys, 2))
    found = F.scaled_dot_product_attention(query, key, key, is_causal=causal, enable_gqa=True)
    repeated = jnp.repeat(key, group, axis=1)
    expected = F.scaled_dot_product_attention(query, repeated, repeated, is_causal=causal)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_precision(dtype: Any) -> None:
    """Scores of half-precision arrays are float32; large ones do not overflow."""
    q, k, v = (jnp.asarray(normal(2, 4, 8, seed=i), dtype) * 16 for i in range(3))
    found = F.scaled_dot_product_attention(q, k, v, scale=8.0)
    q, k, v = (x.astype(jnp.float64) for x in (q, k, v))
    expected = F.scaled_dot_product_attention(q, k, v, scale=8.0)
    assert found.dtype == dtype
    np.testing.assert_allclose(found.astype(jnp.float64), expected, rtol=8 * float(jnp.finfo(dtype).eps), atol=1e-2)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("heads", [4, 2, 1])
def test_kernel_computes_the_formula(heads: int, causal: bool) -> None:
    """What the fused kernel is asked for, of an implementation that runs everywhere."""
    query, key, value = (jnp.asarray(normal(2, n, 8, 16, seed=n), jnp.float32) for n in (4, heads, heads))
    found = attention._by_kernel(query, key, value, causal, 0.7, "xla")
    expected = F.scaled_dot_product_attention(query, key, value, is_causal=causal, scale=0.7, enable_gqa=True)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_when_the_kernel_may_be_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is a GPU; and a program for another platform still uses the formula."""
    asked = []

    def kernel(query: jax.Array, *_: Any, **options: Any) -> jax.Array:
        asked.append(options)
        return jnp.zeros_like(query)

    def taken(*arrays: jax.Array, **options: Any) -> bool:
        asked.clear()
        assert fb.jit(partial(F.scaled_dot_product_attention, **options))(*arrays).any()
        return bool(asked)

    x = jnp.asarray(normal(2, 4, 6, 16), jnp.bfloat16)
    assert attention._has_cudnn() == (jax.default_backend() == "gpu")
    monkeypatch.setattr(attention, "_by_kernel", kernel)
    monkeypatch.setattr(attention, "_has_cudnn", lambda: True)
    assert taken(x, x, x, scale=0.5)
    assert asked[0] == {"is_causal": False, "scale": 0.5, "implementation": "cudnn"}
    assert taken(x, x, x, is_causal=True)
    assert taken(x, x[:, :2], x[:, :2], enable_gqa=True)
    assert taken(x, x[:, :, :3], x[:, :, :3])
    assert not taken(x, x, x, attn_mask=jnp.ones((6, 6), bool))
    assert not taken(x, x, x, dropout_p=0.1)
    assert not taken(x, x[:, :, :3], x[:, :, :3], is_causal=True)
    assert not taken(x, x, x[..., :8])
    assert not taken(x[0], x[0], x[0])
    for other in (x.astype(jnp.float32), x[..., :9], jnp.concatenate([x] * 9, axis=-1)):
        assert not taken(other, other, other)


def test_dropout_of_weights() -> None:
    """Each weight is zero or scaled up; the default generator moves on, compiled as it does eagerly."""
    x = jnp.asarray(normal(30, 40, 4))

    def attend(x: jax.Array, p: float) -> jax.Array:
        return F.scaled_dot_product_attention(x, x, jnp.broadcast_to(jnp.eye(40), (30, 40, 40)), dropout_p=p)

    weights = attend(x, 0.0)
    fb.manual_seed(3)
    found = attend(x, 0.25)
    dropped = found == 0
    np.testing.assert_allclose(found[~dropped], (weights / 0.75)[~dropped], rtol=1e-12)
    assert abs(dropped.mean() - 0.25) < 5 * math.sqrt(0.25 * 0.75 / found.size)
    assert not attend(x, 1.0).any()
    after = fb.default_generator.get_state()
    fb.manual_seed(3)
    np.testing.assert_allclose(fb.jit(lambda x: attend(x, 0.25))(x), found, rtol=1e-12)
    np.testing.assert_array_equal(fb.default_generator.get_state(), after)


def test_errors_of_scaled_dot_product_attention() -> None:
    x, mask = jnp.ones((2, 4, 3, 8)), jnp.ones((3, 3), bool)
    for arrays, options, error, message in [
        ((x, x.astype(jnp.float32), x), {}, DtypeError, "expected key of dtype float64"),
        ((x.astype(int),) * 3, {}, DtypeError, "expected floating dtypes"),
        ((x[0, 0, 0],) * 3, {}, ShapeError, "at least 2 dimensions"),
        ((x[0, 0],) * 3, {"enable_gqa": True}, ShapeError, "at least 3 dimensions"),
        ((x, x[..., :4], x), {}, ShapeError, r"query \(\*, L, E\), key \(\*, S, E\)"),
        ((x, x, x[:, :, :2]), {}, ShapeError, r"query \(\*, L, E\), key \(\*, S, E\)"),
        ((x, x[:, :2], x[:, :2]), {}, ShapeError, "first dimensions that broadcast"),
        ((x, x[:, :3], x[:, :3]), {"enable_gqa": True}, ShapeError, "a multiple of them"),
        ((x, x[:, :2], x[:, :1]), {"enable_gqa": True}, ShapeError, "as many heads"),
        ((x, x, x, mask.astype(int)), {}, DtypeError, "dtype bool, float32 or float64, got int64"),
        ((x, x, x, mask[:2]), {}, ShapeError, r"broadcasts to \(2, 4, 3, 3\), got bool\[2, 3\]"),
        ((x, x, x, jnp.ones((5, 1, 1, 3, 3), bool)), {}, ShapeError, r"broadcasts to \(2, 4, 3, 3\)"),
        ((x, x, x), {"dropout_p": 1.5}, ValueError, "between 0 and 1"),
    ]:
        with pytest.raises(error, match=message):
            F.scaled_dot_product_attention(*arrays, **options)


# -- several heads ------------------------------------------------------------------------------------------------------

PADDING = np.array([[False, True, False, True], [False] * 4])
APART = ~np.tri(3, 4, dtype=bool)
BIASES = {"bias_k": normal(1, 1, 6, seed=7), "bias_v": normal(1, 1, 6, seed=8)}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "unnamed": {"need_weights": False},
    "weights of heads": {"average_attn_weights": False},
    "masks": {"key_padding_mask": PADDING, "attn_mask": APART},
    "masks without weights": {"key_padding_mask": PADDING, "attn_mask": APART, "need_weights": False},
    "masks of heads": {"attn_mask": np.stack([APART] * 4), "need_weights": False},
    "floating masks": {"key_padding_mask": 1.0 * PADDING, "attn_mask": normal(4, 3, 4)},
    "causal": {"attn_mask": APART, "is_causal": True, "need_weights": False},
    "causal, and weights": {"attn_mask": APART, "is_causal": True},
    "causal, and padding": {"attn_mask": APART, "is_causal": True, "key_padding_mask": PADDING, "need_weights": False},
    "appended": {**BIASES, "add_zero_attn": True, "key_padding_mask": PADDING, "attn_mask": APART},
    "appended without weights": {**BIASES, "add_zero_attn": True, "key_padding_mask": PADDING, "need_weights": False},
    "static": {"static_k": normal(4, 4, 3), "static_v": normal(4, 4, 3, seed=1), "key_padding_mask": PADDING},
}


def flat(function: Any, concatenate: Any, names: list[str]) -> Any:
    """A call with only arrays, and then the named options, whose results are joined to one."""

    def call(query: Any, memory: Any, in_weight: Any, in_bias: Any, out_weight: Any, *values: Any) -> Any:
        settings: dict[str, Any] = {"in_proj_weight": in_weight, "in_proj_bias": in_bias, "dropout_p": 0.0}
        settings |= {"bias_k": None, "bias_v": None, "add_zero_attn": False, **dict(zip(names, values))}
        results = function(query, memory, memory, 6, 2, out_proj_weight=out_weight, out_proj_bias=None, **settings)
        return concatenate([x.reshape(-1) for x in results if x is not None])

    return call


@pytest.mark.parametrize("case", OPTIONS)
@pytest.mark.filterwarnings("ignore:Support for mismatched")
def test_multi_head_attention_forward(torch: Any, case: str) -> None:
    options = OPTIONS[case]
    arrays = (normal(3, 2, 6), normal(4, 2, 6), normal(18, 6), normal(18), normal(5, 6))
    ours = flat(F.multi_head_attention_forward, jnp.concatenate, list(options))
    theirs = flat(torch.nn.functional.multi_head_attention_forward, torch.cat, list(options))
    compare(torch, ours, theirs, *arrays, *options.values())


def attend(query: Any, key: Any, value: Any, heads: int = 2, **options: Any) -> Any:
    """Of sequences of size 4, with fixed projections."""
    fixed: dict[str, Any] = {"in_proj_weight": jnp.asarray(normal(12, 4)), "in_proj_bias": None, "bias_k": None}
    fixed |= {"bias_v": None, "add_zero_attn": False, "dropout_p": 0.0, "out_proj_weight": jnp.eye(4)}
    fixed |= {"out_proj_bias": None, **options}
    return F.multi_head_attention_forward(query, key, value, 4, heads, **fixed)


def test_arrays_that_are_one_are_projected_at_once() -> None:
    """With the same result, and in one product of matrices instead of three."""
    x, y = jnp.asarray(normal(3, 2, 4)), jnp.asarray(normal(5, 2, 4))

    def copied(query: jax.Array, key: jax.Array) -> Any:
        return attend(query, key, key * 1)

    np.testing.assert_allclose(attend(x, y, y)[0], copied(x, y)[0], rtol=1e-12)
    np.testing.assert_allclose(attend(x, x, x)[0], attend(x, x * 1, x * 1)[0], rtol=1e-12)
    counts = [
        str(jax.make_jaxpr(lambda x, f=f: f(x))(x)).count("dot_general")
        for f in (lambda x: attend(x, x, x), lambda x: copied(x, x))
    ]
    assert counts[1] - counts[0] == 2


def test_a_query_that_meets_no_key() -> None:
    x = jnp.asarray(normal(3, 4))
    for mask in (jnp.ones((3, 3), bool), jnp.full((3, 3), -jnp.inf)):
        output, weights = attend(x, x, x, attn_mask=mask)
        assert jnp.isnan(output).all() and jnp.isnan(weights).all()
        assert not attend(x, x, x, attn_mask=mask, need_weights=False)[0].any()


def test_masks_of_two_types() -> None:
    x, padding, apart = jnp.asarray(normal(4, 2, 4)), jnp.asarray(PADDING), jnp.asarray(~np.tri(4, dtype=bool))
    expected = attend(x, x, x, key_padding_mask=padding, attn_mask=apart)
    found = attend(x, x, x, key_padding_mask=padding, attn_mask=jnp.where(apart, -jnp.inf, 0.0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), found, expected)


def test_weights_are_dropped_in_training() -> None:
    x = jnp.asarray(normal(20, 5, 4))
    fb.manual_seed(0)
    _, kept = attend(x, x, x)
    _, weights = attend(x, x, x, dropout_p=0.5, average_attn_weights=False)
    assert abs((weights == 0).mean() - 0.5) < 5 * 0.5 / math.sqrt(weights.size)
    np.testing.assert_array_equal(attend(x, x, x, dropout_p=0.5, training=False)[1], kept)


def test_errors_of_multi_head_attention_forward() -> None:
    x, mask = jnp.ones((3, 2, 4)), jnp.zeros((3, 3), bool)
    for arrays, options, error, message in [
        ((x[None],) * 3, {}, ShapeError, r"query \(L, N, E\) or \(L, E\), got float64\[1, 3, 2, 4\]"),
        ((x[..., :3],) * 3, {}, ShapeError, r"expected query \(\*, 4\)"),
        ((x,) * 3, {"heads": 3}, ShapeError, "num_heads that divides the size 4"),
        ((x, x[:, 0], x[:, 0]), {}, ShapeError, r"key \(S, 2, K\) and value \(S, 2, V\)"),
        ((x, x[:, :1], x[:, :1]), {}, ShapeError, r"key \(S, 2, K\)"),
        ((x, x, x[:2]), {}, ShapeError, r"got float64\[3, 2, 4\] and float64\[2, 2, 4\]"),
        ((x,) * 3, {"in_proj_weight": None}, ValueError, "expected in_proj_weight"),
        ((x,) * 3, {"in_proj_weight": jnp.ones((4, 4))}, ShapeError, r"in_proj_weight \(12, 4\)"),
        ((x,) * 3, {"in_proj_bias": jnp.ones(4)}, ShapeError, r"in_proj_bias \(12,\)"),
        ((x,) * 3, {"use_separate_proj_weight": True}, ValueError, "needs q_proj_weight"),
        ((x,) * 3, {"bias_k": jnp.ones((1, 1, 4))}, ValueError, "both or neither"),
        ((x,) * 3, {"bias_k": jnp.ones(3), "bias_v": jnp.ones(4)}, ShapeError, r"bias_k \(1, 1, 4\)"),
        ((x,) * 3, {"static_k": jnp.ones((2, 3, 2))}, ShapeError, r"static_k \(4, S, 2\)"),
        ((x,) * 3, {"attn_mask": mask[:2]}, ShapeError, r"attn_mask \(3, 3\) or \(4, 3, 3\), got bool\[2, 3\]"),
        ((x,) * 3, {"key_padding_mask": mask}, ShapeError, r"key_padding_mask \(2, 3\), got bool\[3, 3\]"),
        ((x,) * 3, {"attn_mask": mask.astype(int)}, DtypeError, "boolean or floating dtype"),
        ((x,) * 3, {"is_causal": True}, RuntimeError, "there is none"),
    ]:
        with pytest.raises(error, match=message):
            attend(*arrays, **options)
