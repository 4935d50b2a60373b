"""The card of an export: a README.md that says what lies beside it and where it comes from."""

from __future__ import annotations

import re
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING

from .entry import Shape

if TYPE_CHECKING:
    from soundmill.storage.catalog import Catalog
    from soundmill.storage.listing import JobView

_NOTES = {
    Shape.FOLDER: "Each line of `metadata.jsonl` is a job with its arguments, its result and its `files`.",
    Shape.AUDIOFOLDER: (
        'Each line of `metadata.jsonl` is a row of the data set: `datasets.load_dataset("audiofolder", '
        "data_dir=…)` reads this folder."
    ),
    Shape.ACESTEP: (
        "`dataset.json` and `captions.csv` are what ACE-Step 1.5 reads, with the lyrics beside the audio; "
        "each line of `metadata.jsonl` is a job and the tokens of what it wrote."
    ),
    Shape.JSONL: "Each line of `metadata.jsonl` is a job; the files themselves were not exported.",
}


@dataclass(slots=True, kw_only=True)
class Contents:
    """What an export holds, added up while it is written.

    Attributes:
        models: Completed jobs by model and revision (empty where there is none).
        audio_s: Seconds of audio that they made or read, by kind.
        missing: Completed jobs without what was asked for,
        lacked: which is this, in words.
        copied: Files that were written by this run.
        kept: Files that an earlier run had written already.
        warnings: Sentences about what somebody who uses the export should know.
    """

    completed: int = 0
    failed: int = 0
    unfinished: int = 0
    missing: int = 0
    copied: int = 0
    kept: int = 0
    bytes: int = 0
    models: Counter[tuple[str, str]] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    audio_s: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    first_at: float | None = None
    last_at: float | None = None
    lacked: str = "no file of that role; see --role"
    warnings: tuple[str, ...] = ()

    def complete(self, job: JobView) -> None:
        """Count a completed job."""
        self.completed += 1
        self.models[job.model, job.model_revision or ""] += 1
        self.kinds[job.kind] += 1
        language = job.args.get("language")
        if isinstance(language, str) and language:
            self.languages[language] += 1
        seconds = (job.metrics or {}).get("audio_s")
        if isinstance(seconds, float | int):
            self.audio_s[job.kind] += seconds
        if job.finished_at is not None:
            self.first_at = min(self.first_at or job.finished_at, job.finished_at)
            self.last_at = max(self.last_at or job.finished_at, job.finished_at)

    @property
    def total_s(self) -> float:
        return sum(self.audio_s.values())


def written(batch: str, found: Contents, shape: Shape, catalog: Catalog) -> str:
    """The text of the card."""
    text = "\n".join(
        [
            *_front(found),
            f"# {_plain(batch) or 'Jobs without a batch'}",
            "",
            f"{found.completed} jobs, {found.total_s / 3600:.2f} hours of audio, made with Soundmill "
            f"{version('soundmill')}{_dates(found)}.",
            "",
            *_table(("kind", "jobs", "hours of audio"), [
                (kind, count, f"{found.audio_s[kind] / 3600:.3f}") for kind, count in sorted(found.kinds.items())
            ]),
            *_section("Models"),
            *_table(("model", "revision", "licence", "jobs"), [
                (model, revision or "–", _licence(model, catalog), count)
                for (model, revision), count in sorted(found.models.items())
            ]),
            "The licence is that of a model's weights or engine. Look there for what it asks of those who",
            "pass on what the model made; the texts and recordings that went in have licences of their own.",
            *_section("Languages"),
            *_table(("language", "jobs"), sorted(found.languages.items())),
            *_section("How it was made"),
            f"`soundmill batch export` wrote it on {_date(time.time())} from the batch of that name. "
            f"{_NOTES[shape]}",
            "Times are seconds since 1970 (UTC), durations seconds. `failures.jsonl` has the jobs that",
            f"did not complete ({found.failed}){_unfinished(found)}.",
            *(["", "Mind before a training:", "", *(f"- {_plain(words)}" for words in found.warnings)]
              if found.warnings else []),
            *(["", *_table(("error code", "jobs"), found.failures.most_common())] if found.failures else []),
            "",
        ]
    )  # fmt: skip
    return re.sub(r"\n{3,}", "\n\n", text)


def _front(found: Contents) -> list[str]:
    """The front matter by which hubs sort data sets."""
    languages = sorted({re.split(r"[-_]", language)[0] for language in found.languages})
    safe = [language for language in languages if re.fullmatch(r"[a-z]{2,3}", language)]
    tasks = {
        "tts": "text-to-speech",
        "align": "automatic-speech-recognition",
        "caption": "audio-classification",
    }
    return [
        "---",
        *(["language:", *(f"  - {language}" for language in safe)] if safe else []),
        *(["task_categories:", *(f"  - {tasks[k]}" for k in sorted(found.kinds) if k in tasks)]
          if found.kinds.keys() & tasks.keys() else []),
        "tags:",
        "  - soundmill",
        "  - synthetic" if found.kinds["tts"] else "  - audio",
        "---",
        "",
    ]  # fmt: skip


def _section(title: str) -> list[str]:
    return ["", f"## {title}", ""]


def _table(columns: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> list[str]:
    if not rows:
        return ["None stated.", ""]
    lines = [columns, tuple("---" for _ in columns), *rows]
    return [*(f"| {' | '.join(_plain(str(cell)) for cell in line)} |" for line in lines), ""]


def _licence(model: str, catalog: Catalog) -> str:
    return next((entry.licence for entry in catalog if entry.id == model), "not in the catalogue any more")


def _dates(found: Contents) -> str:
    if found.first_at is None or found.last_at is None:
        return ""
    first, last = _date(found.first_at), _date(found.last_at)
    return f" on {first}" if first == last else f" from {first} to {last}"


def _date(at: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(at))


def _unfinished(found: Contents) -> str:
    return f"; {found.unfinished} more were not final yet" if found.unfinished else ""


def _plain(text: str) -> str:
    """A text in which Markdown and HTML see nothing of theirs, on one line."""
    one_line = "".join(letter if letter.isprintable() else " " for letter in text)
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", one_line).strip() if one_line != "---" else one_line
