"""The decoder of the autoencoder: latents to samples, in pieces that join without a seam.

A stream may get its latents in chunks. The last chunk is held until the next one comes, since interpolation
looks one latent ahead; the last samples of a piece wait for the frames that overlap them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .blocks import Affine
from .config import AudioSize
from .synthesis import OVERLAP, Synthesis
from .weights import Weights
from .window import WindowedStack


@dataclass(slots=True, eq=False)
class Stream:
    """One utterance on its way to samples.

    Attributes:
        latents: All that came so far [T, C].
        ready: How many of them may be decoded.
        done: How many were.
        last: Whether no more will come.
        kept: Keys and values of the stack.
        held: Samples and squared windows that wait for the next frames, each [3, hop].
    """

    latents: Tensor
    kept: Tensor
    held: Tensor
    held_window: Tensor
    ready: int = 0
    done: int = 0
    last: bool = False

    def push(self, latents: Tensor, *, last: bool) -> None:
        """Append latents [n, C]; those of the push before become ready, and at the end all."""
        self.ready = len(self.latents)
        self.latents = torch.cat((self.latents, latents))
        if last:
            self.ready = len(self.latents)
        self.last = last

    @property
    def waiting(self) -> int:
        """How many latents could be decoded now."""
        return self.ready - self.done

    @property
    def finished(self) -> bool:
        return self.last and self.done == len(self.latents)


class AudioDecoder(nn.Module):
    """Upsampling, a windowed Qwen2 stack, synthesis."""

    def __init__(self, weights: Weights, size: AudioSize) -> None:
        super().__init__()
        self.size = size
        self.entry = Affine(weights.under("fc1."))
        self.stack = WindowedStack(weights.under("decoder."), size.decoder, layers=size.decoder.layers)
        self.synthesis = Synthesis(weights.under("head."), size.hop)
        self.shares = _interpolation(size.frames).to(weights.device, weights.dtype)  # [3, frames, 1]

    def open(self, latents: Tensor | None = None) -> Stream:
        """A stream; with `latents` [T, C] it is complete."""
        device = self.shares.device
        blank = torch.zeros(OVERLAP - 1, self.size.hop, device=device)
        stream = Stream(
            latents=torch.zeros(0, self.size.channels, device=device),
            kept=self.stack.blank(),
            held=blank,
            held_window=blank,
        )
        if latents is not None:
            stream.push(latents.to(device), last=True)
        return stream

    def decode(self, streams: Sequence[Stream], count: int) -> list[Tensor]:
        """Decode up to `count` of the ready latents of each stream, all in one call.

        Every stream has some. One with fewer than `count` has to be at its end, or all have equally few.

        Returns:
            The samples that became complete, fp32 [S] for each stream, on the device.
        """
        takes = [min(count, stream.waiting) for stream in streams]
        width = max(takes)
        around = torch.stack([_around(stream, width) for stream in streams])  # [B, width + 2, C]
        start = _uploaded([stream.done * self.size.frames for stream in streams], around.device)
        kept = torch.stack([stream.kept for stream in streams])
        hidden, kept = self.stack(self.upsample(around), kept, start)
        present = (
            torch.arange(hidden.shape[1], device=start.device)
            < _uploaded([take * self.size.frames for take in takes], start.device)[:, None]
        )  # [B, F]
        frames = self.synthesis(hidden) * present[:, :, None, None]
        held = torch.stack([stream.held for stream in streams])
        held_window = torch.stack([stream.held_window for stream in streams])
        samples, held = self.synthesis.overlap(frames, held)
        weight, held_window = self.synthesis.overlap_window(present.float(), held_window)
        whole = torch.cat((samples, held), dim=1) / torch.cat((weight, held_window), dim=1).clamp(min=1e-11)
        pieces = []
        for row, (stream, take) in enumerate(zip(streams, takes, strict=True)):
            first = stream.done == 0
            stream.done += take
            stream.kept, stream.held, stream.held_window = kept[row], held[row], held_window[row]
            pieces.append(self._trimmed(whole[row].flatten(), take, first=first, last=stream.finished))
        return pieces

    def upsample(self, around: Tensor) -> Tensor:
        """Latents with a neighbour at both ends [B, n + 2, C] to hidden frames [B, n · frames, H].

        Linear interpolation with the centres of latents and frames aligned.
        """
        x = self.entry(around.to(self.shares.dtype))[:, :, None]  # [B, n + 2, 1, H]
        before, here, after = self.shares
        return (x[:, :-2] * before + x[:, 1:-1] * here + x[:, 2:] * after).flatten(1, 2)

    def _trimmed(self, samples: Tensor, take: int, *, first: bool, last: bool) -> Tensor:
        """Cut what no frame, or only the edge of one, covers: one and a half hops at both ends."""
        hop = self.size.hop
        edge = (OVERLAP - 1) * hop // 2
        end = take * self.size.frames * hop + (edge if last else 0)
        return samples[edge if first else 0 : end]


def _around(stream: Stream, width: int) -> Tensor:
    """The next `width` latents with both neighbours; edges and padding repeat the outermost."""
    there = stream.latents[max(stream.done - 1, 0) : stream.done + width + 1]
    before = 1 if stream.done == 0 else 0
    behind = width + 2 - before - len(there)
    return torch.cat((there[:before], there, there[-1:].expand(behind, -1)))


def _uploaded(numbers: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor(numbers).to(device, non_blocking=True)


def _interpolation(frames: int) -> Tensor:
    """The shares of the latent before, here and after in each of its frames [3, frames, 1]."""
    offset = (torch.arange(frames) + 0.5) / frames - 0.5  # of the frame's centre, in latents
    before, after = (-offset).clamp(min=0), offset.clamp(min=0)
    return torch.stack((before, 1 - before - after, after))[:, :, None]
