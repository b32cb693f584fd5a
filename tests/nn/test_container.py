"""Containers against torch's: the same random programs on both leave the same, and fail in the same places."""

from __future__ import annotations

import operator
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flambeau import nn

torch = pytest.importorskip("torch")

# A program is a list of operations on the container made by its first one; an operation is a function of a World and
# plain data, so that both libraries run the very same one.
Operation = tuple[Callable[..., Any], tuple[Any, ...]]


class World:
    """One library, with things to put into containers."""

    def __init__(self, library: Any, array: Callable[[Any], Any]) -> None:
        self.nn = library
        self.modules = [
            library.PReLU(2),
            library.PReLU(2),
            library.ReLU(),
            library.Sequential(library.Tanh()),
            None,
        ]
        self.values = [
            library.Parameter(array(np.ones(2, np.float32))),
            library.Parameter(array(np.zeros((1, 2), np.float32))),
            array(np.full(2, 3, np.float32)),
            array(np.full((), 4, np.float32)),
            "text",
            library.ReLU(),
            None,
        ]

    def module(self, index: int) -> Any:
        return self.modules[index]

    def value(self, index: int) -> Any:
        return self.values[index]


OURS, THEIRS = World(nn, jnp.asarray), World(torch.nn, torch.tensor)

modules = st.integers(0, len(OURS.modules) - 1)
values = st.integers(0, len(OURS.values) - 1)
indices = st.integers(-6, 6)
bounds = st.none() | st.integers(-5, 5)
slices = st.builds(slice, bounds, bounds, st.sampled_from([None, 1, 2, -1, -2]))
keys = st.sampled_from(["a", "b", "c", "0"])


def operation(function: Callable[..., Any], *arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Operation]:
    return st.tuples(st.just(function), st.tuples(*arguments))


def many(world: World, chosen: list[int]) -> list[Any]:
    return [world.module(i) for i in chosen]


# -- what can be done to the two ordered containers -----------------------------------------------------------------------


def delete(w: World, c: Any, index: Any) -> None:
    del c[index]


ORDERED = [
    operation(lambda w, c, i: c[i], indices),
    operation(lambda w, c, s: c[s], slices),
    operation(lambda w, c, i, m: operator.setitem(c, i, w.module(m)), indices, modules),
    operation(delete, indices),
    operation(delete, slices),
    operation(lambda w, c, i: c.pop(i), indices),
    operation(lambda w, c, s: c.pop(s), slices),
    operation(lambda w, c, m: c.append(w.module(m)), modules),
    operation(lambda w, c, ms: c.extend(many(w, ms)), st.lists(modules, max_size=3)),
    operation(lambda w, c: c.append("text")),
    operation(lambda w, c: operator.setitem(c, 0, "text")),
    operation(lambda w, c: c.extend(3)),
    operation(lambda w, c, m: w.module(m) in c, modules),
    operation(lambda w, c: list(c)),
    operation(lambda w, c: list(reversed(c))),
    operation(lambda w, c: bool(c)),
    operation(lambda w, c, name, m: c.add_module(name, w.module(m)), st.sampled_from(["0", "", "a.b"]), modules),
]


def insert(w: World, c: Any, place: float, m: int) -> Any:
    # Where torch's own insert leaves the container whole, and with what it takes: see `test_insert`.
    return c.insert(int(place * len(c)), w.module(m))


MODULE_LIST = [
    *ORDERED,
    operation(insert, st.floats(0, 1), modules),
    operation(lambda w, c, ms: c + many(w, ms), st.lists(modules, max_size=3)),
    operation(lambda w, c, ms: operator.iadd(c, many(w, ms)), st.lists(modules, max_size=3)),
    operation(lambda w, c: c + 3),
    operation(lambda w, c: c(1)),
]


def other(w: World, chosen: list[int]) -> Any:
    return w.nn.Sequential(*many(w, chosen))


