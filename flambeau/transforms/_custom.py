"""What custom derivative rules have in common: a function and its rule, as programs of one row of inputs.

JAX may run a rule long after the call that it belongs to: a compiled function keeps the call, and is differentiated when
the frames it was traced in are gone. So at the call the function and its rule become programs, and all that they reach
(the cells of modules, what lists hold, tracers from around) is an input of the one call that JAX sees.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import threading
import types
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, ParamSpec, TypeVar

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.extend.core import get_opaque_trace_state

from flambeau._errors import ShapeError, StateError
from flambeau.core.cell import Parameter
from flambeau.core.literals import as_arrays, evaluating
from flambeau.core.module import Module
from flambeau.core.structure import Structure, fingerprint, signature
from flambeau.transforms._changes import changes, described, name_of_cell
from flambeau.transforms._differentiation import name_of
from flambeau.transforms._trace import Block, Flat, entering

__all__ = ["Call", "Custom", "Program", "Programs", "inexact", "tracers_of"]

P = ParamSpec("P")
R = TypeVar("R")

_EAGER = get_opaque_trace_state()  # nothing is traced while modules are imported


class Custom(ABC, Generic[P, R]):
    """A function with a derivative rule of its own."""

    kind: str

    def __init__(self, fun: Callable[P, R], nondiff_argnums: int | Sequence[int] = ()) -> None:
        functools.update_wrapper(self, fun, updated=())
        # An object that wraps one function is looked through for what that closes over, and this one has its rule's too.
        vars(self).pop("__wrapped__")
        self.fun = fun
        self.rules: tuple[Callable[..., Any], ...] = ()
        self.title = f"{self.kind} of {name_of(fun)}"
        self.nondiff_argnums = (nondiff_argnums,) if isinstance(nondiff_argnums, int) else tuple(nondiff_argnums)

    @abstractmethod
    def call(self, args: tuple[Any, ...], flat: Flat) -> Call:
        """A call with these arguments."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        if not self.rules:
            raise AttributeError(f"{self.title}: no rule is defined; call {self.kind.replace('custom_', 'def')} first")
        if get_opaque_trace_state() == _EAGER:
            return self.fun(*args, **kwargs)
        given = self._positional(args, kwargs)
        return entering(lambda: self._inside(given))

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else types.MethodType(self, instance)

    def __repr__(self) -> str:
        return f"<fb.{self.title}>"

    def _positional(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """All arguments in the order of the signature, as rules count them."""
        bound = inspect.signature(self.fun).bind(*args, **kwargs)
        bound.apply_defaults()
        if bound.kwargs:
            names = ", ".join(bound.kwargs)
            raise TypeError(
                f"{self.title}: a rule takes its arguments by position, and {names} can be given by name only"
            )
        for number in self.nondiff_argnums:
            if not 0 <= number < len(bound.args):
                raise ValueError(
                    f"{self.title}: nondiff_argnums has {number}, and there are {len(bound.args)} arguments"
                )
        return bound.args

    def _inside(self, args: tuple[Any, ...]) -> Any:
        """The call under a transform. A rule that calls its function, as most do, means the call that it is traced for."""
        flat = Flat(args)
        for call in reversed(_tracing.calls):
            if call.custom is self and call.fits(flat):
                return call.run(flat.arrays)
        call = self.call(args, flat)
        call.build()
        return call.run(flat.arrays)


class Program:
    """A program to which the tracers that it closes over are given anew: where it runs, theirs may be over.

    Args:
        outer: tracers, those that it closes over among them.
    """

    def __init__(self, closed: Any, outer: Sequence[Any]) -> None:
        positions = {id(value): i for i, value in enumerate(outer)}
        self.jaxpr = closed.jaxpr
        self.consts = [None if isinstance(const, Tracer) else const for const in closed.consts]
        self.places = [(i, positions[id(c)]) for i, c in enumerate(closed.consts) if isinstance(c, Tracer)]
        variables = {id(v) for eqn in self.jaxpr.eqns for v in eqn.invars} | {id(v) for v in self.jaxpr.outvars}
        self.used = [i for i, var in enumerate(self.jaxpr.invars) if id(var) in variables]

    def __call__(self, outer: Sequence[Any], *inputs: Any) -> list[Any]:
        consts = list(self.consts)
        for i, position in self.places:
            consts[i] = outer[position]
        return evaluating(jax.extend.core.ClosedJaxpr(self.jaxpr, consts))(*inputs)


def tracers_of(*closed: Any) -> list[Any]:
    """The tracers that programs close over, each once."""
    return _distinct(const for each in closed for const in each.consts if isinstance(const, Tracer))


class Programs:
    """What JAX keeps of a call: programs, and which inputs are which. It holds no module."""

    def __init__(
        self, title: str, plain: Program, outer: int, wrt: list[int], refused: dict[int, str], outs: list[Any]
    ) -> None:
        self.title = title
        self.plain = plain
        self.inputs = len(plain.jaxpr.invars)  # how many there are before the tracers from around
        self.total = self.inputs + outer
        self.wrt = wrt  # those that the rule differentiates with respect to
        self.refused = refused  # what to say if another one is differentiated
        self.outs = outs  # shapes and dtypes of the results, which come after the arrays of state
        self.state = len(plain.jaxpr.outvars) - len(outs)
        self.rule: Program | None = None  # comes when it is traced; it gives what the function gives, and more
        self.failure: Exception | None = None  # what tracing it raised, which matters if it is needed
        self.backward: Callable[[Sequence[Any], Sequence[Any]], dict[int, Any]] | None = None

    def run_plain(self, values: Sequence[Any]) -> list[Any]:
        return self.plain(values[self.inputs :], *values[: self.inputs])

    def run_rule(self, values: Sequence[Any], *more: Any) -> tuple[list[Any], list[Any]]:
        """What the function gives, and what the rule, which takes `more`, gives besides."""
        if self.failure is not None:
            raise self.failure
        if self.rule is None:
            raise RecursionError(f"{self.title}: its rule differentiates it, by the same rule")
        outs = self.rule(values[self.inputs :], *values[: self.inputs], *more)
        count = self.state + len(self.outs)
        return outs[:count], outs[count:]

    def forget(self) -> None:
        """Lets go of what the traceback of a failure holds."""
        if self.failure is not None:
            self.failure.__cause__ = self.failure.__context__ = self.failure.__traceback__ = None

    def check(self, perturbed: Sequence[bool]) -> None:
        """Raises if an input is differentiated for which the rule gives nothing."""
        for i, message in self.refused.items():
            if perturbed[i]:
                raise StateError(message)


class Call(ABC):
    """One call of a custom function under a transform.

    Its inputs are, in a row: the cells that it reaches, what the containers hold that it reads, the arrays among its
    arguments, and the tracers from around that it closes over.
    """

    block: Block  # the function
    programs: Programs
    derived: Callable[..., list[Any]]  # the function of all inputs, with its rule, as JAX has it
    places: tuple[Any, ...]  # the arguments, with the numbers of the inputs in the places of arrays
    parameters: dict[int, dict[str, int]]  # the inputs that a module's parameters are when the call begins, by its id

    def __init__(self, custom: Custom[..., Any], args: tuple[Any, ...], flat: Flat) -> None:
        self.custom, self.title, self.flat = custom, custom.title, flat
        self.key = _key(flat)
        self.differentiated = [n for n in range(len(args)) if n not in custom.nondiff_argnums]
        self.sources = [custom.fun, *custom.rules]
        self.outer: list[Any] = []
        self.out_tree: Any = None
        self.outs: list[Any] = []

    # -- what each kind of rule has of its own ------------------------------------------------------------------------

    @abstractmethod
    def derive(self, programs: Programs) -> Callable[..., list[Any]]:
        """The function of all inputs, with the rule of `programs`, which may yet have to come."""

    @abstractmethod
    def rule(self, arrays: list[Any]) -> Any:
        """Runs the first of the rule's functions on `rule_arrays`; gives the arrays of the result first."""

    def close(self, rule: Block) -> Any:
        """The rule's program, from its first function."""
        self._check_state(rule)
        return rule.traced.closed

    def rule_arrays(self) -> list[Any]:
        return self.flat.arrays

    # -- running ------------------------------------------------------------------------------------------------------

    def fits(self, flat: Flat) -> bool:
        """Whether a call with these arguments, here and now, is this one."""
        if _key(flat) != self.key:
            return False
        now = Structure(self.block.structure.roots)
        return now.key == self.block.structure.key and self.block.traced.finds_changed(now) is None

    def run(self, arrays: Sequence[Any]) -> Any:
        block, count = self.block, self.programs.state
        outs = as_arrays(self.derived(*block.values(), *block.contents(), *arrays, *self.outer))
        self.programs.forget()
        # The rule says nothing about state, so to derivatives it is a constant.
        outs = [*map(lax.stop_gradient, outs[:count]), *outs[count:]]
        block.write(outs)
        block.apply(outs)
        return jax.tree.unflatten(self.out_tree, outs[count:])

    # -- tracing ------------------------------------------------------------------------------------------------------

    def build(self) -> None:
        """Traces the function and its rule, until they agree about what they reach."""
        roots: Sequence[Any] = [*self.flat.things, *self.sources]
        reads: Sequence[Any] = []
        while True:
            block = self.block = Block(self._plain, self.flat.arrays, self.sources, roots, reads)
            self.outer = _distinct([*self.outer, *tracers_of(block.traced.closed)])
            self.programs = self._programs()
            self.derived = self.derive(self.programs)
            try:
                with _tracing.rule_of(self):
                    rule = Block(self.rule, self.rule_arrays(), self.sources, block.roots, block.reads)
                    settled = len(rule.roots) == len(block.roots) and len(rule.reads) == len(block.reads)
                    closed = self.close(rule) if settled else rule.traced.closed
            except Exception as error:
                self.programs.failure = error
                return
            outer = _distinct([*self.outer, *tracers_of(closed)])
            if settled and len(outer) == len(self.outer):
                self.programs.rule = Program(closed, outer)
                return
            roots, reads, self.outer = rule.roots, rule.reads, outer

    def _plain(self, arrays: list[Any]) -> list[Any]:
        leaves, self.out_tree = jax.tree.flatten(self.custom.fun(*self.flat.rebuild(arrays)))
        leaves = [self._array(leaf) for leaf in leaves]
        self.outs = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
        return leaves

    def like_outs(self, what: str, value: Any) -> list[Any]:
        """The arrays of a value of the rule that has to be like the function's result."""
        leaves, treedef = jax.tree.flatten(value)
        if treedef != self.out_tree:
            raise TypeError(f"{self.title}: expected {what} to be {self.out_tree}, as its result is, got {treedef}")
        arrays = [self._array(leaf) for leaf in leaves]
        for array, like in zip(arrays, self.outs, strict=True):
            if (array.shape, array.dtype) != (like.shape, like.dtype):
                raise ShapeError(
                    f"{self.title}: expected {what} to be {described(like)}, as its result is, got {described(array)}"
                )
        return arrays

    def _array(self, leaf: Any) -> jax.Array:
        if not isinstance(leaf, (jax.Array, np.ndarray, np.generic, bool, int, float, complex)):
            raise TypeError(f"{self.title}: expected arrays as its result, got a {type(leaf).__name__}")
        return jnp.asarray(leaf)

    def _check_state(self, rule: Block) -> None:
        """Raises unless the rule leaves modules as the function does, so that its first arrays mean the same."""
        wrong = f"{self.title}: its rule has to leave modules as the function does;"
        block = self.block
        ours, theirs = (", ".join(changes(each)) or "nothing" for each in (block, rule))
        if (block.written, block.traced.changes) != (rule.written, rule.traced.changes):
            raise StateError(
                f"{wrong} the function changes {ours}, the rule {theirs}. Let the rule call the function, or write the same"
            )
        pairs = zip(block.traced.closed.out_avals[: self.programs.state], rule.traced.closed.out_avals, strict=False)
        for mine, other in pairs:
            if described(mine) != described(other):
                raise StateError(
                    f"{wrong} of {ours} it leaves {described(other)} where the function leaves {described(mine)}"
                )

    # -- inputs -------------------------------------------------------------------------------------------------------

    def _programs(self) -> Programs:
        avals = self.block.traced.closed.in_avals
        self.places = self.flat.rebuild(map(_At, itertools.count(len(avals) - len(self.flat.arrays))))
        plain = Program(self.block.traced.closed, self.outer)
        leaves = [leaf for n in self.differentiated for leaf in jax.tree.leaves(self.places[n])]
        # Now, since the function may put other modules in the places of those whose parameters are differentiated.
        self.parameters = {id(leaf): self._parameters(leaf) for leaf in leaves if isinstance(leaf, Module)}
        slots = [self.slot(leaf) for leaf in leaves]
        numbers = {i for slot in slots for i in (slot.values() if isinstance(slot, dict) else [slot]) if i is not None}
        wrt = sorted(i for i in numbers if inexact(avals[i]))
        used = [*plain.used, *(len(avals) + position for _, position in plain.places)]
        refused = {i: f"{self.title}: {self._refusal(i)}" for i in used if i not in numbers}
        return Programs(self.title, plain, len(self.outer), wrt, refused, self.outs)

    def slot(self, leaf: Any) -> Any:
        """The input that a leaf of `places` is; a module's parameters by name; None for what has no derivative."""
        if isinstance(leaf, Module):
            return self.parameters[id(leaf)]
        if isinstance(leaf, Parameter):
            return self.block.structure.cell_index[leaf]
        return int(leaf) if isinstance(leaf, _At) else None

    def _parameters(self, module: Module) -> dict[str, int]:
        cells = self.block.structure.cell_index
        return {name: cells[parameter] for name, parameter in module.named_parameters() if parameter in cells}

    def _refusal(self, number: int) -> str:
        block = self.block
        asked = "a derivative is asked for, which its rule does not give, with respect to"
        if number < len(block.cells):
            cell = block.cells[number]
            name = name_of_cell(cell, block.structure.nodes)
            if isinstance(cell, Parameter):
                return f"{asked} {name}: pass the module as an argument, or freeze it with requires_grad_(False)"
            return f"{asked} {name}, which is no parameter: write jax.lax.stop_gradient of the value to it"
        if number < len(block.traced.closed.in_avals) - len(self.flat.arrays):
            return f"{asked} what a list or dict of a module holds: pass it as an argument"
        if number < len(block.traced.closed.in_avals):
            return f"{asked} an argument in nondiff_argnums: leave it out of these"
        return f"{asked} an array that it closes over: pass it as an argument"


class _Tracing(threading.local):
    """The calls whose rules are being traced on this thread."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    @contextmanager
    def rule_of(self, call: Call) -> Iterator[None]:
        self.calls.append(call)
        try:
            yield
        finally:
            self.calls.pop()


_tracing = _Tracing()


class _At(int):
    """The number of an input, in the place of an array; no number of the user's."""


def _key(flat: Flat) -> Hashable:
    leaves = jax.tree.leaves(flat.rebuild(map(_At, itertools.count())))
    statics = tuple(None if isinstance(leaf, _At) else fingerprint(leaf) for leaf in leaves)
    return flat.treedef, statics, tuple(map(signature, flat.arrays))


def _distinct(values: Any) -> list[Any]:
    return list({id(value): value for value in values}.values())


def inexact(aval: Any) -> bool:
    """Whether there are derivatives with respect to arrays of this dtype."""
    return jnp.issubdtype(aval.dtype, jnp.inexact)
