"""The parts of the aligner as they are verified: its convolutions, its encoder, and the emissions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor

from ..device import Device
from ..verification.ports import Answers, Component, Material, Reading, Tensors, Trial
from ..verification.taps import Taps, values
from .checkpoint import load_checkpoint
from .windows import SAMPLE_RATE_HZ

FP32_ONLY = True

_HEARD_S = 10.0


def components(folder: Path, device: Device, _: torch.dtype) -> Sequence[Component]:
    """Load the checkpoint; see `models/verification/ports.py`.

    Raises:
        ModelUnavailable: A file is missing, damaged or of another model.
    """
    model: Any = load_checkpoint(folder).model.to(device.torch_device)
    return _convolutions(model, device), _encoder(model, device), _emissions(model, device)


def trials(material: Material) -> Sequence[Trial]:
    """The audio with the first text, said in it or not: both sides have to find the same places."""
    text = next(iter(material.texts.values()))
    fields = {"audio": str(material.audio), "text": text.words, "language": text.language}
    return (Trial(name="clip", fields=fields),)


def _convolutions(model: Any, device: Device) -> Component:
    """Sound to features [F, C], and features to the width of the encoder."""
    encoder = model.wav2vec2

    def cases(material: Material, _: Answers) -> dict[str, Tensors]:
        heard = material.samples(SAMPLE_RATE_HZ, longest_s=_HEARD_S)
        noise = 0.1 * torch.randn(SAMPLE_RATE_HZ, generator=material.generator("aligner noise"))
        return {"recording": {"audio": torch.from_numpy(heard.copy())}, "noise": {"audio": noise}}

    convolutions = [layer.conv for layer in encoder.feature_extractor.conv_layers]
    names = tuple(f"convolution {number}" for number in range(len(convolutions)))

    def run(inputs: Tensors) -> dict[str, Tensor]:
        # What a norm follows may be too large by any factor: it is looked at before.
        found: dict[str, Tensor] = {}

        def keep(name: str) -> Callable[..., None]:
            return lambda _module, _given, output: found.update({name: output[0]})

        hooks = [
            layer.register_forward_hook(keep(name)) for name, layer in zip(names, convolutions, strict=True)
        ]
        try:
            features = encoder.feature_extractor(device.upload(inputs["audio"])[None]).transpose(1, 2)
        finally:
            for hook in hooks:
                hook.remove()
        projected, _ = encoder.feature_projection(features)
        return {**found, "features": features[0], "projection": projected[0]}

    readings = values([*names, "features", "projection"])
    return Component(name="convolutions", dtype="fp32", cases=cases, run=run, readings=readings)


def _encoder(model: Any, device: Device) -> Component:
    """The transformer; in one case two recordings share a call, and the shorter one is padded."""
    encoder = model.wav2vec2.encoder
    taps = Taps(encoder.layers)

    def cases(_: Material, answers: Answers) -> dict[str, Tensors]:
        projected = [answer["projection"] for answer in answers["convolutions"].values()]
        longest = max(map(len, projected))
        batch = torch.stack([nnf.pad(one, (0, 0, 0, longest - len(one))) for one in projected])
        lengths = torch.tensor([len(one) for one in projected])
        alone = {"hidden": projected[0][None], "lengths": lengths[:1]}
        return {"alone": alone, "padded": {"hidden": batch, "lengths": lengths}}

    def run(inputs: Tensors) -> dict[str, Tensor]:
        lengths = inputs["lengths"]
        heard = torch.arange(inputs["hidden"].shape[1])[None] < lengths[:, None]  # [B, F]
        mask = None if bool(heard.all()) else device.upload(heard)
        with taps.recording():
            states = encoder(device.upload(inputs["hidden"]), attention_mask=mask).last_hidden_state
        counted = device.upload(heard.flatten())  # what padding becomes is nobody's
        updates = {name: update[counted] for name, update in taps.taken().items()}
        return {**updates, "states": states.flatten(0, 1)[counted]}

    readings = values([*taps.names, "states"])
    return Component(name="encoder", dtype="fp32", cases=cases, run=run, readings=readings)


def _emissions(model: Any, device: Device) -> Component:
    """States to log-probabilities [F, V]."""

    def cases(_: Material, answers: Answers) -> dict[str, Tensors]:
        return {name: {"states": answer["states"]} for name, answer in answers["encoder"].items()}

    def run(inputs: Tensors) -> dict[str, Tensor]:
        return {"emissions": nnf.log_softmax(model.lm_head(device.upload(inputs["states"])), dim=-1)}

    readings: dict[str, Reading] = {"emissions": "logits"}
    return Component(name="emissions", dtype="fp32", cases=cases, run=run, readings=readings)
