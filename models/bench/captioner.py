"""The captioner, made to be measured."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..captioner.handler import EARS, MODEL, SHORT_CONTEXT, add_models, check_settings
from ..captioner.listener import Listener
from ..captioner.prompt import Speller
from ..captioner.published import SHAPE, STOPS
from ..captioner.rows import CaptionRows, Prompt
from ..captioner.shape import read_shape
from ..captioner.spectrum import SAMPLE_RATE_HZ, log_mel
from ..captioner.weights import Weights, parameters, random_weights, read_weights
from ..engine.sampling import GREEDY
from ..errors import InputError
from .drive import batch_part, slot_parts
from .subject import WAIT_S, Answer, Part, Source
from .texts import TEXTS, vowels

if TYPE_CHECKING:
    from ..device import Device
    from ..station import CardPlace
    from .plan import Load

WORDS_BEFORE, WORDS_BEHIND = 20, 10
"""Tokens around the audio of a prompt, with the published tokenizer."""


class CaptionerSubject:
    """See `Subject`. A request is a clip, from its spectrum on; the text says how long it is.

    Attributes:
        shape: The sizes.
        weights: Once they are loaded.
    """

    unit = "tokens"
    stepped = True

    def __init__(self, source: Source) -> None:
        check_settings(source.extra)
        self._source = source
        self.shape = SHAPE if source.folder is None else read_shape(source.folder)
        self.parameters = parameters(self.shape)
        self.weights: Weights | None = None
        self._classes: dict[str, int] = {}
        self._mels: dict[str, Tensor] = {}

    def load(self, device: Device, dtype: torch.dtype) -> None:
        """See `Subject.load`."""
        folder = self._source.folder
        if self._source.random or folder is None:
            self.weights = random_weights(self.shape, device.torch_device, dtype)
        else:
            self.weights = read_weights(folder, self.shape, device.torch_device, dtype)

    @property
    def loaded(self) -> Weights:
        """The weights, which are loaded."""
        assert self.weights is not None, "`load` comes first"
        return self.weights

    def step_bytes(self) -> int:
        """See `Subject.step_bytes`: all of the language model but its embedding."""
        language = self.loaded.language
        size: int = self.loaded.language_bytes - language.embedding.nbytes
        return size + (language.embedding.nbytes if self.shape.text.tied else 0)

    def stops(self) -> tuple[int, ...]:
        """The ids that end a caption."""
        folder = self._source.folder
        if folder is None or self._source.random:
            return tuple(number for number in STOPS if number < self.shape.text.vocabulary)
        return tuple(Speller(folder, self.shape).stops)

    def join(self, place: CardPlace) -> None:
        """See `Subject.join`."""
        self._classes = add_models(place, self.loaded, self.stops() or (0,))

    def perform(self, place: CardPlace, number: int, load: Load) -> Answer:
        """See `Subject.perform`."""
        assert load.frames is not None, "the model would not end its rows"
        engine, begun = place.engine, time.monotonic()
        heard: Tensor = engine.process(EARS, self.mel(load.text)).result(WAIT_S)
        prompt = self.prompt(heard, number)
        asked_s = time.monotonic() - begun
        name = self._class_of(len(prompt.ids), load.frames)
        ticket = engine.generate(name, prompt, positions=len(prompt.ids), max_steps=load.frames)
        made = ticket.result(WAIT_S)
        metrics = made.metrics
        return Answer(
            frames=len(made.value),
            audio_s=TEXTS[load.text].clip_s,
            empty=not made.value,
            first_s=asked_s + float(metrics["first_step_s"]),
            step_ms=float(metrics["step_ms"]),
            batch_size=int(metrics["batch_size"]),
            bucket=int(metrics["bucket"]),
            output=tuple(made.value),
        )

    def mel(self, text: str) -> Tensor:
        """The spectrum [bands, F] of a clip of a text's length."""
        if text not in self._mels:
            self._mels[text] = torch.from_numpy(log_mel(vowels(TEXTS[text].clip_s, SAMPLE_RATE_HZ)))
        return self._mels[text]

    def ids(self, heard: int, number: int) -> Tensor:
        """Ids [T] of a prompt with so many positions of audio; each number has its own words."""
        generator = torch.Generator().manual_seed(number)
        words = torch.randint(
            0,
            min(self.shape.text.vocabulary, self.shape.audio_id),
            (WORDS_BEFORE + WORDS_BEHIND,),
            generator=generator,
        )
        audio = torch.full((heard,), self.shape.audio_id)
        return torch.cat((words[:WORDS_BEFORE], audio, words[WORDS_BEFORE:]))

    def prompt(self, heard: Tensor, number: int) -> Prompt:
        """These embeddings of audio between the words of a number."""
        ids = self.ids(len(heard), number)
        return Prompt(ids=ids, audio=heard, audio_at=WORDS_BEFORE, sampling=GREEDY, seed=number)

    def _class_of(self, positions: int, steps: int) -> str:
        for name, context in self._classes.items():
            if positions + steps <= context:
                return name
        raise InputError(
            f"frames: a prompt of {positions} positions and {steps} tokens exceed the {context} of {MODEL}"
        )

    def parts(self, device: Device, seq_len: int, *, graphs: bool) -> Sequence[Part]:
        """See `Subject.parts`."""
        weights, shape = self.loaded, self.shape
        rows = CaptionRows(
            weights.language,
            device,
            context=min(SHORT_CONTEXT, shape.text.max_positions),
            stops=self.stops() or (0,),
            graphs=graphs,
        )
        hidden, frames = shape.text.hidden, 4 * seq_len  # a position is four frames of the spectrum

        def prompt(count: int) -> Prompt:
            audio = torch.zeros(0, hidden, dtype=weights.language.dtype)
            ids = torch.arange(count) % shape.audio_id
            return Prompt(ids=ids, audio=audio, audio_at=0, sampling=GREEDY, seed=0)

        def mel() -> Tensor:
            return torch.randn(shape.audio.mel_bands, frames)

        return [
            *slot_parts(rows, prompt, seq_len),
            batch_part(f"audio tower, {seq_len} positions", Listener(weights.tower), mel),
        ]
