"""Text to speech by eSpeak NG: small, quick, over a hundred languages, no weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .audio import MEDIA_TYPES, AudioWriter
from .errors import InputError, ModelUnavailable
from .espeak import SAMPLE_RATE_HZ, Espeak, Manner
from .handler import Output, OutputFile, Run
from .place import Place
from .words import Mark, Span, Word, speakable, split_words, time_words

_FULL_SCALE = np.float32(32768)  # int16 to [-1, 1)
_WRITE_BLOCK = 5 * SAMPLE_RATE_HZ  # Opus, the slowest encoder, takes a sixth of a second for it


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A text to speak.

    Attributes:
        voice: A variant of eSpeak (`f2`, `whisper`, …), or `None` for the language's own voice.
        speed: A factor on 175 words a minute.
        pitch: 0 to 99.
        sample_rate: Hertz; eSpeak's own 22050 is resampled to it.
        format: `wav`, `flac`, `mp3` or `opus`.
        word_times: Whether to write `words.json`.
    """

    text: str
    language: str
    voice: str | None
    speed: float
    pitch: int
    sample_rate: int
    format: str
    word_times: bool


class EspeakNg:
    """The handler of `espeak-ng`."""

    request = Request
    slots = 4

    def __init__(self) -> None:
        self._espeak: Espeak | None = None

    def load(self, place: Place) -> None:
        """Start eSpeak NG; the card makes no difference to it."""
        self._espeak = Espeak(speakers=self.slots)

    def close(self) -> None:
        if self._espeak is not None:
            self._espeak.close()
            self._espeak = None

    def perform(self, request: Request, run: Run) -> Output:
        """Write `audio.<format>` and, if wanted, `words.json`.

        Raises:
            InputError: The language or voice is unknown, or nothing in the text can be said.
        """
        path = run.scratch / f"audio.{request.format}"
        with run.phase("generation"):
            marks, spoken_samples, audio = self._speak(request, run, path)
        files = [OutputFile(name=path.name, path=path, media_type=MEDIA_TYPES[request.format], role="audio")]
        words = split_words(speakable(request.text))
        if request.word_times:
            spans = time_words(words, marks, spoken_samples)
            with run.phase("write"):
                files.append(_write_words(run.scratch / "words.json", words, spans, audio))
        return Output(
            result={"audio": {"name": path.name, **audio}, "words": len(words)},
            files=tuple(files),
            metrics={"audio_s": audio["duration_s"], "characters": len(request.text)},
        )

    def _speak(self, request: Request, run: Run, path: Path) -> tuple[list[Mark], int, dict[str, Any]]:
        """Stream the speech into `path`; its marks and length count in eSpeak's own samples."""
        if self._espeak is None:
            raise ModelUnavailable("espeak-ng was not loaded")
        manner = Manner(
            language=request.language, variant=request.voice, speed=request.speed, pitch=request.pitch
        )
        marks: list[Mark] = []
        done = 0
        peak = 0
        with AudioWriter(
            path, format=request.format, from_hz=SAMPLE_RATE_HZ, sample_rate=request.sample_rate
        ) as writer:
            for spoken in self._espeak.speak(request.text, manner, run.checkpoint):
                if request.word_times:
                    marks += (mark.later(done) for mark in spoken.marks)
                done += len(spoken.samples)
                peak = max(peak, int(np.abs(spoken.samples.astype(np.int32)).max(initial=0)))
                for start in range(0, len(spoken.samples), _WRITE_BLOCK):
                    block = spoken.samples[start : start + _WRITE_BLOCK]
                    writer.write(block.astype(np.float32) / _FULL_SCALE)
                    run.checkpoint()
        if peak == 0:
            raise InputError(f"eSpeak NG finds nothing to say in this text in {request.language!r}")
        run.checkpoint(1.0)
        return (
            marks,
            done,
            {
                "duration_s": writer.duration_s,
                "sample_rate": request.sample_rate,
                "channels": 1,
            },
        )


def _write_words(
    path: Path, words: Sequence[Word], spans: Sequence[Span], audio: dict[str, Any]
) -> OutputFile:
    duration_s = audio["duration_s"]
    entries = [
        {
            "text": word.text,
            "start_s": _within(span.start, duration_s),
            "end_s": _within(span.end, duration_s),
            "char_start": word.char_start,
            "char_end": word.char_end,
            "spoken": span.spoken,
        }
        for word, span in zip(words, spans, strict=True)
    ]
    content = {"sample_rate": audio["sample_rate"], "duration_s": duration_s, "words": entries}
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return OutputFile(name=path.name, path=path, media_type="application/json", role="words")


def _within(samples: int, duration_s: float) -> float:
    # Resampling rounds the length: the last word may otherwise end half a sample behind the audio.
    return min(round(samples / SAMPLE_RATE_HZ, 6), duration_s)
