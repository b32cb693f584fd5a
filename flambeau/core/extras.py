"""Packages that only some features need: imported when one is used."""

from __future__ import annotations

import importlib
from typing import Any

from flambeau._errors import MissingExtraError

__all__ = ["require"]


def require(package: str, extra: str, why: str) -> Any:
    """The imported package.

    Raises:
        MissingExtraError: it is not installed; `why`, the beginning of the message, says what needs it.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingExtraError(f"{why}: pip install 'flambeau[{extra}]'") from error
