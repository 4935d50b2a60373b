"""What a request brings to its slot, and what each slot keeps on the card between two steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..engine.draws import Draws, Floats, normals
from ..engine.ports import Row
from ..engine.resident import resident, resized
from .config import MingConfig

if TYPE_CHECKING:
    from ..device import Device

_SOLVER_BLOCK_STEPS = 16  # nine times as many numbers as the initial noise, and few rows want them

NoiseSource = Callable[[int, int, int, int], Floats]
"""(seed, first step, steps, width) to standard normals [steps, width], the initial patch [P, C] first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MingPrompt:
    """A request, ready for the backbone.

    Attributes:
        ids: All tokens.
        speakers: Raw CAM++ vectors [n, 192]; `None` where zeros stand at the places of speakers.
        speaker_places: The positions of the speakers.
        latents: Of the prompt audio, whole patches [T, C]; `None` without.
        patch_places: The positions of its patches.
        guidance: g of the flow, 0 or more.
        sigma: Size of the solver's noise.
        temperature: Of the solver's noise; 0 for none.
        seed: Of all draws, 64 bits.
        max_patches: It makes no more, whether the model stops or not.
        may_stop: Whether the model's stops count. They do not in measurements with random weights.
    """

    ids: tuple[int, ...]
    guidance: float
    sigma: float
    temperature: float
    seed: int
    max_patches: int
    may_stop: bool = True
    speakers: Tensor | None = None
    speaker_places: tuple[int, ...] = ()
    latents: Tensor | None = None
    patch_places: tuple[int, ...] = ()

    @property
    def spread(self) -> float:
        """What the solver's noise is multiplied with, before the square root of the time step."""
        return self.sigma * math.sqrt(self.temperature)


@dataclass(frozen=True, slots=True, kw_only=True)
class Latents:
    """What a row made.

    Attributes:
        values: [T, C], fp32, on the device.
        stopped: Whether the model ended it, and not the limit.
    """

    values: Tensor
    stopped: bool


class SlotState:
    """Everything but keys and values that a running row keeps, one entry for each slot.

    Attributes:
        inputs: The next input of the backbone [B, H].
        hidden: The last hidden state of the backbone [B, H].
        history: The latents before the next patch [B, look-back, C], fp32.
        guidance: g [B], fp32.
        spread: [B], fp32.
        patches: What was made [B, max_steps + 1, P, C], fp32; the last one takes what is surplus.
        made: How many patches were made [B], int64.
    """

    def __init__(
        self,
        config: MingConfig,
        device: Device,
        *,
        dtype: torch.dtype,
        noises: int,
        max_steps: int,
        noise: NoiseSource = normals,
    ) -> None:
        where = device.torch_device
        patch = (config.patch, config.audio.channels)
        self._device = device
        self.inputs = resident(0, config.llm.width, dtype=dtype, device=where)
        self.hidden = resident(0, config.llm.width, dtype=dtype, device=where)
        self.history = resident(0, config.look_back, config.audio.channels, dtype=torch.float32, device=where)
        self.guidance = resident(0, dtype=torch.float32, device=where)
        self.spread = resident(0, dtype=torch.float32, device=where)
        self.patches = resident(0, max_steps + 1, *patch, dtype=torch.float32, device=where)
        self.made = resident(0, dtype=torch.int64, device=where)
        size = config.patch * config.audio.channels
        self._patch = patch
        self._noise = noise
        self._initial = Draws(width=size, device=where, source=noise)
        self._between = Draws(
            width=(noises - 1) * size,
            device=where,
            source=lambda seed, first, steps, width: noise(seed, first, steps, size + width)[:, size:],
            block=_SOLVER_BLOCK_STEPS,
        )

    @property
    def _tensors(self) -> tuple[str, ...]:
        return "inputs", "hidden", "history", "guidance", "spread", "patches", "made"

    @property
    def slots(self) -> int:
        return len(self.made)

    @property
    def bytes_per_slot(self) -> int:
        """What one slot costs."""
        tensors = (getattr(self, name) for name in self._tensors)
        own: int = sum(math.prod(tensor.shape[1:]) * tensor.itemsize for tensor in tensors)
        return own + self._initial.bytes_per_slot + self._between.bytes_per_slot

    def reserve(self, slots: int) -> None:
        """Have memory for `slots` slots; those below that number keep what they hold."""
        for name in self._tensors:
            setattr(self, name, resized(getattr(self, name), slots))
        self._initial.reserve(slots)
        self._between.reserve(slots)

    def begin(self, slot: int, prompt: MingPrompt, last_input: Tensor) -> None:
        """A row whose prompt is done begins to run in the slot.

        Args:
            last_input: The input at the last position of the prompt [H].
        """
        self.inputs[slot].copy_(last_input)
        self.history[slot].zero_()
        if prompt.latents is not None and self.history.shape[1]:
            seen = prompt.latents[-self.history.shape[1] :]
            self._device.upload(seen.contiguous(), into=self.history[slot, -len(seen) :])
        self.guidance[slot] = prompt.guidance
        self.spread[slot] = prompt.spread
        self.made[slot] = 0
        self._initial.seat(slot, prompt.seed)
        self._between.seat(slot, prompt.seed)

    def refill(self, rows: list[Row[MingPrompt]]) -> None:
        """Upload the draws of rows that are about to need more of them."""
        self._initial.refill(rows)
        self._between.refill([row for row in rows if row.prompt.spread])

    def noise(self) -> Tensor:
        """The draws of this step for every slot [B, N, P, C]."""
        count = self.slots
        both = torch.cat((self._initial.take(count), self._between.take(count)), dim=1)
        return both.view(count, -1, *self._patch)

    def advance(self, bucket: int) -> None:
        """The step is done."""
        self._initial.advance(bucket)
        self._between.advance(bucket)

    def move(self, source: int, target: int) -> None:
        """Copy a row to another slot."""
        for name in self._tensors:
            tensor = getattr(self, name)
            tensor[target].copy_(tensor[source])
        self._initial.move(source, target)
        self._between.move(source, target)

    def clear(self, slot: int) -> None:
        """Leave nothing of a row behind."""
        for name in self._tensors:
            getattr(self, name)[slot].zero_()
        self._initial.clear(slot)
        self._between.clear(slot)
