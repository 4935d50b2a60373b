"""The handler of the MMS forced aligner."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ..alignment import Granularity
from ..alignment_files import write_text
from ..audio import seconds_to_samples
from ..errors import InputError, ModelUnavailable
from ..handler import Output, Run
from ..trellis import best_path, compile_loops, frames_needed
from ..words import speakable
from . import numbers, reading
from .listening import Listening
from .reading import Findings, Heading, Report, write_alignment
from .script import Script, Star, Wording, write_script
from .spans import frame_scores
from .windows import FRAME_STEP_S, SAMPLE_RATE_HZ, frames_in_all

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..place import Place
    from .checkpoint import Checkpoint
    from .emission import Emissions

T = TypeVar("T")

MODEL = "mms-300m-aligner"
LICENCE = "CC-BY-NC-4.0"
MAX_AUDIO_S = 6 * 3600.0

_SILENT_PEAK = 1e-4  # -80 dBFS
_EMITTED = 0.8  # the share of the progress that is done when the emissions are there
_LOOK_EVERY_S = 0.2
_LONG_TEXT = 20_000  # characters; romanising and writing them takes a second or more
_TABLES = "soundmill.models.aligner.uroman_tables"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A recording and its text.

    Attributes:
        language: ISO 639-3.
        split: What a unit is: stars stand before it, and lines of files stand for it.
        star: Where a star stands, which takes what the text does not have: at the `edges`, before all `units`.
        numbers: `skip`, which leaves figures without times, or `spell`, which looks for them as spoken words.
        min_score: A lower mean score fails the job; `None` lets everything pass.
        doubtful_below: Words with a lower score are listed as doubtful.
        outputs: Which files to write: names of `alignment_files.FORMATS`.
    """

    text: str
    language: str
    audio: Path
    split: Granularity
    star: Star
    numbers: str
    min_score: float | None
    doubtful_below: float
    outputs: tuple[str, ...]


class Aligner:
    """The handler of `mms-300m-aligner`."""

    request = Request
    slots = 32

    def __init__(self) -> None:
        self._place: Place | None = None
        self._letters: Mapping[str, int] = {}
        # A search keeps a processor busy, and takes memory: more at once than there are would only wait.
        self._searches = threading.BoundedSemaphore(len(os.sched_getaffinity(0)))

    def load(self, place: Place) -> None:
        """Load the checkpoint of the options onto the card, compile the trellis, warm up the helpers.

        Raises:
            ModelUnavailable: There is no torch, the folder is not whole, or an option is not offered.
        """
        folder = _check_options(place)
        try:
            from .checkpoint import load_checkpoint

            compile_loops()
        except ImportError as error:
            raise ModelUnavailable(
                f"{MODEL} needs torch and numba: pip install 'soundmill[models]' ({error.name} is missing)"
            ) from error
        place.warm([reading.__name__, _TABLES])
        checkpoint = place.engine.call(lambda: load_checkpoint(folder)).result()
        self.take(place, checkpoint)

    def take(self, place: Place, checkpoint: Checkpoint) -> None:
        """Put a loaded checkpoint onto the card of a place."""
        from .emission import EmissionModel

        engine = place.engine
        model = engine.call(lambda: EmissionModel(checkpoint, engine.device)).result()
        engine.add_batch(MODEL, model)
        self._letters = checkpoint.letters
        self._place = place

    def close(self) -> None:
        """Forget the model; the engine's end frees it."""
        self._place = None

    def perform(self, request: Request, run: Run) -> Output:
        """Write `alignment.json` and its other forms, as asked for.

        Raises:
            InputError: The audio is unreadable, silent, longer than `MAX_AUDIO_S` or too short for the text; the text
                has no letters; the language has no spoken numbers; or the mean score is below `min_score`.
        """
        text = speakable(request.text)
        with Listening(self._at.engine, MODEL, request.audio, longest_s=MAX_AUDIO_S) as listening:
            with run.phase("prefill"):
                listening.begin(run)  # what the card hears does not depend on the text
                script = self._write(text, request, run)
                _check_frames(script, frames_in_all(listening.most_samples), listening.duration_s)
            with run.phase("generation"):
                heard = listening.finish(run, share=_EMITTED)
                _check_frames(script, frames_in_all(listening.samples), listening.duration_s)
                if listening.peak < _SILENT_PEAK:
                    raise InputError("the recording is silent")
                emissions = np.concatenate([one.emissions for one in heard])
        with run.phase("decode"):
            findings = self._find(emissions, script, listening.duration_s, run)
        with run.phase("write"):
            run.checkpoint()
            report = self._read(text, script, findings, request, run)
        _check_score(report, request)
        return Output(
            result=_result(report, findings, request),
            files=report.files,
            metrics={
                "audio_s": findings.duration_s,
                "characters": len(text),
                "frames": len(findings.states),
                "labels": len(script.labels),
                "windows": len(heard),
                "batch_size": max(one.together for one in heard),
            },
        )

    @property
    def _at(self) -> Place:
        if self._place is None:
            raise ModelUnavailable(f"{MODEL} was not loaded")
        return self._place

    def _write(self, text: str, request: Request, run: Run) -> Script:
        run.checkpoint(0.0)
        spell = request.numbers == "spell"
        if spell and request.language not in numbers.LANGUAGES:
            raise InputError(
                f"numbers cannot be spelled out in {request.language!r}; write them as words, or take numbers=skip. "
                f"They can in {', '.join(numbers.LANGUAGES)}"
            )
        wording = Wording(
            language=request.language, split=request.split, star=request.star, spell_numbers=spell
        )
        script = self._offload(run, len(text), write_script, text, wording, self._letters)
        if not (script.words.end > script.words.first).any():
            raise InputError(
                f"nothing in this text can be looked for: it has no letters that are read in {request.language!r}; "
                "write numbers as words, or take numbers=spell"
            )
        run.checkpoint()
        return script

    def _find(self, emissions: Emissions, script: Script, duration_s: float, run: Run) -> Findings:
        with self._search(run):
            path = best_path(
                emissions,
                script.labels,
                lambda share: run.checkpoint(_EMITTED + (1 - _EMITTED) * share),
            )
        scores = frame_scores(emissions, script.labels, path.states)
        return Findings(states=path.states, scores=scores, duration_s=duration_s)

    @contextmanager
    def _search(self, run: Run) -> Iterator[None]:
        while not self._searches.acquire(timeout=_LOOK_EVERY_S):
            run.checkpoint()
        try:
            yield
        finally:
            self._searches.release()

    def _read(self, text: str, script: Script, findings: Findings, request: Request, run: Run) -> Report:
        heading = Heading(
            model=MODEL,
            licence=LICENCE,
            language=request.language,
            granularity=request.split,
            doubtful_below=request.doubtful_below,
        )
        report = self._offload(
            run, len(text),
            write_alignment, text, script, findings, heading, run.scratch, request.outputs, request.audio,
        )  # fmt: skip
        for path, short in report.texts.items():
            write_text(path, short)
        return report

    def _offload(self, run: Run, size: int, work: Callable[..., T], *args: Any) -> T:
        """Let a helper work; where that may take long, say meanwhile that the job goes on."""
        if size < _LONG_TEXT:
            return self._at.offload(work, *args)
        thread = ThreadPoolExecutor(1)
        try:
            result = thread.submit(self._at.offload, work, *args)
            while not wait([result], timeout=_LOOK_EVERY_S).done:
                run.checkpoint()
            return result.result()
        finally:
            thread.shutdown(wait=False)  # a job that is cancelled meanwhile does not wait for the helper


