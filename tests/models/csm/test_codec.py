"""Mimi in pieces: audio out of frames, and frames out of recordings, as if done at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from soundmill.models.csm import decoder, encoder
from soundmill.models.csm.checkpoint import Checkpoint
from soundmill.models.csm.decoder import Decoder
from soundmill.models.csm.encoder import Encoder
from soundmill.models.csm.pace import Pace
from soundmill.models.csm.speaker import Frames
from soundmill.models.device import Device
from soundmill.models.engine.ports import Item


def codes(frames: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(1, 64, (frames, 32), generator=torch.Generator().manual_seed(seed))


def item(frames: torch.Tensor, *, ended: bool = False) -> Any:
    return Item(payload=Frames(codes=frames, ended=ended))


def finish(model: Any, items: Sequence[Item[Any, Any]], paces: Sequence[int] = (10**9,)) -> int:
    """Run until all is done, each call affording the next number of frames; returns the calls."""
    calls = 0
    while left := [one for one in items if not one.done]:
        model._pace._frame_s = 1.0
        model.run(left[: model.max_items], paces[calls % len(paces)])
        calls += 1
    return calls


def at_once(checkpoint: Checkpoint, frames: torch.Tensor) -> Any:
    with torch.no_grad():
        return checkpoint.model.codec_model.decode(frames.t()[None]).audio_values[0, 0].numpy()


@pytest.fixture
def speech_decoder(checkpoint: Checkpoint, device: Device) -> Decoder:
    return Decoder(checkpoint.model.codec_model, checkpoint.sizes, device)


@pytest.fixture
def recording_encoder(checkpoint: Checkpoint, device: Device) -> Encoder:
    return Encoder(checkpoint.model.codec_model, checkpoint.sizes, device)


def test_the_golden_codes_become_the_golden_audio(speech_decoder: Decoder, golden: Mapping[str, Any]) -> None:
    one = item(torch.from_numpy(golden["mimi_codes"]).long())
    finish(speech_decoder, [one])

    np.testing.assert_allclose(one.result.audio, golden["mimi_audio"], atol=1e-3)
    np.testing.assert_array_equal(one.result.codes, golden["mimi_codes"])


@pytest.mark.parametrize("case", ["text0", "text1"])
def test_the_golden_speech_ends_where_transformers_ends_it(
    speech_decoder: Decoder, golden: Mapping[str, Any], case: str
) -> None:
    frames = torch.from_numpy(golden[f"{case}_codes"]).long()[:24]
    one = item(frames, ended=len(golden[f"{case}_codes"]) <= 24)
    finish(speech_decoder, [one])

    np.testing.assert_allclose(one.result.audio, golden[f"{case}_audio_24f"], atol=1e-3)


def test_a_last_frame_that_does_not_end_in_all_codebooks_is_heard(
    speech_decoder: Decoder, golden: Mapping[str, Any]
) -> None:
    heard = item(torch.from_numpy(golden["eos31_codes"]).long(), ended=True)
    silent = item(torch.zeros((1, 32), dtype=torch.int64), ended=True)
    finish(speech_decoder, [heard, silent])

    assert (len(heard.result.codes), len(heard.result.audio)) == (3, 3 * 1920)
    assert (len(silent.result.codes), len(silent.result.audio)) == (0, 0)


@pytest.mark.parametrize("paces", [(8,), (9, 64, 17), (10**6,)], ids=str)
def test_pieces_of_any_size_join_to_what_is_decoded_at_once(
    checkpoint: Checkpoint, speech_decoder: Decoder, paces: Sequence[int]
) -> None:
    # 150 frames are 300 latents, more than the transformer remembers.
    lengths = (9, 150, 1, 17, 8, 33)
    items = [item(codes(length, seed=length)) for length in lengths]
    finish(speech_decoder, items, paces)

    for one in items:
        frames = one.result.codes.long()
        np.testing.assert_allclose(one.result.audio, at_once(checkpoint, frames), atol=2e-4)


def test_a_call_is_bounded_and_rows_share_it(
    speech_decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[int]] = []
    advance = speech_decoder._advance

    def noted(states: Any, counts: Sequence[int]) -> None:
        calls.append(list(counts))
        advance(states, counts)

    monkeypatch.setattr(speech_decoder, "_advance", noted)
    finish(speech_decoder, [item(codes(40, seed)) for seed in range(5)], [40])

    assert max(len(counts) * max(counts) for counts in calls) <= 40 + 2 * decoder.LEAST_FRAMES
    assert [8] * 5 in calls
    assert min(min(counts) for counts in calls) >= decoder.LEAST_FRAMES


def test_a_call_that_fails_has_advanced_nothing(
    checkpoint: Checkpoint, speech_decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = item(codes(40))
    speech_decoder._pace._frame_s = 1.0
    speech_decoder.run([one], 16)
    with monkeypatch.context() as patch:
        patch.setattr(decoder, "run_window", _no_memory)
        with pytest.raises(torch.OutOfMemoryError):
            speech_decoder.run([one], 16)
    finish(speech_decoder, [one], [16])

    np.testing.assert_allclose(one.result.audio, at_once(checkpoint, codes(40)), atol=2e-4)


def _no_memory(*_: Any) -> None:
    raise torch.OutOfMemoryError("no memory")


def test_how_far_the_convolutions_reach_back(checkpoint: Checkpoint) -> None:
    config = checkpoint.model.codec_model.config

    assert decoder.reach_back(config) == 8
    # 6 + 2 + 4 + 8 + 20 + 40 + 120 + 240 + 960 + 2 · 960
    assert encoder.reach_back(config) == 3320


# -- recordings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wave", "expected"), [("ctx_wav1_int16", "ctx_codes1"), ("ctx_wav2_int16", "ctx_codes2")]
)
def test_the_golden_recordings_become_the_golden_codes(
    recording_encoder: Encoder, golden: Mapping[str, Any], wave: str, expected: str
) -> None:
    one: Any = Item(payload=(golden[wave] / 32768).astype(np.float32))
    finish(recording_encoder, [one], [8])

    np.testing.assert_array_equal(one.result, golden[expected])
    assert one.result.dtype == torch.int16


@pytest.mark.parametrize("samples", [1, 959, 1920, 15_361, 168_013])
def test_recordings_in_pieces_become_the_codes_of_the_whole(
    checkpoint: Checkpoint, recording_encoder: Encoder, samples: int
) -> None:
    sound = np.random.default_rng(samples).normal(0, 0.3, samples).astype(np.float32)
    with torch.no_grad():
        found = checkpoint.model.codec_model.encode(torch.from_numpy(sound)[None, None]).audio_codes[0].t()
    one: Any = Item(payload=sound)
    calls = finish(recording_encoder, [one], [8, 20])

    assert calls >= samples / 1920 / 20
    np.testing.assert_array_equal(one.result, found)
    assert len(one.result) == checkpoint.sizes.frames_in(samples)


# -- pace ----------------------------------------------------------------------------------------------


def test_the_pace_follows_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 10.0, 10.2, 20.0, 20.0])
    monkeypatch.setattr("soundmill.models.csm.pace.time.perf_counter", lambda: next(clock))
    pace = Pace(least=8, most=1000)
    with pace.timed(0.05) as call:
        assert call.affordable == 64
        call.spent(100)  # ten milliseconds each
    with pace.timed(2.0) as call:
        assert call.affordable == 200
        call.spent(100)  # two milliseconds each
    with pace.timed(0.6) as call:
        assert call.affordable == 100  # half-way between them
