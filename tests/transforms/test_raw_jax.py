"""Under raw JAX transforms nothing of flambeau is silently wrong: the programs of docs/raw-jax.md, and the page itself."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import flambeau as fb
from flambeau import nn
from flambeau.core import raw
from scripts.make_raw_jax_table import FLAMBEAU, PAGE, Column, others, read, words
from scripts.raw_jax.outcomes import NONE, RIGHT, SILENT, WARNS, outcome
from scripts.raw_jax.rows import ROWS, Row
from scripts.raw_jax.worlds import ACTIONS, CLOSED, GIVEN, RAW, Flambeau

BY_NAME = {row.name: row for row in ROWS}
TEXT = PAGE.read_text(encoding="utf-8")
CELLS = read(TEXT)
# What fb's own transforms leave is tested all over this folder: here the page's word for one of each family.
FEW = ["jit", "grad", "vmap", "scan", "while_loop", "cond"]


@pytest.fixture(autouse=True)
def warned(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whether a warning was given, which each program begins anew, is for the other tests as it was."""
    monkeypatch.setattr(raw, "_warned", raw._warned)
    yield


def programs() -> Iterator[Any]:
    for column, action, row in product(FLAMBEAU, ACTIONS, ROWS):
        if column.verbs is RAW or row.name in FEW:
            yield pytest.param(column, action, row, id=f"{column.title}-{action}-{row.name}")


@pytest.mark.parametrize(("column", "action", "row"), list(programs()))
def test_nothing_is_silently_wrong(column: Column, action: str, row: Row) -> None:
    found = column.outcomes(action, row)
    ours = {RIGHT, WARNS, NONE, fb.StateError.__name__}
    # Two transforms look at a module that is an argument in another way, and say themselves that it is none.
    theirs = (
        {"vjp": {"InvalidInputException"}, "jvp": {"TypeError"}}.get(row.name, set()) if column.verbs is RAW else set()
    )
    for way, each in zip(column.ways, found, strict=True):
        assert each in ours | (theirs if way == GIVEN else set())
    assert CELLS[column.title][action, row.name] == words(found)


def test_the_page_has_every_cell() -> None:
    assert len(CELLS) == len(FLAMBEAU) + 6
    for own in CELLS.values():
        assert own.keys() == set(product(ACTIONS, BY_NAME))
    for column in FLAMBEAU:
        assert not any(wrong in cell for cell in CELLS[column.title].values() for wrong in SILENT)


@pytest.mark.parametrize("action", ACTIONS)
def test_what_the_page_says_of_others(action: str) -> None:
    for name in ("flax", "equinox"):
        pytest.importorskip(name)
        if f"{name} {importlib.metadata.version(name)}" not in TEXT:
            pytest.skip(f"the page was made with another version of {name}")
    for column in others():
        assert CELLS[column.title][action, "jit"] == words(column.outcomes(action, BY_NAME["jit"]))


