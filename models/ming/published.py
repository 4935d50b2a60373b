"""The sizes of the published checkpoint, as its `config.json` has them: for measurements without a download."""

from __future__ import annotations

from typing import Any


def content(
    *, width: int = 1024, depth: int = 8, hidden: int = 896, layers: int = 24, vocabulary: int = 151936
) -> dict[str, Any]:
    """The fields that are read of Ming-omni-tts-0.5B's `config.json`, or those of a smaller model of its form.

    Args:
        width: Of the flow network and the aggregator.
        depth: Blocks of either.
        hidden: Width of the backbone and of the audio encoder and decoder.
        layers: Of each of these three.
        vocabulary: Of the backbone.
    """
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
