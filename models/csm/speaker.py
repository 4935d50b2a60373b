"""CSM as a slot model: each step makes one frame for every running row.

The state of a row is its next input. `prefill` runs all positions of a prompt but the last, and a step
begins with that one, so that no head is needed in the prefill and every step makes exactly one frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..device import GraphPool, StepGraph
from ..engine.cache import SlotCache
from ..engine.draws import Draws
from ..engine.ports import Row, Stops
from ..engine.resident import resident, resized
from ..engine.sampling import GREEDY
from ..engine.schedule import bucket_sizes
from .choice import Choice
from .depth import Depth, ModularDepth
from .embedding import Embedding
from .fused import FusedDepth
from .prompt import Prompt
from .sizes import Sizes

if TYPE_CHECKING:
    from ..device import Device

MAX_TOP_K = 100
"""The most that a job may ask for: so many of the likeliest codes are looked for in every choice."""

MOST_GRAPHS = 16
"""For all sizes of a step together, as an Ascend card has room for."""

FIXED_PREFILL = 256
"""Positions of a prefill call where shapes are fixed, filled up with padding."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Frames:
    """What a row made, on its way to the codec.

    Attributes:
        codes: int64 `[F, K]` on the device.
        ended: Whether the model ended it; then the last frame is the one that said so.
    """

    codes: Tensor
    ended: bool


