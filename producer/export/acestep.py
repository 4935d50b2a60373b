"""A data set for the training of ACE-Step 1.5: its JSON, the CSV beside the audio, and the lyrics files.

    DIR/0000/<name>.wav …     the audio that was captioned
    DIR/0000/<name>.txt       its lyrics, where a transcript was made
    DIR/captions.csv          File, BPM, Key, Caption; a file by its bare name, unique in the whole export
    DIR/dataset.json          the data set with all its fields

The formats are those of 2026-02-08; a caption that a spreadsheet would compute has an apostrophe before it in
the CSV, and is as it was made in the JSON (see `cells.py`). All jobs of the batch that heard the same audio make one sample: the
caption comes from one that describes, lyrics and language from one that transcribes, tempo and key from
one that measures.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, TextIO

from .cells import cell

if TYPE_CHECKING:
    from soundmill.storage.listing import JobView

    from .target import Target

MAX_CAPTION_TOKENS = 256
MAX_LYRICS_TOKENS = 512
EXTENSIONS = frozenset({".wav", ".mp3", ".flac", ".ogg", ".opus"})
INSTRUMENTAL = "[Instrumental]"

_COLUMNS = ("File", "BPM", "Key", "Caption")
_HEADING = re.compile(r"^#+ *(languages?|lyrics) *:?[ \t]*$", re.IGNORECASE | re.MULTILINE)
_CHARS_PER_TOKEN = 4  # of Latin text; other letters count as a token each


@dataclass(frozen=True, slots=True, kw_only=True)
class Length:
    """How many tokens a text has.

    Attributes:
        estimated: Whether nobody counted them.
    """

    tokens: int
    estimated: bool


@dataclass(slots=True, kw_only=True)
class Sample:
    """One audio file and what the jobs of the batch found out about it."""

    audio_path: str
    caption: str = ""
    measured: bool = False  # the caption was made of measures, and gives way to one of a model
    lyrics: str | None = None
    language: str = "unknown"
    bpm: int | None = None
    key: str = ""
    duration_s: float = 0.0

    @property
    def filename(self) -> str:
        return PurePosixPath(self.audio_path).name

    @property
    def instrumental(self) -> bool:
        return self.lyrics is None or self.lyrics == INSTRUMENTAL


@dataclass(slots=True, kw_only=True)
class Warnings:
    """What a training would do silently.

    Attributes:
        long_captions: Captions beyond `MAX_CAPTION_TOKENS`, which it cuts there.
        long_lyrics: Lyrics beyond `MAX_LYRICS_TOKENS`.
        estimated: Of the two above, those whose tokens are estimated.
        without_transcript: Samples that pass for instrumental, as no job transcribed them.
        without_caption: Samples that were transcribed only.
        unread: Files of formats that it does not look for, by extension.
    """

    long_captions: int = 0
    long_lyrics: int = 0
    estimated: int = 0
    without_transcript: int = 0
    without_caption: int = 0
    unread: Counter[str]

    def sentences(self) -> list[str]:
        """What there is to say, a sentence each."""
        estimated = f" ({self.estimated} of these counts are estimated)" if self.estimated else ""
        files = ", ".join(f"{count} {ending}" for ending, count in sorted(self.unread.items()))
        found = [
            (self.long_captions, f"captions exceed {MAX_CAPTION_TOKENS} tokens and will be cut there{estimated}"),
            (self.long_lyrics, f"lyrics exceed {MAX_LYRICS_TOKENS} tokens and will be cut there"),
            (self.without_transcript, "samples have no transcript and pass for instrumental; caption them again "
             "with task=transcribe in the same batch"),
            (self.without_caption, "samples have a transcript but no caption"),
            (self.unread.total(), f"files are of a format that ACE-Step does not look for ({files}) and are "
             "left out of the data set"),
        ]  # fmt: skip
        return [f"{count} {words}" for count, words in found if count]


class Dataset:
    """Collects the samples of a batch, in the order of its jobs."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._samples: dict[str, Sample] = {}
        self._places: dict[str, tuple[str, str]] = {}
        self.warnings = Warnings(unread=Counter())

    def __len__(self) -> int:
        return len(self._samples)

    def __contains__(self, sha256: str) -> bool:
        return sha256 in self._samples

    def place(self, sha256: str, folder: str, stem: str) -> tuple[str, str]:
        """The folder and the stem of an audio file: those of the first job that names it, whatever its state."""
        return self._places.setdefault(sha256, (folder, stem))

    def path(self, sha256: str) -> str:
        """Where the audio of a sample lies in the export."""
        return self._samples[sha256].audio_path

    def begin(self, sha256: str, audio_path: str) -> None:
        """Take up an audio file by its path in the export."""
        self._samples[sha256] = Sample(audio_path=audio_path)

    def learn(self, sha256: str, job: JobView) -> dict[str, Any]:
        """Add what a job found out; return what its line in metadata.jsonl says about it."""
        sample, result = self._samples[sha256], job.result or {}
        text = str(result.get("caption") or "")
        duration = (job.metrics or {}).get("audio_s")
        sample.duration_s = float(duration) if isinstance(duration, int | float) else sample.duration_s
        _measure(sample, result)
        length = length_of(text, result)
        transcript = is_transcript(job.args, text)
        if transcript and sample.lyrics is None:
            language, sample.lyrics = read_transcript(text)
            sample.language = language or sample.language
        elif not transcript and (not sample.caption or sample.measured):
            sample.caption, sample.measured = text, "tempo" in result
        cut = length.tokens > (MAX_LYRICS_TOKENS if transcript else MAX_CAPTION_TOKENS)
        self.warnings.long_lyrics += cut and transcript
        self.warnings.long_captions += cut and not transcript
        self.warnings.estimated += cut and length.estimated
        return {"tokens": length.tokens, "tokens_estimated": length.estimated, "cut_by_training": cut}

    def write(self, target: Target) -> None:
        """Write the JSON, the CSV and the lyrics.

        Raises:
            NotSaved: A file could not be written.
        """
        samples = list(self._samples.values())
        self.warnings.without_transcript = sum(sample.lyrics is None for sample in samples)
        self.warnings.without_caption = sum(not sample.caption for sample in samples)
        for sample in samples:
            if sample.lyrics is not None:
                target.write(str(PurePosixPath(sample.audio_path).with_suffix(".txt")), sample.lyrics + "\n")
        with target.text("captions.csv") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(_COLUMNS)
            rows.writerows(
                (
                    one.filename,
                    "" if one.bpm is None else one.bpm,
                    cell(one.key),
                    cell(_one_line(one.caption)),
                )
                for one in samples
            )
        with target.text("dataset.json") as file:
            self._write_json(file, target, samples)

    def _write_json(self, file: TextIO, target: Target, samples: list[Sample]) -> None:
        metadata = {
            "name": self._name,
            "custom_tag": "",
            "tag_position": "prepend",
            "created_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "num_samples": len(samples),
            "all_instrumental": all(sample.instrumental for sample in samples),
            "genre_ratio": 0,
        }
        file.write(f'{{"metadata": {json.dumps(metadata, ensure_ascii=False)},\n"samples": [')
        taken: set[str] = set()
        for place, (sha256, sample) in enumerate(self._samples.items()):
            entry = _entry(_short_id(sha256, taken), sample, str(target.root.absolute() / sample.audio_path))
            file.write((",\n" if place else "\n") + json.dumps(entry, ensure_ascii=False))
        file.write("\n]}\n")


