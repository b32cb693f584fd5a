"""What happens when modules meet raw JAX transforms, and how modules find the transforms that they use."""

from __future__ import annotations

import sys
import warnings
import weakref
from collections.abc import Callable, Iterator
from itertools import pairwise
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp
from jax.core import Tracer
from jax.extend.core import get_opaque_trace_state

from flambeau._errors import BakedValueWarning, StateError

if TYPE_CHECKING:
    from flambeau.core.frame import Frame

__all__ = [
    "introduce",
    "is_kept_function",
    "is_tracing",
    "note_creation",
    "outlives",
    "reads_would_be_baked",
    "refuse",
    "refuse_change",
    "refuse_same_draws",
    "transform",
    "warn_baked",
    "with_own_draws",
]

# Nothing is traced while modules are imported; if it is, everything looks traced, which costs time and refuses nothing.
_eager = get_opaque_trace_state()
_warned = False
_transforms: dict[str, Any] = {}


class _Birth(NamedTuple):
    """Where a node was made that was made while something traced: what is done to it there is no change of anything outside."""

    trace: Any  # JAX's word for the trace, equal only to itself
    keeping: int  # how many raw transforms were at work there that keep their trace


# By the identity of the node, which may be unhashable; with a reference that forgets it when it is gone.
_births: dict[int, tuple[weakref.ref[Any], _Birth]] = {}
_last_birth: _Birth | None = None

# JAX has no public way to ask which transform is at work, so the functions on the stack are asked. Where a version of JAX names
# them otherwise, nothing is refused and nothing is warned of; that a tracer is written is seen without any name.
#
# By these JAX traces a function once, and keeps the trace as long as the function lives.
_TRACING = frozenset({"trace_to_jaxpr", "trace_to_jaxpr_dynamic", "trace_to_jaxpr_nocache"})
# These call them, each with what there is in its place.
_KEEPING = {
    "cache_miss": ("jax.jit", "fb.jit"),
    "jit_trace": ("jax.jit", "fb.jit"),
    "eval_shape": ("jax.eval_shape", "fb.eval_shape"),
    "make_jaxpr_f": ("jax.make_jaxpr", "fb.jit"),
    "scan": ("jax.lax.scan", "fb.scan"),
    "map": ("jax.lax.map", "fb.map"),
    "fori_loop": ("jax.lax.fori_loop", "fb.fori_loop"),
    "while_loop": ("jax.lax.while_loop", "fb.while_loop"),
    "cond": ("jax.lax.cond", "fb.cond"),
    "switch": ("jax.lax.switch", "fb.switch"),
    "fun_remat": ("jax.checkpoint", "fb.checkpoint"),
}
_UNKNOWN = ("jax transform", "flambeau's transform")


def _callers() -> Iterator[tuple[str, str]]:
    """Module and function of each Python frame from here outward."""
    caller: FrameType | None = sys._getframe(1)
    while caller := caller.f_back:
        yield caller.f_globals.get("__name__") or "", caller.f_code.co_name


def _keeping() -> Iterator[tuple[str, str]]:
    """The raw transforms that trace here and keep what they traced, the innermost first; each with flambeau's."""
    keeps, found = False, _UNKNOWN
    for home, name in _callers():
        if home.startswith("jax."):
            keeps |= name in _TRACING
            found = _KEEPING.get(name, found)  # the outermost of JAX's functions in a row is the one that was called
        else:
            if keeps and not home.startswith("flambeau."):  # which carries state through those that it calls
                yield found
            keeps, found = False, _UNKNOWN


def _baking() -> tuple[str, str] | None:
    """The raw transform that makes constants of the parameters that are read here, for later calls of the same function."""
    found = dict(_keeping())
    if "jax.eval_shape" in found or "jax.make_jaxpr" in found:
        return None  # of which no value is used again
    found.pop("jax.lax.map", None)  # wraps the function in one of its own, which ends with it
    return ("jax.jit", "fb.jit") if "jax.jit" in found else next(iter(found.items()), None)


def reads_would_be_baked() -> bool:
    """Whether a raw `jax.jit`, or another that keeps its trace, is at work, and nobody was told yet what that means."""
    return not _warned and is_tracing() and _baking() is not None


