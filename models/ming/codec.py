"""The codec as batch models: latents to samples and samples to latents, many requests in a call."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..engine.ports import Item
from .decoder import AudioDecoder, Stream
from .encoder import AudioEncoder, Recording
from .rows import Latents

if TYPE_CHECKING:
    from ..device import Device
    from ..device.reading import HostRead

Samples = npt.NDArray[np.float32]

LATENTS_PER_CALL = 16
"""Of each request in one call, 1.28 s: enough that reading the weights is shared by many frames."""

MAX_ITEMS = 32
_SLOWER = 0.7  # share of the old figure in the running mean of a call's cost


class _Pace:
    """How many rows a call may take, from what calls took so far.

    Where the host does not wait for the device the number alone bounds a call.
    """

    def __init__(self, device: Device, *, alone: bool) -> None:
        self._measured = device.immediate
        self._alone = alone
        self._row_s: float | None = None
        self._begun = 0.0

    @property
    def most_rows(self) -> int:
        """Of any call; where calls are measured they grow from one row on."""
        return 1 if self._alone or self._measured else MAX_ITEMS

    def rows(self, waiting: int, time_budget_s: float) -> int:
        """A power of two, so that few shapes occur."""
        most = 1 if self._alone else waiting
        if self._measured and not self._alone:
            most = 1 if self._row_s is None else min(waiting, max(1, int(time_budget_s / self._row_s)))
        self._begun = time.perf_counter()
        return 1 << (most.bit_length() - 1)

    def done(self, rows: int) -> None:
        row_s = (time.perf_counter() - self._begun) / rows
        self._row_s = row_s if self._row_s is None else _SLOWER * self._row_s + (1 - _SLOWER) * row_s


@dataclass(slots=True, eq=False)
class _Decoding:
    stream: Stream
    pieces: list[Tensor] = field(default_factory=list)
    read: HostRead | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Speech:
    """Samples [S], fp32, and whether the model ended them, and not the limit."""

    samples: Samples
    stopped: bool


class SpeechDecoder:
    """The latents of finished rows to speech, as a `BatchModel`."""

    max_items = MAX_ITEMS

    def __init__(self, decoder: AudioDecoder, device: Device, *, alone: bool = False) -> None:
        """Take a loaded decoder.

        Args:
            decoder: On the device.
            alone: Whether each row is decoded by itself, so that its samples are the same bit for bit
                in any company; else they agree to rounding.
        """
        self._decoder = decoder
        self._device = device
        self._pace = _Pace(device, alone=alone)

    @torch.inference_mode()
    def rehearse(self, token_budget: int) -> None:
        """See `Rehearses.rehearse`."""
        latents = torch.zeros(LATENTS_PER_CALL, self._decoder.size.channels)
        streams = [self._decoder.open(latents) for _ in range(self._pace.most_rows)]
        self._decoder.decode(streams, LATENTS_PER_CALL)

    @torch.inference_mode()
    def run(self, items: Sequence[Item[Latents, Speech]], time_budget_s: float) -> None:
        """See `BatchModel.run`."""
        for item in items:
            if item.state is None:
                item.state = _Decoding(self._decoder.open(item.payload.values))
            self._collect(item)
        waiting = [item for item in items if not item.done and item.state.stream.waiting]
        if not waiting:
            return
        chosen = waiting[: self._pace.rows(len(waiting), time_budget_s)]
        streams = [item.state.stream for item in chosen]
        pieces = self._decoder.decode(streams, LATENTS_PER_CALL)
        for item, piece in zip(chosen, pieces, strict=True):
            decoding = item.state
            decoding.pieces.append(piece)
            item.progress = decoding.stream.done / len(decoding.stream.latents)
        for item in chosen:
            self._send(item.state)
        self._pace.done(len(chosen))

    def _send(self, decoding: _Decoding) -> None:
        """Start to copy the samples of a finished stream to the host."""
        if decoding.stream.finished and decoding.read is None:
            decoding.read = self._device.read(torch.cat(decoding.pieces))

    def _collect(self, item: Item[Latents, Speech]) -> None:
        """Finish an item whose samples were sent to the host in the call before."""
        decoding, stopped = item.state, item.payload.stopped
        if not len(item.payload.values):  # a row that made nothing
            item.result, item.done = Speech(samples=np.zeros(0, np.float32), stopped=stopped), True
        elif decoding.read is None:
            self._send(decoding)  # where the call before found no memory for it
        else:
            item.result, item.done = Speech(samples=decoding.read.wait().numpy(), stopped=stopped), True


class PromptEncoder:
    """Samples [S] of prompt audio to the parameters of their latents [T, 2C], fp32, as a `BatchModel`."""

    max_items = MAX_ITEMS

    def __init__(self, encoder: AudioEncoder, device: Device, *, alone: bool = False) -> None:
        """Take a loaded encoder; the arguments are those of `SpeechDecoder`."""
        self._encoder = encoder
        self._device = device
        self._pace = _Pace(device, alone=alone)

    @torch.inference_mode()
    def rehearse(self, token_budget: int) -> None:
        """See `Rehearses.rehearse`."""
        samples = torch.zeros(LATENTS_PER_CALL * self._encoder.size.samples_per_latent)
        recordings = [self._encoder.open(samples) for _ in range(self._pace.most_rows)]
        self._encoder.encode(recordings, LATENTS_PER_CALL)

    @torch.inference_mode()
    def run(self, items: Sequence[Item[Tensor, Tensor]], time_budget_s: float) -> None:
        """See `BatchModel.run`."""
        for item in items:
            if item.state is None:
                item.state = self._encoder.open(self._device.upload(item.payload))
            elif isinstance(item.state, Recording):
                self._send(item)
            else:
                item.result, item.done = item.state.wait(), True
        waiting = [item for item in items if isinstance(item.state, Recording) and item.state.waiting]
        if not waiting:
            return
        chosen = waiting[: self._pace.rows(len(waiting), time_budget_s)]
        self._encoder.encode([item.state for item in chosen], LATENTS_PER_CALL)
        for item in chosen:
            item.progress = item.state.done / item.state.latents
        self._pace.done(len(chosen))
        for item in chosen:
            self._send(item)

    def _send(self, item: Item[Tensor, Tensor]) -> None:
        """Start to copy the parameters of a finished recording to the host."""
        if not item.state.waiting:
            item.state = self._device.read(item.state.parameters())
