"""`fb.cond`, `fb.switch`, `fb.while_loop` and `fb.fori_loop`: control flow by values that are known only when it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from flambeau._errors import ShapeError, StateError
from flambeau.core.cell import Cell
from flambeau.core.outcome import Change
from flambeau.core.tree import Node
from flambeau.transforms._changes import described, other_changes
from flambeau.transforms._recompilation import PATIENCE, warn_restless
from flambeau.transforms._trace import Block, Flat, blocks, entering
from flambeau.transforms.disable_jit import jit_is_disabled
from flambeau.transforms.scan import Carry, scan

__all__ = ["cond", "fori_loop", "switch", "while_loop"]


def cond(pred: Any, true_fun: Callable[..., Any], false_fun: Callable[..., Any], *operands: Any) -> Any:
    """`true_fun(*operands)` if `pred` holds, and else `false_fun(*operands)`, also where that is known only at run time.

    State is what the branch that is taken leaves. Where `pred` is known (outside of a compiled function), that branch is
    called and the other is not. Where it is not, what the branches change besides the values of parameters, buffers and
    other arrays has to be the same: attributes, and lists that modules keep.

    Args:
        pred: a boolean or number without axes.
        true_fun: a function of the operands; modules may be operands, or be closed over.
        false_fun: another one, whose result has the same tree, shapes and dtypes.
        operands: arrays, modules, or trees of them.

    Raises:
        ShapeError: `pred` has axes, or the branches give other shapes or dtypes.
        StateError: at run time, the branches would leave modules that are made of other things.

    Example:
        >>> import jax.numpy as jnp
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> small, large = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
        >>> @fb.jit
        ... def step(x):
        ...     return fb.cond(x.sum() > 10, large, small, x)
        >>> _ = step(jnp.ones((4, 2)))
        >>> int(small.num_batches_tracked), int(large.num_batches_tracked)
        (1, 0)

    Source: https://docs.jax.dev/en/latest/_autosummary/jax.lax.cond.html
    """
    if jnp.shape(pred) != ():
        raise ShapeError(
            f"cond: expected a predicate without axes, got {list(jnp.shape(pred))}; reduce it, as by .all()"
        )
    known = _known(pred, bool)
    if known is not None:
        return true_fun(*operands) if known else false_fun(*operands)
    index = jnp.asarray(pred != 0, jnp.int32)
    return entering(lambda: _branch("cond", index, [false_fun, true_fun], operands))


def switch(index: Any, branches: Sequence[Callable[..., Any]], *operands: Any) -> Any:
    """`branches[index](*operands)`, also where `index`, which is clamped to those there are, is known only at run time.

    State is kept as by `cond`.

    Args:
        index: an integer without axes.
        branches: functions of the operands, whose results have one tree, shapes and dtypes.
        operands: arrays, modules, or trees of them.

    Raises:
        ValueError: there are no branches.
        ShapeError: `index` has axes, or the branches give other shapes or dtypes.
        StateError: at run time, the branches would leave modules that are made of other things.

    Example:
        >>> import flambeau as fb
        >>> fb.switch(1, [lambda x: x + 1, lambda x: x * 10], 5)
        50

    Source: https://docs.jax.dev/en/latest/_autosummary/jax.lax.switch.html
    """
    branches = list(branches)
    if not branches:
        raise ValueError("switch: expected at least one branch, got none")
    if jnp.shape(index) != () or not jnp.issubdtype(jnp.result_type(index), jnp.integer):
        raise ShapeError(
            f"switch: expected an integer without axes, got {jnp.result_type(index)}{list(jnp.shape(index))}"
        )
    known = _known(index, int) if len(branches) > 1 else 0
    if known is not None:
        return branches[min(max(known, 0), len(branches) - 1)](*operands)
    return entering(lambda: _branch("switch", index, branches, operands))


def _known(value: Any, kind: Callable[[Any], Any]) -> Any:
    """A number as Python's, or None if it is known at run time only."""
    try:
        return kind(value)
    except jax.errors.ConcretizationTypeError:
        return None


