"""The slot model: one step is one position of the backbone and one patch of latents for every row.

The probability that a patch is the last one is known before the patch is solved. Its copy to the host starts
then and is over long before the solve is, so that the next step knows which rows have ended, and neither
solves nor aggregates for them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..device import GraphPool, StepGraph
from ..engine.cache import SlotCache
from ..engine.draws import normals
from ..engine.ports import Row
from ..engine.schedule import bucket_sizes
from .network import Generator
from .rows import Latents, MingPrompt, NoiseSource, SlotState

if TYPE_CHECKING:
    from ..device import Device
    from ..device.reading import HostRead

STOP_ABOVE = 0.5
LAST_UNSTOPPABLE_STEP = 3
"""A stop counts from the step after this one on, so five patches are made at least."""

DEFAULT_CONTEXT = 1024
MAX_STEPS = 400
"""The longest request, 128 s; music asks for that many."""

_BACKBONE_ROWS = 8
_PREFILL_MULTIPLE = 32  # few shapes, for cards that prepare each one
_PADDING_SHARE = 1.5  # rows are run together while padding costs less than this


class KnownStops:
    """Stop flags that the host already has."""

    def __init__(self, flags: Sequence[bool]) -> None:
        self._flags = flags

    def read(self) -> Sequence[bool]:
        return self._flags


class SpeechSlots:
    """Ming's generator as a `SlotModel`; a row gives its `Latents`.

    A row ends by itself, also at its limit of patches: so the stop of the very last patch is seen, and the
    engine has to allow one step more than patches.

    Attributes:
        dtype: Of weights and hidden states.
    """

    def __init__(
        self,
        generator: Generator,
        device: Device,
        *,
        context: int = DEFAULT_CONTEXT,
        max_steps: int = MAX_STEPS,
        graphs: bool = False,
        reproducible: bool = False,
        noise: NoiseSource = normals,
    ) -> None:
        """Describe the slots; `reserve` takes their memory.

        Args:
            generator: Loaded on the device.
            context: Positions of a slot, prompt and steps together.
            max_steps: Of any row.
            graphs: Whether steps are captured where the device can.
            reproducible: Whether every step has the same shapes, so that 16-bit results do not depend on
                the company.
            noise: Where the normals come from; tests give their own.
        """
        self.context = min(context, generator.config.max_positions)
        self.dtype = generator.dtype
        self.step_s = generator.config.patch_s
        self.max_steps = max_steps
        self._generator = generator
        self._device = device
        self._graphs = graphs
        self._reproducible = reproducible
        self._cache = SlotCache.of(
            generator.backbone.config, context=self.context, dtype=generator.dtype, device=device.torch_device
        )
        self._state = SlotState(
            generator.config,
            device,
            dtype=generator.dtype,
            noises=generator.flow.noises,
            max_steps=max_steps,
            noise=noise,
        )
        self.bytes_per_slot = self._cache.bytes_per_slot + self._state.bytes_per_slot
        self._prompts: dict[Row[MingPrompt], Tensor] = {}  # inputs [T, H] of rows in prefill
        self._ended: set[Row[MingPrompt]] = set()
        self._stops: tuple[HostRead, list[tuple[Row[MingPrompt], int, int]]] | None = None
        self._steps: dict[tuple[Any, ...], StepGraph] = {}
        self._pool = GraphPool(device)

    def reserve(self, slots: int) -> None:
        """See `SlotModel.reserve`."""
        for launch in self._steps.values():
            launch.reset()  # it holds the old tensors
        self._steps.clear()
        for row in [row for row in (*self._prompts, *self._ended) if row.slot >= slots]:
            self._forget(row)
        self._cache.reserve(slots)
        self._state.reserve(slots)

    def warm_up(self, bucket: int) -> None:
        """Run, and capture, the step of so many rows, while the slots are nobody's."""
        slots = self._device.upload(torch.arange(bucket))
        backbone = self._step_of("backbone", self._backbone_size(bucket), self._kv_len(self.context))
        solve = self._step_of("solve", bucket, True)
        if self._graphs:
            backbone.capture()
            solve.capture(slots)
        else:
            backbone()
            solve(slots)

    @torch.inference_mode()
    def rehearse(self, token_budget: int) -> None:
        """See `Rehearses.rehearse`."""
        positions = min(token_budget + 1, self.context - 1)
        prompt = MingPrompt(
            ids=(0,) * positions, guidance=1.0, sigma=0.0, temperature=0.0, seed=0, max_patches=1
        )
        row = Row(prompt=prompt, positions=positions, max_steps=1, slot=0)
        self.prefill([row], token_budget)
        self.step(1, [row])
        self.release(row, 0)

    # -- prompts -----------------------------------------------------------------------------------

    @torch.inference_mode()
    def prefill(self, rows: Sequence[Row[MingPrompt]], token_budget: int) -> None:
        """See `SlotModel.prefill`. The last position is left to the first step."""
        for row in rows:
            if row not in self._prompts:
                self._prompts[row] = self._inputs(row.prompt)
        for group in _grouped(rows, token_budget):
            self._run_prompts(group)
        for row in rows:
            if row.filled >= row.positions - 1:
                self._begin(row)

    def _inputs(self, prompt: MingPrompt) -> Tensor:
        """The inputs of all positions [T, H]."""
        device, config = self._device, self._generator.config
        inputs = self._generator.embed(device.upload(torch.tensor(prompt.ids)))
        if prompt.speaker_places:
            places = device.upload(torch.tensor(prompt.speaker_places))
            if prompt.speakers is None:
                inputs[places] = 0.0
            else:
                inputs[places] = self._generator.speaker_inputs(device.upload(prompt.speakers))
        if prompt.latents is not None and prompt.patch_places:
            patches = prompt.latents.view(-1, config.patch, config.audio.channels)
            places = device.upload(torch.tensor(prompt.patch_places))
            inputs[places] = self._generator.aggregator(device.upload(patches.contiguous()))
        return inputs

    def _run_prompts(self, group: Sequence[tuple[Row[MingPrompt], int]]) -> None:
        """Run the next so many positions of each row, padded on the right."""
        longest = max(count for _, count in group)
        if not self._device.immediate:
            longest = min(-(-longest // _PREFILL_MULTIPLE) * _PREFILL_MULTIPLE, self.context)
        inputs = torch.zeros(
            len(group), longest, self._generator.config.llm.width,
            dtype=self._generator.dtype, device=self._device.torch_device,
        )  # fmt: skip
        for number, (row, count) in enumerate(group):
            inputs[number, :count] = self._prompts[row][row.filled : row.filled + count]
        start = self._device.upload(torch.tensor([row.filled for row, _ in group]))
        end = max(row.filled + count for row, count in group)
        turn = self._cache.plan(
            start, longest, rows=[row.slot for row, _ in group], kv_len=self._cache.kv_bucket(end)
        )
        self._forward(inputs, turn)
        for row, count in group:
            row.filled += count

    def _begin(self, row: Row[MingPrompt]) -> None:
        inputs = self._prompts.pop(row)
        self._state.begin(row.slot, row.prompt, inputs[-1])
        self._cache.place(row.slot, row.positions - 1)
        row.filled = row.positions
        row.ready = True

    def _forward(self, inputs: Tensor, turn: Any) -> Tensor:
        hidden: Tensor = self._generator.backbone(
            inputs_embeds=inputs,
            attention_mask={"full_attention": turn.mask},
            position_ids=turn.position_ids,
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state
        return hidden

    # -- steps -------------------------------------------------------------------------------------

    @torch.inference_mode()
    def step(self, bucket: int, rows: Sequence[Row[MingPrompt]]) -> KnownStops:
        """See `SlotModel.step`. A row that ended with the step before makes nothing in this one."""
        self._learn_stops()
        running = [row for row in rows if not self._over(row)]
        if running:
            self._state.refill(running)
            longest = max(row.positions + row.steps for row in running)
            probability = self._step_of("backbone", self._backbone_size(bucket), self._kv_len(longest))()
            read = self._device.read(probability)
            self._solve(bucket, running)
            # Only now, so that a step which fails for want of memory can be repeated.
            self._cache.advance(bucket)
            self._state.advance(bucket)
            self._stops = read, [(row, row.slot, row.steps) for row in running]
        over = {row.slot for row in rows if self._over(row)}
        return KnownStops([slot in over for slot in range(bucket)])

    def _over(self, row: Row[MingPrompt]) -> bool:
        return row in self._ended or row.steps >= min(row.prompt.max_patches, self.max_steps)

    def _learn_stops(self) -> None:
        """Note which rows ended with the step before; their flags were copied ahead of its solve."""
        if self._stops is None:
            return
        (read, launched), self._stops = self._stops, None
        probability = read.wait().tolist()
        for row, slot, step in launched:
            if row.prompt.may_stop and probability[slot] > STOP_ABOVE and step > LAST_UNSTOPPABLE_STEP:
                self._ended.add(row)

    def _solve(self, bucket: int, rows: Sequence[Row[MingPrompt]]) -> None:
        """Make a patch for these rows only, whatever else is in the bucket."""
        slots = list(range(bucket)) if self._reproducible else [row.slot for row in rows]
        guided = self._graphs or self._reproducible or any(row.prompt.guidance for row in rows)
        if self._graphs:  # the last one again: both write the same
            sizes = bucket_sizes(self._state.slots)
            slots += [slots[-1]] * (next(size for size in sizes if size >= len(slots)) - len(slots))
        self._step_of("solve", len(slots), guided)(self._device.upload(torch.tensor(slots)))

    def _backbone_size(self, bucket: int) -> int:
        """For how many slots the backbone runs: where steps are captured, one of few sizes.

        It is bound by reading its weights, so more rows cost it little, and a card holds few graphs.
        """
        slots = self._state.slots
        sizes = (1, min(_BACKBONE_ROWS, slots), slots)
        return next(size for size in sizes if size >= bucket) if self._graphs else bucket

    def _kv_len(self, positions: int) -> int:
        """How far steps look: a graph for each length would be too many graphs."""
        return (
            self._cache.kv_buckets[-1]
            if self._graphs or self._reproducible
            else self._cache.kv_bucket(positions)
        )

    def _step_of(self, kind: str, size: int, variant: int) -> StepGraph:
        """The launch of a part of the step, captured where the device can."""
        key = (kind, size, variant)
        if key not in self._steps:
            part: Callable[..., Any]
            if kind == "backbone":
                part = functools.partial(self._backbone_step, size, variant)
            else:
                part = functools.partial(self._solve_step, guided=bool(variant))
            self._steps[key] = StepGraph(self._device, part, enabled=self._graphs, pool=self._pool)
        return self._steps[key]

    def _backbone_step(self, bucket: int, kv_len: int) -> Tensor:
        """One position for the first slots; the probability of a stop for each [bucket]."""
        turn = self._cache.plan_step(bucket, kv_len)
        hidden = self._forward(self._state.inputs[:bucket, None], turn)[:, 0]
        self._state.hidden[:bucket].copy_(hidden)
        return self._generator.stop_probability(hidden)

    def _solve_step(self, slots: Tensor, *, guided: bool) -> None:
        """A patch for these slots, its place in their histories, and their next inputs."""
        state = self._state
        history = state.history[slots]
        patch = self._generator.flow(
            state.hidden[slots],
            history,
            state.noise()[slots],
            state.guidance[slots],
            state.spread[slots],
            guided=guided,
        )
        following = self._generator.aggregator(patch)
        made = state.made[slots]
        state.patches.index_put_((slots, made.clamp(max=self.max_steps)), patch)
        state.history.index_put_((slots,), torch.cat((history, patch), dim=1)[:, -history.shape[1] :])
        state.inputs.index_put_((slots,), following)
        state.made.index_put_((slots,), made + 1)

    # -- slots -------------------------------------------------------------------------------------

    @torch.inference_mode()
    def move(self, source: int, target: int) -> None:
        """See `SlotModel.move`."""
        self._cache.move(source, target)
        self._state.move(source, target)
        self._state.clear(source)

    @torch.inference_mode()
    def release(self, row: Row[MingPrompt], steps: int) -> Latents:
        """See `SlotModel.release`."""
        values = self._state.patches[row.slot, :steps].flatten(0, 1).clone()
        latents = Latents(values=values, stopped=row in self._ended)
        self._forget(row)
        self._cache.clear(row.slot)
        self._state.clear(row.slot)
        return latents

    def _forget(self, row: Row[MingPrompt]) -> None:
        self._prompts.pop(row, None)
        self._ended.discard(row)
        if self._stops is not None:
            read, launched = self._stops
            self._stops = read, [entry for entry in launched if entry[0] is not row]


def _grouped(rows: Sequence[Row[MingPrompt]], token_budget: int) -> list[list[tuple[Row[MingPrompt], int]]]:
    """Share the budget among the rows in their order, and group those of similar lengths."""
    shares = []
    for row in rows:
        count = min(row.positions - 1 - row.filled, token_budget)
        if count > 0:
            shares.append((row, count))
            token_budget -= count
    groups: list[list[tuple[Row[MingPrompt], int]]] = []
    for row, count in sorted(shares, key=lambda share: -share[1]):
        if groups:
            longest, real = groups[-1][0][1], sum(other for _, other in groups[-1]) + count
            if longest * (len(groups[-1]) + 1) <= _PADDING_SHARE * real:
                groups[-1].append((row, count))
                continue
        groups.append([(row, count)])
    return groups
