"""What is heard of what a handler made, and what is wrong with it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from soundmill.models.audio import AudioWriter
from soundmill.models.errors import ModelError
from soundmill.models.verification.end_to_end import Outcome, Sound, judge_trials, listen, score_speech
from soundmill.models.verification.ports import Text, Trial

TRIAL = Trial(name="short", fields={}, longest_s=2.0)
SOUND = Sound(
    sample_rate=24000, channels=1, samples=24000, duration_s=1.0, unusable=0, peak=0.5, level_dbfs=-20.0,
    clipped=0.0,
)  # fmt: skip
MADE = Outcome(
    trial="short", card="npu:0", seconds=1.0, sound=SOUND, claimed={"sample_rate": 24000, "channels": 1}
)


def reasons(examined: Outcome, reference: Outcome = MADE, trial: Trial = TRIAL) -> tuple[str, ...]:
    [hearing] = judge_trials([trial], {"short": examined}, {"short": reference})
    assert hearing.verdict == ("fail" if hearing.reasons else "pass")
    return hearing.reasons


def heard(**changes: Any) -> Outcome:
    return replace(MADE, sound=replace(SOUND, **changes))


def test_the_same_sound_passes() -> None:
    assert reasons(MADE) == ()


@pytest.mark.parametrize(
    ("examined", "words"),
    [
        (heard(peak=0.0, level_dbfs=None), "it is silent (peak 0)"),
        (heard(unusable=4), "4 samples are NaN or infinite"),
        (heard(duration_s=0.0), "it lasts 0.00 s; at most 2.0 s were asked for"),
        (heard(duration_s=9.0), "it lasts 9.00 s; at most 2.0 s were asked for"),
        (heard(clipped=0.2), "20.0% of its samples are clipped, and 0.0% of the reference's"),
        (replace(MADE, sound=None), "there is no audio"),
        (replace(MADE, failure="npu:0: out of memory", sound=None), "npu:0: out of memory"),
    ],
)
def test_each_fault_of_a_sound_is_named(examined: Outcome, words: str) -> None:
    assert words in reasons(examined)


def test_another_rate_than_the_references_and_the_results_own_is_named() -> None:
    found = reasons(heard(sample_rate=48000, channels=2))
    assert "sample rate 48000, but its result says 24000" in found
    assert "channels 2, and the reference's is 1" in found


def test_what_is_clipped_on_both_sides_is_no_fault_of_the_card() -> None:
    assert reasons(heard(clipped=0.5), heard(clipped=0.495)) == ()


def test_speech_that_aligns_worse_than_the_references_fails() -> None:
    aligned = replace(MADE, aligner="espeak-dtw", score=0.8)
    assert reasons(replace(aligned, score=0.7), aligned) == ()
    assert reasons(replace(aligned, score=0.5), aligned) == (
        "the alignment scores 0.50, and the reference's 0.80",
    )
    nothing = replace(aligned, score=None, unaligned="the recording is silent")
    assert "cannot be aligned" in reasons(nothing, aligned)[0]
    assert reasons(nothing, nothing) == ()


def test_a_family_that_aligns_has_to_find_the_same_places() -> None:
    plain = Trial(name="short", fields={})
    aligned = Outcome(trial="short", card="npu:0", score=-1.0)
    assert reasons(aligned, aligned, plain) == ()
    assert reasons(replace(aligned, score=-1.2), aligned, plain) != ()


def test_captions_are_compared_and_not_judged() -> None:
    one, other = replace(MADE, text="a slow song"), replace(MADE, text="a low song")
    [hearing] = judge_trials([TRIAL], {"short": one}, {"short": other})
    assert hearing.verdict == "pass"
    assert hearing.similarity == pytest.approx(0.952, abs=1e-3)


def test_a_reference_that_failed_leaves_nothing_to_compare_with() -> None:
    failed = Outcome(trial="short", card="cpu", failure="no room")
    assert reasons(MADE, failed) == ("there is nothing to compare with, as the reference failed: no room",)


def test_a_file_is_measured(tmp_path: Path) -> None:
    samples = np.full((8000, 2), 0.5, np.float32)
    samples[:800] = 1.0
    soundfile.write(tmp_path / "a.wav", samples, 8000, subtype="FLOAT")

    sound = listen(tmp_path / "a.wav")

    assert (sound.sample_rate, sound.channels, sound.samples, sound.duration_s) == (8000, 2, 8000, 1.0)
    assert (sound.peak, sound.clipped, sound.unusable) == (1.0, 0.1, 0)
    assert sound.level_dbfs == pytest.approx(10 * math.log10(0.9 * 0.25 + 0.1), abs=0.05)


def test_a_model_that_makes_no_numbers_writes_no_file_that_hides_it(tmp_path: Path) -> None:
    """16-bit files cannot hold a NaN: it would be heard as silence or a click."""
    with AudioWriter(tmp_path / "a.wav", format="wav", from_hz=8000, sample_rate=8000) as writer:
        writer.write(np.zeros(8, np.float32))
        with pytest.raises(ModelError, match="not finite"):
            writer.write(np.array([0.0, math.nan], np.float32))


def test_speech_is_scored_by_the_aligner_that_is_there(tmp_path: Path) -> None:
    from soundmill import models

    text = Text(words="The parcel arrived before noon.", language="eng")
    made = models.run("espeak-ng", {"text": text.words}, device="cpu", folder=tmp_path / "speech")
    other = models.run("espeak-ng", {"text": "Nothing at all."}, device="cpu", folder=tmp_path / "other")
    sides = [
        {"short": Outcome(trial="short", card="cpu", audio=spoken.files["audio.wav"])}
        for spoken in (made, other)
    ]
    trials = [Trial(name="short", fields={}, spoken=text), Trial(name="clip", fields={})]

    score_speech(trials, sides, "cpu", lambda _: None)

    right, wrong = (side["short"] for side in sides)
    assert right.aligner == "espeak-dtw"
    assert right.score is not None
    assert right.score > 0.9
    assert wrong.score is None or wrong.score < right.score - 0.2
