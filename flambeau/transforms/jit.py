"""`fb.jit`: compiles a function together with the state that it reads and writes.

A call gathers the values of the cells that the function reaches, runs one `jax.jit` of flat lists, and puts the written
values back. What the function does besides, it did while it was traced; that is replayed from its `Outcome`.
"""

from __future__ import annotations

import functools
import inspect
import threading
import types
import weakref
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from typing import Any, Generic, ParamSpec, TypeVar, overload

import jax
import jax.extend.core
from jax.core import Tracer

from flambeau._errors import StateError
from flambeau.core import hidden, raw
from flambeau.core.autocast import settings
from flambeau.core.capture import making
from flambeau.core.cell import Cell, clock, running
from flambeau.core.collector import uncollected
from flambeau.core.frame import Frame, Unbound
from flambeau.core.hooks import global_hooks
from flambeau.core.module import Module
from flambeau.core.structure import Structure, fingerprint
from flambeau.core.tree import Node
from flambeau.transforms._execution import evaluate, run
from flambeau.transforms._program import Arguments, Call, OtherSettings, Program, key_of
from flambeau.transforms._recompilation import Watch
from flambeau.transforms._sources import Source, direct_sources, find_source, functions_of
from flambeau.transforms._trace import Traced, entering, trace
from flambeau.transforms.disable_jit import jit_is_disabled

__all__ = ["Jitted", "jit"]

P = ParamSpec("P")
R = TypeVar("R")

# One trace at a time: tracing changes static attributes in place until the trace ends.
_tracing = threading.RLock()