def _branch(name: str, index: Any, branches: list[Callable[..., Any]], operands: tuple[Any, ...]) -> Any:
    flat = Flat(operands)
    results: list[Any] = [None] * len(branches)

    def calling(i: int) -> Callable[[list[Any]], list[Any]]:
        def call(arrays: list[Any]) -> list[Any]:
            results[i] = Flat(branches[i](*flat.rebuild(arrays)), numbers=True)
            return [jnp.asarray(value) for value in results[i].arrays]

        return call

    made = blocks([calling(i) for i in range(len(branches))], flat.arrays, branches, [*branches, *flat.things])
    _check_results(name, results)
    _check_alike(name, made)
    written = sorted({i for block in made for i in block.written})
    cells, rest = made[0].values(), [*made[0].contents(), *flat.arrays]
    kept = [jax.ShapeDtypeStruct(jnp.shape(cells[i]), jnp.result_type(cells[i])) for i in written]
    likes = [*kept, *made[0].traced.closed.out_avals[len(made[0].written) :]]

    def program(block: Block) -> Callable[[], list[Any]]:
        def run() -> list[Any]:
            outs = block.evaluate(*cells, *rest)
            new = dict(zip(block.written, outs, strict=False))
            outs = [*(new.get(i, cells[i]) for i in written), *outs[len(new) :]]
            return [lax.convert_element_type(out, like.dtype) for out, like in zip(outs, likes, strict=True)]

        return run

    outs = lax.switch(index, [program(block) for block in made])
    block = made[0]
    block.write(outs, written)
    block.apply([*([None] * len(block.written)), *outs[len(written) :]])
    return results[0].rebuild(outs[len(outs) - len(results[0].arrays) :])


def _check_results(name: str, results: list[Flat]) -> None:
    """Raises unless the branches give the same tree of arrays, and the same things besides them."""
    for position, result in enumerate(results[1:], 1):
        if result.treedef != results[0].treedef:
            raise TypeError(
                f"{name}: expected the branches to give results of one tree, got {results[0].treedef} from branch 0 and "
                f"{result.treedef} from branch {position}"
            )
        for a, b in zip(results[0].leaves, result.leaves, strict=True):
            if a is not b and (isinstance(a, (Node, Cell)) or type(a) is not type(b) or a != b):
                raise TypeError(
                    f"{name}: expected the branches to give arrays, or the same thing; got {type(a).__name__} from branch 0 "
                    f"and another {type(b).__name__} from branch {position}"
                )


def _check_alike(name: str, made: list[Block]) -> None:
    """Raises unless the branches differ in nothing but the values of arrays."""
    first = made[0].traced
    for position, block in enumerate(made[1:], 1):
        other = block.traced
        if first.changes != other.changes:
            raise StateError(_unlike(name, position, first.changes, other.changes))
        ours, theirs = ([described(a) for a in b.traced.closed.out_avals[len(b.written) :]] for b in (made[0], block))
        if ours != theirs:
            a, b = next((a, b) for a, b in zip(ours, theirs, strict=True) if a != b)
            raise ShapeError(f"{name}: expected the branches to give the same shapes and dtypes, got {a} and {b}")
    for block in made:
        for i, out in zip(block.written, block.traced.closed.out_avals, strict=False):
            if (out.shape, out.dtype) != (block.cells[i].shape, block.cells[i].dtype):
                raise StateError(
                    f"{name}: a branch writes {described(out)} where {described(block.cells[i])} was; "
                    f"which one there is would be known only at run time"
                )


def _unlike(name: str, position: int, first: Sequence[Any], other: Sequence[Any]) -> str:
    changes = [[entry for entry in recipe if isinstance(entry, Change)] for recipe in (first, other)]
    if changes[0] != changes[1]:
        what = [", ".join(f"{c.verb} {c.what}" for c in own) or "changes nothing" for own in changes]
        return (
            f"{name}: the branches leave modules that are made of other things, and which is taken is known only at run time: "
            f"branch 0 {what[0]}, branch {position} {what[1]}. Do it in all branches, or keep arrays in buffers "
            f"(self.register_buffer), which may be written in one branch only"
        )
    return f"{name}: expected the branches to change modules alike, got other arrays from branches 0 and {position}"


def while_loop(cond_fun: Callable[[Any], Any], body_fun: Callable[[Any], Any], init_val: Any) -> Any:
    """Calls `value = body_fun(value)` as long as `cond_fun(value)` holds.

    State is what this Python loop leaves. In a compiled function the body may change the values of parameters, buffers and
    other arrays, but not what modules are made of, as the number of steps is not known.

    Args:
        cond_fun: gives a boolean without axes. Modules may be closed over, here and in the body.
        body_fun: gives a value like the one that it takes.
        init_val: the first value: a tree of arrays, whose shapes and dtypes stay.

    Returns:
        The last value.

    Raises:
        ShapeError: the value's shapes or dtypes change, or the condition has axes.
        StateError: in a compiled function, the body appends to a list or changes an attribute.

    Example:
        >>> import flambeau as fb
        >>> int(fb.while_loop(lambda n: n < 100, lambda n: n * 2, 3))
        192

    Source: https://docs.jax.dev/en/latest/_autosummary/jax.lax.while_loop.html
    """
    return entering(lambda: _While(cond_fun, body_fun, init_val).run())


