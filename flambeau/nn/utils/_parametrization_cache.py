"""What `parametrize.cached()` keeps.

A value is kept for the transform that computes it: one from outside of `fb.grad` would know of no derivative. And it counts
as long as what it was computed from is the same, array for array.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from jax.extend.core import get_opaque_trace_state

from flambeau._errors import StateError
from flambeau.core.cell import running
from flambeau.core.frame import Frame
from flambeau.core.hooks import global_hooks
from flambeau.core.module import Module
from flambeau.nn.utils._reparametrize import compiling

__all__ = ["caching", "value_of"]


class _Kept(NamedTuple):
    value: Any
    sources: list[Any]


class _Cache:
    """Of the process, as in PyTorch; empty where nothing is to be kept."""

    def __init__(self) -> None:
        self.depth = 0  # of the `with` blocks
        # Where the outermost of them began.
        self.frame: Frame | None = None
        self.trace: Any = None
        # By transform, for as long as it runs; this object stands for there being none.
        self.kept: weakref.WeakKeyDictionary[Any, dict[Module, _Kept]] = weakref.WeakKeyDictionary()


_cache = _Cache()


@contextmanager
def caching() -> Iterator[None]:
    """Keeps values while the body runs; of nested blocks, the outermost counts."""
    if not _cache.depth:
        _cache.frame, _cache.trace = _transform(), get_opaque_trace_state()
        # All that is compiled depends on this node. So what was compiled outside is not taken for this block, nor the
        # other way round.
        global_hooks.caches_parametrizations = True
    _cache.depth += 1
    try:
        yield
    finally:
        _cache.depth -= 1
        if not _cache.depth:
            del global_hooks.caches_parametrizations
            _cache.frame = _cache.trace = None
            _cache.kept.clear()


def value_of(parametrizations: Module) -> Any:
    """What the parametrizations of an attribute give now, or gave when it was read before in this block."""
    if not _cache.depth:
        return parametrizations()
    frame = _transform()
    if get_opaque_trace_state() != (_cache.trace if frame is _cache.frame or frame is None else frame.trace_state):
        return parametrizations()  # inside of a raw transform of JAX, from which no value may come out
    kept = _cache.kept.setdefault(_cache if frame is None else frame, {})
    before = _sources(parametrizations)
    if parametrizations in kept and _same(kept[parametrizations].sources, before):
        return kept[parametrizations].value
    value = parametrizations()
    after = _sources(parametrizations)
    if not _same(before, after) and compiling(since=_cache.frame):
        raise StateError(
            "a parametrization writes to its buffers (as spectral_norm does while training), and parametrize.cached() began "
            "outside of the compiled function that reads it: it would write once for each call, and not once for the block. "
            "Move `with parametrize.cached():` into the compiled function, or call eval() before"
        )
    kept[parametrizations] = _Kept(value, after)
    return value


def _transform() -> Frame | None:
    """The frame of the innermost transform; a module call has one too, whose values are those of the frame around it."""
    frame = running.frame
    while frame is not None and frame.calling:
        frame = frame.parent
    return frame


def _sources(parametrizations: Module) -> list[Any]:
    """The arrays that a value is computed from, to be compared only: they may be given away by now."""
    registries = ("_parameters", "_buffers", "_arrays")
    cells = [
        cell for module in parametrizations.modules() for name in registries for cell in module.__dict__[name].values()
    ]
    return [None if cell is None else cell.peek() for cell in cells]


def _same(old: list[Any], new: list[Any]) -> bool:
    return len(old) == len(new) and all(a is b for a, b in zip(old, new, strict=True))
