"""A network of one library that does one thing, reached in one way: what a transform is tried on; and flambeau's."""

from __future__ import annotations

import copy
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

import flambeau as fb
from flambeau import nn
from flambeau.core import raw

__all__ = ["ACTIONS", "CLOSED", "GIVEN", "OURS", "PURE", "RAW", "Flambeau", "W", "World", "verb"]

# What the network does besides multiplying its input by a parameter, which is trained after the first call.
ACTIONS = {
    "reads": "reads a parameter, which is trained after the first call",
    "buffer": "writes a buffer: BatchNorm in training",
    "draws": "draws random numbers: Dropout in training",
    "list": "appends an array to a plain list",
    "static": "counts its calls in an `int`",
}

# How the transformed function gets at the network.
CLOSED = "closed over"
GIVEN = "an argument"
PURE = "the pure form"

W = (1.0, 2.0, 3.0)


class World(ABC):
    """A network and what belongs to it, as somebody holds it who writes a training loop.

    Args:
        action: one of `ACTIONS`.
        way: `CLOSED`, `GIVEN` or `PURE`.
    """

    threads = False
    """Whether a call returns the state that the next one takes."""
    possible = True
    """Whether one can write it so at all."""
    network: Any

    def __init__(self, action: str, way: str) -> None:
        self.action = action
        self.way = way

    @abstractmethod
    def given(self) -> Any:
        """The first argument of `call`."""

    @abstractmethod
    def call(self, given: Any, x: Any) -> tuple[Any, Any]:
        """What is transformed: gives the output, and the state if there is one to thread, else `()`."""

    @abstractmethod
    def state(self) -> Any:
        """All that there is to see, as a tree of arrays and numbers."""

    @property
    @abstractmethod
    def weight(self) -> Any:
        """The parameter."""

    @weight.setter
    @abstractmethod
    def weight(self, value: Any) -> None: ...

    def keep(self, state: Any) -> None:  # noqa: B027 (most keep nothing)
        """Takes the state that a call returned as that of the next one."""

    def take(self, pair: tuple[Any, Any]) -> Any:
        """The output of a call, whose state is kept."""
        output, state = pair
        self.keep(state)
        return output

    def carry(self, given: Any, state: Any) -> Any:
        """What a loop hands to its next step."""
        return state if self.threads else given

    def untouched(self, given: Any) -> Any:
        """The state that a call would return which does nothing."""
        return given if self.threads else ()

    def take_carried(self, given: Any, output: Any) -> Any:
        """The output of a loop, which leaves `given` for its next step."""
        return self.take((output, self.untouched(given)))

    def begin(self) -> None:  # noqa: B027
        """What is done before each input: where keys are arguments and yet closed over, there is another one."""

    def train(self) -> None:
        self.weight = 2 * self.weight

    # -- derivatives ----------------------------------------------------------------------------------------------------

    def differentiable(self, x: Any) -> tuple[Any, Callable[[Any], tuple[Any, Any]]]:
        """What derivatives are with respect to, and the call as a function of that."""
        given = self.given()
        if self.way == CLOSED:
            return x, lambda x: self.call(given, x)
        if self.way == PURE:
            return given[0], lambda trained: self.call((trained, given[1]), x)
        return given, lambda given: self.call(given, x)

    def tangent(self, target: Any) -> Any:
        """Ones like what derivatives are with respect to."""
        return jax.tree.map(ones_like, target)

    def of_weight(self, derivative: Any) -> Any:
        """Of a derivative with respect to `differentiable`, that with respect to the weight, or the input."""
        return derivative if self.way == CLOSED else self._entry(derivative)

    @abstractmethod
    def _entry(self, derivative: Any) -> Any: ...

    @contextmanager
    def trial(self) -> Iterator[Self]:
        """A copy to try something on."""
        yield copy.deepcopy(self)


def ones_like(leaf: Any) -> Any:
    """A tangent."""
    if isinstance(leaf, str):  # JAX says what it thinks of that
        return leaf
    floating = jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
    return jnp.ones_like(leaf) if floating else np.zeros(jnp.shape(leaf), jax.dtypes.float0)


def verb(home: Any, path: str) -> Callable[..., Any]:
    """The function of a dotted name in a module."""
    return functools.reduce(getattr, path.split("."), home)


class Net(nn.Module):
    def __init__(self, action: str) -> None:
        super().__init__()
        self.action = action
        self.w: Any = nn.Parameter(jnp.array(W))
        self.norm = nn.BatchNorm1d(3, affine=False) if action == "buffer" else nn.Identity()
        self.dropout = nn.Dropout(0.5 if action == "draws" else 0.0)
        self.trace: list[Any] = []
        self.calls = 0

    def forward(self, x: Any) -> Any:
        y = self.dropout(self.norm(x)) * self.w
        if self.action == "list":
            self.trace.append(y)
        elif self.action == "static":
            self.calls += 1
        return y


class Flambeau(World):
    """flambeau's; the pure form is `fb.functional_call`."""

    network: Net

    def __init__(self, action: str, way: str) -> None:
        super().__init__(action, way)
        fb.manual_seed(0)
        raw._warned = False  # each is a program of its own
        self.network = Net(action).to(jnp.result_type(float))
        self.threads = way == PURE
        if way == PURE:
            self.values = self._split(dict(self.network.state_dict()), jax.random.key(0))

    def _split(self, values: Mapping[str, Any], key: Any) -> tuple[dict[str, Any], tuple[dict[str, Any], Any]]:
        """The parameters; and the buffers with the key of the next call."""
        return {"w": values["w"]}, ({name: value for name, value in values.items() if name != "w"}, key)

    def given(self) -> Any:
        return {CLOSED: (), GIVEN: self.network, PURE: getattr(self, "values", None)}[self.way]

    def call(self, given: Any, x: Any) -> tuple[Any, Any]:
        if self.way == PURE:
            params, (buffers, key) = given
            key, drawn = jax.random.split(key)
            output, state = fb.functional_call(self.network, (params, buffers), x, key=drawn, return_state=True)
            return output, self._split(state, key)
        return (self.network if self.way == CLOSED else given)(x), ()

    def keep(self, state: Any) -> None:
        if self.way == PURE:
            self.values = state

    def state(self) -> Any:
        net = self.network
        return dict(net.state_dict()), net.trace, net.calls, fb.get_rng_state(), getattr(self, "values", ())

    @property
    def weight(self) -> Any:
        return self.values[0]["w"] if self.way == PURE else self.network.w

    @weight.setter
    def weight(self, value: Any) -> None:
        if self.way == PURE:
            self.values = {"w": value}, self.values[1]
        else:
            self.network.w = value

    def tangent(self, target: Any) -> Any:
        return {"w": jnp.ones(3)} if self.way == GIVEN else super().tangent(target)

    def _entry(self, derivative: Any) -> Any:
        return derivative["w"]

    @contextmanager
    def trial(self) -> Iterator[Self]:
        generator = fb.get_rng_state()
        try:
            yield copy.deepcopy(self)
        finally:
            fb.set_rng_state(generator)


RAW = {
    name.rpartition(".")[2]: verb(jax, name)
    for name in """jit grad value_and_grad vjp jvp jacrev vmap checkpoint lax.scan lax.map lax.fori_loop lax.while_loop
        lax.cond lax.switch eval_shape""".split()
}
OURS = {name: getattr(fb, name) for name in RAW}
