"""MOSS-TTS-Nano, made to be measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from ..engine.sampling import Sampling
from ..errors import ModelUnavailable
from ..moss.codec import Codec, check_agreement
from ..moss.codec_calls import ReferenceEncoder, SpeechDecoder
from ..moss.config import CodecConfig, LanguageConfig
from ..moss.folders import CODEC_NAME, Folders
from ..moss.handler import NAME, add_models, form_of
from ..moss.language_model import LanguageModel
from ..moss.published import CODEC, LANGUAGE
from ..moss.random_weights import RandomWeights, parameters
from ..moss.settings import MossSettings
from ..moss.slots import MossSlots, Prompt, Utterance
from ..moss.weights import Weights
from .drive import batch_part, slot_parts
from .subject import WAIT_S, Answer, Part, Source
from .texts import TEXTS

if TYPE_CHECKING:
    from ..device import Device
    from ..station import CardPlace
    from .plan import Load

TEMPLATE_ROWS, REFERENCE_ROWS = 78, 150
"""Of a prompt: the words around the text, and the 12 s of a voice that is cloned."""

GATE = Sampling(temperature=1.0, top_k=50)
AUDIO = Sampling(temperature=0.8, top_k=25, top_p=0.95, repetition_penalty=1.2)


class MossSubject:
    """See `Subject`. A row's prompt is that of a cloned voice, which is prefilled with each row."""

    unit = "frames"
    stepped = True

    def __init__(self, source: Source) -> None:
        self._source = source
        self._settings = MossSettings.read(source.extra)
        self._folders: Folders | None = None
        if source.folder is None:
            self.config, self._codec_config = LanguageConfig.parse(LANGUAGE), CodecConfig.parse(CODEC)
        else:
            settings = self._settings
            self._folders = Folders.find(source.folder, codec=settings.codec, voices=settings.voices)
            self.config = LanguageConfig.read(self._folders.language)
            self._codec_config = CodecConfig.read(self._folders.codec)
        check_agreement(
            self._codec_config, self.config.codebooks, self.config.codebook_sizes, self.config.sample_rate
        )
        self.context = min(self._settings.context, self.config.decoder.positions)
        self._language_size, self._codec_size = parameters(self.config, self._codec_config)
        self.parameters = self._language_size + self._codec_size

    def load(self, device: Device, dtype: torch.dtype) -> None:
        """See `Subject.load`."""
        language, codec = self._weights()
        with torch.inference_mode():
            self._model = LanguageModel(
                self.config,
                language,
                device=device.torch_device,
                dtype=dtype,
                positions=self.context + 1,
                form=form_of(self._settings, device),
            )
            self._codec = Codec(self._codec_config, codec, device.torch_device)

    def _weights(self) -> tuple[Weights, Weights]:
        if self._source.random:
            return cast(Weights, RandomWeights()), cast(Weights, RandomWeights(1))
        if self._folders is None:
            raise ModelUnavailable(f"{NAME} has no checkpoint here; give its folder, with {CODEC_NAME}")
        return Weights(self._folders.language), Weights(self._folders.codec)

    def step_bytes(self) -> int:
        """See `Subject.step_bytes`: the global transformer once, the local one for the gate and each codebook."""
        sizes = self.config.decoder
        block = 4 * sizes.hidden**2 + 2 * sizes.hidden * sizes.inner
        passes = sizes.layers + (1 + self.config.codebooks) * sizes.local_layers
        numbers = passes * block + sum(self.config.codebook_sizes) * sizes.hidden
        return numbers * (1 if self._model.form == "int8" else self._model.dtype.itemsize)

    def join(self, place: CardPlace) -> None:
        """See `Subject.join`."""
        longest = min(TEMPLATE_ROWS + REFERENCE_ROWS, self.context)
        place.engine.call(
            lambda: add_models(place, self._settings, self._model, self._codec, longest)
        ).result()

    def perform(self, place: CardPlace, number: int, load: Load) -> Answer:
        """See `Subject.perform`."""
        assert load.frames is not None, "the model would not end its rows"
        rows = TEMPLATE_ROWS + REFERENCE_ROWS + TEXTS[load.text].tokens
        ticket = place.engine.generate(
            NAME, self._prompt(rows, number), positions=rows, max_steps=load.frames
        )
        made = ticket.result(WAIT_S)
        audio: Tensor = made.value
        metrics = made.metrics
        return Answer(
            frames=made.steps,
            audio_s=made.steps * self._codec_config.frame_s,
            empty=not bool(audio.any()),
            first_s=float(metrics["first_step_s"]),
            step_ms=float(metrics["step_ms"]),
            batch_size=int(metrics["batch_size"]),
            bucket=int(metrics["bucket"]),
        )

    def _prompt(self, rows: int, seed: int) -> Prompt:
        """Ids that nobody wrote, behind the codes of a voice that nobody has."""
        config = self.config
        generator = torch.Generator().manual_seed(seed)
        ids = torch.full((rows, 1 + config.codebooks), config.audio_pad)
        ids[:, 0] = torch.randint(0, config.vocabulary, (rows,), generator=generator)
        voice = slice(TEMPLATE_ROWS // 2, TEMPLATE_ROWS // 2 + REFERENCE_ROWS)
        shape = ids[voice, 1:].shape
        ids[voice, 1:] = torch.randint(0, min(config.codebook_sizes), shape, generator=generator)
        return Prompt(rows=ids, codebooks=config.codebooks, gate=GATE, audio=AUDIO, seed=seed)

    def parts(self, device: Device, seq_len: int, *, graphs: bool) -> Sequence[Part]:
        """See `Subject.parts`."""
        slots = MossSlots(
            self._model,
            device,
            context=self.context,
            graphs=graphs,
            voices=0,
            longest_prefix=0,
        )
        config = self._codec_config

        def codes() -> Utterance:
            return Utterance(
                codes=torch.randint(0, config.codebook_size, (seq_len, config.codebooks)).to(
                    device.torch_device
                )
            )

        def samples() -> Tensor:
            return 0.1 * torch.randn(config.channels, seq_len * config.stride)

        length = f"{seq_len} frames"
        return [
            *slot_parts(slots, lambda count: self._prompt(count, 0), seq_len),
            batch_part(f"codec decoder, {length}", SpeechDecoder(self._codec, device), codes),
            batch_part(f"codec encoder, {length}", ReferenceEncoder(self._codec, device), samples),
        ]
