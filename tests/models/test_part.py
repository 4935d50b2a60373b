"""Parts of a run: what they say is said of the whole."""

from __future__ import annotations

from pathlib import Path

from soundmill.models.part import RunPart

from .speech import FakeRun


def test_progress_and_what_was_made_are_those_of_the_whole(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run")
    part = RunPart(run, begin=0.5, share=0.25, made={"frames": 10, "audio_s": 0.75})
    part.checkpoint()
    part.checkpoint(0.5, {"frames": 2, "audio_s": 0.25})

    assert run.checkpoints == 2
    assert run.progress == [0.625]
    assert run.made == [{"frames": 12, "audio_s": 1.0}]
    assert part.scratch == run.scratch
    with part.phase("decode"):
        assert run.phases == ["decode"]


def test_a_part_without_a_share_keeps_its_progress_to_itself(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run")
    RunPart(run, begin=0.0, share=0.0).checkpoint(0.5, {"frames": 2})

    assert (run.checkpoints, run.progress, run.made) == (1, [], [])
