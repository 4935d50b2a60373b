"""The parts of MOSS as they are verified: each is fed by itself, in the shapes in which it serves.

Fixed inputs come from the material: its texts as prompts, its audio, and codes drawn from its seed. The
gate's stops are not followed, so that both sides make the same number of frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from ..device import Device, short_name
from ..engine.ports import Row
from ..verification.ports import Answers, Component, Material, Reading, Tensors, Text, Trial
from ..verification.taps import layer_names, values
from .codec import Codec, Stream
from .config import CodecConfig, LanguageConfig, StageConfig
from .folders import Folders
from .handler import TOKENIZER_FILE
from .language_model import LanguageModel
from .prompt import Template
from .slots import MossSlots, Prompt
from .speech import TOKENS_PER_CAP
from .tokenizer import Tokenizer, tokenizer_of
from .weights import Weights

FRAMES = 8
"""Frames behind each prompt that the model is made to go on with."""

FREE_FRAMES = 16
"""Frames that it makes by itself."""

_MOST_TEXT = 128  # tokens of a prompt's text
_REFERENCE_FRAMES = 24
_SPELLED = 16  # hidden states of a case from which the local decoder spells frames
_ENCODED_TOGETHER = 32  # as the reference encoder does
_OFFLINE_FRAMES = 64  # beyond the shortest window of the published decoder, 50 frames
_STREAMED = (1, 2, 4, 8, 16, 32, 32, 32, 16)  # beyond the longest, 125 frames

_LONGEST_REFERENCE_S = 10.0
_FRAMES_PER_S = 12.5  # as the arguments of a job count
_MORE_TOKENS = 8


def components(folder: Path, device: Device, dtype: torch.dtype) -> Sequence[Component]:
    """Load both models; see `models/verification/ports.py`.

    Raises:
        ModelUnavailable: A file is missing, damaged or of another model.
    """
    folders = Folders.find(folder)
    config, codec_config = LanguageConfig.read(folders.language), CodecConfig.read(folders.codec)
    writer = _Writer(config, tokenizer_of(folders.language / TOKENIZER_FILE))
    on = device.torch_device
    model = LanguageModel(
        config, Weights(folders.language), device=on, dtype=dtype, positions=writer.positions
    )
    codec = Codec(codec_config, Weights(folders.codec), on)
    name = short_name(model.dtype)
    return (
        _backbone(model, device, writer, name),
        _local_decoder(model, device, name),
        _free_run(model, device, writer, name),
        *_codec_parts(codec, device),
    )


def parameters(folder: Path) -> int:
    """How many numbers of both folders are loaded; tied heads count once."""
    folders = Folders.find(folder)
    language, codec = Weights(folders.language), Weights(folders.codec)
    tied = {"text_lm_head.weight"} | {
        name for name in language.names() if name.startswith(("audio_lm_heads.", "local_transformer.wte."))
    }
    return language.count(language.names() - tied) + codec.count(codec.names())


def trials(material: Material) -> Sequence[Trial]:
    """Every text in a voice of the model's choice, and the first in that of the audio."""
    asked = [_trial(name, text) for name, text in material.texts.items()]
    name, text = next(iter(material.texts.items()))
    return (*asked, _trial(f"{name}, cloned", text, reference=str(material.audio)))


def _trial(name: str, text: Text, **fields: object) -> Trial:
    """The cap is for so many tokens as `speech.py` says; a text has at most one for each byte, and a few."""
    cap_s = text.longest_s
    most = max(1.0, (len(text.words.encode()) + _MORE_TOKENS) / TOKENS_PER_CAP)
    given = {"text": text.words, "seed": 1, "max_new_frames": round(_FRAMES_PER_S * cap_s)}
    return Trial(name=name, fields=given | fields, spoken=text, longest_s=cap_s * most)


# -- the language model --------------------------------------------------------------------------------


class _Writer:
    """Makes the rows of prompts on the host."""

    def __init__(self, config: LanguageConfig, tokenizer: Tokenizer) -> None:
        self.config = config
        self._template, self._tokenizer = Template.of(config, tokenizer), tokenizer
        self.positions = self._template.overhead + _REFERENCE_FRAMES + _MOST_TEXT + FREE_FRAMES

    def codes(self, material: Material, name: str, frames: int) -> Tensor:
        """Codes `[F, K]`, each of its codebook."""
        generator = material.generator(name)
        sizes = self.config.codebook_sizes
        return torch.stack([torch.randint(size, (frames,), generator=generator) for size in sizes], dim=1)

    def prompts(self, material: Material) -> dict[str, Tensor]:
        """The rows `[T, 1 + K]` of every text, and of the first behind a reference."""
        ids = {
            name: self._tokenizer.encode_spoken(text.words)[:_MOST_TEXT]
            for name, text in material.texts.items()
        }
        books = self.config.codebooks
        made = {name: self._template.continued(text, None, codebooks=books) for name, text in ids.items()}
        name, text = next(iter(ids.items()))
        reference = self.codes(material, "moss reference", _REFERENCE_FRAMES)
        made[f"{name}, cloned"] = self._template.clone(reference, text, codebooks=books)[0]
        return made

    def cases(self, material: Material, _: Answers) -> dict[str, Tensors]:
        """Prompts, and the rows of frames that follow whatever the model would say."""
        codes = self.codes(material, "moss frames", FRAMES)
        slot = torch.full((FRAMES, 1), self.config.assistant_slot)
        frames = torch.cat((slot, codes), dim=1)
        return {name: {"prompt": rows, "frames": frames} for name, rows in self.prompts(material).items()}


