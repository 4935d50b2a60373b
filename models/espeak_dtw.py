"""Word alignment without a trained model: the recording is warped onto eSpeak's rendering of its text.

The rendering's word times are known. Its words (without its pauses) and the recording become normalised
cepstra; `warp.best_path` finds which frame of the recording says which word, with pauses wherever the
recording has them. Levels and noise of the two are matched before they are compared: the noise floor of
the recording is added to the rendering.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soxr

from . import warp
from .alignment import AlignedWord, write_json, write_textgrid
from .audio import Samples, probe, read, samples_to_seconds
from .errors import InputError, ModelUnavailable
from .espeak import SAMPLE_RATE_HZ as ESPEAK_RATE_HZ
from .espeak import Espeak, Manner
from .features import FRAME_STEP_S, FRAMES_PER_S, SAMPLE_RATE_HZ, Matrix, cepstra, level_db, mel_power
from .handler import Output, OutputFile, Run
from .words import Mark, Span, Word, speakable, split_words, time_words

Frames = npt.NDArray[np.float32]  # [F]

MAX_AUDIO_S = 900.0
LONGEST_SPEEDUP = warp.MIN_WORD_FRAMES  # how much faster than eSpeak a recording may speak

MODEL = "espeak-dtw"
SCORE_CONVENTION = "mean cosine similarity of a word's frames to eSpeak's rendering, 0 to 1"

_SPEECH_RANGE_DB = 25.0  # below the loudest frames
_DYNAMICS_DB = 40.0
_FLOOR_DB = 50.0  # what lies this far below speech is treated as nothing
_SILENT_PEAK = 1e-4  # -80 dBFS
_SLOPE_WEIGHT = 0.5
_PAUSE_COST, _PAUSE_COST_OF_SPEECH = 0.02, 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A recording and its text.

    Attributes:
        outputs: Which files to write: `json`, `textgrid`.
    """

    text: str
    language: str
    audio: Path
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rendering:
    """eSpeak's reading of the text: [S] at `SAMPLE_RATE_HZ`, with spans in eSpeak's own samples."""

    samples: Samples
    spans: tuple[Span, ...]


class EspeakDtw:
    """The handler of `espeak-dtw`."""

    request = Request
    slots = 2

    def __init__(self) -> None:
        self._espeak: Espeak | None = None

    def load(self, card: str) -> None:
        """Start eSpeak NG; the card makes no difference to it."""
        self._espeak = Espeak(speakers=self.slots)

    def close(self) -> None:
        if self._espeak is not None:
            self._espeak.close()
            self._espeak = None

    def perform(self, request: Request, run: Run) -> Output:
        """Write `alignment.json` and `alignment.TextGrid`, as asked for.

        Raises:
            InputError: The audio is unreadable, silent, longer than `MAX_AUDIO_S`, or too short for the
                text; the language is unknown; or the text has nothing to say.
        """
        with run.phase("prefill"):
            recording = _read_recording(request.audio, run)
            words = split_words(speakable(request.text))
            rendering = self._render(request, words, len(recording), run)
        with run.phase("generation"):
            aligned = _align(recording, rendering, words, run)
        duration_s = samples_to_seconds(len(recording), SAMPLE_RATE_HZ)
        with run.phase("write"):
            files = _write(run.scratch, aligned, duration_s, request.outputs)
        scores = [word.score for word in aligned if word.aligned]
        return Output(
            result={
                "words": len(aligned),
                "duration_s": duration_s,
                "mean_score": round(float(np.mean(scores)), 4),
            },
            files=tuple(files),
            metrics={"audio_s": duration_s, "characters": len(request.text)},
        )

    def _render(self, request: Request, words: Sequence[Word], recorded: int, run: Run) -> _Rendering:
        if self._espeak is None:
            raise ModelUnavailable(f"{MODEL} was not loaded")
        resampler = soxr.ResampleStream(ESPEAK_RATE_HZ, SAMPLE_RATE_HZ, 1, dtype="float32")
        parts: list[Samples] = []
        marks: list[Mark] = []
        done = 0
        recorded_s = samples_to_seconds(recorded, SAMPLE_RATE_HZ)
        for spoken in self._espeak.speak(
            request.text, Manner(language=request.language), lambda _progress: run.checkpoint()
        ):
            marks += (mark.later(done) for mark in spoken.marks)
            done += len(spoken.samples)
            parts.append(resampler.resample_chunk(spoken.samples.astype(np.float32) / 32768))
            # Pauses are less than half of any rendering: what is twice too long can never fit.
            if samples_to_seconds(done, ESPEAK_RATE_HZ) > 2 * LONGEST_SPEEDUP * recorded_s:
                raise InputError(_too_short(recorded_s))
        parts.append(resampler.resample_chunk(np.zeros(0, np.float32), last=True))
        spans = time_words(words, marks, done)
        if not any(span.spoken for span in spans):
            raise InputError(f"eSpeak NG finds nothing to say in this text in {request.language!r}")
        return _Rendering(samples=np.concatenate(parts), spans=spans)


def _read_recording(path: Path, run: Run) -> Samples:
    if probe(path).duration_s > MAX_AUDIO_S:
        raise InputError(
            f"{MODEL} aligns recordings of up to {MAX_AUDIO_S:g} s; for longer ones use mms-300m-aligner"
        )
    recording = read(path, sample_rate=SAMPLE_RATE_HZ, max_s=MAX_AUDIO_S, checkpoint=run.checkpoint)
    if np.abs(recording).max(initial=0) < _SILENT_PEAK:
        raise InputError("the recording is silent")
    return recording


