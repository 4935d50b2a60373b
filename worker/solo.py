"""Who may use the card together: all of them, or one suspect with nothing beside it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

POLL_S = 0.2


class SoloGate:
    """Many ordinary jobs at once, or one suspect alone; a waiting suspect holds back newcomers."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._together = 0
        self._alone = False
        self._suspects = 0

    @contextmanager
    def together(self, check: Callable[[], None]) -> Iterator[None]:
        """Enter as one of many.

        Args:
            check: Called while waiting; may raise to give up.
        """
        with self._changed:
            while self._alone or self._suspects:
                check()
                self._changed.wait(POLL_S)
            self._together += 1
        try:
            yield
        finally:
            with self._changed:
                self._together -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self, check: Callable[[], None]) -> Iterator[None]:
        """Enter when nobody else is inside, and keep everybody out.

        Args:
            check: Called while waiting; may raise to give up.
        """
        with self._changed:
            self._suspects += 1
            try:
                while self._alone or self._together:
                    check()
                    self._changed.wait(POLL_S)
                self._alone = True
            finally:
                self._suspects -= 1
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()
