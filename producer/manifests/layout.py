"""The formats of manifests.

| format        | a line                                             | told by                        |
|---------------|----------------------------------------------------|--------------------------------|
| `jsonl`       | our own object: the job's keys and its arguments   | any other object               |
| `csv`, `tsv`  | cells under a header of our own keys               | a header with known names      |
| `nemo`        | `{"audio_filepath", "duration", "text", …}`        | the key `audio_filepath`       |
| `audiofolder` | `file_name` and columns, as JSON Lines or CSV/TSV  | `file_name`                    |
| `moss`        | `{"name", "role", "text"}`, role: reference audio  | these three keys               |
| `ljspeech`    | `id|raw|normalised`, no header, audio in `wavs/`   | two or three cells, no header  |
| `seed-tts`    | `id|ref_text|ref_wav|text`, no header              | four or five cells, no header  |

The separator of a file with a header is the one of `, ; tab |` that its header has most of.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Format(StrEnum):
    """How a manifest is written. The value is what `--format` takes."""

    JSONL = "jsonl"
    CSV = "csv"
    TSV = "tsv"
    NEMO = "nemo"
    AUDIOFOLDER = "audiofolder"
    MOSS = "moss"
    LJSPEECH = "ljspeech"
    SEED_TTS = "seed-tts"


NAMES = {
    Format.LJSPEECH: ("id", "raw", "normalised"),
    Format.SEED_TTS: ("id", "ref_text", "ref_wav", "text", "wav"),
}
"""The columns of the formats without a header."""

FEWEST_CELLS = {Format.LJSPEECH: 2, Format.SEED_TTS: 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How one file is to be read.

    Attributes:
        separator: Between the cells; `None` for JSON Lines.
    """

    format: Format
    separator: str | None = None

    @property
    def names(self) -> tuple[str, ...] | None:
        """The columns, where the file has no header."""
        return NAMES.get(self.format)


OWN = Layout(format=Format.JSONL)
