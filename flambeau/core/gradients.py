"""The gradients of a module's parameters: a dict by `state_dict` name that knows which Parameter each entry belongs to."""

from __future__ import annotations

import copy as copylib
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import jax

from flambeau.core.cell import Parameter

__all__ = ["Gradients"]


class Gradients(dict[str, Any]):
    """A dict from parameter names to gradients, as `fb.grad` gives it with respect to a module.

    It is a pytree, so `jax.tree.map(lambda g: 0.1 * g, grads)` and optax's functions take it; the result still knows its
    parameters. `parameter(name)` gives the one that an entry belongs to, `by_parameter()` all of them.
    """

    __slots__ = ("_owners",)

    def __init__(self, entries: Iterable[tuple[str, Any]] = (), owners: dict[str, Parameter] | None = None) -> None:
        super().__init__(entries)
        # Weak, since compiled functions keep tree structures for long and must not keep dead models alive.
        self._owners = {name: weakref.ref(parameter) for name, parameter in (owners or {}).items()}

    def parameter(self, name: str) -> Parameter | None:
        """The parameter whose gradient `self[name]` is, or None for an entry that the user added."""
        owner = self._owners.get(name)
        return None if owner is None else owner()

    def by_parameter(self) -> Iterator[tuple[Parameter, Any]]:
        """The parameters with their gradients."""
        for name, gradient in self.items():
            parameter = self.parameter(name)
            if parameter is not None:
                yield parameter, gradient

    def owners(self) -> dict[str, Parameter]:
        """The parameters by name."""
        return {name: parameter for name in self if (parameter := self.parameter(name)) is not None}

    def copy(self) -> Gradients:
        return Gradients(self.items(), self.owners())

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, Any]) -> Gradients:
        """Of the same parameters, or of their copies, if they were copied before as parts of the same thing."""
        owners = {name: memo.get(id(parameter), parameter) for name, parameter in self.owners().items()}
        return Gradients(((name, copylib.deepcopy(gradient, memo)) for name, gradient in self.items()), owners)

    def __reduce__(self) -> Any:
        return Gradients, (tuple(self.items()),)


def _flatten(gradients: Gradients) -> tuple[list[tuple[Any, Any]], Any]:
    owners = tuple(gradients._owners.get(name) for name in gradients)
    return [(jax.tree_util.DictKey(name), g) for name, g in gradients.items()], (tuple(gradients), owners)


def _unflatten(aux: Any, children: Iterable[Any]) -> Gradients:
    names, owners = aux
    made = Gradients(zip(names, children, strict=True))
    made._owners = {name: owner for name, owner in zip(names, owners, strict=True) if owner is not None}
    return made


jax.tree_util.register_pytree_with_keys(
    Gradients, _flatten, _unflatten, lambda gradients: (list(gradients.values()), _flatten(gradients)[1])
)
