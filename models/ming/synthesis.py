"""From hidden frames to samples: log-magnitudes and phases, an inverse transform, overlap-add.

No complex numbers: the inverse real transform, its 1/n and the window are one real matrix. All of it is fp32,
and the window is computed here, because the stored one is rounded to bf16.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from .weights import Weights

OVERLAP = 4
"""Frames that cover a sample: the transform is four hops long."""

_MAX_MAGNITUDE = 100.0


class Synthesis(nn.Module):
    """The head of the decoder, frame by frame."""

    def __init__(self, weights: Weights, hop: int) -> None:
        super().__init__()
        self.hop = hop
        self.weight = weights.parameter("out.weight")
        self.bias = weights.parameter("out.bias")
        window = _periodic_hann(OVERLAP * hop)
        self.basis = (
            torch.from_numpy(inverse_basis(OVERLAP * hop) * window[:, None]).float().to(weights.device)
        )
        squared = torch.from_numpy(window**2).float().to(weights.device)
        self.squared_window = squared.view(OVERLAP, hop)

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden frames [B, F, H] to windowed frames of samples [B, F, 4, hop], fp32."""
        raw = functional.linear(hidden.to(self.weight.dtype), self.weight, self.bias).float()
        log_magnitude, phase = raw.chunk(2, dim=-1)
        magnitude = log_magnitude.exp().clamp(max=_MAX_MAGNITUDE)
        spectrum = torch.cat((magnitude * phase.cos(), magnitude * phase.sin()), dim=-1)
        return functional.linear(spectrum, self.basis).unflatten(-1, (OVERLAP, self.hop))

    def overlap(self, frames: Tensor, held: Tensor) -> tuple[Tensor, Tensor]:
        """Add frames that lie one hop apart, beginning with what the frames before left.

        Args:
            frames: [B, F, 4, hop].
            held: [B, 3, hop].

        Returns:
            The samples that are complete [B, F, hop], and what the last frames leave [B, 3, hop].
        """
        count = frames.shape[1]
        total = functional.pad(held, (0, 0, 0, count))  # [B, F + 3, hop]
        for part in range(OVERLAP):
            total[:, part : part + count] += frames[:, :, part]
        return total[:, :count], total[:, count:]

    def overlap_window(self, present: Tensor, held: Tensor) -> tuple[Tensor, Tensor]:
        """As `overlap`, of the squared windows of the frames that are there ([B, F] of 0 and 1)."""
        return self.overlap(present[:, :, None, None] * self.squared_window, held)


def inverse_basis(size: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """The matrix [size, size + 2] of the inverse real Fourier transform.

    It takes the real parts of the size/2 + 1 bins, then their imaginary parts. Computed on the host in
    float64, since the arguments of the cosines grow with size².
    """
    bins = np.arange(size // 2 + 1)
    turns = (np.arange(size)[:, None] * bins) % size  # exact, where the angle itself would lose digits
    angles = 2 * math.pi / size * turns
    share = np.where((bins == 0) | (bins == size // 2), 1.0, 2.0) / size  # the others stand for two bins
    return np.concatenate((np.cos(angles) * share, -np.sin(angles) * share), axis=1)


def _periodic_hann(size: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    window: np.ndarray[tuple[int], np.dtype[np.float64]] = 0.5 - 0.5 * np.cos(
        2 * math.pi / size * np.arange(size)
    )
    return window
