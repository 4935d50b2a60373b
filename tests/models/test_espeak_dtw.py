from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from praatio import textgrid

from soundmill.models import espeak_dtw
from soundmill.models.errors import Cancelled, InputError, ModelUnavailable
from soundmill.models.espeak_dtw import EspeakDtw, Request
from soundmill.models.station import Station
from soundmill.storage.arguments.espeak import DtwArguments

from .conftest import Speak
from .speech import RATE_HZ, FakeRun, Recording, Speech, recordings, sentences, start_errors_s

RECORDINGS = recordings()
# The fifth of the reader begins within the word before its first: its onset is not that of its text.
CLEAN_BEGINNINGS = [recording for recording in RECORDINGS if recording.name != "reader-5"]
MANNERS: list[dict[str, Any]] = [
    {"speed": 0.75},
    {"speed": 1.3},
    {"pitch": 30},
    {"pitch": 70},
    {"variant": "f3"},
    {"variant": "m3"},
]
TEXTS = (
    "The birch canoe slid on the smooth planks, and nobody was there to see it. Glue the sheet to the dark blue "
    "background. It's easy to tell the depth of a well.",
    "In 1990 the price rose to 25 dollars; however, the committee of experts, whose opinion mattered, did not "
    "agree. Rice is often served in round bowls!",
    "A rod is used to catch pink salmon. The source of the huge river is the clear spring, isn't it? Four hours "
    "of steady work faced us.",
)


@pytest.fixture(scope="module")
def handler() -> Iterator[EspeakDtw]:
    model = EspeakDtw()
    model.load(Station("cpu:0").place())
    yield model
    model.close()


def request(text: str, audio: Path, **changes: Any) -> Request:
    return Request(
        **{"text": text, "language": "en-us", "audio": audio, "outputs": ("json", "textgrid"), **changes}
    )


def alignment(run: FakeRun) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((run.scratch / "alignment.json").read_text("utf-8"))
    return document


def start_errors_ms(handler: EspeakDtw, folder: Path, speeches: dict[str, Speech]) -> np.ndarray:
    return 1000 * np.abs(
        [
            error_s
            for index, (text, speech) in enumerate(speeches.items())
            for error_s in start_errors_s(handler, speech, text, "en-us", folder / str(index))
        ]
    )


def test_the_request_has_the_fields_of_the_arguments() -> None:
    assert {field.name for field in fields(Request)} == set(DtwArguments.model_fields)


@pytest.mark.parametrize(
    "manner",
    [
        {},
        {"speed": 0.75},
        {"speed": 1.3},
        {"variant": "f3"},
        {"variant": "m3", "pitch": 70},
        {"variant": "whisper"},
        {"variant": "klatt"},
    ],
    ids=str,
)
def test_words_of_other_voices_and_rates_are_found_within_milliseconds(
    handler: EspeakDtw, speak: Speak, tmp_path: Path, manner: dict[str, Any]
) -> None:
    errors = start_errors_ms(handler, tmp_path, {text: speak(text, **manner) for text in TEXTS})
    assert np.median(errors) <= 15
    assert np.percentile(errors, 95) <= 60


@pytest.mark.parametrize(
    "manner", [{}, {"variant": "f3", "speed": 0.75}, {"variant": "m3", "speed": 1.2}], ids=str
)
def test_silence_pauses_and_noise_do_not_pull_words_away(
    handler: EspeakDtw, speak: Speak, tmp_path: Path, manner: dict[str, Any]
) -> None:
    speeches = {
        text: speak(text, **manner).with_pauses(lead_s=2.0, pause_s=0.8, every=4).with_noise(15)
        for text in TEXTS
    }
    errors = start_errors_ms(handler, tmp_path, speeches)
    assert np.median(errors) <= 30
    assert np.percentile(errors, 95) <= 120


@pytest.mark.parametrize(
    ("rough", "median_ms", "p95_ms"), [(False, 15, 60), (True, 30, 120)], ids=("clean", "rough")
)
def test_real_sentences_in_four_languages_are_found(
    handler: EspeakDtw, speak: Speak, tmp_path: Path, rough: bool, median_ms: float, p95_ms: float
) -> None:
    texts = [
        (text, language) for language in ("en-us", "de", "fr-fr", "es") for text in sentences(language, 6)
    ]
    errors_s: list[float] = []
    for index, ((text, language), manner) in enumerate(zip(texts, cycle(MANNERS), strict=False)):
        speech = speak(text, language=language, **manner)
        speech = speech.roughened() if rough else speech
        errors_s += start_errors_s(handler, speech, text, language, tmp_path / str(index))
    errors_ms = 1000 * np.abs(errors_s)
    assert np.median(errors_ms) <= median_ms
    assert np.percentile(errors_ms, 95) <= p95_ms


