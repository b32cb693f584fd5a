"""The convolution of sequences with the batch in the middle."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from flambeau._errors import ShapeError
from flambeau.nn.functional._autocast import lowered
from flambeau.nn.functional._checks import describe
from flambeau.nn.functional.conv import conv1d

__all__ = ["conv_tbc"]


def conv_tbc(input: jax.Array, weight: jax.Array, bias: jax.Array, pad: int = 0) -> jax.Array:
    """`conv1d` of sequences (time, batch, channels): y[t, n, o] = b[o] + Σ_{k,c} w[k, c, o] x[t + k - pad, n, c].

    Args:
        input: the sequences.
        weight: the kernels.
        bias: added to each output channel.
        pad: zeros on both sides.

    Shape:
        input `(T, N, C)`, weight `(K, C, O)`, bias `(O,)`, result `(T + 2·pad - K + 1, N, O)`.

    Raises:
        ShapeError: an argument has another shape, or the kernel is longer than the padded input.
        DtypeError: the arguments differ in dtype.

    Example:
        >>> conv_tbc(jnp.arange(4.0).reshape(4, 1, 1), jnp.ones((2, 1, 1)), jnp.zeros(1)).ravel()
        Array([1., 3., 5.], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.conv_tbc.html
    """
    input, weight, bias = lowered(input, weight, bias)
    wrong = []
    if input.ndim != 3:
        wrong.append(f"expected input (T, N, C), got {describe(input)}")
    if weight.ndim != 3:
        wrong.append(f"expected weight (K, C, O), got {describe(weight)}")
    elif bias.shape != weight.shape[2:]:
        wrong.append(f"expected bias {weight.shape[2:]}, got {describe(bias)}")
    if not wrong and input.shape[2] != weight.shape[1]:
        wrong.append(f"expected input (T, N, {weight.shape[1]}), got {describe(input)}")
    if wrong:
        raise ShapeError("; ".join(wrong))
    # (T, N, C) to (N, C, T) and (K, C, O) to (O, C, K), and (N, O, T) to (T, N, O)
    output = conv1d(jnp.transpose(input, (1, 2, 0)), jnp.transpose(weight, (2, 1, 0)), bias, padding=pad)
    return jnp.transpose(output, (2, 0, 1))
