"""`fb.functional_call`: a module as a pure function of its parameters and buffers, for raw JAX transforms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from flambeau._errors import ShapeError, StateError
from flambeau.core import raw
from flambeau.core.capture import collect, commit
from flambeau.core.cell import Cell, running
from flambeau.core.frame import Frame
from flambeau.core.module import Module
from flambeau.core.random import Key, default_generator
from flambeau.core.structure import Structure
from flambeau.core.suggest import suggestion

__all__ = ["functional_call", "stack_module_state"]


def functional_call(
    module: Module,
    parameter_and_buffer_dicts: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    args: Any = None,
    kwargs: dict[str, Any] | None = None,
    *,
    tie_weights: bool = True,
    strict: bool = False,
    return_state: bool = False,
    key: jax.Array | None = None,
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
        key: a key of `jax.random`, from which the call draws its random numbers; the default generator, and those of the
            module, stay as they are. Without one they are drawn from, and move on, which a raw `jax.jit` refuses.

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
        >>> noisy = lambda key: fb.functional_call(nn.Dropout(0.5), {}, jnp.ones(8), key=key)
        >>> jax.vmap(noisy)(jax.random.split(jax.random.key(0), 3)).shape
        (3, 8)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.func.functional_call.html
    """
    args = () if args is None else args if isinstance(args, tuple) else (args,)
    given = _merge(parameter_and_buffer_dicts)
    cells = _cells_by_name(module)
    _check_names(module, given, cells, strict)
    chosen = _choose(given, cells, tie_weights)
    generators = [] if key is None else _generators(module)
    if running.frame is not None:
        running.frame.require(module)
    frame = Frame()

    def call() -> Any:
        frame.bind(chosen.values(), [given[name] for name in chosen])
        if key is None:
            output = module(*args, **(kwargs or {}))
        else:
            frame.bind(generators, _states(key, generators))
            output = raw.with_own_draws(lambda: module(*args, **(kwargs or {})))
        state = {name: frame.values[cell] for name, cell in chosen.items()}
        changed = [name for name, cell in chosen.items() if frame.values[cell] is not frame.initial[cell]]
        if changed and not return_state:
            raise StateError(
                f"functional_call: {type(module).__name__} wrote {', '.join(changed)}, and the new values would be lost. "
                f"Ask for them, `output, state = functional_call(..., return_state=True)`, or call eval() first."
            )
        for cell in (*chosen.values(), *generators):
            frame.values[cell] = frame.initial[cell]
        return collect(frame, (output, state) if return_state else output)

    outcome, arrays, collector = frame.run(call)
    return commit(frame, outcome, collector, arrays)


def stack_module_state(models: Iterable[Module]) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """The parameters and the buffers of several modules of one kind, stacked by name: an ensemble for `jax.vmap`.

    Args:
        models: modules of the same class, with the same names and shapes, all training or none of them.

    Raises:
        RuntimeError: there is no module, or they differ in class, mode, names or `requires_grad`.
        ShapeError: a parameter or buffer has another shape in another module.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> models = [nn.Linear(3, 2) for _ in range(5)]
        >>> params, buffers = fb.stack_module_state(models)
        >>> call = lambda params, buffers, x: fb.functional_call(models[0], (params, buffers), x)
        >>> jax.vmap(call, in_axes=(0, 0, None))(params, buffers, jnp.ones((4, 3))).shape
        (5, 4, 2)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.func.stack_module_state.html
    """
    models = list(models)
    if not models:
        raise RuntimeError("stack_module_state: expected at least one module, got none")
    kinds = {type(model) for model in models}
    if len(kinds) > 1:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise RuntimeError(f"stack_module_state: expected modules of one class, got {names}")
    if len({model.training for model in models}) > 1:
        raise RuntimeError("stack_module_state: expected all modules to be training, or none of them")
    params = [dict(model.named_parameters()) for model in models]
    for name in params[0]:
        if len({own[name].requires_grad for own in params if name in own}) > 1:
            raise RuntimeError(f"stack_module_state: expected {name} of all modules to have the same requires_grad")
    return _stack(params), _stack([dict(model.named_buffers()) for model in models])


def _stack(cells: Sequence[Mapping[str, Cell]]) -> dict[str, jax.Array]:
    for i, own in enumerate(cells):
        if own.keys() != cells[0].keys():
            differing = ", ".join(sorted(own.keys() ^ cells[0].keys()))
            raise RuntimeError(f"stack_module_state: module {i} and module 0 do not both have {differing}")
        for name, cell in own.items():
            if cell.shape != cells[0][name].shape:
                raise ShapeError(f"{name}: expected shape {cells[0][name].shape}, got {cell.shape} in module {i}")
    return {name: jnp.stack([own[name].get() for own in cells]) for name in cells[0]}


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


def _generators(module: Module) -> list[Cell]:
    """The states of the generators that a call may draw from."""
    return [cell for cell in Structure([default_generator, module]).cells if isinstance(cell, Key)]


def _states(key: jax.Array, generators: Sequence[Cell]) -> list[jax.Array]:
    """A state for each of them, all different."""
    shape, dtype = generators[0].shape, generators[0].dtype
    return list(jax.random.bits(key, (len(generators), *shape), dtype))


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
