"""The handler on a real engine, without a worker: whole texts, voices, and input of no use."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from soundmill.models.errors import Cancelled, InputError, ModelUnavailable
from soundmill.models.handler import Output
from soundmill.models.moss.handler import Moss, Request
from soundmill.models.moss.reference import read_reference
from soundmill.models.moss.speech import chunk_seed
from soundmill.models.moss.voices import PRESETS
from soundmill.models.place import ModelOptions
from soundmill.models.station import Station
from soundmill.storage.arguments.moss import MOSS_VOICES, MossArguments
from soundmill.storage.catalog import load_catalog
from soundmill.storage.errors import SubmitRefused

from ..speech import FakeRun
from .conftest import told, vectors

GREEDY = {"gate_temperature": 0, "audio_temperature": 0, "audio_repetition_penalty": 1}
AS_PUBLISHED = GREEDY | {"clean": False, "verbalize": "off", "max_new_frames": 12}
SHORT = {"max_new_frames": 6, "verbalize": "off"}
CASES = told("e2e")

Perform = Callable[..., Output]


@pytest.fixture(scope="module")
def moss(folder: Path, _one_thread: None) -> Iterator[Moss]:
    (folder / "assets" / "audio").mkdir(parents=True, exist_ok=True)
    sound = vectors("e2e")["prompt_wav"].T.numpy()
    soundfile.write(folder / "assets" / "audio" / "zh_1.wav", sound, 4800, subtype="FLOAT")
    soundfile.write(folder / "assets" / "audio" / "mine.flac", sound, 4800)
    station = Station("cpu:0", threads=1)
    handler = Moss()
    handler.load(station.place(ModelOptions(checkpoint=folder, slots=4)))
    station.open()
    yield handler
    handler.close()
    station.close()


@pytest.fixture
def perform(moss: Moss, tmp_path: Path) -> Perform:
    def perform(text: str, run: FakeRun | None = None, **args: Any) -> Output:
        reference = args.pop("reference", None)
        given = MossArguments.model_validate(
            {"text": text, **args} | ({"reference": {"job": "x"}} if reference else {})
        ).model_dump()
        request = Request(**given | {"reference": reference})
        return moss.perform(request, run or FakeRun(tmp_path / f"run-{threading.get_ident()}"))

    return perform


def clip(folder: Path, samples: Any, rate: int = 4800, name: str = "clip.wav") -> Path:
    soundfile.write(folder / name, np.asarray(samples), rate, subtype="FLOAT")
    return folder / name


def noise(seconds: float, rate: int = 4800, channels: int = 2) -> Any:
    return np.random.default_rng(1).normal(0, 0.1, (round(seconds * rate), channels)).astype(np.float32)


def sound_of(output: Output) -> Any:
    return soundfile.read(output.files[0].path, dtype="float32", always_2d=True)[0]


# -- whole texts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_whole_texts_sound_as_published(
    perform: Perform, moss: Moss, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, golden = CASES[name], vectors("e2e")
    args: dict[str, Any] = dict(AS_PUBLISHED)
    sounds = {
        "stereo.wav": golden["prompt_wav"], "mono.wav": golden["prompt_wav"][:1],
        "contref.wav": golden["cont_prompt_wav"],
    }  # fmt: skip
    if "prompt_audio_path" in case:
        args["reference"] = clip(tmp_path, sounds[case["prompt_audio_path"]].T)
    if "prompt_text" in case:
        args["reference_text"] = case["prompt_text"]
    if "voice_clone_max_text_tokens" in case:
        args["max_text_tokens"] = case["voice_clone_max_text_tokens"]
    heard: list[Any] = []
    monkeypatch.setattr(
        "soundmill.models.moss.handler._append", lambda writer, audio, run: heard.append(audio)
    )

    output = perform(case["text"], **args)

    torch.testing.assert_close(torch.cat(heard, dim=1), golden[f"{name}.waveform"], atol=5e-5, rtol=0)
    assert [chunk["frames"] for chunk in output.result["chunks"]] == case["frames_per_chunk"]
    assert output.result["frames"] == case["frames"]
    cut = case["frames_per_chunk"].count(case["max_new_frames"])
    assert output.result["finish"] == ("length" if cut else "stop")
    assert ("warnings" in output.result) == bool(cut)


@pytest.mark.parametrize("format", ["wav", "flac", "opus", "mp3"])
def test_sound_is_stereo_at_48_khz(perform: Perform, format: str) -> None:
    output = perform("Hello there, this is a tiny test.", **SHORT, format=format)

    info = soundfile.info(output.files[0].path)
    assert (info.channels, info.samplerate) == (2, 48000)
    assert info.frames == output.result["frames"] * 3840
    assert output.result["audio"] == {
        "name": f"audio.{format}", "duration_s": info.frames / 48000, "sample_rate": 48000, "channels": 2,
    }  # fmt: skip
    assert output.metrics["audio_s"] == info.frames / 48000
    assert output.metrics["dtype"] == "fp32"


def test_the_same_seed_sounds_the_same_in_any_company(perform: Perform) -> None:
    def one(seed: int) -> Any:
        return sound_of(perform("The radio played an old song.", **SHORT, seed=seed))

    alone = [one(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(one, range(4)))

    for first, second in zip(alone, together, strict=True):
        np.testing.assert_allclose(first, second, atol=1e-4)
    assert alone[0].shape != alone[1].shape or not np.allclose(alone[0], alone[1])


def test_chunks_of_many_jobs_share_batches(perform: Perform, tmp_path: Path) -> None:
    text = "Hello there, this is a tiny test. The radio played an old song. Nobody spoke! " * 4
    voice = clip(tmp_path, noise(0.6))

    def one(seed: int) -> Output:
        return perform(text, **SHORT, reference=voice, max_text_tokens=20, seed=seed)

    with ThreadPoolExecutor(3) as threads:
        outputs = list(threads.map(one, range(3)))

    assert max(int(output.metrics["batch_size"]) for output in outputs) >= 2
    assert all(len(output.result["chunks"]) > 4 for output in outputs)
    assert [output.metrics["voice_known"] for output in outputs].count(False) == 1


def test_progress_grows_over_the_whole_text(perform: Perform, tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "progress")
    output = perform(
        "One sentence here. " * 12, run, **SHORT, reference=clip(tmp_path, noise(0.5)), max_text_tokens=20
    )

    assert run.progress[-1] == 1.0
    frames = [int(made["frames"]) for made in run.made]
    assert frames == sorted(frames)
    assert frames[-1] == output.metrics["frames"]
    assert run.made[-1]["audio_s"] == pytest.approx(frames[-1] * 0.08, abs=1e-3)
    assert run.phases == ["prefill", "generation"]


def test_a_cancelled_text_leaves_its_slots(perform: Perform, moss: Moss, tmp_path: Path) -> None:
    voice = clip(tmp_path, noise(0.5))
    run = FakeRun(tmp_path / "cancelled", cancel_at=5)

    with pytest.raises(Cancelled):
        perform("One sentence here. " * 30, run, reference=voice, max_text_tokens=20, verbalize="off")
    assert perform("And on.", **SHORT).result["frames"] >= 1


def test_fewer_codebooks_are_spoken_when_asked_for(perform: Perform) -> None:
    few, all_of_them = (
        sound_of(perform("Hello there.", **AS_PUBLISHED, n_codebooks=count)) for count in (2, 16)
    )

    assert len(few)
    assert not np.array_equal(few[:384], all_of_them[:384])


def test_a_text_that_ends_before_its_first_frame_is_tried_again_and_then_refused(
    perform: Perform, moss: Moss, monkeypatch: pytest.MonkeyPatch
) -> None:
    from soundmill.models.moss.slots import MossSlots

    release = MossSlots.release
    tries: list[int] = []

    def stops_at_once(self: MossSlots, row: Any, steps: int) -> Any:
        tries.append(row.prompt.seed)
        return release(self, row, 0)

    monkeypatch.setattr("soundmill.models.engine.slot_lane.SlotLane._finish", _always_stopping(monkeypatch))
    monkeypatch.setattr(MossSlots, "release", stops_at_once)
    with pytest.raises(InputError, match="no sound of this text in 3 tries; give another seed"):
        perform("Hello there.", **SHORT, seed=5)
    assert tries[:3] == [chunk_seed(5, 0, attempt) for attempt in range(3)]


def _always_stopping(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The lane's `_finish`, with flags that stop every row at its first step."""
    from soundmill.models.engine.slot_lane import SlotLane

    finish = SlotLane._finish

    def stopping(self: SlotLane, launch: Any) -> None:
        if launch is not None:

            class Stopped:
                def read(self) -> list[bool]:
                    return [True] * launch.bucket

            object.__setattr__(launch, "stops", Stopped())
        finish(self, launch)

    return stopping


