"""The files of an alignment: for programs (JSON, CTM, TSV), for editors (TextGrid, Audacity's labels), for viewers.

Only JSON holds everything. CTM has a line for each word that is spoken; TSV and labels have one for each word, or
for each sentence where these were asked for; TextGrid has an interval, in a tier for each size of parts; subtitles
hold the words of a cue together.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from praatio import textgrid

from .alignment import AlignedWord, Alignment
from .handler import OutputFile
from .karaoke import as_ass
from .picture import draw
from .subtitles import as_srt, as_vtt

_Writer = Callable[[Path, Alignment, Path], None]
"""Takes where to write to, the alignment, and the recording."""

_LEFT_OUT = {"language", "licence", "romanized", "segments", "characters", "minutes", "doubtful"}
_FORMULA = re.compile(r"'*[=+\-@\uff1d\uff0b\uff0d\uff20]")
_LONG_TEXT = 65_536  # characters; more is not sent from one process to another
_CTM_FILE, _CTM_CHANNEL = "audio", "1"  # a job knows no name of its recording


def write_files(
    folder: Path, alignment: Alignment, formats: Collection[str], audio: Path
) -> tuple[OutputFile, ...]:
    """Write the alignment of a recording into `folder`, in each of the `formats`, which are names of `FORMATS`.

    Raises:
        ModelUnavailable: A picture is asked for, and there is no matplotlib.
    """
    files, texts = prepare_files(folder, alignment, formats, audio)
    for path, text in texts.items():
        write_text(path, text)
    return files


def prepare_files(
    folder: Path, alignment: Alignment, formats: Collection[str], audio: Path
) -> tuple[tuple[OutputFile, ...], dict[Path, str]]:
    """The same, but leave short texts to the caller: a helper that waits for the disk holds up everybody's work.

    Returns:
        The files, and the texts of those that are still to be written, with `write_text`.

    Raises:
        ModelUnavailable: As `write_files`.
    """
    files: list[OutputFile] = []
    texts: dict[Path, str] = {}
    for form in (form for name, form in FORMATS.items() if name in formats):
        path = folder / f"alignment.{form.ending}"
        text = form.write.render(alignment) if isinstance(form.write, _Text) else None
        if text is None:
            form.write(path, alignment, audio)
        elif len(text) > _LONG_TEXT:
            write_text(path, text)
        else:
            texts[path] = text
        files.append(OutputFile(name=path.name, path=path, media_type=form.media_type, role=form.role))
    return tuple(files), texts


def write_text(path: Path, text: str) -> None:
    """Write a file of an alignment."""
    path.write_text(text, encoding="utf-8", newline="\n")


def as_json(alignment: Alignment) -> str:
    """Every field, but for what the model does not know."""
    return json.dumps(asdict(alignment, dict_factory=_known), ensure_ascii=False, allow_nan=False)


def as_ctm(alignment: Alignment) -> str:
    """NIST's time marks: file, channel, start and length in seconds, word, confidence from 0 to 1."""
    return "".join(
        f"{_CTM_FILE} {_CTM_CHANNEL} {_ms(word.start_s) / 1000:.3f} "
        f"{(_ms(word.end_s) - _ms(word.start_s)) / 1000:.3f} {word.text} "
        f"{math.exp(min(word.score, 0)) if alignment.log_scores else word.score:.4f}\n"
        for word in alignment.words
        if word.aligned
    )


def as_tsv(alignment: Alignment) -> str:
    """Start and end in whole milliseconds, and the text, under the headings of Whisper's TSV.

    A text that a spreadsheet would take for a formula has an apostrophe before it, and so has one that begins
    with apostrophes before such a character: one less, and it is as it was.
    """
    rows = (f"{_ms(unit.start_s)}\t{_ms(unit.end_s)}\t{_cell(_line(unit))}\n" for unit in alignment.units)
    return "start\tend\ttext\n" + "".join(rows)


def as_labels(alignment: Alignment) -> str:
    """A label track of Audacity's: start and end in seconds, and the text; a point where nothing is spoken."""
    return "".join(f"{unit.start_s:.6f}\t{unit.end_s:.6f}\t{_line(unit)}\n" for unit in alignment.units)


def write_textgrid(path: Path, alignment: Alignment, *, format: str) -> None:
    """Interval tiers in a text format of Praat's, with empty labels between the words.

    There is a tier of words, and one of sentences and of characters where the alignment has them. An interval
    cannot be empty: a word with an empty span is written behind the word before it (or before the first word), in
    the same label.

    Args:
        format: `long_textgrid` or `short_textgrid`.
    """
    grid = textgrid.Textgrid(0, alignment.duration_s)
    for name in ("segments", "words", "characters"):
        parts: Sequence[AlignedWord] = getattr(alignment, name)
        if parts or name == "words":
            grid.addTier(textgrid.IntervalTier(name, _intervals(parts), 0, alignment.duration_s))
    grid.save(str(path), format=format, includeBlankSpaces=True)


def _intervals(words: Sequence[AlignedWord]) -> list[tuple[float, float, str]]:
    intervals: list[tuple[float, float, str]] = []
    waiting = ""
    for word in words:
        if word.end_s > word.start_s:
            intervals.append((word.start_s, word.end_s, waiting + _line(word)))
            waiting = ""
        elif intervals:
            start_s, end_s, label = intervals[-1]
            intervals[-1] = (start_s, end_s, f"{label} {_line(word)}")
        else:
            waiting += _line(word) + " "
    return intervals


def _known(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in fields if name not in _LEFT_OUT or value not in (None, ())}


def _line(unit: AlignedWord) -> str:
    """The text on one line and in one column: a sentence may have line breaks and tabs in it."""
    return " ".join(unit.text.split())


def _cell(text: str) -> str:
    return f"'{text}" if _FORMULA.match(text) else text


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


@dataclass(frozen=True, slots=True)
class _Text:
    """A writer of a format that is text."""

    render: Callable[[Alignment], str]

    def __call__(self, path: Path, alignment: Alignment, _: Path) -> None:
        write_text(path, self.render(alignment))


def _textgrid(format: str) -> _Writer:
    return lambda path, alignment, _: write_textgrid(path, alignment, format=format)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Format:
    ending: str
    media_type: str
    role: str
    write: _Writer


FORMATS = {
    "json": _Format(ending="json", media_type="application/json", role="alignment", write=_Text(as_json)),
    "textgrid": _Format(
        ending="TextGrid",
        media_type="text/x-praat-textgrid",
        role="textgrid",
        write=_textgrid("long_textgrid"),
    ),
    "textgrid-short": _Format(
        ending="short.TextGrid",
        media_type="text/x-praat-textgrid",
        role="textgrid-short",
        write=_textgrid("short_textgrid"),
    ),
    "srt": _Format(ending="srt", media_type="application/x-subrip", role="srt", write=_Text(as_srt)),
    "vtt": _Format(ending="vtt", media_type="text/vtt", role="vtt", write=_Text(as_vtt)),
    "ass": _Format(ending="ass", media_type="text/x-ssa", role="ass", write=_Text(as_ass)),
    "ctm": _Format(ending="ctm", media_type="text/plain", role="ctm", write=_Text(as_ctm)),
    "tsv": _Format(ending="tsv", media_type="text/tab-separated-values", role="tsv", write=_Text(as_tsv)),
    "audacity": _Format(
        ending="labels.txt", media_type="text/plain", role="audacity", write=_Text(as_labels)
    ),
    "png": _Format(ending="png", media_type="image/png", role="picture", write=draw),
}
