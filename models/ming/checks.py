"""What a checkpoint says about itself: the questions that only the published weights can answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from ..comparison import TOKENIZER, Wanted, compare, known_text_finding
from ..finding import Finding
from ..tensor_files import stored_tensors
from .config import EXECUTED_ENCODER_LAYERS, MingConfig
from .layout import AGGREGATOR, DECODER, ENCODER, FLOW, LLM, layout, unread
from .prompt import SPEECH, PromptWriter
from .speaker import FILE_NAME as SPEAKER_FILE
from .tokenizer import MingTokenizer
from .weights import FILE_NAME

_INITIAL_SPREAD = 0.02  # of transformers' Qwen2
_OUTLIER = 7.0  # standard deviations; a few in a million normals lie beyond five

_PUBLISHED_START = 151706  # the id of <audio> in the published vocabulary
_KNOWN_TEXT = "今天天气很好，hello world."
_KNOWN_IDS = (100644, 104307, 101243, 3837, 14990, 1879, 13)


def examine(folder: Path) -> tuple[Finding, ...]:
    """Ask all questions of a checkpoint folder.

    Where names or shapes differ, what is in the tensors is not looked at.

    Raises:
        ModelUnavailable: It cannot be loaded at all.
    """
    config = MingConfig.load(folder)
    stored = stored_tensors(folder / FILE_NAME)
    spare = unread(config)
    # All that is published, whether its layers run or not.
    wanted = [Wanted(names=(name,), shape=shape) for name, shape in layout(config).items()]
    outside = (_configuration(config, len(spare)), *compare(stored, wanted))
    if not all(finding.as_expected for finding in outside):
        return outside
    with safetensors.safe_open(folder / FILE_NAME, framework="pt") as tensors:
        return (
            *outside,
            _head(tensors),
            encoder_depth(tensors, config),
            _frequencies(tensors, config),
            _window(tensors, config),
            _tokens(PromptWriter(MingTokenizer(folder)), MingTokenizer(folder)),
            _speaker(folder),
        )


def _configuration(config: MingConfig, spare: int) -> Finding:
    return Finding(
        question="configuration",
        as_expected=True,
        answer=f"{config.llm.layers} layers of {config.llm.width}, {config.audio.sample_rate} Hz; {spare} tensors "
        "are published and not read",
    )


def _speaker(folder: Path) -> Finding:
    there = (folder / SPEAKER_FILE).is_file()
    return Finding(
        question="speaker network",
        as_expected=there,
        advice=True,
        answer=f"{SPEAKER_FILE} is there"
        if there
        else f"{SPEAKER_FILE} is missing: voices cannot be taken from recordings",
    )


def encoder_depth(tensors: Any, config: MingConfig) -> Finding:
    """Whether the layers of the audio encoder that the published run leaves out were ever trained.

    Untouched ones have norms of exactly 1, biases of exactly 0, and normal matrices of spread 0.02.
    """
    layers = range(EXECUTED_ENCODER_LAYERS, config.audio.encoder.layers)
    trained = [layer for layer in layers if not all(_untouched(tensors, f"{ENCODER}encoder.layers.{layer}."))]
    if not trained:
        answer = f"layers {layers.start} and above were never trained: encoder_layers={layers.start} is right"
    else:
        answer = (
            f"layers {', '.join(map(str, trained))} were trained: listen to a prompt that is encoded and decoded"
            f" with encoder_layers={layers.start} and with {layers.stop}, and keep the cleaner one"
        )
    question = "depth of the audio encoder"
    return Finding(question=question, as_expected=not trained, answer=answer, advice=True)


def _untouched(tensors: Any, prefix: str) -> Iterator[bool]:
    for name in tensors.keys():  # noqa: SIM118 - no dict
        if name.startswith(prefix):
            value = tensors.get_tensor(name).float()
            if "layernorm" in name:
                yield bool((value == 1).all())
            elif name.endswith("bias"):
                yield bool((value == 0).all())
            else:
                spread = value.std().item()
                yield abs(spread / _INITIAL_SPREAD - 1) < 0.1 and value.abs().max().item() < _OUTLIER * spread


def _head(tensors: Any) -> Finding:
    names = set(tensors.keys())
    head, embedding = "model.lm_head.weight", f"{LLM}embed_tokens.weight"
    same = head not in names or torch.equal(tensors.get_tensor(head), tensors.get_tensor(embedding))
    return Finding(
        question="head of the vocabulary",
        as_expected=same,
        answer="it is the embedding"
        if same
        else "it differs from the embedding; text cannot be written with it",
    )


def _frequencies(tensors: Any, config: MingConfig) -> Finding:
    same = True
    for prefix, size in ((FLOW, config.flow), (AGGREGATOR, config.aggregator)):
        expected = 10_000.0 ** (-torch.arange(0, size.head_size, 2, dtype=torch.float32) / size.head_size)
        same &= _stored(tensors, f"{prefix}rotary_embed.inv_freq", expected, rtol=1e-5)
    return Finding(
        question="frequencies of the rotations",
        as_expected=same,
        answer="base 10,000" if same else "they are not those of base 10,000; the flow network will be wrong",
    )


def _window(tensors: Any, config: MingConfig) -> Finding:
    hann = torch.hann_window(config.audio.n_fft)
    same = _stored(tensors, f"{DECODER}head.istft.window", hann, rtol=1e-2)
    return Finding(
        question="window of the synthesis",
        as_expected=same,
        answer="a periodic Hann window" if same else "it is no Hann window; the audio will be wrong",
    )


def _stored(tensors: Any, name: str, expected: Tensor, *, rtol: float) -> bool:
    if name not in set(tensors.keys()):
        return True
    return bool(torch.allclose(tensors.get_tensor(name).float(), expected, rtol=rtol, atol=1e-6))


def _tokens(writer: PromptWriter, tokenizer: MingTokenizer) -> Finding:
    if tokenizer.control("<audio>") != _PUBLISHED_START:
        return Finding(question=TOKENIZER, as_expected=False, answer="it is not the published vocabulary")
    ids = writer.write(SPEECH, _KNOWN_TEXT).ids
    same = any(ids[at : at + len(_KNOWN_IDS)] == _KNOWN_IDS for at in range(len(ids)))
    return known_text_finding(same=same)
