"""The parts of the captioner as they are verified: the audio tower, and the language model behind it.

What is heard is the material's audio; what is written are its texts, as if they were captions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..device import Device, short_name
from ..engine.ports import Item, Row
from ..engine.sampling import GREEDY
from ..verification.ports import Answers, Component, Material, Reading, Tensors, Trial
from ..verification.taps import layer_names, values
from .hearing import AudioTower
from .language import LanguageModel, Rotary
from .listener import Listener
from .prompt import TASKS, Speller
from .rows import CaptionRows, Prompt, attend_alone
from .shape import Shape, read_shape
from .spectrum import SAMPLE_RATE_HZ, log_mel
from .weights import parameters as parameters_of
from .weights import read_weights

TOKENS = 16
"""Of the free run."""

_HEARD_S = 5.0  # chunks are of two seconds, and the last is shorter then
_SYSTEM = "You are a helpful assistant."
_UNHURRIED_S = 60.0  # for a call of the tower


def components(folder: Path, device: Device, dtype: torch.dtype) -> Sequence[Component]:
    """Load the checkpoint; see `models/verification/ports.py`.

    Raises:
        ModelUnavailable: A file is missing, damaged or of another model.
    """
    shape = read_shape(folder)
    speller = Speller(folder, shape)
    weights = read_weights(folder, shape, device.torch_device, dtype)
    writer = _Writer(shape, speller)
    name = short_name(dtype)
    return (
        _audio_tower(weights.tower, device, name),
        _language_model(weights.language, device, writer, name),
        _free_run(weights.language, device, writer, name),
    )


def parameters(folder: Path) -> int:
    """How many numbers are loaded: the folder also holds a vision tower, a talker and a vocoder."""
    return parameters_of(read_shape(folder))


def trials(material: Material) -> Sequence[Trial]:
    """A short caption of the audio."""
    return (Trial(name="clip", fields={"audio": str(material.audio), "max_new_tokens": 3 * TOKENS}),)


class _Writer:
    """Makes prompts on the host."""

    def __init__(self, shape: Shape, speller: Speller) -> None:
        self.speller = speller
        self._audio_id = shape.audio_id
        self._wording = speller.wording(TASKS["describe"], _SYSTEM)

    def prompt(self, heard: Tensor) -> dict[str, Tensor]:
        """The prompt of a clip: its ids, the embeddings of its audio, and where they stand."""
        before, behind = self._wording.before, self._wording.behind
        return {
            "ids": torch.tensor([*before, *[self._audio_id] * len(heard), *behind]),
            "audio": heard,
            "audio_at": torch.tensor(len(before)),
        }

    def written(self, words: str) -> Tensor:
        """A text as the ids that follow a prompt."""
        return torch.tensor(self.speller.ids(words))


def _audio_tower(tower: AudioTower, device: Device, dtype: str) -> Component:
    """The spectrum of a clip to embeddings, in whole chunks and in a part of one."""
    shape = tower.shape
    layers = layer_names(shape.layers) if dtype == "fp32" else ()  # as below

    def cases(material: Material, _: Answers) -> dict[str, Tensors]:
        heard = torch.from_numpy(log_mel(material.samples(SAMPLE_RATE_HZ, longest_s=_HEARD_S)))  # [bands, F]
        whole = heard[:, : shape.chunk_frames]
        drawn = torch.randn(whole.shape, generator=material.generator("captioner mel"))
        return {"clip": {"mel": heard}, "chunk": {"mel": whole}, "drawn": {"mel": drawn}}

    def run(inputs: Tensors) -> dict[str, Tensor]:
        mel = inputs["mel"]
        item: Item[Tensor, Tensor] = Item(payload=mel)
        listener = Listener(tower)
        while not item.done:
            listener.run([item], _UNHURRIED_S)
        assert item.result is not None
        updates: list[Tensor] = []
        if layers and mel.shape[1] >= shape.chunk_frames:
            tower.run(device.upload(mel[None, :, : shape.chunk_frames]), None, updates=updates)
        return {**dict(zip(layers, updates, strict=False)), "embeddings": item.result}

    readings = values([*layers, "embeddings"])
    return Component(name="audio tower", dtype=dtype, cases=cases, run=run, readings=readings)


def _language_model(model: LanguageModel, device: Device, writer: _Writer, dtype: str) -> Component:
    """A prompt with audio and a caption behind it, in one call: what each token is followed by."""
    # Differences of 16-bit numbers are mostly rounding, so the layers are looked at in fp32 only.
    layers = [f"attention {number}" for number in range(model.shape.layers)] if dtype == "fp32" else []

    def cases(material: Material, answers: Answers) -> dict[str, Tensors]:
        prompt = writer.prompt(answers["audio tower"]["clip"]["embeddings"])
        return {
            name: {**prompt, "caption": writer.written(text.words)} for name, text in material.texts.items()
        }

    def run(inputs: Tensors) -> dict[str, Tensor]:
        ids = device.upload(torch.cat([inputs["ids"], inputs["caption"]]))
        states = model.embed(ids)
        first = int(inputs["audio_at"])
        device.upload(inputs["audio"].to(model.dtype), into=states[first : first + len(inputs["audio"])])
        rotary = Rotary(model.shape, len(ids), device.torch_device, model.dtype)
        seen: list[Tensor] = []

        def attend(_: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            mixed = attend_alone(queries, keys, values)
            if layers:
                seen.append(mixed)
            return mixed

        states = model.run(states, rotary.at(torch.arange(len(ids), device=device.torch_device)), attend)
        said = states[len(inputs["ids"]) - 1 :]
        return {**dict(zip(layers, seen, strict=True)), "states": states, "logits": model.logits(said)}

    readings: dict[str, Reading] = {**values([*layers, "states"]), "logits": "logits"}
    return Component(name="language model", dtype=dtype, cases=cases, run=run, readings=readings)


def _free_run(model: LanguageModel, device: Device, writer: _Writer, dtype: str) -> Component:
    """Tokens as a worker makes them, the likeliest always."""

    def cases(_: Material, answers: Answers) -> dict[str, Tensors]:
        return {
            name: writer.prompt(answer["embeddings"])
            for name, answer in answers["audio tower"].items()
            if name != "drawn"
        }

    def run(inputs: Tensors) -> dict[str, Tensor]:
        ids = inputs["ids"]
        rows = CaptionRows(model, device, context=len(ids) + TOKENS, stops=())
        rows.reserve(1)
        prompt = Prompt(
            ids=ids,
            audio=inputs["audio"].to(model.dtype),
            audio_at=int(inputs["audio_at"]),
            sampling=GREEDY,
            seed=0,
        )
        row = Row(prompt=prompt, positions=len(ids), max_steps=TOKENS, slot=0)
        while not row.ready:
            rows.prefill([row], len(ids))
        for _ in range(TOKENS):
            rows.step(1, [row]).read()
            row.steps += 1
        return {"tokens": rows.release(row, TOKENS).wait()}

    return Component(
        name="free run",
        dtype=dtype,
        cases=cases,
        run=run,
        readings={"tokens": "tokens"},
        spell=lambda tokens: writer.speller.text(tokens.tolist()),
    )
