"""A program whose equal calls run as one loop, which is compiled once.

A constructor draws the numbers of a hundred parameters by a hundred calls of a few samplers, and XLA takes its time for each
call, equal or not. So calls of one jitted function that do not need each other's results are put together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

__all__ = ["grouped"]


def grouped(closed: Any, name: str, wanted: Sequence[int]) -> Callable[..., list[Any]]:
    """The program of the `wanted` outputs of `closed`, in which equal calls of the jitted function `name` are one loop."""
    jaxpr = closed.jaxpr
    outvars = [jaxpr.outvars[i] for i in wanted]
    eqns = _needed(jaxpr.eqns, outvars)
    drawn: set[int] = set()  # variables that depend on a call
    before, calls, after = [], [], []
    for eqn in eqns:
        late = any(id(var) in drawn for var in eqn.invars)
        is_call = not late and eqn.params.get("name") == name
        (after if late else calls if is_call else before).append(eqn)
        if late or is_call:
            drawn.update(map(id, eqn.outvars))
    arguments = [var for eqn in calls for var in eqn.invars]
    results = [var for eqn in calls for var in eqn.outvars]
    passed = _inputs_of(after, outvars, made=[*results, *jaxpr.constvars, *jaxpr.invars])
    first = _program(closed, before, jaxpr.invars, [*arguments, *passed])
    last = _program(closed, after, [*jaxpr.invars, *passed, *results], outvars)

    def run(*inputs: Any) -> list[Any]:
        outs = first(*inputs)
        values, kept = outs[: len(arguments)], outs[len(arguments) :]
        return last(*inputs, *kept, *_call(calls, values))

    return run


def _needed(eqns: Iterable[Any], outvars: Sequence[Any]) -> list[Any]:
    """The equations that the outputs depend on."""
    needed = set(map(id, outvars))
    found = []
    for eqn in reversed(list(eqns)):
        if eqn.effects or any(id(var) in needed for var in eqn.outvars):
            needed.update(map(id, eqn.invars))
            found.append(eqn)
    return found[::-1]


def _inputs_of(eqns: Iterable[Any], outvars: Sequence[Any], made: Iterable[Any]) -> list[Any]:
    """The variables that equations, and outputs, take from others than those in `made`."""
    known = set(map(id, made))
    found: dict[int, Any] = {}
    for eqn in eqns:
        found.update((id(var), var) for var in eqn.invars if id(var) not in known and not hasattr(var, "val"))
        known.update(map(id, eqn.outvars))
    found.update((id(var), var) for var in outvars if id(var) not in known and not hasattr(var, "val"))
    return list(found.values())


def _program(closed: Any, eqns: list[Any], invars: Sequence[Any], outvars: Sequence[Any]) -> Callable[..., list[Any]]:
    info = closed.jaxpr.debug_info._replace(arg_names=("",) * len(invars), result_paths=("",) * len(outvars))
    jaxpr = closed.jaxpr.replace(eqns=eqns, invars=list(invars), outvars=list(outvars), debug_info=info)
    return jaxpr_as_fun(ClosedJaxpr(jaxpr, closed.consts))


def _call(calls: Sequence[Any], values: Sequence[Any]) -> list[Any]:
    """The results of all calls: those that are equal in one loop over their stacked arguments."""
    rest = iter(values)
    groups: dict[str, list[int]] = {}
    arguments = []
    for i, eqn in enumerate(calls):
        arguments.append([next(rest) for _ in eqn.invars])
        groups.setdefault(str(eqn.params["jaxpr"]), []).append(i)
    results: dict[int, list[Any]] = {}
    for members in groups.values():
        run = jaxpr_as_fun(calls[members[0]].params["jaxpr"])
        columns = [jnp.stack(column) for column in zip(*(arguments[i] for i in members), strict=True)]
        stacked = jax.lax.map(lambda column, run=run: run(*column), columns)
        for k, i in enumerate(members):
            results[i] = [result[k] for result in stacked]
    return [result for i in range(len(calls)) for result in results[i]]
