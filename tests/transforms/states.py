"""What can be seen of modules from outside, as plain data that two runs of one program can be compared by."""

from __future__ import annotations

import collections
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from flambeau.core.cell import Cell
from flambeau.core.gradients import Gradients
from flambeau.core.tree import Node

__all__ = ["Observer", "assert_same"]


class Observer:
    """Looks at one world again and again.

    Objects with an identity are numbered in the order in which they are first seen: two runs that treat identity alike
    (which list is kept, which parameters are tied, which module is shared) give them the same numbers.

    Args:
        holds: whether it reads arrays as a user does and keeps them, which forbids that they are donated later.
    """

    def __init__(self, *, holds: bool) -> None:
        self.holds = holds
        self.numbers: dict[int, int] = {}
        self.alive: list[Any] = []
        self.held: list[tuple[jax.Array, np.ndarray]] = []

    def hold(self, array: jax.Array) -> None:
        self.held.append((array, np.array(array)))

    def check_held(self) -> None:
        """Nothing that the user holds was overwritten or deleted."""
        for array, value in self.held:
            assert not _deleted(array), "an array that the user holds was donated"
            np.testing.assert_array_equal(array, value, "an array that the user holds was overwritten")

    def result(self, value: Any) -> Any:
        """What a call gave; Python numbers count as arrays there, as in the result of `jax.jit`."""
        return self._look(value, {}, result=True)

    def state(self, *roots: Any) -> Any:
        """All that the nodes hold."""
        seen: dict[int, Any] = {}
        return [self._look(root, seen) for root in roots]

    def _number(self, thing: Any) -> int:
        number = self.numbers.get(id(thing))
        if number is None:
            number = self.numbers[id(thing)] = len(self.numbers)
            self.alive.append(thing)
        return number

    def _look(self, value: Any, seen: dict[int, Any], result: bool = False) -> Any:
        if isinstance(value, Tracer):
            raise AssertionError(f"a tracer was left behind: {value}")
        if result and isinstance(value, (bool, int, float, np.number, np.ndarray)):
            value = jnp.asarray(value)
        if isinstance(value, jax.Array):
            if self.holds or result:
                self.hold(value)
            return np.array(value)
        if isinstance(value, Node) and result:
            return f"{type(value).__name__} #{self._number(value)}"
        if isinstance(value, (Node, Cell, list, dict, set, collections.deque)) and not isinstance(value, Gradients):
            name = f"{type(value).__name__} #{self._number(value)}"
            if id(value) in seen:
                return name
            seen[id(value)] = name
            return name, self._inside(value, seen, result)
        if isinstance(value, Gradients):
            return {name: self._look(gradient, seen, result) for name, gradient in value.items()}
        if isinstance(value, tuple):
            return type(value).__name__, [self._look(item, seen, result) for item in value]
        if isinstance(value, type) or callable(value):
            return value.__qualname__
        if hasattr(value, "__dict__"):
            return type(value).__name__, {name: self._look(field, seen) for name, field in vars(value).items()}
        return type(value).__name__, value

    def _inside(self, value: Any, seen: dict[int, Any], result: bool) -> Any:
        if isinstance(value, Node):
            return self._node(value, seen)
        if isinstance(value, Cell):
            return self._cell(value)
        if isinstance(value, dict):
            return [(key, self._look(item, seen, result)) for key, item in value.items()]
        if isinstance(value, set):
            return sorted(map(repr, value))
        return [self._look(item, seen, result) for item in value]

    def _cell(self, cell: Cell) -> Any:
        array = cell.get() if self.holds else cell.peek()
        assert not _deleted(array), "a cell holds an array that was donated"
        if self.holds:
            self.hold(array)
        # The decimal that Python set is forgotten when a transform sets the number.
        return np.array(array), {name: value for name, value in cell._settings().items() if name != "exact"}

    def _node(self, node: Node, seen: dict[int, Any]) -> Any:
        found: dict[str, Any] = {name: self._look(value, seen) for name, value in sorted(node._statics())}
        for name, registry in node._registries():
            entries = [(key, self._look(item, seen)) for key, item in registry.items()]
            if name.endswith("_hooks"):
                entries = [item for _, item in entries]  # their keys number the handles of the whole process
            if name in ("_arrays", "_containers"):
                entries.sort(key=lambda entry: entry[0])
            if entries:
                found[name] = entries
        return found


def _deleted(array: jax.Array | np.ndarray) -> bool:
    """Whether XLA has taken the memory; a generator that has not drawn yet still has its key in numpy's."""
    return isinstance(array, jax.Array) and array.is_deleted()


def assert_same(expected: Any, got: Any, path: str = "") -> None:
    """Two observations agree; numbers to 1e-9, all else exactly."""
    assert type(expected) is type(got), f"{path}: expected {expected}, got {got}"
    if isinstance(expected, np.ndarray):
        assert (expected.dtype, expected.shape) == (got.dtype, got.shape), f"{path}: expected {expected!r}, got {got!r}"
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9, err_msg=path)
    elif isinstance(expected, dict):
        assert list(expected) == list(got), f"{path}: expected {list(expected)}, got {list(got)}"
        for key in expected:
            assert_same(expected[key], got[key], f"{path}.{key}")
    elif isinstance(expected, (list, tuple)):
        assert len(expected) == len(got), f"{path}: expected {expected}, got {got}"
        for i, (a, b) in enumerate(zip(expected, got)):
            assert_same(a, b, f"{path}[{i}]" if not isinstance(a, str) else path)
    else:
        assert expected == got, f"{path}: expected {expected!r}, got {got!r}"
