"""Several cards at once, each in a process of its own that sees no other: `measure_cards`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..device import Card
from ..errors import ModelUnavailable
from .figures import significant
from .plan import Plan
from .session import Tell

PLAN, READY, GO, RESULT, ERROR, LOG = "plan.json", "ready", "go", "result.json", "error.json", "log.txt"
"""The files of a card's folder: what the process reads, waits for and leaves."""

_LOOK_EVERY_S = 0.1
_END_S = 5.0


def measure_cards(plan: Plan, cards: Sequence[Card], *, tell: Tell = lambda words: None) -> dict[str, Any]:
    """Measure the same on several cards of this host, which begin when all have loaded.

    Returns:
        A document with those of the `cards` that gave one, `failures` of the others with their sentences, and
        for each load what all gave `together`.

    Raises:
        ModelUnavailable: No card gave anything.
    """
    with tempfile.TemporaryDirectory(prefix="soundmill-bench-") as name:
        measured = [_Measured(plan, card, Path(name, str(card).replace(":", "-"))) for card in cards]
        try:
            _run(measured, tell)
        finally:
            for one in measured:
                one.end()
        documents = [result for one in measured if (result := one.result()) is not None]
        failures = {str(one.card): one.failure() for one in measured if one.result() is None}
    if not documents:
        raise ModelUnavailable("; ".join(f"{card}: {reason}" for card, reason in failures.items()))
    return {
        "soundmill": "bench",
        "format": documents[0]["format"],
        "model": plan.model,
        "kind": plan.kind,
        "cards": documents,
        "failures": failures,
        "together": together(documents),
    }


def together(documents: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What all cards gave of each load that all of them measured: the sum of their medians."""
    sums: list[dict[str, Any]] = []
    for cell in documents[0].get("cells", ()):
        alike = [
            other for document in documents for other in document["cells"] if other["load"] == cell["load"]
        ]
        if len(alike) == len(documents):
            total = sum(other["audio_s_per_s"]["median"] for other in alike)
            sums.append({"load": cell["load"], "cards": len(alike), "audio_s_per_s": significant(total)})
    return sums


def _run(measured: Sequence[_Measured], tell: Tell) -> None:
    told: set[str] = set()
    began = False
    while not all(one.ended for one in measured):
        if not began and all(one.ready or one.ended for one in measured):
            began = True
            tell(f"{sum(one.ready for one in measured)} cards have loaded and begin")
            for one in measured:
                one.go()
        for one in measured:
            if one.ended and str(one.card) not in told:
                told.add(str(one.card))
                tell(f"{one.card} is done")
        time.sleep(_LOOK_EVERY_S)


class _Measured:
    """A card's process."""

    def __init__(self, plan: Plan, card: Card, folder: Path) -> None:
        """Start it."""
        self.card = card
        self._folder = folder
        folder.mkdir()
        content = json.dumps(replace(plan, device=str(card)).as_json(), default=str)
        (folder / PLAN).write_text(content)
        with (folder / LOG).open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", __package__, str(folder)],
                env=os.environ | card.environment(os.environ),
                stdin=subprocess.DEVNULL,
                stdout=log,  # torch_npu writes to it
                stderr=log,
            )

    @property
    def ready(self) -> bool:
        return (self._folder / READY).exists()

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def go(self) -> None:
        """Let it begin."""
        (self._folder / GO).touch()

    def end(self) -> None:
        """See that it is no more."""
        if self.ended:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def result(self) -> dict[str, Any] | None:
        """What it measured, if it did."""
        file = self._folder / RESULT
        found: dict[str, Any] | None = json.loads(file.read_text()) if file.exists() else None
        return found

    def failure(self) -> str:
        """Why it did not."""
        file = self._folder / ERROR
        if file.exists():
            return str(json.loads(file.read_text())["error"])
        last = (self._folder / LOG).read_text(errors="replace").strip().splitlines()[-1:]
        return f"its process ended with status {self._process.returncode}: {''.join(last) or 'not a word'}"
