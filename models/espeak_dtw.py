"""Word alignment without a trained model: the recording is warped onto eSpeak's rendering of its text.

The rendering's word times are known. Its words (without its pauses) and the recording become cepstra in one
form (`matching`); `warp.best_path` finds which frame of the recording says which word, with pauses wherever
the recording has them. What is found tells how the speaker differs from eSpeak, and with the rendering so
changed it is found better: the search goes three rounds.

It is a forced alignment: every word of the text gets a place, said or not. Scores say how well a place fits,
but they depend on speaker and noise, so no word is called missing. Of five synthesizers and of people, the mean
score was 0.56 to 0.98 with the text that is said, and 0.40 to 0.66 with another; words that nobody said got
about half the score of the words around them, with much overlap.
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
from .alignment import AlignedWord, Alignment
from .alignment_files import write_files
from .audio import Samples, probe, read, samples_to_seconds
from .errors import InputError, ModelUnavailable
from .espeak import SAMPLE_RATE_HZ as ESPEAK_RATE_HZ
from .espeak import Espeak, Manner
from .features import FRAME_STEP_S, FRAMES_PER_S, HOP, SAMPLE_RATE_HZ, mel_power
from .handler import Output, Run
from .matching import Frames, Voice, comparable
from .place import Place
from .words import Mark, Span, Word, speakable, split_words, time_words

MAX_AUDIO_S = 900.0
LONGEST_SPEEDUP = warp.MIN_WORD_FRAMES  # how much faster than eSpeak a recording may speak

MODEL = "espeak-dtw"
SCORE_CONVENTION = "mean cosine similarity of a word's frames to eSpeak's rendering, 0 to 1"

_SILENT_PEAK = 1e-4  # -80 dBFS
# What a frame costs when it is taken for a pause, for each round of the search: as little as the first for the
# quietest, as much more as the second for the loudest. While the voices still differ, speech must be dearer as
# a pause than as a wrong word; later as dear, so that a breath or a click is rather a pause than a word.
_QUIET_PAUSE = 0.02
_LOUD_PAUSES = (2.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A recording and its text.

    Attributes:
        outputs: Which files to write: names of `alignment_files.FORMATS`.
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

    def load(self, place: Place) -> None:
        """Start eSpeak NG; the card makes no difference to it."""
        self._espeak = Espeak(speakers=self.slots)

    def close(self) -> None:
        if self._espeak is not None:
            self._espeak.close()
            self._espeak = None

    def perform(self, request: Request, run: Run) -> Output:
        """Write `alignment.json` and its other forms, as asked for.

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
        alignment = Alignment(
            model=MODEL,
            granularity="word",
            frame_step_s=FRAME_STEP_S,
            score_convention=SCORE_CONVENTION,
            duration_s=duration_s,
            words=aligned,
        )
        with run.phase("write"):
            files = write_files(run.scratch, alignment, request.outputs, request.audio)
        scores = [word.score for word in aligned if word.aligned]
        return Output(
            result={
                "words": len(aligned),
                "duration_s": duration_s,
                "mean_score": round(float(np.mean(scores)), 4),
            },
            files=files,
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
    heard, read, loudness = comparable(
        mel_power(recording, run.checkpoint), mel_power(rendering.samples, run.checkpoint)
    )
    duration_s = samples_to_seconds(len(recording), SAMPLE_RATE_HZ)
    chain = warp.chain([_frames_of(span, len(read.speech)) for span in rendering.spans if span.spoken])
    owner, costs = _search(heard, read, loudness, chain, run)
    places = list(_places(owner, costs, duration_s))
    return list(_aligned(words, rendering.spans, places))


def _aligned(
    words: Sequence[Word], spans: Sequence[Span], places: Sequence[tuple[float, float, float]]
) -> Iterator[AlignedWord]:
    """Give the words that are spoken their places; the others stand behind the one before, without a length."""
    spoken = iter(places)
    end_s = places[0][0]
    for word, span in zip(words, spans, strict=True):
        start_s, end_s, score = next(spoken) if span.spoken else (end_s, end_s, 0.0)
        yield AlignedWord(
            text=word.text,
            start_s=start_s,
            end_s=end_s,
            score=score,
            aligned=span.spoken,
            char_start=word.char_start,
            char_end=word.char_end,
        )


def _search(
    heard: Voice, read: Voice, loudness: Frames, chain: warp.Chain, run: Run
) -> tuple[npt.NDArray[np.int32], Frames]:
    """Find which word owns each frame (-1: a pause), and what each frame costs there.

    Each round likens the rendering to the speaker by what the round before it found.
    """
    path, costs = _round(heard, read, loudness, chain, run, done=0)
    for done in range(1, len(_LOUD_PAUSES)):
        said = np.flatnonzero(heard.speech & (chain.word[path] >= 0))
        read = read.likened(heard, chain.frame[path[said]], said)
        path, costs = _round(heard, read, loudness, chain, run, done=done, near=path)
    return chain.word[path], costs


def _round(
    heard: Voice,
    read: Voice,
    loudness: Frames,
    chain: warp.Chain,
    run: Run,
    *,
    done: int,
    near: warp.States | None = None,
) -> tuple[warp.States, Frames]:
    found = warp.best_path(
        heard.features(),
        _QUIET_PAUSE + _LOUD_PAUSES[done] * loudness,
        read.features(),
        chain,
        lambda share: run.checkpoint((done + share) / len(_LOUD_PAUSES)),
        near=near,
    )
    if found is None:
        raise InputError(_too_short(samples_to_seconds(len(heard.speech) * HOP, SAMPLE_RATE_HZ)))
    return found


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


def _frames_of(span: Span, frames: int) -> range:
    """The frames whose centres lie in a span of the rendering, at least one."""
    first, end = (math.ceil(sample * FRAMES_PER_S / ESPEAK_RATE_HZ) for sample in (span.start, span.end))
    first = min(first, frames - 1)
    return range(first, max(min(end, frames), first + 1))


def _too_short(duration_s: float) -> str:
    return f"the recording ({duration_s:.1f} s) is too short to contain the whole text"
