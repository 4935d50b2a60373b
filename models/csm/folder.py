"""A folder with a checkpoint of CSM in its published layout: what has to be in it, and whether it is whole.

The published repository holds the weights twice: `transformers-0000…-of-….safetensors`, to which the
key `transformers_weights` of the config points, and the original layout under the usual name
`model.safetensors`, whose tensors are called and rotated otherwise and never loaded.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import ModelUnavailable
from ..tensor_files import stored_in

ARCHITECTURE = "CsmForConditionalGeneration"
PUBLISHED_INDEX = "transformers.safetensors.index.json"
_USUAL = ("model.safetensors.index.json", "model.safetensors")
_NEEDED = ("config.json", "tokenizer.json", "tokenizer_config.json")
_A_TENSOR = "backbone_model.norm.weight"


def check_folder(folder: Path | None) -> Path:
    """See that the folder holds a whole checkpoint in the layout of transformers.

    Nothing but headers is read.

    Raises:
        ModelUnavailable: With the name of the file that is missing, damaged or of another model.
    """
    if folder is None:
        raise ModelUnavailable("no checkpoint was given; give the folder of the weights as --checkpoint-dir")
    if not folder.is_dir():
        raise ModelUnavailable(f"{folder} is no folder; give the one with the weights as --checkpoint-dir")
    for name in _NEEDED:
        if not (folder / name).is_file():
            raise ModelUnavailable(f"{folder / name} is missing; download the checkpoint again")
    weights, files = _named(folder)
    if _A_TENSOR not in stored_in(files):
        raise ModelUnavailable(
            f"{weights} holds no {_A_TENSOR}: it is not in the layout of transformers; the published "
            f"repository has that under {PUBLISHED_INDEX}"
        )
    return folder


def weight_files(folder: Path) -> list[Path]:
    """The files that are loaded, of those in the folder.

    Raises:
        ModelUnavailable: One is missing, or the config is of another model.
    """
    return _named(folder)[1]


def _named(folder: Path) -> tuple[Path, list[Path]]:
    """The file that config.json leads to, and the files of the tensors: itself, or those it lists."""
    weights = _weights(folder, read_config(folder))
    return weights, _shards(weights) if weights.suffix == ".json" else [weights]


def read_config(folder: Path) -> dict[str, Any]:
    """The `config.json` of a folder.

    Raises:
        ModelUnavailable: It is missing, damaged, or of another model.
    """
    path = folder / "config.json"
    config = _json(path)
    found = config.get("architectures") or [config.get("model_type")]
    if ARCHITECTURE not in found and config.get("model_type") != "csm":
        raise ModelUnavailable(f"{path} describes {found[0] or 'no model'}, not {ARCHITECTURE}")
    return config


def _weights(folder: Path, config: dict[str, Any]) -> Path:
    """The file with the weights, or with the list of their files."""
    named = config.get("transformers_weights")
    if named is not None:
        path = folder / str(named)
        if not path.is_file():
            raise ModelUnavailable(
                f"{path} is missing, which config.json names; download the checkpoint again"
            )
        return path
    for name in _USUAL:
        if (folder / name).is_file():
            return folder / name
    raise ModelUnavailable(
        f"{folder / _USUAL[-1]} is missing, and so is {_USUAL[0]}; download the checkpoint again"
    )


def _shards(index: Path) -> list[Path]:
    places = _json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ModelUnavailable(f"{index} lists no tensors; download it again")
    files = [index.parent / str(name) for name in sorted(set(places.values()))]
    for file in files:
        if not file.is_file():
            raise ModelUnavailable(f"{file} is missing, which {index.name} names; download it again")
    return files


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ModelUnavailable(f"{path} cannot be read as JSON; download it again") from error
    if not isinstance(found, dict):
        raise ModelUnavailable(f"{path} holds no JSON object; download it again")
    return found
