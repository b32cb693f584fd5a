"""`fb.Checkpointer`: the whole state of a training run, saved while it goes on, by orbax."""

from __future__ import annotations

import math
import operator
import os
import re
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from flambeau._errors import CheckpointError, StateDictError
from flambeau.core.extras import require
from flambeau.core.placement import placement_of
from flambeau.core.random import Generator
from flambeau.core.transaction import transaction
from flambeau.core.tree import Node
from flambeau.io._arrays import held_dtype, to_jax
from flambeau.io._file import BadFileError, Path

__all__ = ["Checkpointer", "Restored"]

_ARRAYS, _REST, _METRICS = "arrays", "rest", "metrics"
# What orbax takes for the name of a checkpoint, and what it writes into each.
_NAME, _MARK = re.compile("0|[1-9][0-9]*"), "_CHECKPOINT_METADATA"
_PARTS = {_ARRAYS, _REST, _METRICS, _MARK, "commit_success.txt"}


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
        directory: of the checkpoints, one folder for each, whose name is its step; it is made if it is not there. It may have
            other things in it too, but none with a number for a name.
        keep: how many of the latest are kept.
        best: the name of a metric, whose best checkpoint is kept too; the later of equal ones, and never one that is NaN.
        mode: whether the best metric is the smallest or the largest.
        asynchronous: whether `save` returns before the files are written.

    Raises:
        MissingExtraError: the extra `checkpointer` (orbax-checkpoint) is not installed.
        CheckpointError: the folder cannot be made or written, or has something in it that could be taken for a checkpoint.

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
        keep = _whole_number("keep", keep, 1)
        if best is not None and not isinstance(best, str):
            raise TypeError(f"expected best to be the name of a metric, got a {type(best).__name__}")
        if mode not in ("min", "max"):
            raise ValueError(f"expected mode to be 'min' or 'max', got {mode!r}")
        why = "Checkpointer: the package orbax-checkpoint is not installed"
        self._orbax = orbax = require("orbax.checkpoint", "checkpointer", why)
        self._best, self._mode = best, mode
        self.directory = _folder(directory)
        policies = orbax.checkpoint_managers.preservation_policy
        kept: list[Any] = [policies.LatestN(keep)]
        if best is not None:
            # Orbax keeps those with the largest rank.
            kept.append(policies.BestN(get_metric_fn=self._rank, n=1, keep_checkpoints_without_metrics=False))
        options = orbax.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(kept),
            best_fn=self._rank,  # without one, metrics are not written
            enable_async_checkpointing=asynchronous,
        )
        handlers = {_ARRAYS: orbax.StandardCheckpointHandler(), _REST: orbax.JsonCheckpointHandler()}
        handlers[_METRICS] = orbax.JsonCheckpointHandler(filename=_METRICS)
        self._open: Any = orbax.CheckpointManager(self.directory, item_handlers=handlers, options=options)
        self._writing: int | None = None

    @property
    def _manager(self) -> Any:
        if self._open is None:
            raise CheckpointError(f"the Checkpointer of {self.directory} has been closed: make a new one")
        return self._open

    def _rank(self, metrics: Mapping[str, float] | None) -> tuple[bool, float]:
        """The better, the larger; the lowest of all if there is no such metric, or it is NaN."""
        value = (metrics or {}).get(str(self._best), math.nan)
        return (False, 0.0) if math.isnan(value) else (True, value if self._mode == "max" else -value)

    # -- saving ---------------------------------------------------------------------------------------------------------

    def save(self, step: int, state: Mapping[str, Any], metrics: Mapping[str, float] | None = None) -> None:
        """Saves a checkpoint.

        Args:
            step: its number, larger than that of any before.
            state: by name: modules, optimizers, schedulers and whatever else has `state_dict` and `load_state_dict`;
                generators; and values: arrays, numbers, texts, None, and lists, tuples and dicts of these.
            metrics: numbers that belong to it; that which `best` names has to be among them.

        Raises:
            CheckpointError: there is such a step already or a later one, or the folder cannot be written. If `asynchronous`,
                that is found out later, and said by the next `save`, which then saves what it was given all the same, or by
                `wait` or `close`. Checkpoints that were complete before stay as they are.
            TypeError: something in `state` or `metrics` is none of these.
            ValueError: `step` is negative, or `metrics` lack that which `best` names.
        """
        step = _whole_number("step", step, 0)
        _check_state(state)
        numbers = self._numbers(metrics)
        arrays: dict[str, Any] = {}
        rest = {name: _encode(_state_of(thing), name, arrays) for name, thing in state.items()}
        items = {_REST: self._orbax.args.JsonSave(rest)}
        if arrays:
            items[_ARRAYS] = self._orbax.args.StandardSave(arrays)
        earlier = self._settle()
        try:
            self._write(step, items, numbers)
        except CheckpointError as error:
            if earlier is not None:
                error.add_note(str(earlier))
            raise
        if earlier is not None:
            earlier.add_note(f"step {step} is saved all the same")
            raise earlier

    def _write(self, step: int, items: dict[str, Any], numbers: dict[str, float] | None) -> None:
        latest = self.latest_step()
        if latest is not None and step <= latest:
            raise CheckpointError(f"{self.directory} has step {latest}, so step {step} cannot be saved any more")
        if os.path.lexists(os.path.join(self.directory, str(step))):  # which orbax would overwrite
            raise CheckpointError(f"{self.directory} has a {step} that this Checkpointer did not write: move it away")
        try:
            self._manager.save(step, args=self._orbax.args.Composite(**items), metrics=numbers)
        except Exception as error:  # not all come as an OSError
            raise self._failure(step, error) from error
        self._writing = step

    def _numbers(self, metrics: Mapping[str, Any] | None) -> dict[str, float] | None:
        if metrics is not None and not isinstance(metrics, Mapping):
            raise TypeError(f"expected metrics to be a dict of numbers by name, got a {type(metrics).__name__}")
        if self._best is not None and self._best not in (metrics or {}):
            raise ValueError(
                f"expected metrics with {self._best!r}, by which the best checkpoint is chosen, got {metrics}"
            )
        return None if metrics is None else {name: _number(name, value) for name, value in metrics.items()}

    def _settle(self) -> CheckpointError | None:
        """Waits for what is being written; returns what went wrong with it."""
        manager, failure = self._manager, None
        try:
            manager.wait_until_finished()
        except Exception as error:
            failure = self._failure(self._writing, error)
            failure.__cause__ = error
        self._writing = None
        return failure

    def _failure(self, step: int | None, error: Exception) -> CheckpointError:
        # Orbax has forgotten the steps already that it would have removed.
        self._manager.reload()
        there = ", ".join(map(str, self.steps())) or "none"
        return CheckpointError(
            f"step {step} cannot be written to {self.directory}: {error}\nThe checkpoints before are intact (steps: {there})"
        )

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
            CheckpointError: there is no such step, it lacks a name of `state` or has another kind of object by that name, or it
                cannot be read; or what was saved last could not be written, which is said once.
            StateDictError: it does not fit an object of `state`.
        """
        _check_state(state)
        for name, thing in state.items():
            _check_loads(name, thing)
        if step is not None and step != "best":
            step = _whole_number("step", step, 0)
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
                _load(thing, found[name], f"{name!r} of step {number} in {self.directory}")

        node = next((thing for thing in state.values() if isinstance(thing, Node)), None)
        load() if node is None else transaction(node, load)
        return Restored(number, {name: value for name, value in found.items() if name not in state})

    def _read(self, step: int, state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        here: dict[str, Any] = {}
        for name, thing in state.items():
            here.update(_arrays_of(_state_of(thing), name))
            here.update(_parameters_of(thing, name))
        args, arrays = self._orbax.args, {}
        try:
            rest = self._part(step, _REST, args.JsonRestore())
            # Not orbax's own notes of them, which tell of their shardings too, and cannot be read where JAX had no name for one.
            specs = dict(_specs(list(rest.values())))
            places = {name: _place(name, spec, here) for name, spec in specs.items()}
            if specs:
                wanted = {name: _wanted(spec, places[name]) for name, spec in specs.items()}
                arrays = self._part(step, _ARRAYS, args.StandardRestore(wanted))
            return rest, {name: _at(name, value, places[name]) for name, value in arrays.items()}
        except (BadFileError, OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"step {step} of {self.directory} cannot be read: {error}") from error

    def _part(self, step: int, name: str, how: Any) -> dict[str, Any]:
        return self._manager.restore(step, args=self._orbax.args.Composite(**{name: how}))[name]

    # -- looking --------------------------------------------------------------------------------------------------------

    def steps(self) -> list[int]:
        """The steps of all checkpoints."""
        return sorted(self._manager.all_steps())

    def latest_step(self) -> int | None:
        """The step of the latest checkpoint."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """The step of the best checkpoint, by the metric that `best` names; None if none has it, or all are NaN."""
        if self._best is None:
            raise ValueError("no metric was named: Checkpointer(directory, best=...)")
        ranks = [(self._rank(self._manager.metrics(step)), step) for step in self.steps()]
        (there, _), step = max(ranks, default=((False, 0.0), None))
        return step if there else None

    def wait(self) -> None:
        """Returns when all that was saved is on the disk.

        Raises:
            CheckpointError: what was saved last could not be written.
        """
        failure = self._settle()
        if failure is not None:
            raise failure

    def close(self) -> None:
        """Waits, and ends the threads that write; nothing can be saved or restored any more.

        Raises:
            CheckpointError: what was saved last could not be written.
        """
        if self._open is None:
            return
        failure = self._settle()
        self._open.close()
        self._open = None
        if failure is not None:
            raise failure

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except CheckpointError as failure:
            if error is None:
                raise
            error.add_note(str(failure))


# -- what is given -------------------------------------------------------------------------------------------------------


def _folder(directory: Path) -> str:
    """The absolute path of a folder that is there, and in which only checkpoints look like checkpoints.

    Anything else would be counted as one, and as an old one be removed.
    """
    folder = os.path.abspath(os.fspath(directory))
    try:
        os.makedirs(folder, exist_ok=True)
        numbered = [name for name in os.listdir(folder) if _NAME.fullmatch(name)]
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be a folder of checkpoints: {error.strerror or error}") from error
    for name in numbered:
        path = os.path.join(folder, name)
        if not _is_ours(path):
            raise CheckpointError(
                f"{path} is no checkpoint that a Checkpointer wrote, and would be removed as an old one: "
                f"move it away, or choose another folder for the checkpoints"
            )
    if not numbered and not os.access(folder, os.W_OK | os.X_OK):
        raise CheckpointError(f"{folder} has no checkpoints, and cannot be written")
    return folder


def _is_ours(path: str) -> bool:
    """Whether this is a checkpoint, or what is left of one by a process that was killed while it removed it."""
    parts = set(os.listdir(path)) if os.path.isdir(path) else set()
    return parts >= {_MARK, _REST} or (bool(parts) and parts <= _PARTS)


def _whole_number(name: str, value: Any, least: int) -> int:
    if isinstance(value, (bool, np.bool_)) or not hasattr(value, "__index__"):
        raise TypeError(f"expected {name} to be an int, got {value!r}")
    if (number := operator.index(value)) < least:
        raise ValueError(f"expected {name} to be at least {least}, got {number}")
    return number


def _number(name: str, value: Any) -> float:
    try:
        if not isinstance(value, (str, bytes)) and np.ndim(value) == 0 and not np.iscomplexobj(value):
            return float(value)
    except (TypeError, ValueError):
        pass
    raise TypeError(f"expected the metric {name!r} to be a number, got {value!r}")


def _check_state(state: Any) -> None:
    if not isinstance(state, Mapping):
        kind = type(state).__name__
        hint = ': write {"net": net}' if hasattr(state, "state_dict") else ""
        raise TypeError(f"expected state to be a dict of objects and values by name, got a {kind}{hint}")
    for name in state:
        if not isinstance(name, str):
            raise TypeError(f"expected the names in state to be texts, got {name!r}")


def _check_loads(name: str, thing: Any) -> None:
    if not isinstance(thing, Generator) and not hasattr(thing, "load_state_dict"):
        raise TypeError(
            f"expected {name!r} to be a module or something else with load_state_dict, got a {type(thing).__name__}; "
            f"values come back in the result"
        )


def _state_of(thing: Any) -> Any:
    if isinstance(thing, Generator):
        return thing.get_state()
    read: Callable[[], Any] | None = getattr(thing, "state_dict", None)
    return thing if read is None else read()


def _load(thing: Any, value: Any, where: str) -> None:
    kind = type(thing).__name__
    try:
        thing.set_state(value) if isinstance(thing, Generator) else thing.load_state_dict(value)
    except StateDictError as error:
        raise StateDictError(f"{where} does not fit this {kind}: {error}") from error
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{where} is not the state of such a {kind} ({reason})") from error


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
        return {"$array": [path, list(value.shape), str(value.dtype)]}
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
    if isinstance(value, Generator) or hasattr(value, "state_dict"):
        raise TypeError(
            f"{path} is a {type(value).__name__} inside of a value, which could not be loaded into: "
            f"put it into state itself, by a name of its own"
        )
    raise TypeError(
        f"expected {path} to be arrays, numbers, texts, or lists, tuples and dicts of these, got a {type(value).__name__}"
    )


class _Spec(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype


def _specs(value: Any) -> Iterator[tuple[str, _Spec]]:
    """What arrays there are, by the paths that they are saved under."""
    if isinstance(value, list):
        for item in value:
            yield from _specs(item)
    elif isinstance(value, dict):
        ((kind, held),) = value.items()
        if kind == "$array":
            yield held[0], _Spec(tuple(held[1]), jnp.dtype(held[2]))
        elif kind == "$key":
            yield from _specs(held[1])
        elif kind == "$tuple":
            yield from _specs(held)
        elif kind == "$dict":
            yield from _specs([item for _, item in held])


def _decode(value: Any, arrays: Mapping[str, Any]) -> Any:
    if isinstance(value, list):
        return [_decode(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, held),) = value.items()
    if kind == "$array":
        return arrays[held[0]]
    if kind == "$empty":
        return jnp.zeros(held[0], held[1])
    if kind == "$key":
        return jax.random.wrap_key_data(_decode(held[1], arrays), impl=held[0])
    if kind == "$complex":
        return complex(*held)
    if kind == "$tuple":
        return tuple(_decode(item, arrays) for item in held)
    return {key: _decode(item, arrays) for key, item in held}