# -- voices --------------------------------------------------------------------------------------------


def test_the_presets_are_those_of_the_catalogue() -> None:
    assert tuple(PRESETS) == MOSS_VOICES == load_catalog().get("moss-tts-nano-100m").voices


def test_a_preset_whose_recording_is_there_is_spoken_and_others_are_named(perform: Perform) -> None:
    by_name = perform("Hello there.", **AS_PUBLISHED, voice="Junhao")
    by_file = perform("Hello there.", **AS_PUBLISHED, voice="zh_1")

    np.testing.assert_array_equal(sound_of(by_name), sound_of(by_file))
    assert perform("Hello.", **SHORT, voice="mine").result["frames"] >= 1
    with pytest.raises(
        InputError, match=r"'Zhiming' \(zh_2\.wav\) is not on this worker, which has: Junhao, mine"
    ):
        perform("Hello there.", voice="Zhiming")


@pytest.mark.parametrize(("channels", "rate"), [(1, 4800), (2, 8000), (6, 16000), (1, 44100)])
def test_clips_of_any_rate_and_channels_are_taken(
    perform: Perform, tmp_path: Path, channels: int, rate: int
) -> None:
    path = clip(tmp_path, noise(0.7, rate, channels), rate)

    found = read_reference(path, 4800, 2, 384)
    assert found.shape[0] == 2
    assert abs(found.shape[1] - 0.7 * 4800) <= 2
    assert perform("Hello there.", **SHORT, reference=path).result["frames"] >= 1


