"""Linear maps, and the reshapes that come before them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from flambeau._errors import ShapeError
from flambeau.nn.functional._autocast import lowered, promoted
from flambeau.nn.functional._checks import check_same_dtype, describe
from flambeau.nn.functional._inputs import axis_of

__all__ = ["bilinear", "flatten", "linear", "unflatten"]


def linear(input: jax.Array, weight: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """Maps the last dimension linearly: y = x Wᵀ + b.

    Args:
        input: the features.
        weight: the matrix W; without its first dimension the result has no last one.
        bias: added to every row.

    Shape:
        input `(*, in)`, weight `(out, in)` or `(in,)`, bias `(out,)` or `()`, result `(*, out)` or `(*)`.

    Raises:
        ShapeError: an argument has another shape.
        DtypeError: the arguments differ in dtype.

    Example:
        >>> linear(jnp.array([1.0, 2.0]), jnp.array([[1.0, 0.0], [1.0, 1.0]]), jnp.array([0.5, 0.0]))
        Array([1.5, 3. ], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.linear.html
    """
    input, weight, bias = lowered(input, weight, bias)
    if weight.ndim not in (1, 2):
        raise ShapeError(f"expected weight (out, in) or (in,), got {describe(weight)}")
    wrong = []
    if input.ndim == 0 or input.shape[-1] != weight.shape[-1]:
        wrong.append(f"expected input (*, {weight.shape[-1]}), got {describe(input)}")
    if bias is not None and bias.shape != weight.shape[:-1]:
        wrong.append(f"expected bias {weight.shape[:-1]}, got {describe(bias)}")
    if wrong:
        raise ShapeError("; ".join(wrong))
    check_same_dtype(input, weight=weight, bias=bias)
    # Contracting W's last dimension as it lies spares the transposed copy that `input @ weight.T` makes outside of jit.
    output = lax.dot_general(input, weight, (((input.ndim - 1,), (weight.ndim - 1,)), ((), ())))
    return output if bias is None else output + bias


def bilinear(input1: jax.Array, input2: jax.Array, weight: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """Maps pairs of features bilinearly: yₒ = x₁ᵀ Wₒ x₂ + bₒ.

    Args:
        input1: the features x₁.
        input2: the features x₂.
        weight: one matrix for each output feature.
        bias: added to every row.

    Shape:
        input1 `(*, in1)`, input2 `(*, in2)`, weight `(out, in1, in2)`, bias `(out,)`, result `(*, out)`.

    Raises:
        ShapeError: an argument has another shape.
        DtypeError: the arguments differ in dtype.

    Example:
        >>> bilinear(jnp.array([1.0, 2.0]), jnp.array([3.0]), jnp.ones((1, 2, 1)))
        Array([9.], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.bilinear.html
    """
    input1, input2, weight, bias = promoted(input1, input2, weight, bias)
    if weight.ndim != 3:
        raise ShapeError(f"expected weight (out, in1, in2), got {describe(weight)}")
    out, in1, in2 = weight.shape
    wrong = []
    if input1.ndim == 0 or input1.shape[-1] != in1:
        wrong.append(f"expected input1 (*, {in1}), got {describe(input1)}")
    elif input2.shape != (*input1.shape[:-1], in2):
        wrong.append(f"expected input2 {(*input1.shape[:-1], in2)}, got {describe(input2)}")
    if bias is not None and bias.shape != (out,):
        wrong.append(f"expected bias ({out},), got {describe(bias)}")
    if wrong:
        raise ShapeError("; ".join(wrong))
    check_same_dtype(input1, input2=input2, weight=weight, bias=bias)
    output = jnp.einsum("...i,oij,...j->...o", input1, weight, input2)
    return output if bias is None else output + bias


def flatten(input: jax.Array, start_dim: int = 0, end_dim: int = -1) -> jax.Array:
    """Joins the dimensions from `start_dim` to `end_dim`, both included, into one.

    Args:
        input: any array; one without dimensions gets one.
        start_dim: the first dimension to join.
        end_dim: the last dimension to join.

    Shape:
        input `(*, S₁, …, Sₖ, *)`, result `(*, S₁·…·Sₖ, *)`.

    Raises:
        IndexError: there is no such dimension.
        ShapeError: `start_dim` comes after `end_dim`.

    Example:
        >>> flatten(jnp.zeros((8, 3, 4, 4)), start_dim=1).shape
        (8, 48)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.flatten.html
    """
    start, end = axis_of(start_dim, input.ndim), axis_of(end_dim, input.ndim)
    if start > end:
        raise ShapeError(f"expected start_dim before end_dim, got {start_dim} and {end_dim} of {describe(input)}")
    before, joined, after = input.shape[:start], input.shape[start : end + 1], input.shape[end + 1 :]
    return jnp.reshape(input, (*before, math.prod(joined), *after))


def unflatten(input: jax.Array, dim: int, sizes: Sequence[int]) -> jax.Array:
    """Splits one dimension into several: the reverse of `flatten`.

    Args:
        input: any array with the dimension `dim`.
        dim: the dimension to split.
        sizes: what it becomes; one of them may be -1, and is then found from the others.

    Shape:
        input `(*, S, *)`, result `(*, S₁, …, Sₖ, *)` with S₁·…·Sₖ = S.

    Raises:
        IndexError: there is no such dimension.
        ShapeError: `sizes` do not make up the dimension.

    Example:
        >>> unflatten(jnp.zeros((8, 48)), 1, (3, -1, 4)).shape
        (8, 3, 4, 4)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.unflatten.html
    """
    axis, sizes = axis_of(dim, input.ndim), tuple(sizes)
    if input.ndim == 0 or not sizes:
        raise ShapeError(f"expected a dimension to split and sizes to split it into, got {describe(input)} and {sizes}")
    whole, given = input.shape[axis], math.prod(size for size in sizes if size != -1)
    open_sizes = sizes.count(-1)
    fits = given == whole if open_sizes == 0 else open_sizes == 1 and given > 0 and whole % given == 0
    if min(sizes) < -1 or not fits:
        raise ShapeError(f"expected sizes that multiply to {whole}, dimension {dim} of {describe(input)}, got {sizes}")
    filled = tuple(whole // given if size == -1 else size for size in sizes)
    return jnp.reshape(input, (*input.shape[:axis], *filled, *input.shape[axis + 1 :]))
