"""Both directions of the codec as the engine's batch models: bounded calls over the rows of many requests.

What a stream remembers belongs to its request, so calls of different requests never mix, and how the frames
are cut into calls changes nothing but the speed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..device import Device
from ..engine.ports import Item
from .codec import Codec, Stream
from .slots import Utterance

_LEAST_FRAMES = 4  # a call of one frame takes nearly as long
_MOST_FRAMES = 32  # beyond it the keys outside of the window cost more than the call saves
_MOST_TOGETHER = 512  # of all rows; bounds the memory of a call
_MOST_ITEMS = 64
_FIRST_GUESS_S = 0.01  # for a frame, until one was timed


class Pace:
    """How many frames fit a time, from what the last calls took."""

    def __init__(self) -> None:
        self._frame_s = _FIRST_GUESS_S

    def share(self, left: Sequence[int], budget_s: float) -> list[int]:
        """How many frames of each item to do now; items beyond the list wait.

        Args:
            left: What each item has left, oldest first.
            budget_s: What the call should take.
        """
        budget = min(max(_LEAST_FRAMES, int(budget_s / self._frame_s)), _MOST_TOGETHER)
        shares: list[int] = []
        for frames in left:
            if budget < min(frames, _LEAST_FRAMES):
                break
            shares.append(min(frames, _MOST_FRAMES, budget))
            budget -= shares[-1]
        return shares

    def took(self, seconds: float, frames: int) -> None:
        """Learn from a call."""
        self._frame_s += 0.3 * (seconds / frames - self._frame_s)


@dataclass(slots=True, kw_only=True, eq=False)
class _Progress:
    """What a call leaves on its item."""

    stream: Stream = field(default_factory=Stream)
    parts: list[Tensor] = field(default_factory=list)


class SpeechDecoder:
    """From codes to sound. Takes `Utterance`, gives float32 `[C, S]` on the host, without the primer's."""

    def __init__(self, codec: Codec, device: Device) -> None:
        self.max_items = _MOST_ITEMS
        self._codec, self._device = codec, device
        self._pace = Pace()

    @torch.inference_mode()
    def run(self, items: Sequence[Item[Utterance, Tensor]], time_budget_s: float) -> None:
        """See `BatchModel.run`."""
        codes = [_all_codes(item) for item in items]
        left = [len(c) - _progress(item).stream.frames for c, item in zip(codes, items, strict=True)]
        for item, frames in zip(items, left, strict=True):
            if frames == 0:  # nothing was said: no sound, no error
                self._finish(item)
        waiting = [index for index, frames in enumerate(left) if frames]
        shares = self._pace.share([left[index] for index in waiting], time_budget_s)
        if not shares:
            return
        began = time.perf_counter()
        chosen = waiting[: len(shares)]
        batch = torch.full((len(shares), max(shares), codes[chosen[0]].shape[1]), -1, dtype=torch.int64)
        batch = batch.to(self._codec.device)
        streams = [_progress(items[index]).stream for index in chosen]
        for row, (index, count) in enumerate(zip(chosen, shares, strict=True)):
            start = streams[row].frames
            batch[row, :count].copy_(codes[index][start : start + count])
        with self._device.exact_convolutions():
            made = self._codec.decode(batch, shares, streams)
        audio = made.audio.cpu()
        self._pace.took(time.perf_counter() - began, sum(shares))
        for row, (index, count) in enumerate(zip(chosen, shares, strict=True)):
            state = _progress(items[index])
            state.stream = made.streams[row]
            state.parts.append(audio[row, :, : count * self._codec.config.stride].clone())
            items[index].progress = state.stream.frames / len(codes[index])
            if state.stream.frames == len(codes[index]):
                self._finish(items[index])

    def rehearse(self, token_budget: int) -> None:
        """See `Rehearses.rehearse`; the second call has what the first left to look back at."""
        del token_budget
        rows = _MOST_TOGETHER // _MOST_FRAMES if not self._device.immediate else 1
        codes = torch.zeros(rows, _MOST_FRAMES, self._codec.config.codebooks, dtype=torch.int64)
        streams = [Stream() for _ in range(rows)]
        with torch.inference_mode(), self._device.exact_convolutions():
            for _ in range(2):
                made = self._codec.decode(self._device.upload(codes), [_MOST_FRAMES] * rows, streams)
                streams = made.streams

    def _finish(self, item: Item[Utterance, Tensor]) -> None:
        config = self._codec.config
        parts = _progress(item).parts
        audio = torch.cat(parts, dim=1) if parts else torch.zeros(config.channels, 0)
        primer = item.payload.primer
        item.result = audio[:, (0 if primer is None else len(primer)) * config.stride :]
        item.state, item.done, item.progress = None, True, 1.0


class ReferenceEncoder:
    """From sound to codes. Takes float32 `[C, S]` on the host, gives int64 codes `[F, K]` of the whole frames."""

    def __init__(self, codec: Codec, device: Device) -> None:
        self.max_items = _MOST_ITEMS
        self._codec, self._device = codec, device
        self._pace = Pace()

    @torch.inference_mode()
    def run(self, items: Sequence[Item[Tensor, Tensor]], time_budget_s: float) -> None:
        """See `BatchModel.run`."""
        stride = self._codec.config.stride
        total = [item.payload.shape[1] // stride for item in items]
        left = [frames - _progress(item).stream.frames for frames, item in zip(total, items, strict=True)]
        shares = self._pace.share(left, time_budget_s)
        began = time.perf_counter()
        batch = torch.zeros(len(shares), self._codec.config.channels, max(shares) * stride)
        streams = [_progress(item).stream for item in items[: len(shares)]]
        for row, (item, count) in enumerate(zip(items, shares, strict=False)):
            start = streams[row].frames * stride
            batch[row, :, : count * stride].copy_(item.payload[:, start : start + count * stride])
        with self._device.exact_convolutions():
            made = self._codec.encode(self._device.upload(batch), shares, streams)
        codes = made.codes.cpu()
        self._pace.took(time.perf_counter() - began, sum(shares))
        for row, (item, count) in enumerate(zip(items, shares, strict=False)):
            state = _progress(item)
            state.stream = made.streams[row]
            state.parts.append(codes[row, :count].clone())
            item.progress = state.stream.frames / total[row]
            if state.stream.frames == total[row]:
                item.result = torch.cat(state.parts)
                item.state, item.done = None, True


def _progress(item: Item[Utterance, Tensor] | Item[Tensor, Tensor]) -> _Progress:
    if item.state is None:
        item.state = _Progress()
    state: _Progress = item.state
    return state


def _all_codes(item: Item[Utterance, Tensor]) -> Tensor:
    """The primer's codes and those that were made, `[F, K]`."""
    codes, primer = item.payload.codes, item.payload.primer
    return codes if primer is None else torch.cat((primer.to(codes), codes))
