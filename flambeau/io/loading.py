"""Weights from a file into a module whose names are others, and a report of what became of each."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from flambeau._errors import StateDictError
from flambeau.core.cell import Cell, UninitializedBuffer, UninitializedParameter
from flambeau.core.module import Module
from flambeau.io._file import Path
from flambeau.io.files import load
from flambeau.io.tensors import Tensors

__all__ = ["Report", "load_into", "renamed"]

Rename = Mapping[str, str] | Callable[[str], str | None]

# More rows than this of one kind are counted.
_ROWS = 50


@dataclass
class Report:
    """What `load_into` did. It prints as a table.

    Attributes:
        loaded: names of the module that have values now.
        missing: names of the module that the checkpoint has not.
        unexpected: names of the checkpoint that the module has not, as renamed.
        wrong_shape: the module's shape and the checkpoint's, by name; these were left out.
        cast: the checkpoint's dtype and the module's, by name, of those loaded whose dtype is another.
    """

    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    wrong_shape: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    cast: dict[str, tuple[str, str]] = field(default_factory=dict)

    def __rich__(self) -> Table:
        table = Table(title=f"{len(self.loaded)} loaded", title_justify="left")
        for column in ("", "name", "checkpoint", "module"):
            table.add_column(column)
        rows = {
            "missing": [(name, "", "") for name in self.missing],
            "unexpected": [(name, "", "") for name in self.unexpected],
            "wrong shape": [(name, str(given), str(own)) for name, (own, given) in self.wrong_shape.items()],
            "cast": [(name, given, own) for name, (given, own) in self.cast.items()],
        }
        for kind, lines in rows.items():
            for line in lines[:_ROWS]:
                table.add_row(kind, *line)
            if len(lines) > _ROWS:
                table.add_row(kind, f"and {len(lines) - _ROWS} more", "", "")
        return table

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=120)
        with console.capture() as capture:
            console.print(self)
        return capture.get()


def load_into(
    module: Module,
    source: Path | Mapping[str, Any],
    strict: bool = True,
    *,
    rename: Rename | None = None,
    strip_prefix: str = "",
) -> Report:
    """Loads what fits of a checkpoint into a module, and tells what became of the rest.

    Args:
        module: whose parameters and buffers are set, cast to their dtypes.
        source: a file, as for `fb.load`, or arrays by name, such as one entry of what it gave.
        strict: whether anything that is missing, unexpected or of another shape is an error, and nothing is loaded. Otherwise
            what fits is; unlike `load_state_dict(strict=False)`, that leaves arrays of another shape out.
        rename: new names. Either a dict from old ones, where one that ends in a dot stands for the beginning of names
            (`{"backbone.": "encoder.", "fc.weight": "head.weight"}`), or a function of a name, which gives None for what is
            to be left out.
        strip_prefix: what is taken from the names that begin so, before they are renamed: `"module."` of DataParallel,
            `"_orig_mod."` of a compiled module.

    Returns:
        The report.

    Raises:
        StateDictError: `strict`, and something does not fit; or two arrays get one name.
        CheckpointError: the file cannot be read.

    Example:
        >>> import flambeau as fb, jax.numpy as jnp
        >>> from flambeau import nn
        >>> net = nn.Linear(2, 1)
        >>> state = {"module.fc.weight": jnp.ones((1, 2), jnp.float16), "module.fc.scale": jnp.ones(1)}
        >>> report = fb.io.load_into(net, state, strict=False, strip_prefix="module.", rename={"fc.": ""})
        >>> report.loaded, report.missing, report.unexpected, report.cast
        (['weight'], ['bias'], ['scale'], {'weight': ('float16', 'float32')})
    """
    state = load(source) if isinstance(source, (str, os.PathLike)) else source
    if not isinstance(state, Mapping):
        raise TypeError(f"expected a path or a dict of arrays by name, got {type(state).__name__}")
    tensors = renamed(state, rename, strip_prefix)
    own = module.state_dict(keep_vars=True)
    wrong = {} if strict else _wrong_shapes(own, tensors)
    for name in wrong:
        del tensors[name]
    cast = _casts(own, tensors)
    keys = module.load_state_dict(tensors, strict=strict)
    unexpected = set(keys.unexpected_keys)
    return Report(
        loaded=[name for name in tensors if name not in unexpected],
        missing=[name for name in keys.missing_keys if name not in wrong],
        unexpected=keys.unexpected_keys,
        wrong_shape=wrong,
        cast=cast,
    )


def renamed(state: Mapping[str, Any], rename: Rename | None = None, strip_prefix: str = "") -> Tensors:
    """The entries under new names, in the same order. Nothing is read.

    Args:
        state: arrays by name.
        rename: new names, as for `load_into`.
        strip_prefix: what is taken from the names that begin so, before they are renamed.

    Raises:
        StateDictError: two arrays get one name.

    Example:
        >>> import flambeau as fb, jax.numpy as jnp
        >>> list(fb.io.renamed({"module.fc.weight": jnp.ones(1)}, {"fc.": "head."}, strip_prefix="module."))
        ['head.weight']
    """
    tensors, errors = Tensors(), []
    sources: dict[str, str] = {}
    for old in state:
        new = _new_name(old.removeprefix(strip_prefix), rename)
        if new is None:
            continue
        if new in sources:
            errors.append(f"{sources[new]!r} and {old!r} both become {new!r}")
        sources[new] = old
        tensors.adopt(old, state, new)
    if errors:
        raise StateDictError("two arrays get one name:\n\t" + "\n\t".join(errors))
    return tensors


def _new_name(name: str, rename: Rename | None) -> str | None:
    if rename is None:
        return name
    if not isinstance(rename, Mapping):
        return rename(name)
    if name in rename:
        return rename[name]
    beginnings = [old for old in rename if old.endswith(".") and name.startswith(old)]
    longest = max(beginnings, key=len, default=None)
    return name if longest is None else rename[longest] + name[len(longest) :]


def _shared(own: Mapping[str, Any], tensors: Tensors) -> dict[str, tuple[Any, jax.ShapeDtypeStruct]]:
    """What the module holds, and shape and dtype of what comes, for the arrays that both have."""
    lazy = (UninitializedParameter, UninitializedBuffer)
    cells = {name: cell for name, cell in own.items() if isinstance(cell, Cell) and not isinstance(cell, lazy)}
    specs = {name: tensors.spec(name) for name in cells if name in tensors}
    return {name: (cells[name].peek(), spec) for name, spec in specs.items() if spec is not None}


def _wrong_shapes(own: Mapping[str, Any], tensors: Tensors) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    shapes = {name: (tuple(mine.shape), tuple(spec.shape)) for name, (mine, spec) in _shared(own, tensors).items()}
    # As in torch, an array of one number is one where the module has a scalar.
    return {
        name: (mine, given) for name, (mine, given) in shapes.items() if mine != given and (mine, given) != ((), (1,))
    }


def _casts(own: Mapping[str, Any], tensors: Tensors) -> dict[str, tuple[str, str]]:
    dtypes = {
        name: (np.dtype(spec.dtype), np.dtype(mine.dtype)) for name, (mine, spec) in _shared(own, tensors).items()
    }
    return {name: (given.name, mine.name) for name, (given, mine) in dtypes.items() if given != mine}
