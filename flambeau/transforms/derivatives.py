"""Derivatives beyond `fb.grad`: products with Jacobians, and Jacobians whole; with state carried out."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax

from flambeau.transforms._differentiation import Differentiated
from flambeau.transforms._trace import entering

__all__ = ["hessian", "jacfwd", "jacrev", "jvp", "linearize", "vjp"]


def vjp(fun: Callable[..., Any], *primals: Any, has_aux: bool = False) -> Any:
    """The value of `fun(*primals)`, and the function that takes a cotangent of it to cotangents of the primals.

    State that `fun` writes is written once, now; the pullback may be called any number of times.

    Args:
        fun: a function of arrays and modules.
        primals: where it is called; a module stands for its trainable parameters.
        has_aux: whether `fun` gives `(value, aux)`.

    Returns:
        `(value, pullback)`, with `has_aux` `(value, pullback, aux)`. `pullback(cotangent)` is a tuple with one entry for each
        primal: a `Gradients` for a module, arrays for arrays.

    Raises:
        ValueError: a module has no trainable parameter.
        DtypeError: a primal is not of a floating or complex dtype.

    Example:
        >>> import jax.numpy as jnp
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> net = nn.Linear(2, 3)
        >>> y, pullback = fb.vjp(lambda net, x: net(x), net, jnp.ones(2))
        >>> grads, x_bar = pullback(jnp.ones(3))
        >>> grads["bias"].tolist(), x_bar.shape
        ([1.0, 1.0, 1.0], (2,))

    Source: https://docs.jax.dev/en/latest/_autosummary/jax.vjp.html
    """

    def once() -> Any:
        call = Differentiated(fun, primals, {}, range(len(primals)), has_aux)
        value, pull, arrays = jax.vjp(call.pure, call.inputs, has_aux=True)
        value, aux = call.finish(value, arrays)

        def pullback(cotangent: Any) -> tuple[Any, ...]:
            return entering(lambda: call.gradients(pull(cotangent)[0]))

        return (value, pullback, aux) if has_aux else (value, pullback)

    return entering(once)


def jvp(fun: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any], has_aux: bool = False) -> Any:
    """The value of `fun(*primals)`, and its derivative in the direction of `tangents`.

    Args:
        fun: a function of arrays and modules.
        primals: where it is called.
        tangents: for each primal a direction: arrays for arrays; for a module a dict by parameter name, where those that are
            not named have none.
        has_aux: whether `fun` gives `(value, aux)`.

    Returns:
        `(value, tangent)`, with `has_aux` `(value, tangent, aux)`.

    Raises:
        KeyError: a tangent for a parameter that the module does not have.
        ValueError: not as many tangents as primals.

    Example:
        >>> import flambeau as fb
        >>> y, y_dot = fb.jvp(lambda x: x**3, (2.0,), (1.0,))
        >>> float(y), float(y_dot)
        (8.0, 12.0)

    Source: https://docs.jax.dev/en/latest/_autosummary/jax.jvp.html
    """

    def once() -> Any:
        call = Differentiated(fun, tuple(primals), {}, range(len(primals)), has_aux)
        value, tangent, arrays = jax.jvp(call.pure, (call.inputs,), (call.tangents(tangents),), has_aux=True)
        value, aux = call.finish(value, arrays)
        return (value, tangent, aux) if has_aux else (value, tangent)

    return entering(once)


def linearize(fun: Callable[..., Any], *primals: Any, has_aux: bool = False) -> Any:
    """The value of `fun(*primals)`, and its derivative there as a function of tangents.

    Args:
        fun: a function of arrays and modules.
        primals: where it is called.
        has_aux: whether `fun` gives `(value, aux)`.

    Returns:
        `(value, pushforward)`, with `has_aux` `(value, pushforward, aux)`. `pushforward(*tangents)` takes tangents as `jvp`.

    Example:
        >>> import flambeau as fb
        >>> y, pushforward = fb.linearize(lambda x: x**3, 2.0)
        >>> float(pushforward(1.0)), float(pushforward(10.0))
        (12.0, 120.0)

    Source: https://docs.jax.dev/en/latest/_autosummary/jax.linearize.html
    """

    def once() -> Any:
        call = Differentiated(fun, primals, {}, range(len(primals)), has_aux)
        value, push, arrays = jax.linearize(call.pure, call.inputs, has_aux=True)
        value, aux = call.finish(value, arrays)

        def pushforward(*tangents: Any) -> Any:
            return push(call.tangents(tangents))

        return (value, pushforward, aux) if has_aux else (value, pushforward)

    return entering(once)


def _jacobian(transform: Callable[..., Any], fun: Any, argnums: Any, has_aux: bool, options: dict[str, bool]) -> Any:
    def once(args: Any, kwargs: Any) -> Any:
        call = Differentiated(fun, args, kwargs, argnums, has_aux, **options)
        values, arrays = transform(call.pure, has_aux=True, **options)(call.inputs)
        aux = call.commit(arrays)
        jacobian = call.jacobian(values)
        return (jacobian, aux) if has_aux else jacobian

    @functools.wraps(fun)
    def differentiated(*args: Any, **kwargs: Any) -> Any:
        return entering(lambda: once(args, kwargs))

    return differentiated


def jacrev(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
) -> Callable[..., Any]:
    """The function that gives `fun`'s Jacobian, by reverse-mode differentiation: for values of few elements.

    Args:
        fun: gives an array or a tree of arrays.
        argnums: which positional arguments to differentiate with respect to.
        has_aux: whether `fun` gives `(value, aux)`; then so does the result.
        holomorphic: whether `fun` is promised to be holomorphic.
        allow_int: whether integer arguments are allowed.

    Returns:
        A function. For each array of the value: with respect to an array, an array of the value's axes and then the
        argument's; with respect to a module, a `Gradients` of such by parameter name.

    Example:
        >>> import jax.numpy as jnp
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> net = nn.Linear(2, 3)
        >>> jacobian = fb.jacrev(lambda net: net(jnp.ones(2)))(net)
        >>> {name: each.shape for name, each in jacobian.items()}
        {'weight': (3, 3, 2), 'bias': (3, 3)}

    Source: https://docs.jax.dev/en/latest/_autosummary/jax.jacrev.html
    """
    return _jacobian(jax.jacrev, fun, argnums, has_aux, {"holomorphic": holomorphic, "allow_int": allow_int})


def jacfwd(
    fun: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False, holomorphic: bool = False
) -> Callable[..., Any]:
    """The function that gives `fun`'s Jacobian, by forward-mode differentiation: for arguments of few elements. See `jacrev`.

    Example:
        >>> import jax.numpy as jnp
        >>> import flambeau as fb
        >>> fb.jacfwd(lambda x: x**2)(jnp.arange(2.0)).tolist()
        [[0.0, 0.0], [0.0, 2.0]]

    Source: https://docs.jax.dev/en/latest/_autosummary/jax.jacfwd.html
    """
    return _jacobian(jax.jacfwd, fun, argnums, has_aux, {"holomorphic": holomorphic})


def hessian(
    fun: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False, holomorphic: bool = False
) -> Callable[..., Any]:
    """The function that gives `fun`'s Hessian: `jacfwd` of `jacrev`. With respect to a module, a dict of dicts.

    Example:
        >>> import jax.numpy as jnp
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> net = nn.Linear(2, 1)
        >>> second = fb.hessian(lambda net: (net(jnp.ones(2)) ** 2).sum())(net)
        >>> second["bias"]["weight"].tolist()
        [[[2.0, 2.0]]]

    Source: https://docs.jax.dev/en/latest/_autosummary/jax.hessian.html
    """
    return jacfwd(jacrev(fun, argnums, has_aux, holomorphic), argnums, has_aux, holomorphic)
