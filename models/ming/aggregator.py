"""The aggregator: a patch of latents becomes one input vector of the backbone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .blocks import Affine, Output, Rotation, blocks
from .config import MingConfig
from .weights import Weights


class Aggregator(nn.Module):
    """Blocks over a learned token and the latents of one patch; patches know nothing of each other."""

    def __init__(self, weights: Weights, config: MingConfig) -> None:
        super().__init__()
        self.entry = Affine(weights.under("x_embedder."))
        self.first = weights.parameter("word_embedder.weight")  # [1, D]
        self.blocks = blocks(weights, config.aggregator)
        self.output = Output(weights.under("final_layer."))
        self.rotation = Rotation.of(
            config.aggregator, config.patch + 1, dtype=weights.dtype, device=weights.device
        )

    def forward(self, patches: Tensor) -> Tensor:
        """Latents [B, P, C] to vectors [B, H]."""
        x = self.entry(patches.to(self.first.dtype))
        x = torch.cat((self.first.expand(len(x), 1, -1), x), dim=1)  # [B, 1 + P, D]
        for block in self.blocks[:-1]:
            x = block.finish(x, *block.project(x, self.rotation))
        last, head = self.blocks[-1], slice(0, 1)  # only the learned token is kept
        x = last.finish(x[:, head], *last.project_tail(x, self.rotation, head))
        return self.output(x)[:, 0]
