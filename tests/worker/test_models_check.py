"""`soundmill models check`: every family's tiny checkpoint passes, and each way to spoil it is told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from soundmill.producer.cli import build_app
from soundmill.storage.catalog import load_catalog
from soundmill.storage.checkpoints import RECORD, Origin, Record, staging_of
from soundmill.worker.checkpoint_examination import examine
from soundmill.worker.pulling.transfer import digest_of

torch = pytest.importorskip("torch")

DATA = Path(__file__).parent.parent / "data"
SOURCES = {
    "csm-1b": "csm/checkpoint",
    "moss-tts-nano-100m": "moss/tts",
    "ming-omni-tts-0.5b": "ming/checkpoint",
    "acestep-captioner": "captioner",
    "mms-300m-aligner": "aligner/checkpoint",
}
"""Where the tiny checkpoints lie."""

NOT_OF_THE_PUBLISHED = {"ming-omni-tts-0.5b": {"ids of the tokenizer"}}
"""What tells a tiny checkpoint from the published one, although it is whole."""

A_MATRIX = {
    "csm-1b": "backbone_model.layers.1.mlp.up_proj.weight",
    "moss-tts-nano-100m": "transformer.h.1.mlp.fc_in.weight",
    "ming-omni-tts-0.5b": "model.model.layers.1.mlp.up_proj.weight",
    "acestep-captioner": "thinker.model.layers.1.mlp.up_proj.weight",
    "mms-300m-aligner": "wav2vec2.encoder.layers.1.feed_forward.intermediate_dense.weight",
}


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of them, as they have to lie to be served."""
    from soundmill.models.conversion import convert

    folder = tmp_path_factory.mktemp("checkpoints")
    for model, source in SOURCES.items():
        shutil.copytree(DATA / source, folder / model)
    shutil.copytree(DATA / "moss" / "codec", folder / "moss-tts-nano-100m" / "codec")
    convert(folder / "moss-tts-nano-100m")
    (folder / "moss-tts-nano-100m" / "pytorch_model.bin").unlink()
    return folder


