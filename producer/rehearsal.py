"""A dry run: every line is checked as a submit would, and nothing is submitted."""

from __future__ import annotations

import sqlite3
from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from soundmill.storage.errors import SubmitRefused

from .draft import SILENT_KINDS
from .estimate import speech_s
from .manifests.record import BadLine
from .refusals import KEPT, Refusal, Tally
from .stream import ALIASES

if TYPE_CHECKING:
    from .draft import Draft
    from .intake import TrialIntake
    from .manifest import Line
    from .producer import Producer

OTHER_ARGUMENTS = (
    "id: line {first} has this id and other arguments; choose another id, or submit to another --batch"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeat:
    """A line that asks for the very job of an earlier one."""

    line: int
    first: int
    custom_id: str


@dataclass(slots=True, kw_only=True)
class Findings:
    """What a dry run found.

    Attributes:
        jobs: Good lines by model, kind and language (empty where the model knows none).
        repeated: Lines with the id and the arguments of an earlier one: no jobs of their own.
        repeats: The first of those.
        characters: Of the texts to be spoken or aligned.
        speech_s: Seconds of speech to expect; see `estimate`.
        input_s: Seconds of audio to be described or aligned, counted by decoding it.
        from_jobs: Jobs that read what another one makes, so that nobody knows how long it is.
    """

    tally: Tally = field(default_factory=Tally)
    jobs: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    repeated: int = 0
    repeats: list[Repeat] = field(default_factory=list)
    characters: int = 0
    speech_s: float = 0.0
    input_s: float = 0.0
    from_jobs: int = 0

    @property
    def models(self) -> dict[str, int]:
        """Good lines by model."""
        found: Counter[str] = Counter()
        for (model, _, _), count in self.jobs.items():
            found[model] += count
        return dict(found)


class Rehearsal:
    """Checks lines against the catalogue and each other."""

    def __init__(self, producer: Producer, intake: TrialIntake) -> None:
        self._producer = producer
        self._intake = intake
        self._aliases: OrderedDict[str, None] = OrderedDict()
        self._ids = _Ids()

    def run(self, lines: Iterable[Line | BadLine]) -> Findings:
        """Check all lines, their audio too, in bounded memory."""
        found = Findings()
        try:
            for line in lines:
                found.tally.lines += 1
                if isinstance(line, BadLine):
                    found.tally.refuse_bad(line)
                else:
                    self._check(found, line)
        finally:
            self._ids.close()
        return found

    def _check(self, found: Findings, line: Line) -> None:
        custom_id, before_s = line.request.custom_id, self._intake.heard_s
        try:
            draft = self._producer.check(line.request, self._intake)
            for alias in draft.aliases:
                if alias not in self._aliases:
                    raise SubmitRefused(f"alias: no earlier line has the alias {alias!r}")
            first = self._first(draft, line.number)
        except SubmitRefused as refusal:
            found.tally.refuse(
                Refusal(line=line.number, column=None, custom_id=custom_id, sentence=str(refusal))
            )
            return
        found.tally.unused |= line.unused
        if draft.alias is not None:
            self._remember(draft.alias)
        if first is not None:
            found.repeated += 1
            if len(found.repeats) < KEPT:
                found.repeats.append(Repeat(line=line.number, first=first, custom_id=custom_id or ""))
            return
        _count(found, draft, self._intake.heard_s - before_s)

    def _first(self, draft: Draft, number: int) -> int | None:
        """The line whose id this one repeats, or `None`.

        Raises:
            SubmitRefused: That line asks for something else.
        """
        if draft.idempotency_key is None:
            return None
        first, digest = self._ids.first(draft.idempotency_key, draft.digest, number)
        if digest != draft.digest:
            raise SubmitRefused(OTHER_ARGUMENTS.format(first=first), field="id")
        return None if first == number else first

    def _remember(self, alias: str) -> None:
        self._aliases[alias] = None
        if len(self._aliases) > ALIASES:
            self._aliases.popitem(last=False)


def _count(found: Findings, draft: Draft, heard_s: float) -> None:
    text = str(draft.args.get("text") or "")
    found.jobs[draft.model.id, draft.model.kind, str(draft.args.get("language") or "")] += 1
    found.characters += len(text)
    if draft.model.kind in SILENT_KINDS:
        found.input_s += heard_s
        found.from_jobs += bool(draft.references)
    elif draft.model.kind == "tts":
        speed = draft.args.get("speed")
        found.speech_s += speech_s(text, speed if isinstance(speed, float | int) and speed > 0 else 1.0)


class _Ids:
    """The ids of all lines, in a temporary file: a manifest may have more than fit into memory."""

    def __init__(self) -> None:
        self._lines = sqlite3.connect("", isolation_level=None)
        self._lines.execute("PRAGMA synchronous = OFF")
        self._lines.execute("PRAGMA journal_mode = OFF")
        self._lines.execute(
            "CREATE TABLE ids (key TEXT PRIMARY KEY, digest TEXT, line INTEGER) WITHOUT ROWID"
        )
        self._lines.execute("BEGIN")

    def first(self, key: str, digest: str, line: int) -> tuple[int, str]:
        """The first line with that key, and its digest; perhaps this one."""
        self._lines.execute("INSERT OR IGNORE INTO ids VALUES (?, ?, ?)", (key, digest, line))
        [(first, known)] = self._lines.execute(
            "SELECT line, digest FROM ids WHERE key = ?", (key,)
        ).fetchall()
        return first, known

    def close(self) -> None:
        self._lines.close()