def onset_s(sound: np.ndarray) -> float:
    """Where speech begins: 60 ms lie well above the noise, on the way to the loudest frames.

    Differences instead of samples, so that hum does not count.
    """
    change = np.diff(sound)
    frames = change[: len(change) // 160 * 160].reshape(-1, 160)
    level_db = 10 * np.log10((frames**2).mean(axis=1) + 1e-10)
    noise_db, loudest_db = np.percentile(level_db, 5), level_db.max()
    loud = level_db > noise_db + 0.4 * (loudest_db - noise_db)
    lasting = np.convolve(loud, np.ones(6), mode="valid") == 6
    return int(np.argmax(lasting)) * 160 / RATE_HZ


@pytest.mark.parametrize("recording", CLEAN_BEGINNINGS, ids=lambda recording: recording.name)
def test_silence_before_the_speech_of_others_does_not_pull_the_first_word(
    handler: EspeakDtw, run: FakeRun, tmp_path: Path, recording: Recording
) -> None:
    speech = recording.speech.led_in()
    handler.perform(request(recording.text, speech.save(tmp_path / "a.wav")), run)
    words = alignment(run)["words"]
    assert words[0]["start_s"] == pytest.approx(2 + onset_s(recording.speech.sound), abs=0.08)
    edges = [edge for word in words for edge in (word["start_s"], word["end_s"])]
    assert edges == sorted(edges)
    assert edges[-1] <= len(speech.sound) / RATE_HZ


@pytest.mark.parametrize(("synthetic", "median_ms", "p90_ms"), [(True, 30, 80), (False, 30, 100)])
def test_words_of_other_synthesizers_and_of_people_are_where_others_find_them(
    handler: EspeakDtw, tmp_path: Path, synthetic: bool, median_ms: float, p90_ms: float
) -> None:
    errors_s = [
        error_s
        for recording in RECORDINGS
        if recording.speaker.startswith("flite") == synthetic
        for error_s in start_errors_s(
            handler, recording.speech, recording.text, "en-us", tmp_path / recording.name
        )
    ]
    assert np.median(np.abs(errors_s)) <= median_ms / 1000
    assert np.percentile(np.abs(errors_s), 90) <= p90_ms / 1000


@pytest.mark.parametrize("recording", CLEAN_BEGINNINGS[::3], ids=lambda recording: recording.name)
def test_a_breath_a_click_and_rumble_before_the_speech_are_no_words(
    handler: EspeakDtw, run: FakeRun, tmp_path: Path, recording: Recording
) -> None:
    sound = recording.speech.led_in().sound.copy()
    drawn = np.random.default_rng(0)
    sound[8000:8480] += 0.5 * np.abs(sound).max() * drawn.standard_normal(480)  # a click of 30 ms
    breath = np.hanning(6400) * drawn.standard_normal(6400)
    sound[20000:26400] += 0.2 * recording.speech.sound.std() * breath  # 0.4 s, 14 dB below
    rumble = np.sin(2 * np.pi * 50 * np.arange(len(sound)) / RATE_HZ)
    speech = Speech(sound=(sound + recording.speech.sound.std() * rumble).astype(np.float32), times=[])
    handler.perform(request(recording.text, speech.save(tmp_path / "a.wav")), run)
    assert alignment(run)["words"][0]["start_s"] == pytest.approx(
        2 + onset_s(recording.speech.sound), abs=0.1
    )


def test_leading_digital_silence_is_no_part_of_the_first_word(
    handler: EspeakDtw, speak: Speak, run: FakeRun, tmp_path: Path
) -> None:
    speech = speak("Hello world.").with_pauses(lead_s=2.0, pause_s=0, every=9)
    handler.perform(request("Hello world.", speech.save(tmp_path / "a.wav")), run)
    assert alignment(run)["words"][0]["start_s"] == pytest.approx(2.0, abs=0.05)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ('He said "hi" — 😀 \'x\' ... "', "en-us"),
        ("— leading dash", "en-us"),
        ("你好世界。今天天气很好", "cmn"),
        ("「こんにちは世界」", "ja"),
        ("สวัสดีครับ ชาวโลก", "th"),
        ("مرحبا بالعالم كيف حالك", "ar"),
    ],
)
def test_every_token_survives_in_both_files(
    handler: EspeakDtw, speak: Speak, run: FakeRun, tmp_path: Path, text: str, language: str
) -> None:
    speech = speak(text, language=language)
    output = handler.perform(request(text, speech.save(tmp_path / "a.wav"), language=language), run)
    document = alignment(run)
    words = document["words"]
    assert "".join(word["text"] for word in words) == "".join(text.split())
    edges = [edge for word in words for edge in (word["start_s"], word["end_s"])]
    assert edges == sorted(edges)
    assert 0 <= edges[0] <= edges[-1] <= document["duration_s"]
    assert output.result["words"] == len(words) >= len(text.split())
    tier = textgrid.openTextgrid(str(run.scratch / "alignment.TextGrid"), includeEmptyIntervals=True).getTier(
        "words"
    )
    assert "".join("".join(entry.label.split()) for entry in tier.entries) == "".join(text.split())
    assert tier.entries[0].start == 0
    assert tier.entries[-1].end == pytest.approx(document["duration_s"])


