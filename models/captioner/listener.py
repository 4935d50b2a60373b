"""The audio tower as a batch model: chunks of all waiting clips share its calls."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..engine.ports import Item
from .hearing import AudioTower, positions_of, tokens_of

MAX_CHUNKS = 128  # in one call: about half a gigabyte of activations at the published size
FIRST_CHUNKS = 4  # until a call has shown how fast the device is
FIXED_CHUNKS = 8  # of one clip, where the company of a chunk must not matter


@dataclass(slots=True, kw_only=True)
class _Heard:
    """How far a clip is: its next chunk, and the embeddings of those before."""

    next_chunk: int = 0
    parts: list[Tensor] = field(default_factory=list)
    seconds: float = 0.0


class Listener:
    """Encodes mel spectra [mel_bands, F] (CPU, fp32) into embeddings [T, hidden] (CPU, the model's dtype).

    The `BatchModel` of the engine's ports.
    """

    max_items = 64

    def __init__(self, tower: AudioTower, *, reproducible: bool = False) -> None:
        """Take up a tower.

        Args:
            reproducible: Whether every call is of one clip and one size.
        """
        self._tower = tower
        self._reproducible = reproducible
        self._chunks_per_s = 0.0

    def tokens(self, frames: int) -> int:
        """How many embeddings a clip of so many frames becomes."""
        return tokens_of(frames, self._tower.shape.chunk_frames)

    @torch.inference_mode()
    def run(self, items: Sequence[Item[Tensor, Tensor]], time_budget_s: float) -> None:
        """Encode as many chunks as fit the time, the oldest clip's first; a long clip takes several calls."""
        begun = time.monotonic()
        chosen = self._choose(items, time_budget_s)
        if not chosen:
            return
        embedded = self._encode(chosen)
        seconds = time.monotonic() - begun
        # The first calls choose kernels and take memory: a slow call is soon forgotten.
        rate = len(chosen) / max(seconds, 1e-6)
        self._chunks_per_s = max(rate, (self._chunks_per_s + rate) / 2)
        for (item, chunk), part in zip(chosen, embedded, strict=True):
            self._keep(item, chunk, part, seconds / len(chosen))

    @torch.inference_mode()
    def rehearse(self, token_budget: int) -> None:
        """Hear as many chunks as one call may take."""
        shape = self._tower.shape
        mel = torch.zeros(MAX_CHUNKS, shape.mel_bands, shape.chunk_frames, device=self._tower.device)
        self._tower.run(mel, torch.full((MAX_CHUNKS,), shape.chunk_frames, device=self._tower.device))

    def _choose(
        self, items: Sequence[Item[Tensor, Tensor]], time_budget_s: float
    ) -> list[tuple[Item[Tensor, Tensor], int]]:
        if self._reproducible:
            items, wanted = items[:1], FIXED_CHUNKS
        else:
            rate = self._chunks_per_s
            wanted = min(max(round(rate * time_budget_s), 1), MAX_CHUNKS) if rate else FIRST_CHUNKS
        chosen: list[tuple[Item[Tensor, Tensor], int]] = []
        for item in items:
            first = item.state.next_chunk if item.state is not None else 0
            last = min(self._chunks(item), first + wanted - len(chosen))
            chosen += [(item, chunk) for chunk in range(first, last)]
        return chosen

    def _chunks(self, item: Item[Tensor, Tensor]) -> int:
        return -(-int(item.payload.shape[1]) // self._tower.shape.chunk_frames)

    def _encode(self, chosen: Sequence[tuple[Item[Tensor, Tensor], int]]) -> list[Tensor]:
        """The embeddings of each chunk, on the host."""
        tower = self._tower
        width = tower.shape.chunk_frames
        size = FIXED_CHUNKS if self._reproducible else len(chosen)
        mel = torch.zeros(size, tower.shape.mel_bands, width)
        frames = []
        for place, (item, chunk) in enumerate(chosen):
            part = item.payload[:, chunk * width : (chunk + 1) * width]
            mel[place, :, : part.shape[1]] = part
            frames.append(part.shape[1])
        whole = min(frames) == width and not self._reproducible
        counted = torch.tensor([*frames, *[width] * (size - len(frames))])
        embedded = tower.run(mel.to(tower.device), None if whole else counted.to(tower.device)).cpu()
        kept = embedded[: len(frames)]  # [N, P / 2, hidden]
        return [part[: positions_of(count) // 2] for part, count in zip(kept, frames, strict=True)]

    def _keep(self, item: Item[Tensor, Tensor], chunk: int, part: Tensor, seconds: float) -> None:
        if item.state is None:
            item.state = _Heard()
        heard: _Heard = item.state
        heard.parts.append(part)
        heard.next_chunk = chunk + 1
        heard.seconds += seconds
        item.progress = heard.next_chunk / self._chunks(item)
        if heard.next_chunk == self._chunks(item):
            item.result = torch.cat(heard.parts)
            item.metrics["encode_s"] = round(heard.seconds, 6)
            item.state = None
            item.done = True
