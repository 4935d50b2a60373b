"""The sizes of a checkpoint, read from its `config.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelUnavailable

SPEAKER_SIZE = 192
"""Values of a CAM++ speaker vector."""

TIME_FEATURES = 256
"""Sines and cosines of the solver's time."""

EXECUTED_ENCODER_LAYERS = 4
"""The published loop stores 24 layers of the audio encoder and runs the first 4: the encoder and its
aggregator share one configuration object, whose layer count is overwritten after the first was built."""

_STACK_FIELDS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "rms_norm_eps",
    "rope_theta",
    "vocab_size",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StackSize:
    """A Qwen2 stack.

    Attributes:
        window: Keys that a query sees, itself included; `None` for all before it. One more than the file
            says: the published run lets FlashAttention-2 see distances 0 … window.
    """

    width: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    eps: float
    rope_theta: float
    vocabulary: int
    window: int | None = None

    @property
    def head_size(self) -> int:
        return self.width // self.heads


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSize:
    """A stack of the bidirectional blocks that the flow network and the aggregator share."""

    width: int
    depth: int
    heads: int
    inner: int

    @property
    def head_size(self) -> int:
        return self.width // self.heads


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioSize:
    """The autoencoder of the audio.

    Attributes:
        hop: Samples of a frame.
        frames: Frames of a latent.
        channels: Values of a latent.
        encoder_layers: How many of the stored layers of the encoder run.
    """

    sample_rate: int
    hop: int
    frames: int
    channels: int
    encoder: StackSize
    encoder_layers: int
    aggregator_layers: int
    decoder: StackSize

    @property
    def n_fft(self) -> int:
        return 4 * self.hop

    @property
    def samples_per_latent(self) -> int:
        return self.hop * self.frames


@dataclass(frozen=True, slots=True, kw_only=True)
class MingConfig:
    """A whole checkpoint.

    Attributes:
        patch: Latents of a step of the backbone.
        look_back: Latents before the patch that the flow network sees.
    """

    llm: StackSize
    flow: BlockSize
    aggregator: BlockSize
    audio: AudioSize
    patch: int
    look_back: int
    max_positions: int

    @property
    def samples_per_patch(self) -> int:
        return self.patch * self.audio.samples_per_latent

    @property
    def patch_s(self) -> float:
        """How much audio a patch is, in seconds."""
        return self.samples_per_patch / self.audio.sample_rate

    @property
    def patches_per_s(self) -> float:
        return self.audio.sample_rate / self.samples_per_patch

    @classmethod
    def load(cls, folder: Path, *, encoder_layers: int | None = None) -> MingConfig:
        """Read `config.json` of a checkpoint folder.

        Args:
            encoder_layers: As in `parse`.

        Raises:
            ModelUnavailable: There is none, or it is not one of this family.
        """
        path = folder / "config.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelUnavailable(
                f"{path} cannot be read; give the folder of a Ming-omni-tts checkpoint"
            ) from error
        return cls.parse(content, encoder_layers=encoder_layers)

    @classmethod
    def parse(cls, content: Mapping[str, Any], *, encoder_layers: int | None = None) -> MingConfig:
        """Read the published fields.

        Args:
            encoder_layers: How many layers of the audio encoder run; `None` for what the published run does.

        Raises:
            ModelUnavailable: A field is missing, or sizes do not fit each other.
        """
        try:
            config = _parse(content, encoder_layers)
        except (KeyError, TypeError, ValueError) as error:
            raise ModelUnavailable(
                f"config.json is not that of a Ming-omni-tts checkpoint: {error!r} is missing or wrong"
            ) from error
        _check(config)
        return config


def _parse(content: Mapping[str, Any], encoder_layers: int | None) -> MingConfig:
    flow = content["ditar_config"]
    audio = content["audio_tokenizer_config"]
    encoder, decoder = audio["enc_kwargs"], audio["dec_kwargs"]
    stored = _windowed(encoder["backbone"])
    run = EXECUTED_ENCODER_LAYERS if encoder_layers is None else encoder_layers
    return MingConfig(
        llm=_stack(content["llm_config"]),
        flow=_blocks(flow),
        aggregator=_blocks(content["aggregator_config"]),
        audio=AudioSize(
            sample_rate=int(audio["sample_rate"]),
            hop=int(decoder["output_dim"]),
            frames=int(audio["patch_size"]),
            channels=int(decoder["latent_dim"]),
            encoder=stored,
            encoder_layers=min(run, stored.layers),
            aggregator_layers=EXECUTED_ENCODER_LAYERS,
            decoder=_windowed(decoder["backbone"]),
        ),
        patch=int(flow["patch_size"]),
        look_back=int(flow.get("history_patch_size", flow["patch_size"])),
        max_positions=int(content["llm_config"]["max_position_embeddings"]),
    )


def _stack(content: Mapping[str, Any], window: int | None = None) -> StackSize:
    width, inner, layers, heads, kv_heads, eps, theta, vocabulary = (content[name] for name in _STACK_FIELDS)
    return StackSize(
        width=int(width),
        inner=int(inner),
        layers=int(layers),
        heads=int(heads),
        kv_heads=int(kv_heads),
        eps=float(eps),
        rope_theta=float(theta),
        vocabulary=int(vocabulary),
        window=window,
    )


def _windowed(content: Mapping[str, Any]) -> StackSize:
    if not content.get("use_sliding_window") or int(content.get("max_window_layers", 0)) != 0:
        raise ValueError("sliding_window")
    return _stack(content, window=int(content["sliding_window"]) + 1)


def _blocks(content: Mapping[str, Any]) -> BlockSize:
    width = int(content["hidden_size"])
    return BlockSize(
        width=width,
        depth=int(content["depth"]),
        heads=int(content["num_heads"]),
        inner=int(width * content["mlp_ratio"]),
    )


def _check(config: MingConfig) -> None:
    audio = config.audio
    if audio.frames < 1 or config.patch < 1 or config.look_back < 1 or audio.hop % 2:
        raise ModelUnavailable("config.json asks for an empty patch or an odd hop, which no such model has")
    if audio.encoder_layers < 1:
        raise ModelUnavailable("encoder_layers is at least 1")
    for stack in (config.llm, audio.encoder, audio.decoder, config.flow, config.aggregator):
        if stack.width % stack.heads:
            raise ModelUnavailable("config.json has a width that its number of heads does not divide")
