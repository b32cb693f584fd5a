"""`fb.grad` and `fb.value_and_grad`: derivatives with respect to modules and arrays, with state carried out."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from flambeau._errors import DtypeError, ShapeError
from flambeau.core.capture import making, transparently
from flambeau.core.literals import as_arrays
from flambeau.transforms._differentiation import Differentiated

__all__ = ["grad", "value_and_grad"]


def _check_value(name: str, value: Any, holomorphic: bool) -> None:
    if not isinstance(value, jax.Array):
        raise TypeError(
            f"{name}: expected a scalar to differentiate, got a {type(value).__name__}; "
            f"a function that returns more than its value needs has_aux=True and returns (value, aux)"
        )
    if value.shape != ():
        raise ShapeError(
            f"{name}: expected a scalar to differentiate, got {value.dtype}{list(value.shape)}; reduce it, as by .mean()"
        )
    expected = jnp.complexfloating if holomorphic else jnp.floating
    if not jnp.issubdtype(value.dtype, expected):
        raise DtypeError(f"{name}: expected a scalar of {expected.__name__} dtype to differentiate, got {value.dtype}")


def value_and_grad(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
) -> Callable[..., Any]:
    """The function that gives both `fun`'s value and its gradient.

    State that `fun` writes (BatchNorm statistics, lists, random keys) is written once, as when it runs without `grad`.

    Args:
        fun: gives a scalar, or with `has_aux` a pair of a scalar and anything.
        argnums: which positional arguments to differentiate with respect to; several give a tuple of gradients.
        has_aux: whether `fun` gives more than the value.
        holomorphic: whether `fun` is promised to be holomorphic.
        allow_int: whether integer arguments are allowed, as in `jax.grad`.

    Returns:
        A function that gives `(value, gradient)`, with `has_aux` `((value, aux), gradient)`. The gradient with respect to a
        module is a `Gradients`: a dict of its trainable parameters by `state_dict` name, a tied one once; with respect to
        arrays, arrays.

    Raises:
        ValueError: the module has no trainable parameter, or `argnums` does not fit the call.
        ShapeError: the value is no scalar.
        DtypeError: the value, or what is differentiated, is not of a floating (with `holomorphic`, complex) dtype.

    Example:
        >>> import jax.numpy as jnp
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> net = nn.Linear(2, 1)
        >>> loss, grads = fb.value_and_grad(lambda net: (net(jnp.ones((3, 2))) ** 2).mean())(net)
        >>> sorted(grads), grads["weight"].shape
        (['bias', 'weight'], (1, 2))

    Source: https://docs.jax.dev/en/latest/_autosummary/jax.value_and_grad.html
    """

    @functools.wraps(fun)
    def differentiated(*args: Any, **kwargs: Any) -> Any:
        # In a frame of its own: a backward hook that raises takes back what the forward wrote, too.
        return making(lambda: transparently(lambda: once(args, kwargs)))

    def once(args: Any, kwargs: Any) -> Any:
        call = Differentiated(fun, args, kwargs, argnums, has_aux, holomorphic, allow_int)
        value, pull, arrays = jax.vjp(call.pure, call.inputs, has_aux=True)
        value = as_arrays(value)
        _check_value(call.name, value, holomorphic)
        # What the forward wrote is in place before backward hooks run, as in eager execution.
        aux = call.commit(arrays)
        gradients = call.gradients(pull(jnp.ones_like(value))[0])
        return ((value, aux) if has_aux else value), (gradients[0] if call.single else gradients)

    return differentiated


def grad(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
) -> Callable[..., Any]:
    """The function that gives `fun`'s gradient; with `has_aux`, `(gradient, aux)`. See `value_and_grad`.

    Example:
        >>> import flambeau as fb
        >>> float(fb.grad(lambda x: x**3)(2.0))
        12.0

    Source: https://docs.jax.dev/en/latest/_autosummary/jax.grad.html
    """
    both = value_and_grad(fun, argnums, has_aux, holomorphic, allow_int)

    @functools.wraps(fun)
    def differentiated(*args: Any, **kwargs: Any) -> Any:
        value, gradients = both(*args, **kwargs)
        return (gradients, value[1]) if has_aux else gradients

    return differentiated
