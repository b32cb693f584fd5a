"""What somebody who misspelt a name meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["closest", "suggestion"]


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name nearest to `name`, letter case aside, or None if none is near."""
    by_lower = {other.lower(): other for other in known}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.75)
    return by_lower[found[0]] if found else None


def suggestion(name: str, known: Iterable[str]) -> str:
    """A question to put behind an error message, or nothing."""
    guess = closest(name, (other for other in known if other != name))
    return f". Did you mean: '{guess}'?" if guess else ""
