"""A picture of an alignment: waveform and spectrogram of the recording, row by row, with the words on it.

`python -m soundmill.models.picture ALIGNMENT.json AUDIO OUT.png` draws one outside of a worker.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .alignment import AlignedWord, Alignment
from .audio import Samples, mono_blocks
from .errors import ModelError, ModelUnavailable

SAMPLE_RATE_HZ = 16000
ROW_S = 10.0
MOST_ROWS = 30  # of a long recording each has more seconds
LEGIBLE_S = 30.0  # in longer rows words would cover one another

_WIDTH_IN, _ROW_IN = 16.0, 2.6
_DPI = 100
_WINDOW, _COLUMNS = 512, 1200
_FLOOR_DB = -80.0


def draw(path: Path, alignment: Alignment, audio: Path) -> None:
    """Draw the alignment of a recording into a PNG file.

    Raises:
        ModelUnavailable: There is no matplotlib.
        InputError: The recording cannot be read.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ModelUnavailable(
            "a picture needs matplotlib: pip install 'soundmill[plot]', or leave png out of the outputs"
        ) from error
    count, row_s = _rows(alignment.duration_s)
    figure = Figure(figsize=(_WIDTH_IN, _ROW_IN * count + 0.4), dpi=_DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    grid = figure.subplots(2 * count, 1, squeeze=False, height_ratios=[2, 1] * count)[:, 0]
    figure.suptitle(f"{alignment.model}, {alignment.duration_s:.2f} s", fontsize=9)
    legible = _Legible()
    for index, sound in enumerate(_cut(audio, row_s, count)):
        words = [word for word in alignment.words if index * row_s <= word.start_s < (index + 1) * row_s]
        _draw_row(grid[2 * index], grid[2 * index + 1], sound, index * row_s, row_s)
        if row_s <= LEGIBLE_S:
            _draw_words(grid[2 * index], words, legible)
    canvas.print_png(path)


def _rows(duration_s: float) -> tuple[int, float]:
    row_s = max(min(ROW_S, duration_s), duration_s / MOST_ROWS, 0.1)
    return max(1, -int(-duration_s // row_s)), row_s


def _cut(audio: Path, row_s: float, count: int) -> Iterator[Samples]:
    """The recording in rows, one of them in memory at a time."""
    size = round(row_s * SAMPLE_RATE_HZ)
    held = np.zeros(0, np.float32)
    given = 0
    for block in mono_blocks(audio, sample_rate=SAMPLE_RATE_HZ):
        held = np.concatenate([held, block])
        while len(held) >= size and given < count - 1:
            yield held[:size]
            held = held[size:]
            given += 1
    yield held[:size]


def _draw_row(wave: Any, spectrum: Any, sound: Samples, start_s: float, row_s: float) -> None:
    end_s = start_s + len(sound) / SAMPLE_RATE_HZ
    low, high = _envelope(sound)
    if len(low):
        times = np.linspace(start_s, end_s, len(low))
        wave.fill_between(times, low, high, color="tab:blue", linewidth=0)
        spectrum.imshow(
            _spectrogram(sound),
            origin="lower",
            aspect="auto",
            cmap="magma",
            vmin=_FLOOR_DB,
            vmax=0,
            extent=(start_s, end_s, 0, SAMPLE_RATE_HZ / 2000),
        )
    for axes in (wave, spectrum):
        axes.set_xlim(start_s, start_s + row_s)
        axes.tick_params(labelsize=6)
    wave.set_ylim(-1, 1.6)  # words stand above the loudest sample
    wave.set_yticks([])
    spectrum.set_ylabel("kHz", fontsize=6)


def _draw_words(wave: Any, words: Sequence[AlignedWord], legible: _Legible) -> None:
    for index, word in enumerate(words):
        if word.aligned:
            wave.axvspan(word.start_s, word.end_s, color="tab:orange", alpha=0.15, linewidth=0)
            wave.axvline(word.start_s, color="tab:orange", linewidth=0.5)
        wave.text(
            (word.start_s + word.end_s) / 2,
            1.08 + 0.26 * (index % 2),
            legible.text(word),
            fontsize=7,
            ha="center",
            va="bottom",
            color="black" if word.aligned else "gray",
            clip_on=True,
            parse_math=False,
        )


class _Legible:
    """What the font can show of a word: its text, or else its romanised form."""

    def __init__(self) -> None:
        from matplotlib.font_manager import FontProperties, findfont, get_font

        self._known = frozenset(get_font(findfont(FontProperties(size=7))).get_charmap())

    def text(self, word: AlignedWord) -> str:
        if all(ord(letter) in self._known for letter in word.text):
            return word.text
        shown = "".join(letter if ord(letter) in self._known else "" for letter in word.text)
        return word.romanized or shown or "·"


def _envelope(sound: Samples) -> tuple[Samples, Samples]:
    """The lowest and the highest sample of each column."""
    step = max(1, len(sound) // _COLUMNS)
    usable = len(sound) // step * step
    columns = sound[:usable].reshape(-1, step)
    return (columns.min(axis=1), columns.max(axis=1)) if usable else (sound[:0], sound[:0])


def _spectrogram(sound: Samples) -> npt.NDArray[np.float32]:
    """[frequencies, columns] in dB below the loudest."""
    padded = np.pad(sound, (0, max(0, _WINDOW - len(sound))))
    step = max(_WINDOW // 4, (len(padded) - _WINDOW) // _COLUMNS)
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::step]
    power = np.abs(np.fft.rfft(frames * np.hanning(_WINDOW), axis=1)) ** 2
    loudest = max(float(power.max(initial=0)), 1e-12)
    return np.asarray(10 * np.log10(np.maximum(power / loudest, 1e-12)).T, np.float32)


def main(argv: list[str] | None = None) -> int:
    """Draw a picture from files; return the exit status."""
    parser = argparse.ArgumentParser(prog="soundmill.models.picture", description=__doc__)
    for name in ("alignment", "audio", "out"):
        parser.add_argument(name, type=Path)
    options = parser.parse_args(argv)
    fields = json.loads(options.alignment.read_text(encoding="utf-8"))
    fields["words"] = [AlignedWord(**word) for word in fields["words"]]
    try:
        draw(options.out, Alignment(**fields), options.audio)
    except ModelError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
