"""The handler of CSM on a real engine, without a worker."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from soundmill.models.csm import Csm
from soundmill.models.csm.handler import Request
from soundmill.models.errors import Cancelled, InputError, ModelUnavailable
from soundmill.models.handler import Output
from soundmill.models.place import ModelOptions
from soundmill.models.station import Station
from soundmill.storage.arguments.csm import CsmArguments
from soundmill.storage.catalog import load_catalog

from ..speech import FakeRun
from .conftest import FOLDER

Perform = Callable[..., Output]


@pytest.fixture(scope="module")
def csm(_one_thread: None) -> Iterator[Csm]:
    station = Station("cpu:0", threads=1)
    handler = Csm()
    handler.load(station.place(ModelOptions(checkpoint=FOLDER, slots=4)))
    station.open()
    yield handler
    handler.close()
    station.close()


@pytest.fixture
def perform(csm: Csm, tmp_path: Path) -> Perform:
    def perform(text: str, **args: Any) -> Output:
        paths = args.pop("context", ())
        given = CsmArguments.model_validate({"text": text, **args}).model_dump()
        request = Request(**given | {"context": tuple(paths)})
        return csm.perform(request, FakeRun(tmp_path / f"run-{threading.get_ident()}"))

    return perform


def wave(
    folder: Path, *, seconds: float = 0.6, rate: int = 24000, channels: int = 1, name: str = "a.wav"
) -> Path:
    sound = np.random.default_rng(3).normal(0, 0.2, (round(seconds * rate), channels))
    soundfile.write(folder / name, sound, rate, subtype="FLOAT")
    return folder / name


def turn(path: Path, **more: Any) -> dict[str, Any]:
    return {"speaker": 0, "text": "As I said.", "audio": path} | more


def test_the_handler_takes_what_the_catalogue_gives() -> None:
    model = load_catalog().get("csm-1b")
    arguments = model.parse({"text": "a"}).model_dump()

    assert model.handler == "soundmill.models.csm:Csm"
    Csm.request(**arguments)


def test_greedy_speech_is_the_golden_audio(perform: Perform, golden: Mapping[str, Any]) -> None:
    output = perform("Hello, tiny CSM.", temperature=0)

    [file] = output.files
    sound, rate = soundfile.read(file.path, dtype="float32")
    assert (rate, file.role, file.media_type) == (24000, "audio", "audio/wav")
    np.testing.assert_allclose(sound, np.clip(golden["text0_audio_24f"], -1, 1), atol=1e-4)
    assert output.result == {
        "audio": {"name": "audio.wav", "duration_s": 1.84, "sample_rate": 24000, "channels": 1},
        "frames": 23, "parts": 1, "capped_parts": [], "truncated": False, "watermark": False,
    }  # fmt: skip
    assert output.metrics["frames"] == 23
    assert output.metrics["audio_s"] == pytest.approx(1.84)
    assert (output.metrics["tries"], output.metrics["seed"], output.metrics["dtype"]) == (1, 0, "fp32")


@pytest.mark.parametrize(("form", "rate"), [("wav", 8000), ("flac", 48000), ("mp3", 24000), ("opus", 24000)])
def test_every_format_has_the_length_of_the_frames(perform: Perform, form: str, rate: int) -> None:
    output = perform("a", speaker=1, temperature=0, format=form, sample_rate=rate)

    assert soundfile.info(output.files[0].path).samplerate in (rate, 48000)
    assert output.result["audio"]["duration_s"] == pytest.approx(7 * 0.08, abs=1e-3)
    assert soundfile.info(output.files[0].path).duration == pytest.approx(7 * 0.08, abs=1e-3)


def test_the_same_seed_makes_the_same_speech_and_another_one_another(perform: Perform) -> None:
    def sound(seed: int) -> Any:
        return soundfile.read(perform("Good morning.", seed=seed, max_seconds=1).files[0].path)[0].tolist()

    assert sound(1) == sound(1) != sound(2)


def test_a_context_of_any_rate_is_heard_once(perform: Perform, csm: Csm, tmp_path: Path) -> None:
    clips = [
        turn(wave(tmp_path, rate=16000, channels=2, name="one.wav")),
        turn(wave(tmp_path, rate=48000, name="two.flac.wav"), speaker=1),
    ]
    first = perform("Good morning.", context=clips, max_seconds=0.4)
    again = perform("Good morning.", context=clips, max_seconds=0.4)

    assert (first.metrics["context_turns"], again.metrics["context_turns"]) == (2, 2)
    assert (first.metrics["context_known"], again.metrics["context_known"]) == (0, 2)
    assert first.result["truncated"]


def test_the_golden_conversation_comes_out(
    perform: Perform, golden: Mapping[str, Any], tmp_path: Path, checkpoint: Any
) -> None:
    context = []
    for number, text in ((1, "context one"), (2, "context two")):
        soundfile.write(tmp_path / f"{number}.wav", golden[f"ctx_wav{number}_int16"], 24000, subtype="PCM_16")
        context.append(turn(tmp_path / f"{number}.wav", speaker=number - 1, text=text))
    output = perform("The quick brown fox.", context=context, temperature=0)

    codes = golden["ctx_codes_out"][:-1].astype(np.int64)
    import torch

    with torch.no_grad():
        audio = checkpoint.model.codec_model.decode(torch.from_numpy(codes.T[None])).audio_values[0, 0]
    sound = soundfile.read(output.files[0].path, dtype="float32")[0]
    np.testing.assert_allclose(sound, audio.clip(-1, 1), atol=1e-4)


def test_a_paragraph_comes_out_whole(perform: Perform) -> None:
    text = "One sentence, and not a short one either. " * 12
    output = perform(text, max_frames=9, temperature=1.0)

    assert output.metrics["parts"] == 2
    assert output.metrics["audio_s"] == pytest.approx(float(output.metrics["frames"]) * 0.08)


def test_requests_of_several_threads_share_steps(perform: Perform) -> None:
    outputs: list[Output] = []
    threads = [
        threading.Thread(target=lambda seed=seed: outputs.append(perform("Good morning to all.", seed=seed, max_frames=25)))
        for seed in range(4)
    ]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert len(outputs) == 4
    assert max(float(output.metrics["batch_size"]) for output in outputs) >= 2


def test_a_cancelled_request_stops(csm: Csm, perform: Perform, tmp_path: Path) -> None:
    args = CsmArguments(text="Good morning. " * 40).model_dump()
    with pytest.raises(Cancelled):
        csm.perform(Request(**args), FakeRun(tmp_path / "run", cancel_at=3))
    assert perform("a", speaker=1, temperature=0).metrics["frames"] == 7


def _broken(folder: Path) -> dict[str, Path]:
    (folder / "text.wav").write_text("no audio")
    (folder / "empty.wav").touch()
    soundfile.write(folder / "nan.wav", np.full(4000, np.nan, np.float32), 24000, subtype="FLOAT")
    whole = wave(folder, seconds=2, name="whole.wav").read_bytes()
    (folder / "short.wav").write_bytes(whole[: len(whole) // 2])
    return {path.stem: path for path in folder.glob("*.wav")} | {"missing": folder / "missing.wav"}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing", "does not exist"),
        ("empty", "is empty"),
        ("text", "is not audio that can be read"),
        ("nan", "not finite"),
        ("short", "truncated"),
    ],
)
def test_a_recording_that_cannot_be_used_is_named_and_the_next_request_goes_on(
    perform: Perform, tmp_path: Path, name: str, words: str
) -> None:
    good = turn(wave(tmp_path, name="good.wav"))
    with pytest.raises(InputError, match=rf"^context\.1\.audio: .*{words}"):
        perform("a", context=[good, turn(_broken(tmp_path)[name])])
    assert perform("a", speaker=1, temperature=0).metrics["frames"] == 7


def test_a_recording_that_is_too_long_is_named(perform: Perform, tmp_path: Path) -> None:
    long = turn(wave(tmp_path, seconds=165, rate=8000, name="long.wav"))
    with pytest.raises(InputError, match=r"^context\.0\.audio: the audio is longer than the 163\.84 s"):
        perform("a", context=[long])
    some = turn(wave(tmp_path, seconds=9, name="some.wav"))
    with pytest.raises(
        InputError, match=r"^context\.0\.audio: the turn takes \d+ positions \(9\.0 s of audio\)"
    ):
        perform("a", context=[some], max_frames=1980)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"text": "  "}, "text: the text is empty"),
        ({"speaker": "alice"}, "speaker: a speaker is a whole number"),
        ({"speaker": True}, "speaker: a speaker is a whole number"),
        (
            {"context": ({"speaker": 0, "text": "", "audio": Path("x")},)},
            r"context\.0\.text: the text is empty",
        ),
        ({"context": ({"speaker": None, "text": "a", "audio": Path("x")},)}, r"context\.0\.speaker: "),
    ],
)
def test_what_the_catalogue_refuses_is_refused_without_it(
    csm: Csm, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    request = Request(**CsmArguments(text="a").model_dump())
    with pytest.raises(InputError, match=words):
        csm.perform(replace(request, **changes), FakeRun(tmp_path / "run"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (ModelOptions(checkpoint=FOLDER / "none"), "is no folder"),
        (ModelOptions(checkpoint=FOLDER, extra={"fusde": "on"}), "has no option 'fusde'; it has fused"),
        (ModelOptions(checkpoint=FOLDER, extra={"fused": "perhaps"}), "fused='perhaps' is no choice"),
        (ModelOptions(checkpoint=FOLDER, dtype="fp16"), "fp16"),
    ],
)
def test_an_operator_is_told_what_is_wrong(options: ModelOptions, words: str) -> None:
    station = Station("cpu:0", threads=1)
    try:
        with pytest.raises(ModelUnavailable, match=words):
            Csm().load(station.place(options))
    finally:
        station.close()


def test_the_depth_loop_can_be_taken_apart(golden: Mapping[str, Any], tmp_path: Path) -> None:
    station = Station("cpu:0", threads=1)
    handler = Csm()
    handler.load(station.place(ModelOptions(checkpoint=FOLDER, slots=1, extra={"fused": "off"})))
    station.open()
    args = CsmArguments(text="a", speaker=1, temperature=0).model_dump()
    output = handler.perform(Request(**args), FakeRun(tmp_path / "run"))
    station.close()

    assert output.metrics["frames"] == len(golden["text2_codes"]) - 1
