"""Whether folders hold the language model and the codec that their code expects."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from ..comparison import TOKENIZER, Tie, Wanted, compare, known_text_finding, ties_finding
from ..finding import Finding
from .codec import Codec, check_agreement
from .config import CodecConfig, LanguageConfig
from .folders import Folders
from .handler import TOKENIZER_FILE
from .language_model import LanguageModel
from .prompt import Template
from .tokenizer import Tokenizer
from .weights import Weights

_NOT_READ = frozenset({"local_transformer.wte.weight"})
"""The published program ignores it as well."""

_PUBLISHED_VOCABULARY = 16384
_KNOWN_IDS = (4, 600, 289, 10356, 13, 10356, 10425, 1860, 4546, 12907, 10363, 13325, 11492)
"""Of the first part of each prompt, in the published vocabulary."""


def examine(folder: Path) -> tuple[Finding, ...]:
    """Compare both parts with what their loading takes.

    Raises:
        ModelUnavailable: There is nothing to compare; the message says what is missing or damaged.
    """
    folders = Folders.find(folder)
    config, codec = LanguageConfig.read(folders.language), CodecConfig.read(folders.codec)
    check_agreement(codec, config.codebooks, config.codebook_sizes, config.sample_rate)
    return (
        Finding(
            question="configuration",
            as_expected=True,
            answer=f"{config.decoder.layers} layers of {config.decoder.hidden}, {config.codebooks} codebooks at "
            f"{codec.sample_rate} Hz, and the codec agrees",
        ),
        _tokenizer(config, folders.language / TOKENIZER_FILE),
        *_language(config, folders.language),
        *_codec(codec, folders.codec),
    )


class _Survey(Weights):
    """Weights that note what is taken of them, and give tensors without content."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.wanted: list[Wanted] = []
        self.ties: list[Tie] = []

    def take(self, *names: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Note a tensor."""
        self.wanted.append(Wanted(names=names, shape=shape))
        return torch.empty(shape, dtype=dtype, device="meta")

    def check_tied(self, head: str, source: str) -> None:
        """Note a tie."""
        self.ties.append(Tie(name=head, other=source))


def _language(config: LanguageConfig, folder: Path) -> tuple[Finding, ...]:
    survey = _Survey(folder)
    LanguageModel(config, survey, device=torch.device("meta"), dtype=torch.float32, positions=1, form="plain")
    stored = survey.headers()
    findings = compare(stored, survey.wanted, unread=_NOT_READ.__contains__)
    return (*findings, ties_finding(survey.ties, stored))


def _codec(config: CodecConfig, folder: Path) -> tuple[Finding, ...]:
    survey = _Survey(folder)
    Codec(config, survey, torch.device("meta"), form="plain")
    found = compare(survey.headers(), survey.wanted)
    return tuple(replace(finding, question=f"codec: {finding.question}") for finding in found)


def _tokenizer(config: LanguageConfig, file: Path) -> Finding:
    prefix = Template.of(config, Tokenizer(file)).user_prefix
    if max(prefix) >= config.vocabulary:
        return Finding(question=TOKENIZER, as_expected=False, answer="it has more ids than the model")
    if config.vocabulary != _PUBLISHED_VOCABULARY:
        return Finding(question=TOKENIZER, as_expected=True, answer="it is not of the published size")
    same = prefix == _KNOWN_IDS
    return known_text_finding(same=same)