def test_the_result_and_the_files_are_named_and_explained(
    handler: EspeakDtw, speak: Speak, run: FakeRun, tmp_path: Path
) -> None:
    speech = speak("Hello world.")
    output = handler.perform(request("Hello world.", speech.save(tmp_path / "a.wav")), run)
    assert [(file.name, file.role) for file in output.files] == [
        ("alignment.json", "alignment"),
        ("alignment.TextGrid", "textgrid"),
    ]
    document = alignment(run)
    assert (document["model"], document["granularity"], document["frame_step_s"]) == (
        "espeak-dtw",
        "word",
        0.01,
    )
    assert "cosine" in document["score_convention"]
    assert output.result["duration_s"] == document["duration_s"] == len(speech.sound) / RATE_HZ
    assert output.result["mean_score"] > 0.9
    assert all(0 <= word["score"] <= 1 for word in document["words"])
    assert run.phases == ["prefill", "generation", "write"]
    assert run.progress == sorted(run.progress)


def test_only_the_files_that_are_wanted_are_written(
    handler: EspeakDtw, speak: Speak, run: FakeRun, tmp_path: Path
) -> None:
    audio = speak("Hello").save(tmp_path / "a.wav")
    output = handler.perform(request("Hello", audio, outputs=("textgrid",)), run)
    assert [file.name for file in output.files] == ["alignment.TextGrid"]
    assert [path.name for path in run.scratch.iterdir()] == ["alignment.TextGrid"]


def test_the_wrong_text_scores_lower(handler: EspeakDtw, speak: Speak, tmp_path: Path) -> None:
    audio = speak(TEXTS[0]).save(tmp_path / "a.wav")
    right, wrong = (
        handler.perform(request(text, audio), FakeRun(tmp_path / str(index))).result["mean_score"]
        for index, text in enumerate(TEXTS[:2])
    )
    assert wrong < 0.7 < right


def test_a_silent_recording_is_refused(handler: EspeakDtw, run: FakeRun, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(RATE_HZ), RATE_HZ)
    with pytest.raises(InputError, match="silent"):
        handler.perform(request("Hello", tmp_path / "a.wav"), run)


@pytest.mark.parametrize("words", [30, 5000])
def test_a_recording_too_short_for_its_text_is_refused(
    handler: EspeakDtw, speak: Speak, run: FakeRun, tmp_path: Path, words: int
) -> None:
    audio = speak("Hello").save(tmp_path / "a.wav")
    with pytest.raises(InputError, match="too short"):
        handler.perform(request("Hello world. " * words, audio), run)


def test_a_recording_over_the_limit_is_sent_to_the_other_aligner(
    handler: EspeakDtw, speak: Speak, run: FakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(espeak_dtw, "MAX_AUDIO_S", 0.1)
    with pytest.raises(InputError, match=r"up to 0\.1 s.*mms-300m-aligner"):
        handler.perform(request("Hello", speak("Hello").save(tmp_path / "a.wav")), run)


def test_a_text_with_nothing_to_say_is_refused(
    handler: EspeakDtw, speak: Speak, run: FakeRun, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="nothing to say"):
        handler.perform(request("...", speak("Hello").save(tmp_path / "a.wav")), run)


@pytest.mark.parametrize("nth", [1, 3, 8])
def test_a_cancelled_job_stops_at_the_checkpoint(
    handler: EspeakDtw, speak: Speak, tmp_path: Path, nth: int
) -> None:
    run = FakeRun(tmp_path / "scratch", cancel_at=nth)
    with pytest.raises(Cancelled):
        handler.perform(request(TEXTS[0], speak(TEXTS[0]).save(tmp_path / "a.wav")), run)
    assert run.checkpoints == nth


def test_an_unloaded_model_is_unavailable(speak: Speak, run: FakeRun, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable):
        EspeakDtw().perform(request("Hello", speak("Hello").save(tmp_path / "a.wav")), run)
