"""Ctrl-C: state is that from before a step, or that from after it."""

from __future__ import annotations

import signal
import threading
from typing import Any

__all__ = ["undisturbed"]


class undisturbed:
    """A context in which Ctrl-C waits: it is raised at the end, when what has to be whole is whole.

    Python raises `KeyboardInterrupt` between any two instructions of the main thread. It does so for handlers that are functions
    of Python, which is what this looks for; nothing waits where there is another.
    """

    def __enter__(self) -> None:
        self._pressed: list[Any] = []
        self._handler: Any = None
        if threading.current_thread() is threading.main_thread():
            handler = signal.getsignal(signal.SIGINT)
            if callable(handler):
                self._handler = handler
                signal.signal(signal.SIGINT, self._note)

    def _note(self, *details: Any) -> None:
        self._pressed[:] = details

    def __exit__(self, *exception: Any) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
            if self._pressed:
                self._handler(*self._pressed)
