"""Programs that draw random numbers, run with all their draws in a few loops.

A constructor draws the numbers of a hundred parameters by a hundred calls of a few samplers, and XLA takes its time for each
call, equal or not. So a program is taken apart into what its draws need, the draws, and what is made of them; and the draws
of all programs are blocks of one loop for each sampler.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from flambeau.core._draw import BLOCKS, Blocks, draw_rows

__all__ = ["Drawn", "Parts"]

# How many numbers an iteration of a loop draws: on a CPU, what its cache holds.
_AT_ONCE = 1 << 18


class Parts:
    """A program taken apart at its draws, those that need no other draw.

    Args:
        closed: the program.
        outputs: numbers of the outputs that are wanted.
        early: numbers of the outputs that are wanted before anything is drawn.
    """

    def __init__(self, closed: Any, outputs: Sequence[int], early: Sequence[int]) -> None:
        jaxpr = closed.jaxpr
        wanted = [jaxpr.outvars[i] for i in outputs]
        drawn: set[int] = set()  # variables that depend on a draw
        calls, others = [], []
        for eqn in _needed(jaxpr.eqns, wanted):
            late = any(id(var) in drawn for var in eqn.invars)
            is_draw = not late and eqn.params.get("name") in BLOCKS
            (calls if is_draw else others).append(eqn)
            if late or is_draw:
                drawn.update(map(id, eqn.outvars))
        self.calls = [BLOCKS[eqn.params["name"]] for eqn in calls]
        self._sizes = [len(eqn.invars) for eqn in calls]
        arguments = [var for eqn in calls for var in eqn.invars]
        results = [var for eqn in calls for var in eqn.outvars]
        self._before = _program(closed, jaxpr.eqns, jaxpr.invars, [*(jaxpr.outvars[i] for i in early), *arguments])
        self._after = _program(closed, others, [*jaxpr.invars, *results], wanted)
        self._early = len(early)

    def before(self, *inputs: Any) -> tuple[list[Any], list[list[Any]]]:
        """The early outputs, and the arguments of each draw."""
        values = self._before(*inputs)
        rest = iter(values[self._early :])
        return values[: self._early], [[next(rest) for _ in range(size)] for size in self._sizes]

    def after(self, inputs: Sequence[Any], results: Sequence[Any]) -> list[Any]:
        """The wanted outputs, from what the draws gave."""
        return self._after(*inputs, *results)


class Drawn:
    """The draws of several programs, as rows of a table for each sampler.

    Args:
        draws: each with its arguments.
    """

    def __init__(self, draws: Iterable[tuple[Blocks, list[Any]]]) -> None:
        self.calls: list[Blocks] = []
        self._groups: dict[Blocks, list[int]] = {}
        self._arguments: list[list[Any]] = []
        for number, (call, arguments) in enumerate(draws):
            self.calls.append(call)
            self._arguments.append(arguments)
            self._groups.setdefault(call._replace(blocks=0), []).append(number)

    def inputs(self) -> Any:
        """What `run` takes: for each sampler the draws' arguments, what each row draws, and where each draw begins.

        They are inputs, rather than constants, so that one kernel serves all draws of a shape.
        """
        found = []
        for kind, members in self._groups.items():
            counts = [self.calls[i].blocks for i in members]
            starts = np.cumsum([0, *counts])
            height = max(1, _AT_ONCE // kind.length)
            rows = np.zeros((2, -(-int(starts[-1]) // height), height), np.uint32)
            rows.reshape(2, -1)[:, : starts[-1]] = (
                np.repeat(np.arange(len(members)), counts),
                np.concatenate([np.arange(count) for count in counts]),
            )
            columns = list(zip(*(self._arguments[i] for i in members), strict=True))
            found.append((columns, rows, [np.int32(start) for start in starts[:-1]]))
        return found

    def run(self, inputs: Any) -> list[Any]:
        """What the draws give, in their order."""
        results: dict[int, Any] = {}
        for (kind, members), (columns, (which, index), starts) in zip(self._groups.items(), inputs, strict=True):
            table = [jnp.stack(column) for column in columns]

            def step(row: Any, kind: Blocks = kind, table: list[Any] = table) -> Any:
                keys, *arguments = (column[row[0]] for column in table)
                return draw_rows(kind, keys, row[1], *arguments)

            drawn = lax.map(step, (which, index)).reshape(-1, kind.length)
            for number, start in zip(members, starts, strict=True):
                blocks = self.calls[number].blocks
                results[number] = lax.dynamic_slice_in_dim(drawn, start, blocks).reshape(-1)
        return [results[i] for i in range(len(self.calls))]


def _needed(eqns: Iterable[Any], outvars: Iterable[Any]) -> list[Any]:
    """The equations that the outputs depend on."""
    needed = set(map(id, outvars))
    found = []
    for eqn in reversed(list(eqns)):
        if eqn.effects or any(id(var) in needed for var in eqn.outvars):
            needed.update(map(id, eqn.invars))
            found.append(eqn)
    return found[::-1]


def _program(
    closed: Any, eqns: Iterable[Any], invars: Sequence[Any], outvars: Sequence[Any]
) -> Callable[..., list[Any]]:
    info = closed.jaxpr.debug_info._replace(arg_names=("",) * len(invars), result_paths=("",) * len(outvars))
    eqns = _needed(eqns, outvars)
    jaxpr = closed.jaxpr.replace(eqns=eqns, invars=list(invars), outvars=list(outvars), debug_info=info)
    return jaxpr_as_fun(ClosedJaxpr(jaxpr, closed.consts))