def _backbone(model: LanguageModel, device: Device, writer: _Writer, dtype: str) -> Component:
    """The global transformer: a prompt in one call, then a step for each frame."""
    # Differences of 16-bit numbers are mostly rounding, so the layers are looked at in fp32 only.
    layers = layer_names(model.config.decoder.layers) if dtype == "fp32" else ()

    def run(inputs: Tensors) -> dict[str, Tensor]:
        prompt, frames = (device.upload(inputs[name]) for name in ("prompt", "frames"))
        cache = model.cache(len(prompt) + len(frames))
        cache.reserve(1)
        embedded = model.embed(torch.cat((prompt, frames)))[None]  # [1, T + F, D]
        turn = cache.plan(device.upload(torch.zeros(1, dtype=torch.int64)), len(prompt), rows=[0])
        states = model.trunk(embedded[:, : len(prompt)], cache, turn)
        cache.place(0, len(prompt))
        steps = []
        for step in embedded[:, len(prompt) :].split(1, dim=1):
            steps.append(model.forward(step, cache, cache.plan_step(1))[0])
            cache.advance(1)
        updates = [(after - before)[0] for before, after in pairwise(states)]
        return {
            "embedding": embedded[0],
            **dict(zip(layers, updates, strict=False)),
            "prompt": model.hidden(states[-1])[0],
            "steps": torch.cat(steps),
        }

    names = ("embedding", *layers, "prompt", "steps")
    return Component(name="backbone", dtype=dtype, cases=writer.cases, run=run, readings=values(names))


def _local_decoder(model: LanguageModel, device: Device, dtype: str) -> Component:
    """The gate and every codebook of a frame, whose earlier codes are given."""
    config = model.config

    def cases(material: Material, answers: Answers) -> dict[str, Tensors]:
        made: dict[str, Tensors] = {}
        for name, answer in answers["backbone"].items():
            hidden = torch.cat((answer["prompt"], answer["steps"]))[-_SPELLED:]
            generator = material.generator(f"moss spelled {name}")
            codes = [
                torch.randint(size, (len(hidden),), generator=generator) for size in config.codebook_sizes
            ]
            made[name] = {"hidden": hidden, "codes": torch.stack(codes, dim=1)}
        return made

    def run(inputs: Tensors) -> dict[str, Tensor]:
        hidden, codes = device.upload(inputs["hidden"]).to(model.dtype), device.upload(inputs["codes"])
        local = model.spell(hidden)
        found = {"gate": model.gate_logits(local.first())}
        x = model.go_on(len(hidden))
        for book, size in enumerate(config.codebook_sizes):
            found[f"codebook {book}"] = model.audio_logits(local.next(x), book)[:, :size]
            x = model.code_embedding(codes[:, book], book)
        return found

    readings: dict[str, Reading] = {"gate": "values"}  # two logits, often nearly equal: no choice to compare
    readings |= {f"codebook {book}": "logits" for book in range(config.codebooks)}
    return Component(name="local decoder", dtype=dtype, cases=cases, run=run, readings=readings)


def _free_run(model: LanguageModel, device: Device, writer: _Writer, dtype: str) -> Component:
    """Frames as a worker makes them, the likeliest code always."""
    books = model.config.codebooks

    def cases(material: Material, answers: Answers) -> dict[str, Tensors]:
        made = writer.cases(material, answers)
        return {name: {"prompt": made[name]["prompt"]} for name in (next(iter(made)), next(reversed(made)))}

    def run(inputs: Tensors) -> dict[str, Tensor]:
        rows = inputs["prompt"]
        slots = MossSlots(
            model, device, context=len(rows) + FREE_FRAMES, graphs=False, voices=0, longest_prefix=0
        )
        slots.reserve(1)
        row = Row(
            prompt=Prompt(rows=rows, codebooks=books), positions=len(rows), max_steps=FREE_FRAMES, slot=0
        )
        while not row.ready:
            slots.prefill([row], len(rows))
        for _ in range(FREE_FRAMES):
            slots.step(1, [row]).read()
            row.steps += 1
        return {"codes": slots.release(row, FREE_FRAMES).codes}

    return Component(name="free run", dtype=dtype, cases=cases, run=run, readings={"codes": "tokens"})


