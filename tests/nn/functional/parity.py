"""How a function of `nn.functional` is held against its torch twin: value, gradient, second derivative and dtype."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["compare", "normal"]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    """Numbers around zero, the same for each run."""
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def _split(leaves: list[Any]) -> tuple[list[int], list[Any]]:
    """Which of the leaves are differentiated: the float64 arrays."""
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, np.ndarray) and leaf.dtype == np.float64]
    return places, [leaves[i] for i in places]


def _call(function: Callable[..., Any], leaves: list[Any], names: list[str]) -> Any:
    """Calls with the last leaves by their names."""
    count = len(leaves) - len(names)
    return function(*leaves[:count], **dict(zip(names, leaves[count:])))


def _ours(function: Callable[..., jax.Array], leaves: list[Any], names: list[str], second: bool) -> tuple[Any, list[Any]]:
    """Value, gradients against fixed cotangents, and the gradients of those, all from one compiled function."""
    places, given = _split(leaves)

    def value(*arrays: jax.Array) -> jax.Array:
        filled = [jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf for leaf in leaves]
        for place, array in zip(places, arrays):
            filled[place] = array
        return _call(function, filled, names)

    def gradients(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        output, pull = jax.vjp(value, *arrays)
        return pull(jnp.asarray(normal(*output.shape, seed=1), output.dtype))

    def slope(*arrays: jax.Array) -> jax.Array:
        found = gradients(*arrays)
        return sum((jnp.sum(g * normal(*g.shape, seed=2)) for g in found), jnp.zeros(()))

    @jax.jit
    def everything(*arrays: jax.Array) -> tuple[Any, ...]:
        every = tuple(range(len(arrays)))
        return value(*arrays), gradients(*arrays), jax.grad(slope, every)(*arrays) if second else ()

    output, first, again = everything(*given)
    return output, [*first, *again]


def _theirs(torch: Any, function: Callable[..., Any], leaves: list[Any], names: list[str], second: bool) -> tuple[Any, list]:
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
    tolerance: float = 1e-9,
    **kwargs: Any,
) -> None:
    """Asserts that a jitted `ours` and `theirs` agree on the numpy arrays among the arguments.

    The float64 arrays are differentiated, and twice if `second`; all other leaves are passed as they are.
    """
    leaves, names = [*args, *kwargs.values()], list(kwargs)
    output, derivatives = _ours(ours, leaves, names, second)
    expected, expected_derivatives = _theirs(torch, theirs, leaves, names, second)
    assert output.shape == tuple(expected.shape)
    assert str(output.dtype) == str(expected.dtype).removeprefix("torch.")
    np.testing.assert_allclose(output, expected.numpy(), rtol=tolerance, atol=tolerance)
    for mine, its in zip(derivatives, expected_derivatives, strict=True):
        np.testing.assert_allclose(mine, its.numpy(), rtol=tolerance, atol=tolerance)
