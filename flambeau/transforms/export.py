"""`fb.export`: a function of modules as a file, which runs without the Python code that made it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.export
import jax.extend.core
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from flambeau._errors import CheckpointError, StateError
from flambeau.core.cell import Cell
from flambeau.core.extras import require
from flambeau.core.gradients import Gradients
from flambeau.core.module import Module
from flambeau.core.structure import Structure
from flambeau.core.suggest import suggestion
from flambeau.core.tree import Node
from flambeau.transforms._changes import changes
from flambeau.transforms._differentiation import name_of
from flambeau.transforms._trace import Block, Flat, entering

__all__ = ["Exported", "deserialize", "export"]


class Exported:
    """A function as a program of XLA, for whoever has JAX: see `export`.

    Args:
        exported: what JAX has of it.
    """

    def __init__(self, exported: jax.export.Exported) -> None:
        self.exported = exported

    @property
    def in_avals(self) -> tuple[Any, ...]:
        """Shapes and dtypes of the arguments, in a row."""
        return self.exported.in_avals

    @property
    def out_avals(self) -> tuple[Any, ...]:
        """Shapes and dtypes of the results, in a row."""
        return self.exported.out_avals

    @property
    def platforms(self) -> tuple[str, ...]:
        """What it runs on."""
        return self.exported.platforms

    @property
    def weights(self) -> dict[str, Any]:
        """Shapes and dtypes of the first argument by name, if that is a dict: so it is where the weights are out."""
        args, _ = jax.tree.unflatten(self.exported.in_tree, self.in_avals)
        return args[0] if args and isinstance(args[0], dict) else {}

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the program, which may be done under transforms, too.

        Args:
            args: as the example arguments; where the weights are out, a dict of them comes first. Of a dict that is the first
                argument, entries that the program does not know are left out, so a whole `state_dict` is fine.
            kwargs: as the example's.

        Raises:
            KeyError: a weight is missing.
            ValueError: an argument has another shape, dtype or tree than the example.
        """
        if args and isinstance(args[0], Mapping) and self.weights:
            args = (self._chosen(args[0]), *args[1:])
        return self.exported.call(*args, **kwargs)

    def _chosen(self, given: Mapping[str, Any]) -> dict[str, Any]:
        missing = [name for name in self.weights if name not in given]
        if missing:
            raise KeyError(
                f"{self.exported.fun_name}: no value is given for {', '.join(missing)}{suggestion(missing[0], given)}"
            )
        return {name: given[name] for name in self.weights}

    def serialize(self, *, vjp_order: int = 0) -> bytes:
        """The program as bytes, in JAX's format: `deserialize`, or `jax.export.deserialize` where flambeau is not installed.

        Args:
            vjp_order: how often what is read back can be differentiated.

        Raises:
            MissingExtraError: the extra `export` (flatbuffers, which JAX writes them with) is not installed.
        """
        _require_flatbuffers("serialize")
        return bytes(self.exported.serialize(vjp_order=vjp_order))

    def mlir_module(self) -> str:
        """The program as text: StableHLO."""
        return self.exported.mlir_module()

    def __repr__(self) -> str:
        return f"<fb.Exported {self.exported.fun_name} for {', '.join(self.platforms)}>"


def export(
    fun: Callable[..., Any], *, weights: Literal["in", "out"] = "in", platforms: Sequence[str] | None = None
) -> Callable[..., Exported]:
    """The function that makes a program of `fun`, for arguments like those that it is given.

    Args:
        fun: a module, or a function that closes over modules, of trees of arrays, which gives arrays. It must change no
            state, so call `eval()` first.
        weights: "in": the present values of parameters and buffers are a part of the program. "out": those that `fun` reads
            are its first argument, a dict by `state_dict` name (a tied one once, by its first name), so that one program
            serves many checkpoints. What a `state_dict` does not hold, such as buffers that are not persistent, is in the
            program all the same.
        platforms: what it is to run on, of "cpu", "cuda", "rocm" and "tpu"; as a rule what JAX runs on now.

    Returns:
        A function that takes example arguments and gives an `Exported`. Of an example only shapes and dtypes count: arrays,
        or `jax.ShapeDtypeStruct`, whose shapes may hold names, made by `jax.export.symbolic_shape`, for sizes to come.

    Raises:
        StateError: `fun` changes state.
        TypeError: an example argument, or a result, is no array.
        ValueError: the weights are out, and those that `fun` reads are not all of one module.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> net = nn.Sequential(nn.Linear(3, 2), nn.Dropout()).eval()
        >>> batch, = jax.export.symbolic_shape("batch")
        >>> exported = fb.export(net, weights="out")(jax.ShapeDtypeStruct((batch, 3), jnp.float32))
        >>> list(exported.weights), exported.out_avals[0].shape
        (['0.bias', '0.weight'], (batch, 2))
        >>> x = jnp.ones((5, 3))
        >>> bool(jnp.allclose(exported.call(net.state_dict(), x), net(x), atol=1e-6))
        True

    Source: https://docs.jax.dev/en/latest/export/export.html
    """
    if weights not in ("in", "out"):
        raise ValueError(f"export: expected weights 'in' or 'out', got {weights!r}")

    def exporting(*args: Any, **kwargs: Any) -> Exported:
        program = _Program(fun, args, kwargs)
        entering(program.trace)
        if weights == "in":
            function, example = program.closed(), args
        else:
            function, shapes = program.open()
            example = (shapes, *args)
        function.__name__ = function.__qualname__ = program.name
        return Exported(jax.export.export(jax.jit(function), platforms=platforms)(*example, **kwargs))

    return exporting


