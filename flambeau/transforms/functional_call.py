"""`fb.functional_call`: a module as a pure function of its parameters and buffers, for raw JAX transforms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from flambeau._errors import ShapeError, StateError
from flambeau.core.capture import collect, commit
from flambeau.core.cell import Cell, running
from flambeau.core.frame import Frame
from flambeau.core.module import Module
from flambeau.core.suggest import suggestion

__all__ = ["functional_call"]


def functional_call(
    module: Module,
    parameter_and_buffer_dicts: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    args: Any = None,
    kwargs: dict[str, Any] | None = None,
    *,
    tie_weights: bool = True,
    strict: bool = False,
    return_state: bool = False,
) -> Any:
    """Calls `module` with other values in the place of its parameters and buffers; the module itself stays as it is.

    The pure form works under every transform of JAX: `jax.jit`, `jax.grad`, `jax.vmap`, `jax.lax.scan`.

    Args:
        module: the module to call.
        parameter_and_buffer_dicts: arrays by `state_dict` name, or a sequence of such dicts. What is not named keeps its value.
        args: the positional arguments; what is no tuple is the only one.
        kwargs: the keyword arguments.
        tie_weights: whether a value given for one name of a tied parameter holds for its other names.
        strict: whether every parameter and buffer must be given, and no other name.
        return_state: whether to give `(output, state)`, where `state` is a dict of the given values as the call leaves them.

    Raises:
        KeyError: a name that the module does not have; with `strict`, also one that is not given.
        ShapeError: a value of another shape than the parameter or buffer has.
        StateError: the call writes a given value (BatchNorm in training mode does) and `return_state` is false. torch changes
            the given tensor in place; here it would be lost.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> net = nn.Linear(2, 1)
        >>> zeros = jax.tree.map(jnp.zeros_like, dict(net.state_dict()))
        >>> jax.jit(lambda values, x: fb.functional_call(net, values, x))(zeros, jnp.ones((1, 2))).tolist()
        [[0.0]]

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.func.functional_call.html
    """
    args = () if args is None else args if isinstance(args, tuple) else (args,)
    given = _merge(parameter_and_buffer_dicts)
    cells = _cells_by_name(module)
    _check_names(module, given, cells, strict)
    chosen = _choose(given, cells, tie_weights)
    if running.frame is not None:
        running.frame.require(module)
    frame = Frame()
    with frame.active():
        frame.bind(chosen.values(), [given[name] for name in chosen])
        output = module(*args, **(kwargs or {}))
        state = {name: frame.values[cell] for name, cell in chosen.items()}
        changed = [name for name, cell in chosen.items() if frame.values[cell] is not frame.initial[cell]]
        if changed and not return_state:
            raise StateError(
                f"functional_call: {type(module).__name__} wrote {', '.join(changed)}, and the new values would be lost. "
                f"Ask for them, `output, state = functional_call(..., return_state=True)`, or call eval() first."
            )
        for cell in chosen.values():
            frame.values[cell] = frame.initial[cell]
        result = (output, state) if return_state else output
        outcome, arrays, collector = collect(frame, result)
    return commit(frame, outcome, collector, arrays)


def _merge(dicts: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    if isinstance(dicts, Mapping):
        dicts = (dicts,)
    merged: dict[str, Any] = {}
    for values in dicts:
        if not isinstance(values, Mapping):
            raise TypeError(f"functional_call takes dicts of arrays by name, got {type(values).__name__}")
        repeated = merged.keys() & values.keys()
        if repeated:
            raise ValueError(f"functional_call: {sorted(repeated)[0]!r} is given twice")
        merged.update({name: v.get() if isinstance(v, Cell) else v for name, v in values.items()})
    return {name: value if isinstance(value, jax.Array) else jnp.asarray(value) for name, value in merged.items()}


def _cells_by_name(module: Module) -> dict[str, Cell]:
    return dict([*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)])


def _check_names(module: Module, given: dict[str, Any], cells: dict[str, Cell], strict: bool) -> None:
    for name, value in given.items():
        if name not in cells:
            raise KeyError(f"{type(module).__name__} has no parameter or buffer {name!r}{suggestion(name, cells)}")
        if value.shape != cells[name].shape:
            raise ShapeError(f"{name}: expected shape {cells[name].shape}, got {value.shape}")
    if strict and (missing := [name for name in cells if name not in given]):
        raise KeyError(f"functional_call(strict=True): no value is given for {', '.join(missing)}")


def _choose(given: dict[str, Any], cells: dict[str, Cell], tie_weights: bool) -> dict[str, Cell]:
    """The cells that get given values, by one name each."""
    chosen: dict[Cell, str] = {}
    for name in given:
        other = chosen.setdefault(cells[name], name)
        if other != name and given[other] is not given[name]:
            raise ValueError(f"functional_call: {other!r} and {name!r} are tied, and two different values are given")
    if not tie_weights:
        alone = [name for name, cell in cells.items() if cell in chosen and name not in given]
        if alone:
            raise ValueError(
                f"functional_call(tie_weights=False): {alone[0]!r} is tied to {chosen[cells[alone[0]]]!r}, one Parameter under "
                f"two names, so it cannot keep its value; give both, or untie them with a deepcopy"
            )
    return {name: cell for cell, name in chosen.items()}
