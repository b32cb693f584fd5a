"""Work that makes many objects at once, none of which is garbage until it is done."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

__all__ = ["uncollected"]

T = TypeVar("T")


def uncollected(function: Callable[[], T]) -> T:
    """Calls `function` while the garbage collector rests, in all threads.

    A trace makes hundreds of thousands of objects that stay. Again and again the collector would look through them, and with
    them through all that was imported: of the time to trace a deep network, that is a third.
    """
    # No context manager: Ctrl-C could come between its call and its first line.
    enabled = gc.isenabled()
    try:
        gc.disable()
        return function()
    finally:
        if enabled:
            gc.enable()