def deserialize(data: bytes) -> Exported:
    """What `Exported.serialize` made bytes of.

    Args:
        data: these bytes, of this version of JAX or one that is up to six months older.

    Raises:
        CheckpointError: these are other bytes, or of a version too far away.
        MissingExtraError: the extra `export` (flatbuffers, which JAX reads them with) is not installed.

    Source: https://docs.jax.dev/en/latest/export/export.html
    """
    _require_flatbuffers("deserialize")
    try:
        return Exported(jax.export.deserialize(bytearray(data)))
    except Exception as error:
        raise CheckpointError(
            f"deserialize: expected bytes that Exported.serialize gave, got {len(data)} bytes that JAX cannot read: {error}"
        ) from error


def _require_flatbuffers(name: str) -> None:
    require("flatbuffers", "export", f"{name}: JAX's format needs the package flatbuffers")


class _Program:
    """A function of example arguments as a program of cells and arrays, which writes nothing."""

    def __init__(self, fun: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.fun, self.name = fun, name_of(fun)
        self.flat = Flat((args, kwargs), numbers=True)
        self.out_tree: Any = None
        for path, leaf in jax.tree_util.tree_leaves_with_path((args, kwargs)):
            if not isinstance(leaf, (jax.Array, np.ndarray, np.generic, int, float, complex, jax.ShapeDtypeStruct)):
                kind, rest = ("args", path[1:]) if path[0].idx == 0 else ("kwargs", path[1:])
                cure = (
                    "let the function close over it" if isinstance(leaf, (Node, Cell)) else "a constant of the function"
                )
                raise TypeError(
                    f"export of {self.name}: expected arrays or jax.ShapeDtypeStruct as example arguments, got a "
                    f"{type(leaf).__name__} as {kind}{jax.tree_util.keystr(rest)}; {cure}"
                )

    def trace(self) -> None:
        block = self.block = Block(self._run, self.flat.arrays, [self.fun], [self.fun])
        if changed := changes(block):
            raise StateError(
                f"export of {self.name}: it changes {', '.join(changed)}, and a program in a file keeps no state. Call eval() "
                f"first, which BatchNorm and Dropout want; random keys and other state can be arguments and results"
            )
        closed = block.traced.closed
        self.values = block.values()
        self.rest = block.contents()
        if any(isinstance(value, Tracer) for value in (*self.values, *self.rest, *closed.consts)):
            raise StateError(f"export of {self.name}: call it outside of transforms, where values are known")

    def _run(self, arrays: list[Any]) -> list[Any]:
        args, kwargs = self.flat.rebuild(arrays)
        # Whoever reads the file knows dicts, and no classes of ours.
        result = jax.tree.map(_as_dict, self.fun(*args, **kwargs), is_leaf=lambda part: isinstance(part, Gradients))
        leaves, self.out_tree = jax.tree.flatten(result)
        for leaf in leaves:
            if not isinstance(leaf, (jax.Array, np.ndarray, np.generic, int, float, complex)):
                raise TypeError(f"export of {self.name}: expected arrays as its result, got a {type(leaf).__name__}")
        return [jnp.asarray(leaf) for leaf in leaves]

    def evaluate(self, values: Sequence[Any], example: Any) -> Any:
        outs = self.block.evaluate(*values, *self.rest, *Flat(example, numbers=True).arrays)
        return jax.tree.unflatten(self.out_tree, outs)

    def closed(self) -> Callable[..., Any]:
        """The function of the arguments."""
        return lambda *args, **kwargs: self.evaluate(self.values, (args, kwargs))

    def open(self) -> tuple[Callable[..., Any], dict[str, Any]]:
        """The function of the weights and the arguments, and the shapes of the weights."""
        named = self._names()

        def function(weights: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
            given = {cell: weights[name] for name, cell in named.items()}
            values = [given.get(cell, value) for cell, value in zip(self.block.cells, self.values, strict=True)]
            return self.evaluate(values, (args, kwargs))

        return function, {name: jax.ShapeDtypeStruct(cell.shape, cell.dtype) for name, cell in named.items()}

    def _names(self) -> dict[str, Cell]:
        """The cells that are read, by name in the module that holds all the others."""
        jaxpr = self.block.traced.closed.jaxpr
        used = {id(var) for eqn in jaxpr.eqns for var in eqn.invars} | {id(var) for var in jaxpr.outvars}
        read = {cell for cell, var in zip(self.block.cells, jaxpr.invars, strict=False) if id(var) in used}
        roots = [root for root in self.block.roots if isinstance(root, Module)]
        inside = [id(node) for root in roots for node in Structure([root]).nodes[1:]]
        found: list[tuple[Module, dict[Cell, str]]] = []
        for root in (root for root in roots if id(root) not in inside):
            names: dict[Cell, str] = {}
            for name, cell in root.state_dict(keep_vars=True).items():
                if isinstance(cell, Cell) and cell in read:
                    names.setdefault(cell, name)
            if names:
                found.append((root, names))
        if len(found) > 1:
            holders = " and ".join(f"{type(root).__name__} ({', '.join(names.values()):.60})" for root, names in found)
            raise ValueError(
                f"export of {self.name}: with weights='out', expected weights of one module, so that their names are its own, "
                f"got those of {holders}. Put the modules into one, such as an nn.ModuleDict"
            )
        return {name: cell for _, names in found for cell, name in names.items()}


def _as_dict(part: Any) -> Any:
    return dict(part) if isinstance(part, Gradients) else part