def warn_baked(name: str) -> None:
    """Warns, once in a process, that a raw transform makes constants of the parameters that are read in it."""
    global _warned
    _warned = True
    theirs, ours = _baking() or _UNKNOWN
    warnings.warn(
        f"{name} is called under a raw {theirs}: the present values of its parameters become constants of what JAX keeps "
        f"for later calls of the same function, and later training does not reach it. Use {ours}, or the pure form "
        f"fb.functional_call(module, values, args).",
        BakedValueWarning,
        stacklevel=3,
    )


def is_kept_function() -> bool:
    """Whether the caller's caller is JAX, which traces a module itself as a function: it is there for later calls."""
    caller = sys._getframe(1).f_back
    return caller is not None and caller.f_code.co_name in _TRACING


def is_tracing() -> bool:
    """Whether a transform traces here."""
    return not (get_opaque_trace_state() == _eager)  # noqa: SIM201 (`!=` of these is slower)


def note_creation(node: Any) -> None:
    """Notes that a node is made here."""
    global _last_birth
    trace = get_opaque_trace_state()
    if trace == _eager:
        return
    birth = _last_birth
    if birth is None or birth.trace != trace:
        birth = _last_birth = _Birth(trace, sum(1 for _ in _keeping()))
    number = id(node)
    # By an argument, since globals are gone when the interpreter ends.
    _births[number] = weakref.ref(node, lambda _, births=_births: births.pop(number, None)), birth


def outlives(owner: Any, frame: Frame | None) -> bool:
    """Whether a node was there before the raw transform that traces here; False where none does.

    Args:
        owner: the node.
        frame: the running one, in which the raw transform would have to run.
    """
    trace = get_opaque_trace_state()
    if trace == _eager or (frame is not None and trace == frame.trace_state):
        return False
    birth = _birth_of(owner)
    return birth is None or birth.trace != trace


def _birth_of(node: Any) -> _Birth | None:
    found = _births.get(id(node))
    return found[1] if found is not None else None


def refuse_change(owner: Any, name: str, frame: Frame | None = None) -> None:
    """Raises if a raw transform traces here that keeps its trace: later calls, or steps, would not make the change.

    Args:
        owner: the node or parameter that is to be changed.
        name: its attribute.
        frame: the running one, in which the raw transform would have to run.
    """
    if not outlives(owner, frame):
        return
    birth = _birth_of(owner)
    if birth is None and frame is not None and frame.created(owner):
        return  # a parameter, of which no birth is noted
    what = f"{type(owner).__name__}.{name}" if owner is not None else "state of a module"
    refuse(what, birth.keeping if birth is not None else 0)


def refuse(what: str, around: int = 0) -> None:
    """Raises if a raw transform traces here that keeps its trace.

    Args:
        what: it is to be changed.
        around: the number of such transforms in which it was made: they do not count.
    """
    # Under vmap and grad, which run Python each time, it is an array; so it is in `jax.ensure_compile_time_eval`.
    if not is_tracing() or not isinstance(jnp.zeros(()), Tracer):
        return
    found = list(_keeping())
    if len(found) > around:
        theirs, ours = found[0]
        raise StateError(
            f"{what} was changed inside a raw {theirs}, which runs Python once: later steps or calls would not change it. "
            f"Use {ours} in its place, or change it outside."
        )


def refuse_same_draws() -> None:
    """Raises inside of a raw `jax.vmap`, where all elements would draw the same random numbers."""
    callers = [caller for caller in _callers() if not caller[0].endswith(".traceback_util")] if is_tracing() else []
    for (home, name), (above, caller) in pairwise(callers):
        if (home, name) == (__name__, with_own_draws.__name__):
            return
        knows = caller == "jacfun" or above.startswith("flambeau.")  # which map over directions, or know of draws
        if name == "vmap_f" and home.startswith("jax.") and not knows:
            raise StateError(
                "a random number was drawn inside a raw jax.vmap, where every element would get the same. "
                "Use fb.vmap in its place, with randomness='different' or 'same', or give each a key: "
                "fb.functional_call(module, values, args, key=key)."
            )


def with_own_draws(function: Callable[[], Any]) -> Any:
    """Calls `function`, whose generators have states that the caller chose: what is vmapped around may have one for each."""
    return function()


def introduce(name: str, transform: Any) -> None:
    """The transforms stand above the core, so those that modules use introduce themselves when they are imported."""
    _transforms[name] = transform


def transform(name: str) -> Any:
    """`fb.jit`, or another transform that introduced itself."""
    return _transforms[name]