@pytest.fixture
def spoil(checkpoints: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Makes a copy of one to spoil."""
    return lambda model: Path(shutil.copytree(checkpoints / model, tmp_path / model))


def wrong(model: str, folder: Path) -> dict[str, str]:
    """What does not pass, with all that is said of it."""
    findings = examine(load_catalog().get(model), folder)
    return {
        finding.question: "\n".join((finding.answer, *finding.details))
        for finding in findings
        if not finding.passes and finding.question not in NOT_OF_THE_PUBLISHED.get(model, ())
    }


def change_tensors(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    tensors = dict(load_file(file))
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def change_json(file: Path, **fields: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


@pytest.mark.parametrize("model", SOURCES)
def test_a_whole_checkpoint_passes(model: str, checkpoints: Path) -> None:
    findings = list(examine(load_catalog().get(model), checkpoints / model))

    failed = {finding.question for finding in findings if not finding.passes}
    assert failed == NOT_OF_THE_PUBLISHED.get(model, set())
    asked = {finding.question for finding in findings}
    assert {"files", "configuration", "licence", "checksums"} <= asked
    assert {f"{what} of the tensors" for what in ("names", "shapes", "dtypes")} <= asked
    assert any("tokenizer" in question or question == "vocabulary" for question in asked)


@pytest.mark.parametrize("model", SOURCES)
def test_missing_unexpected_and_misshapen_tensors_are_told_together(
    model: str, spoil: Callable[[str], Path]
) -> None:
    folder, name = spoil(model), A_MATRIX[model]
    other = name.replace(".1.", ".0.")

    def change(tensors: dict[str, Any]) -> None:
        del tensors[name]
        tensors[other] = tensors[other][:-1].clone()
        tensors["a.stranger"] = torch.zeros(3)

    change_tensors(folder, change)

    told = wrong(model, folder)
    assert told.keys() == {"names of the tensors", "shapes of the tensors"}
    assert f"missing: {name} [" in told["names of the tensors"]
    assert "unexpected: a.stranger" in told["names of the tensors"]
    assert f"{other} is [" in told["shapes of the tensors"]


@pytest.mark.parametrize("model", SOURCES)
def test_a_dtype_that_no_code_reads_is_told(model: str, spoil: Callable[[str], Path]) -> None:
    folder, name = spoil(model), A_MATRIX[model]
    change_tensors(folder, lambda tensors: tensors.update({name: tensors[name].to(torch.int8)}))

    assert f"{name} is I8" in wrong(model, folder)["dtypes of the tensors"]


@pytest.mark.parametrize("model", SOURCES)
def test_a_truncated_file_is_told_with_the_remedy(model: str, spoil: Callable[[str], Path]) -> None:
    folder = spoil(model)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])

    told = wrong(model, folder)
    assert told.keys() == {"files"}
    assert f"soundmill models pull {model}" in told["files"]
    assert "is truncated: it has" in told["files"]


@pytest.mark.parametrize("model", SOURCES)
def test_a_model_of_another_architecture_is_told(
    model: str, spoil: Callable[[str], Path], checkpoints: Path
) -> None:
    folder = spoil(model)
    another = "mms-300m-aligner" if model == "csm-1b" else "csm-1b"
    for name in ("config.json", "model.safetensors"):
        shutil.copy(checkpoints / another / name, folder)

    assert wrong(model, folder).keys() == {"loading"}


@pytest.mark.parametrize("model", SOURCES)
def test_a_tokenizer_that_is_missing_is_told(model: str, spoil: Callable[[str], Path]) -> None:
    folder = spoil(model)
    names = ("tokenizer.json", "tokenizer.model", "vocab.json")
    file = next(file for name in names if (file := folder / name).exists())
    file.unlink()

    assert file.name in " ".join(wrong(model, folder).values())


def test_a_folder_that_is_not_there_is_told_with_the_remedy(tmp_path: Path) -> None:
    folder = tmp_path / "csm-1b"
    assert wrong("csm-1b", folder) == {"files": f"{folder} is not there: soundmill models pull csm-1b"}
    staging_of(folder).mkdir()
    assert "was begun and not finished: go on with soundmill models pull" in wrong("csm-1b", folder)["files"]


def test_a_model_without_weights_passes(tmp_path: Path) -> None:
    assert wrong("acoustic", tmp_path) == {}


@pytest.mark.parametrize(
    ("model", "name", "other"),
    [
        ("moss-tts-nano-100m", "text_lm_head.weight", "transformer.wte.weight"),
        (
            "csm-1b",
            "backbone_model.embed_tokens.embed_audio_tokens.weight",
            "depth_decoder.model.embed_tokens.weight",
        ),
    ],
)
def test_tied_tensors_that_differ_are_told(
    model: str, name: str, other: str, spoil: Callable[[str], Path]
) -> None:
    folder = spoil(model)

    def change(tensors: dict[str, Any], by: float) -> None:
        one = tensors[name] if name in tensors else tensors[other]
        tensors |= {name: one.clone(), other: one + by}

    change_tensors(folder, partial(change, by=0.0))
    assert wrong(model, folder) == {}
    change_tensors(folder, partial(change, by=1.0))
    assert f"{name} and {other} differ" in wrong(model, folder)["tied tensors"]


def test_a_table_that_is_not_shared_is_told(spoil: Callable[[str], Path]) -> None:
    folder = spoil("csm-1b")
    change_json(folder / "config.json", tie_codebooks_embeddings=False)

    assert "set tie_codebooks_embeddings in config.json" in wrong("csm-1b", folder)["tied tensors"]


def test_the_codec_of_a_model_is_looked_at_as_well(spoil: Callable[[str], Path]) -> None:
    from safetensors.torch import load_file, save_file

    folder = spoil("moss-tts-nano-100m")
    [file] = (folder / "codec").glob("*.safetensors")
    tensors = dict(load_file(file))
    tensors.pop("quantizer.quantizers.0.codebook.weight")
    save_file(tensors, file)

    told = wrong("moss-tts-nano-100m", folder)
    assert told.keys() == {"codec: names of the tensors"}
    assert "missing: quantizer.quantizers.0.codebook.weight" in told["codec: names of the tensors"]


def test_another_licence_in_the_folder_is_told(spoil: Callable[[str], Path]) -> None:
    folder = spoil("acestep-captioner")
    page = folder / "README.md"
    page.write_text("---\nlicense: mit\ntags:\n- music\n---\n# A captioner\nlicense: none\n")
    assert wrong("acestep-captioner", folder) == {}
    page.write_text("---\ntags: [music]\nlicense: cc-by-nc-4.0\n---\n")
    assert "README.md names cc-by-nc-4.0" in wrong("acestep-captioner", folder)["licence"]


def test_a_file_that_is_not_what_was_fetched_is_told(spoil: Callable[[str], Path]) -> None:
    folder = spoil("acestep-captioner")
    files = {
        name: ((folder / name).stat().st_size, digest_of(folder / name).sha256)
        for name in ("config.json", "model.safetensors")
    }
    origin = Origin(
        hub="huggingface", name="a/b", folder="", revision="main", commit="c0ffee", files=files, left_out={}
    )
    record = Record(model="acestep-captioner", pulled_at="2026-01-01T00:00:00+00:00", origins=(origin,))
    (folder / RECORD).write_text(record.text())
    assert wrong("acestep-captioner", folder) == {}
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)

    told = wrong("acestep-captioner", folder)["checksums"]
    assert "1 files are not those of a/b@c0ffee: soundmill models pull acestep-captioner" in told
    assert f"{file} has SHA-256" in told


def test_the_command_prints_a_readable_difference_and_exits_with_1(spoil: Callable[[str], Path]) -> None:
    folder = spoil("mms-300m-aligner")
    words = ["models", "check", "mms-300m-aligner", "--checkpoint-dir", str(folder)]
    fine = CliRunner().invoke(build_app(), words)
    change_tensors(folder, lambda tensors: tensors.__delitem__("lm_head.bias"))

    shown = CliRunner().invoke(build_app(), words)
    told = CliRunner().invoke(build_app(), [*words, "--json"])

    assert (fine.exit_code, shown.exit_code, told.exit_code) == (0, 1, 1), shown.stderr
    lines = shown.stdout.splitlines()
    assert "differs  names of the tensors: 1 are missing and 0 unknown: lm_head.bias" in lines
    assert "           missing: lm_head.bias [31]" in lines
    answer = json.loads(told.stdout)
    assert (answer["model"], answer["folder"], answer["ok"]) == ("mms-300m-aligner", str(folder), False)
    [failed] = [finding for finding in answer["findings"] if not finding["passes"]]
    assert failed["details"] == ["missing: lm_head.bias [31]"]
