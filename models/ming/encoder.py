"""The encoder of the autoencoder: samples to the mean and spread of latents. There is no spectrogram."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from .blocks import Affine
from .config import AudioSize
from .weights import Weights
from .window import WindowedStack

_LEAST_SPREAD = 1e-4


@dataclass(slots=True, eq=False)
class Recording:
    """Audio on its way to latents.

    Attributes:
        frames: The samples, the last frame filled up with zeros [F, hop].
        kept: Keys and values of both stacks.
        done: Latents encoded so far.
        parts: Their parameters [n, 2C].
    """

    frames: Tensor
    latents: int
    kept: Tensor
    kept_above: Tensor
    done: int = 0
    parts: list[Tensor] = field(default_factory=list)

    @property
    def waiting(self) -> int:
        return self.latents - self.done

    def parameters(self) -> Tensor:
        """Means and raw spreads [T, 2C]."""
        return torch.cat(self.parts)


class AudioEncoder(nn.Module):
    """A windowed stack over frames, and one that gathers them into a learned vector for each latent."""

    def __init__(self, weights: Weights, size: AudioSize) -> None:
        super().__init__()
        self.size = size
        self.window_in = weights.parameter("fc1.weight")
        self.entry = Affine(weights.under("fc2."))
        self.output = Affine(weights.under("fc3."))
        self.gather = weights.parameter("cls_embed")  # [1, 1, H]
        self.stack = WindowedStack(weights.under("encoder."), size.encoder, layers=size.encoder_layers)
        self.above = WindowedStack(weights.under("aggregator."), size.encoder, layers=size.aggregator_layers)

    def open(self, samples: Tensor) -> Recording:
        """Take up samples [S], at least one."""
        size = self.size
        frames = functional.pad(samples, (0, -len(samples) % size.hop)).view(-1, size.hop)
        return Recording(
            frames=frames.to(self.window_in.device),
            latents=-(-len(frames) // size.frames),
            kept=self.stack.blank(),
            kept_above=self.above.blank(),
        )

    def encode(self, recordings: Sequence[Recording], count: int) -> None:
        """Encode up to `count` latents of each recording, all in one call.

        Every recording has some left. One with fewer than `count` is at its end.
        """
        size = self.size
        takes = [min(count, recording.waiting) for recording in recordings]
        width = max(takes) * size.frames
        x, present = self._frames(recordings, width)
        done = torch.tensor([recording.done for recording in recordings]).to(x.device, non_blocking=True)
        kept = torch.stack([recording.kept for recording in recordings])
        kept_above = torch.stack([recording.kept_above for recording in recordings])
        hidden = self.entry(functional.linear(x.to(self.window_in.dtype), self.window_in))
        hidden, kept = self.stack(hidden, kept, done * size.frames)
        hidden = hidden * present[:, :, None]  # where a latent lacks frames, zeros stand for them
        groups = hidden.unflatten(1, (-1, size.frames))  # [B, n, frames, H]
        marks = self.gather[None].expand(*groups.shape[:2], 1, -1)
        tokens = torch.cat((groups, marks), dim=2).flatten(1, 2)
        above, kept_above = self.above(tokens, kept_above, done * (size.frames + 1))
        parameters = self.output(above[:, size.frames :: size.frames + 1]).float()  # [B, n, 2C]
        for row, (recording, take) in enumerate(zip(recordings, takes, strict=True)):
            recording.done += take
            recording.kept, recording.kept_above = kept[row], kept_above[row]
            recording.parts.append(parameters[row, :take])

    def _frames(self, recordings: Sequence[Recording], width: int) -> tuple[Tensor, Tensor]:
        """The next frames of each, filled up with zeros [B, width, hop], and which are there [B, width]."""
        parts = [r.frames[r.done * self.size.frames :][:width] for r in recordings]
        frames = torch.stack([functional.pad(part, (0, 0, 0, width - len(part))) for part in parts])
        present = torch.tensor([[i < len(part) for i in range(width)] for part in parts])
        return frames, present.to(frames.device, self.window_in.dtype, non_blocking=True)


def posterior(parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [T, C] of the latents from the encoder's parameters [T, 2C]."""
    mean, raw = parameters.chunk(2, dim=-1)
    return mean, functional.softplus(raw) + _LEAST_SPREAD
