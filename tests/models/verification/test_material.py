"""The fixed material is the same everywhere, and what is given replaces it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from soundmill.models.errors import InputError
from soundmill.models.verification.material import DURATION_S, SAMPLE_RATE_HZ, gather, syllables


def test_the_fixed_audio_is_three_seconds_of_something_like_speech() -> None:
    samples = syllables()
    assert len(samples) == DURATION_S * SAMPLE_RATE_HZ
    assert np.abs(samples).max() == pytest.approx(0.5)
    assert samples.dtype == np.float32
    assert np.array_equal(samples, syllables())
    loud = np.abs(samples).reshape(-1, 1200).max(1) > 0.02
    assert 0.6 < loud.mean() < 0.95, "it has pauses"


def test_the_fixed_texts_are_short_and_medium_english_and_chinese(tmp_path: Path) -> None:
    texts = gather(tmp_path).texts
    assert {name: text.language for name, text in texts.items()} == {
        "short": "eng", "medium": "eng", "chinese": "cmn",
    }  # fmt: skip
    assert len(texts["short"].words) < len(texts["medium"].words) / 3


@pytest.mark.parametrize(
    ("text", "language", "found"),
    [
        ("Good morning.", None, "eng"),
        ("早上好。Hi", None, "cmn"),
        ("Guten Morgen.", "deu", "deu"),
        ("12", None, "eng"),
    ],
)
def test_a_given_text_stands_alone_and_has_a_language(
    tmp_path: Path, text: str, language: str | None, found: str
) -> None:
    texts = gather(tmp_path, text=text, language=language).texts
    assert {name: (one.words, one.language) for name, one in texts.items()} == {"given": (text, found)}


def test_given_audio_is_heard_at_any_rate_and_no_longer_than_asked(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.full((16000, 2), 0.25, np.float32), 8000)
    material = gather(tmp_path, audio=tmp_path / "a.wav")
    assert len(material.samples(16000, longest_s=1.5)) == 24000
    assert len(material.samples(16000)) == 32000
    assert material.samples(16000)[16000] == pytest.approx(0.25, abs=1e-3)


def test_audio_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_text("no audio")
    with pytest.raises(InputError):
        gather(tmp_path, audio=tmp_path / "a.wav")


def test_random_numbers_depend_on_the_seed_and_their_name_alone(tmp_path: Path) -> None:
    def drawn(seed: int, name: str) -> list[int]:
        generator = gather(tmp_path, seed=seed).generator(name)
        return torch.randint(1000, (8,), generator=generator).tolist()  # type: ignore[no-any-return]

    assert drawn(1, "a") == drawn(1, "a")
    assert len({tuple(drawn(seed, name)) for seed in (1, 2) for name in "ab"}) == 4
