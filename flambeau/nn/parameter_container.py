"""Modules that hold parameters in an order or by name."""

from __future__ import annotations

import operator
from collections import OrderedDict
from collections.abc import Iterable, Iterator, KeysView, Mapping
from typing import Any, Self, overload

import jax
import jax.numpy as jnp

from flambeau._errors import RegistrationError
from flambeau.core.cell import Cell, Parameter, parameter_of
from flambeau.core.module import Module
from flambeau.nn._missing import missing_index, missing_key, pairs_of

__all__ = ["ParameterDict", "ParameterList"]


class _Entries(Module):
    """What both containers have in common: each entry is an attribute, and arrays become parameters."""

    def _put(self, name: str, value: Any) -> None:
        if isinstance(value, jax.Array):
            # A copy, so that the array itself does not stand for this parameter when it is given a second time.
            known = parameter_of(value)
            value = Parameter(jnp.copy(value)) if known is None else known
        elif isinstance(value, Cell) and not isinstance(value, Parameter):
            value = Parameter(value.data)
        setattr(self, name, value)

    def _entry(self, name: str) -> Any:
        """What a copy is made of: the `Parameter`, where the attribute would give its array."""
        parameter = self._parameters.get(name)
        return getattr(self, name) if parameter is None else parameter

    def _describe(self, names: Iterable[Any]) -> str:
        return "\n".join(f"  ({name}): {_described(self._entry(str(name)))}" for name in names)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(f"{type(self).__name__} should not be called: the module that holds it uses its parameters")


def _described(value: Any) -> str:
    if not isinstance(value, Parameter):
        return f"Object of type: {type(value).__name__}"
    return f"Parameter containing: [{value.dtype} of size {'x'.join(map(str, value.shape))}]"


class ParameterList(_Entries):
    """A list of parameters. Indexing gives an array, as attributes of modules do; `parameters()` the `Parameter`.

    An array becomes a `Parameter`, one that was read from a module is tied to its `Parameter`, and anything else is kept
    as it is. The `repr` differs from PyTorch's in how it writes dtypes: `float32`.

    Args:
        values: the entries.

    Raises:
        TypeError: `values` cannot be iterated over, or is an array.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> scales = nn.ParameterList([jnp.ones((2, 3)), nn.Parameter(jnp.zeros(4))])
        >>> scales
        ParameterList(
            (0): Parameter containing: [float32 of size 2x3]
            (1): Parameter containing: [float32 of size 4]
        )
        >>> scales[-1]
        Array([0., 0., 0., 0.], dtype=float32)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.ParameterList.html
    """

    def __init__(self, values: Iterable[Any] | None = None) -> None:
        super().__init__()
        self._size = 0
        if values is not None:
            self.extend(values)

    def _name_at(self, index: int) -> str:
        index = operator.index(index)
        if not -len(self) <= index < len(self):
            raise missing_index(self, index)
        return str(index % len(self))

    @overload
    def __getitem__(self, idx: int) -> Any: ...

    @overload
    def __getitem__(self, idx: slice) -> Self: ...

    def __getitem__(self, idx: int | slice) -> Any:
        if isinstance(idx, slice):
            return type(self)(self._entry(str(i)) for i in range(len(self))[idx])
        return getattr(self, self._name_at(idx))

    def __setitem__(self, idx: int, param: Any) -> None:
        self._put(self._name_at(idx), param)

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def __iadd__(self, parameters: Iterable[Any]) -> Self:
        return self.extend(parameters)

    def append(self, value: Any) -> Self:
        """Adds an entry at the end."""
        self._put(str(len(self)), value)
        self._size += 1
        return self

    def extend(self, values: Iterable[Any]) -> Self:
        """Adds entries at the end.

        Raises:
            TypeError: `values` cannot be iterated over, or is an array.
        """
        if not isinstance(values, Iterable) or isinstance(values, (jax.Array, Cell)):
            raise TypeError(f"ParameterList.extend should be called with an iterable, but got {type(values).__name__}")
        for value in list(values):
            self.append(value)
        return self

    def extra_repr(self) -> str:
        return self._describe(range(len(self)))


