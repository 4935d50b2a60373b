"""The sizes of the published checkpoints, as their `config.json` have them: for measurements without a download."""

from __future__ import annotations

from typing import Any

LANGUAGE: dict[str, Any] = {
    "model_type": "moss_tts_nano",
    "n_vq": 16,
    "audio_vocab_size": 1024,
    "audio_codebook_sizes": [1024] * 16,
    "audio_pad_token_id": 1024,
    "pad_token_id": 3,
    "im_start_token_id": 4,
    "im_end_token_id": 5,
    "audio_start_token_id": 6,
    "audio_end_token_id": 7,
    "audio_user_slot_token_id": 8,
    "audio_assistant_slot_token_id": 9,
    "audio_tokenizer_sample_rate": 48000,
    "local_transformer_layers": 1,
    "gpt2_config": {
        "n_embd": 768,
        "n_head": 12,
        "n_layer": 12,
        "n_inner": 3072,
        "n_positions": 32768,
        "vocab_size": 16384,
        "activation_function": "gelu_new",
        "position_embedding_type": "rope",
        "rope_base": 10000.0,
        "layer_norm_epsilon": 1e-5,
    },
}


def _patch(size: int) -> dict[str, Any]:
    return {"module_type": "PatchedPretransform", "patch_size": size}


def _transformer(inputs: int, outputs: int, layers: int, seconds: float) -> dict[str, Any]:
    return {
        "module_type": "Transformer",
        "input_dimension": inputs,
        "output_dimension": outputs,
        "d_model": 256,
        "num_heads": 4,
        "dim_feedforward": 1024,
        "num_layers": layers,
        "context_duration": seconds,
        "max_period": 10000,
    }


CODEC: dict[str, Any] = {
    "model_type": "moss-audio-tokenizer",
    "sampling_rate": 48000,
    "downsample_rate": 3840,
    "number_channels": 2,
    "enable_channel_interleave": True,
    "quantizer_type": "rlfq",
    "quantizer_kwargs": {
        "input_dim": 768, "rvq_dim": 512, "output_dim": 768, "num_quantizers": 16, "codebook_size": 1024,
        "codebook_dim": 8,
    },
    "encoder_kwargs": [
        _patch(240), _transformer(240, 384, 4, 4.0), _patch(2), _transformer(768, 384, 2, 6.0), _patch(2),
        _transformer(768, 384, 2, 8.0), _patch(2), _transformer(768, 192, 4, 10.0), _patch(4),
    ],
    "decoder_kwargs": [
        _patch(4), _transformer(192, 768, 4, 10.0), _patch(2), _transformer(384, 768, 2, 8.0), _patch(2),
        _transformer(384, 768, 2, 6.0), _patch(2), _transformer(384, 240, 4, 4.0), _patch(240),
    ],
}  # fmt: skip
