"""Runs a random program in one way or another, and compares what comes of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

import flambeau as fb
from flambeau._errors import StateError
from flambeau.core.module import Module
from flambeau.core.random import default_generator, manual_seed
from flambeau.transforms.grad import grad, value_and_grad
from flambeau.transforms.jit import Jitted, jit
from tests.transforms.programs import Program
from tests.transforms.statements import PRELUDE
from tests.transforms.states import Observer, assert_same

__all__ = ["TRANSFORMS", "Call", "Runner", "compare", "unforeseen"]

UNKNOWN = "StateError: known only at run time"
# What a statement in a branch that is not taken may raise: those that delete, pop and call what is not there.
FROM_A_BRANCH = ("Boom", "AttributeError", "KeyError", "IndexError", "TypeError", "ValueError")


def with_rules(f: Any) -> tuple[Any, Any]:
    """A function of a module and an array, twice, with rules that say what its derivative is."""

    def fwd(m: Any, v: Any) -> Any:
        return value_and_grad(f, argnums=(0, 1))(m, v)

    def bwd(gradients: Any, loss_bar: Any) -> Any:
        return {name: loss_bar * g for name, g in gradients[0].items()}, loss_bar * gradients[1]

    back, forth = fb.custom_vjp(f), fb.custom_jvp(f)
    back.defvjp(fwd, bwd)
    forth.defjvp(lambda primals, tangents: fb.jvp(f, primals, tangents))
    return back, forth


def hessian_sum(f: Any) -> Any:
    """The Hessian of a scalar function times ones."""
    return lambda v: fb.hessian(f)(v).sum(tuple(range(v.ndim)))


prelude: dict[str, Any] = {}
exec(PRELUDE, prelude)

TRANSFORMS = {
    "checkpoint": fb.checkpoint, "jacrev": fb.jacrev, "jacfwd": fb.jacfwd, "jvp": fb.jvp, "linearize": fb.linearize,
    "vjp": fb.vjp, "scan": fb.scan, "fori_loop": fb.fori_loop, "while_loop": fb.while_loop, "cond": fb.cond,
    "switch": fb.switch, "vmap": fb.vmap, "eval_shape": fb.eval_shape,
    "scan_layers": fb.scan_layers, "with_rules": with_rules, "hessian_sum": hessian_sum,
    "ensemble": fb.vmap(prelude["Affine"], in_axes=None, axis_size=2),
    "all_of": lambda modules, v: fb.vmap(lambda module, v: module(v), in_axes=(0, None))(modules, v).sum(0),
    "map": lambda f, xs, reverse=False: fb.scan(lambda _, x: (0, f(x)), 0, xs, reverse=reverse)[1],
}  # fmt: skip


def plain_scan(f: Any, init: Any, xs: Any = None, length: int | None = None, reverse: bool = False) -> Any:
    count: Any = length if xs is None else len(xs)
    carry, ys = init, {}
    for i in reversed(range(count)) if reverse else range(count):
        carry, ys[i] = f(carry, None if xs is None else xs[i])
    return carry, jnp.stack([jnp.asarray(ys[i]) for i in range(count)])


def plain_while(condition: Any, body: Any, value: Any) -> Any:
    while condition(value):
        value = body(value)
    return value


def plain_fori(lower: int, upper: int, body: Any, value: Any) -> Any:
    for i in range(lower, upper):
        value = body(jnp.asarray(i), value)
    return value


def plain_map(f: Any, xs: Any, reverse: bool = False) -> Any:
    return plain_scan(lambda _, x: (None, f(x)), None, xs, reverse=reverse)[1]


def plain_jvp(f: Any, primals: Any, tangents: Any) -> Any:
    value, gradient = value_and_grad(f)(*primals)
    return value, jnp.sum(gradient * tangents[0])


def plain_linearize(f: Any, x: Any) -> Any:
    value, gradient = value_and_grad(f)(x)
    return value, lambda tangent: jnp.sum(gradient * tangent)


def plain_vjp(f: Any, x: Any) -> Any:
    value, gradient = value_and_grad(f)(x)
    return value, lambda cotangent: (gradient * cotangent,)


def plain_switch(index: Any, branches: Any, *operands: Any) -> Any:
    return branches[min(int(index), len(branches) - 1)](*operands)


def plain_layers(layers: Any, v: Any, **_: Any) -> Any:
    for layer in layers:
        v = layer(v)
    return v


def plain_vmap(f: Any, **_: Any) -> Any:
    """Of functions that only multiply by what is mapped, and for an axis that begins with 1."""
    return lambda xs: f(xs[0]) * xs


# What they do in plain Python; derivatives of a scalar by way of `fb.grad`.
PLAIN = {
    "checkpoint": lambda f: f, "jacrev": grad, "jacfwd": grad, "jvp": plain_jvp, "linearize": plain_linearize,
    "vjp": plain_vjp, "scan": plain_scan, "fori_loop": plain_fori, "while_loop": plain_while, "map": plain_map,
    "cond": lambda p, f, g, *operands: f(*operands) if p else g(*operands), "switch": plain_switch,
    "vmap": plain_vmap, "scan_layers": plain_layers, "with_rules": lambda f: (f, f),
    "hessian_sum": lambda f: grad(lambda v: jnp.sum(grad(f)(v))),
    "eval_shape": lambda *_: None,  # it leaves nothing behind
    "ensemble": lambda: [prelude["Affine"](), prelude["Affine"]()],
    "all_of": lambda modules, v: sum(module(v) for module in modules),
}  # fmt: skip


class Call(NamedTuple):
    """What one call gave, and everything as it was afterwards."""

    result: Any  # (value, aux), or the name of the exception
    state: Any
    gradients: Any = None

    @property
    def raised(self) -> bool:
        return isinstance(self.result, str)


class Runner:
    """Runs a program in one way, world after world: compiled or not, with its gradient or without."""

    def __init__(
        self,
        program: Program,
        *,
        compiled: bool = False,
        differentiated: bool = False,
        transformed: bool = False,
        transforms: Mapping[str, Any] = TRANSFORMS,
    ) -> None:
        self.program = program
        self.compiled = compiled
        self.differentiated = differentiated
        self.transformed = transformed or compiled
        self.namespace: dict[str, Any] = {
            **prelude,
            **(transforms if self.transformed else PLAIN),
            "jit": jit if compiled else lambda fun: fun,
            "grad": grad,
            "value_and_grad": value_and_grad,
            "leaving_nothing": contextlib.suppress(Exception),
        }
        exec(program.source(), self.namespace)
        self.shared: Callable[..., Any] | None = None

    def compilations(self) -> int:
        """How often the shared function was compiled so far; functions that it makes anew inside are not counted."""
        assert isinstance(self.shared, Jitted)
        return sum(len(variants) for variants in self.shared._programs.values())

    def _function(self, world: Any) -> Callable[..., Any]:
        if self.shared is not None:
            return self.shared
        function = self.namespace["build"](world)[self.differentiated]
        if self.compiled:
            function = jit(function)
        if self.program.shared:
            self.shared = function
        return function

    def run(self, prepare: Callable[[Module], Any] = lambda net: None) -> list[Call]:
        """The calls on a new world, with what the user does between them; `prepare` is done to its module before.

        A plain function that raises half-way leaves what it wrote until then. A transform leaves everything as it was, so
        the plain program is run again without the calls that raise.
        """
        leaves_half = not (self.compiled or self.differentiated or self.program.is_module_call)
        raised: dict[int, str] = {}
        while True:
            calls = self._calls(prepare, raised)
            new = {i: call.result for i, call in enumerate(calls) if call.raised and i not in raised}
            if not (leaves_half and new):
                return calls
            first = min(new)
            raised[first] = new[first]

    def _calls(self, prepare: Callable[[Module], Any], raised: dict[int, str]) -> list[Call]:
        manual_seed(0)
        world = self.namespace["make"]()
        prepare(world.net)
        function = self._function(world)
        observer = Observer(holds=self.program.holds)
        calls = []
        for i, source in enumerate(self.program.inputs):
            self.namespace["other"], self.namespace["optimizer"] = world.other, world.optimizer
            x = eval(source, self.namespace)
            observer.hold(x)
            call = (
                Call(raised[i], None)
                if i in raised
                else self._call(function, self.namespace["arguments"](world, x), observer)
            )
            calls.append(
                call._replace(state=observer.state(world.net, world.other, world.optimizer, default_generator))
            )
            with contextlib.suppress(Exception):  # the user's own mistakes
                self.namespace["between"](i, world, x)
        observer.check_held()
        return calls

    def _call(self, function: Callable[..., Any], arguments: tuple[Any, ...], observer: Observer) -> Call:
        try:
            result = function(*arguments)
        except Exception as error:
            unknown = isinstance(error, StateError) and "known only at run time" in str(error)
            return Call(UNKNOWN if unknown else type(error).__name__, None)
        if not self.differentiated:
            return Call(observer.result(result), None)
        return Call(observer.result(result[0]), None, observer.result(result[1]))


def compare(name: str, expected: list[Call], got: list[Call], instead: Collection[str] = ()) -> None:
    """Raises unless all calls agree.

    Args:
        instead: errors that may come in the place of what eager execution does. Nothing after such a one is compared.
    """
    for i, (a, b) in enumerate(zip(expected, got)):
        if b.raised and b.result in instead and not (a.raised and a.result == b.result):
            return
        assert_same(a.result, b.result, f"{name}, call {i}, result")
        assert_same(a.state, b.state, f"{name}, call {i}, state")
        if a.gradients is not None:
            assert_same(a.gradients, b.gradients, f"{name}, call {i}, gradients")


def unforeseen(program: Program) -> tuple[str, ...]:
    """The errors that a transformed program may raise where the plain one raises none, or another.

    What happens may be known only at run time; or they come from the branch that eager execution does not take.
    """
    return (UNKNOWN, *FROM_A_BRANCH) if program.branches else ()