class ParameterDict(_Entries):
    """A dict of parameters, in the order of insertion. Indexing gives an array, `parameters()` the `Parameter`.

    An array becomes a `Parameter`, one that was read from a module is tied to its `Parameter`, and anything else is kept
    as it is. Unlike PyTorch's, it takes no key that would hide an attribute, whatever the value; the `repr` writes
    `float32` for the dtype.

    Args:
        parameters: a mapping of names to entries, which other than an `OrderedDict` is sorted by name, as in PyTorch; or
            pairs of both, in their order.

    Raises:
        TypeError: a key is no string.
        RegistrationError: a key is the name of an attribute of ParameterDict, such as `keys`; or the key of a parameter is
            empty or has a dot.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> nn.ParameterDict({"left": jnp.ones(5), "right": jnp.zeros((5, 2))})
        ParameterDict(
            (left): Parameter containing: [float32 of size 5]
            (right): Parameter containing: [float32 of size 5x2]
        )

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.ParameterDict.html
    """

    def __init__(self, parameters: Any = None) -> None:
        super().__init__()
        # A tuple is a static attribute: which keys there are is part of the structure.
        self._keys: tuple[str, ...] = ()
        if parameters is not None:
            self.update(parameters)

    def __getitem__(self, key: str) -> Any:
        if _string(key) not in self:
            raise missing_key(self, key)
        return getattr(self, key)

    def __setitem__(self, key: str, value: Any) -> None:
        known = _string(key) in self
        if not known and hasattr(self, key):
            raise RegistrationError(f"attribute {key!r} of {type(self).__name__} already exists: choose another key")
        self._put(key, value)
        if not known:
            self._keys = (*self._keys, key)

    def __delitem__(self, key: str) -> None:
        if key not in self:
            raise missing_key(self, key)
        self._keys = tuple(other for other in self._keys if other != key)
        delattr(self, key)

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __reversed__(self) -> Iterator[str]:
        return reversed(self._keys)

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def copy(self) -> ParameterDict:
        """Another dict of the same parameters."""
        return ParameterDict(OrderedDict((key, self._entry(key)) for key in self))

    def setdefault(self, key: str, default: Any = None) -> Any:
        """The entry of a key, which is `default` from now on if there was none."""
        if key not in self:
            self[key] = default
        return self[key]

    def clear(self) -> None:
        """Takes out all entries."""
        for key in self:
            del self[key]

    def pop(self, key: str) -> Any:
        """Takes out and returns the entry of a key."""
        value = self[key]
        del self[key]
        return value

    def popitem(self) -> tuple[str, Any]:
        """Takes out and returns the last key and its entry."""
        if not self._keys:
            raise KeyError(f"popitem(): {type(self).__name__} is empty")
        key = self._keys[-1]
        return key, self.pop(key)

    def get(self, key: str, default: Any = None) -> Any:
        """The entry of a key, or `default`."""
        return self[key] if key in self else default  # noqa: SIM401, this is what it calls

    def fromkeys(self, keys: Iterable[str], default: Any = None) -> ParameterDict:
        """A dict with these keys that holds one and the same entry for each."""
        return ParameterDict((key, default) for key in keys)

    def keys(self) -> KeysView[str]:
        """The keys."""
        return dict.fromkeys(self._keys).keys()

    def items(self) -> Iterable[tuple[str, Any]]:
        """The keys and entries."""
        return ((key, self[key]) for key in self._keys)

    def values(self) -> Iterable[Any]:
        """The entries."""
        return (self[key] for key in self._keys)

    def update(self, parameters: Any) -> None:
        """Adds entries, in the place of those that have their keys, from a mapping or from pairs.

        Raises:
            TypeError: `parameters` is neither.
            ValueError: a pair has another length.
        """
        if isinstance(parameters, ParameterDict):
            pairs: Iterable[tuple[str, Any]] = [(key, parameters._entry(key)) for key in parameters]
        elif isinstance(parameters, Mapping) and not isinstance(parameters, OrderedDict):
            pairs = sorted(parameters.items(), key=operator.itemgetter(0))
        else:
            pairs = pairs_of(parameters, self)
        for key, value in pairs:
            self[key] = value

    def extra_repr(self) -> str:
        return self._describe(self)

    def __or__(self, other: ParameterDict) -> ParameterDict:
        joined = self.copy()
        joined.update(other)
        return joined

    def __ror__(self, other: Any) -> Any:
        joined = other.copy()
        joined.update(self)
        return joined

    def __ior__(self, other: ParameterDict) -> Self:
        self.update(other)
        return self


def _string(key: Any) -> str:
    if not isinstance(key, str):
        raise TypeError(f"a ParameterDict takes strings as keys, got {key!r} of type {type(key).__name__}")
    return key