@pytest.mark.parametrize(
    ("action", "row", "expected"),
    [
        *product(["buffer", "list"], ["jit", "scan", "vmap", "checkpoint"], ["StateError"]),
        *product(["reads", "static"], ["grad", "vmap"], [RIGHT]),
        ("list", "grad", "StateError"),
    ],
)
def test_without_the_names_of_jax_functions(
    action: str, row: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version of JAX that names its functions otherwise: tracers are seen all the same, and nothing is refused for that."""
    monkeypatch.setattr(raw, "_callers", lambda: iter(()))
    assert outcome(BY_NAME[row], RAW[row], Flambeau, action, CLOSED) == expected


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: jax.Array) -> jax.Array:
        self.calls += 1
        return x + 1


ONCE = {  # raw transforms that trace a function once and run it more often
    "jit": lambda f, x: jax.jit(f)(x),
    "scan": lambda f, x: jax.lax.scan(lambda x, _: (f(x), None), x, length=3)[0],
    "fori_loop": lambda f, x: jax.lax.fori_loop(0, 3, lambda _, x: f(x), x),
    "checkpoint": lambda f, x: jax.checkpoint(f)(x),
}
EACH = {  # and those that run Python each time
    "vmap": lambda f, x: jax.vmap(f)(x),
    "grad": lambda f, x: jax.value_and_grad(lambda x: f(x).sum())(x)[0],
}
INNER = {**ONCE, **EACH}
AROUND = {"eager": lambda f: f, "jit": fb.jit, "checkpoint": fb.checkpoint}
AROUND_SCALARS = {**AROUND, "value_and_grad": fb.value_and_grad}


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("home", ["outside", "around", "inside"])
def test_a_module_is_changed_where_it_was_made(around: str, inner: str, home: str) -> None:
    """One that a transform of flambeau makes is not the raw transform's inside of it, whose steps would share a change."""
    made = Counts() if home == "outside" else None

    def run(x: jax.Array) -> Any:
        net = Counts() if home == "around" else made

        def body(x: jax.Array) -> jax.Array:
            nonlocal net
            if home == "inside":
                net = Counts().requires_grad_(False)
            assert net is not None
            return net(x)

        value = INNER[inner](body, x)
        return value, net.calls  # pyright: ignore[reportOptionalMemberAccess]

    call = AROUND[around](run)
    if inner in ONCE and home != "inside":
        with pytest.raises(fb.StateError, match=rf"Counts\.calls was changed inside a raw jax\.(lax\.)?{inner}"):
            call(jnp.zeros(2))
        assert made is None or made.calls == 0
    else:
        assert call(jnp.zeros(2))[1] == 1


@pytest.mark.parametrize("around", ["eager", "jit"])
def test_a_parameter_that_a_raw_transform_makes_is_frozen_there(around: str) -> None:
    def step(x: jax.Array, _: Any) -> tuple[jax.Array, None]:
        parameter = nn.Parameter(x * 2)
        return jnp.where(parameter.requires_grad_(False).requires_grad, x, parameter.data), None

    call = AROUND[around](lambda x: jax.lax.scan(step, x, length=2)[0])
    assert call(jnp.float32(1)) == 4


class Holds(nn.Module):
    weight: Any

    def __init__(self, x: jax.Array) -> None:
        super().__init__()
        self.weight = nn.Parameter(x)

    def forward(self, x: jax.Array) -> jax.Array:
        return x + self.weight


KEPT = {
    "attribute": lambda net, x: setattr(net, "kept", x),
    "list": lambda net, x: setattr(net, "kept", [x]),
    "parameter": lambda net, x: setattr(net, "kept", nn.Parameter(x)),
    "module": lambda net, x: setattr(net, "kept", nn.Sequential(Holds(x))),
}


class Keeps(nn.Module):
    def forward(self, x: jax.Array, keep: str) -> jax.Array:
        KEPT[keep](self, x)
        return x + 1


@pytest.mark.parametrize("around", AROUND_SCALARS)
@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("keep", KEPT)
@pytest.mark.parametrize("by", ["forward", "somebody else"])
def test_nothing_keeps_a_tracer(by: str, keep: str, inner: str, around: str) -> None:
    """Whatever a module may be given anew: its value would be a tracer of a raw transform that has ended."""
    net = Keeps()

    def run(x: jax.Array) -> jax.Array:
        def body(x: jax.Array) -> jax.Array:
            if by == "forward":
                return net(x, keep)
            KEPT[keep](net, x)
            return x + 1

        return INNER[inner](body, x).sum()

    with pytest.raises(
        fb.StateError, match=r"Keeps\.(kept|_parameters|_modules) was (written|changed) inside a raw jax"
    ):
        AROUND_SCALARS[around](run)(jnp.ones(2))
    assert not hasattr(net, "kept")
    net(jnp.ones(2), keep)


def _deletes(net: Any, x: jax.Array) -> None:
    del net.history


CHANGES = {
    "appends": lambda net, x: net.history.append(1.5),
    "appends what it was given": lambda net, x: net.history.append(x),
    "replaces an item": lambda net, x: net.history.__setitem__(0, 2.5),
    "clears": lambda net, x: net.history.clear(),
    "deletes": _deletes,
}


class Changing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.history = [0.5]

    def forward(self, x: jax.Array, change: str) -> jax.Array:
        CHANGES[change](self, x)
        return x + 1


@pytest.mark.parametrize("around", AROUND_SCALARS)
@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("change", CHANGES)
def test_a_container_is_changed_as_often_as_the_code_says(change: str, inner: str, around: str) -> None:
    """By a raw transform that runs Python each time, if no tracer is in it; by no other."""
    net = Changing()

    def run(x: jax.Array) -> jax.Array:
        return INNER[inner](lambda x: net(x, change), x).sum()

    call = AROUND_SCALARS[around](run)
    if inner in ONCE or change == "appends what it was given":
        with pytest.raises(fb.StateError, match=r"Changing\.history was (written|changed) inside a raw jax"):
            call(jnp.ones(2))
        assert net.history == [0.5]
    else:
        call(jnp.ones(2))
        left = {"appends": [0.5, 1.5], "replaces an item": [2.5], "clears": [], "deletes": None}
        assert getattr(net, "history", None) == left[change]


@pytest.mark.parametrize("around", ["eager", "jit"])
def test_what_a_raw_transform_makes_ends_with_it(around: str) -> None:
    call = AROUND[around](lambda x: jax.vmap(lambda x: Holds(x)(x))(x))
    assert call(jnp.ones(2)).tolist() == [2, 2]
