"""A CSM of random weights in any small size."""

from __future__ import annotations

from typing import Any

import torch
from transformers import CsmConfig, CsmDepthDecoderConfig, CsmForConditionalGeneration, MimiConfig


def tiny_csm(*, codebooks: int, ids: int, seed: int = 0) -> Any:
    """A `CsmForConditionalGeneration` in evaluation mode.

    Args:
        codebooks: Of a frame.
        ids: Of a codebook; the last three are reserved.
        seed: Of the weights.
    """
    codec = MimiConfig(
        num_filters=4, hidden_size=32, upsampling_ratios=[8, 6, 5, 4], codebook_size=ids - 3, codebook_dim=16,
        vector_quantization_hidden_dimension=16, num_quantizers=codebooks, upsample_groups=32,
        num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=4, head_dim=8, intermediate_size=64,
    )  # fmt: skip
    depth = CsmDepthDecoderConfig(
        num_codebooks=codebooks, backbone_hidden_size=64, vocab_size=ids, hidden_size=48, intermediate_size=64,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=12,
        max_position_embeddings=codebooks + 1,
    )  # fmt: skip
    config = CsmConfig(
        num_codebooks=codebooks, vocab_size=ids, text_vocab_size=40, hidden_size=64, intermediate_size=96,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
        bos_token_id=1, pad_token_id=2, eos_token_id=None, audio_token_id=38, audio_eos_token_id=39,
        codebook_eos_token_id=0, codebook_pad_token_id=ids - 1, codec_config=codec, depth_decoder_config=depth,
        initializer_range=0.3,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = CsmForConditionalGeneration._from_config(config, attn_implementation="sdpa").eval()
    model.requires_grad_(False)
    with torch.no_grad():
        # What the codec does not have is never the likeliest, so that `generate` does without it too.
        model.lm_head.weight[ids - 3 :] = 0
        model.depth_decoder.codebooks_head.weight.normal_()[:, :, ids - 3 :] = 0
    return model
