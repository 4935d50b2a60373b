"""Mimi's decoder as a batch model: the frames of finished rows become audio, piece by piece.

The pieces join exactly. Everything in Mimi is causal, so that a piece needs but little of what came
before: the last latent for the upsampling, the last 250 for the transformer, and so many of the
transformer's outputs as the convolutions reach back. What a row has to remember is kept with its item,
and the slot in which it was made is free already.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..engine.ports import Item
from .pace import Pace
from .sizes import Sizes
from .speaker import Frames
from .window import Memory, run_window

if TYPE_CHECKING:
    from ..device import Device

LEAST_FRAMES = 8
MOST_FRAMES = 2000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Speech:
    """What became of a row.

    Attributes:
        codes: Its frames, int16 `[F, K]`, as a later prompt takes them.
        audio: float32 `[S]`, S = F · samples of a frame.
    """

    codes: Tensor
    audio: npt.NDArray[np.float32]


@dataclass(slots=True, kw_only=True, eq=False)
class _Decoding:
    """How far an item is.

    Attributes:
        codes: int64 `[F, K]` in host memory.
        done: Frames that are audio already.
        latent: The last latent before the next piece, `[D, 1]`.
        memory: Of the transformer.
        tail: Its last outputs, `[D, reach]`.
    """

    codes: Tensor
    done: int = 0
    latent: Tensor | None = None
    memory: Memory = ()
    tail: Tensor | None = None
    audio: list[npt.NDArray[np.float32]] = field(default_factory=list)

    @property
    def left(self) -> int:
        return len(self.codes) - self.done


class Decoder:
    """See `engine.ports.BatchModel`; takes `Frames`, gives `Speech`."""

    max_items = 64

    def __init__(self, codec: Any, sizes: Sizes, device: Device) -> None:
        """Take a `MimiModel` in fp32 whose weights lie on the device."""
        self._quantizer = codec.quantizer
        self._decoder = codec.decoder
        self._sizes = sizes
        self._device = device
        self._reach = reach_back(codec.config)
        latent_samples = math.prod(codec.config.upsampling_ratios)
        self._latents = sizes.frame_samples // latent_samples  # of a frame
        self._pace = Pace(least=LEAST_FRAMES, most=MOST_FRAMES)

    @torch.inference_mode()
    def run(self, items: Sequence[Item[Frames, Speech]], time_budget_s: float) -> None:
        """See the port. Rows that begin and rows that go on take a call each."""
        for item in items:
            if item.state is None:
                item.state = _Decoding(codes=self._heard(item.payload))
        going = [item for item in items if item.state.left]
        with self._pace.timed(time_budget_s) as pace:
            first = [item for item in going if not item.state.done]
            # What is under way comes before what begins, but something always begins.
            group = [item for item in going if item.state.done] or first
            counts = _shares([item.state.left for item in group], pace.affordable)
            group = group[: len(counts)]
            if group:
                self._advance([item.state for item in group], counts)
                pace.spent(len(group) * max(counts))
        for item in items:
            _close(item)

    def _heard(self, frames: Frames) -> Tensor:
        """The frames that become audio: transformers leaves out only one that ends in all codebooks."""
        codes = frames.codes.cpu()
        if frames.ended and len(codes) and bool((codes[-1] == self._sizes.end).all()):
            codes = codes[:-1]
        return codes

    def _advance(self, states: Sequence[_Decoding], counts: Sequence[int]) -> None:
        """Decode the next frames of rows that all begin or all go on."""
        going_on = states[0].done > 0
        longest, per_frame, reach = max(counts), self._latents, self._reach
        codes = torch.zeros((len(states), longest, self._sizes.codebooks), dtype=torch.int64)
        for row, (state, count) in enumerate(zip(states, counts, strict=True)):
            codes[row, :count] = state.codes[state.done : state.done + count]
        latents = self._quantizer.decode(self._device.upload(codes.transpose(1, 2).contiguous()))  # [B, D, F]
        raised = latents
        if going_on:
            raised = torch.cat([torch.stack([_known(state.latent) for state in states]), latents], -1)
        raised = self._decoder.upsample(raised)[..., -longest * per_frame :]  # [B, D, T]
        starts = [state.done * per_frame for state in states]
        ends = [count * per_frame for count in counts]
        output, memories = run_window(
            self._decoder.decoder_transformer,
            raised.transpose(1, 2),
            starts,
            ends,
            [state.memory for state in states],
        )
        output = output.transpose(1, 2)  # [B, D, T]
        if going_on:
            output = torch.cat([torch.stack([_known(state.tail) for state in states]), output], -1)
        samples = longest * self._sizes.frame_samples
        audio = self._decoder.decoder_seanet(output)[:, 0, -samples:].cpu().numpy()  # [B, S]
        before = reach if going_on else 0
        for row, (state, count) in enumerate(zip(states, counts, strict=True)):
            end = before + count * per_frame
            state.latent = latents[row, :, count - 1 : count].clone()
            state.memory = memories[row]
            state.tail = output[row, :, max(0, end - reach) : end].clone()
            state.audio.append(audio[row, : count * self._sizes.frame_samples].copy())
            state.done += count


def reach_back(codec: Any) -> int:
    """How many latents before a piece its convolutions look at.

    Summed in latents, from a `MimiConfig`: a convolution of kernel k and dilation d reaches (k − 1) · d
    back, a transposed one of stride s and kernel 2 · s one of its own inputs, each at its own rate.
    """
    rate = 1
    total = Fraction(codec.kernel_size - 1)
    for ratio in codec.upsampling_ratios:
        total += Fraction(1, rate)
        rate *= ratio
        for layer in range(codec.num_residual_layers):
            dilation = codec.dilation_growth_rate**layer
            total += Fraction((codec.residual_kernel_size - 1) * dilation, rate)
    return math.ceil(total + Fraction(codec.last_kernel_size - 1, rate))


def _shares(left: Sequence[int], affordable: int) -> list[int]:
    """How many frames of each of the first rows a call takes, none so few that calls are wasted."""
    rows = max(1, min(len(left), affordable // LEAST_FRAMES))
    each = max(LEAST_FRAMES, affordable // rows)
    # A rest that is shorter than a piece goes with the piece before it.
    return [count if count < each + LEAST_FRAMES else each for count in left[:rows]]


def _known(tensor: Tensor | None) -> Tensor:
    assert tensor is not None, "a row that goes on has begun"
    return tensor


def _close(item: Item[Frames, Speech]) -> None:
    state = item.state
    total = len(state.codes)
    item.progress = state.done / total if total else 1.0
    if state.left:
        return
    audio = np.concatenate(state.audio) if state.audio else np.zeros(0, np.float32)
    item.result = Speech(codes=state.codes.to(torch.int16), audio=audio)
    item.state = None
    item.done = True
