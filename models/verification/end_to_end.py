"""End to end: the family's own handler makes something of the same requests on every seat, and it is listened to."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..audio import blocks, probe
from ..direct import Loaded, Made, checkpoint_of, load
from ..errors import ModelError
from ..place import ModelOptions
from .figures import text_similarity

if TYPE_CHECKING:
    from .ports import Text, Trial
    from .seats import Seat, Tell
    from .verdicts import Verdict

logger = logging.getLogger(__name__)

_SILENT_PEAK = 1e-4  # -80 dBFS
_FULL_SCALE = 0.999
_MOST_CLIPPED = 0.01  # more than of the reference's samples, which is as loud
_ALIGNER, _WITHOUT_WEIGHTS = "mms-300m-aligner", "espeak-dtw"
_SCORE_LOSS = {_ALIGNER: 1.0, _WITHOUT_WEIGHTS: 0.2}
"""How much lower the alignment of the spoken text may score than the reference's, since what is drawn differs and what
is said does not. Ours: in nats for each frame, and about what espeak-dtw takes off for another text."""
_OWN_SCORE_LOSS = 0.01  # of a family that aligns the same audio itself
_ESPEAK_LANGUAGES = {"eng": "en-us"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sound:
    """What was heard in a file.

    Attributes:
        samples: Of each channel.
        unusable: How many samples are NaN or infinite.
        clipped: The share of samples at full scale.
    """

    sample_rate: int
    channels: int
    samples: int
    duration_s: float
    unusable: int
    peak: float
    level_dbfs: float | None
    clipped: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a seat made of one trial.

    Attributes:
        failure: Why nothing was made.
        sound: Of the audio, where there is some.
        text: The caption, where there is one.
        score: Of the alignment: of the spoken text by `aligner`, or of the family itself if it aligns.
        unaligned: Why the aligner found nothing.
        claimed: What the result says of its audio.
    """

    trial: str
    card: str
    seconds: float | None = None
    real_time_factor: float | None = None
    failure: str | None = None
    sound: Sound | None = None
    audio: Path | None = None
    text: str | None = None
    score: float | None = None
    aligner: str | None = None
    unaligned: str | None = None
    claimed: Mapping[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """The same as a JSON object."""
        found = asdict(self)
        del found["trial"], found["audio"], found["claimed"]
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Hearing:
    """A trial on an examined seat, judged beside the reference's."""

    trial: str
    verdict: Verdict
    reasons: tuple[str, ...]
    examined: Outcome
    reference: Outcome | None
    similarity: float | None = None

    def as_json(self) -> dict[str, Any]:
        """The same as a JSON object."""
        return {
            "trial": self.trial,
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            "similarity": self.similarity,
            "examined": self.examined.as_json(),
            "reference": None if self.reference is None else self.reference.as_json(),
        }


def try_out(
    model_id: str,
    folder: Path,
    seat: Seat,
    trials: Sequence[Trial],
    options: ModelOptions,
    scratch: Path,
    tell: Tell,
) -> dict[str, Outcome]:
    """Load the handler of a model on a seat, as a worker would, and perform the trials one by one.

    What fails is told in the outcome, never raised.
    """
    try:
        tell(f"{seat}: end to end")
        with load(
            model_id,
            checkpoint=seat.folder or folder,
            device=seat.card,
            options=replace(options, slots=1),
            threads=seat.threads,
        ) as model:
            return {
                trial.name: _performed(model, trial, scratch / f"{number}", seat.card)
                for number, trial in enumerate(trials)
            }
    except Exception as error:
        logger.debug("a model cannot be tried end to end", extra={"model": model_id}, exc_info=True)
        words = _words(error)
        return {trial.name: Outcome(trial=trial.name, card=seat.card, failure=words) for trial in trials}


def _performed(model: Loaded, trial: Trial, scratch: Path, card: str) -> Outcome:
    try:
        made = model.run(trial.fields, folder=scratch)
        audio = _audio_of(made)
        claimed = made.result.get("audio")
        return Outcome(
            trial=trial.name,
            card=made.card,
            seconds=round(made.seconds, 3),
            real_time_factor=None if made.real_time_factor is None else round(made.real_time_factor, 3),
            sound=None if audio is None else listen(audio),
            audio=audio,
            text=made.result.get("caption"),
            score=made.result.get("mean_score"),
            claimed=claimed if isinstance(claimed, Mapping) else None,
        )
    except Exception as error:
        logger.debug("a trial failed", extra={"trial": trial.name}, exc_info=True)
        return Outcome(trial=trial.name, card=card, failure=_words(error))


def _words(error: Exception) -> str:
    words = str(error) if isinstance(error, ModelError) else f"{type(error).__name__}: {error}"
    return " ".join(words.split())


def _audio_of(made: Made) -> Path | None:
    return next((path for name, path in made.files.items() if name.startswith("audio.")), None)


def listen(path: Path) -> Sound:
    """Measure a file, block by block."""
    info = probe(path)
    count = clipped = unusable = 0
    peak = squares = 0.0
    for block in blocks(path):
        good = np.isfinite(block)
        unusable += int((~good).sum())
        loud = np.abs(np.where(good, block, 0.0)).astype(np.float64)
        count += block.size
        clipped += int((loud >= _FULL_SCALE).sum())
        peak = max(peak, float(loud.max(initial=0.0)))
        squares += float((loud**2).sum())
    mean = squares / max(count, 1)
    return Sound(
        sample_rate=info.sample_rate,
        channels=info.channels,
        samples=count // info.channels,
        duration_s=round(count / info.channels / info.sample_rate, 3),
        unusable=unusable,
        peak=round(peak, 6),
        level_dbfs=round(10 * math.log10(mean), 1) if mean > 0 else None,
        clipped=clipped / max(count, 1),
    )


def score_speech(trials: Sequence[Trial], sides: Sequence[dict[str, Outcome]], card: str, tell: Tell) -> None:
    """Align what was said with what should have been, where an aligner is installed.

    Args:
        trials: Those with `spoken` count.
        sides: The outcomes of each seat, which get their scores.
        card: Where the aligner is loaded.
    """
    spoken = {trial.name: trial.spoken for trial in trials if trial.spoken is not None}
    wanted = [
        (side, name)
        for side in sides
        for name, made in side.items()
        if name in spoken and made.audio is not None
    ]
    if not wanted:
        return
    found = _aligner(card)
    if found is None:
        return
    name_of, aligner = found
    tell(f"alignment of the spoken text by {name_of}")
    with aligner:
        for side, name in wanted:
            text = spoken[name]
            assert text is not None
            side[name] = _scored(side[name], aligner, name_of, text)


def _aligner(card: str) -> tuple[str, Loaded] | None:
    """The best aligner that can be loaded here."""
    candidates = [_ALIGNER] if checkpoint_of(_ALIGNER).is_dir() else []
    for name in [*candidates, _WITHOUT_WEIGHTS]:
        try:
            return name, load(name, device=card if name == _ALIGNER else "cpu")
        except ModelError:
            logger.debug("an aligner cannot be loaded", extra={"model": name}, exc_info=True)
    return None


def _scored(made: Outcome, aligner: Loaded, name: str, text: Text) -> Outcome:
    assert made.audio is not None
    language = text.language if name == _ALIGNER else _ESPEAK_LANGUAGES.get(text.language, text.language)
    fields = {"audio": str(made.audio), "text": text.words, "language": language}
    try:
        result = aligner.run(fields, folder=made.audio.parent / "alignment").result
    except Exception as error:
        logger.debug("speech cannot be aligned", extra={"trial": made.trial}, exc_info=True)
        return replace(made, aligner=name, unaligned=_words(error))
    return replace(made, aligner=name, score=float(result["mean_score"]))


def judge_trials(
    trials: Iterable[Trial], examined: Mapping[str, Outcome], reference: Mapping[str, Outcome]
) -> list[Hearing]:
    """What the outcomes of an examined seat mean, beside the reference's."""
    found = []
    for trial in trials:
        one, other = examined[trial.name], reference.get(trial.name)
        reasons = tuple(_reasons(trial, one, other))
        similarity = None
        if one.text is not None and other is not None and other.text is not None:
            similarity = round(text_similarity(one.text, other.text), 4)
        found.append(
            Hearing(
                trial=trial.name,
                verdict="fail" if reasons else "pass",
                reasons=reasons,
                examined=one,
                reference=other,
                similarity=similarity,
            )
        )
    return found


def _reasons(trial: Trial, made: Outcome, other: Outcome | None) -> Iterable[str]:
    if made.failure is not None:
        yield made.failure
        return
    if trial.longest_s is not None:
        yield from _faults(made, trial.longest_s)
    if other is None:
        return
    if other.failure is not None:
        yield f"there is nothing to compare with, as the reference failed: {other.failure}"
    if made.sound is not None and other.sound is not None:
        for what in ("sample_rate", "channels"):
            mine, theirs = getattr(made.sound, what), getattr(other.sound, what)
            if mine != theirs:
                yield f"{what.replace('_', ' ')} {mine}, and the reference's is {theirs}"
        if made.sound.clipped > other.sound.clipped + _MOST_CLIPPED:
            yield f"{made.sound.clipped:.1%} of its samples are clipped, and {other.sound.clipped:.1%} of the reference's"
    yield from _misheard(made, other)


def _misheard(made: Outcome, other: Outcome) -> Iterable[str]:
    if other.score is None:
        return
    if made.score is None:
        yield f"the spoken text cannot be aligned, and the reference's can: {made.unaligned or 'no score'}"
        return
    loss = _OWN_SCORE_LOSS if made.aligner is None else _SCORE_LOSS[made.aligner]
    if made.score < other.score - loss:
        yield f"the alignment scores {made.score:.2f}, and the reference's {other.score:.2f}"


def _faults(made: Outcome, longest_s: float) -> Iterable[str]:
    """What is wrong with audio by itself."""
    sound = made.sound
    if sound is None:
        yield "there is no audio"
        return
    if made.claimed is not None:
        for what in ("sample_rate", "channels"):
            if made.claimed[what] != getattr(sound, what):
                yield f"{what.replace('_', ' ')} {getattr(sound, what)}, but its result says {made.claimed[what]}"
    if not 0 < sound.duration_s <= longest_s + 0.5:
        yield f"it lasts {sound.duration_s:.2f} s; at most {longest_s:.1f} s were asked for"
    if sound.unusable:
        yield f"{sound.unusable} samples are NaN or infinite"
    if sound.peak < _SILENT_PEAK:
        yield f"it is silent (peak {sound.peak:g})"
