from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from soundmill.models import picture
from soundmill.models.alignment_files import as_json, write_files
from soundmill.models.errors import InputError, ModelUnavailable

from .aligned import aligned, detailed

pytest.importorskip("matplotlib")

Pixels = npt.NDArray[np.uint8]


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Two seconds, of which the second one sounds."""
    times = np.arange(32_000) / 16_000
    sound = 0.8 * np.sin(2 * np.pi * 1_000 * times) * (times > 1)
    soundfile.write(tmp_path / "two.wav", sound, 16_000)
    return tmp_path / "two.wav"


def pixels(path: Path) -> Pixels:
    from matplotlib.image import imread

    found: Pixels = np.rint(255 * imread(path)[..., :3]).astype(np.uint8)
    return found


def bluish(image: Pixels) -> npt.NDArray[np.bool_]:
    red, _, blue = (image[..., index].astype(int) for index in range(3))
    found: npt.NDArray[np.bool_] = blue - red > 80
    return found


def test_the_waveform_is_where_the_recording_sounds(tmp_path: Path, recording: Path) -> None:
    picture.draw(tmp_path / "a.png", replace(detailed(), words=[]), recording)
    columns = bluish(pixels(tmp_path / "a.png")).sum(axis=0)
    half = len(columns) // 2
    assert columns[half:].sum() > 20 * max(1, columns[: half - 60].sum())


def test_words_are_on_it_where_they_are_said(tmp_path: Path, recording: Path) -> None:
    bare = tmp_path / "bare.png"
    picture.draw(bare, replace(detailed(), words=[]), recording)
    for text, start_s, end_s in (("one", 0.2, 0.6), ("two", 1.2, 1.8)):
        path = tmp_path / f"{text}.png"
        picture.draw(
            path, replace(aligned(text, [(start_s, end_s)], duration_s=2.0), model="built"), recording
        )
        changed = np.flatnonzero((pixels(path) != pixels(bare)).any(axis=(0, 2)))
        width = pixels(path).shape[1]
        assert start_s / 2 - 0.05 < changed[0] / width < changed[-1] / width < end_s / 2 + 0.05


def test_a_long_recording_has_a_row_for_each_ten_seconds(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.wav", np.zeros(16_000 * 25), 16_000)
    spans = [(1.0, 2.0), (11.0, 12.0), (24.0, 25.0)]
    picture.draw(tmp_path / "long.png", aligned("a b c", spans, duration_s=25.0), tmp_path / "long.wav")
    assert pixels(tmp_path / "long.png").shape[0] == round(100 * (3 * 2.6 + 0.4))


def test_an_hour_is_drawn_in_as_many_rows_as_a_page_holds() -> None:
    assert picture._rows(3600.0) == (30, 120.0)
    assert picture._rows(10.0) == (1, 10.0)
    assert picture._rows(0.5) == (1, 0.5)


def test_what_the_font_does_not_have_is_shown_romanised(tmp_path: Path, recording: Path) -> None:
    words = [
        replace(word, text=text, romanized=romanized)
        for word, text, romanized in zip(
            detailed().words, ["世", "$x^2$", "界"], ["shi", None, None], strict=True
        )
    ]
    legible = picture._Legible()
    assert [legible.text(word) for word in words] == ["shi", "$x^2$", "·"]
    picture.draw(tmp_path / "a.png", replace(detailed(), words=words), recording)


def test_it_is_drawn_from_files_too(tmp_path: Path, recording: Path) -> None:
    (tmp_path / "alignment.json").write_text(as_json(detailed()), encoding="utf-8")
    arguments = [str(tmp_path / name) for name in ("alignment.json", "two.wav", "out.png")]
    subprocess.run([sys.executable, "-m", "soundmill.models.picture", *arguments], check=True)
    write_files(tmp_path, detailed(), ("png",), recording)
    assert np.array_equal(pixels(tmp_path / "out.png"), pixels(tmp_path / "alignment.png"))


def test_a_recording_that_cannot_be_read_is_said_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match="does not exist"):
        picture.draw(tmp_path / "a.png", detailed(), tmp_path / "none.wav")
    (tmp_path / "alignment.json").write_text(json.dumps(json.loads(as_json(detailed()))), encoding="utf-8")
    assert (
        picture.main([str(tmp_path / "alignment.json"), str(tmp_path / "none.wav"), str(tmp_path / "a.png")])
        == 1
    )
    assert capsys.readouterr().err == "the audio file does not exist\n"


def test_without_matplotlib_the_extra_is_named(
    tmp_path: Path, recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModelUnavailable, match=r"pip install 'soundmill\[plot\]', or leave png out"):
        picture.draw(tmp_path / "a.png", detailed(), recording)
