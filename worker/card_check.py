"""Whether a suspect card may be used again: a process of its own asks it, and may hang in our place."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping

from soundmill.models.device import Card

LIMIT_S = 120.0  # opening a card takes a minute where its driver has just been reset


class CardCheck:
    """One question to one card, under way."""

    def __init__(self, card: Card, environment: Mapping[str, str]) -> None:
        """Ask; nothing is waited for.

        Raises:
            OSError: No process can be started now.
        """
        command = [sys.executable, "-P", "-m", "soundmill.models.device.examination", "--card", str(card)]
        self._until = time.monotonic() + LIMIT_S
        self._process = subprocess.Popen(
            command, env=dict(environment), stdin=subprocess.DEVNULL, start_new_session=True
        )

    def answer(self) -> bool | None:
        """Whether the card is well; `None` while nobody knows. No answer in time is a no."""
        status = self._process.poll()
        if status is None and time.monotonic() > self._until:
            self.close()
            return False
        return None if status is None else status == 0

    def close(self) -> None:
        """End it. A process that its driver holds on to is left behind."""
        self._process.kill()
        try:
            self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return
