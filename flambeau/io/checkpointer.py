"""`fb.Checkpointer`: the whole state of a training run, saved while it goes on, by orbax."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from flambeau._errors import CheckpointError
from flambeau.core.extras import require
from flambeau.core.placement import placement_of
from flambeau.core.random import Generator
from flambeau.core.transaction import transaction
from flambeau.core.tree import Node
from flambeau.io._arrays import held_dtype, to_jax
from flambeau.io._file import BadFileError, Path

__all__ = ["Checkpointer", "Restored"]

_ARRAYS, _REST, _METRICS = "arrays", "rest", "metrics"


class Restored(NamedTuple):
    """What `Checkpointer.restore` found."""

    step: int
    values: dict[str, Any]
    """What was saved besides modules and other objects that load their state themselves, by name."""


class Checkpointer:
    """Saves the state of a training run in a folder, and brings it back: modules, optimizers, generators, and plain values.

    A checkpoint is there when it is complete: a process that is killed at any moment leaves those that it finished. The
    arrays are copied when `save` returns, and written while training goes on.

    Args:
        directory: of the checkpoints, one folder for each; it is made if it is not there.
        keep: how many of the latest are kept.
        best: the name of a metric, whose best checkpoint is kept too.
        mode: whether the best metric is the smallest or the largest.
        asynchronous: whether `save` returns before the files are written.

    Raises:
        MissingExtraError: the extra `checkpointer` (orbax-checkpoint) is not installed.

    Example:
        >>> import jax.numpy as jnp
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> net = nn.Linear(2, 1)
        >>> with fb.Checkpointer("run", keep=2, best="loss") as checkpoints:
        ...     for step in range(3):
        ...         _ = checkpoints.save(step, {"net": net, "position": 10 * step}, metrics={"loss": abs(step - 1)})
        >>> with fb.Checkpointer("run") as checkpoints:
        ...     checkpoints.steps(), checkpoints.restore({"net": net}).values
        ([1, 2], {'position': 20})

    Source: https://orbax.readthedocs.io/en/latest/guides/checkpoint/api_refactor.html
    """

    def __init__(
        self,
        directory: Path,
        *,
        keep: int = 3,
        best: str | None = None,
        mode: Literal["min", "max"] = "min",
        asynchronous: bool = True,
    ) -> None:
        if keep < 1:
            raise ValueError(f"expected keep to be at least 1, got {keep}")
        if mode not in ("min", "max"):
            raise ValueError(f"expected mode to be 'min' or 'max', got {mode!r}")
        why = "Checkpointer: the package orbax-checkpoint is not installed"
        self._orbax = orbax = require("orbax.checkpoint", "checkpointer", why)
        self._best, self._mode = best, mode
        policies = orbax.checkpoint_managers.preservation_policy
        kept: list[Any] = [policies.LatestN(keep)]
        if best is not None:
            # Orbax keeps those with the largest.
            kept.append(policies.BestN(get_metric_fn=self._score, n=1, keep_checkpoints_without_metrics=False))
        options = orbax.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(kept),
            best_fn=self._score,  # without one, metrics are not written
            enable_async_checkpointing=asynchronous,
        )
        self.directory = os.path.abspath(directory)
        handlers = {_ARRAYS: orbax.StandardCheckpointHandler(), _REST: orbax.JsonCheckpointHandler()}
        handlers[_METRICS] = orbax.JsonCheckpointHandler(filename=_METRICS)
        self._manager = orbax.CheckpointManager(self.directory, item_handlers=handlers, options=options)

    def _score(self, metrics: Mapping[str, float]) -> float:
        value = float(metrics[str(self._best)])
        return value if self._mode == "max" else -value

    # -- saving ---------------------------------------------------------------------------------------------------------

    def save(self, step: int, state: Mapping[str, Any], metrics: Mapping[str, float] | None = None) -> None:
        """Saves a checkpoint.

        Args:
            step: its number, larger than that of any before.
            state: by name: modules, optimizers, schedulers and whatever else has `state_dict` and `load_state_dict`;
                generators; and values: arrays, numbers, texts, None, and lists, tuples and dicts of these.
            metrics: numbers that belong to it; that which `best` names has to be among them.

        Raises:
            CheckpointError: there is such a step already or a later one, or the folder cannot be written.
            TypeError: something in `state` is none of these.
        """
        latest = self._manager.latest_step()
        if latest is not None and step <= latest:
            raise CheckpointError(f"{self.directory} has step {latest}, so step {step} cannot be saved any more")
        if self._best is not None and self._best not in (metrics or {}):
            raise ValueError(
                f"expected metrics with {self._best!r}, by which the best checkpoint is chosen, got {metrics}"
            )
        arrays: dict[str, Any] = {}
        rest = {name: _encode(_state_of(thing), name, arrays) for name, thing in state.items()}
        items = {_REST: self._orbax.args.JsonSave(rest)}
        if arrays:
            items[_ARRAYS] = self._orbax.args.StandardSave(arrays)
        numbers = None if metrics is None else {name: float(value) for name, value in metrics.items()}
        try:
            self._manager.save(step, args=self._orbax.args.Composite(**items), metrics=numbers)
        except OSError as error:
            raise CheckpointError(f"{self.directory} cannot be written: {error}") from error

    # -- restoring ------------------------------------------------------------------------------------------------------

    def restore(self, state: Mapping[str, Any] = {}, step: int | Literal["best"] | None = None) -> Restored | None:
        """Brings a checkpoint back: into the objects of `state`, whole or not at all, and the values as a dict.

        Arrays come to the devices, and in the shardings, that those have which they replace, whatever they had when they were
        saved. An optimizer that was never stepped has no state yet: its state comes to where its parameters are. Arrays among
        the values come to where JAX puts new arrays.

        Args:
            state: by the names that `save` was given: the objects to load into.
            step: which checkpoint; the latest if None; "best", by the metric.

        Returns:
            Its step and the values; None if there is no checkpoint at all.

        Raises:
            CheckpointError: there is no such step, it lacks a name of `state`, or cannot be read.
            StateDictError: it does not fit an object of `state`.
        """
        self.wait()
        number = self.best_step() if step == "best" else self.latest_step() if step is None else step
        if number is None:
            return None
        if number not in self.steps():
            raise CheckpointError(f"{self.directory} has no step {number}; there are {self.steps()}")
        rest, arrays = self._read(number, state)
        if missing := [name for name in state if name not in rest]:
            raise CheckpointError(f"step {number} of {self.directory} has no {missing[0]!r}; it has {', '.join(rest)}")
        found = {name: _decode(value, arrays) for name, value in rest.items()}

        def load() -> None:
            for name, thing in state.items():
                _load(thing, found[name], name)

        node = next((thing for thing in state.values() if isinstance(thing, Node)), None)
        load() if node is None else transaction(node, load)
        return Restored(number, {name: value for name, value in found.items() if name not in state})

    def _read(self, step: int, state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        here: dict[str, Any] = {}
        for name, thing in state.items():
            here.update(_arrays_of(_state_of(thing), name))
            here.update(_parameters_of(thing, name))
        args = self._orbax.args
        try:
            items = {_REST: args.JsonRestore()}
            specs = dict(self._manager.item_metadata(step).get(_ARRAYS) or {})
            places = {name: _place(name, spec, here) for name, spec in specs.items()}
            if specs:
                wanted = {name: _wanted(spec, places[name]) for name, spec in specs.items()}
                items[_ARRAYS] = args.StandardRestore(wanted)
            found = dict(self._manager.restore(step, args=args.Composite(**items)))
            arrays = found.get(_ARRAYS, {})
            return found[_REST], {name: _at(name, value, places[name]) for name, value in arrays.items()}
        except (BadFileError, OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"step {step} of {self.directory} cannot be read: {error}") from error

    # -- looking --------------------------------------------------------------------------------------------------------

    def steps(self) -> list[int]:
        """The steps of all checkpoints."""
        return sorted(self._manager.all_steps())

    def latest_step(self) -> int | None:
        """The step of the latest checkpoint."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """The step of the best checkpoint, by the metric that `best` names."""
        if self._best is None:
            raise ValueError("no metric was named: Checkpointer(directory, best=...)")
        scores = {step: self._manager.metrics(step) for step in self.steps()}
        there = [step for step, metrics in scores.items() if metrics and self._best in metrics]
        return max(there, key=lambda step: self._score(scores[step]), default=None)

    def wait(self) -> None:
        """Returns when all that was saved is on the disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and ends the threads that write."""
        self._manager.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _state_of(thing: Any) -> Any:
    if isinstance(thing, Generator):
        return thing.get_state()
    read: Callable[[], Any] | None = getattr(thing, "state_dict", None)
    return thing if read is None else read()


def _load(thing: Any, value: Any, name: str) -> None:
    if isinstance(thing, Generator):
        thing.set_state(value)
    elif hasattr(thing, "load_state_dict"):
        thing.load_state_dict(value)
    else:
        raise TypeError(
            f"expected {name!r} to be a module or something else with load_state_dict, got a {type(thing).__name__}; "
            f"values come back in the result"
        )


# -- where arrays come to -------------------------------------------------------------------------------------------------


def _arrays_of(value: Any, path: str) -> Iterator[tuple[str, jax.Array]]:
    """The arrays that are there, by the paths that they are saved under; what a module has not made yet is none."""
    if isinstance(value, jax.Array):
        yield path, value
    elif isinstance(value, (Mapping, list, tuple)):
        for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _arrays_of(item, f"{path}/{key}")


def _parameters_of(thing: Any, name: str) -> Iterator[tuple[str, Any]]:
    """If `thing` is an optimizer: its parameters, by the paths below which the state of each is saved."""
    parameters = [parameter for group in getattr(thing, "param_groups", ()) for parameter in group["params"]]
    for i, parameter in enumerate(parameters):
        yield f"{name}/state/{i}", parameter.peek()


def _place(path: str, spec: Any, here: Mapping[str, Any]) -> jax.sharding.Sharding | None:
    """Where somebody put that which an array replaces, or the parameter whose state it is; None if nobody did."""
    present = here.get(path, here.get(path.rpartition("/")[0]))
    return placement_of(present) if present is not None and present.shape == tuple(spec.shape) else None


def _wanted(spec: Any, place: jax.sharding.Sharding | None) -> Any:
    """What orbax is asked for: each shard on its device, or all in the memory of the host."""
    if place is not None and held_dtype(spec.dtype) == spec.dtype:
        return jax.ShapeDtypeStruct(spec.shape, spec.dtype, sharding=place)
    # Without a place of its own, orbax would look for the devices that it was saved on, and where there are others, fail. And
    # it cuts 64 bits down to 32 without a look at the values.
    return np.broadcast_to(np.zeros((), spec.dtype), spec.shape)


def _at(path: str, value: Any, place: jax.sharding.Sharding | None) -> jax.Array:
    return value if isinstance(value, jax.Array) else to_jax(repr(path), value, place)


# -- what JSON holds, with names in the places of arrays ------------------------------------------------------------------


def _encode(value: Any, path: str, arrays: dict[str, Any]) -> Any:
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return {"$key": [str(jax.random.key_impl(value)), _encode(jax.random.key_data(value), path, arrays)]}
    if isinstance(value, (jax.Array, np.ndarray, np.generic)):
        if value.size == 0:  # which orbax does not save
            return {"$empty": [list(value.shape), str(value.dtype)]}
        while path in arrays:  # a key with a slash in it
            path += "'"
        arrays[path] = value
        return {"$array": path}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, complex):
        return {"$complex": [value.real, value.imag]}
    if isinstance(value, (list, tuple)):
        items = [_encode(item, f"{path}/{i}", arrays) for i, item in enumerate(value)]
        return items if isinstance(value, list) else {"$tuple": items}
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, (str, int)):
                raise TypeError(f"expected the keys of {path} to be texts or ints, got a {type(key).__name__}")
        return {"$dict": [[key, _encode(item, f"{path}/{key}", arrays)] for key, item in value.items()]}
    raise TypeError(
        f"expected {path} to be arrays, numbers, texts, or lists, tuples and dicts of these, got a {type(value).__name__}"
    )


def _decode(value: Any, arrays: Mapping[str, Any]) -> Any:
    if isinstance(value, list):
        return [_decode(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, held),) = value.items()
    if kind == "$array":
        return arrays[held]
    if kind == "$empty":
        return jnp.zeros(held[0], held[1])
    if kind == "$key":
        return jax.random.wrap_key_data(_decode(held[1], arrays), impl=held[0])
    if kind == "$complex":
        return complex(*held)
    if kind == "$tuple":
        return tuple(_decode(item, arrays) for item in held)
    return {key: _decode(item, arrays) for key, item in held}