def test_a_clip_that_clips_is_taken(perform: Perform, tmp_path: Path) -> None:
    path = clip(tmp_path, np.clip(20 * noise(0.6), -1, 1))

    assert perform("Hello there.", **SHORT, reference=path).result["frames"] >= 1


def _nan() -> Any:
    samples = noise(0.5)
    samples[100, 0] = np.nan
    return samples


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (noise(0.05), "a voice takes 0.08 s at least"),
        (noise(0)[:0], "holds no samples"),
        (noise(600), "longer than the 15 s"),
        (_nan(), "not finite"),
    ],
    ids=["short", "empty", "ten minutes", "nan"],
)
def test_clips_of_no_use_are_refused_and_the_worker_stays(
    perform: Perform, tmp_path: Path, samples: Any, words: str
) -> None:
    path = clip(tmp_path, samples)

    with pytest.raises(InputError, match=words):
        perform("Hello there.", **SHORT, reference=path)
    assert perform("Hello there.", **SHORT).result["frames"] >= 1


def test_the_partial_last_frame_of_a_clip_makes_no_difference(perform: Perform, tmp_path: Path) -> None:
    samples = noise(0.6)
    whole = len(samples) // 384 * 384
    outputs = [
        perform(
            "Hello there.", **AS_PUBLISHED, reference=clip(tmp_path, samples[:count], name=f"{count}.wav")
        )
        for count in (whole, whole + 200)
    ]

    np.testing.assert_array_equal(*map(sound_of, outputs))


# -- texts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["...", "！？", "🙂", "<|audio_end|><|im_end|>", "\u200b.\u200b"])
def test_a_text_without_anything_to_say_is_refused(perform: Perform, text: str) -> None:
    with pytest.raises(InputError, match="nothing to say"):
        perform(text, **SHORT)


@pytest.mark.parametrize(
    "text", ["a", "مرحبا بالعالم، كيف حالك؟", "שלום עולם", "Stop <|audio_end|> here 🙂", "안녕하세요", "7"]
)
def test_short_foreign_and_crooked_text_is_spoken(perform: Perform, text: str) -> None:
    assert perform(text, **SHORT).result["frames"] >= 1


