"""`fb.explain`: what a compiled function captured, reads and writes, and why it was compiled again."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, NamedTuple

from flambeau.core.cell import Cell
from flambeau.core.outcome import Change
from flambeau.core.structure import nodes_inside
from flambeau.core.tree import Node
from flambeau.transforms._program import Call
from flambeau.transforms.jit import Jitted

__all__ = ["CellUse", "Explanation", "explain"]


class CellUse(NamedTuple):
    """What a compiled function does with one array of state."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    read: bool
    written: bool
    donated: bool


class Explanation(NamedTuple):
    """What `explain` found; `str` of it is a table.

    Attributes:
        name: of the function.
        reasons: why there was each compilation, in order.
        captured: the modules, optimizers and generators that it reaches without their being arguments.
        cells: the arrays of state that its last program touches.
        changes: what it changes besides: attributes and lists.
    """

    name: str
    reasons: list[str]
    captured: list[str]
    cells: list[CellUse]
    changes: list[str]

    def __str__(self) -> str:
        from rich.console import Console
        from rich.table import Table

        console = Console(file=io.StringIO(), width=120)
        table = Table("state", "array", "read", "written", "in place", title=f"fb.jit of {self.name}")
        for cell in self.cells:
            marks = ("yes" if used else "" for used in (cell.read, cell.written, cell.donated))
            table.add_row(cell.name, f"{cell.dtype}{list(cell.shape)}", *marks)
        console.print(table)
        for title, lines in (("captured", self.captured), ("also changes", self.changes)):
            if lines:
                console.print(f"{title}: {', '.join(lines)}", highlight=False, markup=False)
        for number, reason in enumerate(self.reasons, 1):
            console.print(f"compilation {number}: {reason}", highlight=False, markup=False)
        return console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]

    __repr__ = __str__


def explain(function: Jitted[Any, Any]) -> Explanation:
    """What a function of `fb.jit` captured, which state it reads, writes and overwrites in place, why it was compiled again.

    Args:
        function: what `fb.jit` gave, after a call or more.

    Raises:
        TypeError: `function` is not of `fb.jit`.

    Example:
        >>> import jax.numpy as jnp
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        >>> step = fb.jit(lambda x: net(x))
        >>> _ = step(jnp.ones((4, 2))), step(jnp.ones((8, 2))), net.eval(), step(jnp.ones((8, 2)))
        >>> found = fb.explain(step)
        >>> for reason in found.reasons:
        ...     print(reason)
        first call
        leaf 0 of the arguments was float32[4, 2], is float32[8, 2]
        `0.training` was True, is False
        >>> [cell.name for cell in found.cells if cell.read][:2], found.captured
        (['Sequential.0.weight', 'Sequential.0.bias'], ['Sequential'])
    """
    if not isinstance(function, Jitted):
        raise TypeError(f"explain: expected a function of fb.jit, got {type(function).__name__}")
    call, captured = function.latest()
    name = getattr(function, "__name__", type(function).__name__)
    reasons = list(function.compilations())
    if call is None:
        return Explanation(name, reasons, [], [], [])
    changes = [f"{entry.verb} {entry.what}" for entry in call.program.changes if isinstance(entry, Change)]
    names = [type(node).__name__ for node in captured if node is not None]
    return Explanation(name, reasons, names, list(_uses(call)), changes)


def _uses(call: Call) -> Iterator[CellUse]:
    names = {}
    for root in (ref() for ref in call.roots):
        if isinstance(root, (Node, Cell)):
            names = {**dict(_named(root, type(root).__name__, set())), **names}
    kept, donated, written = set(call.kept), set(call.donated), set(call.written)
    for cell in call.structure.cells:
        if cell in kept or cell in written:
            name = names.get(cell, type(cell).__name__)
            yield CellUse(
                name, str(cell.dtype), cell.shape, cell in kept or cell in donated, cell in written, cell in donated
            )


def _named(thing: Node | Cell, name: str, seen: set[int]) -> Iterator[tuple[Cell, str]]:
    """The cells below a node, with their paths."""
    if isinstance(thing, Cell):
        yield thing, name
        return
    if id(thing) in seen:
        return
    seen.add(id(thing))
    for registry_name, registry in thing._registries():
        for key, item in registry.items() if not registry_name.endswith("_hooks") else ():
            for inner in nodes_inside((item,)):
                yield from _named(inner, f"{name}.{key}", seen)
    for key, item in thing._statics():
        for inner in nodes_inside((item,)):
            yield from _named(inner, f"{name}.{key.lstrip('_')}", seen)
