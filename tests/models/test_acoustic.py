from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from soundmill.models import acoustic
from soundmill.models.acoustic import Acoustic, Request
from soundmill.models.errors import Cancelled, InputError
from soundmill.storage.arguments.acoustic import AcousticArguments

from .conftest import Speak
from .speech import RATE_HZ as SPEECH_RATE_HZ
from .speech import FakeRun

RATE_HZ = 44100
TEXT = (
    "The birch canoe slid on the smooth planks, and nobody was there to see it. Glue the sheet to the wall."
)


def note(hz: float, seconds: float) -> np.ndarray:
    time_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    partials = sum(np.sin(2 * np.pi * hz * n * time_s) / n for n in range(1, 5))
    return np.asarray(0.3 * np.exp(-3 * time_s / seconds) * partials)


def sine_a440() -> np.ndarray:
    return np.asarray(0.5 * np.sin(2 * np.pi * 440 * np.arange(5 * RATE_HZ) / RATE_HZ))


def click_track() -> np.ndarray:
    sound = np.zeros(10 * RATE_HZ)
    for beat in range(20):
        start = beat * RATE_HZ // 2
        sound[start : start + 400] = 0.8 * np.sin(2 * np.pi * 1500 * np.arange(400) / RATE_HZ)
    return sound


def c_major_arpeggio() -> np.ndarray:
    return np.concatenate([note(hz, 0.5) for hz in (261.63, 329.63, 392.0, 523.25, 392.0)] * 4)


