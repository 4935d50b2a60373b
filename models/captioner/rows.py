"""The language model as a slot model: prompts with audio in them, then a token for each row and step.

A row's next input is a token id; its last prompt position is run by its first step, so no prompt
position ever needs the head and its logits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from ..device import GraphPool, StepGraph
from ..engine.cache import SlotCache, Turn
from ..engine.draws import Draws
from ..engine.ports import Item, Row, Stops
from ..engine.resident import resident, resized
from ..engine.sampling import Sampler, Sampling
from ..engine.schedule import bucket_sizes
from .language import Attend, LanguageModel, Rotary

if TYPE_CHECKING:
    from ..device import Device
    from ..device.reading import HostRead

MAX_TOP_K = 1000
MOST_GRAPHS = 16  # of one model; an NPU has no streams for more
MOST_LENGTHS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One prompt, on the host.

    Attributes:
        ids: int64 [T]; where audio stands, any id.
        audio: Its embeddings [A, hidden], for the positions from `audio_at` on.
        sampling: How tokens are chosen.
        seed: Of the draws.
    """

    ids: Tensor
    audio: Tensor
    audio_at: int
    sampling: Sampling
    seed: int

    @property
    def plain(self) -> bool:
        """Whether the likeliest id is simply taken."""
        return self.sampling.temperature == 0 and self.sampling.repetition_penalty == 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    """What one row contributes to one prefill call: its prompt's positions [start, stop)."""

    row: Row[Prompt]
    start: int
    stop: int
    at: int  # where they begin among the positions of the call

    @property
    def here(self) -> slice:
        return slice(self.at, self.at + self.stop - self.start)