class Speaker:
    """The slot model of CSM; see `engine.ports.SlotModel`.

    Attributes:
        context: See the port.
        dtype: Of the weights.
    """

    def __init__(
        self,
        model: Any,
        sizes: Sizes,
        device: Device,
        *,
        graphs: bool,
        fused: bool = True,
        fixed_shapes: bool = False,
        context: int | None = None,
    ) -> None:
        """Take a `CsmForConditionalGeneration` whose weights lie on the device.

        Args:
            model: Its depth decoder's weights are merged if `fused`.
            sizes: Of the model.
            device: Of its weights.
            graphs: Whether steps are captured.
            fused: Whether the depth loop is the one of fewer launches, where the model is of that form.
            fixed_shapes: Whether all prefills have one shape and all steps look at the whole context, as
                16 bit needs for equal output. The engine keeps to one bucket then.
            context: Positions of a slot, if fewer than the model's.
        """
        self.context = context or sizes.context
        self.step_s = sizes.frame_s
        self._sizes = sizes
        self._device = device
        self._graphs_wanted = graphs
        self._fixed = fixed_shapes
        self._backbone = model.backbone_model
        place = device.torch_device
        self.dtype = dtype = model.lm_head.weight.dtype
        # The ids that the codec does not have are cut off here, and can never be chosen.
        self._head = model.lm_head.weight[: sizes.codes].t()  # [D, C]
        self._embedding = Embedding(model, sizes)
        fused = fused and FusedDepth.fits(model)
        self._depth: Depth = FusedDepth(model, sizes) if fused else ModularDepth(model, sizes)
        self._cache = SlotCache.of(
            model.backbone_model.config, context=self.context, dtype=dtype, device=place
        )
        self._draws = Draws(width=sizes.codebooks, device=place)
        self._choice = Choice(codes=sizes.codes, max_top_k=MAX_TOP_K, device=place)
        self._inputs = resident(0, 1, sizes.width, dtype=dtype, device=place)  # [B, 1, D]
        code = torch.int16 if sizes.codes <= torch.iinfo(torch.int16).max else torch.int32
        self._frames = resident(0, self.context + 1, sizes.codebooks, dtype=code, device=place)  # [B, F, K]
        self._made = resident(0, dtype=torch.int64, device=place)  # frames of each slot
        self._numbers = torch.arange(0, device=place)
        self._steps: dict[tuple[int, int], StepGraph] = {}
        self._pool = GraphPool(device)
        self._lengths: Sequence[int] = self._cache.kv_buckets

    @property
    def bytes_per_slot(self) -> int:
        """See the port."""
        frames = (self.context + 1) * self._sizes.codebooks * self._frames.itemsize
        inputs = self._sizes.width * self._inputs.itemsize + self._made.itemsize
        parts = (self._cache, self._depth, self._draws, self._choice)
        return int(sum(part.bytes_per_slot for part in parts) + frames + inputs)

    def reserve(self, slots: int) -> None:
        """See the port."""
        self._forget_graphs()
        for part in (self._cache, self._depth, self._draws, self._choice):
            part.reserve(slots)
        self._inputs = resized(self._inputs, slots)
        self._frames = resized(self._frames, slots)
        self._made = resized(self._made, slots)
        self._numbers = torch.arange(slots, device=self._made.device)
        self._lengths = self._choose_lengths(max(slots, 1))

    # -- prefill -----------------------------------------------------------------------------------

    @torch.inference_mode()
    def prefill(self, rows: Sequence[Row[Prompt]], token_budget: int) -> None:
        """See the port."""
        for pieces in self._packed(rows, token_budget):
            self._run(pieces)
            for row, count in pieces:
                row.filled += count
        for row in rows:
            if not row.ready and row.filled == row.positions - 1:
                self._seat(row)

    def _packed(self, rows: Sequence[Row[Prompt]], budget: int) -> Iterator[list[tuple[Row[Prompt], int]]]:
        """Pieces of prompts for each call: of similar length, since the shorter ones are padded."""
        pieces = []
        for row in rows:
            count = min(row.positions - 1 - row.filled, max(budget, 0))
            budget -= count
            if count:
                pieces.append((row, count))
        if self._fixed:
            for row, count in pieces:
                yield [(row, min(count, FIXED_PREFILL))]
            return
        pieces.sort(key=lambda piece: -piece[1])
        while pieces:
            longest = pieces[0][1]
            fit = [piece for piece in pieces if 2 * piece[1] >= longest]
            pieces = pieces[len(fit) :]
            yield fit

    def _run(self, pieces: Sequence[tuple[Row[Prompt], int]]) -> None:
        """Write the keys and values of these pieces, right-padded to the longest."""
        longest = FIXED_PREFILL if self._fixed else max(count for _, count in pieces)
        end = max(row.filled for row, _ in pieces) + longest
        text = torch.zeros((len(pieces), longest), dtype=torch.int64)
        codes = torch.zeros((len(pieces), longest, self._sizes.codebooks), dtype=torch.int64)
        audio = torch.zeros((len(pieces), longest), dtype=torch.bool)
        for place, (row, count) in enumerate(pieces):
            piece = slice(row.filled, row.filled + count)
            text[place, :count] = row.prompt.text[piece]
            codes[place, :count] = row.prompt.codes[piece]
            audio[place, :count] = row.prompt.audio[piece]
        upload = self._device.upload
        turn = self._cache.plan(
            upload(torch.tensor([row.filled for row, _ in pieces])),
            longest,
            rows=[row.slot for row, _ in pieces],
            kv_len=self._cache.kv_buckets[-1]
            if self._fixed
            else self._cache.kv_bucket(min(end, self.context)),
        )
        self._backbone(
            inputs_embeds=self._embedding.positions(upload(text), upload(codes), upload(audio)),
            attention_mask=turn.mask,
            position_ids=turn.position_ids,
            past_key_values=self._cache,
            use_cache=True,
        )

    def _seat(self, row: Row[Prompt]) -> None:
        """The prompt is done: the next step begins with its last position."""
        prompt, slot, upload = row.prompt, row.slot, self._device.upload
        last = self._embedding.positions(
            upload(prompt.text[-1]), upload(prompt.codes[-1]), upload(prompt.audio[-1])
        )
        self._inputs[slot, 0].copy_(last)
        self._made[slot] = 0
        # Steps of others have counted this slot too while its prompt was not done: all begins here.
        self._draws.seat(slot, prompt.seed)
        self._choice.set(slot, prompt.sampling)
        self._cache.place(slot, row.positions - 1)
        row.ready = True

    # -- steps -------------------------------------------------------------------------------------

    def step(self, bucket: int, rows: Sequence[Row[Prompt]]) -> Stops:
        """See the port."""
        self._draws.refill(rows)
        longest = max((row.positions + row.steps for row in rows), default=1)
        stopped = self._graph(bucket, self._kv_len(min(longest, self.context)))()
        return self._device.flags(stopped)

    def _graph(self, bucket: int, kv_len: int) -> StepGraph:
        key = bucket, kv_len
        if key not in self._steps:
            self._steps[key] = StepGraph(
                self._device,
                lambda: self._step(bucket, kv_len),
                enabled=self._graphs_wanted,
                pool=self._pool,
            )
        return self._steps[key]

    def _step(self, bucket: int, kv_len: int) -> Tensor:
        """One frame for each slot below `bucket`; returns which of them ended, bool `[B]`."""
        turn = self._cache.plan_step(bucket, kv_len)
        output = self._backbone(
            inputs_embeds=self._inputs[:bucket],
            attention_mask=turn.mask,
            position_ids=turn.position_ids,
            past_key_values=self._cache,
            use_cache=True,
        )
        state = output.last_hidden_state[:, -1]  # [B, D]
        chances = self._choice.chances(self._draws.take(bucket))  # [B, K]
        first = self._choice.code(self._first_logits(state), chances[:, :1])
        codes = self._depth.frame(state, first, chances, self._choice)  # [B, K]
        stopped = (codes[:, :-1] == self._sizes.end).all(-1)
        inputs = self._embedding.frames(codes)
        made = self._made[:bucket]
        self._frames.index_put_((self._numbers[:bucket], made), codes.to(self._frames.dtype))
        # Nothing from here on takes memory: where it ran out before, no row has advanced.
        self._inputs[:bucket, 0].copy_(inputs)
        made.add_(1).clamp_(max=self.context)
        self._draws.advance(bucket)
        self._cache.advance(bucket)
        return stopped

    def _first_logits(self, state: Tensor) -> Tensor:
        """Of codebook 0, float32 `[B, C]`."""
        return (state @ self._head).float()

    def warm_up(self, bucket: int) -> None:
        """Run the step of a bucket in every shape that it can take, so that all are captured."""
        for kv_len in self._lengths:
            self._graph(bucket, kv_len).capture()
        self._graph(bucket, self._lengths[-1])()

    def rehearse(self, token_budget: int) -> None:
        """See `engine.ports.Rehearses`."""
        positions = min(token_budget + 1, self.context)
        prompt = Prompt(
            text=torch.zeros(positions, dtype=torch.int64),
            codes=torch.zeros((positions, self._sizes.codebooks), dtype=torch.int64),
            audio=torch.ones(positions, dtype=torch.bool),
            sampling=GREEDY,
            seed=0,
        )
        row = Row(prompt=prompt, positions=positions, max_steps=1, slot=0)
        while not row.ready:
            self.prefill([row], token_budget)
        with torch.inference_mode():
            self._step(1, self._lengths[-1])
        self.release(row, 0)

    def _kv_len(self, positions: int) -> int:
        return next(length for length in self._lengths if length >= positions)

    def _choose_lengths(self, slots: int) -> Sequence[int]:
        """How far steps look: in many lengths where that costs nothing, in few where each is a graph."""
        known = self._cache.kv_buckets
        if self._fixed:
            return known[-1:]
        if not self._graphs_wanted:
            return known
        few = max(1, MOST_GRAPHS // len(bucket_sizes(slots)))
        return known[::-1][::2][:few][::-1]

    def _forget_graphs(self) -> None:
        for graph in self._steps.values():
            graph.reset()
        self._steps.clear()

    # -- slots -------------------------------------------------------------------------------------

    @torch.inference_mode()
    def move(self, source: int, target: int) -> None:
        """See the port."""
        for part in (self._cache, self._draws, self._choice):
            part.move(source, target)
        for state in (self._inputs, self._frames, self._made):
            state[target].copy_(state[source])
        self._clear(source)

    @torch.inference_mode()
    def release(self, row: Row[Prompt], steps: int) -> Frames:
        """See the port. The frame that ended the row comes along: its last code may be one to be heard."""
        ended = steps < row.max_steps
        codes = self._frames[row.slot, : steps + ended].long()  # a copy
        self._clear(row.slot)
        return Frames(codes=codes, ended=ended)

    def _clear(self, slot: int) -> None:
        for part in (self._cache, self._draws, self._choice):
            part.clear(slot)
        for state in (self._inputs, self._frames, self._made):
            state[slot] = 0
