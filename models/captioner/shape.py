"""The sizes of a captioner's checkpoint, from its `config.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelUnavailable

MODEL_TYPE = "qwen2_5_omni"


@dataclass(frozen=True, slots=True, kw_only=True)
class TextShape:
    """The language model: a Qwen2 decoder.

    Attributes:
        max_positions: The longest context that it was made for.
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    rope_theta: float
    norm_eps: float
    max_positions: int
    tied: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioShape:
    """The audio tower: a Whisper encoder over short chunks.

    Attributes:
        chunk_frames: Mel frames of one chunk; attention stays inside it.
        output: The width of what it gives to the language model.
    """

    hidden: int
    layers: int
    heads: int
    intermediate: int
    mel_bands: int
    chunk_frames: int
    output: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A captioner's sizes and the ids of the tokens that frame the audio."""

    text: TextShape
    audio: AudioShape
    audio_id: int
    audio_start_id: int
    audio_end_id: int


def read_shape(folder: Path) -> Shape:
    """Read `config.json` of a checkpoint in the published layout.

    Raises:
        ModelUnavailable: It is missing, or of another kind of model; the message says what to do.
    """
    config = read_json(folder / "config.json")
    if config.get("model_type") != MODEL_TYPE:
        raise ModelUnavailable(
            f"{folder} holds a {config.get('model_type')!r} model, not {MODEL_TYPE!r}; "
            "give the folder of the captioner's own checkpoint"
        )
    thinker = _Section(config, folder).section("thinker_config")
    text, audio = thinker.section("text_config"), thinker.section("audio_config")
    shape = Shape(
        text=_text_shape(text),
        audio=_audio_shape(audio),
        audio_id=thinker.number("audio_token_index"),
        audio_start_id=thinker.number("audio_start_token_id"),
        audio_end_id=thinker.number("audio_end_token_id"),
    )
    _check(shape, folder)
    return shape


def read_json(path: Path) -> dict[str, Any]:
    """One JSON object of a checkpoint's folder.

    Raises:
        ModelUnavailable: It is missing or no JSON object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelUnavailable(
            f"{path} is missing; give --checkpoint-dir the folder of a whole checkpoint"
        ) from error
    except (OSError, ValueError) as error:
        raise ModelUnavailable(f"{path} cannot be read ({error}); download it again") from error
    if not isinstance(found, dict):
        raise ModelUnavailable(f"{path} is no JSON object; download it again")
    return found


def _text_shape(text: _Section) -> TextShape:
    heads, hidden = text.number("num_attention_heads"), text.number("hidden_size")
    return TextShape(
        hidden=hidden,
        layers=text.number("num_hidden_layers"),
        heads=heads,
        kv_heads=text.number("num_key_value_heads"),
        head_dim=text.number("head_dim", hidden // heads),
        intermediate=text.number("intermediate_size"),
        vocabulary=text.number("vocab_size"),
        rope_theta=_rope_theta(text),
        norm_eps=float(text.values.get("rms_norm_eps", 1e-6)),
        max_positions=text.number("max_position_embeddings", 32768),
        tied=bool(text.values.get("tie_word_embeddings", False)),
    )


def _audio_shape(audio: _Section) -> AudioShape:
    return AudioShape(
        hidden=audio.number("d_model"),
        layers=audio.number("encoder_layers"),
        heads=audio.number("encoder_attention_heads"),
        intermediate=audio.number("encoder_ffn_dim"),
        mel_bands=audio.number("num_mel_bins"),
        chunk_frames=2 * audio.number("n_window", 100),
        output=audio.number("output_dim"),
    )


def _rope_theta(text: _Section) -> float:
    """The base of the rotary positions.

    With audio and text only, the three axes of the published multimodal scheme count alike, so that
    its sections make no difference: what is left is the plain rotary embedding.
    """
    # transformers 5 writes `rope_parameters`, version 4 wrote `rope_theta` beside `rope_scaling`.
    parameters = text.values.get("rope_parameters") or text.values.get("rope_scaling") or {}
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind not in ("default", "mrope"):
        raise ModelUnavailable(f"{text.folder}/config.json has rotary positions of type {kind!r}; only "
                               "the captioner's own default is known")  # fmt: skip
    return float(parameters.get("rope_theta", text.values.get("rope_theta", 1_000_000.0)))


def _check(shape: Shape, folder: Path) -> None:
    text, audio = shape.text, shape.audio
    if text.heads % text.kv_heads or audio.hidden % audio.heads or audio.output != text.hidden:
        raise ModelUnavailable(f"{folder}/config.json has sizes that do not fit together; download it again")
    if audio.chunk_frames % 4:
        # The convolution and the pairwise mean each halve a chunk; a rest would be dropped inside a clip.
        raise ModelUnavailable(
            f"{folder}/config.json has chunks of {audio.chunk_frames} frames, not of fours"
        )


class _Section:
    """A part of a configuration whose missing values have a sentence."""

    def __init__(self, values: Mapping[str, Any], folder: Path) -> None:
        self.values = values
        self.folder = folder

    def section(self, name: str) -> _Section:
        return _Section(self._get(name, dict), self.folder)

    def number(self, name: str, default: int | None = None) -> int:
        if default is not None and self.values.get(name) is None:
            return default
        found = self._get(name, int)
        if found <= 0:
            raise ModelUnavailable(f"{self.folder}/config.json has {name} = {found}; download it again")
        return int(found)

    def _get(self, name: str, kind: type) -> Any:
        found = self.values.get(name)
        if not isinstance(found, kind) or isinstance(found, bool):
            raise ModelUnavailable(
                f"{self.folder}/config.json has no usable {name!r}; give the folder of the whole checkpoint"
            )
        return found
