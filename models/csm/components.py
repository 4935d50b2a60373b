"""The parts of CSM as they are verified: each is fed by itself, in the shapes in which it serves.

The prompts are the texts of the material, the first also behind a recording; codes that are to be
said are drawn from its seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..device import Device, short_name
from ..engine.cache import SlotCache
from ..engine.cache import Turn as CacheTurn
from ..engine.ports import Item, Row
from ..engine.sampling import GREEDY
from ..verification.footprint import parameters_in
from ..verification.ports import Answers, Component, Material, Reading, Tensors, Trial
from ..verification.taps import Taps, values
from .checkpoint import Checkpoint, load_checkpoint
from .choice import Choice
from .decoder import Decoder
from .depth import Depth, ModularDepth
from .embedding import Embedding
from .folder import weight_files
from .fused import FusedDepth
from .prompt import Prompt, Prompter, Turn
from .sentences import most_frames
from .sizes import Sizes
from .speaker import Frames, Speaker
from .window import run_window

FRAMES = 12
"""Frames behind each prompt: teacher-forced, and made freely."""

_SPEAKER = 0
_FRAMES_PER_S = 12.5
_RECORDING_S = 3.0
_DECODED = 32  # frames that are drawn for the codec
_UNHURRIED_S = 60.0  # for a call of the codec


def components(folder: Path, device: Device, dtype: torch.dtype) -> Sequence[Component]:
    """Load the checkpoint; see `models/verification/ports.py`.

    Raises:
        ModelUnavailable: A file is missing, damaged or of another model.
    """
    checkpoint = load_checkpoint(folder, device=device.torch_device, dtype=dtype)
    name = short_name(dtype)
    return (
        _codec_encoder(checkpoint, device),
        _codec_decoder(checkpoint, device),
        _backbone(checkpoint, device, name),
        _depth_decoder(checkpoint, device, name),
        _free_run(checkpoint, device, name),
    )


def parameters(folder: Path) -> int:
    """How many numbers are loaded: the published folder holds all weights twice."""
    return parameters_in(weight_files(folder))


def trials(material: Material) -> Sequence[Trial]:
    """Every text; what CSM makes of languages other than English is not asked to be intelligible."""
    found = []
    for name, text in material.texts.items():
        longest_s = most_frames(text.words) / _FRAMES_PER_S
        fields = {"text": text.words, "seed": 1, "max_seconds": longest_s}
        spoken = text if text.language == "eng" else None
        found.append(Trial(name=name, fields=fields, spoken=spoken, longest_s=longest_s))
    return found


# -- the codec -----------------------------------------------------------------------------------------


def _codec_encoder(checkpoint: Checkpoint, device: Device) -> Component:
    """Sound to latents, and latents to codes."""
    codec, sizes = checkpoint.model.codec_model, checkpoint.sizes
    encoder = codec.encoder
    taps = Taps(encoder.encoder_transformer.layers)
    quantizers = {
        "semantic projection": codec.quantizer.semantic_residual_vector_quantizer,
        "acoustic projection": codec.quantizer.acoustic_residual_vector_quantizer,
    }

    def cases(material: Material, _: Answers) -> dict[str, Tensors]:
        samples = material.samples(sizes.sample_rate, longest_s=_RECORDING_S)
        noise = 0.1 * torch.randn(8 * sizes.frame_samples, generator=material.generator("csm noise"))
        return {"recording": {"audio": torch.from_numpy(samples.copy())}, "noise": {"audio": noise}}

    def run(inputs: Tensors) -> dict[str, Tensor]:
        convolved = encoder.encoder_seanet(device.upload(inputs["audio"])[None, None])  # [1, D, T]
        count = convolved.shape[-1]
        with taps.recording():
            hidden, _ = run_window(encoder.encoder_transformer, convolved.transpose(1, 2), [0], [count], [()])
        latents = encoder.downsample(hidden.transpose(1, 2))  # [1, D, F]
        # A code is the nearest of its book, which hides much of what is wrong before it.
        projected = {name: quantizer.input_proj(latents)[0] for name, quantizer in quantizers.items()}
        codes = codec.quantizer.encode(latents, sizes.codebooks)[:, 0].t()  # [F, K]
        found = {"convolutions": convolved[0], **taps.taken(), "latents": latents[0]}
        return {**found, **projected, "codes": codes}

    names = ("convolutions", *taps.names, "latents", *quantizers)
    readings: dict[str, Reading] = {**values(names), "codes": "codes"}
    return Component(name="codec encoder", dtype="fp32", cases=cases, run=run, readings=readings)


def _codec_decoder(checkpoint: Checkpoint, device: Device) -> Component:
    """Codes to sound, as the worker decodes them."""
    codec, sizes = checkpoint.model.codec_model, checkpoint.sizes
    taps = Taps(codec.decoder.decoder_transformer.layers)

    def cases(material: Material, answers: Answers) -> dict[str, Tensors]:
        drawn = _drawn(sizes, material, "csm decoded", _DECODED)
        return {
            "recording": {"codes": answers["codec encoder"]["recording"]["codes"]},
            "drawn": {"codes": drawn},
        }

    def run(inputs: Tensors) -> dict[str, Tensor]:
        codes = device.upload(inputs["codes"])
        item: Item[Frames, Any] = Item(payload=Frames(codes=codes, ended=False))
        decoder = Decoder(codec, sizes, device)
        with taps.recording():
            while not item.done:
                decoder.run([item], _UNHURRIED_S)
        latents = codec.quantizer.decode(codes.t()[None])[0]
        assert item.result is not None
        audio = torch.from_numpy(item.result.audio)
        return {"latents": latents, **taps.taken(), "audio": audio}

    names = ("latents", *taps.names, "audio")
    return Component(name="codec decoder", dtype="fp32", cases=cases, run=run, readings=values(names))


def _drawn(sizes: Sizes, material: Material, name: str, frames: int) -> Tensor:
    """Codes `[F, K]` that do not end the speech."""
    shape = frames, sizes.codebooks
    return torch.randint(sizes.end + 1, sizes.codes, shape, generator=material.generator(name))


# -- the language model --------------------------------------------------------------------------------


def _backbone(checkpoint: Checkpoint, device: Device, dtype: str) -> Component:
    """A prompt in one call, then a step for each frame."""
    model, sizes = checkpoint.model, checkpoint.sizes
    embedding, head = Embedding(model, sizes), model.lm_head.weight[: sizes.codes].t()
    # Differences of 16-bit numbers are mostly rounding, so the layers are looked at in fp32 only.
    taps = Taps(model.backbone_model.layers if dtype == "fp32" else ())

    def cases(material: Material, answers: Answers) -> dict[str, Tensors]:
        found: dict[str, Tensors] = {}
        for name, prompt in _prompts(checkpoint, material, answers).items():
            frames = _drawn(sizes, material, f"csm frames {name}", FRAMES)
            found[name] = {
                "text": torch.cat([prompt.text, torch.zeros(FRAMES, dtype=torch.int64)]),
                "codes": torch.cat([prompt.codes, frames]),
                "audio": torch.cat([prompt.audio, torch.ones(FRAMES, dtype=torch.bool)]),
            }
        return found

    def run(inputs: Tensors) -> dict[str, Tensor]:
        text, codes, audio = (device.upload(inputs[name]) for name in ("text", "codes", "audio"))
        count = len(text) - FRAMES
        cache = SlotCache.of(
            model.backbone_model.config, context=len(text), dtype=head.dtype, device=device.torch_device
        )
        cache.reserve(1)
        embedded = embedding.positions(text, codes, audio)[None]  # [1, T, D]
        with taps.recording():
            turn = cache.plan(device.upload(torch.zeros(1, dtype=torch.int64)), count)
            states = [_forward(model, embedded[:, :count], turn, cache)]
            cache.place(0, count)
            for place in range(count, len(text)):
                states.append(_forward(model, embedded[:, place : place + 1], cache.plan_step(1), cache))
                cache.advance(1)
        whole = torch.cat(states, dim=1)[0]  # [T, D]
        logits = (whole[count - 1 :] @ head).float()
        return {"embedding": embedded[0], **taps.taken(), "states": whole, "logits": logits}

    readings: dict[str, Reading] = {**values(("embedding", *taps.names, "states")), "logits": "logits"}
    return Component(name="backbone", dtype=dtype, cases=cases, run=run, readings=readings)


def _forward(model: Any, embedded: Tensor, turn: CacheTurn, cache: SlotCache) -> Tensor:
    states: Tensor = model.backbone_model(
        inputs_embeds=embedded,
        attention_mask=turn.mask,
        position_ids=turn.position_ids,
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    return states


def _depth_decoder(checkpoint: Checkpoint, device: Device, dtype: str) -> Component:
    """Every codebook of a frame but the first, the codes before it being given."""
    model, sizes = checkpoint.model, checkpoint.sizes
    fits = FusedDepth.fits(model)
    depth: Depth = FusedDepth(model, sizes) if fits else ModularDepth(model, sizes)

    def cases(material: Material, answers: Answers) -> dict[str, Tensors]:
        return {
            name: {
                "states": answer["states"][-FRAMES:],
                "codes": _drawn(sizes, material, f"csm depth {name}", FRAMES),
            }
            for name, answer in answers["backbone"].items()
        }

    def run(inputs: Tensors) -> dict[str, Tensor]:
        states = device.upload(inputs["states"]).to(model.lm_head.weight.dtype)
        codes = device.upload(inputs["codes"])
        depth.reserve(len(states))
        said = _Said(codes, sizes)
        depth.frame(states, codes[:, 0], torch.zeros(codes.shape, device=codes.device), said)
        return {**dict(zip(books, said.logits, strict=False)), "codebooks": torch.stack(said.logits)}

    # In 16 bit one choice in twenty is another one: too many for the few of a single codebook.
    books = [f"codebook {book}" for book in range(1, sizes.codebooks)] if dtype == "fp32" else []
    readings: dict[str, Reading] = dict.fromkeys([*books, "codebooks"], "logits")
    return Component(name="depth decoder", dtype=dtype, cases=cases, run=run, readings=readings)


class _Said(Choice):
    """Chooses what is given, whatever the logits are, and keeps them."""

    def __init__(self, codes: Tensor, sizes: Sizes) -> None:
        super().__init__(codes=sizes.codes, max_top_k=1, device=codes.device)
        self._given = codes
        self.logits: list[Tensor] = []

    def code(self, logits: Tensor, chance: Tensor) -> Tensor:
        """The next column of what is given."""
        self.logits.append(logits)
        return self._given[:, len(self.logits)]


def _free_run(checkpoint: Checkpoint, device: Device, dtype: str) -> Component:
    """Frames as a worker makes them, the likeliest code always."""
    speaker = Speaker(checkpoint.model, checkpoint.sizes, device, graphs=False)

    def cases(material: Material, answers: Answers) -> dict[str, Tensors]:
        return {
            name: {"text": prompt.text, "codes": prompt.codes, "audio": prompt.audio}
            for name, prompt in _prompts(checkpoint, material, answers).items()
        }

    def run(inputs: Tensors) -> dict[str, Tensor]:
        prompt = Prompt(**inputs, sampling=GREEDY, seed=0)
        speaker.reserve(1)
        row = Row(prompt=prompt, positions=len(prompt), max_steps=FRAMES, slot=0)
        while not row.ready:
            speaker.prefill([row], len(prompt))
        for _ in range(FRAMES):
            speaker.step(1, [row]).read()  # that it would end there is not followed
            row.steps += 1
        return {"codes": speaker.release(row, FRAMES).codes}

    return Component(name="free run", dtype=dtype, cases=cases, run=run, readings={"codes": "tokens"})


def _prompts(checkpoint: Checkpoint, material: Material, answers: Answers) -> dict[str, Prompt]:
    """Of every text, and of the first behind a recording of somebody else."""
    prompter = Prompter(checkpoint.tokens, checkpoint.sizes)

    def prompt(words: str, turns: Sequence[Turn] = ()) -> Prompt:
        return prompter.prompt(turns, _SPEAKER, words, sampling=GREEDY, seed=0)

    found = {name: prompt(text.words) for name, text in material.texts.items()}
    name, text = next(iter(material.texts.items()))
    codes = answers["codec encoder"]["recording"]["codes"].to(torch.int16)
    found[f"{name}, in context"] = prompt(text.words, [Turn(speaker=1, text=text.words, codes=codes)])
    return found
