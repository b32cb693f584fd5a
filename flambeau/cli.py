"""The command line: `flambeau inspect` looks into files of weights, `flambeau convert` writes them in another format."""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich import filesize
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from flambeau._errors import CheckpointError, StateDictError
from flambeau.io import Tensors, load, renamed, save
from flambeau.io.files import is_of_torch

__all__ = ["main"]

Spec = jax.ShapeDtypeStruct


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command, `sys.argv`'s if none is given; gives the exit status: 0, or 1 with a message if it failed.

    Example:
        >>> import jax.numpy as jnp
        >>> import flambeau as fb
        >>> fb.save({"fc.weight": jnp.ones((2, 3))}, "net.safetensors")
        >>> from flambeau.cli import main
        >>> main(["convert", "net.safetensors", "net.pt", "--rename", "fc.=head.", "--dtype", "bfloat16"])
        1 arrays, 12 bytes: net.pt
        0
        >>> main(["inspect", "net.pt", "--json"])
        {"head.weight": {"dtype": "bfloat16", "shape": [2, 3], "bytes": 12}}
        0
    """
    given = _parser().parse_args(argv)
    try:
        with jax.enable_x64(True):  # 64-bit values stay what they are
            given.run(given)
    except (CheckpointError, StateDictError, ValueError) as error:
        print(f"flambeau {given.command}: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flambeau", description="Files of weights: of safetensors, PyTorch, Hugging Face."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    inspect = commands.add_parser("inspect", help="names, shapes, dtypes and sizes", description=_inspect.__doc__)
    inspect.add_argument("file", help="a file, a folder of Hugging Face, or its index")
    form = inspect.add_mutually_exclusive_group()
    form.add_argument("--tree", action="store_true", help="by module, with the size of each")
    form.add_argument("--json", action="store_true", help="for other programs")
    inspect.set_defaults(run=_inspect)
    convert = commands.add_parser("convert", help="write in another format", description=_convert.__doc__)
    convert.add_argument("source", help="a file, a folder of Hugging Face, or its index")
    convert.add_argument("target", help="a file; of PyTorch if it ends in .pt, .pth or .bin, else of safetensors")
    convert.add_argument(
        "--strip-prefix", default="", metavar="TEXT", help="take this from names that begin so: module."
    )
    convert.add_argument(
        "--rename",
        action="append",
        default=[],
        metavar="OLD=NEW",
        help="a name, or its beginning up to a dot; repeatable",
    )
    convert.add_argument("--dtype", help="cast floating arrays: bfloat16, float16, float32, ...")
    convert.add_argument("--max-shard-size", metavar="SIZE", help="split a safetensors file into parts: 5GB")
    convert.set_defaults(run=_convert)
    for command in (inspect, convert):
        command.add_argument("--key", metavar="NAME", help="which entry of a nested file: model, or a.b for one within")
    return parser


def _inspect(given: argparse.Namespace) -> None:
    """Prints what a file of weights holds. No array of a safetensors file is read for that."""
    state = _chosen(given.file, given.key)
    specs = dict(_specs(state))
    if given.json:
        entries = {
            name: {"dtype": np.dtype(spec.dtype).name, "shape": list(spec.shape), "bytes": _bytes(spec)}
            if isinstance(spec, Spec)
            else {"value": spec if isinstance(spec, (int, float, str, bool, type(None))) else repr(spec)}
            for name, spec in specs.items()
        }
        print(json.dumps(entries))
        return
    console = Console()
    console.print(_tree(given.file, specs) if given.tree else _table(specs))
    arrays = [spec for spec in specs.values() if isinstance(spec, Spec)]
    numbers = sum(math.prod(spec.shape) for spec in arrays)
    console.print(f"{len(arrays):,} arrays, {numbers:,} numbers, {filesize.decimal(sum(map(_bytes, arrays)))}")
    for name, text in (state.metadata if isinstance(state, Tensors) else {}).items():
        console.print(f"{escape(name)}: {escape(text)}")


def _table(specs: Mapping[str, Any]) -> Table:
    table = Table("name", "dtype", "shape", "size")
    for name, spec in specs.items():
        if isinstance(spec, Spec):
            table.add_row(
                escape(name), np.dtype(spec.dtype).name, escape(str(list(spec.shape))), filesize.decimal(_bytes(spec))
            )
        else:
            table.add_row(escape(name), type(spec).__name__, escape(repr(spec)[:60]), "")
    return table


def _tree(title: str, specs: Mapping[str, Any]) -> Tree:
    """Names as a tree of modules, with the size of what lies under each."""
    nested: dict[str, Any] = {}
    for name, spec in specs.items():
        *modules, last = name.split(".")
        level = nested
        for module in modules:
            level = level.setdefault(module + ".", {})
        level[last] = spec

    def size(part: Any) -> int:
        return sum(map(size, part.values())) if isinstance(part, dict) else _bytes(part)

    def grow(tree: Tree, level: dict[str, Any]) -> Tree:
        for name, part in level.items():
            if isinstance(part, dict):
                grow(tree.add(f"{escape(name[:-1])}  {filesize.decimal(size(part))}"), part)
            else:
                what = f"{np.dtype(part.dtype).name}{list(part.shape)}" if isinstance(part, Spec) else repr(part)[:60]
                tree.add(f"{escape(name)}  {escape(what)}")
        return tree

    return grow(Tree(f"{escape(title)}  {filesize.decimal(size(nested))}"), nested)


def _convert(given: argparse.Namespace) -> None:
    """Writes the arrays of a file into another one, under other names and in another dtype if that is asked for."""
    state = _chosen(given.source, given.key)
    if others := [name for name in state if not _is_array(state, name)]:
        raise ValueError(
            f"expected arrays by name, but {given.source} holds {', '.join(map(repr, others[:5]))}"
            f"{' and others' if len(others) > 5 else ''}; choose the entry with the arrays by --key"
        )
    pairs = [pair.partition("=") for pair in given.rename]
    if wrong := [old for old, sign, _ in pairs if not sign]:
        raise ValueError(f"expected --rename OLD=NEW, got {wrong[0]!r}")
    arrays: Mapping[str, Any] = renamed(state, {old: new for old, _, new in pairs}, given.strip_prefix)
    if given.dtype:
        cast = _caster(given.dtype)
        arrays = {name: cast(array) for name, array in arrays.items()}
    metadata = state.metadata if isinstance(state, Tensors) and not is_of_torch(given.target) else None
    save(arrays, given.target, metadata or None, max_shard_size=given.max_shard_size)
    size = sum(_bytes(spec) for _, spec in _specs(arrays))
    print(f"{len(arrays):,} arrays, {filesize.decimal(size)}: {given.target}")


def _caster(name: str) -> Callable[[Any], Any]:
    try:
        dtype = jnp.dtype(name)
    except TypeError as error:
        raise ValueError(f"expected --dtype to be a dtype such as bfloat16, got {name!r}") from error
    return lambda array: array.astype(dtype) if jnp.issubdtype(array.dtype, jnp.floating) else array


def _chosen(path: str, key: str | None) -> Mapping[str, Any]:
    """What a file holds, or an entry of it."""
    state = load(path)
    for part in key.split(".") if key else ():
        if not isinstance(state, Mapping) or part not in state:
            there = ", ".join(map(repr, state)) if isinstance(state, Mapping) else f"a {type(state).__name__}"
            raise ValueError(f"{path} has no entry {key!r}; there is {there}")
        state = state[part]
    if not isinstance(state, Mapping):
        raise ValueError(f"expected {path} to hold arrays by name, it holds a {type(state).__name__}")
    return state


def _is_array(state: Mapping[str, Any], name: str) -> bool:
    return isinstance(state, Tensors) or isinstance(state[name], (jax.Array, np.ndarray))


def _specs(state: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Shape and dtype of each array, and what else there is, by name."""
    # The order in a safetensors file is that of dtypes and says nothing.
    for name in sorted(state, key=_by_number) if isinstance(state, Tensors) else state:
        value = state.spec(name) if isinstance(state, Tensors) else state[name]
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _specs(value, f"{path}.")
        elif isinstance(value, (list, tuple)):
            yield from _specs({str(i): item for i, item in enumerate(value)}, f"{path}.")
        else:
            yield path, Spec(value.shape, value.dtype) if isinstance(value, (jax.Array, np.ndarray)) else value


def _by_number(name: str) -> list[Any]:
    """So that layer 10 comes after layer 9."""
    return [(part.isdecimal(), int(part) if part.isdecimal() else part) for part in re.split(r"(\d+)", name)]


def _bytes(spec: Any) -> int:
    return math.prod(spec.shape) * np.dtype(spec.dtype).itemsize if isinstance(spec, Spec) else 0


if __name__ == "__main__":
    sys.exit(main())
