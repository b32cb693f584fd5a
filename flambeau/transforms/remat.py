"""`fb.checkpoint`: computes again what the backward pass needs, rather than keep it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar

import jax

from flambeau.core.module import Module
from flambeau.transforms._trace import Carried, Flat, entering

__all__ = ["checkpoint", "checkpoint_sequential"]

P = ParamSpec("P")
R = TypeVar("R")


def checkpoint(
    fun: Callable[P, R], *, policy: Callable[..., bool] | None = None, prevent_cse: bool = True
) -> Callable[P, R]:
    """The same function, whose intermediate values are computed again in the backward pass and so take no memory.

    State is written once, and random layers draw the same numbers both times.

    Args:
        fun: a function, or a module.
        policy: which intermediate values are kept all the same: one of `jax.checkpoint_policies`.
        prevent_cse: as in `jax.checkpoint`: whether XLA is kept from merging the two computations; not needed inside `fb.scan`.

    Example:
        >>> import jax.numpy as jnp
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> net = nn.Sequential(nn.Linear(2, 8), nn.Dropout(), nn.Linear(8, 1))
        >>> grads = fb.grad(lambda net: fb.checkpoint(net)(jnp.ones((3, 2))).sum())(net)
        >>> sorted(grads)
        ['0.bias', '0.weight', '2.bias', '2.weight']

    Source: https://docs.jax.dev/en/latest/_autosummary/jax.checkpoint.html
    """

    def once(args: Any, kwargs: Any) -> Any:
        flat = Flat((args, kwargs))

        def call(arrays: list[Any]) -> Any:
            args, kwargs = flat.rebuild(arrays)
            function: Callable[..., Any] = fun
            return function(*args, **kwargs)

        carried = Carried()
        run = jax.checkpoint(lambda arrays: carried.run(lambda: call(arrays)), policy=policy, prevent_cse=prevent_cse)
        return carried.commit(run(flat.arrays))

    def checkpointed(*args: P.args, **kwargs: P.kwargs) -> R:
        return entering(lambda: once(args, kwargs))

    return checkpointed if isinstance(fun, Module) else functools.wraps(fun)(checkpointed)


def checkpoint_sequential(functions: Iterable[Callable[..., Any]], segments: int, input: Any) -> Any:
    """Calls functions one after the other, in `segments` groups of which only the inputs are kept for the backward pass.

    Args:
        functions: an `nn.Sequential`, or functions and modules in order.
        segments: how many groups; as in PyTorch the last one is not checkpointed, for its values are needed right away.
        input: for the first function.

    Raises:
        ValueError: there is no segment, or there are more of them than functions.

    Example:
        >>> import jax.numpy as jnp
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> net = nn.Sequential(*(nn.Linear(4, 4) for _ in range(6)))
        >>> fb.checkpoint_sequential(net, 3, jnp.ones((2, 4))).shape
        (2, 4)

    Source: https://docs.pytorch.org/docs/2.13/checkpoint.html
    """
    functions = list(functions)
    if not 1 <= segments <= len(functions):
        raise ValueError(
            f"checkpoint_sequential: expected segments between 1 and {len(functions)}, the number of functions, got {segments}"
        )
    size = len(functions) // segments
    for start in range(0, size * (segments - 1), size):
        input = checkpoint(_chain(functions[start : start + size]))(input)
    return _chain(functions[size * (segments - 1) :])(input)


def _chain(functions: list[Callable[..., Any]]) -> Callable[[Any], Any]:
    def chained(value: Any) -> Any:
        for function in functions:
            value = function(value)
        return value

    return chained
