"""`soundmill verify`, on the processor and the tiny checkpoints."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer import BadParameter
from typer.testing import CliRunner, Result

from soundmill.models.verification.seats import Seat
from soundmill.producer.cli import build_app
from soundmill.worker.commands.verify import seats_of

DATA = Path(__file__).resolve().parents[1] / "data"
CAPTIONER = DATA / "captioner"
ALIGNER = DATA / "aligner" / "checkpoint"
HERE = ("--device", "cpu:0", "--threads", "1")


@pytest.fixture(autouse=True)
def _one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny tensors are several times slower on several threads; and nobody's own checkpoints take part."""
    torch.set_num_threads(1)
    monkeypatch.setenv("SOUNDMILL_STATE_DIR", str(tmp_path / "state"))


def verify(*words: str, code: int = 0) -> Result:
    done = CliRunner().invoke(build_app(), ["verify", *words], env={"COLUMNS": "240"})
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output
    return done


def quick(model: str, folder: Path, *words: str, code: int = 0) -> Result:
    """Without the handler, which takes a process of helpers."""
    return verify(model, "--checkpoint-dir", str(folder), *HERE, "--no-end-to-end", *words, code=code)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A checkpoint of the aligner to be damaged."""
    return Path(shutil.copytree(ALIGNER, tmp_path / "copy"))


def test_a_whole_verification_is_printed_and_reported(tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    done = verify(
        "acestep-captioner", "--checkpoint-dir", str(CAPTIONER), *HERE, "--dtype", "bf16", "--report", str(report),
    )  # fmt: skip

    for words in (
        "audio tower",
        "language model",
        "free run",
        "end to end",
        "bf16",
        "cosine",
        "within 0.1 %",
    ):
        assert words in done.stdout
    assert done.stdout.strip().endswith(
        "acestep-captioner on cpu:0 (1 thread) against cpu:0 (1 thread): passed"
    )
    page = report.read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert "audio tower" in page


def test_json_has_all_cards_with_their_stamps_and_the_given_material(tmp_path: Path) -> None:
    given = (
        "--audio",
        str(DATA / "recordings" / "cards.opus"),
        "--text",
        "Good <b>morning</b>.",
        "--seed",
        "7",
    )
    done = verify(
        "mms-300m-aligner", "--checkpoint-dir", str(ALIGNER), "--devices", "cpu:0,cpu:1", "--threads", "1,1",
        "--no-end-to-end", "--json", "--report", str(tmp_path / "r.md"), *given,
    )  # fmt: skip

    told = json.loads(done.stdout)
    assert told["ok"] is True
    assert [device["card"] for device in told["devices"]] == ["cpu:0", "cpu:1"]
    assert told["texts"] == {"given": {"words": "Good <b>morning</b>.", "language": "eng"}}
    assert (told["seed"], told["audio"]) == (7, "cards.opus")
    for device in told["devices"]:
        assert device["stamp"]["torch"] == torch.__version__
        assert {part["component"] for part in device["components"]} == {
            "convolutions",
            "encoder",
            "emissions",
        }
    assert "\\<b\\>" in (tmp_path / "r.md").read_text(encoding="utf-8")


def test_an_absent_card_fails_in_a_sentence_and_the_others_are_told(tmp_path: Path) -> None:
    done = verify(
        "mms-300m-aligner", "--checkpoint-dir", str(ALIGNER), "--devices", "npu,cpu", "--threads", "1",
        "--no-end-to-end", "--json", code=1,
    )  # fmt: skip

    npu, cpu = json.loads(done.stdout)["devices"]
    assert (npu["ok"], cpu["ok"]) == (False, True)
    assert npu["failure"].startswith("there is no torch_npu here")


# -- checkpoints that are not what they should be ------------------------------------------------------


def change(folder: Path, changes: Mapping[str, Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    for name, made in changes.items():
        if made is None:
            del tensors[name]
        else:
            tensors[name] = made(tensors[name])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_truncated_file_is_named(copy: Path) -> None:
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])

    done = quick("mms-300m-aligner", copy, code=1)

    assert str(file) in done.stderr
    assert "bytes" in done.stderr
    assert "download it again" in done.stderr


def test_a_model_of_another_architecture_is_named() -> None:
    done = quick("mms-300m-aligner", CAPTIONER, code=1)
    assert (
        "holds a model of the kind 'qwen2_5_omni'; the aligner is a wav2vec2 with a CTC head" in done.stdout
    )
    assert quick("csm-1b", ALIGNER, code=1).exit_code == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lm_head.weight": None}, "do not fit config.json"),
        ({"lm_head.weight": lambda tensor: tensor[:, :-1].contiguous()}, "do not fit config.json"),
    ],
)
def test_a_checkpoint_that_lacks_a_tensor_or_has_another_shape_is_refused(
    copy: Path, changes: dict[str, Any], words: str
) -> None:
    change(copy, changes)
    assert words in quick("mms-300m-aligner", copy, code=1).stdout


def test_a_folder_that_is_not_there_has_a_remedy(tmp_path: Path) -> None:
    done = verify("csm-1b", *HERE, code=1)
    assert "its weights are not here: put them into " in done.stderr
    assert "soundmill models pull csm-1b" in done.stderr


def test_a_model_without_weights_has_nothing_to_compare() -> None:
    assert "espeak-ng has no weights" in verify("espeak-ng", *HERE, code=1).stderr


def test_a_checkpoint_that_needs_more_memory_than_there_is_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from soundmill.models.captioner import components

    monkeypatch.setattr(components, "parameters", lambda _: 9_000_000_000_000)
    done = quick("acestep-captioner", CAPTIONER, code=1)
    assert "9000000.0 million parameters need about" in done.stdout
    assert "choose another card or host" in done.stdout


def test_a_checkpoint_that_is_wrong_on_one_card_is_named_there(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command's own words, with an error that a loader makes on the examined side only."""
    from soundmill.models.aligner import components

    load, loads = components.components, []

    def load_wrongly(folder: Path, *given: Any) -> Any:
        loads.append(folder)
        if len(loads) == 2:
            change(copy, {"lm_head.weight": lambda tensor: tensor * 1.02})
        return load(folder, *given)

    monkeypatch.setattr(components, "components", load_wrongly)
    done = quick("mms-300m-aligner", copy, code=1)

    assert "cpu:0 (1 thread): emissions: emissions in fp32: relative error 1." in done.stdout
    assert done.stdout.strip().endswith("FAILED")
    assert "encoder: " not in done.stdout.partition("emissions: emissions")[2]


