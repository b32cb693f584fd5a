"""Arrays by name that stay in their file until they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

import jax

from flambeau.core.cell import Cell
from flambeau.io._arrays import StoredArray, held_dtype

__all__ = ["Tensors"]


class Tensors(MutableMapping[str, jax.Array]):
    """Arrays by name, each read from its file when it is asked for, anew each time.

    It is a dict for all that one does with a state dict: take entries out, put others in, hand it to `load_state_dict`.
    `dict(tensors)` reads everything.

    Args:
        entries: arrays by name.
        metadata: the texts that the file keeps beside them.

    Example:
        >>> import flambeau as fb, jax.numpy as jnp
        >>> fb.save({"weight": jnp.ones((2, 3)), "bias": jnp.zeros(2)}, "linear.safetensors", metadata={"epoch": "3"})
        >>> tensors = fb.load("linear.safetensors")
        >>> sorted(tensors), tensors.metadata
        (['bias', 'weight'], {'epoch': '3'})
        >>> tensors.spec("weight")
        ShapeDtypeStruct(shape=(2, 3), dtype=float32)
        >>> tensors.pop("bias")
        Array([0., 0.], dtype=float32)
        >>> list(tensors)
        ['weight']
    """

    def __init__(self, entries: Mapping[str, Any] = {}, metadata: Mapping[str, str] = {}) -> None:
        self._entries: dict[str, Any] = dict(entries._entries if isinstance(entries, Tensors) else entries)
        self.metadata: dict[str, str] = dict(metadata)

    def __getitem__(self, name: str) -> jax.Array:
        entry = self._entries[name]
        return entry.read(name) if isinstance(entry, StoredArray) else entry

    def __setitem__(self, name: str, value: Any) -> None:
        self._entries[name] = value

    def __delitem__(self, name: str) -> None:
        del self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def adopt(self, name: str, source: Mapping[str, Any], new: str | None = None) -> None:
        """Takes over an entry of `source`, under a new name if there is one; it is not read for that."""
        self._entries[new or name] = source._entries[name] if isinstance(source, Tensors) else source[name]

    def spec(self, name: str) -> jax.ShapeDtypeStruct | None:
        """Shape and dtype of an array, which is not read for it; None for what is no array, as an extra state."""
        entry = self._entries[name]
        entry = entry.get() if isinstance(entry, Cell) else entry
        if not hasattr(entry, "dtype") or not hasattr(entry, "shape"):
            return None
        return jax.ShapeDtypeStruct(
            entry.shape, held_dtype(entry.dtype) if isinstance(entry, StoredArray) else entry.dtype
        )

    def copy(self) -> Tensors:
        """Another one, whose entries can be taken out and put in apart from this one's."""
        return Tensors(self, self.metadata)

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensors:
        return self.copy()  # arrays do not change

    def __repr__(self) -> str:
        specs = {name: self.spec(name) for name in self}
        lines = [f"  {name}: {f'{spec.dtype}{list(spec.shape)}' if spec else '...'}" for name, spec in specs.items()]
        return "\n".join([f"Tensors({len(self)}", *lines, ")"]) if lines else "Tensors(0)"
