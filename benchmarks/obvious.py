"""Layers, and beside each the form in `jax.numpy` and `lax` that comes to mind first.

A form is a function of the values of the layer's parameters and buffers, by their names, and of the inputs; that of a
layer which writes buffers returns their new values next to the output.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

__all__ = ["ROWS", "Row"]

Values: TypeAlias = dict[str, jax.Array]


def _call(net: Any, *inputs: Any) -> Any:
    return net(*inputs)


@dataclass(frozen=True)
class Row:
    """A layer to time."""

    name: str
    make: Callable[[Any], Any]
    """Makes it, or a function that is as good, from `flambeau.nn` or `torch.nn`."""
    inputs: tuple[np.ndarray, ...]
    """Floating ones are differentiated too."""
    obvious: Callable[..., Any]
    call: Callable[..., Any]
    """How the layer is used."""


ROWS: list[Row] = []


def row(
    name: str,
    make: Callable[[Any], Any],
    obvious: Callable[..., Any],
    *inputs: np.ndarray,
    call: Callable[..., Any] = _call,
) -> None:
    ROWS.append(Row(name, make, inputs, obvious, call))


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape, np.float32)


def below(high: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(shape).integers(high, size=shape)


# -- pooling ------------------------------------------------------------------------------------------------------------


def _max_pool(values: Values, x: jax.Array, kernel: int, stride: int, padding: int) -> jax.Array:
    window, strides = (1, 1, kernel, kernel), (1, 1, stride, stride)
    paddings = ((0, 0), (0, 0), (padding, padding), (padding, padding))
    return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, paddings)


def _avg_pool(values: Values, x: jax.Array, kernel: int, stride: int, padding: int) -> jax.Array:
    window, strides = (1, 1, kernel, kernel), (1, 1, stride, stride)
    paddings = ((0, 0), (0, 0), (padding, padding), (padding, padding))
    return lax.reduce_window(x, 0.0, lax.add, window, strides, paddings) / kernel**2


def _tiled(values: Values, x: jax.Array, reduce: Callable[..., jax.Array], size: int) -> jax.Array:
    """Windows that tile the image, so that a reshape is enough."""
    batch, channels, height, width = x.shape
    return reduce(x.reshape(batch, channels, size, height // size, size, width // size), axis=(3, 5))


def _adaptive(values: Values, x: jax.Array, reduce: Callable[..., jax.Array], size: int) -> jax.Array:
    """Windows of unlike sizes, cut out one by one."""
    height, width = ([(i * n // size, -(-(i + 1) * n // size)) for i in range(size)] for n in x.shape[2:])
    rows = [[reduce(x[..., a:b, c:d], axis=(2, 3)) for c, d in width] for a, b in height]
    return jnp.stack([jnp.stack(each, -1) for each in rows], -2)


_IMAGES = normal(16, 32, 56, 56)
row(
    "MaxPool2d 3x3, stride 2",
    lambda nn: nn.MaxPool2d(3, 2, 1),
    partial(_max_pool, kernel=3, stride=2, padding=1),
    _IMAGES,
)
row("MaxPool2d 2x2", lambda nn: nn.MaxPool2d(2), partial(_max_pool, kernel=2, stride=2, padding=0), _IMAGES)
row(
    "AvgPool2d 3x3, stride 2",
    lambda nn: nn.AvgPool2d(3, 2, 1),
    partial(_avg_pool, kernel=3, stride=2, padding=1),
    _IMAGES,
)
row("AvgPool2d 2x2", lambda nn: nn.AvgPool2d(2), partial(_avg_pool, kernel=2, stride=2, padding=0), _IMAGES)
for _name, _reduce in (("AdaptiveAvgPool2d", jnp.mean), ("AdaptiveMaxPool2d", jnp.max)):
    row(
        f"{_name} 56 to 1",
        lambda nn, name=_name: getattr(nn, name)(1),
        partial(_tiled, reduce=_reduce, size=1),
        _IMAGES,
    )
    row(
        f"{_name} 56 to 7",
        lambda nn, name=_name: getattr(nn, name)(7),
        partial(_tiled, reduce=_reduce, size=7),
        _IMAGES,
    )
    row(
        f"{_name} 56 to 5",
        lambda nn, name=_name: getattr(nn, name)(5),
        partial(_adaptive, reduce=_reduce, size=5),
        _IMAGES,
    )


# -- convolution --------------------------------------------------------------------------------------------------------


def _conv(values: Values, x: jax.Array, stride: int = 1, groups: int = 1) -> jax.Array:
    """One that keeps the size, but for the stride."""
    weight, numbers = values["weight"], ("NCHW", "OIHW", "NCHW")
    around = [(weight.shape[2] // 2, weight.shape[3] // 2)] * 2
    output = lax.conv_general_dilated(
        x, weight, (stride, stride), around, dimension_numbers=numbers, feature_group_count=groups
    )
    return output + values["bias"][:, None, None]


def _conv_transpose(values: Values, x: jax.Array) -> jax.Array:
    """One of 4x4 that doubles the size."""
    turned = values["weight"][..., ::-1, ::-1].swapaxes(0, 1)
    output = lax.conv_general_dilated(
        x, turned, (1, 1), [(2, 2)] * 2, lhs_dilation=(2, 2), dimension_numbers=("NCHW", "OIHW", "NCHW")
    )
    return output + values["bias"][:, None, None]


_FEATURES = normal(8, 64, 28, 28)
row("Conv2d 3x3", lambda nn: nn.Conv2d(64, 64, 3, padding=1), _conv, _FEATURES)
row("Conv2d 3x3, stride 2", lambda nn: nn.Conv2d(64, 64, 3, 2, 1), partial(_conv, stride=2), _FEATURES)
row("Conv2d 1x1", lambda nn: nn.Conv2d(64, 64, 1), _conv, _FEATURES)
row("Conv2d depthwise", lambda nn: nn.Conv2d(64, 64, 3, 1, 1, groups=64), partial(_conv, groups=64), _FEATURES)
row(
    "Conv2d depthwise, stride 2",
    lambda nn: nn.Conv2d(64, 64, 3, 2, 1, groups=64),
    partial(_conv, stride=2, groups=64),
    _FEATURES,
)
row("Conv2d of 4 groups", lambda nn: nn.Conv2d(64, 64, 3, 1, 1, groups=4), partial(_conv, groups=4), _FEATURES)
row("ConvTranspose2d 4x4, stride 2", lambda nn: nn.ConvTranspose2d(64, 32, 4, 2, 1), _conv_transpose, _FEATURES)


# -- normalization ------------------------------------------------------------------------------------------------------


def _standardized(x: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array, jax.Array]:
    mean, var = jnp.mean(x, axes, keepdims=True), jnp.var(x, axes, keepdims=True)
    return (x - mean) * lax.rsqrt(var + 1e-5), mean, var


def _batch_norm(values: Values, x: jax.Array) -> tuple[jax.Array, Values]:
    normed, mean, var = _standardized(x, (0, 2, 3))
    count = x.size // x.shape[1]
    state = {
        "running_mean": 0.9 * values["running_mean"] + 0.1 * mean.ravel(),
        "running_var": 0.9 * values["running_var"] + 0.1 * var.ravel() * count / (count - 1),
        "num_batches_tracked": values["num_batches_tracked"] + 1,
    }
    return normed * values["weight"][:, None, None] + values["bias"][:, None, None], state


def _layer_norm(values: Values, x: jax.Array) -> jax.Array:
    return _standardized(x, (-1,))[0] * values["weight"] + values["bias"]


def _group_norm(values: Values, x: jax.Array) -> jax.Array:
    grouped = x.reshape(x.shape[0], 8, -1)  # (N, C, H, W) to (N, groups, rest)
    normed = _standardized(grouped, (-1,))[0].reshape(x.shape)
    return normed * values["weight"][:, None, None] + values["bias"][:, None, None]


row("BatchNorm2d, training", lambda nn: nn.BatchNorm2d(32), _batch_norm, _IMAGES)
row("LayerNorm", lambda nn: nn.LayerNorm(256), _layer_norm, normal(32, 128, 256))
row("GroupNorm of 8 groups", lambda nn: nn.GroupNorm(8, 32), _group_norm, _IMAGES)


# -- recurrent ----------------------------------------------------------------------------------------------------------


def _fed(values: Values, x: jax.Array, h: jax.Array) -> tuple[jax.Array, jax.Array]:
    from_input = x @ values["weight_ih_l0"].T + values["bias_ih_l0"]
    return from_input, h @ values["weight_hh_l0"].T + values["bias_hh_l0"]


def _lstm(values: Values, x: jax.Array) -> jax.Array:
    def step(state: tuple[jax.Array, jax.Array], x: jax.Array) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        h, c = state
        i, f, g, o = jnp.split(sum(_fed(values, x, h)), 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        if "weight_hr_l0" in values:
            h = h @ values["weight_hr_l0"].T
        return (h, c), h

    gates, out = values["weight_hh_l0"].shape
    return lax.scan(step, (jnp.zeros((x.shape[1], out)), jnp.zeros((x.shape[1], gates // 4))), x)[1]


def _gru(values: Values, x: jax.Array) -> jax.Array:
    def step(h: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        (r, z, n), (r_h, z_h, n_h) = (jnp.split(each, 3, -1) for each in _fed(values, x, h))
        z = jax.nn.sigmoid(z + z_h)
        h = (1 - z) * jnp.tanh(n + jax.nn.sigmoid(r + r_h) * n_h) + z * h
        return h, h

    return lax.scan(step, jnp.zeros((x.shape[1], values["weight_hh_l0"].shape[1])), x)[1]


def _output(net: Any, x: Any) -> Any:
    return net(x)[0]


_SEQUENCES = normal(64, 32, 128)
row("LSTM 128", lambda nn: nn.LSTM(128, 128), _lstm, _SEQUENCES, call=_output)
row("LSTM 256", lambda nn: nn.LSTM(128, 256), _lstm, _SEQUENCES, call=_output)
row("LSTM 256, proj_size 64", lambda nn: nn.LSTM(128, 256, proj_size=64), _lstm, _SEQUENCES, call=_output)
row("GRU 128", lambda nn: nn.GRU(128, 128), _gru, _SEQUENCES, call=_output)
row("GRU 256", lambda nn: nn.GRU(128, 256), _gru, _SEQUENCES, call=_output)


# -- attention ----------------------------------------------------------------------------------------------------------


def _attention(values: Values, q: jax.Array, k: jax.Array, v: jax.Array, is_causal: bool = True) -> jax.Array:
    scores = q @ k.swapaxes(-1, -2) / q.shape[-1] ** 0.5
    if is_causal:
        scores = jnp.where(jnp.tri(*scores.shape[-2:], dtype=bool), scores, -jnp.inf)
    return jax.nn.softmax(scores) @ v


def _multi_head_attention(values: Values, x: jax.Array) -> jax.Array:
    projected = x @ values["in_proj_weight"].T + values["in_proj_bias"]
    # (N, L, 3E) to three of (N, 8, L, E / 8)
    q, k, v = (each.reshape(*each.shape[:2], 8, -1).swapaxes(1, 2) for each in jnp.split(projected, 3, -1))
    heads = _attention(values, q, k, v, is_causal=False).swapaxes(1, 2).reshape(x.shape)
    return heads @ values["out_proj.weight"].T + values["out_proj.bias"]


row(
    "MultiheadAttention",
    lambda nn: nn.MultiheadAttention(256, 8, batch_first=True),
    _multi_head_attention,
    normal(8, 128, 256),
    call=lambda net, x: net(x, x, x, need_weights=False)[0],
)
_HEADS = normal(3, 8, 8, 128, 32)
row(
    "scaled_dot_product_attention, causal",
    lambda nn: partial(nn.functional.scaled_dot_product_attention, is_causal=True),
    _attention,
    *_HEADS,
)


# -- the rest -----------------------------------------------------------------------------------------------------------


def _linear(values: Values, x: jax.Array) -> jax.Array:
    return x @ values["weight"].T + values["bias"]


def _cross_entropy(values: Values, x: jax.Array, target: jax.Array) -> jax.Array:
    return -jnp.take_along_axis(jax.nn.log_softmax(x), target[:, None], 1).mean()


def _resize(values: Values, x: jax.Array) -> jax.Array:
    return jax.image.resize(x, (*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3]), "bilinear")


def _embedding_bag(values: Values, indices: jax.Array) -> jax.Array:
    return values["weight"][indices].mean(1)


row("Linear", lambda nn: nn.Linear(512, 1024), _linear, normal(256, 512))
row("Embedding", lambda nn: nn.Embedding(10_000, 256), lambda values, i: values["weight"][i], below(10_000, 32, 128))
row("EmbeddingBag", lambda nn: nn.EmbeddingBag(10_000, 256), _embedding_bag, below(10_000, 256, 20))
row("Upsample, bilinear", lambda nn: nn.Upsample(scale_factor=2, mode="bilinear"), _resize, normal(8, 32, 28, 28))
row("CrossEntropyLoss", lambda nn: nn.CrossEntropyLoss(), _cross_entropy, normal(512, 1000), below(1000, 512))
row("GELU", lambda nn: nn.GELU(), lambda values, x: jax.nn.gelu(x, approximate=False), normal(1024, 1024))
row("Softmax", lambda nn: nn.Softmax(-1), lambda values, x: jax.nn.softmax(x), normal(1024, 1024))
