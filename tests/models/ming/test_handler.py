"""The handler in the engine, without a queue."""

from __future__ import annotations

import concurrent.futures
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from soundmill.models.errors import Cancelled, InputError, ModelUnavailable
from soundmill.models.handler import Output
from soundmill.models.ming.handler import Ming
from soundmill.models.place import ModelOptions
from soundmill.models.station import Station
from soundmill.storage.arguments.ming import MingArguments

from ..speech import FakeRun
from . import golden

ARTIFACT = {"artifact": "a" * 64}
MUSIC = {"genre": "迪斯科", "mood": "快乐", "instrument": "架子鼓", "theme": "生日"}
RATE_HZ = 2000  # of the tiny checkpoint


def opened(**options: Any) -> tuple[Station, Ming]:
    station, handler = Station("cpu:0", threads=1), Ming()
    given: dict[str, Any] = {"checkpoint": golden.CHECKPOINT, "slots": 6}
    handler.load(station.place(ModelOptions(**(given | options))))
    station.open()
    return station, handler


@pytest.fixture(scope="module")
def ming() -> Iterator[Ming]:
    station, handler = opened()
    yield handler
    handler.close()
    station.close()


@pytest.fixture(scope="module")
def voices(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two recordings of 1 and 1.5 seconds."""
    folder = tmp_path_factory.mktemp("voices")
    paths = []
    for number, pitch in enumerate((180, 240)):
        time = np.arange((2 + number) * 8000) / 16000
        sound = 0.3 * np.sin(2 * np.pi * pitch * time) * (1 + 0.5 * np.sin(2 * np.pi * 3 * time))
        path = folder / f"voice-{number}.wav"
        soundfile.write(path, sound.astype(np.float32), 16000, subtype="FLOAT")
        paths.append(path)
    return paths


def request(**fields: Any) -> Any:
    """The request that a worker would build; paths stand for artifacts."""
    stored = MingArguments.model_validate(_with_artifacts({"sample_rate": 8000, "max_steps": 6} | fields))
    args = stored.model_dump()
    for name in ("prompt_audio", "speaker_audio"):
        args[name] = fields.get(name)
    args["speakers"] = tuple(fields.get("speakers", ()))
    return Ming.request(**args)


def _with_artifacts(fields: dict[str, Any]) -> dict[str, Any]:
    fields = {name: ARTIFACT if isinstance(value, Path) else value for name, value in fields.items()}
    if "speakers" in fields:
        fields["speakers"] = [speaker | {"audio": ARTIFACT} for speaker in fields["speakers"]]
    return fields


def tasks(voices: list[Path]) -> dict[str, dict[str, Any]]:
    """The least of every task."""
    spoken = {"text": "太棒了！", "speaker_audio": voices[0]}
    return {
        "tts": {"text": "你好。"},
        "clone": {"text": "你好。", "prompt_audio": voices[0], "prompt_text": "在此。"},
        "speaker": spoken,
        "emotion": spoken | {"instruction": {"emotion": "happy"}},
        "dialect": spoken | {"instruction": {"dialect": "粤语"}},
        "style": spoken | {"instruction": {"style": "温柔"}},
        "control": spoken | {"instruction": {"speed": "fast"}},
        "voice": {"text": "你好。", "instruction": {"voice": "灵小甄"}},
        "design": {"text": "你好。", "instruction": {"style": "温柔的女声"}},
        "podcast": {
            "text": "speaker_1: 你好\nspeaker_2: 嗯。",
            "speakers": [{"audio": voices[0], "text": "对啊"}, {"audio": voices[1], "text": "是的"}],
        },
        "sound": {"text": "Thunder and a gentle rain"},
        "music": {"music": MUSIC},
        "speech_with_music": spoken | {"instruction": {"background": {"ambience": "Birds chirping"}}},
    }


def heard(output: Output) -> Any:
    [file] = output.files
    samples, rate = soundfile.read(file.path, dtype="float32")
    assert rate == output.result["audio"]["sample_rate"]
    assert len(samples) / rate == pytest.approx(output.result["audio"]["duration_s"])
    return samples


def test_every_task_alone_and_all_of_them_at_once_make_the_same(
    ming: Ming, voices: list[Path], tmp_path: Path
) -> None:
    requests = {task: request(task=task, seed=7, **fields) for task, fields in tasks(voices).items()}

    def perform(task: str, folder: str) -> Output:
        return ming.perform(requests[task], FakeRun(tmp_path / folder / task))

    alone = {task: perform(task, "alone") for task in requests}
    with concurrent.futures.ThreadPoolExecutor(len(requests)) as pool:
        together = dict(
            zip(requests, pool.map(lambda task: perform(task, "together"), requests), strict=True)
        )

    for task, output in together.items():
        assert output.metrics["steps"] in {5, 6}
        np.testing.assert_allclose(heard(output), heard(alone[task]), atol=2e-4)
        assert np.abs(heard(output)).max() > 1e-3
    assert max(int(output.metrics["batch_size"]) for output in together.values()) >= 5
    assert alone["tts"].metrics["batch_size"] == 1


def test_the_same_seed_makes_the_same_and_another_one_does_not(ming: Ming, tmp_path: Path) -> None:
    first, second, other = (
        heard(ming.perform(request(text="你好。", seed=seed), FakeRun(tmp_path / str(number))))
        for number, seed in enumerate((1, 1, 2))
    )

    np.testing.assert_array_equal(first, second)
    assert np.abs(first[: len(other)] - other[: len(first)]).max() > 1e-2


def test_a_long_text_is_made_in_parts_that_are_joined(ming: Ming, tmp_path: Path) -> None:
    text = "今天天气很好，我们去公园吧。" * 6
    run = FakeRun(tmp_path / "run")

    output = ming.perform(request(text=text, chunk_s=5, pause_s=0.5, max_steps=5), run)

    parts = output.result["parts"]
    assert len(parts) == output.metrics["parts"]
    assert len(parts) > 3
    # What is told while it runs counts the step after the last part's stop, too.
    assert run.made[-1]["frames"] == float(output.metrics["steps"]) + 1
    assert 0 < run.made[0]["audio_s"] <= run.made[-1]["audio_s"]
    samples = heard(output)
    for before, after in itertools.pairwise(parts):
        assert after["start_s"] - before["end_s"] == pytest.approx(0.5, abs=1e-6)
        # The resampler of the file rings a little before and behind.
        gap = samples[round(8000 * (before["end_s"] + 0.1)) : round(8000 * (after["start_s"] - 0.1))]
        assert np.abs(gap).max() < 1e-3
    assert len({part["steps"] for part in parts}) == 1
    limited = [number for number, part in enumerate(parts, 1) if not part["stopped"]]
    assert [f"part {number} reached" for number in limited] == [
        warning.partition(" its limit of 5 steps")[0] for warning in output.result["warnings"]
    ]
    assert run.progress == sorted(run.progress)


def test_values_on_no_list_are_taken_with_a_warning_on_the_row(ming: Ming, tmp_path: Path) -> None:
    wanted = request(task="voice", text="你好。", instruction={"voice": "Bob", "emotion": "wistful"})

    output = ming.perform(wanted, FakeRun(tmp_path))

    warnings = [text for text in output.result["warnings"] if text.startswith("instruction.")]
    assert len(warnings) == 2
    assert "'Bob' is on no list of known values" in warnings[1]


def test_the_normaliser_spells_numbers_out_but_not_those_of_sounds(ming: Ming, tmp_path: Path) -> None:
    def ids(**fields: Any) -> tuple[int, ...]:
        wanted = request(**fields)
        assert ming._studio is not None
        voice = ming._studio.voices.of(wanted, FakeRun(tmp_path))
        return ming._studio.prompts(wanted, voice)[0].ids

    assert ids(text="3天", normalize=True) == ids(text="三天")
    assert ids(text="3天") != ids(text="三天")
    assert ids(task="sound", text="3天", normalize=True) == ids(task="sound", text="3天")


@pytest.mark.parametrize("format", ["wav", "flac", "mp3", "opus"])
def test_every_format_is_written(ming: Ming, tmp_path: Path, format: str) -> None:
    output = ming.perform(request(text="你好。", format=format), FakeRun(tmp_path))

    assert output.files[0].name == f"audio.{format}"
    assert len(heard(output)) > 0


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"text": "长" * 400, "task": "sound"}, "Shorten the text"),
        ({"music": MUSIC | {"mood": "愁" * 500}, "task": "music", "max_steps": 400}, "Shorten the text"),
        ({"text": "…", "normalize": True}, "nothing is left of it after normalisation"),
    ],
)
def test_texts_that_cannot_be_used_say_why(
    ming: Ming, tmp_path: Path, fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        ming.perform(request(**fields), FakeRun(tmp_path))


@pytest.mark.parametrize(
    ("sound", "rate", "words"),
    [
        (np.zeros(16000), 16000, "it is silent"),
        (np.full(16000, np.nan), 16000, "not finite"),
        (np.ones(4000), 4000, "it is sampled at 4000 Hz"),
    ],
)
def test_bad_reference_audio_fails_its_own_request_only(
    ming: Ming, tmp_path: Path, sound: Any, rate: int, words: str
) -> None:
    path = tmp_path / "bad.wav"
    soundfile.write(path, sound.astype(np.float32), rate, subtype="FLOAT")

    for task, name in (("speaker", "speaker_audio"), ("clone", "prompt_audio")):
        fields = {"prompt_text": "嗯"} if task == "clone" else {}
        with pytest.raises(InputError, match=f"{name}: .*{words}"):
            ming.perform(
                request(task=task, text="你好。", **{name: path}, **fields), FakeRun(tmp_path / task)
            )
    assert len(heard(ming.perform(request(text="你好。"), FakeRun(tmp_path / "after"))))


def test_a_cancelled_request_leaves_its_slots(ming: Ming, tmp_path: Path) -> None:
    text = "今天天气很好，我们去公园吧。" * 20

    with pytest.raises(Cancelled):
        ming.perform(request(text=text, chunk_s=5, max_steps=200), FakeRun(tmp_path / "a", cancel_at=2))

    assert len(heard(ming.perform(request(text="你好。"), FakeRun(tmp_path / "b"))))


def test_the_mean_of_a_prompt_needs_no_draws(ming: Ming, voices: list[Path], tmp_path: Path) -> None:
    fields = tasks(voices)["clone"]
    latents = []
    for mode, seed in (("mean", 1), ("mean", 2), ("sample", 1), ("sample", 2)):
        wanted = request(task="clone", prompt_latents=mode, seed=seed, **fields)
        assert ming._studio is not None
        voice = ming._studio.voices.of(wanted, FakeRun(tmp_path))
        assert voice.latents is not None
        latents.append(voice.latents.numpy())

    np.testing.assert_array_equal(latents[0], latents[1])
    assert np.abs(latents[2] - latents[3]).max() > 1e-3
    assert np.abs(latents[2] - latents[0]).max() > 1e-3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"checkpoint": None}, "needs the folder of its weights"),
        ({"extra": {"steps": "3"}}, "Ming has no setting 'steps'; there are flow_steps"),
        ({"extra": {"flow_steps": "0"}}, "give a whole number from 1 to 64"),
        ({"extra": {"codec_dtype": "fp8"}}, "give fp32 or bf16"),
        ({"dtype": "fp16"}, "not validated in fp16"),
    ],
)
def test_a_worker_that_is_set_up_wrongly_says_how_to_do_it(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelUnavailable, match=words):
        opened(**options)


def test_the_settings_of_a_worker_are_used(tmp_path: Path) -> None:
    extra = {"flow_steps": "5", "encoder_layers": "6", "context": "100"}
    station, handler = opened(extra=extra, slots=1)
    try:
        assert handler.slots == 1
        with pytest.raises(InputError, match="at most 99 fit here"):
            handler.perform(request(text="你好。", max_steps=60), FakeRun(tmp_path / "a"))
        assert len(heard(handler.perform(request(text="你好。"), FakeRun(tmp_path / "b"))))
    finally:
        station.close()
