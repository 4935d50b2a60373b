"""Mimi's encoder as a batch model: recordings of the context become codes, piece by piece.

As in `decoder.py` the pieces join exactly; here it is the samples before a piece that are looked at
again. One recording at a time: padding would change the last frame of a shorter one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..engine.ports import Item
from .pace import Pace
from .sizes import Sizes
from .window import Memory, run_window

if TYPE_CHECKING:
    from ..device import Device

LEAST_FRAMES = 8
MOST_FRAMES = 500

Samples = npt.NDArray[np.float32]


@dataclass(slots=True, kw_only=True, eq=False)
class _Encoding:
    """How far a recording is: the latents `[D, T]` that there are, and what the transformer remembers."""

    done: int = 0  # samples
    latents: list[Tensor] = field(default_factory=list)
    made: int = 0
    memory: Memory = ()


class Encoder:
    """See `engine.ports.BatchModel`; takes samples `[S]`, gives codes, int16 `[F, K]`."""

    max_items = 1

    def __init__(self, codec: Any, sizes: Sizes, device: Device) -> None:
        """Take a `MimiModel` in fp32 whose weights lie on the device."""
        self._encoder = codec.encoder
        self._quantizer = codec.quantizer
        self._sizes = sizes
        self._device = device
        self._latent_samples = math.prod(codec.config.upsampling_ratios)
        reach = reach_back(codec.config)
        # In whole latents, and pieces in whole frames, so that all strides stay in step.
        self._reach = -(-reach // self._latent_samples) * self._latent_samples
        self._pace = Pace(least=LEAST_FRAMES, most=MOST_FRAMES)

    @torch.inference_mode()
    def run(self, items: Sequence[Item[Samples, Tensor]], time_budget_s: float) -> None:
        """See the port."""
        item = items[0]
        state = item.state or _Encoding()
        samples = item.payload
        with self._pace.timed(time_budget_s) as pace:
            frames = min(pace.affordable, self._sizes.frames_in(len(samples) - state.done))
            latents, memory = self._piece(samples, state, frames)
            end = min(len(samples), state.done + frames * self._sizes.frame_samples)
            codes = None if end < len(samples) else self._codes([*state.latents, latents])
            pace.spent(frames)
        state.latents.append(latents)
        state.made += latents.shape[-1]
        state.memory = memory
        state.done = end
        item.state = state
        item.progress = end / len(samples)
        if codes is not None:
            item.result, item.state, item.done = codes, None, True

    def _piece(self, samples: Samples, state: _Encoding, frames: int) -> tuple[Tensor, Memory]:
        """The next latents `[D, T]`, and the memory after them."""
        begin = max(0, state.done - self._reach)
        end = state.done + frames * self._sizes.frame_samples
        piece = self._device.upload(torch.from_numpy(samples[begin:end].copy())[None, None])  # [1, 1, S]
        output = self._encoder.encoder_seanet(piece)[..., (state.done - begin) // self._latent_samples :]
        count = output.shape[-1]
        hidden, [memory] = run_window(
            self._encoder.encoder_transformer,
            output.transpose(1, 2),
            [state.made],
            [count],
            [state.memory],
        )
        return hidden[0].t(), memory

    def _codes(self, latents: Sequence[Tensor]) -> Tensor:
        halved = self._encoder.downsample(torch.cat(list(latents), -1)[None])  # [1, D, F]
        codes = self._quantizer.encode(halved, self._sizes.codebooks)  # [K, 1, F]
        return codes[:, 0].t().to(torch.int16).cpu()


def reach_back(codec: Any) -> int:
    """How many samples before a piece the convolutions of the encoder look at.

    From a `MimiConfig`: a convolution of kernel k, stride s and dilation d reaches (k − 1) · d − (s − 1)
    of its inputs further back than the input that it begins with, each input being as many samples
    as the strides before it make.
    """
    samples = 1
    total = codec.kernel_size - 1
    for ratio in reversed(codec.upsampling_ratios):
        for layer in range(codec.num_residual_layers):
            total += (codec.residual_kernel_size - 1) * codec.dilation_growth_rate**layer * samples
        total += ratio * samples  # of a kernel of 2 · ratio
        samples *= ratio
    return int(total + (codec.last_kernel_size - 1) * samples)
