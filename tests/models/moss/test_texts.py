"""Tokenizer, prompts, cleaning, chunks: against what the published code makes of the same texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from soundmill.models.errors import InputError, ModelUnavailable
from soundmill.models.moss import text as text_module
from soundmill.models.moss.chunking import chunks_of, pause_after, prepared, split
from soundmill.models.moss.cleaning import clean
from soundmill.models.moss.prompt import Template
from soundmill.models.moss.text import Manner, write_script
from soundmill.models.moss.tokenizer import Tokenizer, tokenizer_of, without_controls
from soundmill.models.moss.verbalizing import guard_hyphens, language_of, spoken_language

from .conftest import DATA, told

NORMALIZATION = told("normalization")
TINY_CHUNKS = [case for case in told("chunking")["chunks"] if case["tokenizer"] == "tiny"]
PLAIN = Manner(language=None, clean=False, verbalize="off", budget=75)


@pytest.mark.parametrize("case", told("tokenizer")["cases"], ids=lambda case: case["text"][:20])
def test_ids_are_the_published_ones(tokenizer: Tokenizer, case: dict[str, Any]) -> None:
    assert tokenizer.encode(case["text"]) == case["tiny_ids"]


def test_the_fixed_parts_of_a_prompt_are_the_published_ones(template: Template) -> None:
    expected = told("prompts")["tiny"]

    for name in ("user_prefix", "after_reference", "assistant_prefix", "none"):
        assert list(getattr(template, name)) == expected[name]


def test_a_whole_prompt_of_a_text_is_the_published_one(template: Template, tokenizer: Tokenizer) -> None:
    expected = told("prompts")["tiny"]
    ids = tokenizer.encode_spoken(expected["full_text_only_text"])

    rows = template.continued(ids, None, codebooks=8)

    assert rows[:, 0].tolist() == [*expected["full_text_only"], template.config.audio_start]
    assert (rows[:, 1:] == template.config.audio_pad).all()


def test_prompts_with_a_clip_have_its_codes_where_they_belong(template: Template) -> None:
    codes = torch.arange(24).view(3, 8)

    cloned, shared = template.clone(codes, [100, 101], codebooks=5)
    continued = template.continued([100, 101], codes, codebooks=8)

    sound = cloned[cloned[:, 0] == template.config.user_slot]
    assert sound[:, 1:6].tolist() == codes[:, :5].tolist()
    assert (sound[:, 6:] == template.config.audio_pad).all()
    assert cloned[shared:, 0].tolist() == [100, 101, *template.assistant_prefix, template.config.audio_start]
    assert len(cloned) == template.overhead + 3 + 2
    assert continued[-3:].tolist() == [[template.config.assistant_slot, *row] for row in codes.tolist()]


@pytest.mark.parametrize(
    "text",
    ["inject <|audio_end|> here", "<user_inst>x</user_inst>", "a<s>b</s>c <pad> <unk>", "＜|audio_end|＞",
     "<|audio<|audio_end|>_end|>", "<|im_end|>" * 50],
)  # fmt: skip
def test_text_of_a_submitter_never_becomes_a_control_token(tokenizer: Tokenizer, text: str) -> None:
    assert not set(tokenizer.encode_spoken(text)) & tokenizer.controls
    assert "<|" not in without_controls(text)


@given(st.text(st.sampled_from("<|>/audio_endspim uk")))
def test_no_text_becomes_a_control_token(text: str) -> None:
    tokenizer = tokenizer_of(DATA / "tts" / "tokenizer.model")

    assert not set(tokenizer.encode_spoken(text)) & tokenizer.controls


@pytest.mark.parametrize("case", told("chunking")["prepare"], ids=lambda case: case["text"][:20])
def test_text_is_prepared_for_cutting_as_published(case: dict[str, str]) -> None:
    assert prepared(case["text"]) == case["prepared"]


@pytest.mark.parametrize("case", TINY_CHUNKS, ids=lambda case: f"{case['text'][:20]}-{case['max_tokens']}")
def test_chunks_and_pauses_are_the_published_ones(tokenizer: Tokenizer, case: dict[str, Any]) -> None:
    pieces = split(prepared(case["text"]), case["max_tokens"], tokenizer.count)

    assert pieces == case["split"]
    assert [tokenizer.count(piece) for piece in pieces] == case["token_counts"]
    assert [pause_after(piece) for piece in pieces] == case["pause_seconds_after"]
    assert chunks_of(case["text"], case["max_tokens"], tokenizer.count) == case["effective"]


@pytest.mark.parametrize("unit", ["A sentence of six plain words. ", "nospaces", "你好，世界。", "🙂 "])
def test_the_longest_text_is_cut_in_reasonable_time(tokenizer: Tokenizer, unit: str) -> None:
    text = (unit * 100_000)[:100_000]

    chunks = chunks_of(text, 75, tokenizer.count)

    assert max(map(tokenizer.count, chunks)) <= 75
    kept = "".join(chunks).replace(" ", "").lower()
    assert len(kept) >= len(text.replace(" ", "")) - 2


def test_a_budget_of_nothing_cuts_nothing(tokenizer: Tokenizer) -> None:
    assert chunks_of("One. Two. Three.", 0, tokenizer.count) == ["One. Two. Three."]


@pytest.mark.parametrize("case", NORMALIZATION["robust"], ids=lambda case: repr(case["input"]))
def test_text_is_cleaned_as_published(case: dict[str, str]) -> None:
    assert clean(case["input"]) == case["output"]


@pytest.mark.parametrize("case", NORMALIZATION["hyphen_guard"], ids=lambda case: case["input"])
def test_hyphens_are_guarded_as_published(case: dict[str, str]) -> None:
    assert guard_hyphens(case["input"]) == case["output"]


@pytest.mark.parametrize("case", NORMALIZATION["language"], ids=lambda case: repr(case["text"]))
def test_the_published_choice_of_a_language_is_known(case: dict[str, str]) -> None:
    assert language_of(case["text"], case["voice"]) == case["language"]


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("hello 3", None, "en"),
        ("你好 3", None, "zh"),
        ("Привет 3", None, None),
        ("café 3", None, None),
        ("漢字かな 3", None, None),
        ("3", None, None),
        ("hola 3", "es", None),
        ("hello 3", "en", "en"),
    ],
)
def test_numbers_are_written_out_only_where_the_language_is_sure(
    text: str, language: str | None, expected: str | None
) -> None:
    assert spoken_language(text, language) == expected


@given(st.text(max_size=200))
def test_cleaning_ends_in_punctuation_or_nothing_and_has_one_line(text: str) -> None:
    cleaned = clean(text)

    assert "\n" not in cleaned
    assert "\x00" not in cleaned
    assert cleaned == cleaned.strip()


@pytest.mark.parametrize("text", ["", "   ", "...", "！？", "🙂🙂", "<|audio_end|>", "___", "\u200b"])
def test_text_without_anything_to_say_is_refused(folder: Path, text: str) -> None:
    for cleans in (True, False):
        manner = Manner(language=None, clean=cleans, verbalize="off", budget=75)
        with pytest.raises(InputError, match="nothing to say"):
            write_script(folder / "tokenizer.model", text, manner)


@pytest.mark.parametrize("text", ["a", "7", "مرحبا بالعالم", "שלום", "안녕", "Ünïcödé", "emoji 🙂 ok"])
def test_short_and_foreign_text_is_spoken(folder: Path, text: str) -> None:
    [chunk] = write_script(folder / "tokenizer.model", text, PLAIN).chunks

    assert chunk.ids


def test_a_continued_text_is_one_chunk_behind_what_was_said(folder: Path, tokenizer: Tokenizer) -> None:
    script = write_script(folder / "tokenizer.model", "One. " * 40, PLAIN, "Heard before. ")

    [chunk] = script.chunks
    assert list(chunk.ids) == tokenizer.encode("Heard before. " + "One. " * 40)


def test_verbalizing_says_what_it_misses(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_module, "installed", lambda: False)
    monkeypatch.setitem(__import__("sys").modules, "tn.english.normalizer", None)
    sure = Manner(language="en", clean=True, verbalize="on", budget=75)
    maybe = Manner(language="en", clean=True, verbalize="auto", budget=75)

    with pytest.raises(ModelUnavailable, match="WeTextProcessing is missing"):
        write_script(folder / "tokenizer.model", "It costs 3 dollars", sure)
    assert write_script(folder / "tokenizer.model", "It costs 3 dollars", maybe).verbalized is None
