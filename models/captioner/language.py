"""The language model of the captioner: a Qwen2 decoder written for many ragged rows and few launches.

Position axes of the published multimodal rotary scheme all count alike when a prompt holds only
audio and text, so positions are plain numbers here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .checkpoint import HEAD, TEXT, Checkpoint
from .shape import TextShape

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""Takes a layer's number, queries [N, heads, D], keys and values [N, kv_heads, D]; gives [N, heads · D]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """The weights of one layer; those that read the same input lie in one matrix."""

    input_norm: Tensor
    qkv: Tensor  # [(heads + 2 · kv_heads) · D, hidden]
    qkv_bias: Tensor
    out: Tensor
    mlp_norm: Tensor
    gate_up: Tensor  # [2 · intermediate, hidden]
    down: Tensor


class Rotary:
    """Tables of the rotary embedding for every position of a slot.

    The sine carries the sign of the half that it is multiplied with, so that rotating is a roll, a
    product and a fused multiply-add.
    """

    def __init__(self, shape: TextShape, positions: int, device: torch.device, dtype: torch.dtype) -> None:
        """Fill the tables in fp32, as the published model does, and round them once."""
        half = torch.arange(0, shape.head_dim, 2, dtype=torch.float32) / shape.head_dim
        angles = torch.arange(positions, dtype=torch.float32)[:, None] / shape.rope_theta**half
        cosine, sine = angles.cos(), angles.sin()
        self.cosine = torch.cat([cosine, cosine], dim=-1).to(device, dtype)  # [P, D]
        self.sine = torch.cat([-sine, sine], dim=-1).to(device, dtype)

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The rows of some positions [N], as [N, 1, D]."""
        return self.cosine[positions][:, None], self.sine[positions][:, None]


class LanguageModel:
    """Embeds tokens, runs the layers over rows of any kind, and turns the last states into logits."""

    def __init__(self, shape: TextShape, device: torch.device | str, dtype: torch.dtype) -> None:
        """Reserve the weights; they hold nothing yet."""

        def empty(*size: int) -> Tensor:
            return torch.empty(size, device=device, dtype=dtype)

        self.shape = shape
        self.device = device
        self.dtype = dtype
        projected = (shape.heads + 2 * shape.kv_heads) * shape.head_dim
        self.embedding = empty(shape.vocabulary, shape.hidden)
        self.head = self.embedding if shape.tied else empty(shape.vocabulary, shape.hidden)
        self.norm = empty(shape.hidden)
        self.layers = [
            Layer(
                input_norm=empty(shape.hidden),
                qkv=empty(projected, shape.hidden),
                qkv_bias=empty(projected),
                out=empty(shape.hidden, shape.heads * shape.head_dim),
                mlp_norm=empty(shape.hidden),
                gate_up=empty(2 * shape.intermediate, shape.hidden),
                down=empty(shape.hidden, shape.intermediate),
            )
            for _ in range(shape.layers)
        ]

    @torch.inference_mode()
    def read(self, checkpoint: Checkpoint) -> None:
        """Fill the weights, tensor by tensor: nothing is held twice.

        Raises:
            ModelUnavailable: One is missing or of another size.
        """
        checkpoint.copy(f"{TEXT}embed_tokens.weight", self.embedding)
        checkpoint.copy(f"{TEXT}norm.weight", self.norm)
        if not self.shape.tied:
            checkpoint.copy(f"{HEAD}weight", self.head)
        for number, layer in enumerate(self.layers):
            _read_layer(checkpoint, f"{TEXT}layers.{number}.", layer, self.shape)

    def tensors(self) -> list[Tensor]:
        """All weights, each once."""
        found = [self.embedding, self.norm, *([] if self.shape.tied else [self.head])]
        for layer in self.layers:
            found += [layer.input_norm, layer.qkv, layer.qkv_bias, layer.out, layer.mlp_norm, layer.gate_up]
            found.append(layer.down)
        return found

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids [N] as states [N, hidden]."""
        return functional.embedding(ids, self.embedding)

    def run(self, states: Tensor, rotary: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        """All layers over states [N, hidden] of any rows and positions.

        Args:
            rotary: The rows of `Rotary` at the positions of the states.
            attend: Keeps keys and values, and lets the queries see what they may.
        """
        shape = self.shape
        turned = (shape.heads + shape.kv_heads) * shape.head_dim
        for number, layer in enumerate(self.layers):
            normed = functional.rms_norm(states, (shape.hidden,), layer.input_norm, shape.norm_eps)
            projected = functional.linear(normed, layer.qkv, layer.qkv_bias)
            heads = projected[:, :turned].view(len(states), -1, shape.head_dim)
            heads = _rotated(heads, *rotary)
            values = projected[:, turned:].view(len(states), shape.kv_heads, shape.head_dim)
            mixed = attend(number, heads[:, : shape.heads], heads[:, shape.heads :], values)
            states = torch.addmm(states, mixed, layer.out.t())
            normed = functional.rms_norm(states, (shape.hidden,), layer.mlp_norm, shape.norm_eps)
            gate, up = functional.linear(normed, layer.gate_up).chunk(2, dim=-1)
            states = torch.addmm(states, functional.silu(gate) * up, layer.down.t())
        return states

    def logits(self, states: Tensor) -> Tensor:
        """States [N, hidden] after the layers as fp32 logits [N, V]."""
        normed = functional.rms_norm(states, (self.shape.hidden,), self.norm, self.shape.norm_eps)
        return functional.linear(normed, self.head).float()


def _rotated(heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    return torch.addcmul(heads * cosine, heads.roll(heads.shape[-1] // 2, dims=-1), sine)


def _read_layer(checkpoint: Checkpoint, prefix: str, layer: Layer, shape: TextShape) -> None:
    checkpoint.copy(f"{prefix}input_layernorm.weight", layer.input_norm)
    checkpoint.copy(f"{prefix}post_attention_layernorm.weight", layer.mlp_norm)
    widths = [heads * shape.head_dim for heads in (shape.heads, shape.kv_heads, shape.kv_heads)]
    weights, biases = layer.qkv.split(widths), layer.qkv_bias.split(widths)
    for letter, weight, bias in zip("qkv", weights, biases, strict=True):
        checkpoint.copy(f"{prefix}self_attn.{letter}_proj.weight", weight)
        checkpoint.copy(f"{prefix}self_attn.{letter}_proj.bias", bias)
    checkpoint.copy(f"{prefix}self_attn.o_proj.weight", layer.out)
    gate, up = layer.gate_up.chunk(2)
    checkpoint.copy(f"{prefix}mlp.gate_proj.weight", gate)
    checkpoint.copy(f"{prefix}mlp.up_proj.weight", up)
    checkpoint.copy(f"{prefix}mlp.down_proj.weight", layer.down)
