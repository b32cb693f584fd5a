"""Runs every transform of JAX on networks of flambeau, Flax NNX and Equinox, and makes a table of what came of it.

Each cell is a program that was run: a network that does one thing (reads a trained parameter, writes a buffer, draws random
numbers, appends to a list, counts in an int) under one transform, called three times, and compared call by call with the same
program in Python, results and state.

    python -m scripts.make_raw_jax_table            # prints the table; needs flax and equinox
    python -m scripts.make_raw_jax_table --write    # puts it into docs/raw-jax.md
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from scripts.raw_jax.outcomes import NONE, RIGHT, SILENT, WARNS, outcome
from scripts.raw_jax.rows import ROWS, Row
from scripts.raw_jax.worlds import ACTIONS, CLOSED, GIVEN, OURS, PURE, RAW, Flambeau

__all__ = ["FLAMBEAU", "PAGE", "Column", "others", "read", "words"]

PAGE = Path(__file__).parent.parent / "docs" / "raw-jax.md"
BEGIN, END = "<!-- made by scripts/make_raw_jax_table.py -->", "<!-- end -->"

Place = tuple[str, str]
"""An action and the name of a transform."""


@dataclass(frozen=True)
class Column:
    """One library under one kind of transforms, in one or two ways that the function gets at the network."""

    title: str
    make: Callable[[str, str], Any]
    verbs: dict[str, Any]
    ways: tuple[str, ...] = (CLOSED, GIVEN)

    def outcomes(self, action: str, row: Row) -> list[str]:
        """What comes of a transform, in each way."""
        if row.name not in self.verbs:
            return [NONE]
        return [outcome(row, self.verbs[row.name], self.make, action, way) for way in self.ways]


FLAMBEAU = [
    Column("flambeau, `jax.*`", Flambeau, RAW),
    Column("`functional_call`, `jax.*`", Flambeau, RAW, (PURE,)),
    Column("flambeau, `fb.*`", Flambeau, OURS),
]


def others() -> list[Column]:
    """Those of the other libraries, which have to be installed."""
    from scripts.raw_jax.others import FILTERED, NNX_VERBS, Equinox, Nnx

    return [
        Column("NNX, `jax.*`", Nnx, RAW),
        Column("`nnx.split`, `jax.*`", Nnx, RAW, (PURE,)),
        Column("NNX, `nnx.*`", Nnx, NNX_VERBS),
        Column("Equinox, `jax.*`", Equinox, RAW),
        Column("`eqx.partition`, `jax.*`", Equinox, RAW, (PURE,)),
        Column("Equinox, `eqx.filter_*`", Equinox, FILTERED),
    ]


def words(outcomes: Iterable[str]) -> str:
    """A cell: the outcome of each way that there is, once if they are the same."""
    there = [word(each) for each in outcomes if each != NONE] or [NONE]
    return " / ".join(dict.fromkeys(there))


def word(outcome: str) -> str:
    return outcome if outcome in (RIGHT, WARNS, *SILENT) else "errors"


def tables(columns: list[Column]) -> Iterator[str]:
    """The lines of all tables."""
    found = {(action, row.name): [each.outcomes(action, row) for each in columns] for action in ACTIONS for row in ROWS}
    yield from summary([column.title for column in columns], found)
    for action, sentence in ACTIONS.items():
        yield from ["", f"### The network {sentence}", ""]
        yield from [line(["", *(column.title for column in columns)]), line([":--"] * (1 + len(columns)))]
        rows: dict[tuple[str, ...], list[str]] = {}
        for row in ROWS:
            rows.setdefault(tuple(map(words, found[action, row.name])), []).append(f"`{row.name}`")
        yield from (line([", ".join(names), *own]) for own, names in rows.items())


def summary(titles: list[str], found: dict[Place, list[list[str]]]) -> Iterator[str]:
    """How many programs there are of each outcome."""
    yield from [line(["", RIGHT, "errors", WARNS, *SILENT]), line([":--", *["--:"] * (3 + len(SILENT))])]
    for number, title in enumerate(titles):
        each = [word(one) for own in found.values() for one in own[number] if one != NONE]
        yield line([title, *(str(each.count(kind)) for kind in (RIGHT, "errors", WARNS, *SILENT))])


def line(entries: list[str]) -> str:
    return f"| {' | '.join(entries)} |"


def read(page: str) -> dict[str, dict[Place, str]]:
    """The cells of the tables in a page, by column."""
    found: dict[str, dict[Place, str]] = {}
    actions = {f"### The network {sentence}": action for action, sentence in ACTIONS.items()}
    action, titles = "", []
    for text in page.partition(BEGIN)[2].partition(END)[0].splitlines():
        entries = [entry.strip() for entry in text.removeprefix("|").removesuffix("|").split(" | ")]
        if text in actions:
            action, titles = actions[text], []
        elif action and text.startswith("|") and not titles:
            titles = entries[1:]
        elif action and text.startswith("| `"):
            for name in entries[0].replace("`", "").split(", "):
                for title, cell in zip(titles, entries[1:]):
                    found.setdefault(title, {})[action, name] = cell
    return found


def main() -> None:
    jax.config.update("jax_enable_x64", True)  # finite differences want digits
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "flax", "equinox"))
    text = "\n".join([f"With {versions}:", "", *tables(FLAMBEAU + others())])
    if "--write" not in sys.argv:
        print(text)
        return
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    print(f"wrote {PAGE.name}")


if __name__ == "__main__":
    main()
