"""The files of an alignment, for programs (JSON, CTM, TSV), for Praat (TextGrid), and for viewers (SRT, VTT).

Only JSON holds everything. CTM has a line for each word that is spoken, TSV for each word, TextGrid an
interval; subtitles hold the words of a cue together.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from praatio import textgrid

from .alignment import AlignedWord, Alignment
from .handler import OutputFile
from .subtitles import as_srt, as_vtt

_TIER = "words"
_CTM_FILE, _CTM_CHANNEL = "audio", "1"  # a job knows no name of its recording


def write_files(folder: Path, alignment: Alignment, formats: Collection[str]) -> tuple[OutputFile, ...]:
    """Write the alignment into `folder`, in each of the `formats`, which are names of `FORMATS`."""
    return tuple(_write(folder, alignment, form) for name, form in FORMATS.items() if name in formats)


def as_json(alignment: Alignment) -> str:
    return json.dumps(asdict(alignment), ensure_ascii=False, allow_nan=False)


def as_ctm(alignment: Alignment) -> str:
    """NIST's time marks: file, channel, start and length in seconds, word, score."""
    return "".join(
        f"{_CTM_FILE} {_CTM_CHANNEL} {_ms(word.start_s) / 1000:.3f} "
        f"{(_ms(word.end_s) - _ms(word.start_s)) / 1000:.3f} {word.text} {word.score:.4f}\n"
        for word in alignment.words
        if word.aligned
    )


def as_tsv(alignment: Alignment) -> str:
    """Start and end in whole milliseconds, and the word, under the headings of Whisper's TSV."""
    rows = (f"{_ms(word.start_s)}\t{_ms(word.end_s)}\t{word.text}\n" for word in alignment.words)
    return "start\tend\ttext\n" + "".join(rows)


def write_textgrid(path: Path, alignment: Alignment) -> None:
    """One interval tier in Praat's long text format, with empty labels between the words.

    An interval cannot be empty: a word with an empty span is written behind the word before it (or before
    the first word), in the same label.
    """
    tier = textgrid.IntervalTier(_TIER, _intervals(alignment.words), 0, alignment.duration_s)
    grid = textgrid.Textgrid(0, alignment.duration_s)
    grid.addTier(tier)
    grid.save(str(path), format="long_textgrid", includeBlankSpaces=True)


def _intervals(words: Sequence[AlignedWord]) -> list[tuple[float, float, str]]:
    intervals: list[tuple[float, float, str]] = []
    waiting = ""
    for word in words:
        if word.end_s > word.start_s:
            intervals.append((word.start_s, word.end_s, waiting + word.text))
            waiting = ""
        elif intervals:
            start_s, end_s, label = intervals[-1]
            intervals[-1] = (start_s, end_s, f"{label} {word.text}")
        else:
            waiting += word.text + " "
    return intervals


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _text(render: Callable[[Alignment], str]) -> Callable[[Path, Alignment], None]:
    def write(path: Path, alignment: Alignment) -> None:
        path.write_text(render(alignment), encoding="utf-8", newline="\n")

    return write


def _write(folder: Path, alignment: Alignment, form: _Format) -> OutputFile:
    path = folder / f"alignment.{form.ending}"
    form.write(path, alignment)
    return OutputFile(name=path.name, path=path, media_type=form.media_type, role=form.role)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Format:
    ending: str
    media_type: str
    role: str
    write: Callable[[Path, Alignment], None]


FORMATS = {
    "json": _Format(ending="json", media_type="application/json", role="alignment", write=_text(as_json)),
    "textgrid": _Format(
        ending="TextGrid", media_type="text/x-praat-textgrid", role="textgrid", write=write_textgrid
    ),
    "srt": _Format(ending="srt", media_type="application/x-subrip", role="srt", write=_text(as_srt)),
    "vtt": _Format(ending="vtt", media_type="text/vtt", role="vtt", write=_text(as_vtt)),
    "ctm": _Format(ending="ctm", media_type="text/plain", role="ctm", write=_text(as_ctm)),
    "tsv": _Format(ending="tsv", media_type="text/tab-separated-values", role="tsv", write=_text(as_tsv)),
}