def fori_loop(
    lower: Any, upper: Any, body_fun: Callable[[Any, Any], Any], init_val: Any, *, unroll: int | bool = 1
) -> Any:
    """Calls `value = body_fun(i, value)` for `i` from `lower` up to, but without, `upper`.

    With bounds that are known it is a `scan`, and can be differentiated; with others a `while_loop`.

    Args:
        lower: the first `i`.
        upper: where it ends.
        body_fun: gives a value like the one that it takes. Modules may be closed over.
        init_val: the first value: a tree of arrays, whose shapes and dtypes stay.
        unroll: how many steps go into one iteration of the compiled loop, where the bounds are known.

    Returns:
        The last value.

    Example:
        >>> import flambeau as fb
        >>> int(fb.fori_loop(0, 5, lambda i, total: total + i, 0))
        10

    Source: https://docs.jax.dev/en/latest/_autosummary/jax.lax.fori_loop.html
    """
    first, last = _known(lower, int), _known(upper, int)
    if first is not None and last is not None:
        numbers = np.arange(first, max(first, last), dtype=jnp.result_type(lower, upper))
        return scan(lambda value, i: (body_fun(i, value), None), init_val, numbers, unroll=unroll)[0]
    lower, upper = (jnp.asarray(bound, jnp.result_type(lower, upper)) for bound in (lower, upper))
    return while_loop(lambda pair: pair[0] < upper, lambda pair: (pair[0] + 1, body_fun(*pair)), (lower, init_val))[1]


class _While:
    """One loop under way: a step is the body, and then the condition, which may write too."""

    def __init__(self, cond_fun: Any, body_fun: Any, init_val: Any) -> None:
        self.cond_fun, self.body_fun = cond_fun, body_fun
        self.carry = Carry("while_loop", init_val)
        self.arrays = self.carry.arrays

    def run(self) -> Any:
        holds = self.condition(self.value())
        while jit_is_disabled() and _known(holds, bool):
            self.arrays = self.carry.next(self.body_fun(self.value()), self.arrays)
            holds = self.condition(self.value())
        block, traces = None, 0
        while (known := _known(holds, bool)) is not False:
            if block is None or block.traced.restless:
                block = self.block()
                traces += 1
                if traces == PATIENCE:
                    warn_restless("while_loop", block.traced.restless or ", ".join(other_changes(block)))
            if not block.traced.restless and not block.traced.outcome.effects:
                self.loop(block, holds)
                break
            if known is None:
                raise StateError(self.unknown(block))
            holds = self.alone(block)
        return self.value()

    def value(self) -> Any:
        return self.carry.flat.rebuild(self.arrays)

    def condition(self, value: Any) -> Any:
        holds = self.cond_fun(value)
        if jnp.shape(holds) != ():
            raise ShapeError(f"while_loop: expected a condition without axes, got {list(jnp.shape(holds))}")
        return holds

    def block(self) -> Block:
        """The step as a program: from the value to the condition and the new value."""

        def step(arrays: list[Any]) -> list[Any]:
            new = self.body_fun(self.carry.flat.rebuild(arrays))
            value = self.carry.next(new, arrays)
            return [jnp.asarray(self.condition(self.carry.flat.rebuild(value)), bool), *value]

        likes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in self.arrays]
        things = [*self.carry.flat.things, self.cond_fun, self.body_fun]
        return Block(step, likes, [self.cond_fun, self.body_fun], things, repeats=True)

    def loop(self, block: Block, holds: Any) -> None:
        base, count, stop = block.values(), len(block.written), len(block.written) + 1 + len(self.arrays)

        def body(state: Any) -> Any:
            _, written, arrays, held = state
            values = list(base)
            for i, value in zip(block.written, written, strict=True):
                values[i] = value
            outs = block.evaluate(*values, *held, *arrays)
            return outs[count], outs[:count], outs[count + 1 : stop], outs[stop:]

        start = jnp.asarray(holds, bool), [base[i] for i in block.written], self.arrays, block.contents()
        _, written, self.arrays, _ = lax.while_loop(lambda state: state[0], body, start)
        block.write(written)

    def alone(self, block: Block) -> Any:
        outs = block.evaluate(*block.values(), *block.contents(), *self.arrays)
        block.write(outs)
        block.apply(outs)
        first = len(outs) - block.traced.held - len(self.arrays)
        self.arrays = list(outs[first : first + len(self.arrays)])
        return outs[first - 1]

    def unknown(self, block: Block) -> str:
        what = ", ".join(other_changes(block)) or block.traced.restless
        return (
            f"while_loop: the body changes {what}, and how often is known only at run time. Keep arrays in buffers "
            f"(self.register_buffer), or take fb.scan or fb.fori_loop with a number of steps that is known"
        )
