"""Running a compiled program: the values of cells go in, the new ones are kept, and the result comes out."""

from __future__ import annotations

from itertools import starmap
from typing import Any

from jax.core import Tracer

from flambeau._errors import StateError
from flambeau.core import raw
from flambeau.core.cell import clock, copy, running, writing
from flambeau.core.collector import uncollected
from flambeau.core.interrupts import undisturbed
from flambeau.transforms._program import Call

__all__ = ["evaluate", "run"]

# Of how many calls the values of cells are remembered.
_REMEMBERED = 8


def run(call: Call, containers: list[Any], arrays: tuple[Any, ...]) -> Any:
    """Runs the program of a call, and gives what the function returned."""
    if running.frame is not None:
        return _run_inside(call, containers, arrays)
    if call.under_raw:
        return _run_under_raw(call, containers, arrays)
    if call.quick:
        return call.plain(evaluate(call, containers, arrays)[1])
    with undisturbed(), writing:
        own, others = uncollected(lambda: evaluate(call, containers, arrays))
        outs = [*own, *others]
        call.has_run(outs)
        return call.program.outcome.apply(call.context(outs))


def evaluate(call: Call, containers: list[Any], arrays: tuple[Any, ...]) -> tuple[list[Any], list[Any]]:
    """Runs the program on the cells' values and keeps the new ones; gives these, and what else comes out.

    This is most of what a call costs besides JAX: `benchmarks/dispatch.py` tells of each line here.
    """
    with writing:  # one thread at a time: a cell's array is given away before its new one is there
        if call.exposures != clock.exposures or running.journal is not None:
            _own_donated(call)
        gathered = clock.gathered
        own, kept = gathered.get(call) or _gather(call, gathered)
        if call.pure:
            outs = call.run(own, kept, containers, arrays)
            if outs[1] and type(outs[1][0]) is not call.kind:
                _refuse_tracers(call, outs[1])
            return outs
        # Ctrl-C comes when the program has run, and what it gave would be lost with the arrays that were given away. So Python
        # looks for signals nowhere between running and keeping: it does so when a call ends, and unpacking runs the program in
        # the middle of one instruction. (The first call of a program goes through more Python; for that one it waits.)
        outs: Any = None
        try:
            (outs,) = starmap(call.run, ((own, kept, containers, arrays),))
            new = outs[0]
            if new and type(new[0]) is not call.kind:
                _refuse_tracers(call, new)
            _write(call, new, kept, gathered)
            return outs
        except KeyboardInterrupt:
            if outs is not None:
                _write(call, outs[0], kept, gathered)
            raise
        except Exception as error:
            if any(value.is_deleted() for value in own):
                raise StateError(_lost(call.program.name)) from error
            raise


def _gather(call: Call, gathered: dict[Any, Any]) -> tuple[list[Any], list[Any]]:
    """The values of the cells that the program overwrites, and of those that it only reads."""
    pending = clock.waiting()
    if len(pending) >= _REMEMBERED or any(other is not call and other.meets(call).written for other, _ in pending):
        clock.settle()
        pending = []
    values = call.gather([each for each in pending if each[0].meets(call).read])
    if len(gathered) >= _REMEMBERED:
        gathered.clear()
    if not call.program.foreign:
        gathered[call] = values
    return values


def _write(call: Call, new: list[Any], kept: list[Any], gathered: dict[Any, Any]) -> None:
    """Keeps the new values of cells; twice is the same as once.

    Args:
        gathered: the dict of before the run. Where another thread has written a cell since, nobody looks at this one.
    """
    if not call.steady:
        for cell, value in zip(call.written, new, strict=True):
            cell._replace(value, False)
        return
    if len(gathered) > 1:
        for other in list(gathered):
            if other is not call and any(call.meets(other)):
                del gathered[other]
    # No other call has values pending for one of these cells: they were put in place when this one gathered its own.
    clock.keep(call, new)
    if call.rolls:
        gathered[call] = new, kept
    else:
        gathered.pop(call, None)
        clock.settle()  # lest the old values, which were not given away, take memory


def _own_donated(call: Call) -> None:
    """Makes sure that nobody else has the arrays that will be given away: those that somebody may have are copied."""
    if running.journal is not None:
        for cell in call.written:
            running.journal.note_cell(cell)
            cell._exposed = True  # the journal has the array too
    for cell in call.donated:
        if cell._exposed:
            own = copy(cell._value)
            if isinstance(own, Tracer):
                _refuse_raw_writes(call)
            cell._replace(own, False)
    call.exposures = -1 if running.journal is not None else clock.exposures


def _run_inside(call: Call, containers: list[Any], arrays: tuple[Any, ...]) -> Any:
    """Runs as a part of an outer transform: the values come from its frame and go there."""
    frame = running.frame
    assert frame is not None
    own, others = call.program.inside(
        [frame.read(cell) for cell in call.donated], [frame.read(cell) for cell in call.kept], containers, arrays
    )
    for cell, value in zip(call.written, own, strict=True):
        frame.write(cell, value)
    return call.program.outcome.apply(call.context([*own, *others]))


def _run_under_raw(call: Call, containers: list[Any], arrays: tuple[Any, ...]) -> Any:
    """Runs with arguments that are tracers of a raw transform of JAX, which may read state and not write it."""
    _refuse_raw_writes(call)
    _warn_baked(call)
    _, others = call.program.inside([], [cell.expose() for cell in call.kept], containers, arrays)
    return call.program.outcome.apply(call.context(others))


def _refuse_tracers(call: Call, outs: list[Any]) -> None:
    """If tracers came out, a raw transform of JAX is around: it may read state, and not write it."""
    if isinstance(outs[0], Tracer):
        _refuse_raw_writes(call)
        _warn_baked(call)


def _warn_baked(call: Call) -> None:
    if call.kept and raw.reads_would_be_baked():
        raw.warn_baked(call.program.name)


def _refuse_raw_writes(call: Call) -> None:
    if call.written or call.program.outcome.effects:
        raise StateError(
            f"{call.program.name} changes state of modules, and was called inside a raw jax transform, which would lose it. "
            f"Use flambeau's transform in its place, or the pure form fb.functional_call."
        )


def _lost(name: str) -> str:
    return (
        f"{name} failed while it ran, after the arrays that it overwrites had been given to it: what they held is lost. "
        f"Load a checkpoint; to keep them through such failures, compile with fb.jit(donate=False)."
    )
