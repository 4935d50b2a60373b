"""The published loop of Ming, written down plainly: one request, every step as its description has it.

It shares no code with `soundmill.models.ming` but the configuration and the random tensors, saves nothing,
and makes the same latents, which the benchmark checks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import DynamicCache, Qwen2Config, Qwen2Model

from soundmill.models.ming.config import BlockSize, MingConfig, StackSize

Tensors = Mapping[str, Tensor]

GRID = (0, 2, 4, 6, 8, 12, 16, 20, 24, 28, 32)  # of 32


class Linear(nn.Linear):
    def __init__(self, tensors: Tensors, name: str) -> None:
        nn.Module.__init__(self)
        self.weight = nn.Parameter(tensors[f"{name}.weight"], requires_grad=False)
        bias = tensors.get(f"{name}.bias")
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.out_features, self.in_features = self.weight.shape


class Norm(nn.Module):
    def __init__(self, tensors: Tensors, name: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(tensors[f"{name}.weight"], requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, self.weight.shape, self.weight, 1e-6)


class Block(nn.Module):
    def __init__(self, tensors: Tensors, name: str, size: BlockSize) -> None:
        super().__init__()
        self.heads = size.heads
        self.norm1, self.norm2 = Norm(tensors, f"{name}norm1"), Norm(tensors, f"{name}norm2")
        self.to_q, self.to_k, self.to_v, self.to_out = (
            Linear(tensors, f"{name}attn.{part}") for part in ("to_q", "to_k", "to_v", "to_out.0")
        )
        self.up, self.down = Linear(tensors, f"{name}mlp.ff.0.0"), Linear(tensors, f"{name}mlp.ff.2")

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        normed = self.norm1(x)
        q, k, v = (
            to(normed).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for to in (self.to_q, self.to_k, self.to_v)
        )
        mixed = functional.scaled_dot_product_attention(turned(q, cos, sin), turned(k, cos, sin), v)
        x = x + self.to_out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(functional.gelu(self.up(self.norm2(x)), approximate="tanh"))


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)


class Blocks(nn.Module):
    def __init__(self, tensors: Tensors, name: str, size: BlockSize) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(tensors, f"{name}blocks.{index}.", size) for index in range(size.depth)
        )
        self.entry = Linear(tensors, f"{name}x_embedder")
        self.norm = Norm(tensors, f"{name}final_layer.norm_final")
        self.output = Linear(tensors, f"{name}final_layer.linear")
        head = size.head_size
        self.frequencies = 10000 ** (-torch.arange(0, head, 2, device=self.entry.weight.device) / head)

    def forward(self, x: Tensor) -> Tensor:
        angles = torch.arange(x.shape[1], device=x.device)[:, None] * self.frequencies
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        for block in self.blocks:
            x = block(x, cos, sin)
        return self.output(self.norm(x))


class Velocity(Blocks):
    def __init__(self, tensors: Tensors, name: str, config: MingConfig) -> None:
        super().__init__(tensors, name, config.flow)
        self.patch = config.patch
        self.time_in = Linear(tensors, f"{name}t_embedder.time_mlp.0")
        self.time_out = Linear(tensors, f"{name}t_embedder.time_mlp.2")
        self.condition = Linear(tensors, f"{name}c_embedder.cond_embedder")

    def predict(self, x: Tensor, t: Tensor, c: Tensor, history: Tensor) -> Tensor:
        k = torch.arange(128, device=t.device)
        angles = 1000 * t[:, None] * torch.exp(-math.log(10000) * k / 127)
        features = torch.cat((angles.sin(), angles.cos()), dim=-1).to(x.dtype)
        first = self.time_out(functional.silu(self.time_in(features)))[:, None] + self.condition(c)
        tokens = torch.cat((first, self.entry(torch.cat((history, x), dim=1))), dim=1)
        return self(tokens)[:, -self.patch :]


@dataclass(slots=True)
class Heard:
    """The state of streaming decode."""

    cache: DynamicCache
    chunk: Tensor | None = None
    left: Tensor | None = None
    tail: Tensor | None = None
    tail_window: Tensor | None = None
    frames: int = 0
    pieces: list[Tensor] = field(default_factory=list)


class Plain:
    """The loop for one request at a time."""

    def __init__(self, tensors: Tensors, config: MingConfig) -> None:
        self.config = config
        self.backbone = stack(tensors, "model.model.", config.llm)
        self.velocity = Velocity(tensors, "flowloss.cfm.model.", config)
        self.aggregator = Blocks(tensors, "linear_proj_audio.", config.aggregator)
        self.word = tensors["linear_proj_audio.word_embedder.weight"]
        self.stop = Linear(tensors, "stop_head")
        self.decoder = stack(tensors, "audio.decoder.decoder.", config.audio.decoder)
        self.fc1 = Linear(tensors, "audio.decoder.fc1")
        self.head = Linear(tensors, "audio.decoder.head.out")
        self.dtype = self.word.dtype
        self.device = self.word.device
        self.window = torch.hann_window(config.audio.n_fft, device=self.device)

    def generate(self, ids: Tensor, noise: Tensor, guidance: float) -> tuple[Tensor, Tensor]:
        """Latents and samples of as many patches as there are initial noises [S, P, C]."""
        config = self.config
        cache = DynamicCache(config=self.backbone.config)
        inputs = self.backbone.embed_tokens(ids)[None]
        history = torch.zeros(1, config.look_back, config.audio.channels, device=self.device)
        heard = Heard(cache=DynamicCache(config=self.decoder.config))
        patches = []
        for step, initial in enumerate(noise):
            z = self.backbone(inputs_embeds=inputs, past_key_values=cache).last_hidden_state[:, -1:]
            patch = self.sample(z, history, initial[None], guidance)
            # The benchmark goes on whatever it says; the published loop reads it each step.
            self.stop(z)[0, 0].softmax(-1)[1].item()
            patches.append(patch)
            self.listen(heard, patch, last=step == len(noise) - 1)
            history = torch.cat((history, patch), dim=1)[:, config.patch :]
            embedded = self.aggregator.entry(patch.to(self.dtype))
            tokens = torch.cat((self.word[None], embedded), dim=1)
            inputs = self.aggregator(tokens)[:, :1]
        return torch.cat(patches, dim=1)[0], torch.cat(heard.pieces)

    def sample(self, z: Tensor, history: Tensor, noise: Tensor, guidance: float) -> Tensor:
        times = [1 - math.cos(math.pi * point / 64) for point in GRID]
        state = noise
        conditions = torch.cat((z, torch.zeros_like(z)))
        histories = torch.cat((history, history)).to(self.dtype)
        for before, after in itertools.pairwise(times):
            t = torch.full((2,), before, device=self.device)
            v = self.velocity.predict(torch.cat((state, state)).to(self.dtype), t, conditions, histories)
            toward, null = v.float().chunk(2)
            state = state + (after - before) * (toward + guidance * (toward - null))
            torch.randn_like(state)  # drawn by the published loop also where it is not used
        return state

    def listen(self, heard: Heard, patch: Tensor, *, last: bool) -> None:
        """Decode what is known by now: a patch waits for the one behind it."""
        if heard.chunk is not None:
            self.decode(heard, heard.chunk, patch[:, :1], last=False)
        heard.chunk = patch
        if last:
            self.decode(heard, patch, patch[:, -1:], last=True)

    def decode(self, heard: Heard, chunk: Tensor, right: Tensor, *, last: bool) -> None:
        size = self.config.audio
        left = chunk[:, :1] if heard.left is None else heard.left
        around = self.fc1(torch.cat((left, chunk, right), dim=1).to(self.fc1.weight.dtype))
        frames = functional.interpolate(
            around.transpose(1, 2), scale_factor=size.frames, mode="linear", align_corners=False
        ).transpose(1, 2)[:, size.frames : -size.frames]
        hidden = self.decoder(inputs_embeds=frames, past_key_values=heard.cache).last_hidden_state
        magnitude, phase = self.head(hidden).float().chunk(2, dim=-1)
        spectrum = torch.polar(magnitude.exp().clamp(max=100), phase)
        made = torch.fft.irfft(spectrum, size.n_fft)[0] * self.window
        self.overlap(heard, made, last=last)
        heard.left = chunk[:, -1:]
        heard.frames += len(made)

    def overlap(self, heard: Heard, made: Tensor, *, last: bool) -> None:
        hop, total = self.config.audio.hop, (len(made) + 3) * self.config.audio.hop
        samples, weight = torch.zeros(2, total, device=self.device)
        for number, frame in enumerate(made):
            samples[number * hop : number * hop + len(frame)] += frame
            weight[number * hop : number * hop + len(frame)] += self.window**2
        if heard.tail is not None and heard.tail_window is not None:
            samples[: 3 * hop] += heard.tail
            weight[: 3 * hop] += heard.tail_window
        edge = 3 * hop // 2
        begin = edge if heard.tail is None else 0
        end = total - (edge if last else 3 * hop)
        heard.pieces.append(samples[begin:end] / weight[begin:end])
        heard.tail, heard.tail_window = samples[-3 * hop :], weight[-3 * hop :]


def stack(tensors: Tensors, prefix: str, size: StackSize) -> Qwen2Model:
    """An unmodified Qwen2, with its own sliding window where it has one."""
    config = Qwen2Config(
        vocab_size=size.vocabulary,
        hidden_size=size.width,
        intermediate_size=size.inner,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        rms_norm_eps=size.eps,
        rope_parameters={"rope_type": "default", "rope_theta": size.rope_theta},
        use_sliding_window=size.window is not None,
        sliding_window=size.window,
        max_window_layers=0,
        attn_implementation="sdpa",
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )
    with torch.device("meta"):
        model = Qwen2Model(config)
    model.load_state_dict({name: tensors[prefix + name] for name in model.state_dict()}, assign=True)
    model.rotary_emb = type(model.rotary_emb)(config=config).to(tensors[f"{prefix}norm.weight"].device)
    return model.eval()
