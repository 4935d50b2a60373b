"""Transformers' own `generate`, as a side of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..captioner.checkpoint import AUDIO, HEAD, TEXT, Checkpoint
from ..captioner.shape import Shape
from .captioner import CaptionerSubject
from .csm import SAMPLING, CsmSubject
from .subject import Answer
from .texts import TEXTS

if TYPE_CHECKING:
    from .plan import Load
    from .session import Opened


def csm_codes(model: Any, ids: Tensor, frames: int) -> Tensor:
    """So many frames for each row of text ids [B, T], by `generate` with the sampling of our side.

    Returns:
        Codes [B, F, K] on the host.
    """
    config = model.config
    end, config.codebook_eos_token_id = config.codebook_eos_token_id, -1  # no frame of such codes ends a row
    try:
        made: Tensor = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=frames,
            do_sample=True,
            temperature=SAMPLING.temperature,
            top_k=SAMPLING.top_k,
            depth_decoder_do_sample=True,
            depth_decoder_temperature=SAMPLING.temperature,
            depth_decoder_top_k=SAMPLING.top_k,
            output_audio=False,
        )
        return made.cpu()
    finally:
        config.codebook_eos_token_id = end


class CsmGenerate:
    """See `against.Generating`. Both sides use one set of tensors."""

    copies = 1

    def load(self, held: Opened) -> None:
        """See `Generating.load`."""
        subject = held.subject
        assert isinstance(subject, CsmSubject), "the table below says so"
        subject.audio = False
        self._subject = subject

    @torch.inference_mode()
    def run(self, load: Load) -> Sequence[Answer]:
        """See `Generating.run`."""
        assert load.frames is not None, "the model would not end its rows"
        subject = self._subject
        tokens = TEXTS[load.text].tokens
        ids = torch.stack([subject.ids(number, tokens) for number in range(load.slots)])
        made = csm_codes(subject.model, ids.to(subject.model.device), load.frames)
        audio_s = subject.sizes.frames_to_seconds(made.shape[1])
        return [
            Answer(frames=made.shape[1], audio_s=audio_s, empty=made.shape[1] < load.frames) for _ in made
        ]


class CaptionerGenerate:
    """See `against.Generating`: transformers' thinker, filled with the tensors of our side."""

    copies = 2  # while it is made; both have one set then

    def load(self, held: Opened) -> None:
        """See `Generating.load`."""
        subject = held.subject
        assert isinstance(subject, CaptionerSubject), "the table below says so"
        self._subject = subject
        self._model = thinker_of(subject, held.device.torch_device, held.dtype)

    @torch.inference_mode()
    def run(self, load: Load) -> Sequence[Answer]:
        """See `Generating.run`."""
        assert load.frames is not None, "the model would not end its rows"
        mel, place = self._subject.mel(load.text), self._model.device
        heard = (((mel.shape[1] - 1) // 2 + 1) - 2) // 2 + 1
        ids = torch.stack([self._subject.ids(heard, number) for number in range(load.slots)]).to(place)
        rows = load.slots
        made = self._model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            input_features=mel.expand(rows, *mel.shape).to(place, self._model.dtype),
            feature_attention_mask=torch.ones(rows, mel.shape[1], dtype=torch.int64, device=place),
            do_sample=False,
            min_new_tokens=load.frames,
            max_new_tokens=load.frames,
            eos_token_id=None,
        )
        written = made[:, ids.shape[1] :].tolist()
        return [
            Answer(frames=len(row), audio_s=TEXTS[load.text].clip_s, empty=not row, output=tuple(row))
            for row in written
        ]


def thinker_of(subject: CaptionerSubject, device: Any, dtype: torch.dtype) -> Any:
    """A `Qwen2_5OmniThinkerForConditionalGeneration` that holds the very tensors of a subject.

    Its tower of vision is as small as can be, since nobody looks.
    """
    from transformers import Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration

    with torch.device(device):
        model = Qwen2_5OmniThinkerForConditionalGeneration._from_config(
            Qwen2_5OmniThinkerConfig(**_thinker_config(subject.shape)),
            attn_implementation="sdpa",
            dtype=dtype,
        )
    held = _Tensors()
    subject.loaded.language.read(held)
    subject.loaded.tower.read(held)
    for prefix, module in (
        (TEXT, model.model.language_model),
        (AUDIO, model.model.audio_tower),
        (HEAD, model.lm_head),
    ):
        module.load_state_dict(held.under(prefix, dtype), assign=True, strict=False)
    return model.eval().requires_grad_(False)


class _Tensors(Checkpoint):
    """Stands for a checkpoint that is read into weights: notes where each tensor of it lies, and reads nothing."""

    def __init__(self) -> None:
        self._found: dict[str, Tensor] = {}

    def copy(self, name: str, target: Any) -> None:
        self._found[name] = target

    def under(self, prefix: str, dtype: torch.dtype) -> dict[str, Tensor]:
        return {
            name.removeprefix(prefix): tensor.to(dtype)
            for name, tensor in self._found.items()
            if name.startswith(prefix)
        }


def _thinker_config(shape: Shape) -> dict[str, Any]:
    text, audio = shape.text, shape.audio
    part = text.head_dim // 16  # of the three axes of the rotary embedding, which count alike here
    return {
        "audio_token_index": shape.audio_id,
        "audio_start_token_id": shape.audio_start_id,
        "audio_end_token_id": shape.audio_end_id,
        "vision_start_token_id": -1,  # it looks for them, and finds none
        "image_token_index": -2,
        "video_token_index": -3,
        "text_config": {
            "hidden_size": text.hidden, "num_hidden_layers": text.layers, "num_attention_heads": text.heads,
            "num_key_value_heads": text.kv_heads, "intermediate_size": text.intermediate,
            "vocab_size": text.vocabulary, "rms_norm_eps": text.norm_eps, "tie_word_embeddings": text.tied,
            "max_position_embeddings": text.max_positions,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": text.rope_theta,
                "mrope_section": [2 * part, 3 * part, 3 * part],
            },
        },
        "audio_config": {
            "d_model": audio.hidden, "encoder_layers": audio.layers, "encoder_attention_heads": audio.heads,
            "encoder_ffn_dim": audio.intermediate, "num_mel_bins": audio.mel_bands,
            "n_window": audio.chunk_frames // 2, "output_dim": audio.output,
        },
        "vision_config": {
            "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 1,
            "out_hidden_size": text.hidden, "fullatt_block_indexes": [0],
        },
    }  # fmt: skip


SIDES: dict[str, Any] = {"csm-1b": CsmGenerate, "acestep-captioner": CaptionerGenerate}
"""By model."""
