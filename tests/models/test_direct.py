"""Models without a queue."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile

from soundmill import models
from soundmill.models.direct import load
from soundmill.storage.errors import SubmitRefused, UnknownModel


def test_a_request_is_performed_in_this_process(tmp_path: Path) -> None:
    made = models.run("espeak-ng", {"text": "Hello there."}, device="cpu", folder=tmp_path / "out")
    assert made.files["audio.wav"] == tmp_path / "out" / "audio.wav"
    seconds = soundfile.info(made.files["audio.wav"]).duration
    assert made.result["audio"]["duration_s"] == pytest.approx(seconds, abs=1e-3)
    assert made.real_time_factor == pytest.approx(made.seconds / seconds, rel=1e-2)
    assert float(made.metrics["generation_s"]) <= made.seconds
    assert made.card == "cpu"


def test_what_is_left_out_has_the_defaults_of_a_job_and_what_is_wrong_is_named(tmp_path: Path) -> None:
    with load("espeak-ng", device="cpu") as model:
        assert model.slots == 4
        made = model.run({"text": "Hello.", "sample_rate": 8000}, folder=tmp_path)
        assert made.result["audio"]["sample_rate"] == 8000
        with pytest.raises(SubmitRefused, match="speed: "):
            model.run({"text": "Hello.", "speed": 99})
        with pytest.raises(SubmitRefused, match="did you mean 'speed'"):
            model.run({"text": "Hello.", "sped": 1})


def test_input_audio_is_a_path_and_one_result_may_feed_another(tmp_path: Path) -> None:
    spoken = models.run("espeak-ng", {"text": "One two three."}, device="cpu", folder=tmp_path / "a")
    given = {"text": "One two three.", "audio": str(spoken.files["audio.wav"])}
    aligned = models.run("espeak-dtw", given, device="cpu", folder=tmp_path / "b")
    assert aligned.files["alignment.json"].exists()
    described = models.run(
        "acoustic", {"audio": spoken.files["audio.wav"]}, device="cpu", folder=tmp_path / "c"
    )
    assert described.result["caption"]


def test_an_unknown_model_is_named() -> None:
    with pytest.raises(UnknownModel, match="did you mean 'espeak-ng'"):
        models.run("espeak-gn", {"text": "Hello."})