JOINED = [
    *ORDERED,
    operation(lambda w, c, ms: c + other(w, ms), st.lists(modules, max_size=3)),
    operation(lambda w, c, ms: operator.iadd(c, other(w, ms)), st.lists(modules, max_size=3)),
    operation(lambda w, c: operator.add(c, [w.module(0)])),
    operation(lambda w, c: operator.iadd(c, 3)),
    operation(lambda w, c, n: c * n, st.integers(-1, 3)),
    operation(lambda w, c, n: n * c, st.integers(-1, 3)),
    operation(lambda w, c: c * "text"),
    operation(lambda w, c: operator.imul(c, 1.5)),
    operation(lambda w, c: operator.imul(c, 0)),
]
# With modules that are named, torch's versions of these two fail by the way.
SEQUENTIAL = [
    *JOINED,
    operation(insert, st.floats(0, 1), st.integers(0, 3)),
    operation(lambda w, c, n: operator.imul(c, n), st.integers(1, 2)),
]


# -- and to the others -----------------------------------------------------------------------------------------------------


def named(w: World, pairs: list[tuple[str, int]]) -> list[tuple[str, Any]]:
    return [(key, w.module(m)) for key, m in pairs]


pairs = st.lists(st.tuples(keys, modules), max_size=3)
MAPPING = [
    operation(lambda w, c, k: c[k], keys),
    operation(lambda w, c: c[3]),
    operation(delete, keys),
    operation(lambda w, c, k: c.pop(k), keys),
    operation(lambda w, c, k: k in c, keys),
    operation(lambda w, c: list(c)),
    operation(lambda w, c: list(c.keys())),
    operation(lambda w, c: [list(pair) for pair in c.items()]),
    operation(lambda w, c: list(c.values())),
    operation(lambda w, c: c.clear()),
    operation(lambda w, c: c.update(3)),
    operation(lambda w, c: c.update([3])),
    operation(lambda w, c: c.update([("a",)])),
]
MODULE_DICT = [
    *MAPPING,
    operation(lambda w, c, k, m: operator.setitem(c, k, w.module(m)), keys, modules),
    operation(lambda w, c, k: operator.setitem(c, k, w.module(0)), st.sampled_from(["keys", "", "a.b", "training", 3])),
    operation(lambda w, c: operator.setitem(c, "a", "text")),
    operation(lambda w, c, ps: c.update(named(w, ps)), pairs),
    operation(lambda w, c, ps: c.update(dict(named(w, ps))), pairs),
    operation(lambda w, c, ps: c.update(w.nn.ModuleDict(OrderedDict(named(w, ps)))), pairs),
]

PARAMETER_LIST = [
    operation(lambda w, c, i: c[i], indices),
    operation(lambda w, c, s: c[s], slices),
    operation(lambda w, c, i, v: operator.setitem(c, i, w.value(v)), indices, values),
    operation(lambda w, c, v: c.append(w.value(v)), values),
    operation(lambda w, c, vs: c.extend([w.value(v) for v in vs]), st.lists(values, max_size=3)),
    operation(lambda w, c, vs: operator.iadd(c, [w.value(v) for v in vs]), st.lists(values, max_size=3)),
    operation(lambda w, c: c.extend(3)),
    operation(lambda w, c: c.extend(w.value(2))),
    operation(lambda w, c: list(c)),
    operation(lambda w, c: list(reversed(c))),
    operation(lambda w, c: c(1)),
]


def valued(w: World, pairs: list[tuple[str, int]]) -> list[tuple[str, Any]]:
    return [(key, w.value(v)) for key, v in pairs]


entries = st.lists(st.tuples(keys, values), max_size=3)
PARAMETER_DICT = [
    *MAPPING,
    operation(lambda w, c, k, v: operator.setitem(c, k, w.value(v)), keys, values),
    operation(lambda w, c, ps: c.update(valued(w, ps)), entries),
    operation(lambda w, c, ps: c.update(dict(valued(w, ps))), entries),
    operation(lambda w, c, ps: c.update(OrderedDict(valued(w, ps))), entries),
    operation(lambda w, c, ps: c | w.nn.ParameterDict(valued(w, ps)), entries),
    operation(lambda w, c, ps: dict(valued(w, ps)) | c, entries),
    operation(lambda w, c, ps: operator.ior(c, w.nn.ParameterDict(valued(w, ps))), entries),
    operation(lambda w, c: c.copy()),
    operation(lambda w, c: list(reversed(c))),
    operation(lambda w, c: list(c.popitem())),
    operation(lambda w, c, k: c.get(k, "default"), keys),
    operation(lambda w, c, k, v: c.setdefault(k, w.value(v)), keys, values),
    operation(lambda w, c, ks, v: c.fromkeys(ks, w.value(v)), st.lists(keys, max_size=2, unique=True), values),
    operation(lambda w, c: c(1)),
]


