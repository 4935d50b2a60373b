"""The slot cache under unmodified decoders of transformers, against their own `generate`."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from soundmill.models.engine.cache import SlotCache, kv_buckets

VOCABULARY, CONTEXT, SLOTS = 97, 200, 3
QUIET: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": None, "attn_implementation": "sdpa"}


def llama() -> Any:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=CONTEXT,
            initializer_range=0.3, **QUIET,
        )
    )  # fmt: skip


def qwen2() -> Any:
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=1, max_position_embeddings=CONTEXT,
            initializer_range=0.3, **QUIET,
        )
    )  # fmt: skip


def gpt2() -> Any:
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY, n_positions=CONTEXT, n_embd=32, n_layer=2, n_head=4,
            initializer_range=0.3, **QUIET,
        )
    )  # fmt: skip


@pytest.fixture(params=[llama, qwen2, gpt2], ids=["Llama", "Qwen2", "GPT-2"])
def decoder(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(3)
    make: Callable[[], Any] = request.param
    return make().eval()


def cache_of(decoder: Any, slots: int = SLOTS) -> SlotCache:
    cache = SlotCache.of(decoder.config, context=CONTEXT, dtype=torch.float32, device="cpu")
    cache.reserve(slots)
    return cache


class Greedy:
    """Rows that decode greedily in the slots of one cache, joining and leaving as told."""

    def __init__(self, decoder: Any, cache: SlotCache) -> None:
        self.decoder, self.cache = decoder, cache
        self.next = torch.zeros(cache.slots, 1, dtype=torch.int64)
        self.made: dict[int, list[int]] = {}

    def forward(self, ids: Tensor, turn: Any) -> Tensor:
        logits: Tensor = self.decoder(
            input_ids=ids, attention_mask=turn.mask, position_ids=turn.position_ids,
            past_key_values=self.cache, use_cache=True,
        ).logits  # fmt: skip
        return logits

    def join(self, prompts: dict[int, list[int]], kv_len: int | None = None) -> None:
        """Prefill the prompts, by slot, in one ragged forward; all but their last ids."""
        slots, parts = list(prompts), [prompt[:-1] for prompt in prompts.values()]
        longest = max(map(len, parts))
        ids = torch.tensor([part + [0] * (longest - len(part)) for part in parts])
        turn = self.cache.plan(torch.zeros(len(slots), dtype=torch.int64), longest, rows=slots, kv_len=kv_len)
        self.forward(ids, turn)
        for slot, prompt in prompts.items():
            self.cache.place(slot, len(prompt) - 1)
            self.next[slot] = prompt[-1]
            self.made[slot] = []

    def step(self, bucket: int, kv_len: int | None = None) -> None:
        turn = self.cache.plan_step(bucket, kv_len)
        chosen = self.forward(self.next[:bucket], turn)[:, -1].argmax(-1)
        self.cache.advance(bucket)
        self.next[:bucket] = chosen[:, None]
        for slot in self.made:
            if slot < bucket:
                self.made[slot].append(int(chosen[slot]))

    def leave(self, slot: int) -> list[int]:
        self.cache.clear(slot)
        return self.made.pop(slot)


def prompts() -> list[list[int]]:
    source = torch.Generator().manual_seed(5)
    return [
        torch.randint(1, VOCABULARY, (length,), generator=source).tolist() for length in (3, 40, 17, 8, 2)
    ]


def generated(decoder: Any, prompt: list[int], count: int) -> list[int]:
    out = decoder.generate(torch.tensor([prompt]), max_new_tokens=count, do_sample=False, pad_token_id=0)
    ids: list[int] = out[0, len(prompt) :].tolist()
    return ids


@torch.inference_mode()
@pytest.mark.parametrize("kv_len", [None, 128])
def test_rows_that_join_late_and_reuse_slots_make_what_generate_makes(
    decoder: Any, kv_len: int | None
) -> None:
    first, second, third, fourth, fifth = prompts()
    rows = Greedy(decoder, cache_of(decoder))
    rows.join({0: first, 2: second}, kv_len)  # not neighbours, and ragged
    for _ in range(6):
        rows.step(3, kv_len)
    rows.join({1: third}, kv_len)
    for _ in range(5):
        rows.step(3, kv_len)
    assert rows.leave(0) == generated(decoder, first, 11)
    rows.join({0: fourth}, kv_len)
    for _ in range(4):
        rows.step(3, kv_len)
    assert rows.leave(2) == generated(decoder, second, 15)
    assert rows.leave(1) == generated(decoder, third, 9)
    rows.join({1: fifth}, kv_len)
    for _ in range(8):
        rows.step(2, kv_len)
    assert rows.leave(0) == generated(decoder, fourth, 12)
    assert rows.leave(1) == generated(decoder, fifth, 8)


@torch.inference_mode()
def test_a_prompt_in_parts_while_others_step_is_the_same_prompt(decoder: Any) -> None:
    first, second, *_ = prompts()
    cache = cache_of(decoder)
    rows = Greedy(decoder, cache)
    rows.join({1: first})
    for begin in range(0, len(second) - 1, 10):
        part = second[begin : min(begin + 10, len(second) - 1)]
        rows.forward(torch.tensor([part]), cache.plan(torch.tensor([begin]), len(part), rows=[0]))
        rows.step(2)  # slot 0 is idle for it
    cache.place(0, len(second) - 1)
    rows.next[0] = second[-1]
    rows.made[0] = []
    for _ in range(6):
        rows.step(2)
    assert rows.leave(0) == generated(decoder, second, 6)
    assert rows.leave(1) == generated(decoder, first, 10)


@torch.inference_mode()
def test_a_moved_row_goes_on_as_before(decoder: Any) -> None:
    first, second, *_ = prompts()
    cache = cache_of(decoder)
    rows = Greedy(decoder, cache)
    rows.join({1: first, 2: second})
    for _ in range(3):
        rows.step(3)
    cache.move(2, 0)
    rows.next[0], rows.made[0] = rows.next[2], rows.made.pop(2)
    assert cache.positions.tolist()[2] == cache.idle
    for _ in range(5):
        rows.step(2)
    assert rows.leave(0) == generated(decoder, second, 8)
    assert rows.leave(1) == generated(decoder, first, 8)


@torch.inference_mode()
@pytest.mark.parametrize("slots", [2, 5])
def test_rows_survive_another_number_of_slots(decoder: Any, slots: int) -> None:
    first, second, *_ = prompts()
    cache = cache_of(decoder)
    rows = Greedy(decoder, cache)
    rows.join({0: first, 1: second})
    for _ in range(3):
        rows.step(2)
    cache.reserve(slots)
    assert cache.slots == slots
    for _ in range(3):
        rows.step(2)
    assert [rows.leave(0), rows.leave(1)] == [generated(decoder, first, 6), generated(decoder, second, 6)]


@torch.inference_mode()
def test_a_row_of_no_numbers_spoils_neither_its_neighbour_nor_its_successor(decoder: Any) -> None:
    first, second, *_ = prompts()
    cache = cache_of(decoder, slots=2)
    rows = Greedy(decoder, cache)
    rows.join({0: first, 1: second})
    for layer in cache.layers:
        layer.keys[1].fill_(torch.nan)
        layer.values[1].fill_(torch.inf)
    for _ in range(4):
        rows.step(2)
    rows.leave(1)
    rows.join({1: second})
    for _ in range(4):
        rows.step(2)
    assert rows.leave(0) == generated(decoder, first, 8)
    assert rows.leave(1) == generated(decoder, second, 4)


def test_the_cost_of_a_slot_is_what_its_tensors_take(decoder: Any) -> None:
    before, after = cache_of(decoder, 2), cache_of(decoder, 7)

    def taken(cache: SlotCache) -> int:
        tensors = [
            cache.positions, *(layer.keys for layer in cache.layers), *(layer.values for layer in cache.layers)
        ]  # fmt: skip
        return sum(tensor.numel() * tensor.itemsize for tensor in tensors)

    assert taken(after) - taken(before) == 5 * before.bytes_per_slot


def test_what_a_mask_of_ours_would_not_fit_is_refused() -> None:
    config = llama().config
    config._attn_implementation = "eager"
    with pytest.raises(ValueError, match="needs attn_implementation='sdpa'"):
        SlotCache.of(config, context=8, dtype=torch.float32, device="cpu")
    sliding = qwen2().config
    sliding.layer_types = ["full_attention", "sliding_attention"]
    with pytest.raises(ValueError, match="full attention only"):
        SlotCache.of(sliding, context=8, dtype=torch.float32, device="cpu")


@pytest.mark.parametrize("capacity", [8, 128, 136, 2056, 9224])
def test_a_length_of_the_cache_is_looked_at_with_little_to_spare(capacity: int) -> None:
    lengths = kv_buckets(capacity)
    assert lengths[-1] == capacity
    assert list(lengths) == sorted(set(lengths))
    assert all(after <= 1.5 * before for before, after in pairwise(lengths))
