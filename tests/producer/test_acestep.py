"""What ACE-Step's training reads of a batch: the data set, the table and the lyrics."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from soundmill.producer import Producer, Request
from soundmill.producer.cli import build_app
from soundmill.producer.export import exporter
from soundmill.producer.export.acestep import INSTRUMENTAL, is_transcript, length_of, read_transcript
from soundmill.producer.export.entry import Shape
from soundmill.producer.export.exporter import Exporter
from soundmill.storage.attempts import Made

from .playing import finish

TRANSCRIPT = "# Languages\nen, es\n\n# Lyrics\n[Verse]\nHello there\n\n[Chorus]\nAgain"
TEMPO = {"tempo": {"bpm": 119.7, "confidence": 0.9}, "key": {"name": "A minor", "confidence": 0.8}}


def sound(folder: Path, hz: float, name: str = "a.wav") -> bytes:
    path = folder / name
    soundfile.write(path, 0.1 * np.sin(np.arange(8000) * hz / 2546), 16000)
    return path.read_bytes()


def caption(
    producer: Producer,
    audio: Any,
    result: Mapping[str, Any] | None,
    *,
    model: str = "acestep-captioner",
    custom_id: str | None = None,
    audio_s: float = 12.4,
    **args: Any,
) -> str:
    """Submit a job about `audio` and complete it with `result`, unless there is none."""
    request = Request(model=model, args={"audio": audio, **args}, batch="songs", custom_id=custom_id)
    [item] = producer.submit_many([request])
    assert item.job is not None, item
    if result is not None:
        finish(producer, item.job.id, result=dict(result), metrics={"audio_s": audio_s})
    return item.job.id


def words(text: str, tokens: int) -> dict[str, Any]:
    return {"caption": text, "tokens": {"prompt": 30, "audio": 100, "caption": tokens}}


def dataset(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    return found


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "captions.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def songs(producer: Producer, tmp_path: Path) -> Producer:
    """One song that three jobs heard, and one that a single job described."""
    first, second = sound(tmp_path, 440), sound(tmp_path, 220)
    caption(producer, first, words('A warm\nguitar song, with "quotes".', 12), custom_id="dir/song")
    caption(producer, first, words(TRANSCRIPT, 20), task="transcribe", custom_id="song lyrics")
    caption(
        producer, first, {"caption": "Music at 120 BPM.", **TEMPO}, model="acoustic", custom_id="measures"
    )
    caption(producer, second, words("A low tone.", 300), custom_id="tone")
    return producer


def test_all_jobs_about_one_audio_make_one_sample(songs: Producer, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = Exporter(songs, "songs", out, shape=Shape.ACESTEP).run()
    document = dataset(out)
    [song, tone] = document["samples"]

    assert (found.completed, found.copied, found.missing) == (4, 2, 0)
    assert document["metadata"] | {"created_at": ""} == {
        "name": "songs", "custom_tag": "", "tag_position": "prepend", "created_at": "", "num_samples": 2,
        "all_instrumental": False, "genre_ratio": 0,
    }  # fmt: skip
    assert song | {"id": ""} == {
        "id": "", "audio_path": str(out / "0000" / "dir_song.wav"), "filename": "dir_song.wav",
        "caption": 'A warm\nguitar song, with "quotes".', "genre": "",
        "lyrics": "[Verse]\nHello there\n\n[Chorus]\nAgain", "raw_lyrics": "[Verse]\nHello there\n\n[Chorus]\nAgain",
        "formatted_lyrics": "", "bpm": 120, "keyscale": "A minor", "timesignature": "", "duration": 12,
        "language": "en", "is_instrumental": False, "custom_tag": "", "labeled": True, "prompt_override": None,
    }  # fmt: skip
    assert len(song["id"]) == 8
    assert int(song["id"], 16) >= 0
    assert Path(song["audio_path"]).read_bytes() == sound(tmp_path, 440)
    assert (tone["lyrics"], tone["is_instrumental"], tone["bpm"]) == (INSTRUMENTAL, True, None)
    assert (out / "0000" / "dir_song.txt").read_text() == song["lyrics"] + "\n"
    assert not (out / "0000" / "tone.txt").exists()


def test_the_table_names_files_by_their_bare_names(songs: Producer, tmp_path: Path) -> None:
    Exporter(songs, "songs", tmp_path / "out", shape=Shape.ACESTEP).run()

    assert (tmp_path / "out" / "captions.csv").read_text().splitlines()[0] == "File,BPM,Key,Caption"
    assert table(tmp_path / "out") == [
        {"File": "dir_song.wav", "BPM": "120", "Key": "A minor",
         "Caption": 'A warm guitar song, with "quotes".'},
        {"File": "tone.wav", "BPM": "", "Key": "", "Caption": "A low tone."},
    ]  # fmt: skip


def test_what_training_would_cut_or_assume_is_said(songs: Producer, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = Exporter(songs, "songs", out, shape=Shape.ACESTEP).run()
    lines = {line["id"]: line for line in lines_of(out / "metadata.jsonl")}

    assert any(text.startswith("1 captions exceed 256 tokens") for text in found.warnings)
    assert any(text.startswith("1 samples have no transcript") for text in found.warnings)
    assert len(found.warnings) == 2
    assert (lines["tone"]["tokens"], lines["tone"]["cut_by_training"]) == (300, True)
    assert (lines["dir/song"]["tokens_estimated"], lines["dir/song"]["cut_by_training"]) == (False, False)
    assert lines["measures"]["tokens_estimated"]
    assert "256 tokens" in (out / "README.md").read_text()


def test_names_are_unique_in_the_whole_export_and_stay_when_more_is_done(
    producer: Producer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "JOBS_IN_FOLDER", 2)
    first = sound(tmp_path, 100)
    late = caption(producer, first, None, custom_id="late")
    for place in range(4):
        caption(producer, sound(tmp_path, 200 + place), words("x", 1), custom_id="same")
    caption(producer, first, words("early", 1), custom_id="early")
    out = tmp_path / "out"
    before = Exporter(producer, "songs", out, shape=Shape.ACESTEP).run()
    names = [sample["filename"] for sample in dataset(out)["samples"]]
    finish(producer, late, result=words("late", 1), metrics={"audio_s": 1.0})
    after = Exporter(producer, "songs", out, shape=Shape.ACESTEP).run()

    assert len({name.lower() for name in names}) == len(names) == 5
    assert "late.wav" in names, "the first job that names an audio names its file"
    assert (before.copied, after.copied, after.kept) == (5, 0, 5)
    assert sorted(sample["filename"] for sample in dataset(out)["samples"]) == sorted(names)


def test_formats_that_training_does_not_look_for_are_left_out_and_named(
    producer: Producer, tmp_path: Path
) -> None:
    caption(producer, sound(tmp_path, 300, "a.aiff"), words("x", 1))
    caption(producer, sound(tmp_path, 300, "a.ogg"), words("y", 1), custom_id="kept")
    found = Exporter(producer, "songs", tmp_path / "out", shape=Shape.ACESTEP).run()

    assert [sample["filename"] for sample in dataset(tmp_path / "out")["samples"]] == ["kept.ogg"]
    assert any("1 files are of a format" in text and "1 .aiff" in text for text in found.warnings)


def test_jobs_that_say_nothing_about_audio_are_counted_as_left_out(
    producer: Producer, tmp_path: Path
) -> None:
    [item] = producer.submit_many([Request(model="espeak-ng", args={"text": "one"}, batch="songs")])
    assert item.job is not None
    finish(producer, item.job.id, result={"audio": {}})
    found = Exporter(producer, "songs", tmp_path / "out", shape=Shape.ACESTEP).run()

    assert (found.missing, dataset(tmp_path / "out")["samples"], table(tmp_path / "out")) == (1, [], [])


def test_audio_of_another_job_is_found(producer: Producer, tmp_path: Path) -> None:
    [item] = producer.submit_many([Request(model="espeak-ng", args={"text": "one"}, batch="speech")])
    assert item.job is not None
    (tmp_path / "made").write_bytes(sound(tmp_path, 500))
    blob = producer.blobs.put(tmp_path / "made")
    made = Made(name="audio.wav", role="audio", sha256=blob.sha256, size=blob.size, media_type="audio/wav")
    finish(producer, item.job.id, artifacts=(made,))
    caption(producer, {"job": item.job.id}, words("A voice.", 4), custom_id="voice")
    for shape in (Shape.ACESTEP, Shape.AUDIOFOLDER):
        Exporter(producer, "songs", tmp_path / shape, shape=shape).run()

    assert [sample["filename"] for sample in dataset(tmp_path / "acestep")["samples"]] == ["voice.wav"]
    [row] = lines_of(tmp_path / "audiofolder" / "metadata.jsonl")
    assert (row["file_name"], row["caption"]) == ("0000/voice.wav", "A voice.")


def test_an_audiofolder_and_json_lines_carry_captions_too(songs: Producer, tmp_path: Path) -> None:
    Exporter(songs, "songs", tmp_path / "folder", shape=Shape.AUDIOFOLDER).run()
    Exporter(songs, "songs", tmp_path / "lines", shape=Shape.JSONL).run()
    rows = lines_of(tmp_path / "folder" / "metadata.jsonl")

    assert [row["caption"] for row in rows][3] == "A low tone."
    assert all((tmp_path / "folder" / row["file_name"]).is_file() for row in rows)
    assert lines_of(tmp_path / "lines" / "metadata.jsonl")[3]["result"]["tokens"]["caption"] == 300


def test_the_command_writes_it_and_says_the_warnings(
    small_producer: Producer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOUNDMILL_STATE_DIR", str(small_producer.settings.state_dir))
    caption(small_producer, sound(tmp_path, 440), words("long", 257))
    done = CliRunner().invoke(build_app(), ["batch", "export", "songs", "out", "--format", "acestep"])
    as_json = CliRunner().invoke(
        build_app(), ["batch", "export", "songs", "out", "--format", "acestep", "--json"]
    )

    assert done.exit_code == 0, done.stderr
    assert "1 captions exceed 256 tokens" in " ".join(done.stderr.split())
    assert len(json.loads(as_json.stdout)["warnings"]) == 2
    assert dataset(tmp_path / "out")["metadata"]["num_samples"] == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (TRANSCRIPT, ("en", "[Verse]\nHello there\n\n[Chorus]\nAgain")),
        ("la la", ("", "la la")),
        ("# Lyrics\n", ("", INSTRUMENTAL)),
        ("", ("", INSTRUMENTAL)),
        ("# Languages\nzh\n# Lyrics\n[Instrumental]", ("zh", INSTRUMENTAL)),
        ("#  lyrics:\n# not a heading\nx", ("", "# not a heading\nx")),
        ("# Languages\nen\n\n# Lyrics\na\n\n# Languages\nen\n\n# Lyrics\nb", ("en", "a\n\nb")),
    ],
)
def test_transcripts_are_read_with_and_without_headings(text: str, expected: tuple[str, str]) -> None:
    assert read_transcript(text) == expected


def test_a_transcript_is_told_by_its_task_or_its_headings() -> None:
    assert is_transcript({"task": "transcribe", "prompt": None}, "la")
    assert not is_transcript({"task": "transcribe", "prompt": "Describe the mood."}, "calm")
    assert is_transcript({"task": "describe", "prompt": "Write down the words."}, "# Lyrics\nla")
    assert not is_transcript({}, "The lyrics are sad.")


def test_tokens_that_nobody_counted_are_estimated_on_the_safe_side() -> None:
    assert length_of("a" * 40, {}).tokens == 10
    assert length_of("一二三 a", {}).tokens == 4
    assert length_of("a" * 40, {"tokens": {"caption": 9}}).tokens == 9


def test_names_and_captions_of_strangers_stay_text(small_producer: Producer, tmp_path: Path) -> None:
    """In the table no formula, in the card no markup, on the disk no way out."""
    formula = '=HYPERLINK("http://evil","x")'
    audio = sound(tmp_path, 440)
    batch = "<script>alert(1)</script> [x](javascript:1)\n# forged\u202e"
    request = Request(
        model="acestep-captioner", args={"audio": audio}, batch=batch, custom_id="../../=cmd\x1b[2J\nCON"
    )
    [item] = small_producer.submit_many([request])
    assert item.job is not None
    finish(small_producer, item.job.id, result=words(formula, 5), metrics={"audio_s": 1.0})
    out = tmp_path / "out"
    exporter.Exporter(small_producer, batch, out, shape=Shape.ACESTEP).run()

    [row] = table(out)
    assert row["Caption"] == f"'{formula}"
    assert dataset(out)["samples"][0]["caption"] == formula
    [path] = list(out.rglob("*.wav"))
    assert path.parent == out / "0000"
    assert path.name == row["File"] == "_._.._=cmd_[2J_CON.wav"
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "\\<script\\>" in card
    assert not any(line.startswith("# forged") for line in card.splitlines())
    assert not set(card) & set("\u202e\x1b")
    assert "<script" not in card.replace("\\<script", "")
