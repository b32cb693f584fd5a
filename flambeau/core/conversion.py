"""Casting and moving all that a module holds, and giving it values: what `Module` has of these methods."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from flambeau.core import meta
from flambeau.core.cell import Cell, UninitializedBuffer, UninitializedParameter, clock
from flambeau.core.dtypes import canonical_dtype
from flambeau.core.placement import read_device, read_to
from flambeau.core.state_dict import StateDictMethods

__all__ = ["ConversionMethods"]


class ConversionMethods(StateDictMethods):
    """The part of `Module` that casts and moves arrays."""

    if TYPE_CHECKING:  # what `Module` has
        modules: Any
        parameters: Any
        buffers: Any
        named_parameters: Any
        named_buffers: Any

    def _apply(self, fn: Callable[[jax.Array], jax.Array], recurse: bool = True) -> Self:
        """Replaces the value of each parameter and buffer by `fn` of it."""
        cells: dict[Cell, None] = {}
        for module in self.modules() if recurse else (self,):
            for registry in (module.__dict__["_parameters"], module.__dict__["_buffers"]):
                cells.update((cell, None) for cell in registry.values() if cell is not None)
        for cell in cells:
            if isinstance(cell, (UninitializedParameter, UninitializedBuffer)):
                cell.convert(fn)
            elif isinstance(cell.peek(), meta.Meta):
                cell._value = cell._value.cast(jax.eval_shape(fn, _shape(cell)).dtype)
                clock.tick()
            else:
                cell.set(fn(cell.get()), owner=self)
        return self

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Casts floating parameters and buffers to a dtype, or moves all of them to a device or sharding, in place.

        Takes, in any order or by keyword: `dtype`, `device` (a `jax.Device`, or a name such as "cpu" or "gpu:0"), `sharding`
        (a `jax.sharding.Sharding`), or an array whose dtype and device to take. `non_blocking` is accepted: JAX never blocks.

        Raises:
            TypeError: an argument is none of these, or the dtype is no floating or complex one.

        Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.Module.html
        """
        dtype, place = read_to(args, kwargs)
        if dtype is not None and not jnp.issubdtype(dtype, jnp.inexact):
            raise TypeError(
                f"nn.Module.to only accepts floating point or complex dtypes, but got desired dtype={dtype}"
            )

        def convert(array: jax.Array) -> jax.Array:
            if dtype is not None and jnp.issubdtype(array.dtype, jnp.inexact):
                array = array.astype(dtype)
            return array if place is None else jax.device_put(array, place)

        return self._apply(convert)

    def _cast(self, dtype: DTypeLike) -> Self:
        return self._apply(lambda a: a.astype(canonical_dtype(dtype)) if jnp.issubdtype(a.dtype, jnp.floating) else a)

    def type(self, dst_type: DTypeLike) -> Self:
        """Casts every parameter and buffer, also integer ones, to `dst_type`."""
        return self._apply(lambda array: array.astype(canonical_dtype(dst_type)))

    def float(self) -> Self:
        """Casts floating parameters and buffers to float32."""
        return self._cast(jnp.float32)

    def double(self) -> Self:
        """Casts floating parameters and buffers to float64 (float32 while JAX runs without x64)."""
        return self._cast(jnp.float64)

    def half(self) -> Self:
        """Casts floating parameters and buffers to float16."""
        return self._cast(jnp.float16)

    def bfloat16(self) -> Self:
        """Casts floating parameters and buffers to bfloat16."""
        return self._cast(jnp.bfloat16)

    def cpu(self) -> Self:
        """Moves all parameters and buffers to the CPU."""
        return self.to(device="cpu")

    def cuda(self, device: int | None = None) -> Self:
        """Moves all parameters and buffers to a GPU."""
        return self.to(device=f"gpu:{device or 0}")

    def materialize(self, *args: Any, sharding: Any = None, **kwargs: Any) -> Self:
        """Gives a module that was built on the meta device its values, in one compiled call; those that it has stay.

        The values are those that construction gives now: the same seed draws the same numbers.

        Args:
            args: a dtype, a device or a sharding, as `to` takes them: where, and as what, the values are made right away.
            sharding: a sharding for all; or a function from a parameter's name and the parameter to its sharding or None.
            kwargs: `dtype` or `device`.

        Example:
            >>> import jax.numpy as jnp
            >>> import flambeau as fb
            >>> from flambeau import nn
            >>> with fb.device("meta"):
            ...     net = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 2))
            >>> net.materialize(dtype=jnp.bfloat16)[0].weight.dtype
            dtype(bfloat16)
        """
        dtype, place = read_to(args, kwargs)
        named = {cell: name for name, cell in (*self.named_parameters(), *self.named_buffers())}

        def choose(cell: Cell) -> Any:
            chosen = sharding(named[cell], cell) if callable(sharding) else sharding
            return place if chosen is None else chosen

        meta.materialize(named, dtype, choose)
        return self

    def to_empty(self, *, device: Any, recurse: bool = True) -> Self:
        """Moves all parameters and buffers to `device` without their values, which become zeros."""
        place = read_device(device)
        for cell in (*self.parameters(recurse), *self.buffers(recurse)):
            if not isinstance(cell, (UninitializedParameter, UninitializedBuffer)):
                cell.set(jax.device_put(jnp.zeros(cell.shape, cell.dtype), place))
        return self


def _shape(cell: Cell) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(cell.shape, cell.dtype)
