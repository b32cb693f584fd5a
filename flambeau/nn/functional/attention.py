"""Attention: each query takes a mean of the values, weighted by how well their keys match it.

Of masks there are two sorts. A floating one is added to the scores. A boolean one says of each query and key whether they
meet: in `scaled_dot_product_attention` True lets them, in `multi_head_attention_forward` True keeps them apart, as in
PyTorch.
"""

from __future__ import annotations

import math
from functools import partial, reduce
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from flambeau._errors import DtypeError, ShapeError
from flambeau.nn.functional._autocast import lowered, raised
from flambeau.nn.functional._checks import check_rank, check_same_dtype, describe
from flambeau.nn.functional.dropout import dropout
from flambeau.nn.functional.linear import linear

__all__ = ["multi_head_attention_forward", "scaled_dot_product_attention"]


def scaled_dot_product_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    attn_mask: jax.Array | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> jax.Array:
    """Means of the values, weighted by how the keys match the queries: softmax(Q Kᵀ · scale + mask) V.

    A query that the mask lets meet no key gets zeros. On an NVIDIA GPU, attention in half precision with neither mask nor
    dropout runs in cuDNN's fused kernel, which never holds all scores at once; it can be differentiated once, in reverse.

    Args:
        query: what is looked for.
        key: what it is compared with.
        value: what is found.
        attn_mask: True where a query may meet a key; or what to add to the scores.
        dropout_p: the probability that a weight is set to zero, whether in training or not.
        is_causal: whether query i meets only the keys up to i, on top of what the mask says.
        scale: the factor of the scores; 1/√E if None.
        enable_gqa: whether several heads of the query share one of key and value: a multiple of H takes the place of H.

    Shape:
        query `(*, H, L, E)`, key `(*, H, S, E)`, value `(*, H, S, V)`, attn_mask like `(*, H, L, S)` after broadcasting,
        result `(*, H, L, V)`; the first dimensions broadcast, and may all be missing.

    Raises:
        ShapeError: the shapes do not fit together.
        DtypeError: query, key and value differ in dtype, or the mask is neither bool, float32 nor like them.
        ValueError: `dropout_p` is no probability.

    Example:
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
        >>> scaled_dot_product_attention(x, x, x, is_causal=True)[0]
        Array([1., 0.], dtype=float32)

    Source: https://arxiv.org/abs/1706.03762
    """
    query, key, value, attn_mask = lowered(query, key, value, attn_mask)
    _check_inputs(query, key, value, attn_mask, enable_gqa)
    formula = partial(
        _by_formula,
        attn_mask=attn_mask,
        dropout_p=dropout_p,
        is_causal=is_causal,
        scale=1 / math.sqrt(query.shape[-1]) if scale is None else scale,
        enable_gqa=enable_gqa,
    )
    plain = attn_mask is None and dropout_p == 0
    if not (plain and _fits_cudnn(query, key, value, is_causal) and _has_cudnn()):
        return formula(query, key, value)
    kernel = partial(_by_kernel, is_causal=is_causal, scale=scale, implementation="cudnn")
    return lax.platform_dependent(query, key, value, cuda=kernel, default=formula)


def _check_inputs(
    query: jax.Array, key: jax.Array, value: jax.Array, attn_mask: jax.Array | None, enable_gqa: bool
) -> None:
    """Raises for what does not fit together."""
    given = f"query {describe(query)}, key {describe(key)} and value {describe(value)}"
    if not jnp.issubdtype(query.dtype, jnp.floating):
        raise DtypeError(f"expected floating dtypes, got {given}")
    check_same_dtype(query, key=key, value=value)
    least = 3 if enable_gqa else 2
    if min(query.ndim, key.ndim, value.ndim) < least:
        raise ShapeError(f"expected arrays of at least {least} dimensions, got {given}")
    if query.shape[-1] != key.shape[-1] or key.shape[-2] != value.shape[-2] or query.shape[-1] == 0:
        raise ShapeError(f"expected query (*, L, E), key (*, S, E) and value (*, S, V), got {given}")
    batches = [x.shape[:-2] for x in (query, key, value)]
    if enable_gqa:
        heads, *shared = (batch[-1] for batch in batches)
        if shared[0] != shared[1] or shared[0] == 0 or heads % shared[0]:
            raise ShapeError(f"expected as many heads of key and value, and a multiple of them of query, got {given}")
        batches = [(*batch[:-1], heads) for batch in batches]
    try:
        batch = jnp.broadcast_shapes(*batches)
    except ValueError:
        raise ShapeError(f"expected first dimensions that broadcast, got {given}") from None
    if attn_mask is not None:
        _check_mask(attn_mask, (*batch, query.shape[-2], key.shape[-2]), query.dtype)


