"""The depth decoder as an unrolled loop: from the backbone's state and the first code to the others.

All rows are in lock-step here, so there is nothing ragged about it. Position 0 is the backbone's
state, position k the code of codebook k − 1; the output at position k gives the logits of codebook k.
The last code of a frame is never fed back. Keys and values live for one frame only, in buffers that
stay where they are.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from ..engine.resident import resident, resized
from .choice import Choice
from .sizes import Sizes


class Depth(Protocol):
    """Makes the frames of a step."""

    @property
    def bytes_per_slot(self) -> int:
        """What one slot costs."""

    def reserve(self, slots: int) -> None:
        """Have buffers for so many rows."""

    def frame(self, state: Tensor, first: Tensor, chances: Tensor, choice: Choice) -> Tensor:
        """The codes of one frame.

        Args:
            state: The backbone's output, `[B, D]`.
            first: The code of codebook 0, int64 `[B]`.
            chances: From `Choice.chances`, `[B, K]`.
            choice: The rules.

        Returns:
            int64 `[B, K]`.
        """


class ModularDepth:
    """The loop over transformers' own layers."""

    def __init__(self, model: Any, sizes: Sizes) -> None:
        """Take the depth decoder out of a `CsmForConditionalGeneration`.

        Nothing of it is changed; its embeddings and heads are used as they are.
        """
        decoder = model.depth_decoder.model
        self._layers = decoder.layers
        self._norm = decoder.norm
        self._projector = decoder.inputs_embeds_projector
        self._table = decoder.embed_tokens.weight
        # The ids that the codec does not have are cut off here, and can never be chosen.
        self._heads = model.depth_decoder.codebooks_head.weight[:, :, : sizes.codes]  # [K-1, D, C]
        self._sizes = sizes
        places = torch.arange(sizes.codebooks, device=self._table.device)[None]
        cos, sin = decoder.rotary_emb(self._table[:1, :1], position_ids=places)
        self._cos, self._sin = cos, sin  # [1, K, width of a head]
        self._cache = FrameCache(decoder.config, sizes.codebooks, self._table)

    @property
    def bytes_per_slot(self) -> int:
        """What one slot costs."""
        return int(self._cache.bytes_per_slot)

    def reserve(self, slots: int) -> None:
        """See `Depth`."""
        self._cache.reserve(slots)

    def frame(self, state: Tensor, first: Tensor, chances: Tensor, choice: Choice) -> Tensor:
        """See `Depth`."""
        codes = [first]
        inputs = torch.stack([state, self._table[first]], dim=1)  # [B, 2, D]
        position = 0
        for codebook in range(1, self._sizes.codebooks):
            output = self._forward(inputs, position)
            position += inputs.shape[1]
            logits = (output @ self._heads[codebook - 1]).float()  # [B, C]
            code = choice.code(logits, chances[:, codebook : codebook + 1])
            codes.append(code)
            inputs = self._table[code + codebook * self._sizes.ids][:, None]
        return torch.stack(codes, dim=1)

    def _forward(self, inputs: Tensor, position: int) -> Tensor:
        """The output at the last of some positions `[B, T, D]`, as `[B, width]`."""
        hidden = self._projector(inputs)
        end = position + inputs.shape[1]
        self._cache.place(position, len(inputs))
        rotary = self._cos[:, position:end], self._sin[:, position:end]
        for layer in self._layers:
            # Without a mask sdpa is causal for the first two positions, and one query sees all keys.
            hidden = layer(
                hidden,
                attention_mask=None,
                position_embeddings=rotary,
                past_key_values=self._cache,
                use_cache=True,
            )
        output: Tensor = self._norm(hidden[:, -1])
        return output


class FrameCache(Cache):
    """Keys and values `[B, heads, K, width]` of each layer, all rows at the same position."""

    def __init__(self, config: Any, positions: int, like: Tensor) -> None:
        """Describe a cache for `positions` positions of the type and on the device of a tensor."""
        self.start = 0
        self.rows = 0
        shape = (config.num_key_value_heads, positions, config.head_dim)
        super().__init__(layers=[_FrameLayer(self, shape, like) for _ in range(config.num_hidden_layers)])
        self.bytes_per_slot = 2 * len(self.layers) * shape[0] * shape[1] * shape[2] * like.itemsize

    def reserve(self, slots: int) -> None:
        """Have room for so many rows."""
        for layer in self.layers:
            layer.keys = resized(layer.keys, slots)
            layer.values = resized(layer.values, slots)

    def place(self, start: int, rows: int) -> None:
        """Say where the next forward writes."""
        self.start = start
        self.rows = rows


class _FrameLayer(CacheLayerMixin):
    is_compileable = False
    is_sliding = False
    supports_early_init = False

    def __init__(self, cache: FrameCache, shape: tuple[int, int, int], like: Tensor) -> None:
        super().__init__()
        self._cache = cache
        self.keys = resident(0, *shape, dtype=like.dtype, device=like.device)
        self.values = resident(0, *shape, dtype=like.dtype, device=like.device)
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing: `reserve` did it."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write `[B, heads, T, width]`, and return all up to there."""
        rows, start = self._cache.rows, self._cache.start
        end = start + key_states.shape[2]
        self.keys[:rows, :, start:end].copy_(key_states)
        self.values[:rows, :, start:end].copy_(value_states)
        return self.keys[:rows, :, :end], self.values[:rows, :, :end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Of no use to a layer that is called by itself."""
        return self._cache.start + query_length, 0

    def get_seq_length(self) -> int:
        return self._cache.start

    def get_max_length(self) -> int:
        return int(self.keys.shape[2])
