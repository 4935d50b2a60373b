"""A small but real slot model for tests: a Llama of random weights that babbles numbers, and its decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from soundmill.models.device import Device, StepGraph
from soundmill.models.engine.cache import SlotCache
from soundmill.models.engine.draws import Draws
from soundmill.models.engine.ports import Item, Row, Stops
from soundmill.models.engine.resident import resident, resized
from soundmill.models.engine.sampling import Sampler, Sampling

VOCABULARY, CONTEXT, STOP = 64, 160, 0
USUAL = Sampling(top_k=20)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What the model continues.

    Attributes:
        ids: Numbers below `VOCABULARY`.
        seed: Of its draws.
        sampling: Its rules.
        never: Numbers that must not come, such as `(STOP,)` to make it go on.
        breaks_card: What a `Breakable` model does with it at its fifth step.
    """

    ids: tuple[int, ...]
    seed: int = 0
    sampling: Sampling = USUAL
    never: tuple[int, ...] = ()
    breaks_card: bool = False


class Babbler:
    """The slot model. Each slot keeps the number that its next step reads."""

    context = CONTEXT
    dtype = torch.float32

    def __init__(self, device: Device, *, graphs: bool = False, eager_kv: bool = False) -> None:
        """Make the same random weights every time."""
        config = LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=CONTEXT,
            initializer_range=0.4, attn_implementation="sdpa", bos_token_id=1, eos_token_id=None,
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            self.network = LlamaForCausalLM(config).eval().to(device.torch_device)
        where = device.torch_device
        self.device, self.graphs = device, graphs
        self.cache = SlotCache.of(config, context=CONTEXT, dtype=torch.float32, device=where)
        self.sampler = Sampler(vocabulary=VOCABULARY, ranks=32, device=where)
        self.draws = Draws(width=1, device=where, block=8)
        self.next = resident(0, 1, dtype=torch.int64, device=where)  # [B, 1]
        self.barred = resident(0, VOCABULARY, dtype=torch.float32, device=where)  # [B, V]
        self.made = resident(0, CONTEXT, dtype=torch.int64, device=where)  # [B, F]
        self.count = resident(0, dtype=torch.int64, device=where)  # [B]
        self._graphs: dict[tuple[int, int], StepGraph] = {}

    @property
    def bytes_per_slot(self) -> int:
        own = 8 + 4 * VOCABULARY + 8 * CONTEXT + 8
        return self.cache.bytes_per_slot + self.draws.bytes_per_slot + own

    def reserve(self, slots: int) -> None:
        self._graphs.clear()
        self.cache.reserve(slots)
        self.sampler.reserve(slots)
        self.draws.reserve(slots)
        self.next = resized(self.next, slots)
        self.barred = resized(self.barred, slots)
        self.made = resized(self.made, slots)
        self.count = resized(self.count, slots)

    def rehearse(self, token_budget: int) -> None:
        """Nothing that it does takes much."""
        row = Row(prompt=Prompt(ids=(1,) * CONTEXT), positions=CONTEXT, max_steps=1, slot=0)
        self.prefill([row], token_budget)
        self.release(row, 0)

    def prefill(self, rows: Sequence[Row[Prompt]], token_budget: int) -> None:
        """Run all positions of the prompts but the last, which is the input of the first step."""
        most = max(1, token_budget // len(rows))
        parts = [row.prompt.ids[row.filled : min(row.positions - 1, row.filled + most)] for row in rows]
        for row in rows:
            if row.filled == 0:
                self._begin(row)
        if longest := max(map(len, parts)):
            self._forward(rows, parts, longest)
        for row, part in zip(rows, parts, strict=True):
            row.filled += len(part)
            if row.filled == row.positions - 1:
                self.next[row.slot] = row.prompt.ids[-1]
                self.cache.place(row.slot, row.filled)
                row.ready = True

    def _begin(self, row: Row[Prompt]) -> None:
        self.sampler.set(row.slot, row.prompt.sampling)
        self.draws.seat(row.slot, row.prompt.seed)
        self.barred[row.slot].zero_()
        for number in row.prompt.never:
            self.barred[row.slot, number] = -torch.inf
        self.count[row.slot] = 0

    def _forward(self, rows: Sequence[Row[Prompt]], parts: Sequence[Sequence[int]], longest: int) -> None:
        where = self.device.torch_device
        ids = torch.tensor([[*part, *[0] * (longest - len(part))] for part in parts], device=where)
        start = torch.tensor([row.filled for row in rows], device=where)
        kv_len = self.cache.kv_bucket(
            max(row.filled + len(part) for row, part in zip(rows, parts, strict=True))
        )
        turn = self.cache.plan(start, longest, rows=[row.slot for row in rows], kv_len=kv_len)
        self.network.model(
            input_ids=ids, attention_mask=turn.mask, position_ids=turn.position_ids,
            past_key_values=self.cache, use_cache=True,
        )  # fmt: skip

    def step(self, bucket: int, rows: Sequence[Row[Prompt]]) -> Stops:
        self.draws.refill(rows)
        kv_len = self.cache.kv_bucket(max((row.positions + row.steps for row in rows), default=1))
        stops: Tensor = self._graph(bucket, kv_len)()
        return self.device.flags(stops)

    def _graph(self, bucket: int, kv_len: int) -> StepGraph:
        key = (bucket, kv_len)
        if key not in self._graphs:
            self._graphs[key] = StepGraph(
                self.device, lambda: self._step(bucket, kv_len), enabled=self.graphs
            )
        return self._graphs[key]

    def _step(self, bucket: int, kv_len: int) -> Tensor:
        turn = self.cache.plan_step(bucket, kv_len)
        hidden = self.network.model(
            input_ids=self.next[:bucket], attention_mask=turn.mask, position_ids=turn.position_ids,
            past_key_values=self.cache, use_cache=True,
        ).last_hidden_state[:, -1]  # fmt: skip
        logits = self.network.lm_head(hidden) + self.barred[:bucket]  # [B, V]
        ids = self.sampler.draw(logits, self.draws.take(bucket)[:, 0])  # [B]
        self.made[:bucket].scatter_(1, self.count[:bucket, None].clamp(max=CONTEXT - 1), ids[:, None])
        # Idle slots stand still: a row's prompt may be half done there.
        running = self.cache.positions[:bucket] != self.cache.idle
        self.next[:bucket] = torch.where(running[:, None], ids[:, None], self.next[:bucket])
        self.count[:bucket] += running
        self.draws.advance(bucket)
        self.cache.advance(bucket)
        return ids == STOP

    def move(self, source: int, target: int) -> None:
        self.cache.move(source, target)
        self.sampler.move(source, target)
        self.draws.move(source, target)
        for state in (self.next, self.barred, self.made, self.count):
            state[target].copy_(state[source])

    def release(self, row: Row[Prompt], steps: int) -> Tensor:
        made = self.made[row.slot, :steps].clone()
        self.cache.clear(row.slot)
        self.sampler.clear(row.slot)
        self.draws.clear(row.slot)
        for state in (self.next, self.barred, self.made, self.count):
            state[row.slot].zero_()
        return made


class Breakable(Babbler):
    """One that breaks its card when a prompt says so."""

    def step(self, bucket: int, rows: Sequence[Row[Prompt]]) -> Stops:
        if any(row.prompt.breaks_card and row.steps == 4 for row in rows):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return super().step(bucket, rows)


class Counter:
    """The decoder: brings the numbers to the host, a few at a time."""

    max_items = 8

    def __init__(self, at_once: int = 10) -> None:
        self.at_once = at_once

    def run(self, items: Sequence[Item[Tensor, list[int]]], time_budget_s: float) -> None:
        for item in items:
            done: list[int] = item.state or []
            done = done + item.payload[len(done) : len(done) + self.at_once].tolist()
            item.state, item.progress = done, len(done) / max(len(item.payload), 1)
            if len(done) == len(item.payload):
                item.result, item.done = done, True


class Superstitious(Counter):
    """One that cannot decode thirteen numbers, nor anything together with them."""

    def run(self, items: Sequence[Item[Tensor, list[int]]], time_budget_s: float) -> None:
        if any(len(item.payload) == 13 for item in items):
            raise ValueError("thirteen numbers")
        super().run(items, time_budget_s)


def numbers(released: Any) -> list[int]:
    """What a row made, for comparison."""
    return list(released.tolist())