# -- the codec -----------------------------------------------------------------------------------------


def _codec_parts(codec: Codec, device: Device) -> tuple[Component, ...]:
    return (
        _encoder(codec, device),
        _quantizer(codec, device),
        _decoder(codec, device, "codec decoder", (_OFFLINE_FRAMES,)),
        _decoder(codec, device, "codec decoder, streaming", _STREAMED),
    )


def _encoder(codec: Codec, device: Device) -> Component:
    config = codec.config

    def cases(material: Material, _: Answers) -> dict[str, Tensors]:
        mono = torch.from_numpy(material.samples(config.sample_rate, longest_s=_LONGEST_REFERENCE_S).copy())
        # Channels of different loudness: exchanged ones are not the same.
        recording = torch.stack([mono * 0.5**channel for channel in range(config.channels)])
        generator = material.generator("moss noise")
        noise = 0.1 * torch.randn(config.channels, _REFERENCE_FRAMES * config.stride, generator=generator)
        return {"recording": {"audio": _whole_frames(recording, config.stride)}, "noise": {"audio": noise}}

    def run(inputs: Tensors) -> dict[str, Tensor]:
        audio = device.upload(inputs["audio"])[None]
        streams, latents, updates = [Stream()], [], []
        for part in audio.split(_ENCODED_TOGETHER * config.stride, dim=2):
            added: list[Tensor] = []
            made = codec.encode(part, [part.shape[2] // config.stride], streams, updates=added)
            streams = made.streams
            latents.append(made.latents[0])
            updates.append(added)
        return {**_joined(updates), "latents": torch.cat(latents)}

    names = (*_layers(config.encoder), "latents")
    return Component(name="codec encoder", dtype="fp32", cases=cases, run=run, readings=values(names))


def _quantizer(codec: Codec, device: Device) -> Component:
    """Latents to codes, and the same codes to latents."""

    def cases(material: Material, answers: Answers) -> dict[str, Tensors]:
        return {
            name: {
                "latents": answer["latents"],
                "codes": _drawn(codec, material, name, len(answer["latents"])),
            }
            for name, answer in answers["codec encoder"].items()
        }

    def run(inputs: Tensors) -> dict[str, Tensor]:
        latents, codes = device.upload(inputs["latents"]), device.upload(inputs["codes"])
        return {"codes": codec.quantize(latents[None])[0], "latents": codec.dequantize(codes[None])[0]}

    readings: dict[str, Reading] = {"codes": "codes", "latents": "values"}
    return Component(name="codec quantizer", dtype="fp32", cases=cases, run=run, readings=readings)


def _decoder(codec: Codec, device: Device, name: str, calls: Sequence[int]) -> Component:
    """Codes to sound, so many frames in each call."""

    def cases(material: Material, answers: Answers) -> dict[str, Tensors]:
        recording = answers["codec quantizer"]["recording"]["codes"].long()
        return {
            "recording": {"codes": recording[: sum(calls)]},
            "drawn": {"codes": _drawn(codec, material, name, sum(calls))},
        }

    def run(inputs: Tensors) -> dict[str, Tensor]:
        codes = device.upload(inputs["codes"])[None]
        streams, audio, updates, done = [Stream()], [], [], 0
        for count in calls:
            part = codes[:, done : done + count]
            if not part.shape[1]:
                break
            added: list[Tensor] = []
            made = codec.decode(part, [part.shape[1]], streams, updates=added)
            streams, done = made.streams, done + count
            audio.append(made.audio[0])
            updates.append(added)
        return {**_joined(updates), "audio": torch.cat(audio, dim=1)}

    names = (*_layers(codec.config.decoder), "audio")
    return Component(name=name, dtype="fp32", cases=cases, run=run, readings=values(names))


def _drawn(codec: Codec, material: Material, name: str, frames: int) -> Tensor:
    generator = material.generator(f"moss codes {name}")
    return torch.randint(codec.config.codebook_size, (frames, codec.config.codebooks), generator=generator)


def _whole_frames(audio: Tensor, stride: int) -> Tensor:
    """`[C, S]` without its last part of a frame, one frame at least."""
    frames = max(audio.shape[1] // stride, 1)
    return torch.nn.functional.pad(audio, (0, stride))[:, : frames * stride].contiguous()


def _layers(stages: Iterable[StageConfig]) -> tuple[str, ...]:
    return layer_names(sum(stage.layers for stage in stages))


def _joined(updates: Sequence[Sequence[Tensor]]) -> dict[str, Tensor]:
    """What each layer added in all calls, `[tokens, width]`."""
    joined = [torch.cat([part[0] for part in parts]) for parts in zip(*updates, strict=True)]
    return dict(zip(layer_names(len(joined)), joined, strict=True))