def _check_options(place: Place) -> Path:
    options = place.options
    if options.checkpoint is None:
        raise ModelUnavailable(
            f"{MODEL} needs its weights: download MahmoudAshraf/mms-300m-1130-forced-aligner ({LICENCE}: not for "
            f"commercial use) and name the folder with --checkpoint-dir {MODEL}=FOLDER"
        )
    if options.dtype not in ("auto", "fp32"):
        raise ModelUnavailable(f"{MODEL} computes in fp32 only; leave its dtype at auto")
    if options.extra:
        raise ModelUnavailable(f"{MODEL} has no option {next(iter(options.extra))!r}")
    return options.checkpoint


def _check_frames(script: Script, frames: int, duration_s: float) -> None:
    """Refuse a text that needs more than `frames`, in words about a recording of `duration_s`."""
    needed = frames_needed(script.labels)
    if frames < needed:
        has = frames_in_all(seconds_to_samples(duration_s, SAMPLE_RATE_HZ))
        raise InputError(
            f"the recording is too short for the text: its {len(script.labels)} letters and stars need at least "
            f"{needed * FRAME_STEP_S:.2f} s ({needed} frames), and it has {duration_s:.2f} s ({has} frames); "
            "is the text longer than what is said?"
        )


def _check_score(report: Report, request: Request) -> None:
    if request.min_score is not None and report.mean_score < request.min_score:
        start_s, score = report.lowest
        raise InputError(
            f"the text does not fit the recording: its mean score is {report.mean_score:.2f}, and min_score is "
            f"{request.min_score:.2f}; lowest is the minute from {start_s:.0f} s, with {score:.2f}"
        )


def _result(report: Report, findings: Findings, request: Request) -> dict[str, Any]:
    start_s, score = report.lowest
    return {
        "model": MODEL,
        "licence": LICENCE,
        "language": request.language,
        "words": report.words,
        "unaligned": report.unaligned,
        "doubtful": report.doubtful,
        "duration_s": findings.duration_s,
        "mean_score": report.mean_score,
        "lowest_minute": {"start_s": start_s, "score": score},
    }
