"""The depth loop again, of fewer launches: a frame is 124 layer passes, and each launch costs.

The same tensors as transformers' layers, and the same sums up to rounding, but

- query, key and value, and gate and up, are one product each: their weights lie in one tensor, of
  which the modules keep views, so that nothing is held twice;
- the rotation of a position is a product with one matrix, which costs one launch instead of eight;
- the queries that share a key head are attended as queries of one head, so that keys are not copied;
- the residual is added by the product before it;
- embeddings are projected beforehand, once for every code.

A layer takes 12 launches, against about 32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional

from ..engine.resident import resident, resized
from .choice import Choice
from .sizes import Sizes


class FusedDepth:
    """Makes the frames of a step; see `depth.Depth`."""

    def __init__(self, model: Any, sizes: Sizes) -> None:
        """Take the depth decoder out of a `CsmForConditionalGeneration`.

        The weights of its layers move into merged tensors; the modules go on working with views of them.
        """
        decoder = model.depth_decoder.model
        config = decoder.config
        table = decoder.embed_tokens.weight
        self._sizes = sizes
        self._shape = _Shape.of(config, table)
        self._layers = [_FusedLayer(layer, self._shape) for layer in decoder.layers]
        self._projector = decoder.inputs_embeds_projector.weight
        with torch.inference_mode(False), torch.no_grad():
            projected = decoder.inputs_embeds_projector(table)
            self._inputs = projected.view(sizes.codebooks, sizes.ids, -1)  # [K, V, width]
            heads = model.depth_decoder.codebooks_head.weight[:, :, : sizes.codes]
            self._heads = heads.contiguous()  # [K-1, width, C]; an odd row length would slow the product
            places = torch.arange(sizes.codebooks, device=table.device)[None]
            cos, sin = decoder.rotary_emb(table[:1, :1], position_ids=places)
            self._rotations = rotations(cos[0], sin[0])  # [K, head, head]
        self._norm = decoder.norm.weight
        self._eps = config.rms_norm_eps

    @staticmethod
    def fits(model: Any) -> bool:
        """Whether the model's depth decoder is of the form that is fused here."""
        config = model.config.depth_decoder_config
        return not (config.attention_bias or config.mlp_bias) and config.hidden_act == "silu"

    @property
    def bytes_per_slot(self) -> int:
        """What one slot costs."""
        return sum(layer.bytes_per_slot for layer in self._layers)

    def reserve(self, slots: int) -> None:
        """Have buffers for so many rows."""
        for layer in self._layers:
            layer.reserve(slots)

    def frame(self, state: Tensor, first: Tensor, chances: Tensor, choice: Choice) -> Tensor:
        """The codes of one frame, int64 `[B, K]`; the arguments are those of `depth.Depth.frame`."""
        self._forward(functional.linear(state, self._projector), 0)
        codes = [first]
        for codebook in range(1, self._sizes.codebooks):
            hidden = self._forward(self._inputs[codebook - 1][codes[-1]], codebook)
            hidden = functional.rms_norm(hidden, self._norm.shape, self._norm, self._eps)
            logits = (hidden @ self._heads[codebook - 1]).float()  # [B, C]
            codes.append(choice.code(logits, chances[:, codebook : codebook + 1]))
        return torch.stack(codes, dim=1)

    def _forward(self, hidden: Tensor, position: int) -> Tensor:
        """One position of each row, `[B, width]`, through all layers."""
        rotation = self._rotations[position]
        for layer in self._layers:
            hidden = layer(hidden, position, rotation)
        return hidden


def rotations(cos: Tensor, sin: Tensor) -> Tensor:
    """The rotary embedding of each position as a matrix that a head is multiplied with from the right.

    Args:
        cos: Of each position and dimension of a head, `[T, W]`; both halves of W are alike.
        sin: Likewise.

    Returns:
        `[T, W, W]`: `x @ R` is `x · cos + (−x₂, x₁) · sin`, x₁ and x₂ being the halves of x.
    """
    width = cos.shape[-1]
    half = width // 2
    found = torch.diag_embed(cos)
    low, high = torch.arange(half, device=cos.device), torch.arange(half, width, device=cos.device)
    found[:, high, low] = -sin[:, :half]
    found[:, low, high] = sin[:, half:]
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """The sizes of a layer.

    Attributes:
        shared: Heads of keys and values.
        width: Of a head.
        like: A tensor of the type and on the device of the weights.
    """

    heads: int
    shared: int
    width: int
    eps: float
    positions: int
    like: Tensor

    @classmethod
    def of(cls, config: Any, like: Tensor) -> Self:
        return cls(
            heads=config.num_attention_heads,
            shared=config.num_key_value_heads,
            width=config.head_dim,
            eps=config.rms_norm_eps,
            positions=config.num_codebooks,
            like=like,
        )


class _FusedLayer:
    """One layer of the depth decoder."""

    def __init__(self, layer: Any, shape: _Shape) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self._shape = shape
        self._project = merged(attention.q_proj, attention.k_proj, attention.v_proj)
        self._widen = merged(mlp.gate_proj, mlp.up_proj)
        self._join = attention.o_proj.weight.t()
        self._narrow = mlp.down_proj.weight.t()
        self._before = layer.input_layernorm.weight
        self._between = layer.post_attention_layernorm.weight
        like = shape.like
        buffer = (shape.shared, shape.positions, shape.width)
        self._keys = resident(0, *buffer, dtype=like.dtype, device=like.device)
        self._values = resident(0, *buffer, dtype=like.dtype, device=like.device)

    @property
    def bytes_per_slot(self) -> int:
        shape = self._shape
        return int(2 * shape.shared * shape.positions * shape.width * self._keys.itemsize)

    def reserve(self, slots: int) -> None:
        self._keys = resized(self._keys, slots)
        self._values = resized(self._values, slots)

    def __call__(self, hidden: Tensor, position: int, rotation: Tensor) -> Tensor:
        """One position of each row, `[B, width]`; the launches are counted at the right."""
        shape = self._shape
        count, end = len(hidden), position + 1
        normed = functional.rms_norm(hidden, self._before.shape, self._before, shape.eps)  # 1
        heads = functional.linear(normed, self._project).view(-1, shape.width)  # 2
        turned = (heads @ rotation).view(count, -1, shape.width)  # 3
        query, key = turned[:, : shape.heads], turned[:, shape.heads : shape.heads + shape.shared]
        value = heads.view(count, -1, shape.width)[:, shape.heads + shape.shared :]
        self._keys[:count, :, position].copy_(key)  # 4
        self._values[:count, :, position].copy_(value)  # 5
        mixed = functional.scaled_dot_product_attention(
            query.view(count, shape.shared, -1, shape.width),
            self._keys[:count, :, :end],
            self._values[:count, :, :end],
            scale=shape.width**-0.5,
        )  # 6
        hidden = torch.addmm(hidden, mixed.reshape(count, -1), self._join)  # 7
        normed = functional.rms_norm(hidden, self._between.shape, self._between, shape.eps)  # 8
        gate, up = functional.linear(normed, self._widen).chunk(2, dim=-1)  # 9
        return torch.addmm(hidden, functional.silu(gate) * up, self._narrow)  # 10 to 12


def merged(*modules: Any) -> Tensor:
    """The weights of several linear modules as one; each module keeps a view of its part."""
    with torch.no_grad():
        weight = torch.cat([module.weight for module in modules])
        for module, part in zip(modules, weight.split([len(m.weight) for m in modules]), strict=True):
            module.weight.data = part
    return weight
