"""The bidirectional blocks that the flow network and the aggregator share.

RMS norm, attention of all tokens over all tokens with biases, residual; RMS norm, an MLP with the tanh form
of GELU, residual. Rotary positions with base 10,000 in the interleaved form: the pair (2j, 2j + 1) of a head
turns by position · 10000^(-2j/width).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .config import BlockSize
from .weights import Weights

EPS = 1e-6
_ROTARY_BASE = 10_000.0


class Block(nn.Module):
    """One block.

    Queries and keys are stored with each head's even numbers before its odd ones, so that the interleaved
    rotation becomes one of halves; their products do not change with a common order.
    """

    def __init__(self, weights: Weights, size: BlockSize) -> None:
        super().__init__()
        self.heads = size.heads
        self.width = size.width
        order = _halves_order(size)
        self.norm_in = weights.parameter("norm1.weight")
        self.norm_mid = weights.parameter("norm2.weight")
        self.qkv = weights.parameter("attn.to_q.weight", "attn.to_k.weight", "attn.to_v.weight")
        self.qkv_bias = weights.parameter("attn.to_q.bias", "attn.to_k.bias", "attn.to_v.bias")
        both = torch.cat((order, order + size.width))
        for joined in (self.qkv, self.qkv_bias):
            joined.data[: 2 * size.width] = joined.data[both.to(joined.device)]
        self.out = weights.parameter("attn.to_out.0.weight")
        self.out_bias = weights.parameter("attn.to_out.0.bias")
        self.up = weights.parameter("mlp.ff.0.0.weight")
        self.up_bias = weights.parameter("mlp.ff.0.0.bias")
        self.down = weights.parameter("mlp.ff.2.weight")
        self.down_bias = weights.parameter("mlp.ff.2.bias")

    def project(self, x: Tensor, turn: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of tokens.

        Args:
            x: The tokens [..., T, D].
            turn: The rotation of their positions.

        Returns:
            Three tensors [..., T, heads, width of a head].
        """
        qkv = functional.linear(self._normed(x, self.norm_in), self.qkv, self.qkv_bias)
        qkv = qkv.unflatten(-1, (3, self.heads, -1))  # [..., T, 3, heads, width]
        turned = turn(qkv[..., :2, :, :])
        return turned[..., 0, :, :], turned[..., 1, :, :], qkv[..., 2, :, :]

    def project_tail(self, x: Tensor, turn: Rotation, tail: slice) -> tuple[Tensor, Tensor, Tensor]:
        """As `project`, with queries of the tokens `tail` alone: all that the last block needs."""
        width = self.width
        normed = self._normed(x, self.norm_in)
        kv = functional.linear(normed, self.qkv[width:], self.qkv_bias[width:]).unflatten(
            -1, (2, self.heads, -1)
        )
        q = functional.linear(normed[..., tail, :], self.qkv[:width], self.qkv_bias[:width])
        q = turn.part(tail)(q.unflatten(-1, (1, self.heads, -1)))[..., 0, :, :]
        return q, turn(kv[..., :1, :, :])[..., 0, :, :], kv[..., 1, :, :]

    def finish(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend and run the MLP.

        Args:
            x: The tokens of the queries [R, T, D].
            q: [R, T, heads, width of a head].
            k: [R, all tokens, heads, width of a head].
            v: As `k`.
        """
        mixed = functional.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        )
        x = x + functional.linear(mixed.transpose(1, 2).flatten(2), self.out, self.out_bias)
        inner = functional.linear(self._normed(x, self.norm_mid), self.up, self.up_bias)
        return x + functional.linear(functional.gelu(inner, approximate="tanh"), self.down, self.down_bias)

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(x, (self.width,), weight, EPS)


class Rotation:
    """Turns heads by the angles of the positions 0 … T − 1."""

    def __init__(self, cos: Tensor, sin: Tensor) -> None:
        self._cos = cos  # [T, 1, 1, half a head]
        self._sin = sin

    @classmethod
    def of(cls, size: BlockSize, tokens: int, *, dtype: torch.dtype, device: torch.device | str) -> Rotation:
        """The table for `tokens` positions; angles are fp32, as the published run's bf16 loses 0.07 rad."""
        half = torch.arange(0, size.head_size, 2, dtype=torch.float32)
        frequencies = _ROTARY_BASE ** (-half / size.head_size)
        angles = (torch.arange(tokens, dtype=torch.float32)[:, None] * frequencies)[:, None, None]
        return cls(angles.cos().to(device, dtype), angles.sin().to(device, dtype))

    def part(self, tokens: slice) -> Rotation:
        """That of some of the positions."""
        return Rotation(self._cos[tokens], self._sin[tokens])

    def __call__(self, x: Tensor) -> Tensor:
        """Turn [..., T, n, heads, width], whose heads are stored as halves."""
        a, b = x.chunk(2, dim=-1)
        return torch.cat((a * self._cos - b * self._sin, b * self._cos + a * self._sin), dim=-1)


class Output(nn.Module):
    """The last stage of a stack: RMS norm and a linear map."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.norm = weights.parameter("norm_final.weight")
        self.weight = weights.parameter("linear.weight")
        self.bias = weights.parameter("linear.bias")

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(
            functional.rms_norm(x, self.norm.shape, self.norm, EPS), self.weight, self.bias
        )


class Affine(nn.Module):
    """A linear map with a bias."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.weight = weights.parameter("weight")
        self.bias = weights.parameter("bias")

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias)


def blocks(weights: Weights, size: BlockSize) -> nn.ModuleList:
    """All blocks of a stack."""
    return nn.ModuleList(Block(weights.under(f"blocks.{index}."), size) for index in range(size.depth))


def _halves_order(size: BlockSize) -> Tensor:
    head = torch.arange(size.head_size).view(-1, 2).T.flatten()
    return (torch.arange(size.heads)[:, None] * size.head_size + head).flatten()
