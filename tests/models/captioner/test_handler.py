"""The captioner as the worker uses it: clips in, captions out, many at once."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from soundmill.models.captioner.handler import LONG, SHORT, Captioner, Request, length_classes, merged
from soundmill.models.errors import Cancelled, InputError, ModelUnavailable
from soundmill.models.handler import Counts
from soundmill.models.place import ModelOptions
from soundmill.models.station import Station
from soundmill.storage.arguments.captioner import CaptionerArguments

from ..speech import FakeRun
from .golden import FOLDER, Golden, goldens

AUDIO = {"artifact": "a" * 64}
RATE_HZ = 16000


@pytest.fixture(scope="module")
def captioner() -> Iterator[Captioner]:
    station = Station("cpu:0", threads=1)
    handler = Captioner()
    handler.load(station.place(ModelOptions(checkpoint=FOLDER, slots=4)))
    station.open()
    yield handler
    handler.close()
    station.close()


def request(path: Path, **given: Any) -> Request:
    args = CaptionerArguments.model_validate({"audio": AUDIO, **given}).model_dump()
    return Request(**args | {"audio": path})


def written(folder: Path, sound: Any, name: str = "clip.wav", **more: Any) -> Path:
    soundfile.write(folder / name, sound, RATE_HZ, **more)
    return folder / name


def captioned(captioner: Captioner, folder: Path, sound: Any, **given: Any) -> dict[str, Any]:
    path = written(folder, sound, subtype="FLOAT")
    result = dict(captioner.perform(request(path, **given), FakeRun(folder / "scratch")).result)
    json.dumps(result, allow_nan=False)
    return result


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * RATE_HZ))


def test_the_request_has_the_fields_of_the_arguments() -> None:
    assert {field.name for field in fields(Request)} == set(CaptionerArguments.model_fields)


def test_many_clips_at_once_get_the_published_captions(captioner: Captioner, tmp_path: Path) -> None:
    def perform(place: int) -> tuple[Golden, dict[str, Any]]:
        golden = goldens()[place % len(goldens())]
        folder = tmp_path / str(place)
        folder.mkdir()
        path = written(folder, golden.samples, subtype="PCM_16")
        asked = request(path, task=golden.task, max_new_tokens=64)
        output = captioner.perform(asked, FakeRun(folder / "scratch"))
        return golden, {**output.result, "metrics": dict(output.metrics)}

    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(perform, range(12)))
    for golden, result in found:
        assert result["caption"] == golden.text
        assert result["finish_reason"] == ("stop" if len(golden.new_ids) < 64 else "length")
        made = len(golden.new_ids) - (result["finish_reason"] == "stop")
        heard = len(golden.embeddings)
        assert result["tokens"] == {
            "prompt": len(golden.input_ids) - heard, "audio": heard, "caption": made,
        }  # fmt: skip
    assert max(result["metrics"]["batch_size"] for _, result in found) > 1


def test_the_outputs_are_the_caption_alone_and_the_document(captioner: Captioner, tmp_path: Path) -> None:
    golden = goldens()[2]
    asked = request(written(tmp_path, golden.samples, subtype="PCM_16"), task=golden.task)
    output = captioner.perform(asked, FakeRun(tmp_path / "scratch"))
    document, text = output.files

    assert (document.name, document.media_type, document.role) == (
        "caption.json",
        "application/json",
        "caption",
    )
    assert (text.name, text.media_type, text.role) == ("caption.txt", "text/plain", "caption")
    assert text.path.read_text(encoding="utf-8") == golden.text + "\n"
    found = json.loads(document.path.read_text(encoding="utf-8"))
    assert found["model"] == "acestep-captioner"
    assert {name: found[name] for name in found if name != "model"} == {
        name: value for name, value in output.result.items() if name != "timings"
    }
    assert found["prompt"] == "*Task* Transcribe this audio in detail"
    assert found["windows"] == []
    assert output.metrics["audio_s"] == pytest.approx(7.777)
    timings = output.result["timings"]
    assert 0 < timings["generation_s"] < 60
    assert timings["first_token_s"] >= timings["encode_s"]
    assert [path.name for path in (tmp_path / "scratch").iterdir() if path.suffix == ".f32"] == []


def test_a_long_clip_is_captioned_in_windows_that_cover_it(captioner: Captioner, tmp_path: Path) -> None:
    sound = noise(47)
    result = captioned(captioner, tmp_path, sound, window_s=10.0, max_new_tokens=12)
    windows = result["windows"]

    assert len(windows) == 5
    assert windows[0]["start_s"] == 0
    assert windows[-1]["end_s"] == result["duration_s"] == 47
    assert [one["end_s"] for one in windows[:-1]] == [other["start_s"] for other in windows[1:]]
    assert result["caption"] == merged([window["caption"] for window in windows])
    assert result["tokens"]["caption"] == sum(window["tokens"] for window in windows)
    assert result["tokens"]["audio"] == 47 * 25
    for window in windows:
        (tmp_path / "part").mkdir(exist_ok=True)
        part = sound[round(window["start_s"] * RATE_HZ) : round(window["end_s"] * RATE_HZ)]
        alone = captioned(captioner, tmp_path / "part", part, max_new_tokens=12)
        assert alone["caption"] == window["caption"]


def test_more_than_a_minute_takes_a_long_slot_and_is_heard_to_its_end(
    captioner: Captioner, tmp_path: Path
) -> None:
    result = captioned(captioner, tmp_path, noise(100), max_new_tokens=4)

    assert result["tokens"]["audio"] == 2500
    assert result["windows"] == []
    assert length_classes(32768) == {SHORT: 2048, LONG: 9216}
    assert length_classes(1000) == {SHORT: 1000}


def test_captions_of_windows_are_put_together_in_order_and_once() -> None:
    assert merged(["calm", "calm", "", "loud", "calm"]) == "calm\n\nloud\n\ncalm"
    assert merged(["", ""]) == ""


def test_the_same_seed_draws_the_same_and_another_one_does_not(captioner: Captioner, tmp_path: Path) -> None:
    free = {"temperature": 1.0, "top_p": 0.9, "max_new_tokens": 24}
    one, again, other = (
        captioned(captioner, tmp_path, goldens()[0].samples, seed=seed, **free)["caption"]
        for seed in (1, 1, 2)
    )

    assert one == again != other


def test_a_prompt_of_ones_own_changes_what_is_asked(captioner: Captioner, tmp_path: Path) -> None:
    sound = goldens()[0].samples
    usual = captioned(captioner, tmp_path, sound, max_new_tokens=8)
    own = captioned(
        captioner, tmp_path, sound, max_new_tokens=8, prompt="Name the 楽器.", system_prompt="Be brief."
    )

    assert own["prompt"] == "Name the 楽器."
    assert own["task"] is None
    assert usual["task"] == "describe"
    assert own["caption"] != usual["caption"]


@pytest.mark.parametrize(
    "sound",
    [np.zeros(3 * RATE_HZ), np.zeros(321), noise(0.1), np.ones(RATE_HZ), 1e-30 * noise(1)],
    ids=["silence", "20 ms", "0.1 s", "constant", "denormal"],
)
def test_odd_sounds_are_captioned(captioner: Captioner, tmp_path: Path, sound: np.ndarray) -> None:
    result = captioned(captioner, tmp_path, sound, max_new_tokens=4)

    assert isinstance(result["caption"], str)
    assert 1 <= result["tokens"]["audio"] <= 75


def test_a_prompt_beyond_the_context_is_refused_with_what_to_change(
    captioner: Captioner, tmp_path: Path
) -> None:
    words = "shorten the prompt, or lower window_s or max_new_tokens"
    with pytest.raises(InputError, match=words) as caught:
        captioned(captioner, tmp_path, noise(299), prompt="x" * 8000, max_new_tokens=1024)
    assert "exceed the 9216 positions" in str(caught.value)
    result = captioned(captioner, tmp_path, noise(60), prompt="x" * 6000, max_new_tokens=4)
    assert result["tokens"]["prompt"] > 6000


def test_bad_audio_is_refused_and_the_next_clip_is_fine(captioner: Captioner, tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    with pytest.raises(InputError):
        captioner.perform(request(tmp_path / "bad.wav"), FakeRun(tmp_path / "scratch"))
    with pytest.raises(InputError, match="not finite"):
        captioned(captioner, tmp_path, np.full(16000, np.nan))

    assert captioned(captioner, tmp_path, goldens()[2].samples, task="transcribe")["finish_reason"] == "stop"


class _Stopped(FakeRun):
    """A run that is cancelled at a checkpoint."""

    def __init__(self, folder: Path, after: int) -> None:
        super().__init__(folder)
        self._left = after

    def checkpoint(self, progress: float | None = None, made: Counts | None = None) -> None:
        self._left -= 1
        if self._left < 0:
            raise Cancelled


@pytest.mark.parametrize("after", [0, 1, 3, 6])
def test_a_cancelled_request_leaves_whatever_it_is_at(
    captioner: Captioner, tmp_path: Path, after: int
) -> None:
    path = written(tmp_path, noise(60))
    with pytest.raises(Cancelled):
        captioner.perform(request(path, window_s=10.0, max_new_tokens=1024), _Stopped(tmp_path / "s", after))

    assert captioned(captioner, tmp_path, goldens()[2].samples, task="transcribe")["finish_reason"] == "stop"
    assert threading.active_count() < 40


def test_progress_rises_over_the_windows(captioner: Captioner, tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "scratch")
    captioner.perform(request(written(tmp_path, noise(40)), window_s=10.0, max_new_tokens=8), run)

    assert run.progress == sorted(run.progress)
    assert run.progress[-1] > 0.9


def test_what_an_operator_gave_wrong_is_told() -> None:
    station = Station("cpu:0")
    for options, words in (
        (ModelOptions(), "needs a checkpoint"),
        (ModelOptions(checkpoint=FOLDER / "none"), "is missing"),
        (ModelOptions(checkpoint=FOLDER, extra={"flow_steps": "3"}), "no setting flow_steps"),
        (ModelOptions(checkpoint=FOLDER, extra={"cache_lengths": "9"}), "a number from 1 to 4"),
        (ModelOptions(checkpoint=FOLDER, dtype="fp16"), "fp16"),
    ):
        with pytest.raises(ModelUnavailable, match=words):
            Captioner().load(station.place(options))
    station.close()
