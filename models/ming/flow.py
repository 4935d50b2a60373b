"""The flow-matching head: from the backbone's hidden state and the latents before to the next patch.

The state runs from noise at t = 0 to data at t = 1 along a velocity that the network predicts, in Euler steps
on a fixed grid. Guidance mixes two predictions, with and without the condition:
v = v_c + g · (v_c − v_0). After each step but the last the state receives
sigma · sqrt(temperature) · sqrt(dt) · noise, so a temperature of 0 leaves a deterministic flow.

What the two branches and the steps share is computed once: the time vectors when the model is loaded, the
tokens of the history once a patch; the last block answers for the patch alone.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from .blocks import Affine, Output, Rotation, blocks
from .config import TIME_FEATURES, MingConfig
from .schedule import times
from .weights import Weights

Heads = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Guided:
    """What all solver steps of a patch share.

    Attributes:
        history: The embedded latents before the patch [B, look-back, D].
        history_heads: Queries, keys and values of them in the first block.
        first: The first token for each solver step and branch [N, G, B, 1, D], G = 2, or 1 without guidance.
        first_heads: Queries, keys and values of it in the first block.
    """

    history: Tensor
    history_heads: Heads
    first: Tensor
    first_heads: Heads


class VelocityNet(nn.Module):
    """The bidirectional transformer over [time + condition | history | patch]."""

    def __init__(self, weights: Weights, config: MingConfig, steps: int) -> None:
        super().__init__()
        self.patch = config.patch
        self.time_in = Affine(weights.under("t_embedder.time_mlp.0."))
        self.time_out = Affine(weights.under("t_embedder.time_mlp.2."))
        self.entry = Affine(weights.under("x_embedder."))
        self.condition = Affine(weights.under("c_embedder.cond_embedder."))
        self.blocks = blocks(weights, config.flow)
        self.output = Output(weights.under("final_layer."))
        self.dtype = weights.dtype
        tokens = 1 + config.look_back + config.patch
        turn = Rotation.of(config.flow, tokens, dtype=weights.dtype, device=weights.device)
        self.turn = turn
        self.turn_first = turn.part(slice(0, 1))
        self.turn_history = turn.part(slice(1, 1 + config.look_back))
        self.turn_patch = turn.part(slice(-config.patch, None))
        self.time_vectors = self.embed_times(torch.tensor(times(steps)[:-1], device=weights.device))  # [N, D]

    def embed_times(self, t: Tensor) -> Tensor:
        """Vectors [B, D] of the times [B] in [0, 1]."""
        return self.time_out(functional.silu(self.time_in(time_features(t).to(self.dtype))))

    def prepare(self, z: Tensor, history: Tensor, *, guided: bool = True) -> Guided:
        """Embed what does not change while a patch is solved.

        Args:
            z: Hidden states of the backbone [B, H].
            history: Latents before the patch [B, look-back, C].
            guided: Whether the branch without condition runs, too.
        """
        condition = self.condition(z.to(self.dtype))  # [B, D]
        branches = torch.stack(
            (condition, self.condition.bias.expand_as(condition)) if guided else (condition,)
        )
        first = (self.time_vectors[:, None, None] + branches)[:, :, :, None]  # [N, G, B, 1, D]
        embedded = self.entry(history.to(self.dtype))
        block = self.blocks[0]
        return Guided(
            history=embedded,
            history_heads=block.project(embedded, self.turn_history),
            first=first,
            first_heads=block.project(first, self.turn_first),
        )

    def forward(self, shared: Guided, step: int, x: Tensor) -> Tensor:
        """The velocities [G, B, P, C] of the states x [B, P, C] at the time of a solver step."""
        branches = shared.first.shape[1]
        patch = self.entry(x.to(self.dtype))  # [B, P, D]
        heads = self.blocks[0].project(patch, self.turn_patch)

        def joined(first: Tensor, history: Tensor, tokens: Tensor) -> Tensor:
            parts = (first[step], _both(history, branches), _both(tokens, branches))
            return torch.cat(parts, dim=2).flatten(0, 1)  # [R, T, ...], R = G · B

        tokens = joined(shared.first, shared.history, patch)
        qkv = tuple(map(joined, shared.first_heads, shared.history_heads, heads))
        tail = slice(-self.patch, None)
        for index, block in enumerate(self.blocks):
            last = block is self.blocks[-1]
            if index > 0:
                qkv = (
                    block.project_tail(tokens, self.turn, tail) if last else block.project(tokens, self.turn)
                )
            elif last:
                qkv = (qkv[0][:, tail], *qkv[1:])
            tokens = block.finish(tokens[:, tail] if last else tokens, *qkv)
        return self.output(tokens).unflatten(0, (branches, -1))


class FlowHead(nn.Module):
    """The network and its solver.

    Attributes:
        steps: N.
        noises: Noise patches that a solve takes: the initial one and one after each step but the last.
    """

    def __init__(self, weights: Weights, config: MingConfig, steps: int) -> None:
        super().__init__()
        grid = times(steps)
        self.steps = steps
        self.noises = steps
        self.gaps = tuple(after - before for before, after in itertools.pairwise(grid))
        self.net = VelocityNet(weights, config, steps)

    def forward(
        self,
        z: Tensor,
        history: Tensor,
        noise: Tensor,
        guidance: Tensor,
        spread: Tensor,
        *,
        guided: bool = True,
    ) -> Tensor:
        """Solve one patch for each row.

        Args:
            z: Hidden states of the backbone [B, H].
            history: Latents before the patch, zeros where there are none [B, look-back, C], fp32.
            noise: Standard normal, the initial state first [B, N, P, C], fp32.
            guidance: g of each row [B]; 0 is the conditional flow alone.
            spread: sigma · sqrt(temperature) of each row [B].
            guided: `False` if no row has a g other than 0: the second branch is left out.

        Returns:
            The patches [B, P, C], fp32.
        """
        shared = self.net.prepare(z, history, guided=guided)
        strength, spread = guidance[:, None, None], spread[:, None, None]
        state = noise[:, 0]
        for step, gap in enumerate(self.gaps):
            velocity = self.net(shared, step, state).float()  # [G, B, P, C]
            toward = velocity[0]
            if guided:
                toward = toward + strength * (toward - velocity[1])
            state = state + gap * toward
            if step + 1 < self.steps:  # the result is the last step before its noise
                state = state + (spread * math.sqrt(gap)) * noise[:, step + 1]
        return state


def time_features(t: Tensor) -> Tensor:
    """Sines, then cosines, of 1000 t f_k with f_k = 10000^(−k/127): [B] to [B, 256]."""
    half = TIME_FEATURES // 2
    index = torch.arange(half, dtype=torch.float32, device=t.device)
    angles = 1000 * t.float()[:, None] * torch.exp(index * (-math.log(10_000.0) / (half - 1)))
    return torch.cat((angles.sin(), angles.cos()), dim=-1)


def _both(x: Tensor, branches: int) -> Tensor:
    return x.expand(branches, *x.shape)
