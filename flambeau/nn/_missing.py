"""What the containers share: what they say of an index or key that is not there, and how they read pairs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from flambeau.core.suggest import suggestion

__all__ = ["MissingKeyError", "missing_index", "missing_key", "pairs_of"]


class MissingKeyError(KeyError, AttributeError):
    """A key that a container does not have. PyTorch raises the one or the other."""

    # KeyError shows its argument's repr; the message is prose.
    __str__ = Exception.__str__


def missing_index(container: Any, index: int) -> IndexError:
    """The error for an index that says which there are."""
    count = len(container)
    there = f"has {count} entries, 0 to {count - 1}" if count > 1 else f"has {'one entry, 0' if count else 'none'}"
    return IndexError(f"index {index} is out of range: this {type(container).__name__} {there}")


def missing_key(container: Any, key: Any) -> MissingKeyError:
    """The error for a key that says which there are."""
    keys = list(container.keys())
    shown = ", ".join(map(repr, keys[:12])) + (", …" if len(keys) > 12 else "")
    guess = suggestion(key, keys) if isinstance(key, str) else ""
    return MissingKeyError(f"{key!r} is not in this {type(container).__name__}, which has {shown or 'none'}{guess}")


def pairs_of(given: Any, container: Any) -> Iterable[tuple[Any, Any]]:
    """The pairs of a mapping, or of an iterable of pairs."""
    name = type(container).__name__
    if isinstance(given, Mapping):
        return given.items()
    if not isinstance(given, Iterable):
        raise TypeError(f"{name}.update takes a mapping or an iterable of key/value pairs, got {type(given).__name__}")
    pairs = []
    for i, pair in enumerate(given):
        if not isinstance(pair, Iterable):
            raise TypeError(f"{name} update sequence element #{i} should be Iterable; is {type(pair).__name__}")
        if len(items := list(pair)) != 2:
            raise ValueError(f"{name} update sequence element #{i} has length {len(items)}; 2 is required")
        pairs.append((items[0], items[1]))
    return pairs
