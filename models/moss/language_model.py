"""The language model: embeddings, the global transformer over rows, the local one over a frame.

Both transformers are made of the same pre-norm block: attention with rotary positions on interleaved
pairs, and an MLP with the tanh form of GELU (Hendrycks and Gimpel, "Gaussian error linear units", 2016).
Angles are computed in float32 from the configuration, whatever the dtype of the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - as everyone calls it
from torch import Tensor

from ..engine.cache import SlotCache, Turn
from .config import DecoderConfig, LanguageConfig
from .linear import Activation, Form, Linear, best_form, make_linear, on_processor
from .weights import Weights


class LanguageModel:
    """The tensors on their device, and the two forwards.

    Attributes:
        form: How the linear layers are kept, see `linear`.
        dtype: Of what goes through the layers.
        attention_dtype: Of keys, values and angles. Torch's attention in 16 bit is several times slower than
            in fp32 on a processor, where the weights are what has to be small.
    """

    def __init__(
        self,
        config: LanguageConfig,
        weights: Weights,
        *,
        device: torch.device,
        dtype: torch.dtype,
        positions: int,
        form: Form | None = None,
    ) -> None:
        """Load the tensors.

        Args:
            positions: How many positions will be used at most; rotary tables are made for so many.
            form: `int8` keeps the linear layers in 8 bits; the activations are fp32 then.

        Raises:
            ModelUnavailable: A tensor is missing or of another shape, or tied ones differ.
        """
        self.config = config
        self.device = device
        self.form = form or best_form(device)
        self.dtype = torch.float32 if self.form == "int8" else dtype
        self.attention_dtype = torch.float32 if on_processor(device) else self.dtype
        _check_ties(config, weights)
        loader = _Loader(weights=weights, device=device, dtype=self.dtype, form=self.form)
        decoder = config.decoder
        self._text = loader.tied(
            "transformer.wte.weight", "text_lm_head.weight", (config.vocabulary, decoder.hidden)
        )
        books = [
            loader.tied(f"audio_embeddings.{k}.weight", f"audio_lm_heads.{k}.weight", (size, decoder.hidden))
            for k, size in enumerate(config.codebook_sizes)
        ]
        self._books = torch.cat([*books, books[0].new_zeros(1, decoder.hidden)])  # [sum of sizes + 1, D]
        sizes = torch.tensor(config.codebook_sizes)
        starts = sizes.cumsum(0) - sizes
        self._offsets = starts.to(device)  # [K]
        self._nothing = int(sizes.sum())
        self._heads = [
            loader.layer(self._books[start : start + size], None)
            for start, size in zip(starts.tolist(), config.codebook_sizes, strict=True)
        ]
        self._gate = self._text[[config.assistant_slot, config.audio_end]].clone()  # [2, D]
        self._go_on = self._text[config.assistant_slot].clone()  # [D]
        self.largest_book = max(config.codebook_sizes)
        self._global = [_Block.load(loader, f"transformer.h.{i}", decoder, i) for i in range(decoder.layers)]
        self._local = [
            _Block.load(loader, f"local_transformer.h.{i}", decoder, i) for i in range(decoder.local_layers)
        ]
        self._global_norm = loader.norm("transformer.ln_f", decoder)
        self._local_norm = loader.norm("local_transformer.ln_f", decoder)
        self._rope = Rope(decoder.head_size, decoder.rope_base, positions, device, self.attention_dtype)
        self._local_rope = Rope(
            decoder.head_size, decoder.rope_base, config.codebooks + 1, device, self.attention_dtype
        )

    def cache(self, context: int) -> SlotCache:
        """A slot cache of the global transformer's shape."""
        decoder = self.config.decoder
        return SlotCache(
            layers=decoder.layers,
            heads=decoder.heads,
            width=decoder.head_size,
            context=context,
            dtype=self.attention_dtype,
            device=self.device,
        )

    def embed(self, rows: Tensor) -> Tensor:
        """The embedding of rows `[..., 1 + K]` of ids: `[..., D]`; a padded column adds nothing."""
        return self._embed(F.embedding(rows[..., 0], self._text), rows[..., 1:])

    def embed_frame(self, codes: Tensor) -> Tensor:
        """The embedding of generated rows with these codes `[..., K]`: `[..., D]`."""
        return self._embed(self._go_on, codes)

    def _embed(self, text: Tensor, codes: Tensor) -> Tensor:
        places = torch.where(codes == self.config.audio_pad, self._nothing, codes + self._offsets)
        return text + F.embedding(places, self._books).sum(-2)

    def forward(self, x: Tensor, cache: SlotCache, turn: Turn) -> Tensor:
        """The global transformer over new positions, which enter the cache.

        Args:
            x: Embeddings `[B, T, D]`.

        Returns:
            Hidden states behind the final norm `[B, T, D]`.
        """
        return self.hidden(self.trunk(x, cache, turn)[-1])

    def trunk(self, x: Tensor, cache: SlotCache, turn: Turn) -> list[Tensor]:
        """The input and the output of every block."""
        states = [x]
        rotation = self._rope.at(turn.position_ids)
        for block, layer in zip(self._global, cache.layers, strict=True):
            q, k, v = block.project(states[-1], rotation)
            keys, values = layer.update(k, v)
            states.append(block.finish(states[-1], q, keys, values, turn.mask))
        return states

    def hidden(self, state: Tensor) -> Tensor:
        """The final norm behind the output of the last block, `[B, T, D]`."""
        return self._global_norm(state)

    def spell(self, hidden: Tensor) -> LocalPass:
        """Begin a frame behind a hidden state `[B, D]` of the global transformer."""
        return LocalPass(self, hidden)

    # -- for `LocalPass` -----------------------------------------------------------------------------

    def gate_logits(self, h: Tensor) -> Tensor:
        """Go on, or stop: float32 `[B, 2]`."""
        return F.linear(h, self._gate).float()

    def audio_logits(self, h: Tensor, book: int) -> Tensor:
        """Of the codes of a codebook: float32 `[B, V]`, V being the largest codebook's size."""
        logits = self._heads[book](h).float()
        missing = self.largest_book - logits.shape[-1]
        return F.pad(logits, (0, missing), value=-torch.inf) if missing else logits

    def code_embedding(self, codes: Tensor, book: int) -> Tensor:
        """Of one code of a codebook for each row, `[B]` to `[B, D]`."""
        return F.embedding(codes + self._offsets[book], self._books)

    def go_on(self, batch: int) -> Tensor:
        """The embedding of the text id that says that a frame follows, `[B, D]`."""
        return self._go_on.expand(batch, -1)


