"""What the derivatives have in common: what a function is differentiated with respect to, and how its state comes out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from flambeau._errors import DtypeError, StateError
from flambeau.core.cell import Cell, Parameter, running
from flambeau.core.frame import Frame
from flambeau.core.gradients import Gradients
from flambeau.core.literals import as_arrays
from flambeau.core.meta import Meta, no_value
from flambeau.core.module import Module
from flambeau.transforms._trace import Carried

__all__ = ["Differentiated", "name_of", "positions_of"]


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
        if not self.module:
            return self.argument
        values = [parameter.get() for parameter in self.parameters.values()]
        for value in values:
            if isinstance(value, Meta):
                raise StateError(no_value(value))
        return values

    def bind(self, frame: Frame, values: Any) -> Any:
        """Puts the differentiated values in place; gives the argument for the function."""
        if not self.module:
            return values
        frame.bind(self.parameters.values(), values)
        return self.argument

    def gradients(self, values: Any) -> Any:
        """Values for the parameters as the caller has them: by name."""
        if isinstance(self.argument, Parameter):
            return values[0]
        if self.module:
            return Gradients(zip(self.parameters, values, strict=True), self.parameters)
        return values

    def tangents(self, given: Any) -> Any:
        """The other way round: the caller's tangents in the order of `values`; zeros for parameters that are not named."""
        if isinstance(self.argument, Parameter):
            return [given]
        if not self.module:
            return given
        unknown = [name for name in given if name not in self.parameters]
        if unknown:
            known = ", ".join(self.parameters)
            raise KeyError(f"{type(self.argument).__name__} has no trainable parameter {unknown[0]!r}; it has {known}")
        return [given[n] if n in given else jnp.zeros(p.shape, p.dtype) for n, p in self.parameters.items()]


def name_of(fun: Callable[..., Any]) -> str:
    return getattr(fun, "__name__", type(fun).__name__)


def positions_of(name: str, argnums: int | Sequence[int], count: int) -> list[int]:
    """Which of `count` positional arguments `argnums` are."""
    numbers = [argnums] if isinstance(argnums, int) else list(argnums)
    if not count:
        raise TypeError(
            f"{name}: fb.grad differentiates with respect to positional argument {numbers[0]}, and there is none. "
            f"Pass the module: fb.value_and_grad(lambda net: ...)(net)"
        )
    positions = [n + count if n < 0 else n for n in numbers]
    if not all(0 <= n < count for n in positions):
        raise ValueError(f"{name}: argnums {argnums} does not fit a call with {count} positional arguments")
    return positions


class Differentiated:
    """One call of a function, as a pure function of what it is differentiated with respect to.

    Args:
        argnums: an argument's number, or several.
        has_aux: whether the function gives `(value, aux)`.
    """

    def __init__(
        self,
        fun: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        argnums: int | Sequence[int] = 0,
        has_aux: bool = False,
        holomorphic: bool = False,
        allow_int: bool = False,
    ) -> None:
        self.name = name_of(fun)
        self.fun, self.args, self.kwargs, self.has_aux = fun, args, kwargs, has_aux
        self.single = isinstance(argnums, int)
        self.positions = positions_of(self.name, argnums, len(args))
        self.targets = [_Target(self.name, args[n]) for n in self.positions]
        if running.frame is not None:
            for target in self.targets:
                if isinstance(target.argument, Module):
                    running.frame.require(target.argument)
        self.inputs = [target.values() for target in self.targets]
        _check_inputs(self.name, self.inputs, holomorphic, allow_int)
        self.carried = Carried()
        self.treedef: Any = None  # of the function's value

    def pure(self, inputs: list[Any]) -> tuple[Any, list[Any]]:
        """The value, and the arrays of what else there is: state, and `aux`."""
        values: list[Any] = []

        def call() -> Any:
            given = list(self.args)
            for n, target, value in zip(self.positions, self.targets, inputs, strict=True):
                given[n] = target.bind(self.carried.frame, value)
            result = self.fun(*given, **self.kwargs)
            value, aux = self._pair(result) if self.has_aux else (result, None)
            values.append(value)
            return aux

        arrays = self.carried.run(call)
        self.treedef = jax.tree.structure(values[0])
        return values[0], arrays

    def _pair(self, result: Any) -> tuple[Any, Any]:
        if not isinstance(result, tuple) or len(result) != 2:
            raise TypeError(f"{self.name}: has_aux=True expects (value, aux), got {type(result).__name__}")
        return result

    def commit(self, arrays: list[Any]) -> Any:
        """Puts state in place, and gives `aux`."""
        return self.carried.commit(arrays)

    def finish(self, value: Any, arrays: list[Any]) -> tuple[Any, Any]:
        """The same; gives the value too, as arrays."""
        return as_arrays(value), self.commit(arrays)

    def gradients(self, values: Sequence[Any]) -> tuple[Any, ...]:
        """Values for the inputs, as the caller has them."""
        return tuple(target.gradients(value) for target, value in zip(self.targets, as_arrays(values), strict=True))

    def tangents(self, given: Sequence[Any]) -> list[Any]:
        if len(given) != len(self.targets):
            raise ValueError(
                f"{self.name}: expected {len(self.targets)} tangents, one for each primal, got {len(given)}"
            )
        return [target.tangents(value) for target, value in zip(self.targets, given, strict=True)]

    def jacobian(self, values: Any) -> Any:
        """What JAX gives for a value that is a tree, with our gradients in it."""
        each = [self.gradients(inner) for inner in self.treedef.flatten_up_to(values)]
        return self.treedef.unflatten([inner[0] if self.single else inner for inner in each])


def _check_inputs(name: str, inputs: list[Any], holomorphic: bool, allow_int: bool) -> None:
    expected = jnp.complexfloating if holomorphic else jnp.inexact
    for leaf in () if allow_int and not holomorphic else jax.tree.leaves(inputs):
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, expected):
            cure = "pass complex arrays, or leave holomorphic out" if holomorphic else "cast it, or pass allow_int=True"
            raise DtypeError(
                f"{name}: expected {expected.__name__} arrays to differentiate with respect to, got {dtype}; {cure}"
            )
