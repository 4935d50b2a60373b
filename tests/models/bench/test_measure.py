"""Every family measured in every way, on tiny models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import soundfile

from soundmill.models.bench import measure
from soundmill.models.bench.plan import Plan
from soundmill.models.bench.subject import SUBJECTS, UNITS, Source, subject_of
from soundmill.models.bench.summary import summary
from soundmill.models.bench.tally import NothingMade
from soundmill.models.device import processor
from soundmill.models.errors import InputError, ModelUnavailable

from .conftest import FOLDERS, FRAMES, MODELS, MOSS, PlanOf

FRAME_S = {"csm-1b": 0.08, MOSS: 0.08, "ming-omni-tts-0.5b": 0.32}
WITH_GENERATE = ("csm-1b", "acestep-captioner")


def test_every_model_with_weights_can_be_measured() -> None:
    assert set(SUBJECTS) == set(MODELS)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("random", [False, True], ids=["checkpoint", "random"])
def test_rows_make_as_many_frames_as_they_are_told_whatever_the_model_says(
    plan_of: PlanOf, model: str, random: bool
) -> None:
    document = measure(
        plan_of(model, random_weights=random, frames=() if frames_of(model) is None else (FRAMES,))
    )
    assert [cell["load"]["slots"] for cell in document["cells"]] == [1, 2]
    for cell in document["cells"]:
        assert (cell["failed"], cell["empty"]) == (0, 0)
        assert cell["audio_s_per_s"]["least"] > 0
        assert cell["first_s"]["median"] > 0
        assert cell["peak_bytes"] > 0
        if model in FRAME_S:
            assert cell["audio_s"] == pytest.approx(FRAMES * FRAME_S[model], rel=1e-3)
    if model != "mms-300m-aligner":
        assert document["cells"][1]["batch_size"] <= 2  # they run together if the host lets them
        assert document["cells"][0]["times_the_floor"] > 1
    assert document["stamp"]["checkpoint"] == (
        "random" if random else Path(str(plan_of(model).checkpoint)).name
    )
    assert document["stamp"]["dtype"] == "fp32"
    assert document["unit"] == UNITS.get(model, "frames")
    json.dumps(document, allow_nan=False)
    assert any("1 at once, short text" in line for line in summary(document))


def frames_of(model: str) -> int | None:
    return None if model == "mms-300m-aligner" else FRAMES


@pytest.mark.parametrize("model", MODELS)
def test_components_are_timed_one_by_one(plan_of: PlanOf, model: str) -> None:
    document = measure(plan_of(model, kind="components", seq_len=4, random_weights=True, runs=1, frames=()))
    names = [part["name"] for part in document["components"]]
    assert len(names) == len(set(names)) >= 1
    assert all(part["cpu_ms"]["median"] > 0 for part in document["components"])
    assert all(part["speed_up"] is None for part in document["components"])  # there is no card beside it
    assert any(names[0] in line for line in summary(document))


@pytest.mark.parametrize("model", WITH_GENERATE)
def test_generate_of_transformers_is_measured_beside_the_engine(plan_of: PlanOf, model: str) -> None:
    document = measure(plan_of(model, kind="generate", random_weights=True, slots=(2,)))
    [compared] = document["compared"]
    assert compared["engine ÷ generate"]["median"] > 0
    assert compared["sides"]["engine"]["audio_s"] == compared["sides"]["generate"]["audio_s"]
    # Greedy in fp32, on the same tensors: the sides have to write the same. What CSM draws cannot be compared.
    assert compared["same_output"] is (True if model == "acestep-captioner" else None)
    assert any("engine ÷ generate" in line for line in summary(document))


def test_generate_makes_all_frames_also_of_a_checkpoint_that_would_stop(plan_of: PlanOf) -> None:
    [compared] = measure(plan_of("csm-1b", kind="generate", slots=(1,), runs=1))["compared"]
    assert compared["sides"]["generate"]["audio_s"] == pytest.approx(FRAMES * 0.08)


def test_a_model_that_transformers_does_not_generate_with_says_so(plan_of: PlanOf) -> None:
    with pytest.raises(ModelUnavailable, match="no `generate` for mms-300m-aligner; there is one for csm-1b"):
        measure(plan_of("mms-300m-aligner", kind="generate", random_weights=True))


# -- whole jobs ------------------------------------------------------------------------------------


def test_whole_jobs_go_through_the_handler_from_text_to_a_file(plan_of: PlanOf) -> None:
    plan = plan_of("csm-1b", kind="jobs", fields={"short": {"text": "Hello.", "max_frames": 4}}, frames=())
    document = measure(plan)
    for cell in document["cells"]:
        assert 0 < cell["audio_s"] <= 4 * 0.08 + 1e-6
        assert (cell["failed"], cell["empty"]) == (0, 0)
    assert document["run"]["ignore_stop"] is False
    assert document["stamp"]["checkpoint"] == FOLDERS["csm-1b"].name


def test_a_model_without_weights_is_measured_by_whole_jobs_only(tmp_path: Path) -> None:
    clip = tmp_path / "clip.wav"
    soundfile.write(clip, [0.5, -0.5] * 8000, 16000)
    plan = Plan(model="acoustic", kind="jobs", device="cpu", texts=("short",), slots=(2,), runs=1,
                fields={"short": {"audio": clip}})  # fmt: skip
    document = measure(plan)
    assert document["stamp"]["checkpoint"] is None
    assert document["cells"][0]["real_time_factor"]["median"] > 0
    assert document["cells"][0]["frames_per_s"] is None
    with pytest.raises(ModelUnavailable, match="acoustic is measured by whole jobs only"):
        measure(Plan(model="acoustic", random_weights=True, device="cpu"))


def test_jobs_whose_audio_is_silence_are_refused(plan_of: PlanOf, monkeypatch: pytest.MonkeyPatch) -> None:
    from soundmill.models.audio import AudioWriter

    write = AudioWriter.write
    monkeypatch.setattr(AudioWriter, "write", lambda self, samples: write(self, 0 * samples))
    plan = plan_of("csm-1b", kind="jobs", fields={"short": {"text": "Hello.", "max_frames": 2}}, slots=(1,), runs=1,
                   frames=())  # fmt: skip
    with pytest.raises(NothingMade, match="no frame, no word, or silence"):
        measure(plan)


def test_rows_whose_codec_gives_silence_are_refused(plan_of: PlanOf, monkeypatch: pytest.MonkeyPatch) -> None:
    from soundmill.models.bench.csm import CsmSubject

    load = CsmSubject.load

    def deaf(self: CsmSubject, *args: Any) -> None:
        load(self, *args)
        for weight in self.model.codec_model.parameters():
            weight.data.zero_()

    monkeypatch.setattr(CsmSubject, "load", deaf)
    with pytest.raises(NothingMade, match="silence"):
        measure(plan_of("csm-1b", slots=(1,), runs=1))


# -- what cannot be measured -----------------------------------------------------------------------


def test_rows_that_do_not_fit_the_context_are_refused_and_others_measured(plan_of: PlanOf) -> None:
    document = measure(plan_of("ming-omni-tts-0.5b", frames=(FRAMES, 500), slots=(1,), runs=1))
    assert [cell["load"]["frames"] for cell in document["cells"]] == [FRAMES]
    assert "at most 400 patches" in document["refused"][0]["reason"]


def test_a_model_that_does_not_fit_is_refused_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "host_memory", lambda: (8 * 1024**3, 16 * 1024**3))
    with pytest.raises(
        ModelUnavailable, match=r"8255.3 million parameters need about 36.9 GiB on cpu:0 in fp32"
    ):
        measure(Plan(model="acestep-captioner", random_weights=True, device="cpu"))


def test_without_weights_the_sentence_says_what_needs_none(tmp_path: Path) -> None:
    for folder in (None, tmp_path / "missing"):
        with pytest.raises(ModelUnavailable, match="--random-weights, which needs none"):
            measure(Plan(model="csm-1b", device="cpu", checkpoint=folder))


@pytest.mark.parametrize("model", MODELS)
def test_the_checkpoint_of_another_model_is_refused_by_its_name(
    plan_of: PlanOf, model: str, moss_folder: Path
) -> None:
    other = moss_folder if model != MOSS else FOLDERS["csm-1b"]
    for random in (False, True):
        with pytest.raises(ModelUnavailable, match=r"config\.json|holds a"):
            measure(plan_of(model, checkpoint=other, random_weights=random))


@pytest.mark.parametrize("model", FOLDERS)
def test_a_truncated_file_is_named(plan_of: PlanOf, model: str, tmp_path: Path) -> None:
    folder = tmp_path / "cut"
    shutil.copytree(FOLDERS[model], folder)
    file = max(folder.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelUnavailable, match=file.name):
        measure(plan_of(model, checkpoint=folder))


def test_a_setting_that_the_family_does_not_have_is_refused(plan_of: PlanOf) -> None:
    for model in ("csm-1b", "mms-300m-aligner", MOSS, "ming-omni-tts-0.5b", "acestep-captioner"):
        with pytest.raises(ModelUnavailable, match="no_such"):
            measure(plan_of(model, random_weights=True, extra={"no_such": "1"}))


def test_frames_are_refused_where_the_clip_says_how_many(plan_of: PlanOf) -> None:
    with pytest.raises(InputError, match="frames: mms-300m-aligner makes as many as its input has"):
        measure(plan_of("mms-300m-aligner", frames=(8,)))


# -- the published sizes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "millions"),
    [
        ("csm-1b", 1632),  # counted by transformers
        ("acestep-captioner", 7070 + 545 + 640),  # language model, its head, audio tower
        ("mms-300m-aligner", 315.5),
        (MOSS, 117.3 + 21.97),
        ("ming-omni-tts-0.5b", 1181),
    ],
)
def test_random_weights_have_the_published_size(model: str, millions: float) -> None:
    subject = subject_of(model, Source(folder=None, random=True, extra={}))
    assert subject.parameters / 1e6 == pytest.approx(millions, rel=2e-3)
