"""The audio tower: mel chunks of many clips to embeddings that the language model reads.

A clip is cut into chunks of two seconds. Convolutions, positions and attention stay inside a chunk,
so the chunks of all waiting clips are one batch; only the last chunk of a clip is shorter than the
others and carries a mask.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .checkpoint import AUDIO, Checkpoint
from .shape import AudioShape

_WAVELENGTH = 10_000.0  # of the slowest sinusoid, in units of 2π; Vaswani et al. 2017, section 3.5
_NORM_EPS = 1e-5


def positions_of(frames: int) -> int:
    """How many encoder positions `frames` mel frames of one chunk make: the second convolution has stride 2."""
    return (frames + 1) // 2


def tokens_of(frames: int, chunk_frames: int) -> int:
    """How many embeddings a clip of `frames` mel frames becomes: pairs of positions, an odd last one dropped."""
    whole, rest = divmod(frames, chunk_frames)
    return whole * (chunk_frames // 4) + positions_of(rest) // 2


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioLayer:
    """The weights of one layer; the three projections lie in one matrix. Keys have no bias: it is zero."""

    norm: tuple[Tensor, Tensor]
    qkv: tuple[Tensor, Tensor]
    out: tuple[Tensor, Tensor]
    mlp_norm: tuple[Tensor, Tensor]
    up: tuple[Tensor, Tensor]
    down: tuple[Tensor, Tensor]


class AudioTower:
    """A Whisper encoder over a batch of chunks."""

    def __init__(self, shape: AudioShape, device: torch.device | str, dtype: torch.dtype) -> None:
        """Reserve the weights; they hold nothing yet.

        The convolutions stay in fp32, which every card has a kernel for: they are less than a
        hundredth of the work.
        """

        def pair(rows: int, *columns: int, dtype: torch.dtype = dtype) -> tuple[Tensor, Tensor]:
            weight = torch.empty((rows, *columns), device=device, dtype=dtype)
            return weight, torch.zeros(rows, device=device, dtype=dtype)

        def norm() -> tuple[Tensor, Tensor]:
            weight, bias = pair(shape.hidden)
            return weight, bias

        wide = shape.hidden
        self.shape = shape
        self.device = device
        self.dtype = dtype
        self.first = pair(wide, shape.mel_bands, 3, dtype=torch.float32)
        self.second = pair(wide, wide, 3, dtype=torch.float32)
        self.sinusoids = _sinusoids(positions_of(shape.chunk_frames), wide).to(device)
        self.layers = [
            AudioLayer(
                norm=norm(),
                qkv=pair(3 * wide, wide),
                out=pair(wide, wide),
                mlp_norm=norm(),
                up=pair(shape.intermediate, wide),
                down=pair(wide, shape.intermediate),
            )
            for _ in range(shape.layers)
        ]
        self.norm = norm()
        self.projection = pair(shape.output, wide)

    @torch.inference_mode()
    def read(self, checkpoint: Checkpoint) -> None:
        """Fill the weights.

        Raises:
            ModelUnavailable: One is missing or of another size.
        """
        _read_pair(checkpoint, f"{AUDIO}conv1", self.first)
        _read_pair(checkpoint, f"{AUDIO}conv2", self.second)
        _read_pair(checkpoint, f"{AUDIO}ln_post", self.norm)
        _read_pair(checkpoint, f"{AUDIO}proj", self.projection)
        for number, layer in enumerate(self.layers):
            _read_layer(checkpoint, f"{AUDIO}layers.{number}.", layer)

    def tensors(self) -> list[Tensor]:
        """All weights, each once."""
        pairs = [self.first, self.second, self.norm, self.projection]
        for layer in self.layers:
            pairs += [layer.norm, layer.qkv, layer.out, layer.mlp_norm, layer.up, layer.down]
        return [tensor for pair in pairs for tensor in pair]

    def run(self, mel: Tensor, frames: Tensor | None, *, updates: list[Tensor] | None = None) -> Tensor:
        """Encode a batch of chunks.

        Args:
            mel: [N, mel_bands, chunk_frames] fp32 on the device; zero behind the frames of a chunk.
            frames: How many frames each chunk has, [N]; `None` when all are whole.
            updates: Gets what each layer adds to its input, [N, P, hidden].

        Returns:
            [N, chunk_frames / 4, output]; of a chunk of f frames the first `positions_of(f) // 2` count.
        """
        states = functional.gelu(functional.conv1d(mel, *self.first, padding=1))  # [N, hidden, F]
        seen = None
        if frames is not None:
            # What the first convolution smears over the end would reach the second one's last position.
            column = torch.arange(mel.shape[-1], device=mel.device)
            states = states * (column < frames[:, None])[:, None]
            seen = (column[: states.shape[-1] // 2] < ((frames + 1) // 2)[:, None])[
                :, None, None
            ]  # [N, 1, 1, P]
        states = functional.gelu(functional.conv1d(states, *self.second, stride=2, padding=1))
        states = (states.transpose(1, 2) + self.sinusoids).to(self.dtype)  # [N, P, hidden]
        for layer in self.layers:
            before = states
            states = self._layer(layer, before, seen)
            if updates is not None:
                updates.append(states - before)
        pairs = states.unflatten(1, (-1, 2)).mean(dim=2)  # [N, P / 2, hidden]
        normed = functional.layer_norm(pairs, (self.shape.hidden,), *self.norm, _NORM_EPS)
        return functional.linear(normed, *self.projection)

    def _layer(self, layer: AudioLayer, states: Tensor, seen: Tensor | None) -> Tensor:
        wide = (self.shape.hidden,)
        normed = functional.layer_norm(states, wide, *layer.norm, _NORM_EPS)
        projected = functional.linear(normed, *layer.qkv).unflatten(-1, (3, self.shape.heads, -1))
        query, key, value = projected.permute(2, 0, 3, 1, 4)  # each [N, heads, P, D]
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        states = states + functional.linear(mixed.transpose(1, 2).flatten(2), *layer.out)
        normed = functional.layer_norm(states, wide, *layer.mlp_norm, _NORM_EPS)
        return states + functional.linear(functional.gelu(functional.linear(normed, *layer.up)), *layer.down)


def _sinusoids(positions: int, width: int) -> Tensor:
    """Sines in the first half of the columns, cosines in the second, [positions, width]."""
    half = width // 2
    rates = torch.exp(-math.log(_WAVELENGTH) / (half - 1) * torch.arange(half, dtype=torch.float32))
    angles = torch.arange(positions, dtype=torch.float32)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def _read_pair(checkpoint: Checkpoint, name: str, pair: tuple[Tensor, Tensor]) -> None:
    for part, tensor in zip(("weight", "bias"), pair, strict=True):
        checkpoint.copy(f"{name}.{part}", tensor)


def _read_layer(checkpoint: Checkpoint, prefix: str, layer: AudioLayer) -> None:
    _read_pair(checkpoint, f"{prefix}self_attn_layer_norm", layer.norm)
    _read_pair(checkpoint, f"{prefix}self_attn.out_proj", layer.out)
    _read_pair(checkpoint, f"{prefix}final_layer_norm", layer.mlp_norm)
    _read_pair(checkpoint, f"{prefix}fc1", layer.up)
    _read_pair(checkpoint, f"{prefix}fc2", layer.down)
    weights, biases = layer.qkv[0].chunk(3), layer.qkv[1].chunk(3)
    for letter, weight, bias in zip("qkv", weights, biases, strict=True):
        checkpoint.copy(f"{prefix}self_attn.{letter}_proj.weight", weight)
        if letter != "k":
            checkpoint.copy(f"{prefix}self_attn.{letter}_proj.bias", bias)
