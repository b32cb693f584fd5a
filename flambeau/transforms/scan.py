"""`fb.scan` and `fb.map`: a loop that is compiled once, whatever its length, with state carried from step to step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from flambeau._errors import ShapeError
from flambeau.core.cell import Cell, strong
from flambeau.core.tree import Node
from flambeau.transforms._recompilation import PATIENCE, warn_restless
from flambeau.transforms._trace import Block, Flat, entering
from flambeau.transforms.disable_jit import jit_is_disabled

__all__ = ["map", "scan"]


def scan(
    f: Callable[[Any, Any], tuple[Any, Any]],
    init: Any,
    xs: Any = None,
    length: int | None = None,
    reverse: bool = False,
    unroll: int | bool = 1,
) -> tuple[Any, Any]:
    """Calls `f(carry, x)`, which gives `(carry, y)`, for each `x` along the first axis of `xs`, and stacks what it gives as `y`.

        carry = init
        for x in xs:
            carry, y = f(carry, x)
            ys.append(y)

    State is what this loop leaves: written parameters, buffers and random keys are carried from step to step, and what is
    appended to a module's list is there, step by step. A step that changes what a module is made of (its attributes, what
    it reads of a list) is run by itself, and the loop is compiled from where that has come to rest.

    Args:
        f: the step. Modules may be in the carry, or be closed over.
        init: the first carry: a tree of arrays, whose shapes and dtypes `f` keeps.
        xs: a tree of arrays with one first axis; or None, with `length`.
        length: the number of steps.
        reverse: whether to go from the last `x` to the first; `ys` are in the order of `xs` all the same.
        unroll: how many steps go into one iteration of the compiled loop.

    Returns:
        The last carry, and the stacked `y`.

    Raises:
        ShapeError: first axes that differ, or a carry whose shape or dtype changes.
        TypeError: `f` does not give a pair, or the carry is another tree than before.

    Example:
        >>> import jax.numpy as jnp
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> cell = nn.RNNCell(3, 4)
        >>> def step(h, x):
        ...     h = cell(x, h)
        ...     return h, h
        >>> h, hs = fb.scan(step, jnp.zeros((2, 4)), jnp.ones((5, 2, 3)))
        >>> h.shape, hs.shape
        ((2, 4), (5, 2, 4))

    Source: https://docs.jax.dev/en/latest/_autosummary/jax.lax.scan.html
    """
    count = _length("scan", xs, length)
    return entering(lambda: _Scan("scan", f, init, xs, count, reverse, unroll).run())


def map(f: Callable[[Any], Any], xs: Any, *, batch_size: int | None = None) -> Any:
    """Calls `f` for each element along the first axis of `xs`, one after the other, and stacks the results: see `scan`.

    Args:
        f: a function of one argument.
        xs: a tree of arrays with one first axis.
        batch_size: how many elements `jax.vmap` takes at a time; `f` must write no state then that depends on the element.

    Example:
        >>> import jax.numpy as jnp
        >>> import flambeau as fb
        >>> fb.map(lambda x: x**2, jnp.arange(4)).tolist()
        [0, 1, 4, 9]

    Source: https://docs.jax.dev/en/latest/_autosummary/jax.lax.map.html
    """
    if batch_size is None:
        return scan(lambda _, x: (None, f(x)), None, xs)[1]
    from flambeau.transforms.vmap import vmap

    count = _length("map", xs, None)
    whole = count - count % batch_size
    batches = jax.tree.map(lambda a: a[:whole].reshape(-1, batch_size, *a.shape[1:]), xs)
    ys = scan(lambda _, batch: (None, vmap(f)(batch)), None, batches)[1]
    ys = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), ys)
    if whole == count:
        return ys
    rest = vmap(f)(jax.tree.map(lambda a: a[whole:], xs))
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), ys, rest)


def _length(name: str, xs: Any, length: int | None) -> int:
    lengths = set() if length is None else {int(length)}
    for path, leaf in jax.tree_util.tree_leaves_with_path(xs):
        if not jnp.shape(leaf):
            raise ShapeError(f"{name}: expected arrays with a first axis to go along, got a number at xs{_at(path)}")
        lengths.add(leaf.shape[0])
    if len(lengths) > 1:
        raise ShapeError(f"{name}: expected one length for all of xs (and `length`), got {sorted(lengths)}")
    if not lengths:
        raise ShapeError(f"{name}: expected xs or length, got neither")
    return lengths.pop()


def _at(path: Any) -> str:
    return jax.tree_util.keystr(path)


class Carry:
    """What goes from step to step: arrays, and things such as modules, which stay."""

    def __init__(self, name: str, init: Any) -> None:
        self.name = name
        self.flat = Flat(init, numbers=True)
        self.arrays = [strong(value) for value in self.flat.arrays]
        self.weak = [getattr(jnp.asarray(value), "weak_type", False) for value in self.flat.arrays]

    def next(self, carry: Any, avals: list[Any]) -> list[Any]:
        """The arrays of the new carry, which has to be like the one before."""
        flat = Flat(carry, numbers=True)
        if flat.treedef != self.flat.treedef or [_kind(a) for a in flat.leaves] != [_kind(a) for a in self.flat.leaves]:
            raise TypeError(
                f"{self.name}: expected the step to give a carry like the one that it took, "
                f"{self.flat.treedef}, got {flat.treedef}"
            )
        paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(carry)]
        arrays = [jnp.asarray(value) for value in flat.arrays]
        for path, new, old in zip(paths, arrays, avals, strict=False):
            fits = new.dtype == old.dtype or (new.weak_type and jnp.result_type(new, old) == old.dtype)
            if new.shape != old.shape or not fits:
                raise ShapeError(
                    f"{self.name}: expected the carry{_at(path)} to stay {old.dtype}{list(old.shape)}, got "
                    f"{new.dtype}{list(new.shape)} after a step"
                )
        return [lax.convert_element_type(new, old.dtype) for new, old in zip(arrays, avals, strict=True)]


def _kind(leaf: Any) -> Any:
    return id(leaf) if isinstance(leaf, (Node, Cell)) else type(leaf)


class _Scan:
    """One scan under way."""

    def __init__(self, name: str, f: Any, init: Any, xs: Any, count: int, reverse: bool, unroll: Any) -> None:
        self.f, self.xs, self.count, self.reverse, self.unroll = f, xs, count, reverse, unroll
        self.carry = Carry(name, init)
        self.arrays = self.carry.arrays
        self.columns = Flat(jax.tree.map(jnp.asarray, xs))
        self.y: Any = None  # the tree of a step's y

    def in_python(self) -> tuple[Any, Any]:
        """The loop as Python runs it, where nothing is to be compiled."""
        done: list[list[Any]] = []
        for step in range(self.count):
            x = [column[self.at(step)] for column in self.columns.arrays]
            outs = self.step([*self.arrays, *x])
            self.arrays = outs[: len(self.arrays)]
            done.append(outs[len(self.arrays) :])
        if self.reverse:
            done.reverse()
        return self.result(), jax.tree.unflatten(self.y, [jnp.stack(ys) for ys in zip(*done, strict=True)])

    def run(self) -> tuple[Any, Any]:
        """Steps by themselves as long as each changes what there is, then a compiled loop over the rest."""
        if jit_is_disabled() and self.count:
            return self.in_python()
        done: list[list[Any]] = []
        step = 0
        while True:
            block = self.block()
            rest = self.count - step
            if rest == 0 and not done:
                empty = [jnp.zeros((0, *y.shape), y.dtype) for y in self.ys(block.traced.closed.out_avals, block)]
                return self.result(), jax.tree.unflatten(self.y, empty)
            if rest == 0:
                break
            if rest > 1 and not block.traced.restless:
                done.append(self.loop(block, step))
                break
            done.append([y[None] for y in self.alone(block, step)])
            step += 1
            if step == PATIENCE:
                warn_restless(self.carry.name, block.traced.restless)
            if step == self.count:
                break
        if self.reverse:
            done.reverse()
        ys = [jnp.concatenate(parts) for parts in zip(*done, strict=True)] if len(done) > 1 else done[0]
        return self.result(), jax.tree.unflatten(self.y, ys)

    def result(self) -> Any:
        return self.carry.flat.rebuild(self.arrays)

    def step(self, arrays: list[Any]) -> list[Any]:
        """From the carry and the arrays of one `x` to the new carry and the arrays of `y`, in a row."""
        carry, x = arrays[: len(self.arrays)], arrays[len(self.arrays) :]
        pair = self.f(self.carry.flat.rebuild(carry), self.columns.rebuild(x))
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise TypeError(
                f"{self.carry.name}: expected the step to give (carry, y), got {type(pair).__name__}; "
                f"give (carry, None) if there is nothing to stack"
            )
        new, y = pair
        ys, self.y = jax.tree.flatten(y)
        for leaf in ys:
            if isinstance(leaf, (Node, Cell)):
                raise TypeError(f"{self.carry.name}: expected arrays to stack as y, got a {type(leaf).__name__}")
        return [*self.carry.next(new, carry), *[jnp.asarray(y) for y in ys]]

    def block(self) -> Block:
        """The step as a program."""
        carry = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in self.arrays]
        x = [jax.ShapeDtypeStruct(a.shape[1:], a.dtype) for a in self.columns.arrays]
        return Block(self.step, [*carry, *x], [self.f], [*self.carry.flat.things, self.f], repeats=True)

    def at(self, step: int) -> int:
        return self.count - 1 - step if self.reverse else step

    def parts(self, outs: Any, block: Block) -> tuple[list[Any], list[Any], list[Any], list[Any], list[Any]]:
        """What comes out of a step: written cells, arrays for effects, the carry, the y, contents of containers."""
        stops = [len(block.written), len(self.arrays), self.y.num_leaves, block.traced.held]
        ends = len(outs) - sum(stops[1:])
        places = [0, stops[0], ends, ends + stops[1], ends + stops[1] + stops[2], len(outs)]
        written, effects, carry, ys, held = (list(outs[a:b]) for a, b in zip(places, places[1:], strict=False))
        return written, effects, carry, ys, held

    def ys(self, outs: Any, block: Block) -> list[Any]:
        return self.parts(outs, block)[3]

    def alone(self, block: Block, step: int) -> list[Any]:
        """One step, as it stands."""
        x = [column[self.at(step)] for column in self.columns.arrays]
        outs = block.evaluate(*block.values(), *block.contents(), *self.arrays, *x)
        block.write(outs)
        block.apply(outs)
        _, _, self.arrays, ys, _ = self.parts(outs, block)
        return ys

    def loop(self, block: Block, first: int) -> list[Any]:
        """All steps from `first`, compiled."""
        base = block.values()

        def body(state: tuple[list[Any], list[Any], list[Any]], x: list[Any]) -> tuple[Any, Any]:
            written, carry, held = state
            values = list(base)
            for i, value in zip(block.written, written, strict=True):
                values[i] = value
            outs = block.evaluate(*values, *held, *carry, *x)
            written, effects, carry, ys, held = self.parts(outs, block)
            return (written, carry, held), (effects, ys)

        start = [base[i] for i in block.written], self.arrays, block.contents()
        columns = [a[: self.count - first] if self.reverse else a[first:] for a in self.columns.arrays]
        (written, self.arrays, _), (effects, ys) = lax.scan(
            body, start, columns, length=self.count - first, reverse=self.reverse, unroll=self.unroll
        )
        block.write(written)
        self.replay(block, effects, self.count - first)
        return ys

    def replay(self, block: Block, stacked: list[Any], steps: int) -> None:
        """Makes the changes of every step, in order; where a step undoes the one before, of the last step only."""
        outcome = block.traced.outcome
        order = range(steps - 1, -1, -1) if self.reverse else range(steps)
        if outcome.repeatable:
            order = order[-1:]
        padding: list[Any] = [None] * len(block.written)
        for step in order if outcome.effects else ():
            context = block.context([*padding, *(values[step] for values in stacked)])
            outcome.change(context)
