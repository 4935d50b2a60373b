"""The catalogue: what is refused at submit, and in which words."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest

from soundmill.storage.arguments import SAMPLE_RATES_HZ, Arguments
from soundmill.storage.catalog import BUILT_IN, Catalog, Model, espeak_names, load_catalog
from soundmill.storage.errors import SettingsError, SubmitRefused, UnknownModel

AUDIO = {"artifact": "a" * 64}
VALID: dict[str, dict[str, Any]] = {
    "espeak-ng": {"text": "hello"},
    "espeak-dtw": {"text": "hello", "audio": AUDIO},
    "acoustic": {"audio": {"job": "@speech"}},
    "csm-1b": {"text": "hello"},
    "acestep-captioner": {"audio": AUDIO},
    "mms-300m-aligner": {"text": "hello", "audio": AUDIO},
    "ming-omni-tts-0.5b": {"text": "hello"},
    "moss-tts-nano-100m": {"text": "hello"},
}


class Beep(Arguments):
    version = 2
    hz: int = 440

    @classmethod
    def upgrade(cls, args: dict[str, Any], version: int) -> dict[str, Any]:
        return {"hz": args["khz"] * 1000} if version == 1 else super().upgrade(args, version)


BEEP = Model(id="beep", kind="tts", title="A tone", arguments=Beep, handler="beeps:Beep", licence="CC0-1.0")


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> str:
    module = ModuleType("beeps")
    module.MODELS = [BEEP]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "beeps", module)
    return "beeps"


def refusal(model: str, args: dict[str, Any]) -> tuple[str | None, str]:
    with pytest.raises(SubmitRefused) as caught:
        load_catalog().get(model).parse(args)
    return caught.value.field, str(caught.value)


@pytest.mark.parametrize("model", BUILT_IN, ids=lambda model: model.id)
def test_every_model_takes_its_least_arguments_and_keeps_them_complete(model: Model) -> None:
    parsed = model.parse(VALID[model.id]).model_dump()

    assert parsed.keys() == model.arguments.model_fields.keys()
    assert model.restore(parsed, model.arguments.version) == parsed
    assert {name.split(".")[0] for name in model.audio_fields} <= parsed.keys()


@pytest.mark.parametrize(
    ("model", "args", "field", "words"),
    [
        ("espeak-ng", {}, "text", "espeak-ng needs this argument"),
        ("espeak-ng", {"text": " \n"}, "text", "the text is empty; give at least one word"),
        ("espeak-ng", {"text": "a\x00b"}, "text", "NUL"),
        ("espeak-ng", {"text": "\ud800"}, "text", "text: "),
        ("espeak-ng", {"text": "x" * 100_001}, "text", "at most 100000"),
        ("espeak-ng", {"text": "a", "sped": 2}, "sped", "did you mean 'speed'?"),
        ("espeak-ng", {"text": "a", "colour": 2}, "colour", "it takes format, language, pitch"),
        ("espeak-ng", {"text": "a", "speed": float("nan")}, "speed", "finite"),
        ("espeak-ng", {"text": "a", "speed": 9}, "speed", "2.5"),
        ("espeak-ng", {"text": "a", "language": "en-uss"}, "language", "no language 'en-uss'; near it are en-us"),
        ("espeak-ng", {"text": "a", "voice": "f99"}, "voice", "no voice 'f99'"),
        ("espeak-ng", {"text": "a", "format": "opus", "sample_rate": 22050}, None, "is not offered for opus; use one of"),
        ("espeak-dtw", {"text": "a", "audio": AUDIO, "outputs": ["pdf"]}, "outputs.0", "'json', 'textgrid', 'textgrid-short', 'srt'"),
        ("acoustic", {}, "audio", "acoustic needs this argument"),
        ("acoustic", {"audio": {"artifact": "abc"}}, "audio", 'give {"artifact": SHA-256} or {"job": ID}'),
        ("acoustic", {"audio": {"jobs": "x"}}, "audio", "names no audio"),
        ("acoustic", {"audio": {"job": "x", "part": 1}}, "audio", "names no audio"),
        ("acoustic", {"audio": 5}, "audio", "names no audio"),
        ("acestep-captioner", {"audio": AUDIO, "task": "sing"}, "task", "'describe-music' or 'transcribe'"),
        ("acestep-captioner", {"audio": AUDIO, "prompt": " "}, "prompt", "the text is empty"),
        ("acestep-captioner", {"audio": AUDIO, "prompt": "x" * 8001}, "prompt", "at most 8000"),
        ("acestep-captioner", {"audio": AUDIO, "max_new_tokens": 0}, "max_new_tokens", "greater than or equal to 1"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_field_and_says_what_to_do(
    model: str, args: dict[str, Any], field: str | None, words: str
) -> None:
    named, sentence = refusal(model, args)

    assert named == field
    assert words in sentence


def test_a_refusal_does_not_repeat_the_text() -> None:
    assert "secret" not in refusal("espeak-ng", {"text": "a secret\x00"})[1]


@pytest.mark.parametrize("audio_format", sorted(SAMPLE_RATES_HZ))
def test_every_format_takes_the_rates_that_it_offers(audio_format: str) -> None:
    model = load_catalog().get("espeak-ng")
    for rate in SAMPLE_RATES_HZ[audio_format]:
        model.parse({"text": "a", "format": audio_format, "sample_rate": rate})


def test_an_unknown_model_is_refused_with_a_guess() -> None:
    with pytest.raises(
        UnknownModel, match=r"there is no model 'espek-ng'; did you mean 'espeak-ng'\?"
    ) as caught:
        load_catalog().get("espek-ng")
    assert caught.value.field == "model"
    with pytest.raises(UnknownModel, match="there are espeak-ng, espeak-dtw, acoustic"):
        load_catalog().get("whisper")


def test_a_model_of_another_kind_is_refused_with_those_that_fit() -> None:
    with pytest.raises(UnknownModel, match="acoustic does caption jobs, not tts; for tts there is espeak-ng"):
        load_catalog().get("acoustic", "tts")


def test_a_plugin_adds_models_and_replaces_them(plugin: str) -> None:
    catalog = load_catalog([plugin])

    assert catalog.ids() == (*(model.id for model in BUILT_IN), "beep")
    assert list(Catalog([BEEP, BEEP])) == [BEEP]


@pytest.mark.parametrize("name", ["no_such_module", "json"])
def test_a_plugin_that_is_none_is_named(name: str) -> None:
    with pytest.raises(SettingsError, match=f"plugins: '{name}' is no importable module with a MODELS list"):
        load_catalog([name])


def test_the_arguments_of_an_older_row_are_brought_up_to_date() -> None:
    assert BEEP.restore({"khz": 2}, 1) == {"hz": 2000}
    assert BEEP.restore({"hz": 3}, 2) == {"hz": 3}


def test_the_arguments_of_a_newer_row_are_refused_with_what_to_do() -> None:
    with pytest.raises(SubmitRefused, match="version 9 cannot be read by version 2; submit the job again"):
        BEEP.restore({}, 9)


def test_the_languages_and_voices_ship_with_us() -> None:
    languages, variants = espeak_names()

    assert len(languages) > 100
    assert {"en-us", "de", "cmn"} <= set(languages)
    assert {"f2", "m3", "whisper"} <= set(variants)


def test_the_catalogue_loads_no_torch() -> None:
    code = (
        "import sys; from soundmill.storage.catalog import load_catalog; load_catalog(); "
        "sys.exit(bool({'torch', 'transformers', 'sqlalchemy'} & sys.modules.keys()))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
