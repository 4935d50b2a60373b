"""A checkpoint of CSM in memory: transformers' own classes, and the tokenizer."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, CsmConfig, CsmForConditionalGeneration
from transformers.utils import logging as transformers_logging

from ..errors import ModelUnavailable
from .folder import check_folder
from .prompt import Tokens
from .sizes import Sizes

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What was loaded.

    Attributes:
        model: A `CsmForConditionalGeneration` in evaluation mode; its codec is fp32.
        tokens: Makes the ids of texts.
        sizes: Of the model.
    """

    model: Any
    tokens: Tokens
    sizes: Sizes


def load_checkpoint(folder: Path | None, *, device: torch.device | str, dtype: torch.dtype) -> Checkpoint:
    """Load the folder of a checkpoint onto a device.

    Args:
        folder: In the published layout; nothing is fetched.
        device: Where the weights go.
        dtype: Of all but the codec, which stays fp32.

    Raises:
        ModelUnavailable: With the name of the file that is missing, damaged or of another model.
    """
    folder = check_folder(folder)
    model, report, tokenizer = _read(folder)
    _check_whole(folder, report)
    _check_tied(folder, model)
    sizes = Sizes.of(model.config)
    tokens = Tokens.of(tokenizer, model.config)
    return Checkpoint(model=placed(model, device, dtype), tokens=tokens, sizes=sizes)


def _read(folder: Path) -> tuple[Any, Any, Any]:
    """The model as fp32 on the host, what is amiss with it, and the tokenizer."""
    try:
        with quiet():
            # Read as fp32, in which the codec has to stay, and shortened afterwards.
            model, report = CsmForConditionalGeneration.from_pretrained(
                folder,
                dtype=torch.float32,
                attn_implementation="sdpa",
                local_files_only=True,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except Exception as error:  # whatever the library makes of a config that it does not like
        raise ModelUnavailable(f"{folder} cannot be loaded: {type(error).__name__}: {error}") from error
    return model, report, read_tokenizer(folder)


def read_tokenizer(folder: Path) -> Any:
    """The fast tokenizer of a folder.

    Raises:
        ModelUnavailable: The library does not like it.
    """
    try:
        with quiet():
            return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise ModelUnavailable(f"{folder} cannot be loaded: {type(error).__name__}: {error}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the library from standard error: its report comes as ours, in a sentence."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)


def random_model(config: CsmConfig, device: torch.device | str, dtype: torch.dtype, seed: int = 0) -> Any:
    """A model of a size with random weights, for measurements: speed does not depend on their values."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with torch.device(device):
            model = CsmForConditionalGeneration._from_config(config, attn_implementation="sdpa", dtype=dtype)
            with torch.no_grad():
                model.depth_decoder.codebooks_head.weight.normal_(0, 0.05)
                for name, table in model.codec_model.named_buffers():
                    if name.endswith("embed_sum"):  # zeros, of which nothing would be heard
                        table.normal_()
    return placed(model, device, dtype)


def parameters(config: CsmConfig) -> int:
    """How many numbers a model of a size holds, tied ones once; none is made."""
    with torch.device("meta"):
        model = CsmForConditionalGeneration._from_config(config)
    return sum(weight.numel() for weight in model.parameters())


def placed(model: Any, device: torch.device | str, dtype: torch.dtype) -> Any:
    """Move a `CsmForConditionalGeneration` to a device, all but its codec as `dtype`."""
    codec = model.codec_model
    model.codec_model = None
    model.to(device=device, dtype=dtype)
    model.codec_model = codec.to(device=device, dtype=torch.float32)
    return model.eval().requires_grad_(False)


def _check_whole(folder: Path, report: Any) -> None:
    for kind in ("missing_keys", "mismatched_keys"):
        # What is mismatched comes with its sizes.
        if found := sorted(key if isinstance(key, str) else str(key[0]) for key in report[kind]):
            what = "lack" if kind == "missing_keys" else "have another shape for"
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            raise ModelUnavailable(f"the weights in {folder} {what} {found[0]}{more}; download them again")
    if unused := len(report["unexpected_keys"]):
        logger.warning("tensors of the checkpoint are not used", extra={"tensors": unused})


def _check_tied(folder: Path, model: Any) -> None:
    """The table of audio embeddings must be one: a copy that was never loaded would be random."""
    backbone = model.backbone_model.embed_tokens.embed_audio_tokens.weight
    depth = model.depth_decoder.model.embed_tokens.weight
    if backbone.data_ptr() != depth.data_ptr() or backbone.shape != depth.shape:
        raise ModelUnavailable(
            f"the audio embeddings of backbone and depth decoder in {folder} are not one table; set "
            "tie_codebooks_embeddings in its config.json"
        )
