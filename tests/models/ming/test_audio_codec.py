from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from soundmill.models.device import Device, open_device
from soundmill.models.engine.ports import Item
from soundmill.models.ming.codec import PromptEncoder, Speech, SpeechDecoder
from soundmill.models.ming.config import AudioSize, MingConfig
from soundmill.models.ming.decoder import AudioDecoder
from soundmill.models.ming.encoder import AudioEncoder, posterior
from soundmill.models.ming.layout import DECODER, ENCODER
from soundmill.models.ming.rows import Latents
from soundmill.models.ming.synthesis import inverse_basis
from soundmill.models.ming.weights import opened

from . import golden
from .golden import LOOP, MODULE, close, vectors

pytestmark = pytest.mark.usefixtures("inference")

EXPECTED = vectors("vae")


def parts(*, layers: int | None = None, one_key_less: bool = False) -> tuple[AudioEncoder, AudioDecoder]:
    config = MingConfig.load(golden.CHECKPOINT, encoder_layers=layers)
    size = config.audio
    if one_key_less:
        size = narrowed(size)
    with opened(golden.CHECKPOINT, config, dtype=torch.float32, device="cpu") as weights:
        return AudioEncoder(weights.under(ENCODER), size), AudioDecoder(weights.under(DECODER), size)


def narrowed(size: AudioSize) -> AudioSize:
    assert size.encoder.window is not None
    assert size.decoder.window is not None
    return replace(
        size,
        encoder=replace(size.encoder, window=size.encoder.window - 1),
        decoder=replace(size.decoder, window=size.decoder.window - 1),
    )


def encoded(encoder: AudioEncoder, waves: Sequence[Tensor], count: int) -> list[Tensor]:
    recordings = [encoder.open(wave) for wave in waves]
    while waiting := [recording for recording in recordings if recording.waiting]:
        encoder.encode(waiting, count)
    return [recording.parameters() for recording in recordings]


def decoded(decoder: AudioDecoder, latents: Sequence[Tensor], count: int) -> list[Tensor]:
    streams = [decoder.open(values) for values in latents]
    pieces: list[list[Tensor]] = [[] for _ in streams]
    while any(stream.waiting for stream in streams):
        running = [index for index, stream in enumerate(streams) if stream.waiting]
        made = decoder.decode([streams[index] for index in running], count)
        for index, piece in zip(running, made, strict=True):
            pieces[index].append(piece)
    return [torch.cat(made) for made in pieces]


@pytest.mark.parametrize("layers", [None, 6])
@pytest.mark.parametrize("one_key_less", [False, True])
@pytest.mark.parametrize("count", [1, 3, 16])
def test_the_encoder_agrees_in_pieces_of_any_size(layers: int | None, one_key_less: bool, count: int) -> None:
    encoder, _ = parts(layers=layers, one_key_less=one_key_less)
    variant = ("_altwin" if one_key_less else "") + ("_altdepth" if layers else "")

    found = torch.stack(encoded(encoder, list(EXPECTED["enc_wave"]), count))

    close(found, EXPECTED[f"enc_params{variant}"], MODULE)


def test_mean_spread_and_sample_of_the_latents_agree() -> None:
    mean, spread = posterior(EXPECTED["enc_params"])

    close(mean, EXPECTED["enc_mean"], MODULE)
    close(spread, EXPECTED["enc_std"], MODULE)
    close(mean + spread * EXPECTED["enc_noise"].transpose(1, 2), EXPECTED["enc_sample"], MODULE)


@pytest.mark.parametrize("index", [2, 4])
def test_prompt_audio_of_the_cases_gives_their_latents(index: int) -> None:
    tensors = golden.case_vectors(index)

    mean, spread = posterior(encoded(golden.network().encoder, [tensors["prompt_wave"][0]], 16)[0])

    sample = mean + spread * tensors["prompt_vae_noise"][0].T
    close(sample, tensors["prompt_latent"][0], MODULE)


@pytest.mark.parametrize("one_key_less", [False, True])
@pytest.mark.parametrize("count", [1, 4, 13])
def test_the_decoder_agrees_in_pieces_of_any_size(one_key_less: bool, count: int) -> None:
    _, decoder = parts(one_key_less=one_key_less)

    found = torch.stack(decoded(decoder, list(EXPECTED["dec_latent"]), count))

    close(found, EXPECTED["dec_wave_altwin" if one_key_less else "dec_wave"], LOOP)


