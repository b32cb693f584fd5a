"""`fb.grad` and `fb.value_and_grad`: derivatives with respect to modules and arrays, with state carried out."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flambeau._errors import DtypeError, ShapeError
from flambeau.core.capture import collect, commit, making, transparently
from flambeau.core.cell import Cell, Parameter, running
from flambeau.core.frame import Frame
from flambeau.core.gradients import Gradients
from flambeau.core.module import Module

__all__ = ["grad", "value_and_grad"]


class _Target:
    """One argument with respect to which is differentiated: a module stands for its trainable parameters."""

    def __init__(self, name: str, argument: Any) -> None:
        self.module = isinstance(argument, (Module, Parameter))
        self.argument = argument
        self.parameters: dict[str, Parameter] = {}
        if isinstance(argument, Module):
            self.parameters = {name: p for name, p in argument.named_parameters() if p.requires_grad}
            if not self.parameters:
                raise ValueError(
                    f"{name}: {type(argument).__name__} has no parameter with requires_grad=True to differentiate with "
                    f"respect to; call requires_grad_() on those that you want gradients of"
                )
        elif isinstance(argument, Parameter):
            self.parameters = {"": argument}
        for leaf in () if self.module else jax.tree.leaves(argument):
            if isinstance(leaf, (Module, Cell)):
                raise TypeError(
                    f"{name}: an argument that is differentiated is a module or holds arrays only; got a "
                    f"{type(leaf).__name__} inside of a {type(argument).__name__}. Put modules into an nn.ModuleList."
                )

    def values(self) -> Any:
        return [parameter.get() for parameter in self.parameters.values()] if self.module else self.argument

    def bind(self, frame: Frame, values: Any) -> Any:
        """Puts the differentiated values in place; gives the argument for the function."""
        if not self.module:
            return values
        frame.bind(self.parameters.values(), values)
        return self.argument

    def gradients(self, values: Any) -> Any:
        if isinstance(self.argument, Parameter):
            return values[0]
        if self.module:
            return Gradients(zip(self.parameters, values, strict=True), self.parameters)
        return values


def _check_inputs(name: str, inputs: list[Any], holomorphic: bool, allow_int: bool) -> None:
    expected = jnp.complexfloating if holomorphic else jnp.inexact
    for leaf in () if allow_int and not holomorphic else jax.tree.leaves(inputs):
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, expected):
            cure = "pass complex arrays, or leave holomorphic out" if holomorphic else "cast it, or pass allow_int=True"
            raise DtypeError(
                f"{name}: expected {expected.__name__} arrays to differentiate with respect to, got {dtype}; {cure}"
            )


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
    single = isinstance(argnums, int)
    numbers = (argnums,) if isinstance(argnums, int) else tuple(argnums)
    name = getattr(fun, "__name__", type(fun).__name__)

    @functools.wraps(fun)
    def differentiated(*args: Any, **kwargs: Any) -> Any:
        return making(lambda: once(*args, **kwargs))

    def once(*args: Any, **kwargs: Any) -> Any:
        if not args:
            raise TypeError(
                f"{name}: fb.grad differentiates with respect to positional argument {numbers[0]}, and there is none. "
                f"Pass the module: fb.value_and_grad(lambda net: ...)(net)"
            )
        positions = [n + len(args) if n < 0 else n for n in numbers]
        if not all(0 <= n < len(args) for n in positions):
            raise ValueError(f"{name}: argnums {argnums} does not fit a call with {len(args)} positional arguments")
        targets = [_Target(name, args[n]) for n in positions]
        frame = Frame()
        if running.frame is not None:
            for target in targets:
                if isinstance(target.argument, Module):
                    running.frame.require(target.argument)
        made: list[Any] = []

        def pure(differentiable: list[Any]) -> Any:
            with frame.active():
                given = list(args)
                for n, target, values in zip(positions, targets, differentiable, strict=True):
                    given[n] = target.bind(frame, values)
                result = fun(*given, **kwargs)
                value, aux = result if has_aux else (result, None)
                outcome, arrays, collector = collect(frame, aux)
            made.extend((outcome, collector))
            return value, arrays

        def both_passes() -> Any:
            inputs = [target.values() for target in targets]
            _check_inputs(name, inputs, holomorphic, allow_int)
            value, pull, arrays = jax.vjp(pure, inputs, has_aux=True)
            value = jnp.asarray(value) if isinstance(value, (int, float, complex, np.generic)) else value
            _check_value(name, value, holomorphic)
            # What the forward wrote is in place before backward hooks run, as in eager execution.
            outcome, collector = made
            aux = commit(frame, outcome, collector, arrays)
            (gradients,) = pull(jnp.ones_like(value))
            gradients = tuple(target.gradients(g) for target, g in zip(targets, gradients, strict=True))
            return ((value, aux) if has_aux else value), (gradients[0] if single else gradients)

        # A backward hook that raises takes back what the forward wrote, too.
        return transparently(both_passes)

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
