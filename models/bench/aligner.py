"""The aligner, made to be measured: what its card does, windows in and emissions out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..aligner.checkpoint import Checkpoint, load_checkpoint, parameters, random_checkpoint, read_config
from ..aligner.emission import EmissionModel, Heard
from ..aligner.handler import MODEL
from ..aligner.published import published_config
from ..aligner.windows import HOP, RECEPTIVE, SAMPLE_RATE_HZ, Window, cut_windows, frames_of
from ..audio import Samples
from ..errors import ModelUnavailable
from .drive import batch_part
from .subject import WAIT_S, Answer, Part, Source
from .texts import TEXTS, vowels

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..device import Device
    from ..station import CardPlace
    from .plan import Load


class AlignerSubject:
    """See `Subject`. A request is a clip of a text's length; its frames are those that are heard."""

    unit = "frames"
    stepped = False

    def __init__(self, source: Source) -> None:
        if source.extra:
            raise ModelUnavailable(f"{MODEL} has no option {next(iter(source.extra))!r}")
        self._source = source
        self.config = published_config() if source.folder is None else read_config(source.folder)
        self.parameters = parameters(self.config)
        self._clips: dict[str, list[Window]] = {}

    def load(self, device: Device, dtype: torch.dtype) -> None:
        """See `Subject.load`."""
        del device
        if dtype != torch.float32:
            raise ModelUnavailable(f"{MODEL} computes in fp32 only; leave its dtype at auto")
        folder = self._source.folder
        if self._source.random or folder is None:
            self._checkpoint: Checkpoint = random_checkpoint(self.config)
        else:
            self._checkpoint = load_checkpoint(folder)

    def step_bytes(self) -> None:
        """See `Subject.step_bytes`."""
        return

    def join(self, place: CardPlace) -> None:
        """See `Subject.join`."""
        engine = place.engine
        model = engine.call(lambda: EmissionModel(self._checkpoint, engine.device)).result()
        engine.add_batch(MODEL, model)

    def perform(self, place: CardPlace, number: int, load: Load) -> Answer:
        """See `Subject.perform`. The first that is there is the first window of a recording."""
        del number
        begun = time.monotonic()
        windows = self._windows(load.text)
        tickets = [place.engine.process(MODEL, window) for window in windows]
        first: Heard = tickets[0].result(WAIT_S)
        first_s = time.monotonic() - begun
        heard: list[Heard] = [first, *(ticket.result(WAIT_S) for ticket in tickets[1:])]
        frames = sum(len(one.emissions) for one in heard)
        return Answer(
            frames=frames,
            audio_s=TEXTS[load.text].clip_s,
            empty=frames == 0,
            first_s=first_s,
            batch_size=max(one.together for one in heard),
        )

    def _windows(self, text: str) -> list[Window]:
        if text not in self._clips:
            self._clips[text] = list(cut_windows(_blocks(vowels(TEXTS[text].clip_s, SAMPLE_RATE_HZ))))
        return self._clips[text]

    def parts(self, device: Device, seq_len: int, *, graphs: bool) -> Sequence[Part]:
        """See `Subject.parts`."""
        model = EmissionModel(self._checkpoint, device)
        samples = np.random.default_rng(0).normal(0, 0.1, RECEPTIVE + (seq_len - 1) * HOP).astype(np.float32)
        window = Window(samples=samples, first=0, end=frames_of(len(samples)))
        return [batch_part(f"emissions, {seq_len} frames", model, lambda: window)]


def _blocks(samples: Samples) -> Iterator[Samples]:
    yield samples