class LocalPass:
    """The local transformer over the positions of one frame, each with the keys of those before.

    The inputs are, in turn: the global hidden state, the embedding of the chosen text id, the embeddings of
    codes 0 … K - 2. The outputs are for: the gate, codes 0 … K - 1.
    """

    def __init__(self, model: LanguageModel, hidden: Tensor) -> None:
        self._model = model
        self._hidden = hidden
        self._position = 0
        decoder = model.config.decoder
        shape = (len(hidden), decoder.heads, model.config.codebooks + 1, decoder.head_size)
        self._cache = [self._empty(shape) for _ in model._local]

    def _empty(self, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        dtype = self._model.attention_dtype
        return self._hidden.new_empty(shape, dtype=dtype), self._hidden.new_empty(shape, dtype=dtype)

    def first(self) -> Tensor:
        """Behind the global hidden state itself."""
        return self.next(self._hidden)

    def next(self, x: Tensor) -> Tensor:
        """Take the input of one more position `[B, D]`; return its output behind the final norm."""
        p = self._position
        rotation = self._model._local_rope.row(p)
        x = x[:, None]
        for block, (keys, values) in zip(self._model._local, self._cache, strict=True):
            q, k, v = block.project(x, rotation)
            keys[:, :, p].copy_(k[:, :, 0])
            values[:, :, p].copy_(v[:, :, 0])
            x = block.finish(x, q, keys[:, :, : p + 1], values[:, :, : p + 1], None)
        self._position += 1
        return self._model._local_norm(x)[:, 0]


class Rope:
    """Rotary positions on interleaved pairs, `(a, b) → (a·cos − b·sin, b·cos + a·sin)` (Su et al., 2021)."""

    def __init__(
        self, size: int, base: float, positions: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        cos, sin = rotation_at(torch.arange(positions, dtype=torch.float32), size, base)
        self._cos = cos.to(device, dtype)  # [positions, size]
        self._sin = sin.to(device, dtype)

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """For `[B, T]` positions, broadcastable to `[B, T, 2, heads, size]`."""
        shape = (*positions.shape, 1, 1, self._cos.shape[1])
        return F.embedding(positions, self._cos).view(shape), F.embedding(positions, self._sin).view(shape)

    def row(self, position: int) -> tuple[Tensor, Tensor]:
        """For one position of all rows."""
        return self._cos[position], self._sin[position]


def rotation_at(positions: Tensor, size: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosine and signed sine of the angles at float32 positions `[...]`: `[..., size]` each.

    The sine of the first of a pair is negative, so that `rotate` is one product with each.
    """
    exponents = torch.arange(0, size, 2, dtype=torch.float32, device=positions.device) / size
    angles = positions[..., None] * base**-exponents
    cos, sin = angles.cos(), angles.sin()
    return cos.repeat_interleave(2, -1), torch.stack((-sin, sin), dim=-1).flatten(-2)


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turn the pairs of `[..., size]` by what `rotation_at` gave."""
    cos, sin = rotation
    swapped = x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return torch.addcmul(x * cos, swapped, sin)


@dataclass(frozen=True, slots=True, kw_only=True)
class Norm:
    """A layer norm."""

    weight: Tensor
    bias: Tensor
    epsilon: float

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.epsilon)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """One layer of either transformer."""

    attention_norm: Norm
    attention_in: Linear
    attention_out: Linear
    mlp_norm: Norm
    mlp_in: Linear
    mlp_out: Linear
    heads: int
    scale: float

    @classmethod
    def load(cls, loader: _Loader, prefix: str, config: DecoderConfig, index: int) -> _Block:
        d, inner = config.hidden, config.inner
        return cls(
            attention_norm=loader.norm(f"{prefix}.ln_1", config),
            attention_in=loader.affine(f"{prefix}.attn.c_attn", d, 3 * d),
            attention_out=loader.affine(f"{prefix}.attn.c_proj", d, d),
            mlp_norm=loader.norm(f"{prefix}.ln_2", config),
            mlp_in=loader.affine(f"{prefix}.mlp.fc_in", d, inner, "gelu_tanh"),
            mlp_out=loader.affine(f"{prefix}.mlp.fc_out", inner, d),
            heads=config.heads,
            scale=config.head_size**-0.5 / (index + 1 if config.scale_by_layer else 1),
        )

    def project(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys, values `[B, heads, T, size]`, the first two turned to their positions."""
        mixed = self.attention_in(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1))
        mixed = mixed.to(rotation[0].dtype)
        turned = rotate(mixed[:, :, :2], rotation)  # [B, T, 2, heads, size]
        return (
            turned[:, :, 0].transpose(1, 2),
            turned[:, :, 1].transpose(1, 2),
            mixed[:, :, 2].transpose(1, 2),
        )

    def finish(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Attend and add, then the MLP."""
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=self.scale)
        x = x + self.attention_out(attended.transpose(1, 2).flatten(-2).to(x.dtype))
        return x + self.mlp_out(self.mlp_in(self.mlp_norm(x)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loader:
    """Takes tensors to where and as what they are used."""

    weights: Weights
    device: torch.device
    dtype: torch.dtype
    form: Form

    def tied(self, name: str, other: str, shape: Sequence[int]) -> Tensor:
        return self.weights.take(name, other, shape=tuple(shape), dtype=self.dtype).to(self.device)

    def layer(self, weight: Tensor, bias: Tensor | None, activation: Activation = "none") -> Linear:
        return make_linear(weight, bias, self.form, activation)

    def affine(self, name: str, inputs: int, outputs: int, activation: Activation = "none") -> Linear:
        weight = self._take(f"{name}.weight", outputs, inputs)
        return self.layer(weight, self._take(f"{name}.bias", outputs), activation)

    def norm(self, name: str, config: DecoderConfig) -> Norm:
        weight, bias = (self._take(f"{name}.{part}", config.hidden) for part in ("weight", "bias"))
        return Norm(weight=weight, bias=bias, epsilon=config.epsilon)

    def _take(self, name: str, *shape: int) -> Tensor:
        return self.weights.take(name, shape=shape, dtype=self.dtype).to(self.device)


def _check_ties(config: LanguageConfig, weights: Weights) -> None:
    weights.check_tied("text_lm_head.weight", "transformer.wte.weight")
    for k in range(config.codebooks):
        weights.check_tied(f"audio_lm_heads.{k}.weight", f"audio_embeddings.{k}.weight")
