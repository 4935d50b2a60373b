"""The transformers inside of Mimi, piece by piece: each latent sees the last 250, and no piece more.

Rows of a batch may stand at different places of different recordings. What a row has to remember is
kept with its request; a call puts the memories of its rows side by side, padded on the left, and hides
the padding by the positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.cache_utils import Cache, CacheLayerMixin

Memory = tuple[tuple[Tensor, Tensor], ...]
"""Keys and values `[heads, P, width]` of each layer, of the last P latents of one recording."""


def run_window(
    transformer: Any,
    latents: Tensor,
    starts: Sequence[int],
    counts: Sequence[int],
    memories: Sequence[Memory],
) -> tuple[Tensor, list[Memory]]:
    """Run a `MimiTransformerModel` over the next latents of several recordings.

    Args:
        transformer: Mimi's own.
        latents: `[B, T, D]`, padded on the right.
        starts: The number of each row's first latent in its recording.
        counts: How many of its latents are no padding.
        memories: What the last call returned for the recording; empty at its beginning.

    Returns:
        `[B, T, D]`, and the memories after it.
    """
    window = transformer.config.sliding_window
    device, length = latents.device, latents.shape[1]
    past = max((memory[0][0].shape[1] if memory else 0) for memory in memories)
    cache = _WindowCache(transformer.config.num_hidden_layers, memories, past)
    first = torch.tensor(starts, device=device)[:, None]
    queries = first + torch.arange(length, device=device)  # [B, T]
    keys = first - past + torch.arange(past + length, device=device)  # [B, P + T]
    distance = queries[:, :, None] - keys[:, None]
    # A key before the beginning of a recording is padding, since no memory is longer than the recording.
    seen = (distance >= 0) & (distance < window) & (keys >= 0)[:, None]  # [B, T, P + T]
    output = transformer(
        latents, attention_mask=seen[:, None], position_ids=queries, past_key_values=cache, use_cache=True
    )
    kept = [cache.memory(row, past + count, window) for row, count in enumerate(counts)]
    return output.last_hidden_state, kept


class _WindowCache(Cache):
    def __init__(self, layers: int, memories: Sequence[Memory], past: int) -> None:
        super().__init__(layers=[_WindowLayer(layer, memories, past) for layer in range(layers)])

    def memory(self, row: int, end: int, window: int) -> Memory:
        """Of one row: the keys and values of the last latents before `end`, copied."""
        begin = max(0, end - window)
        return tuple(
            (layer.keys[row, :, begin:end].clone(), layer.values[row, :, begin:end].clone())
            for layer in self.layers
        )


class _WindowLayer(CacheLayerMixin):
    is_compileable = False
    is_sliding = True
    supports_early_init = False

    def __init__(self, layer: int, memories: Sequence[Memory], past: int) -> None:
        super().__init__()
        self._past = past
        if past:
            self.keys, self.values = (_stacked(memories, layer, kind, past) for kind in (0, 1))
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append `[B, heads, T, width]` to the memories."""
        self.keys = torch.cat([self.keys, key_states], 2) if self._past else key_states
        self.values = torch.cat([self.values, value_states], 2) if self._past else value_states
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """For a mask of the model's own; ours is used instead."""
        return self._past + query_length, 0

    def get_seq_length(self) -> int:
        return self._past

    def get_max_length(self) -> int:
        return -1


def _stacked(memories: Sequence[Memory], layer: int, kind: int, past: int) -> Tensor:
    """The memories of one layer side by side, `[B, heads, P, width]`, padded on the left."""
    known = next(memory[layer][kind] for memory in memories if memory)
    parts = [memory[layer][kind] if memory else known[:, :0] for memory in memories]
    return torch.stack([functional.pad(part, (0, 0, past - part.shape[1], 0)) for part in parts])
