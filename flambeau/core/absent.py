"""Names of PyTorch that have no counterpart here: importing one says what to use."""

from __future__ import annotations

from collections.abc import Mapping

from flambeau._errors import AbsentNameError
from flambeau.core.suggest import suggestion

__all__ = ["missing_name"]


def missing_name(module: str, name: str, absent: Mapping[str, str], names: list[str]) -> Exception:
    """The error for a name that `module` does not have.

    Args:
        absent: what to use in the place of each name that PyTorch has and flambeau has not.
        names: the names that there are.
    """
    if name in absent:
        return AbsentNameError(f"there is no {module.replace('flambeau.', '')}.{name} in flambeau: {absent[name]}")
    return AttributeError(f"module {module!r} has no attribute {name!r}{suggestion(name, names)}")
