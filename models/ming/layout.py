"""The published tensors: every name and shape that a checkpoint of given sizes holds."""

from __future__ import annotations

from collections.abc import Iterator

from .config import SPEAKER_SIZE, TIME_FEATURES, BlockSize, MingConfig, StackSize

Shapes = dict[str, tuple[int, ...]]

LLM = "model.model."
ENCODER = "audio.encoder."
DECODER = "audio.decoder."
AGGREGATOR = "linear_proj_audio."
FLOW = "flowloss.cfm.model."


def layout(config: MingConfig) -> Shapes:
    """All tensors of the published file by name, those that nothing reads included (`unread`)."""
    return dict(_entries(config))


def unread(config: MingConfig) -> frozenset[str]:
    """Stored, but never used.

    The head of the vocabulary repeats the embedding; the stacks of the audio are fed vectors; a norm of the
    encoder is never called; the window and the frequencies are computed here in fp32, because the stored
    window is rounded to bf16.
    """
    names = {
        "model.lm_head.weight",
        f"{ENCODER}encoder.embed_tokens.weight",
        f"{ENCODER}aggregator.embed_tokens.weight",
        f"{ENCODER}norm.weight",
        f"{ENCODER}norm.bias",
        f"{DECODER}decoder.embed_tokens.weight",
        f"{DECODER}head.istft.window",
        f"{AGGREGATOR}rotary_embed.inv_freq",
        f"{FLOW}rotary_embed.inv_freq",
    }
    left = range(config.audio.encoder_layers, config.audio.encoder.layers)
    for index in left:
        names |= {f"{ENCODER}encoder.layers.{index}.{name}" for name, _ in _layer(config.audio.encoder)}
    return frozenset(names)


def _entries(config: MingConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    llm = config.llm
    yield from _stack(LLM, llm, llm.layers)
    yield "model.lm_head.weight", (llm.vocabulary, llm.width)
    yield from _audio(config)
    yield from _block_stack(AGGREGATOR, config.aggregator, config.audio.channels, llm.width)
    yield f"{AGGREGATOR}word_embedder.weight", (1, config.aggregator.width)
    yield from _flow(config)
    yield "stop_head.weight", (2, llm.width)
    yield "stop_head.bias", (2,)
    yield "spk_head.weight", (llm.width, SPEAKER_SIZE)
    yield "spk_head.bias", (llm.width,)


def _flow(config: MingConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    width = config.flow.width
    yield from _block_stack(FLOW, config.flow, config.audio.channels, config.audio.channels)
    yield from _linear(f"{FLOW}t_embedder.time_mlp.0", width, TIME_FEATURES)
    yield from _linear(f"{FLOW}t_embedder.time_mlp.2", width, width)
    yield from _linear(f"{FLOW}c_embedder.cond_embedder", width, config.llm.width)


def _audio(config: MingConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    audio = config.audio
    encoder, decoder = audio.encoder, audio.decoder
    yield f"{ENCODER}cls_embed", (1, 1, encoder.width)
    yield f"{ENCODER}fc1.weight", (encoder.width, audio.hop)
    yield from _linear(f"{ENCODER}fc2", encoder.width, encoder.width)
    yield from _linear(f"{ENCODER}fc3", 2 * audio.channels, encoder.width)
    yield f"{ENCODER}norm.weight", (encoder.width,)
    yield f"{ENCODER}norm.bias", (encoder.width,)
    yield from _stack(f"{ENCODER}encoder.", encoder, encoder.layers)
    yield from _stack(f"{ENCODER}aggregator.", encoder, audio.aggregator_layers)
    yield from _linear(f"{DECODER}fc1", decoder.width, audio.channels)
    yield from _linear(f"{DECODER}head.out", audio.n_fft + 2, decoder.width)
    yield f"{DECODER}head.istft.window", (audio.n_fft,)
    yield from _stack(f"{DECODER}decoder.", decoder, decoder.layers)


def _stack(prefix: str, stack: StackSize, layers: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{prefix}embed_tokens.weight", (stack.vocabulary, stack.width)
    for index in range(layers):
        for name, shape in _layer(stack):
            yield f"{prefix}layers.{index}.{name}", shape
    yield f"{prefix}norm.weight", (stack.width,)


def _layer(stack: StackSize) -> Iterator[tuple[str, tuple[int, ...]]]:
    kv = stack.kv_heads * stack.head_size
    yield from _linear("self_attn.q_proj", stack.width, stack.width)
    yield from _linear("self_attn.k_proj", kv, stack.width)
    yield from _linear("self_attn.v_proj", kv, stack.width)
    yield "self_attn.o_proj.weight", (stack.width, stack.width)
    yield "mlp.gate_proj.weight", (stack.inner, stack.width)
    yield "mlp.up_proj.weight", (stack.inner, stack.width)
    yield "mlp.down_proj.weight", (stack.width, stack.inner)
    yield "input_layernorm.weight", (stack.width,)
    yield "post_attention_layernorm.weight", (stack.width,)


def _block_stack(
    prefix: str, size: BlockSize, source: int, target: int
) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from _linear(f"{prefix}x_embedder", size.width, source)
    yield f"{prefix}rotary_embed.inv_freq", (size.head_size // 2,)
    for index in range(size.depth):
        block = f"{prefix}blocks.{index}."
        yield f"{block}norm1.weight", (size.width,)
        for name in ("to_q", "to_k", "to_v", "to_out.0"):
            yield from _linear(f"{block}attn.{name}", size.width, size.width)
        yield f"{block}norm2.weight", (size.width,)
        yield from _linear(f"{block}mlp.ff.0.0", size.inner, size.width)
        yield from _linear(f"{block}mlp.ff.2", size.width, size.inner)
    yield f"{prefix}final_layer.norm_final.weight", (size.width,)
    yield from _linear(f"{prefix}final_layer.linear", target, size.width)


def _linear(name: str, out: int, into: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (out, into)
    yield f"{name}.bias", (out,)