def _check_mask(attn_mask: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> None:
    """Raises for a mask of another dtype, or one that does not broadcast to the shape of the scores."""
    if attn_mask.dtype not in (jnp.bool_, jnp.float32, dtype):
        raise DtypeError(f"expected attn_mask of dtype bool, float32 or {dtype}, got {describe(attn_mask)}")
    try:
        fits = jnp.broadcast_shapes(attn_mask.shape, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ShapeError(f"expected attn_mask that broadcasts to {shape}, got {describe(attn_mask)}")


def _has_cudnn() -> bool:
    """Whether there are NVIDIA GPUs here, all of a generation that cuDNN's attention supports."""
    if jax.default_backend() != "gpu":
        return False
    numbers = [str(getattr(device, "compute_capability", "")) for device in jax.local_devices()]
    # AMD's devices have names such as gfx942 instead.
    return all(number.replace(".", "").isdecimal() and float(number) >= 8 for number in numbers)


def _fits_cudnn(query: jax.Array, key: jax.Array, value: jax.Array, is_causal: bool) -> bool:
    """Whether the kernel takes arrays of these shapes and dtypes."""
    return (
        query.dtype in (jnp.float16, jnp.bfloat16)
        and query.ndim == key.ndim == 4
        and key.shape == value.shape
        and query.shape[0] == key.shape[0]
        and min(query.size, key.size) > 0
        and query.shape[1] % key.shape[1] == 0
        and query.shape[-1] % 8 == 0
        and query.shape[-1] <= 128
        and (not is_causal or query.shape[-2] == key.shape[-2])
    )


def _by_kernel(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    is_causal: bool,
    scale: float | None,
    implementation: Literal["cudnn", "xla"],
) -> jax.Array:
    """Attention by one of JAX's implementations, which want the heads after the positions."""
    q, k, v = (x.swapaxes(1, 2) for x in (query, key, value))  # (N, H, L, E) -> (N, L, H, E)
    output = jax.nn.dot_product_attention(q, k, v, is_causal=is_causal, scale=scale, implementation=implementation)
    return output.swapaxes(1, 2)


def _by_formula(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    attn_mask: jax.Array | None,
    dropout_p: float,
    is_causal: bool,
    scale: float,
    enable_gqa: bool,
) -> jax.Array:
    """Attention as it is written down, with all scores at once."""
    heads, shared = (query.shape[-3], key.shape[-3]) if enable_gqa else (None, None)
    # Heads that share a key are further rows of it, which spares copies of the key and the value.
    scores = _as_heads(_scores(_as_heads(query, shared), key, scale), heads)
    mask, meets = jnp.tri(*scores.shape[-2:], dtype=bool) if is_causal else None, None
    if attn_mask is not None:
        mask, meets = _freed(jnp.atleast_1d(attn_mask), mask)
    weights = dropout(jax.nn.softmax(scores if mask is None else _masked(scores, mask)), dropout_p)
    output = _as_heads(_means(_as_heads(weights, shared), value), heads)
    return output if meets is None else jnp.where(meets, output, 0)


def _freed(mask: jax.Array, causal: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Both masks as one, in which queries that meet no key meet all of them; and which queries `(*, L, 1)` do meet one.

    So no softmax is over nothing, which would be 0/0, and it is enough to clear the rows of the result.
    """
    boolean = mask.dtype == jnp.bool_
    if causal is not None:
        mask = mask & causal if boolean else jnp.where(causal, mask, -jnp.inf)
    meets = jnp.any(mask if boolean else mask != -jnp.inf, axis=-1, keepdims=True)
    return (mask | ~meets if boolean else jnp.where(meets, mask, 0)), meets


def _as_heads(x: jax.Array, heads: int | None) -> jax.Array:
    """The rows of all heads `(*, H, L, E)` dealt out, in their order, to another number of heads."""
    if heads is None:
        return x
    return x.reshape(*x.shape[:-3], heads, x.shape[-3] * x.shape[-2] // heads, x.shape[-1])


def _scores(query: jax.Array, key: jax.Array, scale: float) -> jax.Array:
    """Q Kᵀ · scale, of half-precision arrays in float32."""
    wide = jnp.promote_types(query.dtype, jnp.float32)
    return jnp.einsum("...le,...se->...ls", query, key, preferred_element_type=wide) * scale


def _masked(scores: jax.Array, mask: jax.Array) -> jax.Array:
    """The scores, and -inf where a boolean mask is False; or plus a floating mask."""
    return jnp.where(mask, scores, -jnp.inf) if mask.dtype == jnp.bool_ else scores + mask


def _means(weights: jax.Array, value: jax.Array) -> jax.Array:
    """The values `(*, S, V)`, weighted."""
    return jnp.einsum("...ls,...se->...le", weights.astype(value.dtype), value)


def multi_head_attention_forward(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: jax.Array | None,
    in_proj_bias: jax.Array | None,
    bias_k: jax.Array | None,
    bias_v: jax.Array | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: jax.Array,
    out_proj_bias: jax.Array | None,
    training: bool = True,
    key_padding_mask: jax.Array | None = None,
    need_weights: bool = True,
    attn_mask: jax.Array | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: jax.Array | None = None,
    k_proj_weight: jax.Array | None = None,
    v_proj_weight: jax.Array | None = None,
    static_k: jax.Array | None = None,
    static_v: jax.Array | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[jax.Array, jax.Array | None]:
    """Attention of several heads, each of which has its own projections of query, key and value.

    The heads are concatenated and projected once more: Concat(head₁, …, head_H) Wᵒ with
    headᵢ = Attention(Q Wᵢᑫ, K Wᵢᵏ, V Wᵢᵛ). A query that the masks let meet no key gets NaN, as in PyTorch, and zeros if no
    weights are asked for. Unlike in PyTorch, masks of two types are taken without a warning.

    Args:
        query: what is looked for.
        key: what it is compared with.
        value: what is found.
        embed_dim_to_check: the size E of the query's last dimension.
        num_heads: the number of heads H, which divides E.
        in_proj_weight: the projections of query, key and value, one above the other.
        in_proj_bias: their biases, one after the other.
        bias_k: a key to append.
        bias_v: the value to append.
        add_zero_attn: whether to append a key and a value of zeros.
        dropout_p: the probability that a weight is set to zero in training.
        out_proj_weight: the projection of the result.
        out_proj_bias: its bias.
        training: whether to drop weights.
        key_padding_mask: True for the keys that no query meets; or what to add to their scores.
        need_weights: whether to return the weights.
        attn_mask: True where a query does not meet a key; or what to add to the scores.
        use_separate_proj_weight: whether the next three take the place of `in_proj_weight`.
        q_proj_weight: the projection of the query.
        k_proj_weight: the projection of the key.
        v_proj_weight: the projection of the value.
        static_k: takes the place of the projected key.
        static_v: takes the place of the projected value.
        average_attn_weights: whether the weights that are returned are the mean over the heads.
        is_causal: says that `attn_mask` is the causal one. Where there is no other mask, and no weights are asked for,
            it is then not looked at.

    Shape:
        query `(L, N, E)`, key `(S, N, K)`, value `(S, N, V)`, or all without N; in_proj_weight `(3E, E)`, in_proj_bias
        `(3E,)`, bias_k and bias_v `(1, 1, E)` or `(E,)`, out_proj_weight `(O, E)`, out_proj_bias `(O,)`,
        key_padding_mask `(N, S)` or `(S,)`, attn_mask `(L, S)` or `(N·H, L, S)`, q_proj_weight `(E, E)`, k_proj_weight
        `(E, K)`, v_proj_weight `(E, V)`, static_k and static_v `(N·H, S, E/H)`, result `(L, N, O)` or `(L, O)`, and its
        weights `(N, L, S)` or `(L, S)`, or `(N, H, L, S)` or `(H, L, S)`.

    Raises:
        ShapeError: the shapes do not fit together.
        DtypeError: the arguments differ in dtype, or a mask is neither bool nor floating.
        ValueError: a weight is missing, or an argument comes without its companion.
        RuntimeError: `is_causal` without `attn_mask`.

    Example:
        >>> x, eye = jnp.ones((3, 1, 4)), jnp.eye(4)
        >>> output, weights = multi_head_attention_forward(
        ...     x, x, x, 4, 2, jnp.concatenate([eye] * 3), None, None, None, False, 0.0, eye, None
        ... )
        >>> output.shape, weights.shape
        ((3, 1, 4), (1, 3, 3))

    Source: https://arxiv.org/abs/1706.03762
    """
    if is_causal and attn_mask is None:
        raise RuntimeError("is_causal says what attn_mask is, and there is none: pass the causal mask too")
    _check_sequences(query, key, value, embed_dim_to_check, num_heads)
    separate = (q_proj_weight, k_proj_weight, v_proj_weight) if use_separate_proj_weight else None
    projected = _projected(query, key, value, in_proj_weight, in_proj_bias, separate)
    q, k, v = (_split_heads(x, num_heads) for x in projected)
    k, v = _static(k, static_k, "static_k"), _static(v, static_v, "static_v")
    hint = is_causal and key_padding_mask is None and not need_weights
    mask = _joined_mask(None if hint else attn_mask, key_padding_mask, (*q.shape[:3], k.shape[2]), q.dtype)
    if bias_k is not None or bias_v is not None:
        if bias_k is None or bias_v is None or static_k is not None or static_v is not None:
            raise ValueError("expected bias_k and bias_v both or neither, and neither with static_k or static_v")
        k, v = _append(k, bias_k, "bias_k"), _append(v, bias_v, "bias_v")
    if add_zero_attn:
        zeros = jnp.zeros(embed_dim_to_check, q.dtype)
        k, v = _append(k, zeros, "zeros"), _append(v, zeros, "zeros")
    if mask is not None:
        # All meet what was appended.
        added = [(0, 0)] * 3 + [(0, k.shape[2] - mask.shape[3])]
        mask = jnp.pad(mask, added, constant_values=mask.dtype == jnp.bool_)
    p, weights = dropout_p if training else 0.0, None
    if need_weights:
        q, k, v = lowered(q, k, v)
        scores = _scores(q, k, 1 / math.sqrt(q.shape[-1]))
        weights = dropout(jax.nn.softmax(scores if mask is None else _masked(scores, mask)), p)
        heads = _means(weights, v)
        weights = weights.astype(raised(q).dtype)
    else:
        heads = scaled_dot_product_attention(q, k, v, mask, p, hint)
    # (N, H, L, E/H) -> (L, N, E)
    output = linear(heads.transpose(2, 0, 1, 3).reshape(query.shape), out_proj_weight, out_proj_bias)
    if weights is None:
        return output, None
    weights = weights.mean(1) if average_attn_weights else weights
    return output, weights if query.ndim == 3 else weights[0]


def _check_sequences(query: jax.Array, key: jax.Array, value: jax.Array, size: int, heads: int) -> None:
    """Raises unless they are sequences of one batch, and the heads divide the query's last dimension."""
    check_rank(query, (2, 3), "(L, N, E) or (L, E)", "query")
    if query.shape[-1] != size:
        raise ShapeError(f"expected query (*, {size}), got {describe(query)}")
    if heads <= 0 or size % heads:
        raise ShapeError(f"expected num_heads that divides the size {size} of query, got {heads}")
    batch = query.shape[1:-1]
    if key.ndim != query.ndim or key.shape[1:-1] != batch or key.shape[:-1] != value.shape[:-1]:
        sizes = ", ".join(map(str, batch)) + ", " if batch else ""
        raise ShapeError(
            f"expected key (S, {sizes}K) and value (S, {sizes}V), got {describe(key)} and {describe(value)}"
        )


def _projected(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    in_proj_weight: jax.Array | None,
    in_proj_bias: jax.Array | None,
    separate: tuple[jax.Array | None, ...] | None,
) -> list[jax.Array]:
    """Query, key and value, projected to the size of the query: those that are one array at once."""
    size = query.shape[-1]
    if in_proj_bias is not None and in_proj_bias.shape != (3 * size,):
        raise ShapeError(f"expected in_proj_bias ({3 * size},), got {describe(in_proj_bias)}")
    if separate is not None:
        biases = [None] * 3 if in_proj_bias is None else jnp.split(in_proj_bias, 3)
        found = [w for w in separate if w is not None]
        if len(found) < 3:
            raise ValueError("use_separate_proj_weight needs q_proj_weight, k_proj_weight and v_proj_weight")
        return [linear(x, w, b) for x, w, b in zip((query, key, value), found, biases, strict=True)]
    if in_proj_weight is None:
        raise ValueError("expected in_proj_weight, or use_separate_proj_weight=True and three weights")
    if in_proj_weight.shape != (3 * size, size):
        raise ShapeError(f"expected in_proj_weight ({3 * size}, {size}), got {describe(in_proj_weight)}")
    if query is key and key is value:
        return jnp.split(linear(query, in_proj_weight, in_proj_bias), 3, axis=-1)

    def part(x: jax.Array, start: int, end: int) -> jax.Array:
        rows = slice(start * size, end * size)
        return linear(x, in_proj_weight[rows], None if in_proj_bias is None else in_proj_bias[rows])

    if key is value:
        return [part(query, 0, 1), *jnp.split(part(key, 1, 3), 2, axis=-1)]
    return [part(query, 0, 1), part(key, 1, 2), part(value, 2, 3)]


def _split_heads(x: jax.Array, heads: int) -> jax.Array:
    """`(L, N, E)` or `(L, E)` -> `(N, H, L, E/H)`, with N = 1."""
    length, size = x.shape[0], x.shape[-1]
    return x.reshape(length, -1 if x.ndim == 2 else x.shape[1], heads, size // heads).transpose(1, 2, 0, 3)


def _static(projected: jax.Array, static: jax.Array | None, name: str) -> jax.Array:
    """What takes the place of the projected key or value `(N, H, S, E/H)`, or this itself."""
    if static is None:
        return projected
    batch, heads, _, size = projected.shape
    if static.ndim != 3 or static.shape[0] != batch * heads or static.shape[2] != size:
        raise ShapeError(f"expected {name} ({batch * heads}, S, {size}), got {describe(static)}")
    return static.reshape(batch, heads, *static.shape[1:])


def _append(x: jax.Array, row: jax.Array, name: str) -> jax.Array:
    """Keys or values `(N, H, S, E/H)` and, behind them in each sequence, one more of size E."""
    batch, heads, _, size = x.shape
    if row.size != heads * size:
        raise ShapeError(f"expected {name} (1, 1, {heads * size}), got {describe(row)}")
    check_same_dtype(x, **{name: row})
    return jnp.concatenate([x, jnp.broadcast_to(row.reshape(1, heads, 1, size), (batch, heads, 1, size))], axis=2)


def _joined_mask(
    attn_mask: jax.Array | None, key_padding_mask: jax.Array | None, shape: tuple[int, ...], dtype: jnp.dtype
) -> jax.Array | None:
    """Both masks as one `(N, H, L, S)`, up to broadcasting: True where a query meets a key, or what to add."""
    batch, heads, length, keys = shape
    masks = []
    if attn_mask is not None:
        if attn_mask.shape not in ((length, keys), (batch * heads, length, keys)):
            expected = f"({length}, {keys}) or ({batch * heads}, {length}, {keys})"
            raise ShapeError(f"expected attn_mask {expected}, got {describe(attn_mask)}")
        several = (1, 1) if attn_mask.ndim == 2 else (batch, heads)
        masks.append(attn_mask.reshape(*several, length, keys))
    if key_padding_mask is not None:
        # Without a batch there is one sequence.
        if key_padding_mask.shape not in ((batch, keys), (keys,) if batch == 1 else None):
            raise ShapeError(f"expected key_padding_mask ({batch}, {keys}), got {describe(key_padding_mask)}")
        masks.append(key_padding_mask.reshape(batch, 1, 1, keys))
    if any(mask.dtype != jnp.bool_ and not jnp.issubdtype(mask.dtype, jnp.floating) for mask in masks):
        raise DtypeError(f"expected masks of a boolean or floating dtype, got {' and '.join(map(describe, masks))}")
    if all(mask.dtype == jnp.bool_ for mask in masks):
        return reduce(jnp.logical_and, [~mask for mask in masks]) if masks else None
    return reduce(jnp.add, [_additive(mask, dtype) for mask in masks])


def _additive(mask: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """A mask as what is added to the scores: where a boolean one is True, -inf."""
    return jnp.where(mask, jnp.array(-jnp.inf, dtype), 0) if mask.dtype == jnp.bool_ else mask.astype(dtype)