def _align(recording: Samples, rendering: _Rendering, words: Sequence[Word], run: Run) -> list[AlignedWord]:
    features, reference, pause_cost = _comparable(
        mel_power(recording, run.checkpoint), mel_power(rendering.samples, run.checkpoint)
    )
    chain = warp.chain([_frames_of(span, reference) for span in rendering.spans if span.spoken])
    found = warp.best_path(features, pause_cost, chain, run.checkpoint)
    duration_s = samples_to_seconds(len(recording), SAMPLE_RATE_HZ)
    if found is None:
        raise InputError(_too_short(duration_s))
    states, costs = found
    places = _places(chain.word[states], costs, duration_s)
    aligned: list[AlignedWord] = []
    end_s = 0.0
    for word, span in zip(words, rendering.spans, strict=True):
        if span.spoken:
            start_s, end_s, score = next(places)
            aligned.append(
                AlignedWord(text=word.text, start_s=start_s, end_s=end_s, score=score, aligned=True)
            )
        else:
            aligned.append(AlignedWord(text=word.text, start_s=end_s, end_s=end_s, score=0.0, aligned=False))
    return aligned


def _places(
    owner: npt.NDArray[np.int32], costs: Frames, duration_s: float
) -> Iterator[tuple[float, float, float]]:
    """(start_s, end_s, score) of each word, from the word that owns each frame (-1: a pause)."""
    frames = np.flatnonzero(owner >= 0)
    owners = owner[frames]  # rising: the path never goes back
    firsts = np.flatnonzero(np.diff(owners, prepend=-1))
    for group in np.split(frames, firsts[1:]):
        # A frame is centred on its time: it stands for the half step before and the half step behind.
        start_s = max(0.0, (int(group[0]) - 0.5) * FRAME_STEP_S)
        end_s = (int(group[-1]) + 0.5) * FRAME_STEP_S
        score = float(np.clip(1 - costs[group], 0, 1).mean())
        yield round(start_s, 6), min(round(end_s, 6), duration_s), round(score, 4)


def _frames_of(span: Span, reference: Matrix) -> Matrix:
    """The frames whose centres lie in a span of the rendering, at least one."""
    first, end = (math.ceil(sample * FRAMES_PER_S / ESPEAK_RATE_HZ) for sample in (span.start, span.end))
    first = min(first, len(reference) - 1)
    return reference[first : max(end, first + 1)]


def _comparable(recording: Matrix, reference: Matrix) -> tuple[Matrix, Matrix, Frames]:
    """Bring the mel powers of both, [F, bands], into one form.

    Returns:
        The features of the recording and of the reference (unit rows), and what each frame of the
        recording costs when it is taken for a pause: little where it is quiet.
    """
    level = level_db(recording)
    loud = float(np.percentile(level, 95))
    quiet = max(float(np.percentile(level, 5)), loud - _DYNAMICS_DB)
    speech = level > max((loud + quiet) / 2, loud - _SPEECH_RANGE_DB)
    reference_level = level_db(reference)
    reference_speech = reference_level > np.percentile(reference_level, 95) - _SPEECH_RANGE_DB

    spectrum = recording[speech].mean(axis=0)
    gain = spectrum.mean() / reference[reference_speech].mean()
    noise = np.minimum(recording[level <= np.percentile(level, 5)].mean(axis=0), spectrum / 3)
    floor = noise + spectrum.mean() * 10 ** (-_FLOOR_DB / 10)
    loudness = np.clip((level - quiet) / max(loud - quiet, 6.0), 0, 1)
    return (
        _normalised(cepstra(recording + floor), speech),
        _normalised(cepstra(reference * gain + 2 * floor), reference_speech),
        (_PAUSE_COST + _PAUSE_COST_OF_SPEECH * loudness).astype(np.float32),
    )


def _normalised(cepstrum: Matrix, speech: npt.NDArray[np.bool_]) -> Matrix:
    """Cepstra and their slopes in units of their spread in speech, each frame to length one."""
    scaled = (cepstrum - cepstrum[speech].mean(axis=0)) / (cepstrum[speech].std(axis=0) + 1e-3)
    padded = np.pad(scaled, ((2, 2), (0, 0)), mode="edge")
    slope = (2 * (padded[4:] - padded[:-4]) + (padded[3:-1] - padded[1:-3])) / 10  # least squares, 5 frames
    slope /= slope[speech].std(axis=0) + 1e-3
    joined = np.concatenate([scaled, _SLOPE_WEIGHT * slope], axis=1)
    length = np.maximum(np.linalg.norm(joined, axis=1, keepdims=True), 1e-6)
    unit: Matrix = (joined / length).astype(np.float32)
    return unit


def _too_short(duration_s: float) -> str:
    return f"the recording ({duration_s:.1f} s) is too short to contain the whole text"


def _write(
    folder: Path, words: Sequence[AlignedWord], duration_s: float, outputs: tuple[str, ...]
) -> list[OutputFile]:
    files: list[OutputFile] = []
    if "json" in outputs:
        header = {
            "model": MODEL,
            "granularity": "word",
            "frame_step_s": FRAME_STEP_S,
            "score_convention": SCORE_CONVENTION,
            "duration_s": duration_s,
        }
        files.append(write_json(folder / "alignment.json", header, words))
    if "textgrid" in outputs:
        files.append(write_textgrid(folder / "alignment.TextGrid", words, duration_s))
    return files
