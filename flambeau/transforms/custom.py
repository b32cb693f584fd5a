"""`fb.custom_vjp` and `fb.custom_jvp`: functions with a derivative rule of one's own, for modules and arrays."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero, zero_from_primal

from flambeau._errors import DtypeError, ShapeError, StateError
from flambeau.core.frame import Frame
from flambeau.core.suggest import suggestion
from flambeau.transforms._changes import changes
from flambeau.transforms._custom import Call, Custom, Program, Programs, inexact, tracers_of
from flambeau.transforms._trace import Block, Flat

__all__ = ["custom_jvp", "custom_vjp"]

P = ParamSpec("P")
R = TypeVar("R")


class custom_vjp(Custom[P, R]):
    """A function whose reverse-mode derivative is given by a rule: see `defvjp`.

    Outside of differentiation it runs as it stands. Under `fb.grad` and its kin, in whatever else they are nested, the rule
    takes the place of its derivative. Under a transform the function and its rule are traced, as by `fb.scan`. With
    `fb.jvp`, and others of forward mode, it raises, as in JAX.

    The derivative is one with respect to its arguments. If one with respect to something else that it depends on is asked
    for (a parameter of a module that it closes over), there is an error: pass the module as an argument. What it writes to
    modules is written once, and is a constant to derivatives, like what `jax.lax.stop_gradient` gives.

    Args:
        fun: a function of arrays, modules, trees of them, and Python values, which gives arrays. It may close over modules
            and draw random numbers.
        nondiff_argnums: positions of arguments that the rule's cotangents leave out, such as functions. `bwd` gets them first.

    Raises:
        AttributeError: it is called and no rule is defined.
        StateError: the rule leaves modules otherwise than `fun`, or `bwd` writes state, or a derivative is asked for that
            the rule does not give.

    Example:
        >>> import jax.numpy as jnp
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> @fb.custom_vjp
        ... def quantized(net, x):  # rounds, and is differentiated as if it did not
        ...     return x @ jnp.round(net.weight).T
        >>> def fwd(net, x):
        ...     return quantized(net, x), (net, x)
        >>> def bwd(residuals, y_bar):
        ...     net, x = residuals
        ...     return {"weight": y_bar.T @ x}, y_bar @ net.weight
        >>> quantized.defvjp(fwd, bwd)
        >>> grads = fb.grad(lambda net: quantized(net, jnp.ones((1, 2))).sum())(nn.Linear(2, 1, bias=False))
        >>> grads["weight"].tolist()
        [[1.0, 1.0]]

    Source: https://docs.jax.dev/en/latest/_autosummary/jax.custom_vjp.html
    """

    kind = "custom_vjp"

    def defvjp(self, fwd: Callable[..., tuple[R, Any]], bwd: Callable[..., Any]) -> None:
        """Defines the rule.

        Args:
            fwd: takes what the function takes, and gives `(result, residuals)`. It leaves modules as the function does. The
                residuals are a tree of arrays, modules and Python values.
            bwd: takes the residuals and the cotangent of the result, and gives a tuple with one entry for each argument:
                arrays for arrays; for a module a dict of arrays by the names of its `named_parameters()`, where those that
                are not named have none; None where there is none at all. It finds modules as `fwd` left them, and may
                write nothing. A random number that it needs is drawn in `fwd` and kept in the residuals.
        """
        self.rules = (fwd, bwd)

    def call(self, args: tuple[Any, ...], flat: Flat) -> Call:
        return _ReverseCall(self, args, flat)


class custom_jvp(Custom[P, R]):
    """A function whose derivative is given by a rule in forward mode: see `defjvp`.

    Reverse mode follows from it, since the rule is linear in the tangents. All else is as for `custom_vjp`.

    Args:
        fun: a function of arrays, modules, trees of them, and Python values, which gives arrays. It may close over modules
            and draw random numbers.
        nondiff_argnums: positions of arguments without tangents, such as functions. The rule gets them first.

    Raises:
        AttributeError: it is called and no rule is defined.
        StateError: the rule leaves modules otherwise than `fun`, or a derivative is asked for that the rule does not give.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import flambeau as fb
        >>> @fb.custom_jvp
        ... def log1pexp(x):
        ...     return jnp.log(1 + jnp.exp(x))
        >>> @log1pexp.defjvp
        ... def _(primals, tangents):
        ...     (x,), (x_dot,) = primals, tangents
        ...     return log1pexp(x), x_dot * jax.nn.sigmoid(x)
        >>> float(fb.grad(log1pexp)(100.0))
        1.0

    Source: https://docs.jax.dev/en/latest/_autosummary/jax.custom_jvp.html
    """

    kind = "custom_jvp"

    def defjvp(self, jvp: Callable[..., tuple[R, Any]]) -> Callable[..., tuple[R, Any]]:
        """Defines the rule.

        Args:
            jvp: takes a tuple of primals, the arguments, and a tuple of tangents, and gives `(result, tangent)`, where the
                tangent is a tree of arrays like the result. The tangent of an array is an array; of a module, a dict of
                arrays by the names of its `named_parameters()`; of any other thing, None. It leaves modules as the
                function does.

        Returns:
            The rule, so that this serves as a decorator.
        """
        self.rules = (jvp,)
        return jvp

    def defjvps(self, *jvps: Callable[..., Any] | None) -> None:
        """Defines the rule by one function for each argument, whose sum is the tangent.

        Args:
            jvps: functions of the argument's tangent, the result, and then the arguments, `jvp(tangent, result, *primals)`;
                None for an argument that the result does not depend on.

        Raises:
            TypeError: there are `nondiff_argnums`.
        """
        if self.nondiff_argnums:
            raise TypeError(f"{self.title}: defjvps knows no nondiff_argnums; take defjvp")

        def rule(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
            result = cast(Any, self)(*primals)
            parts = [jvp(t, result, *primals) for jvp, t in zip(jvps, tangents, strict=True) if jvp is not None]
            zero = jax.tree.map(jnp.zeros_like, result)
            return result, jax.tree.map(lambda *each: functools.reduce(operator.add, each), zero, *parts)

        self.defjvp(rule)

    def call(self, args: tuple[Any, ...], flat: Flat) -> Call:
        return _ForwardCall(self, args, flat)


class _ForwardCall(Call):
    """One call of a function with a rule in forward mode."""

    def rule_arrays(self) -> list[Any]:
        avals = self.block.traced.closed.in_avals
        tangents = [jax.ShapeDtypeStruct(avals[i].shape, avals[i].dtype) for i in self.programs.wrt]
        return [*self.flat.arrays, *tangents]

    def rule(self, arrays: list[Any]) -> Any:
        count, avals = len(self.flat.arrays), self.block.traced.closed.in_avals
        args = self.flat.rebuild(arrays[:count])
        given = dict(zip(self.programs.wrt, arrays[count:], strict=True))

        def tangent(leaf: Any) -> Any:
            slot = self.slot(leaf)
            if isinstance(slot, dict):
                return {name: given[i] for name, i in slot.items() if i in given}
            if slot is None:
                return zero_from_primal(leaf) if isinstance(leaf, (int, float, complex)) else None
            return given[slot] if slot in given else np.zeros(avals[slot].shape, jax.dtypes.float0)

        primals = tuple(args[n] for n in self.differentiated)
        tangents = tuple(jax.tree.map(tangent, self.places[n]) for n in self.differentiated)
        pair = self.custom.rules[0](*(args[n] for n in self.custom.nondiff_argnums), primals, tangents)
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(f"{self.title}: expected the rule to give (result, tangent), got a {type(pair).__name__}")
        return [*self.like_outs("the rule's result", pair[0]), *self._tangents(pair[1])]

    def _tangents(self, given: Any) -> list[Any]:
        """The tangents of those results that have some."""
        leaves, treedef = jax.tree.flatten(given)
        if treedef != self.out_tree:
            raise TypeError(
                f"{self.title}: expected the rule's tangent to be {self.out_tree}, as the result is, got {treedef}"
            )
        pairs = [(leaf, like) for leaf, like in zip(leaves, self.outs, strict=True) if inexact(like)]
        return [_fit(f"{self.title}: expected the rule's tangent", leaf, like) for leaf, like in pairs]

    def derive(self, programs: Programs) -> Callable[..., list[Any]]:
        @jax.custom_jvp
        def function(*values: Any) -> list[Any]:
            return programs.run_plain(values)

        def rule(primals: Any, tangents: Any) -> tuple[list[Any], list[Any]]:
            programs.check([type(tangent) is not SymbolicZero for tangent in tangents])
            outs, more = programs.run_rule(primals, *(_whole(tangents[i]) for i in programs.wrt))
            given = iter(more)
            state = [zero_from_primal(out, symbolic_zeros=True) for out in outs[: programs.state]]
            results = zip(outs[programs.state :], programs.outs, strict=True)
            return outs, [*state, *(next(given) if inexact(like) else zero_from_primal(out) for out, like in results)]

        function.defjvp(rule, symbolic_zeros=True)
        return function


class _ReverseCall(Call):
    """One call of a function with a rule in reverse mode."""

    def rule(self, arrays: list[Any]) -> Any:
        pair = self.custom.rules[0](*self.flat.rebuild(arrays))
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(f"{self.title}: expected fwd to give (result, residuals), got a {type(pair).__name__}")
        return [*self.like_outs("fwd's result", pair[0]), pair[1]]

    def close(self, rule: Block) -> Any:
        super().close(rule)
        avals = rule.traced.closed.in_avals
        shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype, weak_type=a.weak_type) for a in avals]
        return jax.make_jaxpr(lambda *inputs: self._forward(rule, inputs))(*shapes)

    def _forward(self, rule: Block, inputs: tuple[Any, ...]) -> list[Any]:
        """Runs `fwd`, and traces `bwd` on what it left; gives what `fwd` gives, and then what `bwd` needs."""
        outs = rule.evaluate(*inputs)
        frame = Frame()
        frame.watched = rule.structure.watched
        closed, inside, wrt = frame.run(lambda: self._trace_backward(rule, frame, inputs, outs))
        outer = tracers_of(closed)
        program = Program(closed, outer)
        needed = [i for i in program.used if i < len(inside)]
        count, cut = len(inside), len(outer)

        def pull(residuals: Sequence[Any], cotangents: Sequence[Any]) -> dict[int, Any]:
            values: list[Any] = [None] * count
            for i, value in zip(needed, residuals[cut:], strict=True):
                values[i] = value
            return dict(zip(wrt, program(residuals[:cut], *values, *cotangents), strict=True))

        self.programs.backward = pull
        return [*outs[: self.programs.state + len(self.outs)], *outer, *(inside[i] for i in needed)]

    def _trace_backward(
        self, rule: Block, frame: Frame, inputs: tuple[Any, ...], outs: list[Any]
    ) -> tuple[Any, list[Any], list[int]]:
        """The program of `bwd`, its inputs but for the cotangents, and which inputs its results belong to."""
        frame.bind(rule.cells, inputs[: len(rule.cells)])
        rule.write(outs)
        kept = Flat(rule.apply(outs)[-1])
        cotangents = [like for like in self.outs if inexact(like)]
        args = self.flat.rebuild(inputs[len(inputs) - len(self.flat.arrays) :])
        given = [args[n] for n in self.custom.nondiff_argnums]
        wrt: list[int] = []

        def run(arrays: list[Any]) -> list[Any]:
            residuals = kept.rebuild(arrays[: len(kept.arrays)])
            found = self._backward(given, residuals, arrays[len(kept.arrays) :])
            wrt[:] = found
            return list(found.values())

        backward = Block(run, [*kept.arrays, *cotangents], self.sources, [*rule.roots, *kept.things])
        if changed := changes(backward):
            raise StateError(
                f"{self.title}: bwd changes {', '.join(changed)}, which nothing would carry out. Let fwd do it, and keep "
                f"in the residuals what bwd needs; a module with BatchNorm or Dropout that bwd calls wants eval()"
            )
        return backward.traced.closed, [*backward.values(), *backward.contents(), *kept.arrays], wrt

    def _backward(self, given: list[Any], residuals: Any, cotangents: list[Any]) -> dict[int, Any]:
        """Runs `bwd`; gives cotangents by input."""
        arrays = iter(cotangents)
        leaves = [next(arrays) if inexact(like) else np.zeros(like.shape, jax.dtypes.float0) for like in self.outs]
        found = self.custom.rules[1](*given, residuals, jax.tree.unflatten(self.out_tree, leaves))
        if not isinstance(found, (tuple, list)) or len(found) != len(self.differentiated):
            what = f"{len(found)}" if isinstance(found, (tuple, list)) else f"a {type(found).__name__}"
            raise TypeError(
                f"{self.title}: expected bwd to give a tuple of {len(self.differentiated)} cotangents, one for each argument, "
                f"got {what}"
            )
        sums: dict[int, Any] = {}
        for number, value in zip(self.differentiated, found, strict=True):
            for i, cotangent in self._of_argument(number, value):
                sums[i] = sums[i] + cotangent if i in sums else cotangent
        return sums

    def _of_argument(self, number: int, value: Any) -> Iterator[tuple[int, Any]]:
        """The inputs in an argument, with what `bwd` gives for them."""
        what = f"{self.title}: expected bwd's cotangent of argument {number}"
        try:
            pairs = list(_spread(self.places[number], value))
        except ValueError as error:
            raise TypeError(f"{what} to be a tree like the argument; {error}") from error
        avals = self.block.traced.closed.in_avals
        for leaf, cotangent in pairs:
            slot = self.slot(leaf)
            if isinstance(slot, dict):
                name = type(leaf).__name__
                if not isinstance(cotangent, Mapping):
                    raise TypeError(
                        f"{what} to be a dict by parameter name, for a {name}, got a {type(cotangent).__name__}"
                    )
                for unknown in (key for key in cotangent if key not in slot):
                    raise KeyError(f"{self.title}: {name} has no parameter {unknown!r}{suggestion(str(unknown), slot)}")
                each = [(slot[key], entry) for key, entry in cotangent.items()]
            else:
                each = [(slot, cotangent)]
            for i, entry in each:
                if i is not None and entry is not None and inexact(avals[i]):
                    yield i, _fit(what, entry, avals[i])

    def derive(self, programs: Programs) -> Callable[..., list[Any]]:
        @jax.custom_vjp
        def function(*values: Any) -> list[Any]:
            return programs.run_plain(values)

        def fwd(*primals: Any) -> tuple[list[Any], list[Any]]:
            programs.check([primal.perturbed for primal in primals])
            return programs.run_rule([primal.value for primal in primals])

        def bwd(residuals: Any, cotangents: Any) -> tuple[Any, ...]:
            assert programs.backward is not None  # it is there when the rule is
            results = zip(cotangents[programs.state :], programs.outs, strict=True)
            found = programs.backward(residuals, [_whole(value) for value, like in results if inexact(like)])
            return tuple(found.get(i) for i in range(programs.total))

        function.defvjp(fwd, bwd, symbolic_zeros=True)
        return function


def _spread(tree: Any, value: Any) -> Iterator[tuple[Any, Any]]:
    """The leaves of a tree with those of `value`, which is like it down to where it is None."""
    if value is None:
        return
    children, treedef = jax.tree.flatten(tree, is_leaf=lambda part: part is not tree)
    if jax.tree_util.treedef_is_leaf(treedef):
        yield tree, value
        return
    for child, part in zip(children, treedef.flatten_up_to(value), strict=True):
        yield from _spread(child, part)


def _fit(what: str, value: Any, like: Any) -> jax.Array:
    """A derivative in the shape and dtype of what it belongs to."""
    if not isinstance(value, (jax.Array, np.ndarray, np.generic, int, float, complex)):
        raise TypeError(f"{what} to be an array, got a {type(value).__name__}")
    value = jnp.asarray(value)
    if value.shape != like.shape:
        raise ShapeError(f"{what} to be {like.dtype}{list(like.shape)}, got {value.dtype}{list(value.shape)}")
    real = jnp.issubdtype(like.dtype, jnp.floating)
    if not inexact(value) or (real and jnp.issubdtype(value.dtype, jnp.complexfloating)):
        raise DtypeError(f"{what} to be {like.dtype}, got {value.dtype}")
    return value.astype(like.dtype)


def _whole(value: Any) -> Any:
    """An array, also for a zero that is none yet."""
    if not isinstance(value, SymbolicZero):
        return value
    aval: Any = value.aval
    return jnp.zeros(aval.shape, aval.dtype)