# -- comparing ---------------------------------------------------------------------------------------------------------


def text_of(module: Any) -> str:
    return repr(module).replace("torch.FloatTensor", "float32").replace("torch.float32", "float32")


def view(w: World, thing: Any, container: Any = None) -> Any:
    """What can be compared of a result."""
    if thing is container is not None:
        return "the container itself"
    if isinstance(thing, w.nn.Module):
        names = [name for name, _ in thing.named_modules(remove_duplicate=False)]
        members = list(thing.named_parameters(remove_duplicate=False))
        first_of = {id(p): name for name, p in reversed(members)}
        # Which names stand for one and the same parameter is part of what a container is.
        tied = [(name, first_of[id(p)], np.asarray(p.data).tolist()) for name, p in members]
        shown = [name for name in dir(thing) if name.isdigit() or name in "abc"]
        in_pool = [i for i, module in enumerate(w.modules) if module is thing]
        length = len(thing) if hasattr(thing, "__len__") else None
        return type(thing).__name__, text_of(thing), names, tied, shown, in_pool, length
    if isinstance(thing, (jax.Array, nn.Parameter, torch.Tensor)):
        return thing.tolist()
    if isinstance(thing, (list, tuple)):
        return [view(w, item) for item in thing]
    if isinstance(thing, dict):
        return {key: view(w, value) for key, value in thing.items()}
    return thing


def run(w: World, c: Any, step: Operation) -> tuple[Any, Exception | None]:
    function, arguments = step
    try:
        return view(w, function(w, c, *arguments), c), None
    except Exception as error:
        return None, error


def same_on_both(make: Callable[[World], Any], program: list[Operation]) -> None:
    ours, theirs = make(OURS), make(THEIRS)
    for step in program:
        result, error = run(OURS, ours, step)
        expected, expected_error = run(THEIRS, theirs, step)
        assert (error is None) == (expected_error is None), (error, expected_error)
        if expected_error is not None:
            assert isinstance(error, type(expected_error)), (error, expected_error)
        assert result == expected
        assert view(OURS, ours) == view(THEIRS, theirs)


def programs(operations: list[st.SearchStrategy[Operation]]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    program = st.lists(st.one_of(operations), min_size=1, max_size=8)
    return lambda test: settings(max_examples=120)(given(start=st.integers(0, 4), program=program)(test))


@programs(MODULE_LIST)
def test_module_list(start: int, program: list[Operation]) -> None:
    same_on_both(lambda w: w.nn.ModuleList(w.module(i % 3) for i in range(start)), program)


@programs(SEQUENTIAL)
def test_sequential(start: int, program: list[Operation]) -> None:
    same_on_both(lambda w: w.nn.Sequential(*(w.module(i % 3) for i in range(start))), program)


@programs(JOINED)
def test_named_sequential(start: int, program: list[Operation]) -> None:
    same_on_both(lambda w: w.nn.Sequential(OrderedDict((f"m{i}", w.module(i % 3)) for i in range(start))), program)


@programs(MODULE_DICT)
def test_module_dict(start: int, program: list[Operation]) -> None:
    same_on_both(lambda w: w.nn.ModuleDict({"abc"[i % 3]: w.module(i % 3) for i in range(start)}), program)


@programs(PARAMETER_LIST)
def test_parameter_list(start: int, program: list[Operation]) -> None:
    same_on_both(lambda w: w.nn.ParameterList(w.value(i) for i in range(start)), program)


@programs(PARAMETER_DICT)
def test_parameter_dict(start: int, program: list[Operation]) -> None:
    same_on_both(lambda w: w.nn.ParameterDict({"abc"[i % 3]: w.value(i) for i in range(start)}), program)
