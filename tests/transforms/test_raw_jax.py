"""Under raw JAX transforms nothing of flambeau is silently wrong: the programs of docs/raw-jax.md, and the page itself."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest

import flambeau as fb
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
