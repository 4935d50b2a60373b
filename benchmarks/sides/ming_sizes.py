"""The configurations of Ming that are measured, in the published layout of `config.json`."""

from __future__ import annotations

from typing import Any

from soundmill.models.ming.config import MingConfig


def published() -> MingConfig:
    """Ming-omni-tts-0.5B."""
    return MingConfig.parse(_content(width=1024, depth=8, hidden=896, layers=24, vocabulary=151936))


def middle() -> MingConfig:
    """Half of the widths and depths, with the published rates: small enough for a processor."""
    return MingConfig.parse(_content(width=512, depth=4, hidden=448, layers=12, vocabulary=2048))


def _content(*, width: int, depth: int, hidden: int, layers: int, vocabulary: int) -> dict[str, Any]:
    blocks = {"hidden_size": width, "depth": depth, "num_heads": width // 64, "mlp_ratio": 4}
    stack = {
        "hidden_size": hidden,
        "intermediate_size": hidden * 38 // 7,  # 4864 to 896
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 64,
        "num_key_value_heads": max(1, hidden // 448),
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "max_position_embeddings": 32768,
    }
    audio = stack | {
        "vocab_size": 1,
        "use_sliding_window": True,
        "sliding_window": 64,
        "max_window_layers": 0,
    }
    return {
        "llm_config": stack | {"vocab_size": vocabulary},
        "ditar_config": blocks | {"patch_size": 4, "history_patch_size": 32},
        "aggregator_config": blocks,
        "audio_tokenizer_config": {
            "sample_rate": 44100,
            "patch_size": 4,
            "enc_kwargs": {"input_dim": 882, "hop_size": 882, "latent_dim": 64, "backbone": audio},
            "dec_kwargs": {"output_dim": 882, "latent_dim": 64, "backbone": audio},
        },
    }