# -- usage ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--report", "report.pdf"), "ends in none of .html"),
        (("--report", "/nowhere/at/all/report.html"), "there is no folder"),
        (("--threads", "many"), "neither a number of threads nor two"),
        (("--threads", "1,2,3"), "neither a number of threads nor two"),
        (("--device", "gpu:0"), "gpu"),
        (("--device", "cpu", "--devices", "cpu"), "not both"),
        (("--devices", ","), "names no card"),
        (("--audio", "/nowhere/a.wav"), "does not exist"),
    ],
)
def test_what_cannot_be_asked_for_is_a_usage_error(words: Sequence[str], said: str) -> None:
    done = verify("csm-1b", *words, code=2)
    assert said in " ".join(done.stderr.replace("│", " ").split())


def test_cards_and_threads_are_read_from_the_command_line() -> None:
    def cpu(threads: int | None) -> Seat:
        return Seat(card="cpu:0", threads=threads)

    assert seats_of("cpu", ["cpu:0"], None, "1,2") == (cpu(1), [cpu(2)])
    assert seats_of("cpu", ["cpu:0"], None, None) == (cpu(None), [cpu(None)])
    assert seats_of("cpu", None, "auto", "3") == (cpu(3), [cpu(3)]), "there is nothing else here"
    assert seats_of("cpu", ["npu:1", "npu:1"], None, "4") == (cpu(4), [Seat(card="npu:1")])
    assert seats_of("npu:0", None, "cuda, cpu", "4")[0] == Seat(card="npu:0")
    with pytest.raises(BadParameter):
        seats_of("cpu", ["cpu"], None, "0")
