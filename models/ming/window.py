"""Qwen2 stacks with a sliding window over streams: rows that stand at different positions share a call.

A stream keeps the last keys and values of each layer, so it costs the same however long it gets.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .config import StackSize
from .stack import qwen2_stack
from .weights import Weights


class WindowedStack(nn.Module):
    """A causal stack in which a query sees `window` keys, itself included."""

    def __init__(self, weights: Weights, size: StackSize, *, layers: int) -> None:
        super().__init__()
        assert size.window is not None, "the stacks of the audio slide"
        self.stack = qwen2_stack(weights, size, layers=layers, embed=False)
        self.past = size.window - 1
        self._shape = (layers, 2, size.kv_heads, self.past, size.head_size)
        self._dtype = weights.dtype
        self._device = weights.device

    def blank(self) -> Tensor:
        """The keys and values of a stream that has not begun [L, 2, heads, past, width]."""
        return torch.zeros(self._shape, dtype=self._dtype, device=self._device)

    def forward(self, x: Tensor, kept: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """Continue streams by the same number of positions.

        Args:
            x: What comes next [B, T, H]. A stream that ends here may be padded on the right.
            kept: Keys and values of each stream [B, L, 2, heads, past, width].
            start: How many positions each stream has behind it [B], int64.

        Returns:
            The hidden states after the final norm [B, T, H], and what to keep. That of a padded stream
            is void.
        """
        window = _Window(kept)
        count = x.shape[1]
        hidden = self.stack(
            inputs_embeds=x,
            attention_mask={"full_attention": self._mask(start, count)},
            position_ids=start[:, None] + torch.arange(count, device=start.device),
            past_key_values=window,
            use_cache=True,
        ).last_hidden_state
        return hidden, torch.stack(window.kept, dim=1)

    def _mask(self, start: Tensor, count: int) -> Tensor:
        """What each query may see [B, 1, T, past + T]: at most `past` back, and nothing before the stream."""
        query = torch.arange(count, device=start.device)[:, None]
        key = torch.arange(-self.past, count, device=start.device)
        near = (key <= query) & (query - key <= self.past)  # [T, past + T]
        begun = key + start[:, None] >= 0  # [B, past + T]
        return near & begun[:, None, None]


class _Window:
    """The cache of one call, as far as a Qwen2 forward that is given masks and positions uses it."""

    def __init__(self, kept: Tensor) -> None:
        self._kept = kept
        self.kept: list[Tensor] = []

    def update(self, key: Tensor, value: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Join [B, heads, T, width] to what is kept of this layer."""
        both = torch.cat((self._kept[:, layer], torch.stack((key, value), dim=1)), dim=3)
        self.kept.append(both[:, :, :, -self._kept.shape[4] :])
        return both[:, 0], both[:, 1]
