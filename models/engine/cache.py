"""The slot cache: keys and values of many requests at different positions, for unmodified decoders.

A decoder of transformers hands its cache nothing but the new keys and values, so where they go is a
state of the cache: the caller says it with `plan` before every forward, and passes on what `plan`
returns.

    turn = cache.plan_step(bucket, kv_len)
    decoder(
        inputs_embeds=embeddings,            # [B, 1, D]
        attention_mask=turn.mask,            # [B, 1, 1, T]
        position_ids=turn.position_ids,      # [B, 1]
        past_key_values=cache,
        use_cache=True,
    )
    cache.advance(bucket)

Slots without a row, and those whose prompt is not done yet, stand at the position `idle`, which no row
ever reads: a step may write there and harms nobody. Nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from .resident import resident, resized

_ALIGNED = 8  # fused attention kernels copy masks whose rows are no multiple of this
_FIRST_BUCKET = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """Where one forward reads and writes.

    Attributes:
        position_ids: For rotary or learned positions, int64 `[B, T]`.
        mask: True where a query may look, bool `[B, 1, T, kv_len]`; made for sdpa, as eager attention
            would silently misread it.
        slots: The slots that take part: the first so many, or these.
        where: The same and the positions, as an index into the storage of a layer.
        kv_len: How many positions are looked at.
    """

    position_ids: Tensor
    mask: Tensor
    slots: slice | Tensor
    where: tuple[Tensor, Tensor]
    kv_len: int


class SlotCache(Cache):
    """Keys and values `[B, context + 1, heads, width]` of each layer, with a position for each slot.

    Attributes:
        context: Positions of one slot that a row may use.
        idle: The position at which slots without a running row stand.
        positions: Where each slot writes next, int64 `[B]` on the device.
    """

    def __init__(
        self,
        *,
        layers: int,
        heads: int,
        width: int,
        context: int,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        """Describe a cache; `reserve` takes the memory.

        Args:
            layers: Of the decoder.
            heads: Heads of keys and values, which may be fewer than those of queries.
            width: Numbers in a head.
            context: Positions of a slot.
            dtype: Of keys and values.
            device: Where they lie.
        """
        self.context = context
        self.idle = context
        capacity = -(-(context + 1) // _ALIGNED) * _ALIGNED
        self.kv_buckets = kv_buckets(capacity)
        shape = (capacity, heads, width)
        super().__init__(layers=[_SlotLayer(self, shape, dtype, device) for _ in range(layers)])
        self.positions = resident(0, dtype=torch.int64, device=device)
        self.turn: Turn | None = None
        self._bytes: int = 2 * layers * capacity * heads * width * dtype.itemsize + self.positions.itemsize
        self._columns = torch.arange(capacity, device=device)
        self._numbers = self._columns[:0]

    @classmethod
    def of(cls, config: Any, *, context: int, dtype: torch.dtype, device: torch.device | str) -> SlotCache:
        """The cache for the decoder of a transformers configuration.

        Raises:
            ValueError: The decoder's attention is not what `plan` makes masks for.
        """
        attention = getattr(config, "_attn_implementation", None)
        if attention not in (None, "sdpa"):
            raise ValueError(f"the slot cache needs attn_implementation='sdpa', not {attention!r}")
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        if kinds != {"full_attention"}:
            raise ValueError(f"the slot cache serves full attention only, not {', '.join(sorted(kinds))}")
        heads = config.num_attention_heads
        return cls(
            layers=config.num_hidden_layers,
            heads=getattr(config, "num_key_value_heads", None) or heads,
            width=getattr(config, "head_dim", None) or config.hidden_size // heads,
            context=context,
            dtype=dtype,
            device=device,
        )

    @property
    def bytes_per_slot(self) -> int:
        """What one slot costs."""
        return self._bytes

    @property
    def slots(self) -> int:
        """For how many slots there is memory."""
        return len(self.positions)

    def reserve(self, slots: int) -> None:
        """Have memory for `slots` slots; those below that number keep what they hold.

        At most the old and the new keys (or values) of one layer exist at once, and where even that is
        too much the survivors wait on the host. Captured graphs are void afterwards.
        """
        for layer in self.layers:
            layer.keys = resized(layer.keys, slots)
            layer.values = resized(layer.values, slots)
        self.positions = resized(self.positions, slots, fill=self.idle)
        self._numbers = torch.arange(slots, device=self.positions.device)

    # -- one slot ----------------------------------------------------------------------------------

    def place(self, slot: int, position: int) -> None:
        """Let the next step write the slot at `position`: its row runs from now on."""
        self.positions[slot] = position

    def move(self, source: int, target: int) -> None:
        """Copy a row to another slot; the source is left as a free slot."""
        for layer in self.layers:
            layer.keys[target].copy_(layer.keys[source])
            layer.values[target].copy_(layer.values[source])
        self.positions[target].copy_(self.positions[source])
        self.clear(source)

    def clear(self, slot: int) -> None:
        """Leave nothing of the slot's row behind.

        Zeros, as a masked number still counts where it is not finite: a row that overflowed would
        otherwise spoil the next one in its slot.
        """
        for layer in self.layers:
            layer.keys[slot].zero_()
            layer.values[slot].zero_()
        self.positions[slot] = self.idle

    # -- forwards ----------------------------------------------------------------------------------

    def kv_bucket(self, positions: int) -> int:
        """The smallest of the fixed lengths that covers `positions`.

        A fixed length for each size keeps the number of shapes small, without asking the device for the
        longest row.
        """
        return next(length for length in self.kv_buckets if length >= positions)

    def plan(
        self, start: Tensor, q_len: int, *, rows: Sequence[int] | None = None, kv_len: int | None = None
    ) -> Turn:
        """Say where the next forward writes: `q_len` positions from `start` on, for each row.

        A ragged batch is padded on the right: what padding writes is overwritten before it becomes
        visible. Neighbouring slots are read in place, others are copied.

        Args:
            start: The first position of each row, int64 `[B]`, on the device.
            q_len: Positions of the longest row.
            rows: Their slots; `None` for the first ones.
            kv_len: How many positions are looked at, at least the end of the longest row without its
                padding; one of `kv_buckets`. `None` looks at all.
        """
        kv_len = kv_len or self.kv_buckets[-1]
        slots, numbers = self._choose(len(start), rows)
        positions = (start[:, None] + self._columns[:q_len]).clamp(max=self.idle)  # [B, T]
        self.turn = Turn(
            position_ids=positions.clamp(max=self.context - 1),
            mask=(self._columns[:kv_len] <= positions[:, :, None])[:, None],  # [B, 1, T, kv_len]
            slots=slots,
            where=(numbers[:, None], positions),
            kv_len=kv_len,
        )
        return self.turn

    def plan_step(self, bucket: int, kv_len: int | None = None) -> Turn:
        """Say that the next forward makes one position for each of the first `bucket` slots."""
        return self.plan(self.positions[:bucket], 1, kv_len=kv_len)

    def advance(self, bucket: int) -> None:
        """The step is done: running slots stand one further, the others stay idle."""
        self.positions[:bucket].add_(1).clamp_(max=self.idle)

    def _choose(self, count: int, rows: Sequence[int] | None) -> tuple[slice | Tensor, Tensor]:
        first = rows[0] if rows else 0
        if rows is None or list(rows) == list(range(first, first + count)):
            chosen = slice(first, first + count)
            return chosen, self._numbers[chosen]
        numbers = torch.tensor(rows).to(self.positions.device, non_blocking=True)
        return numbers, numbers


def kv_buckets(capacity: int) -> tuple[int, ...]:
    """Lengths from 128 positions on, each at most half as long again as the one before, up to all.

    >>> kv_buckets(520)
    (128, 192, 256, 384, 512, 520)
    """
    lengths = []
    length = _FIRST_BUCKET
    while length < capacity:
        lengths.append(length)
        if length + length // 2 < capacity:
            lengths.append(length + length // 2)
        length *= 2
    return (*lengths, capacity)


class _SlotLayer(CacheLayerMixin):
    """One layer's keys and values; the turn of its cache says where."""

    is_compileable = False  # True would promise one position for all rows
    is_sliding = False
    supports_early_init = False

    def __init__(
        self,
        cache: SlotCache,
        shape: tuple[int, int, int],
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        super().__init__()
        self._cache = cache
        self.keys = resident(0, *shape, dtype=dtype, device=device)
        self.values = resident(0, *shape, dtype=dtype, device=device)
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing: `reserve` did it."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write `[B, heads, T, width]` where the turn says; return all that the turn looks at."""
        turn = self._cache.turn
        assert turn is not None, "a forward with a slot cache begins with its plan"
        self.keys.index_put_(turn.where, key_states.transpose(1, 2))
        self.values.index_put_(turn.where, value_states.transpose(1, 2))
        return self._visible(self.keys, turn), self._visible(self.values, turn)

    @staticmethod
    def _visible(stored: Tensor, turn: Turn) -> Tensor:
        return stored[turn.slots, : turn.kv_len].transpose(1, 2)  # [B, heads, kv_len, width]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """For decoders that make a mask of their own; ours is used instead."""
        return self._kv_len, 0

    def get_seq_length(self) -> int:
        """So many positions come before the newest one, of which there is at least one."""
        return self._kv_len - 1

    def get_max_length(self) -> int:
        return self._cache.context

    @property
    def _kv_len(self) -> int:
        turn = self._cache.turn
        return 1 if turn is None else turn.kv_len
