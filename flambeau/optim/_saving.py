"""The state of a parameter group: out of its cells into dicts by PyTorch's names, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from flambeau.core.cell import Cell
from flambeau.core.placement import placed_like
from flambeau.optim.param_group import ParamGroup

__all__ = ["load_group", "save_group"]


def save_group(group: ParamGroup) -> tuple[dict[int, dict[str, jax.Array]], dict[str, jax.Array]]:
    """The state of each parameter by its number, and what is kept for the whole group.

    Each of independent parameters has a copy of what it shares with others, and no state at all before its first step; inside
    of a compiled function, where nothing is known of steps, what it would begin with.
    """
    own: dict[int, dict[str, jax.Array]] = {}
    for (i, name), cell in group._state.items():
        own.setdefault(i, {})[name] = cell.get(group)
    if not group._recipe.independent:
        return own, {name: cell.get(group) for (_, name), cell in group._shared.items()}
    saved: dict[int, dict[str, jax.Array]] = {}
    for cohort in group._cohorts:
        shared = {name: cell.get(group) for (first, name), cell in group._shared.items() if first == cohort[0]}
        if not group._recipe.counter or _may_have_stepped(shared.get(group._recipe.counter, False)):
            visible = {name: value for name, value in shared.items() if not _is_hidden(name)}
            saved.update((i, {**visible, **own.get(i, {})}) for i in cohort)
    return dict(sorted(saved.items())), {}


def _may_have_stepped(count: Any) -> bool:
    """Whether a cohort is not known to be new; what a compiled function counts is known at run time only."""
    return isinstance(count, Tracer) or bool(count)


def load_group(
    group: ParamGroup, keys: Sequence[Any], state: Mapping[Any, Any], common: Mapping[str, Any], errors: list[str]
) -> None:
    """Puts state into the cells of a group whose options are those that it belongs to.

    Args:
        keys: of each parameter, in `state`; one that is not there begins anew.
        state: dicts by name.
        common: what is kept for the whole group.
        errors: gets a line for each thing that does not fit.
    """
    own, shared = _first_values(group)
    if group._recipe.independent:
        own = [{**shared, **values} for values in own]
    parameters = [parameter.peek() for parameter in group["params"]]
    loaded = [
        _read(f"state[{key!r}]", state.get(key, {}), values, parameter, errors)
        for key, values, parameter in zip(keys, own, parameters, strict=True)
    ]
    if not group._recipe.independent:
        loaded[0] |= _read("shared state", common, shared, parameters[0], errors)
    if not errors:
        _put(group, loaded, list(shared))


def _first_values(group: ParamGroup) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What the state of each parameter, and the shared one, begin with."""
    own: list[dict[str, Any]] = [{} for _ in group["params"]]
    shared: dict[str, Any] = {}
    for _, places, leaves in group._first_state():
        for (i, name), leaf in zip(places, leaves, strict=True):
            (shared if i is None else own[i])[name] = jnp.asarray(leaf)
    return own, shared


def _read(
    where: str, entry: Mapping[str, Any], first: dict[str, Any], parameter: Any, errors: list[str]
) -> dict[str, Any]:
    """The values of an entry as arrays like the first ones, where the parameter lies; those first ones if it is empty."""
    given = {name: value for name, value in entry.items() if value is not None}
    if not given:
        return dict(first)
    # Whether there has been a step is hidden state where PyTorch says it by having an entry.
    given.update((name, np.True_) for name in first if _is_hidden(name))
    values: dict[str, Any] = {}
    for name in first.keys() | given.keys():
        if name not in first:
            errors.append(f"{where} has {name!r}, which this optimizer does not keep")
        elif name not in given:
            errors.append(f"{where} lacks {name!r}")
        elif np.shape(given[name]) != first[name].shape:
            errors.append(f"{where}: expected {name!r} of shape {first[name].shape}, got {np.shape(given[name])}")
        else:
            value = given[name] if isinstance(given[name], jax.Array) else np.asarray(given[name])
            value = value if value.dtype == first[name].dtype else jnp.asarray(value, first[name].dtype)
            values[name] = placed_like(value, parameter)
    return values


def _put(group: ParamGroup, loaded: list[dict[str, Any]], shared: list[str]) -> None:
    """Writes the values; where the members of a cohort have not been stepped equally often, there are others."""
    cohorts = group._cohorts
    if group._recipe.independent:
        common = [tuple(_content(values[name]) for name in shared) for values in loaded]
        if any(common[i] != common[cohort[0]] for cohort in cohorts for i in cohort):
            cohorts = group._cohorts = group._partition(common)
            group._shared.clear()
    for cohort in cohorts:
        for name in shared:
            value = loaded[cohort[0]][name]
            if (cohort[0], name) in group._shared:
                group._shared[cohort[0], name].set(value, owner=group, name=name)
            else:
                group._shared[cohort[0], name] = Cell(value)
    for (i, name), cell in group._state.items():
        cell.set(loaded[i][name], owner=group, name=name)


def _content(value: Any) -> Any:
    """By which values are told apart; in a compiled function, by where they come from."""
    return id(value) if isinstance(value, Tracer) else np.asarray(value).tobytes()


def _is_hidden(name: str) -> bool:
    return name.startswith("_")
