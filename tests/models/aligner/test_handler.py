"""The handler with its engine. The weights are random: times mean nothing here, shapes and sentences do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from soundmill.models.aligner.handler import LICENCE, MODEL, Aligner, Request
from soundmill.models.aligner.windows import frames_in_all
from soundmill.models.alignment_files import FORMATS
from soundmill.models.errors import Cancelled, InputError, ModelUnavailable
from soundmill.models.handler import Output
from soundmill.models.place import ModelOptions
from soundmill.models.station import Station
from soundmill.storage.arguments import AlignmentFormat
from soundmill.storage.arguments.aligner import AlignerArguments
from soundmill.storage.catalog import load_catalog

from ..speech import FakeRun
from . import golden

Ask = Callable[..., tuple[Output, dict[str, Any]]]
Sound = npt.NDArray[np.float32]


def noise(seconds: float, seed: int = 0) -> Sound:
    sound: Sound = np.random.default_rng(seed).normal(0, 0.1, round(16000 * seconds)).astype(np.float32)
    return sound


def request_of(path: Path, sound: Sound, text: str, **more: Any) -> Request:
    soundfile.write(path, sound, 16000, subtype="FLOAT")
    given = AlignerArguments.model_validate(
        {"text": text, "audio": {"artifact": "a" * 64}, "outputs": ["json"], **more}
    ).model_dump()
    return Request(**{**given, "audio": path})


@pytest.fixture
def ask(aligner: Aligner, run: FakeRun, tmp_path: Path) -> Ask:
    """Align a recording with a text; the output, and what is in `alignment.json`."""

    def perform(sound: Sound, text: str, **more: Any) -> tuple[Output, dict[str, Any]]:
        output = aligner.perform(request_of(tmp_path / "audio.wav", sound, text, **more), run)
        document: dict[str, Any] = json.loads((run.scratch / "alignment.json").read_text("utf-8"))
        return output, document

    return perform


@pytest.mark.parametrize("case", golden.facts()["words"], ids=lambda case: case["case"])
def test_a_recording_has_the_words_of_the_reference(ask: Ask, case: dict[str, Any]) -> None:
    """From the samples to the times, by way of one window and of two."""
    _, document = ask(golden.recording(case["case"]), case["text"])
    found = [(word["text"], word["start_s"], word["end_s"]) for word in document["words"]]
    assert found == [(word["text"], word["start"], word["end"]) for word in case["words"]]
    for word, reference in zip(document["words"], case["words"], strict=True):
        assert word["score"] == pytest.approx(reference["score"], abs=1e-3)


def test_the_document_says_how_it_was_made(ask: Ask) -> None:
    output, document = ask(noise(2), "Grüß Gott, 2 Mal!", language="de")
    assert document["model"] == output.result["model"] == MODEL
    assert document["licence"] == output.result["licence"] == LICENCE
    assert (document["language"], document["granularity"], document["frame_step_s"]) == ("deu", "word", 0.02)
    assert document["log_scores"] is True
    assert "mean natural-log" in document["score_convention"]
    assert [(word["text"], word["romanized"], word["aligned"]) for word in document["words"]] == [
        ("Grüß", "gruess", True), ("Gott,", "gott", True), ("2", "", False), ("Mal!", "mal", True),
    ]  # fmt: skip
    assert "".join(part["text"] for part in document["characters"]) == "GrüßGott,2Mal!"
    assert [part["text"] for part in document["segments"]] == ["Grüß Gott, 2 Mal!"]
    assert document["minutes"][0]["words"] == 3
    assert output.result["doubtful"] == document["minutes"][0]["doubtful"]
    assert (output.result["words"], output.result["unaligned"]) == (4, 1)
    assert output.metrics["frames"] == frames_in_all(32_000)
    assert (output.metrics["labels"], output.metrics["windows"]) == (15, 1)


def test_a_long_recording_is_heard_in_windows(ask: Ask, run: FakeRun) -> None:
    output, document = ask(noise(95.003), "some words " * 40, outputs=["json"])
    assert output.metrics["windows"] == 4
    assert output.metrics["frames"] == 4751
    assert [minute["start_s"] for minute in document["minutes"]] == [0, 60]
    assert document["words"][-1]["end_s"] <= 95.003
    assert run.phases == ["prefill", "generation", "decode", "write"]
    assert run.progress == sorted(run.progress)
    assert run.progress[-1] == 1.0


def test_every_format_is_written(ask: Ask) -> None:
    output, _ = ask(noise(3), "One. Two, three!", outputs=list(FORMATS))
    assert [file.role for file in output.files] == [form.role for form in FORMATS.values()]
    assert all(file.path.stat().st_size for file in output.files)
    assert set(get_args(AlignmentFormat)) == set(FORMATS)


def test_many_recordings_at_once_are_heard_together(aligner: Aligner, tmp_path: Path) -> None:
    texts = ["a few words of text", "others", "and more of them"]

    def perform(index: int) -> Output:
        run = FakeRun(tmp_path / str(index))
        sound = noise(1 + index % 5 / 20, index)
        return aligner.perform(request_of(run.scratch / "audio.wav", sound, texts[index % 3]), run)

    with ThreadPoolExecutor(24) as threads:
        outputs = list(threads.map(perform, range(24)))
    assert max(int(output.metrics["batch_size"]) for output in outputs) > 1
    for index, output in enumerate(outputs):
        words = json.loads((tmp_path / str(index) / "alignment.json").read_text("utf-8"))["words"]
        assert " ".join(word["text"] for word in words) == texts[index % 3]
        assert output.result["words"] == len(words)


@pytest.mark.parametrize(
    ("sound", "text", "more", "words"),
    [
        (noise(0.01), "a", {}, r"too short for the text.* it has 0\.01 s \(0 frames\)"),
        (noise(1), "letters " * 20, {}, r"142 letters and stars need at least \d\.\d\d s .*text longer than what is said"),
        (np.zeros(32_000, np.float32), "a", {}, "the recording is silent"),
        (noise(1), "2024 …", {}, "has no letters that are read in 'eng'.*numbers=spell"),
        (noise(1), "😀", {"star": "units"}, "has no letters"),
        (noise(2), "so it is not", {"min_score": -0.001}, "does not fit the recording.*min_score is -0.00; lowest is the minute from 0 s"),
    ],
)  # fmt: skip
def test_what_cannot_be_aligned_is_refused_in_a_sentence(
    ask: Ask, sound: Sound, text: str, more: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        ask(sound, text, **more)


def test_numbers_are_spelled_only_in_languages_that_have_them(
    ask: Ask, aligner: Aligner, run: FakeRun, tmp_path: Path
) -> None:
    _, document = ask(noise(3), "In 2024", numbers="spell")
    assert [word["romanized"] for word in document["words"]] == ["in", "twothousandandtwentyfour"]
    request = replace(request_of(tmp_path / "b.wav", noise(3), "In 2024"), numbers="spell", language="cmn")
    with pytest.raises(InputError, match="cannot be spelled out in 'cmn'"):
        aligner.perform(request, run)


def test_a_file_of_no_samples_is_refused(ask: Ask) -> None:
    with pytest.raises(InputError, match="holds no samples"):
        ask(np.zeros(0, np.float32), "a")


def test_six_hours_are_too_long(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("soundmill.models.aligner.handler.MAX_AUDIO_S", 1.5)
    with pytest.raises(InputError, match=r"up to 1\.5 s, and this one has 2 s"):
        ask(noise(2), "a")


def test_the_least_that_can_be_aligned_is(ask: Ask) -> None:
    """As many frames as labels: a frame each."""
    _, document = ask(noise(400 / 16000 + 2 * 0.02), "abc", star="none")
    assert [(part["start_s"], part["end_s"]) for part in document["characters"]] == [
        (0, 0.02),
        (0.02, 0.04),
        (0.04, 0.06),
    ]


def test_a_cancelled_job_stops(aligner: Aligner, tmp_path: Path) -> None:
    for checkpoint in (1, 3, 5):
        run = FakeRun(tmp_path / str(checkpoint), cancel_at=checkpoint)
        with pytest.raises(Cancelled):
            aligner.perform(request_of(run.scratch / "audio.wav", noise(70), "some words"), run)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (ModelOptions(), "--checkpoint-dir mms-300m-aligner=FOLDER"),
        (ModelOptions(checkpoint=golden.CHECKPOINT, dtype="fp16"), "in fp32 only"),
        (ModelOptions(checkpoint=golden.CHECKPOINT, extra={"fast": "1"}), "no option 'fast'"),
        (ModelOptions(checkpoint=golden.FOLDER), "has no config.json"),
    ],
)
def test_options_that_are_not_offered_are_refused(options: ModelOptions, words: str) -> None:
    station = Station("cpu:0", threads=1)
    try:
        with pytest.raises(ModelUnavailable, match=words):
            Aligner().load(station.place(options))
    finally:
        station.close()


def test_a_text_of_hours_is_refused_before_the_recording_is_heard(ask: Ask) -> None:
    """Its length is that of the whole recording, of which only the first windows were read."""
    with pytest.raises(InputError, match=r"and it has 200\.00 s \(10000 frames\)"):
        ask(noise(200), "many words " * 2_000)


def test_a_long_text_goes_to_the_helpers_while_the_run_is_told(ask: Ask, run: FakeRun) -> None:
    text = "a b " * 6_000
    _, document = ask(np.tile(noise(20), 21), text, star="none")
    assert len(document["words"]) == 12_000
    assert run.progress[-1] == 1.0


def test_the_handler_is_imported_without_what_only_its_work_needs() -> None:
    code = (
        "import sys, soundmill.models.aligner.handler;"
        "print([name for name in ('torch', 'numba', 'uroman', 'num2words', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"


def test_the_catalogue_says_the_licence() -> None:
    entry = load_catalog().get(MODEL)
    assert entry.licence.startswith(f"{LICENCE} ")
    assert set(Request.__slots__) == set(entry.arguments.model_fields)
