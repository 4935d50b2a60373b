"""The codec: causal transformers between changes of rate, and a residual quantiser. Always float32.

Both directions are streams: a call takes any number of whole frames for each row and leaves a state, the keys
and values of the last window of every layer. One definition of the window serves all chunkings: a token
sees itself and the `window - 1` before it. So the result does not depend on how the frames were cut into
calls, and memory and time per frame do not grow with the length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F  # noqa: N812 - as everyone calls it
from torch import Tensor

from ..errors import ModelUnavailable
from .config import CodecConfig, StageConfig
from .language_model import Norm, rotate, rotation_at
from .linear import Form, Linear, best_form, make_linear
from .weights import Weights

_EPSILON = 1e-5
_FLOAT_BYTES = 4
_LEAST = 1e-12  # of a vector's length, before it is divided by


@dataclass(slots=True, eq=False)
class Stream:
    """What one direction of the codec remembers of one request.

    Attributes:
        frames: How many went through.
        past: For each layer the keys and values `[2, heads, P, size]` of the last P < window tokens.
    """

    frames: int = 0
    past: tuple[Tensor, ...] = ()


class Codec:
    """The tensors on their device, and both directions."""

    def __init__(
        self, config: CodecConfig, weights: Weights, device: torch.device, *, form: Form | None = None
    ) -> None:
        """Load the tensors.

        Args:
            form: How linear layers are kept; `None` for the fastest.

        Raises:
            ModelUnavailable: A tensor is missing or of another shape.
        """
        self.config = config
        self.device = device
        loader = _Loader(weights, device, form or best_form(device))
        self._encoder = _Path(loader, "encoder", config.encoder)
        self._decoder = _Path(loader, "decoder", config.decoder)
        self._quantizer = _Quantizer(loader, config)

    @property
    def stream_bytes(self) -> int:
        """The most that the state of one decoding stream takes, from the windows."""
        values = sum(2 * s.layers * (s.window - 1) * s.width for s in self.config.decoder if s.is_transformer)
        return values * _FLOAT_BYTES

    def encode(
        self,
        audio: Tensor,
        frames: Sequence[int],
        streams: Sequence[Stream],
        *,
        updates: list[Tensor] | None = None,
    ) -> Encoded:
        """Turn the next frames of each row into codes.

        Args:
            audio: `[B, channels, T · stride]`, rows with fewer frames padded behind.
            frames: How many of the T frames of each row count.
            streams: What came before; unchanged. What to remember is in the result.
            updates: Where to put what each layer of the transformers adds to its input, `[B, tokens, width]`;
                for comparisons.
        """
        x = audio.transpose(1, 2).reshape(len(audio), -1, 1)  # interleaved [B, T · stride · channels, 1]
        latents, after = self._encoder(x, frames, streams, updates)
        return Encoded(latents=latents, codes=self._quantizer.encode(latents), streams=after)

    def decode(
        self,
        codes: Tensor,
        frames: Sequence[int],
        streams: Sequence[Stream],
        *,
        updates: list[Tensor] | None = None,
    ) -> Decoded:
        """Turn the next frames of each row into sound.

        Args:
            codes: `[B, T, K]`; negative where a codebook has no code.
            frames: As for `encode`.
            streams: As for `encode`.
            updates: As for `encode`.
        """
        latents = self._quantizer.decode(codes)
        x, after = self._decoder(latents, frames, streams, updates)  # [B, T · stride · channels, 1]
        audio = x.reshape(len(x), -1, self.config.channels).transpose(1, 2)
        return Decoded(audio=audio, streams=after)

    def quantize(self, latents: Tensor) -> Tensor:
        """The codes `[B, T, K]` of the encoder's latents `[B, T, D]`."""
        return self._quantizer.encode(latents)

    def dequantize(self, codes: Tensor) -> Tensor:
        """The latents `[B, T, D]` that the decoder begins with."""
        return self._quantizer.decode(codes)

    def decoder_stages(self, latents: Tensor) -> list[Tensor]:
        """What each module of the decoder makes of whole utterances, `[B, T, D]` each."""
        return self._decoder.stages(latents)

    def encoder_stages(self, audio: Tensor) -> list[Tensor]:
        """What each module of the encoder makes of whole utterances, `[B, T, D]` each."""
        return self._encoder.stages(audio.transpose(1, 2).reshape(len(audio), -1, 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """What `Codec.encode` made; rows beyond their frames hold nothing of use.

    Attributes:
        latents: Before the quantiser, `[B, T, D]`.
        codes: int64 `[B, T, K]`.
        streams: What each row remembers from now on.
    """

    latents: Tensor
    codes: Tensor
    streams: list[Stream]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """What `Codec.decode` made: `audio` is `[B, channels, T · stride]`."""

    audio: Tensor
    streams: list[Stream]


class _Path:
    """One direction: its modules in order."""

    def __init__(self, loader: _Loader, name: str, stages: Sequence[StageConfig]) -> None:
        self._grows = name == "decoder"
        self._modules = [
            _Transformer(loader, f"{name}.{stage.index}", stage) if stage.is_transformer else stage.patch
            for stage in stages
        ]

    def __call__(
        self,
        x: Tensor,
        frames: Sequence[int],
        streams: Sequence[Stream],
        updates: list[Tensor] | None = None,
    ) -> tuple[Tensor, list[Stream]]:
        batch = _Batch(longest=max(frames), frames=list(frames), before=[s.frames for s in streams])
        pasts: list[list[Tensor]] = [[] for _ in streams]
        layer = 0
        for module in self._modules:
            if isinstance(module, int):
                x = unpatch(x, module) if self._grows else patch(x, module)
                continue
            given = [stream.past[layer : layer + module.layers] for stream in streams]
            x, kept = module(x, given, batch, updates)
            for past, row in zip(pasts, kept, strict=True):
                past.extend(row)
            layer += module.layers
        return x, [
            Stream(stream.frames + count, tuple(past))
            for stream, count, past in zip(streams, frames, pasts, strict=True)
        ]

    def stages(self, x: Tensor) -> list[Tensor]:
        found = []
        batch = _Batch(longest=1, frames=[1] * len(x), before=[0] * len(x))
        for module in self._modules:
            if isinstance(module, int):
                x = unpatch(x, module) if self._grows else patch(x, module)
            else:
                x, _ = module(x, [()] * len(x), batch)
            found.append(x)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """The rows of a call, in frames: the longest, how many of each count, how many each had before."""

    longest: int
    frames: list[int]
    before: list[int] = field(default_factory=list)


class _Transformer:
    """A transformer between two linear maps, `[B, T, in]` to `[B, T, out]`."""

    def __init__(self, loader: _Loader, prefix: str, config: StageConfig) -> None:
        self.layers = config.layers
        self._config = config
        self._input = loader.linear(f"{prefix}.input_proj.weight", config.inputs, config.width)
        self._output = loader.linear(f"{prefix}.output_proj.weight", config.width, config.outputs)
        self._layers = [
            _Layer.load(loader, f"{prefix}.transformer.layers.{i}", config) for i in range(config.layers)
        ]

    def __call__(
        self,
        x: Tensor,
        pasts: Sequence[Sequence[Tensor]],
        batch: _Batch,
        updates: list[Tensor] | None = None,
    ) -> tuple[Tensor, list[list[Tensor]]]:
        """Run a call's tokens; also what each layer of each row remembers."""
        tokens = x.shape[1]
        rate = tokens // batch.longest  # tokens in a frame
        held = [past[0].shape[2] if past else 0 for past in pasts]
        longest = max(held)
        mask = self._mask(tokens, held, x.device)
        starts = torch.tensor([count * rate for count in batch.before], dtype=torch.float32).to(x.device)
        positions = starts[:, None] + torch.arange(tokens, dtype=torch.float32, device=x.device)
        rotation = self._rotation(positions)
        kept: list[list[Tensor]] = [[] for _ in pasts]
        x = self._input(x)
        for index, layer in enumerate(self._layers):
            q, now = layer.project(x, rotation)
            seen = now
            if longest:
                before = now.new_zeros(*now.shape[:3], longest, now.shape[4])
                for row, past in enumerate(pasts):
                    if held[row]:
                        before[row, :, :, longest - held[row] :].copy_(past[index])
                seen = torch.cat((before, now), dim=3)
            before_layer, x = x, layer.finish(x, q, seen[:, 0], seen[:, 1], mask)
            if updates is not None:
                updates.append(x - before_layer)
            for row, count in enumerate(batch.frames):
                end = longest + count * rate
                begin = max(end - self._config.window + 1, longest - held[row])
                kept[row].append(seen[row, :, :, begin:end].clone())
        return self._output(x), kept

    def _rotation(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        size = self._config.width // self._config.heads
        cos, sin = rotation_at(positions, size, self._config.max_period)
        return cos[:, :, None, None], sin[:, :, None, None]  # [B, T, 1, 1, size]

    def _mask(self, tokens: int, held: Sequence[int], device: torch.device) -> Tensor | None:
        """Where a query may look, bool `[B, 1, T, P + T]`; the P columns before are filled from the right."""
        longest = max(held)
        query = torch.arange(longest, longest + tokens, device=device)[:, None]
        key = torch.arange(longest + tokens, device=device)
        window = (key <= query) & (key > query - self._config.window)  # [T, P + T]
        first = torch.tensor([longest - count for count in held]).to(device)
        return (window & (key >= first[:, None, None]))[:, None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """Pre-norm attention and MLP, each scaled per channel."""

    attention_norm: Norm
    attention_in: Linear
    attention_out: Linear
    attention_scale: Tensor
    mlp_norm: Norm
    mlp_in: Linear
    mlp_out: Linear
    mlp_scale: Tensor
    heads: int

    @classmethod
    def load(cls, loader: _Loader, prefix: str, config: StageConfig) -> _Layer:
        d, inner = config.width, config.inner
        attention = f"{prefix}.self_attn"
        into = (".in_proj.weight", ".in_projs.0.weight", ".in_proj_weight")
        out = (".out_proj.weight", ".out_projs.0.weight")
        return cls(
            attention_norm=loader.norm(f"{prefix}.norm1", d),
            attention_in=loader.linear(*(attention + name for name in into), d, 3 * d),
            attention_out=loader.linear(*(attention + name for name in out), d, d),
            attention_scale=loader.take(f"{prefix}.layer_scale_1.scale", d),
            mlp_norm=loader.norm(f"{prefix}.norm2", d),
            mlp_in=loader.linear(f"{prefix}.ffn.0.weight", f"{prefix}.linear1.weight", d, inner, gelu=True),
            mlp_out=loader.linear(f"{prefix}.ffn.2.weight", f"{prefix}.linear2.weight", inner, d),
            mlp_scale=loader.take(f"{prefix}.layer_scale_2.scale", d),
            heads=config.heads,
        )

    def project(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Queries `[B, heads, T, size]`; keys and values `[B, 2, heads, T, size]`."""
        mixed = self.attention_in(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1))
        turned = rotate(mixed[:, :, :2], rotation)  # [B, T, 2, heads, size]
        now = torch.stack((turned[:, :, 1], mixed[:, :, 2]), dim=1).transpose(2, 3)
        return turned[:, :, 0].transpose(1, 2), now

    def finish(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Attend and add, then the MLP."""
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(-2)
        x = torch.addcmul(x, self.attention_out(attended), self.attention_scale)
        return torch.addcmul(x, self.mlp_out(self.mlp_in(self.mlp_norm(x))), self.mlp_scale)


class _Quantizer:
    """Residual quantiser: every codebook takes what the ones before it left over."""

    def __init__(self, loader: _Loader, config: CodecConfig) -> None:
        books, size, width = config.codebooks, config.codebook_size, config.codebook_width
        self._in = loader.normed("quantizer.input_proj", config.latent, config.inner)
        out_weight, out_bias = loader.normed("quantizer.output_proj", config.inner, config.latent)
        names = [f"quantizer.quantizers.{q}" for q in range(books)]
        self._down = [loader.normed(f"{name}.in_proj", config.inner, width) for name in names]
        vectors = [loader.take(f"{name}.codebook.weight", size, width) for name in names]
        self._directions = [F.normalize(vector, dim=-1, eps=_LEAST) for vector in vectors]
        ups = [loader.normed(f"{name}.out_proj", width, config.inner) for name in names]
        # What a code stands for, in the residual and, through the output map, in the latents.
        self._residuals = [F.linear(v, *up) for v, up in zip(vectors, ups, strict=True)]  # K × [V, inner]
        tables = [F.linear(residual, out_weight) for residual in self._residuals]
        self._tables = torch.cat([*tables, tables[0].new_zeros(1, config.latent)])  # [K · V + 1, D]
        self._bias = out_bias
        self._offsets = torch.arange(books, device=loader.device) * size
        self._nothing = books * size

    def encode(self, latents: Tensor) -> Tensor:
        """`[B, T, D]` to codes `[B, T, K]`."""
        z = F.linear(latents, *self._in)
        codes = []
        for down, directions, residuals in zip(self._down, self._directions, self._residuals, strict=True):
            direction = F.normalize(F.linear(z, *down), dim=-1, eps=_LEAST)
            code = F.linear(direction, directions).argmax(-1)
            z = z - F.embedding(code, residuals)
            codes.append(code)
        return torch.stack(codes, dim=-1)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes `[B, T, k]` of the first k codebooks, negative for none, to latents `[B, T, D]`."""
        places = torch.where(codes < 0, self._nothing, codes + self._offsets[: codes.shape[-1]])
        return F.embedding(places, self._tables).sum(-2) + self._bias


class _Loader:
    """Takes tensors to where they are used."""

    def __init__(self, weights: Weights, device: torch.device, form: Form) -> None:
        self._weights = weights
        self.device = device
        self._form = form

    def take(self, *names_and_shape: str | int) -> Tensor:
        names = [part for part in names_and_shape if isinstance(part, str)]
        shape = tuple(part for part in names_and_shape if isinstance(part, int))
        return self._weights.take(*names, shape=shape, dtype=torch.float32).to(self.device)

    def linear(self, *names_and_sizes: str | int, gelu: bool = False) -> Linear:
        """A layer without bias, from its names, inputs and outputs."""
        *names, inputs, outputs = names_and_sizes
        return make_linear(self.take(*names, outputs, inputs), None, self._form, "gelu" if gelu else "none")

    def norm(self, name: str, size: int) -> Norm:
        return Norm(
            weight=self.take(f"{name}.weight", size), bias=self.take(f"{name}.bias", size), epsilon=_EPSILON
        )

    def normed(self, name: str, inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
        """Weight and bias of a map whose weight is stored as length and direction (Salimans, 2016)."""
        new = f"{name}.parametrizations.weight.original"
        length = self.take(f"{new}0", f"{name}.weight_g", outputs, 1, 1)
        direction = self.take(f"{new}1", f"{name}.weight_v", outputs, inputs, 1)
        norm = direction.flatten(1).norm(dim=1).clamp(min=_LEAST)[:, None, None]
        return (length * direction / norm)[:, :, 0], self.take(f"{name}.bias", outputs)


def patch(x: Tensor, size: int) -> Tensor:
    """Fold `size` steps into channels: `[B, L, D]` to `[B, L / size, D · size]`, the step innermost."""
    batch, length, width = x.shape
    return x.view(batch, length // size, size, width).transpose(2, 3).reshape(batch, length // size, -1)


def unpatch(x: Tensor, size: int) -> Tensor:
    """The inverse of `patch`."""
    batch, length, width = x.shape
    return x.view(batch, length, width // size, size).transpose(2, 3).reshape(batch, length * size, -1)


def check_agreement(codec: CodecConfig, codebooks: int, sizes: Sequence[int], sample_rate: int) -> None:
    """Make sure that a codec fits a language model.

    Raises:
        ModelUnavailable: It does not; the numbers are named.
    """
    if codec.codebooks < codebooks or max(sizes) > codec.codebook_size or codec.sample_rate != sample_rate:
        raise ModelUnavailable(
            f"the codec has {codec.codebooks} codebooks of {codec.codebook_size} at {codec.sample_rate} Hz, the "
            f"language model wants {codebooks} of {max(sizes)} at {sample_rate} Hz; put its own codec beside it"
        )