def length_of(text: str, result: Mapping[str, Any]) -> Length:
    """The tokens of a caption: as the job counted them, else an estimate that rather says too many."""
    tokens = result.get("tokens")
    counted = tokens.get("caption") if isinstance(tokens, Mapping) else None
    if isinstance(counted, int):
        return Length(tokens=counted, estimated=False)
    latin = sum(letter.isascii() for letter in text)
    return Length(tokens=-(-latin // _CHARS_PER_TOKEN) + len(text) - latin, estimated=True)


def is_transcript(args: Mapping[str, Any], text: str) -> bool:
    """Whether a caption is what is sung: it was asked for so, or has a heading that says so."""
    asked = args.get("task") == "transcribe" and args.get("prompt") is None
    return asked or any(match[1].lower() == "lyrics" for match in _HEADING.finditer(text))


def read_transcript(text: str) -> tuple[str, str]:
    """The first language and the lyrics of a transcript with the headings `# Languages` and `# Lyrics`.

    Without headings all of it is lyrics. Empty lyrics are those of an instrumental.
    """
    parts = {"": text.strip()}
    marks = list(_HEADING.finditer(text))
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    for mark, end in zip(marks, ends, strict=False):
        name = mark[1].lower().removesuffix("s")  # `lyric` too
        content = text[mark.end() : end].strip()
        parts[name] = "\n\n".join(filter(None, [parts.get(name, ""), content]))
    lyrics = parts.get("lyric", "" if marks else parts[""])
    language = re.split(r"[\s,;]", parts.get("language", "").lower(), maxsplit=1)[0]
    return language, lyrics or INSTRUMENTAL


def _measure(sample: Sample, result: Mapping[str, Any]) -> None:
    tempo, key = result.get("tempo"), result.get("key")
    if isinstance(tempo, Mapping) and isinstance(tempo.get("bpm"), int | float):
        sample.bpm = round(tempo["bpm"])
    if isinstance(key, Mapping) and isinstance(key.get("name"), str):
        sample.key = key["name"]


def _entry(identity: str, sample: Sample, audio_path: str) -> dict[str, Any]:
    lyrics = sample.lyrics or INSTRUMENTAL
    return {
        "id": identity,
        "audio_path": audio_path,
        "filename": sample.filename,
        "caption": sample.caption,
        "genre": "",
        "lyrics": lyrics,
        "raw_lyrics": "" if sample.instrumental else lyrics,
        "formatted_lyrics": "",
        "bpm": sample.bpm,
        "keyscale": sample.key,
        "timesignature": "",
        "duration": round(sample.duration_s),
        "language": sample.language,
        "is_instrumental": sample.instrumental,
        "custom_tag": "",
        "labeled": bool(sample.caption),
        "prompt_override": None,
    }


def _short_id(sha256: str, taken: set[str]) -> str:
    """Eight hexadecimal digits, unique among `taken`, which they join."""
    found = sha256[:8]
    while found in taken:
        sha256 = hashlib.sha256(sha256.encode()).hexdigest()
        found = sha256[:8]
    taken.add(found)
    return found


def _one_line(text: str) -> str:
    return " ".join(text.split())


def is_looked_for(name: str) -> bool:
    """Whether a training looks for a file of this name."""
    return PurePosixPath(name).suffix.lower() in EXTENSIONS
