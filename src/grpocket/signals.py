"""SIGTERM and Ctrl-C, heeded where nothing is lost by it.

What can be done again (sampling, scoring, evaluating) is dropped at once. What must be whole, an update and the
writing of its results, is finished first. A second signal does what it would have done without us.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Interrupted(KeyboardInterrupt):
    """A signal asked to stop, and everything is whole."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Heed:
    """Turns a signal into `Interrupted`, at once or when the next phase begins."""

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._received: int | None = None
        self._droppable = False

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Inside this context signals are heeded. Only a main thread can; elsewhere nothing changes."""
        if threading.current_thread() is threading.main_thread():
            found = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
            # A shell has its background jobs ignore Ctrl-C; that is left as it is.
            self._before = {number: handler for number, handler in found.items() if handler is not signal.SIG_IGN}
        for number in self._before:
            signal.signal(number, self._receive)
        try:
            yield
            self._stop_if_asked()
        finally:
            self._give_back()

    @contextmanager
    def phase(self, droppable: bool) -> Iterator[None]:
        """One phase of a step, which may be dropped or has to be finished; none is begun once a signal came."""
        outer, self._droppable = self._droppable, droppable
        self._stop_if_asked()
        try:
            yield
        finally:
            self._droppable = outer

    def _stop_if_asked(self) -> None:
        if self._received is not None:
            raise Interrupted(self._received)

    def _receive(self, number: int, frame: Any) -> None:
        self._give_back()
        self._received = number
        if self._droppable:
            raise Interrupted(number)

    def _give_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
