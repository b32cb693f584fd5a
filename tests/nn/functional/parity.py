"""How a function of `nn.functional` is held against its torch twin: value, gradient, second derivative and dtype."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["compare", "each_reduction", "normal"]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    """Numbers around zero, the same for each run."""
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def each_reduction(function: Callable[..., Any], concatenate: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with each of the three reductions, one after the other in one result."""

    def reduced(*args: Any, **kwargs: Any) -> Any:
        results = [function(*args, **kwargs, reduction=reduction) for reduction in ("none", "mean", "sum")]
        return concatenate([result.reshape(-1) for result in results])

    return reduced


def _split(leaves: list[Any]) -> tuple[list[int], list[Any]]:
    """Which of the leaves are differentiated: the float64 arrays."""
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, np.ndarray) and leaf.dtype == np.float64]
    return places, [leaves[i] for i in places]


def _call(function: Callable[..., Any], leaves: list[Any], names: list[str]) -> Any:
    """Calls with the last leaves by their names."""
    count = len(leaves) - len(names)
    return function(*leaves[:count], **dict(zip(names, leaves[count:])))


def _ours(
    function: Callable[..., jax.Array], leaves: list[Any], names: list[str], second: bool
) -> tuple[Any, list[Any]]:
    """Value, gradients against fixed cotangents, and the gradients of those, all from one compiled function."""
    places, given = _split(leaves)

    def value(*arrays: jax.Array) -> jax.Array:
        filled = [jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf for leaf in leaves]
        for place, array in zip(places, arrays):
            filled[place] = array
        return _call(function, filled, names)

    def first(*arrays: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        output, pull = jax.vjp(value, *arrays)
        return output, pull(jnp.asarray(normal(*output.shape, seed=1), output.dtype))

    def slope(*arrays: jax.Array) -> tuple[jax.Array, Any]:
        output, found = first(*arrays)
        return sum((jnp.sum(g * normal(*g.shape, seed=2)) for g in found), jnp.zeros(())), (output, found)

    def everything(*arrays: jax.Array) -> tuple[Any, list[jax.Array]]:
        if not second:
            output, found = first(*arrays)
            return output, [*found]
        again, (output, found) = jax.grad(slope, tuple(range(len(arrays))), has_aux=True)(*arrays)
        return output, [*found, *again]

    return jax.jit(everything)(*given)


def _theirs(
    torch: Any, function: Callable[..., Any], leaves: list[Any], names: list[str], second: bool
) -> tuple[Any, list]:
    """The same from torch."""
    places, given = _split(leaves)
    filled = [torch.tensor(leaf) if isinstance(leaf, np.ndarray) else leaf for leaf in leaves]
    arrays = [torch.tensor(array, requires_grad=True) for array in given]
    for place, array in zip(places, arrays):
        filled[place] = array
    output = _call(function, filled, names)

    def grad(of: Any, cotangent: Any = None, again: bool = False) -> list[Any]:
        if not of.requires_grad:
            return [torch.zeros_like(array) for array in arrays]
        found = torch.autograd.grad(of, arrays, cotangent, create_graph=again, allow_unused=True)
        return [torch.zeros_like(a) if g is None else g for g, a in zip(found, arrays)]

    first = grad(output, torch.tensor(normal(*output.shape, seed=1)), again=second)
    if not second:
        return output.detach(), first
    slope = sum((g * torch.tensor(normal(*g.shape, seed=2))).sum() for g in first)
    return output.detach(), [*(g.detach() for g in first), *grad(slope)]


def compare(
    torch: Any,
    ours: Callable[..., jax.Array],
    theirs: Callable[..., Any],
    *args: Any,
    second: bool = False,
    kinks: int = 0,
    tolerance: float = 1e-9,
    **kwargs: Any,
) -> None:
    """Asserts that a jitted `ours` and `theirs` agree on the numpy arrays among the arguments.

    The float64 arrays are differentiated, and twice if `second`; all others are passed as they are. The second
    derivative is not looked at in the last `kinks` places, where there is none.
    """
    leaves, names = [*args, *kwargs.values()], list(kwargs)
    output, derivatives = _ours(ours, leaves, names, second)
    expected, expected_derivatives = _theirs(torch, theirs, leaves, names, second)
    assert output.shape == tuple(expected.shape)
    assert str(output.dtype) == str(expected.dtype).removeprefix("torch.")
    np.testing.assert_allclose(output, expected.numpy(), rtol=tolerance, atol=tolerance)
    for i, (mine, its) in enumerate(zip(derivatives, expected_derivatives, strict=True)):
        smooth = slice(-kinks) if kinks and i >= len(derivatives) // 2 else ...
        np.testing.assert_allclose(mine[smooth], its.numpy(force=True)[smooth], rtol=tolerance, atol=tolerance)
