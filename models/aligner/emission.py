"""Emissions: for each frame of a window, the log-probabilities of the model's classes. A batch model of the engine.

A call takes windows of about the same length, of any recordings that wait: the longest is at most a quarter longer
than the shortest, so less than a quarter of what is computed is padding. How many depends on how long the calls
before took. The convolutions are run over a bounded number of samples at a time, since they take by far the most
memory, and only log-probabilities of wanted frames leave the card.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as nnf

from ..device import Device
from ..engine.ports import Item, Took
from ..errors import ModelError
from .checkpoint import Checkpoint
from .windows import LONGEST, Window, frames_of

Emissions = npt.NDArray[np.float32]

MOST_PADDING = 1.25
"""How much longer than the shortest window of a call the longest may be."""

_MOST_ITEMS = 256
_MOST_SAMPLES = 32 * LONGEST  # of a call, however fast the card is
_CONVOLVED_SAMPLES = 2 * LONGEST  # at a time
_MOST_CHANGE = 2.0  # of how much a call takes, from one to the next


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What was heard in a window.

    Attributes:
        emissions: [F, V], the natural-log probabilities of the frames that are wanted of it.
        together: How many windows were heard with it, and it.
    """

    emissions: Emissions
    together: int


class EmissionModel:
    """See `soundmill.models.engine.ports.BatchModel`; the items are windows.

    Attributes:
        took: What the last call did.
        quota: How many samples a call may take. It follows how long calls take, as their speed in a small one says
            little of a large one. It is never less than those of a window of a long recording: that cannot be
            divided, so short ones together may take as long.
    """

    max_items = _MOST_ITEMS

    def __init__(self, checkpoint: Checkpoint, device: Device) -> None:
        """Move the model to the device; called on the engine's thread."""
        self._device = device
        self._model: Any = checkpoint.model.to(device.torch_device)
        self._turn = 0
        self.took: Took | None = None
        self.quota = float(LONGEST)

    def run(self, items: Sequence[Item[Window, Heard]], time_budget_s: float) -> None:
        """See `BatchModel.run`."""
        chosen = self._choose(items)
        begun = time.perf_counter()
        with torch.inference_mode(), self._device.exact_convolutions():
            found = self._emissions([item.payload.samples for item in chosen])
        self._learn(chosen, (time.perf_counter() - begun) / time_budget_s)
        self.took = Took(len(chosen), _padding([len(item.payload.samples) for item in chosen]))
        for item, emissions in zip(chosen, found, strict=True):
            _finish(item, emissions, len(chosen))

    def _choose(self, items: Sequence[Item[Window, Heard]]) -> list[Item[Window, Heard]]:
        """The window whose turn it is, with as many of its size as the time allows.

        Turns alternate between the oldest window of all and the oldest short recording, so that this one is not
        kept waiting by the hours of another.
        """
        self._turn += 1
        short = [item for item in items if len(item.payload.samples) < LONGEST]
        oldest = short[0] if short and self._turn % 2 else items[0]
        alike = max(_buckets(items, oldest), key=len)
        longest = max(len(item.payload.samples) for item in alike)
        count = int(min(self.quota, _MOST_SAMPLES) // longest)
        others = [item for item in alike if item is not oldest]
        return [oldest, *others[: count - 1]]

    def _learn(self, chosen: Sequence[Item[Window, Heard]], budgets: float) -> None:
        """Take more the next time if a call took less than its time, less if it took more."""
        samples = sum(len(item.payload.samples) for item in chosen)
        fitting = samples * min(_MOST_CHANGE, max(1 / _MOST_CHANGE, 1 / max(budgets, 1e-6)))
        # A quick call with little to do says nothing against a larger one.
        self.quota = max(LONGEST, fitting if budgets > 1 else max(self.quota, fitting))

    def _emissions(self, windows: Sequence[npt.NDArray[np.float32]]) -> list[Emissions]:
        lengths = [len(window) for window in windows]
        batch = torch.zeros(len(windows), max(lengths))
        for row, window in zip(batch, windows, strict=True):
            row[: len(window)] = torch.from_numpy(window)
        audio = self._device.upload(batch)  # [B, S]
        encoder = self._model.wav2vec2
        heard = torch.cat([self._convolve(rows) for rows in audio.split(_rows_at_once(batch.shape[1]))])
        hidden, _ = encoder.feature_projection(heard)  # [B, F, H]
        mask = self._mask(lengths)
        hidden = encoder.encoder(hidden, attention_mask=mask).last_hidden_state
        logits = self._model.lm_head(hidden)
        found = nnf.log_softmax(logits, dim=-1).cpu().numpy()  # [B, F, V]
        return [row[: frames_of(length)] for row, length in zip(found, lengths, strict=True)]

    def _convolve(self, audio: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self._model.wav2vec2.feature_extractor(audio)
        return features.transpose(1, 2)  # [B, F, C]

    def _mask(self, lengths: Sequence[int]) -> torch.Tensor | None:
        """[B, F]: which frames are heard; none is needed where all windows have one length."""
        if len(set(lengths)) == 1:
            return None
        frames = torch.tensor([frames_of(length) for length in lengths])
        mask = torch.arange(frames_of(max(lengths)))[None, :] < frames[:, None]
        return self._device.upload(mask)


def _buckets(
    items: Sequence[Item[Window, Heard]], oldest: Item[Window, Heard]
) -> Iterator[list[Item[Window, Heard]]]:
    """For each length that the longest window of the call may have: those that fit, the oldest first."""
    own = len(oldest.payload.samples)
    lengths = {len(item.payload.samples) for item in items}
    for longest in sorted(length for length in lengths if own <= length <= own * MOST_PADDING):
        yield [item for item in items if longest / MOST_PADDING <= len(item.payload.samples) <= longest]


def _padding(lengths: Sequence[int]) -> float:
    return 1 - sum(lengths) / (len(lengths) * max(lengths))


def _rows_at_once(samples: int) -> int:
    return max(1, _CONVOLVED_SAMPLES // samples)


def _finish(item: Item[Window, Heard], emissions: Emissions, together: int) -> None:
    wanted = np.ascontiguousarray(emissions[item.payload.first : item.payload.end])
    if np.isnan(wanted).any():
        item.error = ModelError(
            "the aligner's probabilities are not numbers: its weights are damaged, or the card computes in fp16"
        )
    item.result = Heard(emissions=wanted, together=together)
    item.done = True
