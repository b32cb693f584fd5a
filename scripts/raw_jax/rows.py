"""The transforms, each with a program that uses it on a world, and with what Python makes of the same program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from scripts.raw_jax.worlds import GIVEN, PURE, World

__all__ = ["MEANINGS", "ROWS", "Expected", "Row"]

Run = Callable[[Any], Any]
STEPS = 2


@dataclass(frozen=True)
class Row:
    """A transform.

    `build(verb, world)` writes the program once, as a user does at the top of a file, and gives what runs it on an input.
    `meaning` names, in `MEANINGS`, what it is in Python; `result` makes the result of what that gives, if it is another.
    """

    name: str
    meaning: str
    build: Callable[[Any, World], Run]
    result: Callable[..., Any] | None = None

    def applies(self, world: World) -> bool:
        """Whether there is such a program: `map` takes no argument besides the elements."""
        return world.possible and not (self.name == "map" and world.way == GIVEN)

    def meaning_in(self, world: World) -> str:
        # `map` of the pure form hands each element the same state.
        return "lanes" if self.name == "map" and world.way == PURE else self.meaning


ROWS: list[Row] = []


def row(name: str, meaning: str, result: Callable[..., Any] | None = None) -> Callable[[Any], Any]:
    def add(build: Callable[[Any, World], Run]) -> Callable[[Any, World], Run]:
        ROWS.append(Row(name, meaning, build, result))
        return build

    return add


def called(world: World) -> Callable[[Any, Any], Any]:
    """One function object for all calls, by which JAX knows it again."""
    return lambda given, x: world.call(given, x)


def several(x: Any) -> Any:
    return jnp.stack([x, x + 1])


# -- the programs -----------------------------------------------------------------------------------------------------


@row("checkpoint", "once")
@row("jit", "once")
def whole(verb: Any, world: World) -> Run:
    run = verb(called(world))
    return lambda x: world.take(run(world.given(), x))


def squared(function: Any) -> Any:
    """A loss."""

    def loss(target: Any) -> Any:
        y, state = function(target)
        return (y**2).sum(), state

    return loss


@row("grad", "jacobian", lambda y, slope: np.tensordot(2 * y, slope, y.ndim))
def grad(verb: Any, world: World) -> Run:
    def run(x: Any) -> Any:
        target, function = world.differentiable(x)
        return world.of_weight(world.take(verb(squared(function), has_aux=True)(target)))

    return run


@row("value_and_grad", "jacobian", lambda y, slope: ((y**2).sum(), np.tensordot(2 * y, slope, y.ndim)))
def value_and_grad(verb: Any, world: World) -> Run:
    def run(x: Any) -> Any:
        target, function = world.differentiable(x)
        (value, state), gradient = verb(squared(function), has_aux=True)(target)
        return world.take((value, state)), world.of_weight(gradient)

    return run


@row("vjp", "jacobian", lambda y, slope: (y, slope.sum(tuple(range(y.ndim)))))
def vjp(verb: Any, world: World) -> Run:
    def run(x: Any) -> Any:
        target, function = world.differentiable(x)
        y, pull, state = verb(function, target, has_aux=True)
        (gradient,) = pull(jnp.ones_like(y))
        return world.take((y, state)), world.of_weight(gradient)

    return run


@row("jvp", "jacobian", lambda y, slope: (y, slope.sum(tuple(range(y.ndim, slope.ndim)))))
def jvp(verb: Any, world: World) -> Run:
    def run(x: Any) -> Any:
        target, function = world.differentiable(x)
        y, direction, state = verb(function, (target,), (world.tangent(target),), has_aux=True)
        return world.take((y, state)), direction

    return run


@row("jacrev", "jacobian", lambda y, slope: slope)
def jacrev(verb: Any, world: World) -> Run:
    def run(x: Any) -> Any:
        target, function = world.differentiable(x)
        return world.of_weight(world.take(verb(function, has_aux=True)(target)))

    return run


@row("vmap", "lanes")
def vmap(verb: Any, world: World) -> Run:
    run = verb(called(world), in_axes=(None, 0))
    return lambda x: run(world.given(), several(x))


@row("scan", "loop")
def scan(verb: Any, world: World) -> Run:
    def step(given: Any, x: Any) -> Any:
        y, state = world.call(given, x)
        return world.carry(given, state), y

    def run(x: Any) -> Any:
        given, ys = verb(step, world.given(), several(x))
        return world.take_carried(given, ys)

    return run


@row("map", "loop")
def map_(verb: Any, world: World) -> Run:
    def run(x: Any) -> Any:
        given = world.given()
        return verb(lambda x: world.call(given, x), several(x))

    return run


@row("fori_loop", "power")
def fori_loop(verb: Any, world: World) -> Run:
    def body(i: Any, carry: Any) -> Any:
        y, state = world.call(*carry)
        return world.carry(carry[0], state), y

    def run(x: Any) -> Any:
        given, y = verb(0, STEPS, body, (world.given(), x))
        return world.take_carried(given, y)

    return run


@row("while_loop", "power")
def while_loop(verb: Any, world: World) -> Run:
    def more(carry: Any) -> Any:
        return carry[0] < STEPS

    def body(carry: Any) -> Any:
        i, given, x = carry
        y, state = world.call(given, x)
        return i + 1, world.carry(given, state), y

    def run(x: Any) -> Any:
        _, given, y = verb(more, body, (0, world.given(), x))
        return world.take_carried(given, y)

    return run


def otherwise(world: World) -> Callable[[Any, Any], Any]:
    """The branch that is not taken."""
    return lambda given, x: (x, world.untouched(given))


@row("cond", "once")
def cond(verb: Any, world: World) -> Run:
    taken, other = called(world), otherwise(world)
    return lambda x: world.take(verb(True, taken, other, world.given(), x))


@row("switch", "once")
def switch(verb: Any, world: World) -> Run:
    branches = [otherwise(world), called(world)]
    return lambda x: world.take(verb(1, branches, world.given(), x))


@row("eval_shape", "shape")
def eval_shape(verb: Any, world: World) -> Run:
    run = called(world)
    return lambda x: jax.tree.map(lambda a: np.array(a.shape), verb(run, world.given(), x)[0])


# -- the same in Python -----------------------------------------------------------------------------------------------


@dataclass
class Expected:
    """What running a program in Python gives: the state is None if there is none that all elements agree on."""

    result: Any
    state: Any


def call_once(world: World, x: Any) -> Any:
    return world.take(world.call(world.given(), x))


def once(world: World, x: Any) -> Expected:
    return Expected(call_once(world, x), seen(world.state()))


def loop(world: World, x: Any) -> Expected:
    ys = [call_once(world, each) for each in several(x)]
    return Expected(jnp.stack(ys), seen(world.state()))


def power(world: World, x: Any) -> Expected:
    for _ in range(STEPS):
        x = call_once(world, x)
    return Expected(x, seen(world.state()))


def lanes(world: World, x: Any) -> Expected:
    """Each element begins with the same state, and what all of them leave is left."""
    pairs, states = [], []
    for each in several(x):
        with world.trial() as copy:
            pairs.append(copy.call(copy.given(), each))
            states.append(seen(copy.state()))
    agreed = all(same(states[0], state) for state in states)
    world.call(world.given(), x)
    return Expected(jax.tree.map(lambda *parts: jnp.stack(parts), *pairs), seen(world.state()) if agreed else None)


def shape(world: World, x: Any) -> Expected:
    with world.trial() as copy:
        found = np.array(call_once(copy, x).shape)
    return Expected(found, seen(world.state()))


def jacobian(world: World, x: Any) -> Expected:
    """The output, and its derivative with respect to the input or, of what is no closure, the weight."""
    step, of_input = 1e-3, world.differentiable(x)[0] is x
    target = np.asarray(x if of_input else world.weight)

    def output(change: Any) -> Any:
        with world.trial() as copy:
            if not of_input:
                copy.weight = copy.weight + change
            return np.asarray(call_once(copy, x + change if of_input else x))

    changes = step * np.eye(target.size).reshape(-1, *target.shape)
    slopes = [(output(change) - output(-change)) / (2 * step) for change in changes]
    y = np.asarray(call_once(world, x))
    return Expected((y, np.stack(slopes, -1).reshape(*y.shape, *target.shape)), seen(world.state()))


MEANINGS: dict[str, Callable[[World, Any], Expected]] = {
    each.__name__: each for each in (once, loop, power, lanes, shape, jacobian)
}


def seen(state: Any) -> Any:
    """A state, or a result, as numbers that stay as they are."""
    return jax.tree.map(_number, state)


def _number(leaf: Any) -> Any:
    if isinstance(leaf, Tracer):
        return leaf
    keys = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.array(jax.random.key_data(leaf) if keys else leaf)


def same(expected: Any, got: Any) -> bool:
    """Whether two trees hold the same numbers, but for the errors of finite differences."""
    ours, theirs = jax.tree.leaves(expected), jax.tree.leaves(got)
    return len(ours) == len(theirs) and all(
        np.shape(a) == np.shape(b) and np.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(ours, theirs)
    )
