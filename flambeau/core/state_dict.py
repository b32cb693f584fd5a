"""`state_dict` and `load_state_dict`: a module's arrays by name, out and in."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from flambeau._errors import StateDictError
from flambeau.core import hidden
from flambeau.core.cell import Cell, UninitializedBuffer, UninitializedParameter
from flambeau.core.hooks import HookMethods, hooks_of
from flambeau.core.placement import placed_like
from flambeau.core.transaction import transaction

__all__ = ["IncompatibleKeys", "StateDictMethods"]

EXTRA_STATE = "_extra_state"


class IncompatibleKeys(NamedTuple):
    """What `load_state_dict` could not match: keys of the module that were missing, and keys that it does not know."""

    missing_keys: list[str]
    unexpected_keys: list[str]

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        return f"_IncompatibleKeys(missing_keys={self.missing_keys}, unexpected_keys={self.unexpected_keys})"

    __str__ = __repr__


class StateDict(OrderedDict):
    """An ordered dict that carries the versions of the modules it came from, as torch's does."""

    _metadata: dict[str, Any]


class StateDictMethods(HookMethods):
    """The part of `Module` that saves and loads state."""

    _version: int = 1

    def get_extra_state(self) -> Any:
        """What `state_dict` holds for this module besides arrays. Define it together with `set_extra_state`."""
        raise RuntimeError(f"{type(self).__name__} defines no get_extra_state")

    def set_extra_state(self, state: Any) -> None:
        """Takes back what `get_extra_state` gave. Define it together with `get_extra_state`."""
        raise RuntimeError(f"{type(self).__name__} defines set_extra_state or none: its state dict holds extra state")

    def state_dict(self, *, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """The parameters and persistent buffers by name.

        Args:
            destination: a dict to add to, in the place of a new one.
            prefix: put before each name.
            keep_vars: whether the values are the `Parameter` and `Buffer` objects rather than their arrays.

        Returns:
            An `OrderedDict` from names such as `encoder.0.weight` to arrays.

        Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.Module.html
        """
        hidden.warn_below(self)
        if destination is None:
            destination = StateDict()
            destination._metadata = OrderedDict()
        metadata = {"version": self._version}
        if hasattr(destination, "_metadata"):
            destination._metadata[prefix[:-1]] = metadata
        for hook in hooks_of(self, "_state_dict_pre_hooks"):
            hook.function(self, prefix, keep_vars)
        self._save_to_state_dict(destination, prefix, keep_vars)
        for name, module in self.__dict__["_modules"].items():
            if module is not None:
                module.state_dict(destination=destination, prefix=f"{prefix}{name}.", keep_vars=keep_vars)
        for hook in hooks_of(self, "_state_dict_hooks"):
            if hook.function(self, destination, prefix, metadata) is not None:
                raise RuntimeError("state_dict post-hook must return None: it changes the dict in place")
        return destination

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """Adds this module's own entries; a subclass may add others."""
        for name, cell in self._persistent_cells().items():
            uninitialized = isinstance(cell, (UninitializedParameter, UninitializedBuffer))
            destination[prefix + name] = cell if keep_vars or uninitialized else cell.get(self)
        if type(self).get_extra_state is not StateDictMethods.get_extra_state:
            destination[prefix + EXTRA_STATE] = self.get_extra_state()

    def _persistent_cells(self) -> dict[str, Cell]:
        cells = {name: cell for name, cell in self.__dict__["_parameters"].items() if cell is not None}
        for name, cell in self.__dict__["_buffers"].items():
            if cell is not None and cell.persistent:
                cells[name] = cell
        return cells

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> IncompatibleKeys:
        """Copies a state dict into the parameters and buffers, cast to their dtypes.

        Args:
            state_dict: arrays (of JAX or numpy) by name.
            strict: whether a missing or an unexpected key is an error.
            assign: whether the arrays are taken as they are, with their dtype, rather than cast. The `Parameter` objects stay
                the same, so that an optimizer goes on with them (torch puts new ones in their place).

        Returns:
            The missing and the unexpected keys.

        Raises:
            StateDictError: keys or shapes do not fit; the message lists all of them, and the module is as it was.

        Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.Module.html
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"expected state_dict to be a mapping of names to arrays, got {type(state_dict).__name__}")
        return transaction(self, lambda: self._load(state_dict, strict, assign))

    def _load(self, given: Mapping[str, Any], strict: bool, assign: bool) -> IncompatibleKeys:
        missing: list[str] = []
        unexpected: list[str] = []
        errors: list[str] = []
        state = StateDict(given)
        metadata = getattr(given, "_metadata", None)
        if metadata is not None:
            state._metadata = metadata

        def load(module: StateDictMethods, entries: Mapping[str, Any], prefix: str) -> None:
            local = dict(metadata.get(prefix[:-1], {})) if metadata is not None else {}
            if assign:
                local["assign_to_params_buffers"] = True
            module._load_from_state_dict(entries, prefix, local, True, missing, unexpected, errors)
            for name, child in module.__dict__["_modules"].items():
                if child is not None:
                    below = f"{prefix}{name}."
                    load(child, {key: value for key, value in entries.items() if key.startswith(below)}, below)
            keys = IncompatibleKeys(missing, unexpected)
            for hook in hooks_of(module, "_load_state_dict_post_hooks"):
                if hook.function(module, keys) is not None:
                    raise TypeError("a load_state_dict post-hook returns None: it changes the two lists in place")

        load(self, state, "")
        if strict:
            if unexpected:
                errors.insert(0, f"Unexpected key(s) in state_dict: {_quoted(unexpected)}.")
            if missing:
                errors.insert(0, f"Missing key(s) in state_dict: {_quoted(missing)}.")
        if errors:
            lines = "\n\t".join(errors)
            raise StateDictError(f"Error(s) in loading state_dict for {type(self).__name__}:\n\t{lines}")
        return IncompatibleKeys(missing, unexpected)

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Loads this module's own entries and notes what does not fit; a subclass may convert older layouts first."""
        for hook in hooks_of(self, "_load_state_dict_pre_hooks"):
            hook.function(self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        assign = bool(local_metadata.get("assign_to_params_buffers", False))
        cells = self._persistent_cells()
        for name, cell in cells.items():
            key = prefix + name
            if key not in state_dict:
                missing_keys.append(key)
            else:
                error = _load_cell(self, name, key, cell, state_dict[key], assign)
                if error is not None:
                    error_msgs.append(error)
        extra = prefix + EXTRA_STATE
        if type(self).set_extra_state is not StateDictMethods.set_extra_state:
            if extra in state_dict:
                self.set_extra_state(state_dict[extra])
            else:
                missing_keys.append(extra)
        elif extra in state_dict:
            unexpected_keys.append(extra)
        modules = self.__dict__["_modules"]
        for key in state_dict:
            if key.startswith(prefix) and key != extra:
                first, *below = key[len(prefix) :].split(".", 1)
                if first not in (modules if below else cells):
                    unexpected_keys.append(key)


def _load_cell(module: Any, name: str, key: str, cell: Any, value: Any, assign: bool) -> str | None:
    lazy = (UninitializedParameter, UninitializedBuffer)
    if isinstance(cell, lazy) and isinstance(value, lazy):
        return None
    if isinstance(value, Cell) and not isinstance(value, lazy):
        value = value.get()
    if not isinstance(value, (jax.Array, np.ndarray, np.generic)):
        return (
            f'While copying the parameter named "{key}", expected an array of JAX or numpy in the checkpoint, '
            f"got {type(value).__name__}."
        )
    if isinstance(cell, lazy):
        cell.materialize(value.shape, value.dtype if assign else None)
    target = cell.peek()
    if target.shape == () and value.shape == (1,):
        value = value.reshape(())  # as torch, whose scalars had one dimension once
    if tuple(value.shape) != tuple(target.shape):
        return (
            f"size mismatch for {key}: expected the model's shape {tuple(target.shape)}, "
            f"got {tuple(value.shape)} in the checkpoint."
        )
    if not assign:
        value = value if value.dtype == target.dtype else value.astype(target.dtype)
        value = placed_like(value, target)
    cell.set(value, owner=module, name=name)
    return None


def _quoted(keys: list[str]) -> str:
    return ", ".join(f'"{key}"' for key in keys)
