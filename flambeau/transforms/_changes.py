"""What a program changes, in words, for messages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flambeau.core.cell import Cell
from flambeau.core.outcome import Change
from flambeau.core.tree import Node
from flambeau.transforms._trace import Block

__all__ = ["changes", "described", "name_of_cell", "other_changes"]


def name_of_cell(cell: Cell, nodes: Iterable[Node]) -> str:
    """The class and attribute that hold `cell`, such as `BatchNorm1d.running_mean`."""
    for node in nodes:
        for _, registry in node._registries():
            for name, item in registry.items():
                if item is cell:
                    return f"{type(node).__name__}.{name}"
        for name, item in node._statics():
            if item is cell:
                return f"{type(node).__name__}.{name.lstrip('_')}"
    return type(cell).__name__


def changes(block: Block) -> list[str]:
    """The cells that a block writes, and whatever else it changes, each once."""
    nodes: Any = block.structure.nodes
    written = [name_of_cell(block.cells[i], nodes) for i in block.written]
    return list(dict.fromkeys([*written, *other_changes(block)]))


def other_changes(block: Block) -> list[str]:
    """What a block changes besides the values of cells, each once."""
    return list(dict.fromkeys(entry.what for entry in block.traced.changes if isinstance(entry, Change)))


def described(array: Any) -> str:
    """`float32[8, 16]`."""
    return f"{array.dtype}{list(array.shape)}"