class CaptionRows:
    """The `SlotModel` of one length class; several share one `LanguageModel`."""

    def __init__(
        self,
        model: LanguageModel,
        device: Device,
        *,
        context: int,
        stops: Iterable[int],
        graphs: bool = False,
        lengths: int | None = None,
        reproducible: bool = False,
        each: bool | None = None,
    ) -> None:
        """Describe the slots; `reserve` takes the memory.

        Args:
            model: The weights.
            device: Where they are.
            context: Positions of one slot.
            stops: The ids that end an answer.
            graphs: Whether steps are captured.
            lengths: How many lengths of the caches are captured for each bucket; `None` for as many as
                `MOST_GRAPHS` leave.
            reproducible: Whether every step looks at the whole caches.
            each: Whether a step lets each row look at as much of its cache as it has filled, in a call for
                each; `None` where the device works on by itself no further than its calls. A call costs
                a processor little, and what it reads in vain much.
        """
        shape = model.shape
        self.context = context
        self.dtype = model.dtype
        self._model = model
        self._device = device
        self._graphs = graphs
        self._most_lengths = lengths
        self._reproducible = reproducible
        self._each = device.immediate if each is None else each
        self._lengths: tuple[int, ...] = ()
        on = model.device
        self._cache = SlotCache(
            layers=shape.layers, heads=shape.kv_heads, width=shape.head_dim, context=context, dtype=model.dtype,
            device=on,
        )  # fmt: skip
        self._sampler = Sampler(vocabulary=shape.vocabulary, device=on, ranks=MAX_TOP_K)
        self._draws = Draws(width=1, device=on)
        self._rotary = Rotary(shape, context + 1, on, model.dtype)
        self._stops = torch.tensor(sorted(stops), device=on)
        self._inputs = resident(0, dtype=torch.int64, device=on)  # the id that the next step reads
        self._inputs_before = self._inputs.clone()
        self._positions_before = self._inputs.clone()
        self._tokens = resident(0, context + 2, dtype=torch.int64, device=on)  # by the position that made it
        self._seen = resident(0, shape.vocabulary, dtype=torch.bool, device=on)
        self._numbers = torch.arange(0, device=on)
        self._true = torch.tensor(True, device=on)
        self._pool = GraphPool(device)
        self._steps: dict[tuple[int, int], StepGraph] = {}
        self._caches: list[list[tuple[Tensor, Tensor]]] = []  # keys and values of each layer and slot

    @property
    def bytes_per_slot(self) -> int:
        """What a slot costs in caches and state."""
        own = int((self._tokens.shape[1] + 3) * self._tokens.itemsize + self._seen.shape[1])
        logits = 4 * self._model.shape.vocabulary
        return self._cache.bytes_per_slot + self._draws.bytes_per_slot + own + logits

    def reserve(self, slots: int) -> None:
        """Make caches and state for `slots` rows; what rows below that number hold is kept."""
        for step in self._steps.values():
            step.reset()
        self._steps.clear()
        self._caches.clear()  # or they would keep the old caches beside the new ones
        self._lengths = self._chosen_lengths(slots)
        self._cache.reserve(slots)
        self._sampler.reserve(slots)
        self._draws.reserve(slots)
        self._inputs = resized(self._inputs, slots)
        self._inputs_before = resized(self._inputs_before, slots)
        self._positions_before = resized(self._positions_before, slots)
        self._tokens = resized(self._tokens, slots)
        self._seen = resized(self._seen, slots)
        self._numbers = torch.arange(slots, device=self._model.device)
        if self._each:
            self._caches = [
                [(_heads_first(layer.keys, slot), _heads_first(layer.values, slot)) for slot in range(slots)]
                for layer in self._cache.layers
            ]

    # -- prefill -----------------------------------------------------------------------------------

    @torch.inference_mode()
    def prefill(self, rows: Sequence[Row[Prompt]], token_budget: int) -> None:
        """Run positions of the prompts, the oldest row's first, in one call without padding.

        Raises:
            torch.OutOfMemoryError: Nothing has advanced.
        """
        pieces = _pieces(rows, token_budget)
        if pieces:
            self._run_prompts(pieces)
        for piece in pieces:
            piece.row.filled = piece.stop
        for row in rows:
            if row.filled == row.positions - 1:
                self._seat(row)

    def _run_prompts(self, pieces: Sequence[_Piece]) -> None:
        """Fill the caches: everything that is linear runs over all rows at once, attention row by row."""
        on = self._model.device
        positions = torch.cat([torch.arange(piece.start, piece.stop) for piece in pieces]).to(on)
        slots = torch.cat([torch.full((p.stop - p.start,), p.row.slot) for p in pieces]).to(on)
        masks = [self._mask(piece) for piece in pieces]

        def attend(number: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            layer = self._cache.layers[number]
            layer.keys.index_put_((slots, positions), keys)
            layer.values.index_put_((slots, positions), values)
            mixed = [
                attend_alone(queries[piece.here], keys[piece.here], values[piece.here])
                if mask is None
                else _behind(queries[piece.here], layer, piece, mask)
                for piece, mask in zip(pieces, masks, strict=True)
            ]
            return torch.cat(mixed) if len(mixed) > 1 else mixed[0]

        self._model.run(self._embed(pieces), self._rotary.at(positions), attend)

    def _embed(self, pieces: Sequence[_Piece]) -> Tensor:
        """The states [N, hidden] of the call's positions: words from the table, audio as it was heard."""
        ids = torch.cat([piece.row.prompt.ids[piece.start : piece.stop] for piece in pieces])
        states = self._model.embed(ids.to(self._model.device))
        for piece in pieces:
            prompt = piece.row.prompt
            first = max(piece.start, prompt.audio_at)
            last = min(piece.stop, prompt.audio_at + len(prompt.audio))
            if first < last:
                heard = prompt.audio[first - prompt.audio_at : last - prompt.audio_at]
                place = slice(piece.at + first - piece.start, piece.at + last - piece.start)
                self._device.upload(heard, into=states[place])
        return states

    def _mask(self, piece: _Piece) -> Tensor | None:
        """What a later turn of a prompt may see, bool [queries, length], once for each query head of a group."""
        if piece.start == 0:
            return None
        length = self._cache.kv_bucket(piece.stop)
        here = torch.arange(piece.start, piece.stop)[:, None]
        seen = (torch.arange(length) <= here).to(self._model.device)
        return seen.repeat(self._model.shape.heads // self._model.shape.kv_heads, 1)

    def _seat(self, row: Row[Prompt]) -> None:
        """The prompt is done but for its last position, which the row's first step runs."""
        prompt = row.prompt
        self._inputs[row.slot] = int(prompt.ids[-1])
        # Seated only now: each step counts the draws of all slots of its bucket.
        self._draws.seat(row.slot, prompt.seed)
        self._sampler.set(row.slot, prompt.sampling)
        self._seen[row.slot].zero_()  # steps of others drew for the idle slot as well
        if prompt.sampling.repetition_penalty != 1:
            self._seen[row.slot, prompt.ids.to(self._model.device)] = True
        self._cache.place(row.slot, row.positions - 1)
        row.ready = True

    # -- steps -------------------------------------------------------------------------------------

    @torch.inference_mode()
    def step(self, bucket: int, rows: Sequence[Row[Prompt]]) -> Stops:
        """Make one token for every slot below `bucket`."""
        if self._each:
            logits, stops = self._step_each(bucket, rows)
        else:
            reach = max((row.positions + row.steps for row in rows), default=1)
            logits, stops = self._step_graph(bucket, self._length(reach))()
        drawing = [row for row in rows if not row.prompt.plain]
        try:
            if not drawing:
                return self._device.flags(stops)
            self._draws.refill(drawing)
            return self._draw(logits)
        except torch.OutOfMemoryError:
            self._rewind(bucket)
            raise

    def warm_up(self, bucket: int) -> None:
        """Capture the step of a bucket in all its lengths, and draw once."""
        if self._each:
            self.step(bucket, ()).read()
            return
        for length in self._lengths:
            self._step_graph(bucket, length).capture()
        logits, _ = self._step_graph(bucket, self._lengths[-1])()
        self._draw(logits)

    @torch.inference_mode()
    def rehearse(self, token_budget: int) -> None:
        """Run the last turn of the longest prompt, a step and a draw, in slot 0."""
        nobody = torch.zeros(self.context, dtype=torch.int64)
        prompt = Prompt(ids=nobody, audio=nobody[:0], audio_at=0, sampling=Sampling(top_k=MAX_TOP_K), seed=0)
        start = max(0, self.context - 1 - token_budget)
        row = Row(prompt=prompt, positions=self.context, max_steps=1, slot=0, filled=start)
        self.prefill([row], token_budget)
        self.step(1, [row]).read()
        self.release(row, 0)

    def _chosen_lengths(self, slots: int) -> tuple[int, ...]:
        """The lengths of the caches that a step may look at, each half of the next one, up to all."""
        whole = self._cache.kv_buckets[-1]
        if self._reproducible:
            return (whole,)
        if not self._graphs:
            return tuple(self._cache.kv_buckets)
        count = self._most_lengths or MOST_GRAPHS // len(bucket_sizes(max(slots, 1)))
        parts = range(1, min(max(count, 1), MOST_LENGTHS))
        return tuple(sorted({whole, *(self._cache.kv_bucket(self.context >> part) for part in parts)}))

    def _length(self, reach: int) -> int:
        """How many positions of the caches a step looks at."""
        return next(length for length in self._lengths if length >= reach)

    def _step_graph(self, bucket: int, length: int) -> StepGraph:
        if (bucket, length) not in self._steps:
            self._steps[bucket, length] = StepGraph(
                self._device, partial(self._forward, bucket, length), enabled=self._graphs, pool=self._pool
            )
        return self._steps[bucket, length]

    def _forward(self, bucket: int, length: int) -> tuple[Tensor, Tensor]:
        """The whole step, each row looking at the same length of its cache."""
        turn = self._cache.plan_step(bucket, length)
        return self._advance(bucket, turn.position_ids[:, 0], partial(self._attend, turn))

    def _step_each(self, bucket: int, rows: Sequence[Row[Prompt]]) -> tuple[Tensor, Tensor]:
        """The same, each row looking at what it has filled."""
        positions = self._cache.positions[:bucket]
        reach = {row.slot: row.positions + row.steps for row in rows}
        where = (self._numbers[:bucket], positions.clone())  # they are written in place when the step is done
        return self._advance(bucket, positions, partial(self._attend_each, where, reach))

    def _advance(self, bucket: int, positions: Tensor, attend: Attend) -> tuple[Tensor, Tensor]:
        """Run a step; return the logits, and the flags of rows that take the likeliest id."""
        states = self._model.embed(self._inputs[:bucket])
        states = self._model.run(states, self._rotary.at(positions), attend)
        logits = self._model.logits(states)
        chosen = logits.argmax(-1)
        stops = self._stopping(chosen)
        self._tokens.index_put_((self._numbers[:bucket], self._cache.positions[:bucket] + 1), chosen)
        # Nothing from here on takes memory: a step that finds none has changed nothing that counts.
        self._inputs_before[:bucket].copy_(self._inputs[:bucket])
        self._positions_before[:bucket].copy_(self._cache.positions[:bucket])
        self._inputs[:bucket].copy_(chosen)
        self._cache.advance(bucket)
        return logits, stops

    def _rewind(self, bucket: int) -> None:
        """Undo what `_advance` did to the first `bucket` slots."""
        self._inputs[:bucket].copy_(self._inputs_before[:bucket])
        self._cache.positions[:bucket].copy_(self._positions_before[:bucket])

    def _attend(self, turn: Turn, number: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """One query for each slot. The query heads of a group share its keys in place, as rows of one query."""
        layer = self._cache.layers[number]
        layer.keys.index_put_(turn.where, keys[:, None])
        layer.values.index_put_(turn.where, values[:, None])
        mixed = functional.scaled_dot_product_attention(
            self._grouped(queries),
            layer.keys[turn.slots, : turn.kv_len].transpose(1, 2),
            layer.values[turn.slots, : turn.kv_len].transpose(1, 2),
            attn_mask=turn.mask,
        )
        return mixed.flatten(1)

    def _attend_each(
        self,
        where: tuple[Tensor, Tensor],
        reach: Mapping[int, int],
        number: int,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
    ) -> Tensor:
        """The same without a mask; what comes of slots without a row is nobody's."""
        layer = self._cache.layers[number]
        layer.keys.index_put_(where, keys)
        layer.values.index_put_(where, values)
        grouped = self._grouped(queries).split(1)
        mixed = [
            functional.scaled_dot_product_attention(
                query, kept.narrow(2, 0, reach[slot]), told.narrow(2, 0, reach[slot])
            )
            if slot in reach
            else query
            for slot, (query, (kept, told)) in enumerate(zip(grouped, self._caches[number], strict=False))
        ]
        return torch.cat(mixed).flatten(1)

    def _grouped(self, queries: Tensor) -> Tensor:
        """[B, heads, D] as [B, kv_heads, group, D]."""
        return queries.reshape(len(queries), self._model.shape.kv_heads, -1, queries.shape[-1])

    def _draw(self, logits: Tensor) -> Stops:
        """Replace what the step took by what the rows' rules choose."""
        bucket = len(logits)
        slots, seen = self._numbers[:bucket], self._seen[:bucket]
        chosen = self._sampler.draw(logits, self._draws.take(bucket)[:, 0], seen=seen)
        self._tokens.index_put_((slots, self._cache.positions[:bucket]), chosen)
        stops = self._device.flags(self._stopping(chosen))
        # The last that takes memory: an id that was seen would be drawn otherwise when the step is repeated.
        seen.index_put_((slots, chosen), self._true)
        self._inputs[:bucket].copy_(chosen)
        self._draws.advance(bucket)
        return stops

    def _stopping(self, chosen: Tensor) -> Tensor:
        """Whether the ids [B] end their rows."""
        return (chosen[:, None] == self._stops).any(-1)

    # -- one slot ----------------------------------------------------------------------------------

    @torch.inference_mode()
    def move(self, source: int, target: int) -> None:
        """Copy a row to another slot."""
        for state in (self._inputs, self._tokens, self._seen):
            state[target].copy_(state[source])
        self._cache.move(source, target)
        self._sampler.move(source, target)
        self._draws.move(source, target)
        self._clear(source)

    @torch.inference_mode()
    def release(self, row: Row[Prompt], steps: int) -> HostRead:
        """The ids of the first `steps` tokens, int64 [steps], on their way to the host."""
        made = self._tokens[row.slot, row.positions : row.positions + steps]
        read = self._device.read(made)
        self._cache.clear(row.slot)
        self._clear(row.slot)
        return read

    def _clear(self, slot: int) -> None:
        self._sampler.clear(slot)
        self._draws.clear(slot)
        self._inputs[slot] = 0
        self._tokens[slot].zero_()
        self._seen[slot].zero_()


class Readout:
    """The rows' decoder: brings the ids of ended rows to the host, without waiting for a step to end."""

    max_items = 64

    def run(self, items: Sequence[Item[HostRead, list[int]]], time_budget_s: float) -> None:
        """Take the ids that have arrived; if none have, wait for the oldest."""
        arrived = [item for item in items if item.payload.ready()] or items[:1]
        for item in arrived:
            item.result = item.payload.wait().tolist()
            item.done = True


def _pieces(rows: Sequence[Row[Prompt]], budget: int) -> list[_Piece]:
    pieces: list[_Piece] = []
    taken = 0
    for row in rows:
        stop = min(row.positions - 1, row.filled + budget - taken)
        if stop > row.filled:
            pieces.append(_Piece(row=row, start=row.filled, stop=stop, at=taken))
            taken += stop - row.filled
    return pieces


def _heads_first(stored: Tensor, slot: int) -> Tensor:
    """A slot's part of a cache as [1, heads, positions, D]."""
    return stored[slot : slot + 1].transpose(1, 2)


def attend_alone(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """The first turn of a prompt, which sees itself only: [T, heads, D] to [T, heads · D]."""
    query, key, value = (states.transpose(0, 1)[None] for states in (queries, keys, values))
    mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    return mixed[0].transpose(0, 1).flatten(1)


def _behind(queries: Tensor, layer: Any, piece: _Piece, mask: Tensor) -> Tensor:
    """A later turn, which sees the cache; the query heads of a group are rows of one longer query."""
    count, heads, width = queries.shape
    kv_heads = layer.keys.shape[2]
    length = mask.shape[1]
    grouped = queries.view(count, kv_heads, -1, width).permute(1, 2, 0, 3).flatten(1, 2)  # [kv, group · T, D]
    keys = layer.keys[piece.row.slot, :length].transpose(0, 1)
    values = layer.values[piece.row.slot, :length].transpose(0, 1)
    mixed = functional.scaled_dot_product_attention(grouped[None], keys[None], values[None], attn_mask=mask)
    return mixed[0].view(kv_heads, heads // kv_heads, count, width).permute(2, 0, 1, 3).reshape(count, -1)
