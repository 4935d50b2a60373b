"""The sizes of the published model, as its `config.json` has them: for measurements without a download."""

from __future__ import annotations

from typing import Any

from transformers import Wav2Vec2Config

CONFIG: dict[str, Any] = {
    "vocab_size": 31, "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
    "intermediate_size": 4096, "conv_dim": [512] * 7, "conv_bias": True, "feat_extract_norm": "layer",
    "do_stable_layer_norm": True, "num_conv_pos_embeddings": 128, "num_conv_pos_embedding_groups": 16,
    "pad_token_id": 0,
}  # fmt: skip


def published_config() -> Wav2Vec2Config:
    """A configuration of these sizes."""
    return Wav2Vec2Config(**CONFIG)
