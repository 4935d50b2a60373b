"""Qwen2 stacks from transformers, with the published tensors and attention by sdpa."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .config import StackSize
from .weights import Weights


def qwen2_stack(weights: Weights, size: StackSize, *, layers: int, embed: bool) -> Any:
    """A `Qwen2Model`.

    Args:
        weights: Those under the stack's prefix.
        layers: How many run.
        embed: Whether it has an embedding; otherwise it is fed vectors only.
    """
    from transformers import Qwen2Config, Qwen2Model
    from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding

    settings = Qwen2Config(
        vocab_size=size.vocabulary if embed else 1,
        hidden_size=size.width,
        intermediate_size=size.inner,
        num_hidden_layers=layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        hidden_act="silu",
        rms_norm_eps=size.eps,
        rope_parameters={"rope_type": "default", "rope_theta": size.rope_theta},
        use_sliding_window=False,  # the masks are ours
        attn_implementation="sdpa",
        tie_word_embeddings=False,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )
    with torch.device("meta"):  # no memory and no time for values that are replaced
        model = Qwen2Model(settings)
    if not embed:
        model.embed_tokens = None
    state = {name: weights.take(name) for name in model.state_dict()}
    model.load_state_dict(state, assign=True)
    model.rotary_emb = Qwen2RotaryEmbedding(config=settings).to(weights.device)
    return _frozen(model)


def _frozen(module: nn.Module) -> nn.Module:
    module.requires_grad_(False)
    module.eval()
    return module
