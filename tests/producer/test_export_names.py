"""Names of exported files: safe everywhere, unique in their folder, and the same every time."""

from __future__ import annotations

import unicodedata
from pathlib import PurePosixPath, PureWindowsPath
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundmill.producer.export.names import LONGEST_STEM_BYTES, file_names, folded, safe_stem, stems


def job(custom_id: str | None, number: int = 0) -> Any:
    return SimpleNamespace(id=f"01ARZ3NDEKTSV4RRFFQ6{number:06}", custom_id=custom_id)


def names_of(*custom_ids: str | None) -> list[str]:
    return list(stems(job(custom_id, number) for number, custom_id in enumerate(custom_ids)).values())


@pytest.mark.parametrize(
    ("text", "stem"),
    [
        ("utt-0001", "utt-0001"),
        ("Grüße 世界 – ça", "Grüße 世界 – ça"),
        ("../../etc/passwd", "_._.._etc_passwd"),
        ("/etc/passwd", "_etc_passwd"),
        ("c:\\windows", "c__windows"),
        ("train/clip.wav", "train_clip"),
        ("CON", "_CON"),
        ("nul.txt.old", "_nul.txt.old"),
        ("com¹", "_com¹"),
        ("a. . ", "a"),
        (".hidden", "_hidden"),
        ("a\u202egpj", "a_gpj"),
        ("a\nb\x1b[31m", "a_b_[31m"),
        ("cafe\u0301", "caf\u00e9"),
        ("-rf", "_-rf"),
        ("=1+1", "_=1+1"),
        ("@SUM(A1)", "_@SUM(A1)"),
        ("＝1", "_＝1"),
        ("~root", "_~root"),
        ("x\x00.wav", "x_"),
        ("\u2066x\u2069\ufeff", "_x__"),
        ("..", ""),
        (".wav", ""),
        ("", ""),
    ],
)
def test_what_no_file_may_be_called_is_taken_out(text: str, stem: str) -> None:
    assert safe_stem(text) == stem


@given(st.text(max_size=300))
def test_any_text_gives_one_harmless_part_of_a_path(text: str) -> None:
    stem = safe_stem(text)
    name = f"{stem}.wav"

    assert len(stem.encode()) <= LONGEST_STEM_BYTES
    assert PurePosixPath(name).name == PureWindowsPath(name).name == name
    assert not stem.startswith((".", "-", "=", "+", "@"))
    assert not stem.endswith((".", " "))
    assert safe_stem(stem) == stem or stem != unicodedata.normalize("NFC", text)


def test_long_ids_stay_apart() -> None:
    first, second = safe_stem("é" * 500 + "1"), safe_stem("é" * 500 + "2")

    assert first != second
    assert len(first.encode()) <= LONGEST_STEM_BYTES


def test_names_that_some_file_systems_take_for_one_are_told_apart() -> None:
    names = names_of(
        "a", "A", "a.wav", "straße", "STRASSE", "cafe\u0301", "caf\u00e9", "x/y", "x:y", None, ".."
    )

    assert len({folded(name) for name in names}) == len(names)
    assert names[:1] == ["a"]
    assert names[-2:] == ["01ARZ3NDEKTSV4RRFFQ6000009", "01ARZ3NDEKTSV4RRFFQ6000010"]


@given(st.lists(st.text(max_size=5), max_size=60))
def test_names_of_a_folder_are_unique_and_depend_on_order_only(custom_ids: list[str]) -> None:
    names = names_of(*custom_ids)

    assert len({folded(name) for name in names}) == len(names)
    assert names == names_of(*custom_ids)
    assert names[: len(names) // 2] == names_of(*custom_ids[: len(names) // 2])


def test_several_files_of_a_job_have_several_names() -> None:
    files: list[Any] = [
        SimpleNamespace(name="alignment.json", media_type="application/json"),
        SimpleNamespace(name="alignment.TextGrid", media_type="text/x-praat-textgrid"),
        SimpleNamespace(name="metrics.json", media_type="application/json"),
        SimpleNamespace(name="input/audio", media_type="audio/flac"),
        SimpleNamespace(name="odd.e/x", media_type="application/x-odd"),
    ]

    assert [name for _, name in file_names("a", files)] == [
        "a.json", "a.TextGrid", "a~metrics.json", "a.flac", "a.bin",
    ]  # fmt: skip