class Jitted(Generic[P, R]):
    """A compiled function: see `jit`."""

    def __init__(
        self,
        fun: Callable[P, R],
        statics: frozenset[int],
        static_names: frozenset[str],
        donate: bool,
        compiler_options: Mapping[str, Any] | None,
    ) -> None:
        functools.update_wrapper(self, fun)
        self._fun: Callable[..., Any] = fun
        self._name = getattr(fun, "__name__", type(fun).__name__)
        self._statics = statics
        self._static_names = static_names
        self._has_statics = bool(statics or static_names)
        self._donate = donate
        self._compiler_options = None if compiler_options is None else dict(compiler_options)
        self._captures: list[Source] | None = None  # looked for at the first call, when the globals are all there
        self._further: dict[Any, list[Source]] = {}  # those of methods and hooks, where nodes bring these along
        self._sources: list[Source] = []  # all of them
        self._programs: dict[Hashable, list[Program]] = {}
        self._calls: dict[Hashable, Call] = {}
        self._last: Call | None = None  # the last call, if it can be recognised at a glance
        self._watch = Watch(self._name)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        last = self._last
        if last is not None and last.fits(args, kwargs):
            try:
                if last.quick:
                    return last.plain(evaluate(last, [], last.take(args))[1])
                return run(last, [], last.take(args))
            except OtherSettings:
                self._last = None
        return self._call(args, kwargs)

    def _call(self, args: Any, kwargs: Any) -> Any:
        """A call that is not of the kind of the last one, or whose state the last one does not tell all about.

        Apart from `__call__`, which would have to make cells for the names that the lambdas here take from it.
        """
        if jit_is_disabled():
            return entering(lambda: self._fun(*args, **kwargs))
        statics: tuple[Any, ...] = ()
        if self._has_statics:
            args, kwargs, statics = self._split(args, kwargs)
        leaves, treedef = jax.tree_util.tree_flatten((args, kwargs))
        frame = running.frame
        if frame is not None and frame.changes_structure():
            call = making(lambda: self._prepare(args, kwargs, statics))[0]
            return run(call, call.container_arrays(), tuple(Arguments(args, kwargs).arrays))
        key = (
            treedef,
            tuple([key_of(type(leaf))(leaf) for leaf in leaves]),
            self._found(statics) if self._sources else (),
            tuple([fingerprint(static) for static in statics]) if statics else (),
            settings(),
        )
        call = self._calls.get(key)
        containers = None
        if call is not None and call.structure.valid():
            containers = call.container_arrays() if call.program.reads else []
        if call is None or containers is None:
            call = making(lambda: self._remember(key, args, kwargs, statics, leaves))
            containers = call.container_arrays()
        self._last = call if call.recognised else None
        return run(call, containers, call.take(tuple(leaves)))

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else types.MethodType(self, instance)

    def __repr__(self) -> str:
        return f"<fb.jit of {self._name}>"

    # -- inspection -----------------------------------------------------------------------------------------------------

    def trace(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """The `jax.stages.Traced` of the flat function that a call with these arguments runs; it has `.jaxpr`."""
        args, kwargs, statics = self._split(args, kwargs)
        call = making(lambda: self._prepare(args, kwargs, statics))[0]
        values = [[cell.peek() for cell in cells] for cells in (call.donated, call.kept)]
        return call.program.run.trace(*values, call.container_arrays(), tuple(Arguments(args, kwargs).arrays))

    def lower(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """The `jax.stages.Lowered` of the flat function that a call with these arguments runs: `.as_text()`, `.compile()`."""
        return self.trace(*args, **kwargs).lower()

    def compilations(self) -> list[str]:
        """Why there was each compilation so far."""
        return self._watch.reasons

    def latest(self) -> tuple[Call | None, list[Any]]:
        """The last call that is remembered, and the nodes that the function captures now."""
        call = next(reversed(self._calls.values()), None)
        return call, [source.find((self._fun,)) for source in self._sources]

    def _no_argument(self, leaf: Any) -> str:
        """Why something cannot be an argument, and what to do."""
        kind = type(leaf)
        if any(value is self for base in kind.__mro__ for value in vars(base).values()):
            return (
                f"{self._name} is a method of {kind.__name__}, whose objects hold no state that flambeau carries. Derive the "
                f"class from nn.Module, and call super().__init__(): the modules, optimizers, arrays and lists of its objects "
                f"then are state. Or compile it for one object alone, in whose other attributes nothing changes: "
                f"self.{self._name} = fb.jit(self._{self._name})"
            )
        return (
            f"{self._name}: an argument of type {kind.__name__} ({leaf!r:.60}) is neither an array nor a module, optimizer or "
            f"generator. Name it in static_argnames (or static_argnums): fb.jit(static_argnames=('...',))."
        )

    # -- finding the program --------------------------------------------------------------------------------------------

    def _split(self, args: Any, kwargs: Any) -> tuple[Any, Any, tuple[Any, ...]]:
        """Takes the static arguments out; a marker of each stays in its place."""
        statics = tuple(arg for i, arg in enumerate(args) if i in self._statics)
        statics += tuple(kwargs[name] for name in sorted(kwargs) if name in self._static_names)
        args = tuple(_STATIC if i in self._statics else arg for i, arg in enumerate(args))
        kwargs = {name: _STATIC if name in self._static_names else value for name, value in kwargs.items()}
        return args, kwargs, statics

    def _join(self, args: Any, kwargs: Any, statics: tuple[Any, ...]) -> tuple[Any, Any]:
        remaining = iter(statics)
        args = tuple(next(remaining) if arg is _STATIC else arg for arg in args)
        return args, {name: next(remaining) if kwargs[name] is _STATIC else kwargs[name] for name in sorted(kwargs)}

    def _remember(self, key: Any, args: Any, kwargs: Any, statics: Any, leaves: list[Any]) -> Call:
        """Prepares a call and keeps it for the next one with the same nodes, for as long as these nodes live."""
        for leaf in leaves:
            if key_of(type(leaf))(leaf) is None:
                raise TypeError(self._no_argument(leaf))
        call, captured = self._prepare(args, kwargs, statics)
        call.take_from(leaves)
        call.under_raw = any(isinstance(leaf, Tracer) for leaf in leaves)
        key = (*key[:2], self._found(statics), *key[3:])
        if call.program.foreign:
            return call
        if not (kwargs or statics or call.program.reads or call.structure.watched or call.under_raw):
            self._expect(call, args, leaves)
        calls = self._calls
        calls[key] = call
        roots = [leaf for leaf in leaves if isinstance(leaf, (Node, Cell))] + [
            node for node in captured if node is not None
        ]

        # By arguments, since globals are gone when the interpreter ends.
        def forget(_: Any, clock: Any = clock) -> None:
            calls.pop(key, None)
            self._last = None
            clock.settle()
            clock.gathered = {}  # it may hold the dead node's arrays

        call.roots = [weakref.ref(root, forget) for root in roots]
        return call

    def _prepare(self, args: Any, kwargs: Any, statics: Any) -> tuple[Call, list[Any]]:
        """The call for these arguments, by a program that fits or else by a new one."""
        with _tracing:
            arguments = Arguments(args, kwargs)
            if self._captures is None:
                self._captures = direct_sources(self._fun)
                self._sources.extend(self._captures)
            reads: list[tuple[Node, str]] = []
            further: dict[Source, None] = {}
            while True:
                looked = [source.look((self._fun, *statics)) for source in (*self._captures, *further)]
                captured = [node for node, _ in looked]
                roots = [*arguments.nodes, *(node for node in captured if node is not None)]
                if running.frame is not None:
                    for root in (*roots, global_hooks):
                        if isinstance(root, Node):
                            running.frame.require(root)
                structure = Structure([*roots, global_hooks])
                if self._follow(functions_of(structure.nodes), further):
                    continue
                key = (
                    arguments.key,
                    tuple((node is not None, *counts) for node, counts in looked),
                    tuple(map(fingerprint, statics)),
                    structure.key,
                    settings(),
                )
                known = self._programs.get(key, [])
                for program in known:
                    call = Call(program, structure)
                    if call.container_arrays() is not None:
                        return call, captured
                for root in roots:
                    if isinstance(root, Module):
                        hidden.warn_below(root)
                frame = Frame(opaque=True)
                try:
                    program = self._compile(frame, arguments, statics, structure, reads)
                except Unbound as unbound:
                    if unbound.frame is not frame:
                        raise
                    if not self._capture_what_they_name(unbound.made, further):
                        self._bind(unbound, statics, structure, reads)
                    continue
                if self._capture_what_they_name(frame.created_nodes.values(), further):
                    continue
                if not program.foreign:
                    self._watch.compiled(key, structure, len(known) + 1, program.reads)
                    self._programs.setdefault(key, []).append(program)
                return Call(program, structure), captured

    def _follow(self, functions: Iterable[Any], further: dict[Source, None]) -> bool:
        """Adds the nodes that functions of the bound nodes name to those captured; says whether there are more now."""
        assert self._captures is not None
        before = len(further)
        for function in functions:
            if function not in self._further:
                self._further[function] = direct_sources(function, start=function)
                self._sources.extend(self._further[function])
            further.update(dict.fromkeys(source for source in self._further[function] if source not in self._captures))
        return len(further) > before

    def _capture_what_they_name(self, made: Collection[Node], further: dict[Source, None]) -> bool:
        """Captures what nodes that were made inside name, which has to be bound from the start; says if there is more."""
        assert self._captures is not None
        inside = dict(further)
        more = self._follow(functions_of(made), inside)
        self._captures.extend(source for source in inside if source not in further)
        return more

    def _found(self, statics: tuple[Any, ...]) -> tuple[Hashable, ...]:
        """What any call captured so far, as it is now. By that a call is remembered, which itself may need less."""
        return _looked(self._sources, (self._fun, *statics))

    def _expect(self, call: Call, args: tuple[Any, ...], leaves: list[Any]) -> None:
        """Has the call recognise the next one of its kind, whose nodes come by ways that are short or long."""
        ways = [(source, source.shortcut(self._fun)) for source in self._sources]
        longer = [source for source, shortcut in ways if shortcut is None]
        short = [shortcut for _, shortcut in ways if shortcut is not None]
        call.expect(args, leaves, short, functools.partial(_looked, longer, (self._fun,)) if longer else None)

    def _bind(self, unbound: Unbound, statics: Any, structure: Structure, reads: list[tuple[Node, str]]) -> None:
        """Notes what a trace met that it had not bound, for the next try."""
        what = unbound.what
        inside = what in structure.cell_index if isinstance(what, Cell) else id(what) in structure.node_index
        if unbound.container is not None and inside and (what, unbound.container) not in reads:
            assert isinstance(what, Node)
            reads.append((what, unbound.container))
        elif inside:
            raise StateError(f"{self._name}: state that was bound was not found again; this is a mistake in flambeau")
        else:
            assert self._captures is not None
            source = find_source((self._fun, *statics), what)
            self._captures.append(source)
            self._sources.append(source)

    def _compile(
        self, frame: Frame, arguments: Arguments, statics: Any, structure: Structure, reads: list[Any]
    ) -> Program:
        def call(arrays: list[Any]) -> Any:
            args, kwargs = self._join(*arguments.rebuild(arrays), statics)
            return self._fun(*args, **kwargs)

        return uncollected(lambda: self._program(trace(call, frame, structure, reads, arguments.arrays), structure))

    def _program(self, traced: Traced, structure: Structure) -> Program:
        """The flat compiled function: the cells that it overwrites are apart, to be donated; unused ones are left out."""
        closed, outcome = traced.closed, traced.outcome
        invars, in_avals, count = closed.jaxpr.invars, closed.in_avals, len(structure.cells)
        used = {id(var) for eqn in closed.eqns for var in eqn.invars} | {id(var) for var in closed.jaxpr.outvars}
        same = [
            (in_avals[i].shape, in_avals[i].dtype) == (out.shape, out.dtype)
            for i, out in zip(outcome.written, closed.out_avals, strict=False)
        ]
        overwritten = {i for i, fits in zip(outcome.written, same, strict=True) if fits} if self._donate else set()
        donated = [i for i in outcome.written if id(invars[i]) in used and i in overwritten]
        kept = [i for i in range(count) if id(invars[i]) in used and i not in overwritten]
        flat, written, traced_under = jax.extend.core.jaxpr_as_fun(closed), len(outcome.written), settings()

        def program(overwritten: list[Any], read: list[Any], containers: list[Any], arrays: Any) -> Any:
            # JAX comes here again when an option has changed: what was traced with another is another program.
            if settings() != traced_under:
                raise OtherSettings
            cells: list[Any] = [None] * count
            for positions, values in ((donated, overwritten), (kept, read)):
                for i, value in zip(positions, values, strict=True):
                    cells[i] = value
            outs = flat(*cells, *containers, *arrays)
            return outs[:written], outs[written:]

        program.__name__ = program.__qualname__ = self._name
        rolls = donated == outcome.written
        foreign = any(isinstance(const, Tracer) for const in closed.consts)
        options = self._compiler_options
        donating, plain = (jax.jit(program, donate_argnums=which, compiler_options=options) for which in (0, ()))
        return Program(
            self._name,
            donating,
            plain,
            donated,
            kept,
            traced.reads,
            outcome,
            traced.changes,
            not all(same),
            rolls,
            foreign,
        )


def _looked(sources: list[Source], roots: tuple[Any, ...]) -> tuple[Hashable, ...]:
    """The nodes to which the ways lead now, and how many there are beside them; to be compared."""
    return tuple([(id(node), counts) for node, counts in [source.look(roots) for source in sources]])


class _Static:
    """Stands in the place of a static argument. A pytree without leaves, so that it is a part of the arguments' treedef."""


_STATIC = _Static()
jax.tree_util.register_pytree_node(_Static, lambda _: ((), None), lambda _, __: _STATIC)


@overload
def jit(
    fun: Callable[P, R],
    *,
    static_argnums: int | Iterable[int] = (),
    static_argnames: str | Iterable[str] = (),
    donate: bool = True,
    compiler_options: Mapping[str, Any] | None = None,
) -> Jitted[P, R]: ...
@overload
def jit(
    *,
    static_argnums: int | Iterable[int] = (),
    static_argnames: str | Iterable[str] = (),
    donate: bool = True,
    compiler_options: Mapping[str, Any] | None = None,
) -> Callable[[Callable[P, R]], Jitted[P, R]]: ...
def jit(
    fun: Any = None,
    *,
    static_argnums: int | Iterable[int] = (),
    static_argnames: str | Iterable[str] = (),
    donate: bool = True,
    compiler_options: Mapping[str, Any] | None = None,
) -> Any:
    """Compiles `fun` with XLA, together with the state of the modules, optimizers and generators that it reaches.

    After a call, every parameter, buffer, list and attribute is what eager execution leaves it. Modules may be arguments or
    be closed over. Compiled code is shared by modules of the same structure, and chosen by `train()` and `eval()`.

    Args:
        fun: the function, or a module; without it, `jit` is a decorator with options.
        static_argnums: positions of arguments that are compile-time constants.
        static_argnames: names of such arguments.
        donate: whether the arrays of the cells that `fun` overwrites are reused in place.
        compiler_options: XLA's options by their names, as those of `jax.jit`; as there, a function that has some can neither
            be called inside of another compiled one nor be differentiated.

    Example:
        >>> import jax.numpy as jnp
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> net = nn.BatchNorm1d(3)
        >>> @fb.jit
        ... def forward(net, x):
        ...     return net(x)
        >>> _ = forward(net, jnp.ones((4, 3)))
        >>> int(net.num_batches_tracked)
        1

    Source: https://docs.jax.dev/en/latest/_autosummary/jax.jit.html
    """
    if fun is None:
        return functools.partial(
            jit,
            static_argnums=static_argnums,
            static_argnames=static_argnames,
            donate=donate,
            compiler_options=compiler_options,
        )
    numbers = {static_argnums} if isinstance(static_argnums, int) else set(static_argnums)
    names = {static_argnames} if isinstance(static_argnames, str) else set(static_argnames)
    if numbers or names:
        _complete_statics(fun, numbers, names)
    if isinstance(fun, Module):
        fun = _calling(fun)
    return Jitted(fun, frozenset(numbers), frozenset(names), donate, compiler_options)


def _calling(module: Module) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        return module(*args, **kwargs)

    call.__name__ = call.__qualname__ = type(module).__name__
    return call


def _complete_statics(fun: Callable[..., Any], numbers: set[int], names: set[str]) -> None:
    """An argument that is static by its name is so by its position, and the other way round."""
    parameters = list(inspect.signature(fun).parameters.values())
    by_name = {p.name: i for i, p in enumerate(parameters) if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)}
    unknown = names - {p.name for p in parameters}
    if unknown and not any(p.kind is p.VAR_KEYWORD for p in parameters):
        raise ValueError(
            f"static_argnames: {fun!r} has no argument {sorted(unknown)[0]!r}; it has {', '.join(by_name)}"
        )
    for number in list(numbers):
        if number < 0:
            numbers.remove(number)
            numbers.add(number + len(parameters))
    numbers.update(by_name[name] for name in names if name in by_name)
    names.update(
        name
        for name, i in by_name.items()
        if i in numbers and parameters[i].kind is not inspect.Parameter.POSITIONAL_ONLY
    )


raw.introduce("jit", jit)