def chords_with_drum() -> np.ndarray:
    chords = ((220, 261.6, 329.6), (293.7, 349.2, 440), (329.6, 392, 493.9), (220, 261.6, 329.6))
    sound = np.concatenate([sum(note(hz, 1.0) for hz in chord) for chord in chords * 3])
    hit = np.random.default_rng(0).standard_normal(2000) * np.exp(-np.arange(2000) / 400)
    for start in range(0, len(sound), RATE_HZ // 2):
        sound[start : start + 2000] += 0.2 * hit[: len(sound) - start]
    return 0.3 * np.asarray(sound)


def noise() -> np.ndarray:
    return 0.1 * np.random.default_rng(0).standard_normal(5 * RATE_HZ)


def described(folder: Path, sound: np.ndarray, rate: int = RATE_HZ) -> dict[str, Any]:
    soundfile.write(folder / "a.wav", sound, rate, subtype="FLOAT")
    result = Acoustic().perform(Request(audio=folder / "a.wav"), FakeRun(folder / "scratch")).result
    json.dumps(result, allow_nan=False)
    return dict(result)


def test_the_request_has_the_fields_of_the_arguments() -> None:
    assert {field.name for field in fields(Request)} == set(AcousticArguments.model_fields)


def test_a_sine_is_a_steady_tone_of_its_frequency(tmp_path: Path) -> None:
    found = described(tmp_path, sine_a440())
    assert found["kind"] == "tone"
    assert found["pitch"]["median_hz"] == pytest.approx(440, abs=1)
    assert found["brightness_hz"] == pytest.approx(440, abs=5)
    assert found["peak_dbfs"] == pytest.approx(-6.0, abs=0.1)
    assert found["tempo"] is None
    assert found["key"] is None
    assert found["caption"].startswith("5 seconds of a steady mono tone")


def test_a_click_track_has_its_tempo_and_no_key(tmp_path: Path) -> None:
    found = described(tmp_path, click_track())
    assert found["kind"] == "music"
    assert found["tempo"]["bpm"] == pytest.approx(120, abs=0.5)
    assert found["key"] is None
    assert found["silence_share"] > 0.9


def test_an_arpeggio_has_its_key_and_tempo(tmp_path: Path) -> None:
    found = described(tmp_path, c_major_arpeggio())
    assert found["kind"] == "music"
    assert found["key"]["name"] == "C major"
    assert found["tempo"]["bpm"] == pytest.approx(120, abs=0.5)


def test_chords_with_a_drum_are_music_in_their_key(tmp_path: Path) -> None:
    found = described(tmp_path, chords_with_drum())
    assert found["kind"] == "music"
    assert found["key"]["name"] == "A minor"
    assert "in A minor at about 120 beats per minute" in found["caption"]


def test_noise_is_steady_noise(tmp_path: Path) -> None:
    found = described(tmp_path, noise())
    assert found["kind"] == "noise"
    assert found["pitch"] is None
    assert found["tempo"] is None
    assert found["dynamic_range_db"] < 3


@pytest.mark.parametrize("seconds", [0.01, 5])
def test_silence_is_silence(tmp_path: Path, seconds: float) -> None:
    found = described(tmp_path, np.zeros(round(seconds * RATE_HZ)))
    assert found["kind"] == "silence"
    assert found["silence_share"] == 1
    assert [
        found[name] for name in ("loudness_lufs", "peak_dbfs", "brightness_hz", "pitch", "tempo", "key")
    ] == [None] * 6
    assert found["caption"].endswith("mono silence.")


@pytest.mark.parametrize(
    ("variant", "low_hz", "high_hz"), [(None, 80, 130), ("f3", 170, 250), ("m3", 80, 130)]
)
def test_speech_is_speech_with_its_pitch(
    speak: Speak, tmp_path: Path, variant: str | None, low_hz: float, high_hz: float
) -> None:
    found = described(tmp_path, speak(TEXT, variant=variant).sound, SPEECH_RATE_HZ)
    assert found["kind"] == "speech"
    assert low_hz < found["pitch"]["median_hz"] < high_hz
    assert found["key"] is None
    assert found["tempo"] is None


@pytest.mark.parametrize("variant", ["whisper", "klatt", "f2"])
@pytest.mark.parametrize("snr_db", [20, 60])
def test_speech_of_other_voices_and_in_noise_is_speech(
    speak: Speak, tmp_path: Path, variant: str, snr_db: float
) -> None:
    assert (
        described(tmp_path, speak(TEXT, variant=variant).with_noise(snr_db).sound, SPEECH_RATE_HZ)["kind"]
        == "speech"
    )


@pytest.mark.parametrize("rate", [8000, 11025, 96000])
@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("samples", [1, 7, 5000])
def test_any_rate_length_and_number_of_channels_is_described(
    tmp_path: Path, rate: int, channels: int, samples: int
) -> None:
    found = described(tmp_path, 0.1 * np.random.default_rng(0).standard_normal((samples, channels)), rate)
    assert (found["sample_rate"], found["channels"], found["duration_s"]) == (rate, channels, samples / rate)


def test_both_files_hold_the_caption(run: FakeRun, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", np.stack([sine_a440()] * 2, axis=1), RATE_HZ)
    output = Acoustic().perform(Request(audio=tmp_path / "a.flac"), run)
    assert [(file.name, file.role) for file in output.files] == [
        ("caption.json", "caption"),
        ("caption.txt", "caption"),
    ]
    document = json.loads((run.scratch / "caption.json").read_text("utf-8"))
    assert document == {"model": "acoustic", **output.result}
    assert (run.scratch / "caption.txt").read_text("utf-8") == output.result["caption"] + "\n"
    assert "stereo" in output.result["caption"]
    assert run.progress == sorted(run.progress)
    assert run.progress[-1] == 1.0


def test_audio_over_the_limit_is_refused(
    run: FakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acoustic, "MAX_AUDIO_S", 4)
    soundfile.write(tmp_path / "a.wav", sine_a440(), RATE_HZ)
    with pytest.raises(InputError, match="longer than the 4 s"):
        Acoustic().perform(Request(audio=tmp_path / "a.wav"), run)


def test_a_cancelled_job_stops_at_the_checkpoint(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", sine_a440(), RATE_HZ)
    run = FakeRun(tmp_path / "scratch", cancel_at=2)
    with pytest.raises(Cancelled):
        Acoustic().perform(Request(audio=tmp_path / "a.wav"), run)
    assert run.checkpoints == 2
    assert list(run.scratch.iterdir()) == []


def test_a_long_file_is_measured_in_bounded_memory(run: FakeRun, tmp_path: Path) -> None:
    import tracemalloc

    with soundfile.SoundFile(tmp_path / "a.flac", "w", 16000, 1) as file:
        for _ in range(24):
            file.write(0.1 * np.random.default_rng(0).standard_normal(160_000))
    tracemalloc.start()
    Acoustic().perform(Request(audio=tmp_path / "a.flac"), run)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 12e6  # the four minutes themselves would be 15 MB
