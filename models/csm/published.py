"""The sizes of CSM-1B, as its `config.json` has them: for measurements without a download."""

from __future__ import annotations

from typing import Any

from transformers import CsmConfig

CONFIG: dict[str, Any] = {
    "num_codebooks": 32, "vocab_size": 2051, "text_vocab_size": 128256, "hidden_size": 2048,
    "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
    "head_dim": 64, "max_position_embeddings": 2048, "eos_token_id": None, "codebook_eos_token_id": 0,
    "codebook_pad_token_id": 2050,
    "depth_decoder_config": {
        "num_codebooks": 32, "backbone_hidden_size": 2048, "vocab_size": 2051, "hidden_size": 1024,
        "intermediate_size": 8192, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2,
        "head_dim": 128, "max_position_embeddings": 33,
    },
    "codec_config": {
        "sampling_rate": 24000, "hidden_size": 512, "num_filters": 64, "upsampling_ratios": [8, 6, 5, 4],
        "codebook_size": 2048, "codebook_dim": 256, "num_quantizers": 32, "num_hidden_layers": 8,
        "num_attention_heads": 8, "num_key_value_heads": 8, "intermediate_size": 2048, "sliding_window": 250,
        "upsample_groups": 512,
    },
}  # fmt: skip


def published_config() -> CsmConfig:
    """A configuration of these sizes; what is not among them has the defaults of transformers, which are CSM's."""
    return CsmConfig(**CONFIG)