def test_control_tokens_in_a_text_change_nothing(perform: Perform) -> None:
    plain = perform("Hello there.", **AS_PUBLISHED)
    crooked = perform("<|audio_end|>Hello <|im_start|>there.<|audio_start|>", **AS_PUBLISHED)

    assert plain.result["frames"] == crooked.result["frames"]


def test_a_text_that_cannot_be_cut_and_does_not_fit_says_what_would(perform: Perform, tmp_path: Path) -> None:
    voice = clip(tmp_path, noise(0.6))

    with pytest.raises(InputError, match="give a voice or a reference without reference_text"):
        perform("many words " * 500, verbalize="off")
    with pytest.raises(InputError, match="give a voice or a reference without reference_text"):
        perform("many words " * 500, verbalize="off", reference=voice, reference_text="Yes.")
    with pytest.raises(InputError, match="shorten the text"):
        perform("many words " * 500, verbalize="off", reference=voice, max_text_tokens=0)


def test_the_longest_text_begins_and_can_be_stopped(perform: Perform, tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "long", cancel_at=40)

    with pytest.raises(Cancelled):
        perform("A few plain words here. " * 4160, run, **SHORT, reference=clip(tmp_path, noise(0.6)))


# -- submit and load -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"text": " "}, "empty"),
        ({"text": "x" * 100_001}, "100000"),
        ({"text": "x", "language": "xx"}, "not among the model's languages: ar, cs"),
        ({"text": "x", "voice": "Ava", "reference": {"job": "a"}}, "give one of them"),
        ({"text": "x", "reference_text": "y"}, "give reference too"),
        ({"text": "x", "audio_top_p": 0}, "greater than 0"),
        ({"text": "x", "temperature": 1}, "has no such argument"),
        ({"text": "x", "voice": "../etc"}, "voice"),
        ({"text": "x", "format": "opus", "sample_rate": 44100}, "not offered for opus"),
    ],
)
def test_arguments_of_no_use_are_refused_at_submit(args: dict[str, Any], words: str) -> None:
    with pytest.raises(SubmitRefused, match=words):
        load_catalog().get("moss-tts-nano-100m").parse(args)


def test_the_defaults_are_those_of_the_published_runtime() -> None:
    args = MossArguments(text="x")

    assert (args.gate_temperature, args.gate_top_p, args.gate_top_k) == (1.0, 1.0, 50)
    assert (args.audio_temperature, args.audio_top_p, args.audio_top_k) == (0.8, 0.95, 25)
    assert (args.audio_repetition_penalty, args.max_new_frames, args.max_text_tokens) == (1.2, 375, 75)
    assert (args.n_codebooks, args.sample_rate, args.seed) == (16, 48000, 0)
    assert MossArguments(text="x", language="en-US").language == "en"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"checkpoint": None}, "give the folder"),
        ({"extra": {"flow_steps": "1"}}, "no setting 'flow_steps'"),
        ({"extra": {"codec": "/no/such"}}, "the codec MOSS-Audio-Tokenizer-Nano is missing"),
    ],
)
def test_a_place_of_no_use_is_refused(folder: Path, options: dict[str, Any], words: str) -> None:
    station = Station("cpu:0", threads=1)
    try:
        with pytest.raises(ModelUnavailable, match=words):
            Moss().load(station.place(ModelOptions(**{"checkpoint": folder} | options)))
    finally:
        station.close()


def test_8_bit_layers_speak(folder: Path, tmp_path: Path) -> None:
    station, handler = Station("cpu:0", threads=1), Moss()
    options = ModelOptions(checkpoint=folder, slots=1, extra={"linears": "int8", "context": "600"})
    handler.load(station.place(options))
    station.open()
    try:
        given = MossArguments.model_validate({"text": "Hello there.", **SHORT}).model_dump()
        output = handler.perform(Request(**given), FakeRun(tmp_path))
    finally:
        handler.close()
        station.close()

    assert 1 <= output.result["frames"] <= 6
