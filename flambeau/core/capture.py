"""The engine of every transform: runs a function in a frame, and carries what it changed and returned out as arrays.

A transform of JAX sees a pure function from arrays to arrays. `collect`, called at the end of the function, lists the
arrays that must come out (written cells first, then whatever the result and other effects hold) and gives an `Outcome`:
static instructions that put those arrays, once they are out, where they belong. A compiling transform keeps the outcome
and replays it at each call, on any nodes of the same structure; a transparent one (grad) applies it once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
from jax.core import Tracer

from flambeau._errors import StateError
from flambeau.core import raw
from flambeau.core.cell import running, tracer_write, written_tracer
from flambeau.core.frame import Frame, Unmade
from flambeau.core.interrupts import undisturbed
from flambeau.core.objects import fields
from flambeau.core.outcome import Collector, Context, Outcome
from flambeau.core.structure import Structure

__all__ = ["abstractly", "collect", "commit", "making", "transparently"]


def collect(
    frame: Frame,
    result: Any,
    structure: Structure | None = None,
    inputs: Sequence[Any] = (),
    *,
    numbers: bool = False,
) -> tuple[Outcome, list[Any], Collector]:
    """Lists what a function that ran in `frame` changed and returned. Call it while the frame is active.

    Args:
        structure: of the bound nodes, for a compiling frame; its outcome then refers to nodes and cells by their position.
        inputs: every array that came in, which no cell may share.
        numbers: whether Python and numpy numbers in the result become arrays.
    """
    collector = Collector(frame, structure, inputs)
    written = []
    for cell in frame.written():
        position = collector.cell_position(cell)
        assert position is not None  # a compiling frame lets only bound cells be written
        written.append(position)
        collector.emit(frame.values[cell], for_cell=True)
    effects = collector.effects()
    collector.changes = tuple(collector.recipe)
    count = len(written)
    plain = collector.plain_result(result, count)
    if plain is None:
        outcome = Outcome(written, effects, collector.encode(result, numbers=numbers), origins=collector.origins)
    else:  # which refers to no container, and neither does any effect
        outcome = Outcome(written, effects, lambda context: plain(context.outs[count:]), None if effects else plain)
    return outcome, collector.arrays, collector


def commit(frame: Frame, outcome: Outcome, collector: Collector, outs: Sequence[Any]) -> Any:
    """Applies the outcome of a transparent frame in the context around it, and gives the result."""
    if running.frame is None:
        _refuse_under_raw(frame, outcome, collector, outs)
        with undisturbed():
            return _put(frame, outcome, collector, outs)
    return _put(frame, outcome, collector, outs)


def _put(frame: Frame, outcome: Outcome, collector: Collector, outs: Sequence[Any]) -> Any:
    outside = running.frame
    for position, value in zip(outcome.written, outs, strict=False):
        cell = collector.cells[position]
        if cell not in frame.created_cells:
            owner, name = frame.names.get(cell, (None, ""))
            cell.set(value, owner=owner, name=name)
        elif outside is not None:
            outside.create(cell, value)
        else:
            cell._replace(value, True)
    if outside is not None:
        outside.created_nodes.update(frame.created_nodes)
    return outcome.apply(Context(collector.nodes, collector.cells, outs, frame.watched))


def _refuse_under_raw(frame: Frame, outcome: Outcome, collector: Collector, outs: Sequence[Any]) -> None:
    """Raises, before anything is written, what writing under a raw transform of JAX would raise in the middle."""
    for node in frame.created_nodes.values():
        raw.note_creation(node)
    for position, value in zip(outcome.written, outs, strict=False):
        cell = collector.cells[position]
        if cell not in frame.created_cells:
            owner, name = frame.names.get(cell, (None, ""))
            if isinstance(value, Tracer):
                raise StateError(tracer_write(owner, name))
            raw.refuse_change(owner, name)
    if collector.outer:
        if any(isinstance(value, Tracer) for value in outs[len(outcome.written) : collector.carried]):
            raise StateError(written_tracer(collector.outer[0].what))
        raw.refuse(collector.outer[0].what)


def making(run: Callable[[], Any]) -> Any:
    """Runs a transform; again, if it meets a lazy module that has no shapes yet and belongs here: see `Unmade`."""
    while True:
        try:
            return run()
        except Unmade as unmade:
            if running.frame is not None and not running.frame.created_inside(unmade.module):
                raise
            unmade.make()


def transparently(fun: Callable[[], Any], objects: Iterable[Any] = ()) -> Any:
    """Runs `fun` in a frame of its own: an exception in it leaves everything as it was.

    Args:
        objects: mutable ones in static attributes, which nobody but they notice when they change.
    """
    frame = Frame()
    frame.calling = True
    frame.watched = [(thing, fields(thing)) for thing in objects]
    outcome, arrays, collector = frame.run(lambda: collect(frame, fun()))
    return commit(frame, outcome, collector, arrays)


def abstractly(make: Callable[[], Any], fill: Callable[[jax.ShapeDtypeStruct], jax.Array]) -> Any:
    """What `make` gives, run on shapes alone: each array that it holds is `fill(its shape and dtype)`, nothing else changes."""
    frame = Frame()
    traced: list[Any] = []

    def run() -> list[Any]:
        made = make()
        for cell in frame.values.keys() - frame.created_cells:
            del frame.values[cell]  # a generator that was drawn from stays where it was
        traced.append(collect(frame, made))
        return traced[0][1]

    shapes = jax.eval_shape(lambda: frame.run(run))
    outcome, _, collector = traced[0]
    return commit(frame, outcome, collector, [fill(shape) for shape in shapes])