def test_hidden_frames_between_the_latents_agree() -> None:
    latents = EXPECTED["dec_latent"]
    around = torch.cat((latents[:, :1], latents, latents[:, -1:]), dim=1)

    close(golden.network().decoder.upsample(around), EXPECTED["dec_upsampled"], MODULE)


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_latents_that_arrive_in_chunks_give_the_same_samples_at_the_same_times(name: str) -> None:
    sizes = EXPECTED[f"dec_stream_{name}_sizes"].tolist()
    decoder = golden.network().decoder
    streams = [decoder.open() for _ in range(2)]
    heard: list[list[Tensor]] = [[], []]
    lengths = []
    begun = 0
    for number, size in enumerate(sizes):
        for stream, latents in zip(streams, EXPECTED["dec_latent"], strict=True):
            stream.push(latents[begun : begun + size], last=number == len(sizes) - 1)
        begun += size
        before = sum(map(len, heard[0]))
        while streams[0].waiting:
            for pieces, piece in zip(heard, decoder.decode(streams, 3), strict=True):
                pieces.append(piece)
        lengths.append(sum(map(len, heard[0])) - before)

    assert lengths == EXPECTED[f"dec_stream_{name}_lens"].tolist()
    close(torch.stack([torch.cat(pieces) for pieces in heard]), EXPECTED[f"dec_stream_{name}_wave"], LOOP)


@pytest.mark.parametrize("name", ["head", "head_hot"])
def test_the_synthesis_agrees_also_where_magnitudes_are_cut(name: str) -> None:
    synthesis = golden.network().decoder.synthesis
    frames = synthesis(EXPECTED[f"{name}_in"])
    nothing = torch.zeros(1, 3, synthesis.hop)
    samples = torch.cat(synthesis.overlap(frames, nothing), dim=1)
    weight = torch.cat(synthesis.overlap_window(torch.ones(1, 6), nothing), dim=1)

    edge = 3 * synthesis.hop // 2
    close((samples / weight).flatten(1)[:, edge:-edge], EXPECTED[f"{name}_out"], LOOP)


def test_the_real_matrix_is_the_inverse_fourier_transform() -> None:
    size = 56
    spectrum = np.random.default_rng(0).normal(size=(2, size // 2 + 1))

    found = inverse_basis(size) @ spectrum.reshape(-1)

    np.testing.assert_allclose(found, np.fft.irfft(spectrum[0] + 1j * spectrum[1], size), atol=1e-14)


def device() -> Device:
    return open_device("cpu", threads=1)


@pytest.mark.parametrize("patches", [(1,), (9, 1, 5, 30)])
def test_finished_rows_of_different_lengths_are_decoded_together(patches: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    latents = [torch.randn(4 * count, 16, generator=generator) for count in patches]
    network = golden.network()
    model = SpeechDecoder(network.decoder, device())
    items: list[Item[Latents, Speech]] = [
        Item(payload=Latents(values=values, stopped=True)) for values in latents
    ]

    while running := [item for item in items if not item.done]:
        model.run(running, 1.0)

    for item, values in zip(items, latents, strict=True):
        whole = decoded(network.decoder, [values], len(values))[0]
        assert item.result is not None
        assert len(item.result.samples) == len(values) * network.config.audio.samples_per_latent
        close(torch.from_numpy(item.result.samples), whole, LOOP)


def test_a_row_that_made_nothing_has_no_samples() -> None:
    model = SpeechDecoder(golden.network().decoder, device())
    item: Item[Latents, Speech] = Item(payload=Latents(values=torch.zeros(0, 16), stopped=False))

    model.run([item], 1.0)

    assert item.result is not None
    assert len(item.result.samples) == 0
    assert not item.result.stopped


def test_prompts_of_different_lengths_are_encoded_together() -> None:
    encoder = golden.network().encoder
    waves = [
        EXPECTED["enc_wave"][0],
        EXPECTED["enc_wave"][1][:100],
        torch.cat(tuple(EXPECTED["enc_wave"] * 3)),
    ]
    model = PromptEncoder(encoder, device())
    items: list[Item[Tensor, Tensor]] = [Item(payload=wave) for wave in waves]

    while running := [item for item in items if not item.done]:
        model.run(running, 1.0)

    for item, wave in zip(items, waves, strict=True):
        assert item.result is not None
        close(item.result, encoded(encoder, [wave], 1000)[0], MODULE)
