"""Ming, made to be measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..ming.codec import PromptEncoder, SpeechDecoder
from ..ming.config import MingConfig
from ..ming.handler import NAME
from ..ming.network import MingNetwork
from ..ming.published import content
from ..ming.rows import Latents, MingPrompt
from ..ming.settings import MingSettings
from ..ming.speech import MAX_STEPS, SpeechSlots
from ..ming.studio import add_models
from ..ming.weights import parameters, random_weights
from .drive import batch_part, slot_parts
from .subject import WAIT_S, Answer, Part, Source
from .texts import TEXTS

if TYPE_CHECKING:
    from ..device import Device
    from ..station import CardPlace
    from .plan import Load

GUIDANCE, SIGMA, TEMPERATURE = 2.0, 0.25, 0.0
INSTRUCTION_TOKENS = 40
"""Of a prompt: the words around the text."""


class MingSubject:
    """See `Subject`. A row's prompt is a text without a voice; a frame is a patch of 0.32 s."""

    unit = "patches"
    stepped = True

    def __init__(self, source: Source) -> None:
        self._source = source
        self._settings = MingSettings.parse(source.extra)
        layers = self._settings.encoder_layers
        self.config = (
            MingConfig.parse(content(), encoder_layers=layers)
            if source.folder is None
            else MingConfig.load(source.folder, encoder_layers=layers)
        )
        self.parameters = parameters(self.config)

    def load(self, device: Device, dtype: torch.dtype) -> None:
        """See `Subject.load`."""
        codec_dtype = device.dtype(self._settings.codec_dtype)
        if self._source.random or self._source.folder is None:
            weights = random_weights(self.config, dtype=dtype, device=device.torch_device)
            with torch.inference_mode(False):
                self._network = MingNetwork(
                    weights, self.config, flow_steps=self._settings.flow_steps, codec_dtype=codec_dtype
                )
            return
        self._network = MingNetwork.load(
            self._source.folder,
            dtype=dtype,
            device=device.torch_device,
            flow_steps=self._settings.flow_steps,
            encoder_layers=self._settings.encoder_layers,
            codec_dtype=codec_dtype,
        )

    def step_bytes(self) -> int:
        """See `Subject.step_bytes`: backbone and aggregator once, the flow network for each solver step."""
        generator = self._network.generator

        def size(module: torch.nn.Module) -> int:
            return sum(p.numel() * p.element_size() for p in module.parameters())

        backbone = sum(size(layer) for layer in generator.backbone.layers)
        return backbone + self._settings.flow_steps * size(generator.flow) + size(generator.aggregator)

    def join(self, place: CardPlace) -> None:
        """See `Subject.join`."""
        add_models(NAME, place, self._network, self._settings)

    def perform(self, place: CardPlace, number: int, load: Load) -> Answer:
        """See `Subject.perform`."""
        assert load.frames is not None, "the model would not end its rows"
        if load.frames > MAX_STEPS:
            raise InputError(f"frames: {NAME} makes at most {MAX_STEPS} patches in a row, not {load.frames}")
        positions = INSTRUCTION_TOKENS + TEXTS[load.text].tokens
        ticket = place.engine.generate(
            NAME, self._prompt(positions, number, load.frames), positions=positions, max_steps=load.frames
        )
        made = ticket.result(WAIT_S)
        metrics = made.metrics
        return Answer(
            frames=made.steps,
            audio_s=made.steps * self.config.patch_s,
            empty=not np.any(made.value.samples),
            first_s=float(metrics["first_step_s"]),
            step_ms=float(metrics["step_ms"]),
            batch_size=int(metrics["batch_size"]),
            bucket=int(metrics["bucket"]),
        )

    def _prompt(self, positions: int, seed: int, patches: int) -> MingPrompt:
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(0, self.config.llm.vocabulary, (positions,), generator=generator)
        return MingPrompt(
            ids=tuple(ids.tolist()),
            guidance=GUIDANCE,
            sigma=SIGMA,
            temperature=TEMPERATURE,
            seed=seed,
            max_patches=patches,
            may_stop=False,
        )

    def parts(self, device: Device, seq_len: int, *, graphs: bool) -> Sequence[Part]:
        """See `Subject.parts`."""
        network, config = self._network, self.config
        slots = SpeechSlots(network.generator, device, context=self._settings.context, graphs=graphs)
        channels = config.audio.channels

        def latents() -> Latents:
            values = torch.randn(seq_len, channels).to(device.torch_device)
            return Latents(values=values, stopped=True)

        def samples() -> Tensor:
            return 0.1 * torch.randn(seq_len * config.audio.samples_per_latent)

        length = f"{seq_len} latents"
        return [
            *slot_parts(slots, lambda count: self._prompt(count, 0, MAX_STEPS), seq_len),
            Part(name="flow, 1 patch", prepare=lambda: self._flow(device)),
            Part(name="aggregator, 1 patch", prepare=lambda: self._aggregator(device)),
            batch_part(f"audio decoder, {length}", SpeechDecoder(network.decoder, device), latents),
            batch_part(f"audio encoder, {length}", PromptEncoder(network.encoder, device), samples),
        ]

    def _flow(self, device: Device) -> Callable[[], object]:
        config, generator = self.config, self._network.generator
        patch = (config.patch, config.audio.channels)
        z = torch.randn(1, config.llm.width, dtype=generator.dtype)
        history = torch.zeros(1, config.look_back, config.audio.channels)
        noise = torch.randn(1, generator.flow.noises, *patch)
        strength, spread = torch.full((1,), GUIDANCE), torch.zeros(1)
        inputs = [device.upload(tensor) for tensor in (z, history, noise, strength, spread)]
        return lambda: generator.flow(*inputs)

    def _aggregator(self, device: Device) -> Callable[[], object]:
        config, generator = self.config, self._network.generator
        patch = device.upload(torch.randn(1, config.patch, config.audio.channels))
        return lambda: generator.aggregator(patch)
