"""Plain Python containers on a node: what they hold, how to put it back, and a list that knows whether it was read."""

from __future__ import annotations

import collections
import copy as copylib
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax

__all__ = [
    "ObservedList",
    "holds_arrays",
    "is_mutable",
    "items",
    "map_container",
    "new_items",
    "rebuild_tuple",
    "refill",
    "same_contents",
    "shallow",
]

_MUTABLE = (list, dict, set, collections.deque)


def is_mutable(value: Any) -> bool:
    """Whether `value` is a container that Python code changes in place."""
    return isinstance(value, _MUTABLE)


def items(container: Any) -> Iterable[Any]:
    """What a container holds, without its keys."""
    return container.values() if isinstance(container, dict) else container


def holds_arrays(value: Any, kind: type = jax.Array) -> bool:
    """Whether there is an array (of that kind) in a container or in the containers in it."""
    if isinstance(value, kind):
        return True
    return (is_mutable(value) or isinstance(value, tuple)) and any(holds_arrays(item, kind) for item in items(value))


def shallow(container: Any) -> Any:
    """The contents, as a plain list or dict of the same elements."""
    return dict(container) if isinstance(container, dict) else list(container)


def refill(container: Any, contents: Any) -> None:
    """Puts `contents`, as `shallow` gave them, back into the same container object."""
    if isinstance(container, list):
        container[:] = contents
    else:
        container.clear()
        (container.extend if isinstance(container, collections.deque) else container.update)(contents)


def same_contents(contents: Any, container: Any) -> bool:
    """Whether a container still holds the very elements (and keys, in their order) of `contents`."""
    if len(contents) != len(container):
        return False
    if isinstance(container, dict) and list(contents) != list(container):
        return False
    if isinstance(container, set):
        return container == set(contents)
    return all(map(operator.is_, items(contents), items(container)))


def new_items(contents: Any, container: Any) -> list[Any]:
    """What a container holds that it may not have held when its contents were `contents`; of a list that grew, the rest."""
    grew = isinstance(container, list) and all(map(operator.is_, contents, container))
    return container[len(contents) :] if grew else list(items(container))


def rebuild_tuple(like: tuple[Any, ...], values: Iterable[Any]) -> tuple[Any, ...]:
    """A tuple of the same class, also a named one."""
    return type(like)(*values) if hasattr(like, "_fields") else tuple(values)


def map_container(container: Any, visit: Callable[[Any, Any], Any]) -> Any:
    """A container of the same kind whose elements are `visit(key, element)`."""
    if isinstance(container, tuple):
        return rebuild_tuple(container, [visit(i, item) for i, item in enumerate(container)])
    if isinstance(container, ObservedList):
        return [visit(i, item) for i, item in enumerate(container)]
    made = copylib.copy(container)
    if isinstance(container, dict):
        for key, item in container.items():
            made[key] = visit(key, item)
    elif not isinstance(container, set):
        refill(made, [visit(i, item) for i, item in enumerate(container)])
    return made


class ObservedList(list):
    """The list that a traced function finds in the place of one of a node's lists.

    Appending to it does not need what it holds; anything else does, and loads that first. So an append-only list (a history,
    a trace) is replayed as an extension, whatever its length has become, while one that is read is bound as an input.
    """

    __slots__ = ("_load", "loaded")

    def __init__(self, load: Callable[[], list[Any]]) -> None:
        super().__init__()
        self._load = load
        self.loaded = False

    def look(self) -> None:
        """Loads the contents, in front of what was appended."""
        if not self.loaded:
            contents = self._load()
            self.loaded = True
            list.__setitem__(self, slice(0, 0), contents)

    def raw(self) -> Iterator[Any]:
        """What the list object itself holds now: only what was appended, if nothing was read."""
        return list.__iter__(self)

    def append(self, item: Any) -> None:
        list.append(self, item)

    def extend(self, more: Iterable[Any]) -> None:
        list.extend(self, more)

    def __iadd__(self, more: Iterable[Any]) -> ObservedList:  # pyright: ignore[reportIncompatibleMethodOverride]
        list.extend(self, more)
        return self

    def __radd__(self, other: list[Any]) -> list[Any]:
        self.look()
        return [*other, *list.__iter__(self)]

    def __reduce__(self) -> Any:
        return list, (list(self),)

    def __copy__(self) -> list[Any]:
        return list(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> list[Any]:
        return copylib.deepcopy(list(self), memo)


def _reading(name: str) -> Any:
    plain = getattr(list, name)

    def method(self: ObservedList, *args: Any, **kwargs: Any) -> Any:
        self.look()
        return plain(self, *args, **kwargs)

    method.__name__ = name
    return method


for _name in """__len__ __iter__ __getitem__ __setitem__ __delitem__ __contains__ __reversed__ __eq__ __ne__ __lt__ __le__ __gt__
        __ge__ __add__ __mul__ __rmul__ __imul__ __repr__ insert pop remove clear index count sort reverse copy""".split():
    setattr(ObservedList, _name, _reading(_name))

# JAX does not take subclasses of list for lists: `jax.tree.map(f, self.trace)` must do inside what it does outside.
jax.tree_util.register_pytree_with_keys(
    ObservedList,
    lambda observed: ([(jax.tree_util.SequenceKey(i), item) for i, item in enumerate(observed)], None),
    lambda _, children: list(children),  # pyright: ignore[reportArgumentType]
)
