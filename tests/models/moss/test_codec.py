"""The codec against the published one: stages, codes, sound; and that no chunking changes a sample."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from soundmill.models.device import Device
from soundmill.models.engine.ports import Item
from soundmill.models.moss.codec import Codec, Stream
from soundmill.models.moss.codec_calls import Pace, ReferenceEncoder, SpeechDecoder
from soundmill.models.moss.slots import Utterance

from .conftest import told, vectors

SOUND = {"atol": 5e-5, "rtol": 0}
STRIDE = 384


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def codes_of(name: str) -> Tensor:
    """`[F, K]`."""
    return vectors("codec_decode")[f"codes.{name}"].T.contiguous()


def streamed(codec: Codec, codes: Tensor, steps: Sequence[int]) -> Tensor:
    streams, parts, at = [Stream()], [], 0
    for count in steps:
        made = codec.decode(codes[None, at : at + count], [count], streams)
        streams, at = made.streams, at + count
        parts.append(made.audio[0])
    return torch.cat(parts, dim=1)


# -- decoding ------------------------------------------------------------------------------------------


def test_every_stage_of_the_decoder_is_the_published_one(codec: Codec) -> None:
    golden = vectors("codec_decode")
    latents = codec.dequantize(codes_of("a")[None])

    torch.testing.assert_close(latents.transpose(1, 2), golden["dequant.a"], atol=1e-4, rtol=0)
    for index, stage in enumerate(codec.decoder_stages(latents)[:-1]):
        torch.testing.assert_close(stage.transpose(1, 2), golden[f"stages.decoder.{index}"], **SOUND)


@pytest.mark.parametrize("name", ["a", "b"])
def test_whole_utterances_sound_as_published(codec: Codec, name: str) -> None:
    codes = codes_of(name)

    audio = codec.decode(codes[None], [len(codes)], [Stream()]).audio[0]

    torch.testing.assert_close(audio, vectors("codec_decode")[f"audio.{name}"], **SOUND)


def test_utterances_of_different_lengths_are_decoded_together(codec: Codec) -> None:
    golden, pair = vectors("codec_decode"), [codes_of("a"), codes_of("b")]
    batch = torch.nn.utils.rnn.pad_sequence(pair, batch_first=True)

    audio = codec.decode(batch, [len(codes) for codes in pair], [Stream(), Stream()]).audio

    for row, length in enumerate(golden["batch.audio_lengths"].tolist()):
        torch.testing.assert_close(audio[row, :, :length], golden["batch.audio"][row, :, :length], **SOUND)


@pytest.mark.parametrize("masked", [True, False])
def test_a_prefix_of_the_codebooks_is_decoded_as_published(codec: Codec, masked: bool) -> None:
    codes = codes_of("a").clone()
    codes[:, 2:] = -1
    given = codes if masked else codes[:, :2]

    audio = codec.decode(given[None], [len(codes)], [Stream()]).audio[0]

    torch.testing.assert_close(audio, vectors("codec_decode")["prefix2.audio.a"], **SOUND)


def test_streaming_in_the_published_steps_is_the_published_sound(codec: Codec) -> None:
    golden, at = vectors("codec_stream"), 0
    streams, codes = [Stream()], codes_of("a")
    for index, count in enumerate(told("codec_stream")["single_steps"]):
        made = codec.decode(codes[None, at : at + count], [count], streams)
        streams, at = made.streams, at + count
        torch.testing.assert_close(made.audio[0], golden[f"single.step{index}.audio"], **SOUND)


def test_rows_may_advance_by_different_counts_and_others_take_their_place(codec: Codec) -> None:
    golden = vectors("codec_stream")
    a, b = codes_of("a"), codes_of("b")
    rows = {"r0": b, "r1": a, "r2": b}
    streams = {name: Stream() for name in rows}
    parts: dict[str, list[Tensor]] = {name: [] for name in rows}
    for step in told("codec_stream")["slot_schedule"]:
        if len(step) == 1:
            continue
        one, other, *counts = step
        names = (one, other)
        chosen = [rows[n][streams[n].frames :][:c] for n, c in zip(names, counts, strict=True)]
        batch = torch.nn.utils.rnn.pad_sequence(chosen, batch_first=True)
        made = codec.decode(batch, counts, [streams[n] for n in names])
        for row, (name, count) in enumerate(zip(names, counts, strict=True)):
            streams[name] = made.streams[row]
            parts[name].append(made.audio[row, :, : count * STRIDE])
    for name in rows:
        torch.testing.assert_close(torch.cat(parts[name], dim=1), golden[f"slots.{name}.audio"], **SOUND)


@settings(max_examples=15)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=34))
def test_no_chunking_changes_the_sound(codec_steps: list[int]) -> None:
    codec, codes = _CODEC[0], codes_of("a")
    steps, left = [], len(codes)
    for count in (*codec_steps, left):
        if left:
            steps.append(min(count, left))
            left -= steps[-1]

    found = streamed(codec, codes, steps)

    torch.testing.assert_close(found, vectors("codec_decode")["audio.a"], **SOUND)


_CODEC: list[Codec] = []


@pytest.fixture(autouse=True)
def _for_hypothesis(codec: Codec) -> None:
    _CODEC[:] = [codec]


def test_a_stream_holds_no_more_than_its_windows(codec: Codec) -> None:
    made = codec.decode(codes_of("a")[None], [34], [Stream()])

    held = made.streams[0].past
    assert sum(part.nbytes for part in held) == codec.stream_bytes
    assert all(part.untyped_storage().nbytes() == part.nbytes for part in held)


# -- encoding ------------------------------------------------------------------------------------------


def test_every_stage_of_the_encoder_is_the_published_one(codec: Codec) -> None:
    golden = vectors("codec_encode")
    sound = golden["wav.short"]
    padded = torch.nn.functional.pad(sound, (0, -sound.shape[1] % STRIDE))

    for index, stage in enumerate(codec.encoder_stages(padded[None])):
        length = int(golden[f"stages.encoder_len.{index}"])
        torch.testing.assert_close(
            stage.transpose(1, 2)[..., :length], golden[f"stages.encoder.{index}"][..., :length],
            atol=1e-4, rtol=0,
        )  # fmt: skip


@pytest.mark.parametrize("name", ["long", "short", "prompt", "tiny"])
def test_codes_of_whole_frames_are_the_published_ones(codec: Codec, device: Device, name: str) -> None:
    golden = vectors("codec_encode")
    item: Item[Tensor, Tensor] = Item(payload=golden[f"wav.{name}"])

    ReferenceEncoder(codec, device).run([item], 10.0)

    assert item.done
    assert item.result is not None
    assert item.result.T.tolist() == golden[f"single.{name}.codes"].tolist()


def test_clips_are_encoded_together_and_in_small_calls(codec: Codec, device: Device) -> None:
    golden = vectors("codec_encode")
    names = ["long", "short", "tiny", "prompt"]
    items: list[Item[Tensor, Tensor]] = [Item(payload=golden[f"wav.{name}"]) for name in names]
    encoder = ReferenceEncoder(codec, device)
    for _ in range(100):
        waiting = [item for item in items if not item.done]
        if not waiting:
            break
        encoder.run(waiting, 0.0)

    for name, item in zip(names, items, strict=True):
        assert item.result is not None
        assert item.result.T.tolist() == golden[f"single.{name}.codes"].tolist()


def test_there_and_back_is_as_published(codec: Codec) -> None:
    golden = vectors("codec_decode")
    codes = golden["roundtrip.prompt.codes"].T

    audio = codec.decode(codes[None], [len(codes)], [Stream()]).audio[0]

    torch.testing.assert_close(audio, golden["roundtrip.prompt.audio"], **SOUND)


# -- what the published code gets wrong ----------------------------------------------------------------


def decoded(decoder: SpeechDecoder, *payloads: Utterance, budget_s: float = 10.0) -> list[Tensor]:
    items: list[Item[Utterance, Tensor]] = [Item(payload=payload) for payload in payloads]
    for _ in range(1000):
        waiting = [item for item in items if not item.done]
        if not waiting:
            break
        decoder.run(waiting, budget_s)
    found = [item.result for item in items]
    assert all(result is not None for result in found)
    return [result for result in found if result is not None]


def test_as_many_frames_as_codebooks_are_not_taken_for_their_transpose(codec: Codec, device: Device) -> None:
    codes = codes_of("a")[: codec.config.codebooks]
    decoder = SpeechDecoder(codec, device)

    [square] = decoded(decoder, Utterance(codes=codes))
    [primed] = decoded(decoder, Utterance(codes=codes_of("a")[8:], primer=codes))

    golden = vectors("codec_decode")["audio.a"]
    torch.testing.assert_close(square, golden[:, : 8 * STRIDE], **SOUND)
    torch.testing.assert_close(primed, golden[:, 8 * STRIDE :], **SOUND)


def test_no_frames_are_no_sound(codec: Codec, device: Device) -> None:
    nothing = torch.zeros(0, 8, dtype=torch.int32)

    empty, primed, whole = decoded(
        SpeechDecoder(codec, device),
        Utterance(codes=nothing),
        Utterance(codes=nothing, primer=codes_of("b")),
        Utterance(codes=codes_of("b")),
    )

    assert empty.shape == primed.shape == (2, 0)
    torch.testing.assert_close(whole, vectors("codec_decode")["audio.b"], **SOUND)


def test_interleaved_streams_do_not_touch_each_other(codec: Codec, device: Device) -> None:
    golden = vectors("codec_decode")
    payloads = [Utterance(codes=codes_of(name)) for name in "abba"]

    found = decoded(SpeechDecoder(codec, device), *payloads, budget_s=0.0)

    for audio, name in zip(found, "abba", strict=True):
        torch.testing.assert_close(audio, golden[f"audio.{name}"], **SOUND)


def test_time_and_memory_do_not_grow_with_the_square_of_the_length(codec: Codec, device: Device) -> None:
    decoder = SpeechDecoder(codec, device)
    codes = torch.randint(0, 64, (1200, 8), generator=torch.Generator().manual_seed(0))
    decoded(decoder, Utterance(codes=codes[:64]))

    took = {}
    for count in (300, 1200):
        began = time.process_time()
        decoded(decoder, Utterance(codes=codes[:count]))
        took[count] = time.process_time() - began

    assert took[1200] < 10 * took[300]  # the square would be 16
    made = codec.decode(codes[None, :32], [32], [Stream()])
    assert max(part.shape[2] for part in made.streams[0].past) < 1200


def test_a_call_is_bounded_by_the_time_that_frames_took() -> None:
    pace = Pace()
    for _ in range(50):
        pace.took(0.8, 80)  # 10 ms a frame

    assert pace.share([100, 100], 0.05) == [5]
    assert pace.share([2, 3, 100], 0.05) == [2, 3]
    for _ in range(50):
        pace.took(0.001, 100)
    assert pace.share([100] * 20, 0.05) == [32] * 16
    assert Pace().share([9], 0.0) == [4]
