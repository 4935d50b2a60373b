"""Whether a folder holds the CSM that its code expects."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import CsmConfig, CsmForConditionalGeneration

from ..comparison import SHAPES, TIES, Tie, dtypes_finding, names_finding, ties_finding
from ..errors import ModelUnavailable
from ..finding import Finding
from ..tensor_files import StoredTensor, stored_in
from .checkpoint import quiet, read_tokenizer
from .folder import check_folder, weight_files
from .prompt import Tokens
from .sizes import Sizes

_TABLE = Tie(
    name="backbone_model.embed_tokens.embed_audio_tokens.weight",
    other="depth_decoder.model.embed_tokens.weight",
)


def examine(folder: Path) -> tuple[Finding, ...]:
    """Compare configuration, tokenizer and tensors with what transformers' own loading takes.

    Raises:
        ModelUnavailable: There is nothing to compare; the message says what is missing or damaged.
    """
    folder = check_folder(folder)
    config = _config(folder)
    sizes = Sizes.of(config)
    stored = stored_in(weight_files(folder))
    return (
        Finding(
            question="configuration",
            as_expected=True,
            answer=f"{config.num_hidden_layers} layers of {sizes.width}, {sizes.codebooks} codebooks of "
            f"{sizes.ids} at {sizes.sample_rate} Hz",
        ),
        _tokenizer(folder, config),
        *_tensors(config, stored),
        dtypes_finding({name: tensor.dtype for name, tensor in stored.items()}),
    )


def _config(folder: Path) -> Any:
    try:
        return CsmConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # whatever the library makes of a config that it does not like
        raise ModelUnavailable(
            f"{folder / 'config.json'} cannot be used: {type(error).__name__}: {error}"
        ) from error


def _tensors(config: Any, stored: Mapping[str, StoredTensor]) -> tuple[Finding, ...]:
    """Let the library load tensors that take no memory, and tell what it says of them.

    The names are those of its classes, which for the codec are others than those of the file.
    """
    model, report = _survey(config, stored)
    parameters = model.state_dict()
    missing = [(name, tuple(parameters[name].shape)) for name in sorted(report["missing_keys"])]
    shapes = [
        f"{name} is {list(found)}, wanted {list(wanted)}"
        for name, found, wanted in sorted(report["mismatched_keys"], key=str)
    ]
    return (
        names_finding(missing, sorted(report["unexpected_keys"]), stored),
        Finding(
            question=SHAPES,
            as_expected=not shapes,
            answer=f"{len(shapes)} differ: {shapes[0]}" if shapes else "all are those of config.json",
            details=tuple(shapes),
        ),
        _tie(model, stored),
    )


def _survey(config: Any, stored: Mapping[str, StoredTensor]) -> tuple[Any, Any]:
    # A zero for each, so that tensors which are not tied do not look like one.
    tensors = {name: torch.zeros(()).expand(tensor.shape) for name, tensor in stored.items()}
    with quiet():
        model, report = CsmForConditionalGeneration.from_pretrained(
            None,
            config=config,
            state_dict=tensors,
            dtype=torch.float32,
            attn_implementation="sdpa",
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    return model, report


def _tie(model: Any, stored: Mapping[str, StoredTensor]) -> Finding:
    """The table of audio embeddings must be one."""
    backbone = model.backbone_model.embed_tokens.embed_audio_tokens.weight
    if backbone.data_ptr() != model.depth_decoder.model.embed_tokens.weight.data_ptr():
        return Finding(
            question=TIES,
            as_expected=False,
            answer="the audio embeddings of backbone and depth decoder are not one table; set "
            "tie_codebooks_embeddings in config.json",
        )
    return ties_finding([_TABLE], stored)


def _tokenizer(folder: Path, config: Any) -> Finding:
    question = "tokenizer"
    try:
        tokens = Tokens.of(read_tokenizer(folder), config)
    except ModelUnavailable as error:
        return Finding(question=question, as_expected=False, answer=str(error))
    ids = tokens.ids(0, "Hello.")
    return Finding(
        question=question, as_expected=True, answer=f"a text of one word is {len(ids)} tokens with its marks"
    )
