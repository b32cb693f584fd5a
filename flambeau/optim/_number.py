"""Numbers in cells: what a compiled function takes as an input, and Python reads as the float or int that it set."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flambeau.core.cell import Cell, running
from flambeau.core.dtypes import canonical_dtype

__all__ = ["Number", "is_number"]


class Number(Cell):
    """A cell that holds one number, an int or a float, in the widest precision there is.

    Outside of transforms it reads as the very number that was set, whatever the width of the array: a learning rate that is
    multiplied by 0.9 again and again goes the way of PyTorch's. What a compiled function wrote reads as the shortest decimal
    that rounds to it: 0.001, not the 0.0010000000474974513 that its float32 is.

    Args:
        value: the array of JAX or numpy that stands for the number.
        exact: the number itself, if it is known.
    """

    __slots__ = ("_exact",)

    def __init__(self, value: Any, exact: float | None = None) -> None:
        super().__init__(value)
        self._exact: tuple[jax.Array, float] | None = None
        self._remember(exact)

    @classmethod
    def of(cls, value: Any) -> Number:
        """A cell for a number, or for an array of one."""
        # Integers too: JAX divides two of 32 bits in 32 bits.
        widest = np.int64 if isinstance(value, (int, np.integer)) else np.float64
        return cls(_as_array(value, canonical_dtype(widest)), _exactly(value))

    @property
    def whole(self) -> bool:
        """Whether it holds integers only."""
        return _kind(self.dtype) is int

    def read(self, owner: Any) -> Any:
        """The number; inside of a transform the array that stands for it."""
        value = self.get(owner)
        if running.frame is not None or value.ndim:
            return value
        exact = self._known()
        if exact is not None:
            return exact
        return _kind(value.dtype)(str(np.asarray(value)[()]))  # `str` of a numpy number is its shortest decimal

    def write(self, value: Any, owner: Any, name: str) -> None:
        """Sets the number; the dtype stays."""
        # An array is the user's too, and must not be donated.
        self.set(_as_array(value, self.dtype), owner=owner, name=name, exposed=isinstance(value, jax.Array))
        self._remember(_exactly(value))

    def _remember(self, number: float | None) -> None:
        if running.frame is None:
            # With its array: once a compiled function has put another one in its place, the number does not hold any more.
            self._exact = None if number is None else (self._value, _kind(self.dtype)(number))

    def _known(self) -> float | None:
        return self._exact[1] if self._exact is not None and self._exact[0] is self._value else None

    def _settings(self) -> dict[str, Any]:
        return {"exact": self._known()}


def is_number(value: Any) -> bool:
    """Whether `value` is a number, or an array of one; a bool is none."""
    if isinstance(value, (jax.Array, np.ndarray)):
        return value.size == 1
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def _kind(dtype: np.dtype) -> type[int] | type[float]:
    return int if np.issubdtype(dtype, np.integer) else float


def _exactly(value: Any) -> float | None:
    return value if isinstance(value, (int, float)) else None


def _as_array(value: Any, dtype: Any) -> Any:
    """`value` without dimensions: an array of JAX stays one, anything else goes by numpy, for which nothing is dispatched."""
    array = jnp.asarray(value, dtype) if isinstance(value, jax.Array) else np.asarray(value, dtype)
    return array if array.ndim == 0 else array.reshape(())
