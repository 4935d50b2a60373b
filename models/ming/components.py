"""The parts of Ming as they are verified: each is fed by itself, in the shapes in which it serves.

Fixed inputs come from the material: its texts as prompts, its audio, and latents, noise and speaker vectors
drawn from its seed. The autoencoder is fp32, as it is served, whatever the dtype of the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..device import Device, short_name
from ..engine.cache import SlotCache
from ..verification.ports import Answers, Component, Material, Tensors, Text, Trial
from ..verification.taps import Taps, values
from .aggregator import Aggregator
from .codec import LATENTS_PER_CALL
from .config import SPEAKER_SIZE, MingConfig
from .decoder import AudioDecoder
from .encoder import AudioEncoder, posterior
from .flow import FlowHead
from .layout import layout, unread
from .network import Generator, MingNetwork
from .prompt import SPEECH, PromptWriter
from .tokenizer import MingTokenizer

STEPS = 8
"""Patches behind each prompt."""

_MOST_IDS = 512
_STATES = 4  # of the backbone, from which patches are solved in one batch
_GUIDANCE = (2.0, 0.0, 4.5, 1.0)  # of speech, without the second branch, of sound
_SPREAD = (0.0, 0.25, 0.3 * 2.5**0.5, 0.0)
_LATENTS = 40  # 160 frames, beyond the window of 64
_SPEAKERS = 4
_LONGEST_PROMPT_S = 10.0
_LEAST_STEPS = 5


def components(folder: Path, device: Device, dtype: torch.dtype) -> Sequence[Component]:
    """Load all networks; see `models/verification/ports.py`.

    Raises:
        ModelUnavailable: A file is missing, damaged or of another model.
    """
    writer = PromptWriter(MingTokenizer(folder))
    network = MingNetwork.load(folder, dtype=dtype, device=device.torch_device)
    generator, name = network.generator, short_name(dtype)
    return (
        _aggregator(generator.aggregator, network.config, device, name),
        _speaker_head(generator, device, name),
        _backbone(generator, device, writer, name),
        _stop_head(generator, device, name),
        _velocity(generator.flow, network.config, device, name),
        _solve(generator.flow, network.config, device, name),
        _encoder(network.encoder, device),
        _decoder(network.decoder, device, "audio decoder", _whole),
        _decoder(network.decoder, device, "audio decoder, streaming", _in_patches(network.config.patch)),
        _synthesis(network.decoder, device),
    )


def parameters(folder: Path) -> int:
    """How many numbers are loaded: not the head of the vocabulary, nor the layers of the encoder that do not run."""
    config = MingConfig.load(folder)
    spare = unread(config)
    return sum(torch.Size(shape).numel() for name, shape in layout(config).items() if name not in spare)


def trials(material: Material) -> Sequence[Trial]:
    """Every text without a voice, and the first in that of the audio where speakers can be told apart."""
    asked = [_trial(name, text, task="tts") for name, text in material.texts.items()]
    if find_spec("onnxruntime") is None:
        return asked
    name, text = next(iter(material.texts.items()))
    audio = str(material.audio)
    return (*asked, _trial(f"{name}, cloned", text, task="speaker", speaker_audio=audio))


def _trial(name: str, text: Text, **fields: object) -> Trial:
    longest_s = text.longest_s
    steps = max(_LEAST_STEPS, round(3.125 * longest_s))
    given = {"text": text.words, "seed": 1, "max_steps": min(steps, 400)}
    return Trial(name=name, fields=given | fields, spoken=text, longest_s=longest_s)


# -- the generator -------------------------------------------------------------------------------------


def _aggregator(aggregator: Aggregator, config: MingConfig, device: Device, dtype: str) -> Component:
    def cases(material: Material, _: Answers) -> dict[str, Tensors]:
        shape = (STEPS, config.patch, config.audio.channels)
        return {"drawn": {"patches": _drawn(material, "ming patches", *shape)}}

    def run(inputs: Tensors) -> dict[str, Tensor]:
        return {"vectors": aggregator(device.upload(inputs["patches"]))}

    return Component(name="aggregator", dtype=dtype, cases=cases, run=run, readings=values(("vectors",)))


def _speaker_head(generator: Generator, device: Device, dtype: str) -> Component:
    def cases(material: Material, _: Answers) -> dict[str, Tensors]:
        return {"drawn": {"vectors": _drawn(material, "ming speakers", _SPEAKERS, SPEAKER_SIZE)}}

    def run(inputs: Tensors) -> dict[str, Tensor]:
        return {"inputs": generator.speaker_inputs(device.upload(inputs["vectors"]))}

    return Component(name="speaker head", dtype=dtype, cases=cases, run=run, readings=values(("inputs",)))


def _backbone(generator: Generator, device: Device, writer: PromptWriter, dtype: str) -> Component:
    """A prompt in one call, then a step for each patch that follows, whatever the model would say."""
    backbone = generator.backbone
    # Differences of 16-bit numbers are mostly rounding, so the layers are looked at in fp32 only.
    taps = Taps(backbone.layers if dtype == "fp32" else ())

    def cases(material: Material, answers: Answers) -> dict[str, Tensors]:
        following = answers["aggregator"]["drawn"]["vectors"]
        return {
            name: {
                "ids": torch.tensor(writer.write(SPEECH, text.words).ids[:_MOST_IDS]),
                "following": following,
            }
            for name, text in material.texts.items()
        }

    def run(inputs: Tensors) -> dict[str, Tensor]:
        ids, following = device.upload(inputs["ids"]), device.upload(inputs["following"])
        cache = SlotCache.of(
            backbone.config, context=len(ids) + len(following), dtype=generator.dtype, device=ids.device
        )
        cache.reserve(1)
        embedded = generator.embed(ids)
        turn = cache.plan(device.upload(torch.zeros(1, dtype=torch.int64)), len(ids), rows=[0])
        with taps.recording():
            prompt = _forward(backbone, embedded[None], cache, turn)
        cache.place(0, len(ids))
        steps = []
        for vector in following.to(generator.dtype).split(1):
            steps.append(_forward(backbone, vector[None], cache, cache.plan_step(1))[0])
            cache.advance(1)
        return {"embedding": embedded, **taps.taken(), "prompt": prompt[0], "steps": torch.cat(steps)}

    names = ("embedding", *taps.names, "prompt", "steps")
    return Component(name="backbone", dtype=dtype, cases=cases, run=run, readings=values(names))


def _forward(backbone: Any, inputs: Tensor, cache: SlotCache, turn: Any) -> Tensor:
    hidden: Tensor = backbone(
        inputs_embeds=inputs,
        attention_mask={"full_attention": turn.mask},
        position_ids=turn.position_ids,
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    return hidden


def _stop_head(generator: Generator, device: Device, dtype: str) -> Component:
    def cases(_: Material, answers: Answers) -> dict[str, Tensors]:
        return {
            name: {"hidden": torch.cat((answer["prompt"], answer["steps"]))}
            for name, answer in answers["backbone"].items()
        }

    def run(inputs: Tensors) -> dict[str, Tensor]:
        hidden = device.upload(inputs["hidden"]).to(generator.dtype)
        return {
            "logits": generator.stop_head(hidden),
            "probability": generator.stop_probability(hidden),
        }

    # Two logits are often nearly equal: there is no choice to compare.
    readings = values(("logits", "probability"))
    return Component(name="stop head", dtype=dtype, cases=cases, run=run, readings=readings)


def _patch_cases(config: MingConfig, noises: int) -> Callable[[Material, Answers], dict[str, Tensors]]:
    """What a patch is solved from: states of the backbone, latents before it, noise."""
    channels = config.audio.channels

    def cases(material: Material, answers: Answers) -> dict[str, Tensors]:
        states = [answer["steps"] for answer in answers["backbone"].values()]
        return {
            "drawn": {
                "hidden": torch.cat(states)[-_STATES:],
                "history": _drawn(material, "ming history", _STATES, config.look_back, channels),
                "noise": _drawn(material, "ming noise", _STATES, noises, config.patch, channels),
            }
        }

    return cases


def _velocity(flow: FlowHead, config: MingConfig, device: Device, dtype: str) -> Component:
    """Both branches of the network at every time of the solver, and at its first what each block adds."""
    net = flow.net
    blocks = len(net.blocks) if dtype == "fp32" else 0

    def run(inputs: Tensors) -> dict[str, Tensor]:
        hidden, history, noise = (device.upload(inputs[name]) for name in ("hidden", "history", "noise"))
        shared, state = net.prepare(hidden, history), noise[:, 0]
        velocities = [net(shared, step, state) for step in range(flow.steps)]  # [2, B, P, C] each
        found = {
            "times": net.time_vectors,
            "conditioned": torch.stack([both[0] for both in velocities]),
            "free": torch.stack([both[1] for both in velocities]),
        }
        tokens = torch.cat((shared.first[0, 0], shared.history, net.entry(state.to(net.dtype))), dim=1)
        for index, block in enumerate(net.blocks[:blocks]):
            after = block.finish(tokens, *block.project(tokens, net.turn))
            found[f"block {index}"], tokens = after - tokens, after
        return found

    names = ("times", *(f"block {index}" for index in range(blocks)), "conditioned", "free")
    return Component(
        name="DiT velocity", dtype=dtype, cases=_patch_cases(config, 1), run=run, readings=values(names)
    )


def _solve(flow: FlowHead, config: MingConfig, device: Device, dtype: str) -> Component:
    """Whole patches, with and without guidance and noise between the steps."""

    def run(inputs: Tensors) -> dict[str, Tensor]:
        hidden, history, noise = (device.upload(inputs[name]) for name in ("hidden", "history", "noise"))
        count = len(hidden)
        guidance, spread = (device.upload(torch.tensor(row[:count])) for row in (_GUIDANCE, _SPREAD))
        guided = flow(hidden, history, noise, guidance, spread)
        alone = flow(hidden, history, noise, torch.zeros_like(guidance), spread, guided=False)
        return {"patches": guided, "patches without guidance": alone}

    readings = values(("patches", "patches without guidance"))
    cases = _patch_cases(config, flow.noises)
    return Component(name="flow solve", dtype=dtype, cases=cases, run=run, readings=readings)


# -- the autoencoder -----------------------------------------------------------------------------------


def _encoder(encoder: AudioEncoder, device: Device) -> Component:
    size = encoder.size
    taps = Taps((*encoder.stack.stack.layers, *encoder.above.stack.layers))

    def cases(material: Material, _: Answers) -> dict[str, Tensors]:
        recording = material.samples(size.sample_rate, longest_s=_LONGEST_PROMPT_S)
        noise = 0.1 * _drawn(material, "ming audio", _LATENTS * size.samples_per_latent + 1)
        return {"recording": {"samples": torch.from_numpy(recording.copy())}, "noise": {"samples": noise}}

    def run(inputs: Tensors) -> dict[str, Tensor]:
        recording = encoder.open(device.upload(inputs["samples"]))
        with taps.recording():
            while recording.waiting:
                encoder.encode([recording], LATENTS_PER_CALL)
        mean, spread = posterior(recording.parameters())
        return {**taps.taken(), "mean": mean, "spread": spread}

    names = (*taps.names, "mean", "spread")
    return Component(name="audio encoder", dtype="fp32", cases=cases, run=run, readings=values(names))


Pushes = Callable[[Tensor], Sequence[Tensor]]
"""Cuts the latents of an utterance [T, C] into what a stream gets at a time."""


def _decoder(decoder: AudioDecoder, device: Device, name: str, pushes: Pushes) -> Component:
    size, taps = decoder.size, Taps(decoder.stack.stack.layers)

    def cases(material: Material, answers: Answers) -> dict[str, Tensors]:
        return {
            "recording": {"latents": answers["audio encoder"]["recording"]["mean"]},
            "drawn": {"latents": _drawn(material, f"ming {name}", _LATENTS, size.channels)},
        }

    def run(inputs: Tensors) -> dict[str, Tensor]:
        parts = pushes(device.upload(inputs["latents"]))
        stream, samples = decoder.open(), []
        with taps.recording():
            for number, part in enumerate(parts, 1):
                stream.push(part, last=number == len(parts))
                while stream.waiting:
                    samples += decoder.decode([stream], LATENTS_PER_CALL)
        return {**taps.taken(), "samples": torch.cat(samples)}

    readings = values((*taps.names, "samples"))
    return Component(name=name, dtype="fp32", cases=cases, run=run, readings=readings)


def _whole(latents: Tensor) -> Sequence[Tensor]:
    return (latents,)


def _in_patches(patch: int) -> Pushes:
    return lambda latents: latents.split(patch)


def _synthesis(decoder: AudioDecoder, device: Device) -> Component:
    """The head of the decoder and the inverse transform, frame by frame."""
    synthesis = decoder.synthesis
    width = decoder.size.decoder.width

    def cases(material: Material, _: Answers) -> dict[str, Tensors]:
        return {"drawn": {"hidden": _drawn(material, "ming frames", 1, _LATENTS, width)}}

    def run(inputs: Tensors) -> dict[str, Tensor]:
        return {"frames": synthesis(device.upload(inputs["hidden"]))}

    return Component(name="synthesis", dtype="fp32", cases=cases, run=run, readings=values(("frames",)))


# -- what they share -----------------------------------------------------------------------------------


def _drawn(material: Material, name: str, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=material.generator(name))
