"""The sizes of the language model and of the codec, read from their published `config.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelUnavailable

LM_TYPE = "moss_tts_nano"
CODEC_TYPE = "moss-audio-tokenizer"


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """The blocks that the global and the local transformer share.

    Attributes:
        layers: Of the global transformer.
        local_layers: Of the local one.
        positions: The longest sequence that the checkpoint allows.
        scale_by_layer: Whether scores are divided by the number of the layer, counted from 1.
    """

    hidden: int
    heads: int
    inner: int
    layers: int
    local_layers: int
    positions: int
    rope_base: float
    epsilon: float
    scale_by_layer: bool

    @property
    def head_size(self) -> int:
        return self.hidden // self.heads


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageConfig:
    """The language model.

    Attributes:
        codebooks: K, the audio columns of a row.
        codebook_sizes: How many codes each of them has.
        audio_pad: The id of a column without a code; it has no embedding.
        user_slot: The text id of a row of the reference clip.
        assistant_slot: The text id of a generated row; the gate's "go on".
        audio_end: The gate's "stop".
        codec: What the checkpoint calls the repository of its codec.
    """

    decoder: DecoderConfig
    vocabulary: int
    codebooks: int
    codebook_sizes: tuple[int, ...]
    audio_pad: int
    pad: int
    im_start: int
    im_end: int
    audio_start: int
    audio_end: int
    user_slot: int
    assistant_slot: int
    sample_rate: int
    codec: str

    @classmethod
    def read(cls, folder: Path) -> LanguageConfig:
        """Read `config.json` of a folder.

        Raises:
            ModelUnavailable: It is missing, of another model, or contradicts itself; the file is named.
        """
        file = folder / "config.json"
        raw = _read_json(file)
        if raw.get("model_type") != LM_TYPE:
            raise ModelUnavailable(f"{file} is of {raw.get('model_type')!r}, not of {LM_TYPE!r}")
        try:
            config = cls.parse(raw)
        except (KeyError, TypeError, ValueError) as error:
            raise ModelUnavailable(f"{file} cannot be used: {_words(error)}") from error
        return config

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> LanguageConfig:
        """Read the published fields.

        Raises:
            KeyError: One is missing.
            ValueError: They contradict each other.
        """
        books = int(raw["n_vq"])
        sizes = tuple(raw.get("audio_codebook_sizes") or [raw["audio_vocab_size"]] * books)
        pad = int(raw["audio_pad_token_id"])
        if len(sizes) != books:
            raise ValueError(f"audio_codebook_sizes has {len(sizes)} entries for n_vq = {books}")
        if pad < max(sizes):
            raise ValueError(f"audio_pad_token_id {pad} lies inside a codebook of {max(sizes)} codes")
        decoder = _decoder(raw["gpt2_config"], int(raw["local_transformer_layers"]))
        return cls(
            decoder=decoder,
            vocabulary=int(raw["gpt2_config"]["vocab_size"]),
            codebooks=books,
            codebook_sizes=sizes,
            audio_pad=pad,
            pad=int(raw["pad_token_id"]),
            im_start=int(raw["im_start_token_id"]),
            im_end=int(raw["im_end_token_id"]),
            audio_start=int(raw["audio_start_token_id"]),
            audio_end=int(raw["audio_end_token_id"]),
            user_slot=int(raw["audio_user_slot_token_id"]),
            assistant_slot=int(raw["audio_assistant_slot_token_id"]),
            sample_rate=int(raw["audio_tokenizer_sample_rate"]),
            codec=str(raw.get("audio_tokenizer_pretrained_name_or_path") or ""),
        )


def _decoder(raw: Mapping[str, Any], local_layers: int) -> DecoderConfig:
    hidden, heads = int(raw["n_embd"]), int(raw["n_head"])
    if hidden % heads or hidden // heads % 2:
        raise ValueError(f"n_embd {hidden} does not divide into {heads} heads of even size")
    if raw.get("position_embedding_type", "rope") != "rope":
        raise ValueError("position_embedding_type has to be 'rope'")
    if raw.get("activation_function", "gelu_new") != "gelu_new":
        raise ValueError("activation_function has to be 'gelu_new'")
    return DecoderConfig(
        hidden=hidden,
        heads=heads,
        inner=int(raw.get("n_inner") or 4 * hidden),
        layers=int(raw["n_layer"]),
        local_layers=local_layers,
        positions=int(raw["n_positions"]),
        rope_base=float(raw.get("rope_base", 10000.0)),
        epsilon=float(raw.get("layer_norm_epsilon", 1e-5)),
        scale_by_layer=bool(raw.get("scale_attn_by_inverse_layer_idx", False)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StageConfig:
    """One module of the codec: a change of rate, or a transformer.

    Attributes:
        index: Its number in the names of the tensors.
        patch: How many steps of the input become one (encoder) or come from one (decoder); 1 for a
            transformer.
        window: How many tokens a query of a transformer sees, itself included.
    """

    index: int
    patch: int = 1
    inputs: int = 0
    outputs: int = 0
    width: int = 0
    heads: int = 0
    inner: int = 0
    layers: int = 0
    window: int = 0
    max_period: float = 10000.0

    @property
    def is_transformer(self) -> bool:
        return self.layers > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecConfig:
    """The codec.

    Attributes:
        stride: Samples of one channel in a frame.
        encoder: The modules from sound to latents.
        decoder: The modules from latents to sound.
        codebooks: K, at most; any prefix of them can be decoded.
        codebook_size: Codes in each.
        codebook_width: The size of a code's vector.
        inner: The size of the quantiser's residual.
    """

    sample_rate: int
    channels: int
    stride: int
    latent: int
    encoder: tuple[StageConfig, ...]
    decoder: tuple[StageConfig, ...]
    codebooks: int
    codebook_size: int
    codebook_width: int
    inner: int

    @property
    def frame_s(self) -> float:
        """How long a frame is, in seconds."""
        return self.stride / self.sample_rate

    @classmethod
    def read(cls, folder: Path) -> CodecConfig:
        """Read `config.json` of a folder.

        Raises:
            ModelUnavailable: It is missing, of another model, or asks for what this codec does not build.
        """
        file = folder / "config.json"
        raw = _read_json(file)
        if raw.get("model_type") != CODEC_TYPE:
            raise ModelUnavailable(f"{file} is of {raw.get('model_type')!r}, not of {CODEC_TYPE!r}")
        try:
            return cls.parse(raw)
        except (KeyError, TypeError, ValueError) as error:
            raise ModelUnavailable(f"{file} cannot be used: {_words(error)}") from error

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> CodecConfig:
        """Read the published fields.

        Raises:
            KeyError: One is missing.
            ValueError: They contradict each other, or ask for what this codec does not build.
        """
        quantizer = raw["quantizer_kwargs"]
        if (raw.get("quantizer_type") or quantizer.get("quantizer_type")) != "rlfq":
            raise ValueError("quantizer_type has to be 'rlfq'")
        rate = int(raw.get("sampling_rate") or raw["sample_rate"])
        channels = int(raw.get("number_channels") or raw.get("channels_numbers") or 1)
        if channels > 1 and not raw.get("enable_channel_interleave", True):
            raise ValueError("enable_channel_interleave has to be true for more than one channel")
        fallback_s = float(raw.get("causal_transformer_context_duration", 10.0))
        tokens_hz = rate * channels
        encoder, latent_hz = _stages(raw["encoder_kwargs"], tokens_hz, fallback_s, up=False)
        given = raw.get("decoder_kwargs") or _reversed(raw["encoder_kwargs"])
        decoder, back_hz = _stages(given, latent_hz, fallback_s, up=True)
        if back_hz != tokens_hz:
            raise ValueError(f"the decoder ends at {back_hz:g} values a second, not at {tokens_hz}")
        stride = int(raw["downsample_rate"])
        if rate / stride != latent_hz:
            raise ValueError(f"downsample_rate {stride} does not agree with the encoder's patches")
        return cls(
            sample_rate=rate,
            channels=channels,
            stride=stride,
            latent=int(quantizer["input_dim"]),
            encoder=encoder,
            decoder=decoder,
            codebooks=int(quantizer["num_quantizers"]),
            codebook_size=int(quantizer["codebook_size"]),
            codebook_width=int(quantizer["codebook_dim"]),
            inner=int(quantizer["rvq_dim"]),
        )


def _stages(
    entries: list[Mapping[str, Any]], tokens_hz: float, fallback_s: float, *, up: bool
) -> tuple[tuple[StageConfig, ...], float]:
    """Read a list of modules; also the rate behind the last of them."""
    stages: list[StageConfig] = []
    for index, entry in enumerate(entries):
        if entry["module_type"] == "PatchedPretransform":
            patch = int(entry["patch_size"])
            tokens_hz = tokens_hz * patch if up else tokens_hz / patch
            stages.append(StageConfig(index=index, patch=patch))
        elif entry["module_type"] == "Transformer":
            stages.append(_transformer(index, entry, tokens_hz, fallback_s))
        else:
            raise ValueError(f"module_type {entry['module_type']!r} is not known")
    return tuple(stages), tokens_hz


_BUILT = {"norm": "layer_norm", "gating": "none", "positional_embedding": "rope", "causal": True}


def _transformer(index: int, entry: Mapping[str, Any], tokens_hz: float, fallback_s: float) -> StageConfig:
    for name, value in _BUILT.items():
        if entry.get(name, value) != value:
            raise ValueError(f"{name} has to be {value!r}")
    return StageConfig(
        index=index,
        inputs=int(entry["input_dimension"]),
        outputs=int(entry["output_dimension"]),
        width=int(entry["d_model"]),
        heads=int(entry["num_heads"]),
        inner=int(entry["dim_feedforward"]),
        layers=int(entry["num_layers"]),
        window=round(tokens_hz * float(entry.get("context_duration") or fallback_s)),
        max_period=float(entry.get("max_period", 10000.0)),
    )


def _reversed(entries: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The decoder's modules where only the encoder's are listed."""
    mirrored: list[Mapping[str, Any]] = []
    for entry in reversed(entries):
        if "input_dimension" in entry:
            swapped = {
                "input_dimension": entry["output_dimension"],
                "output_dimension": entry["input_dimension"],
            }
            mirrored.append({**entry, **swapped})
        else:
            mirrored.append(entry)
    return mirrored


def _read_json(file: Path) -> dict[str, Any]:
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelUnavailable(f"{file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ModelUnavailable(f"{file} is no JSON; download it again") from error
    if not isinstance(raw, dict):
        raise ModelUnavailable(f"{file} holds no JSON object; download it again")
    return raw


def _words(error: Exception) -> str:
    return f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
