"""The weights of a captioner out of a full published folder, of which it needs about three quarters.

The folder also holds a vision tower, a talker and a vocoder. Their tensors are never read: a
safetensors file says in its header where each tensor lies. Files that are no safetensors, such as
`spk_dict.pt`, are never opened.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..errors import ModelUnavailable
from .shape import read_json

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

TEXT = "thinker.model."
HEAD = "thinker.lm_head."
AUDIO = "thinker.audio_tower."

UNUSED_OF_AUDIO = f"{AUDIO}audio_bos_eos_token.weight"  # in the file, and in nobody's forward
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A part of the folder that was left where it is: how many tensors, how many bytes."""

    part: str
    tensors: int
    bytes: int


class Checkpoint:
    """The tensors of one folder by name, each read when it is asked for; a context manager."""

    def __init__(self, folder: Path) -> None:
        """Open the files of `folder`; no tensor is read yet.

        Raises:
            ModelUnavailable: There are no safetensors, or a file is missing or damaged.
        """
        self.folder = folder
        self._stack = ExitStack()
        self._files: dict[str, Any] = {}
        try:
            for path in weight_files(folder):
                file = self._stack.enter_context(_opened(path))
                self._files |= dict.fromkeys(file.keys(), file)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def copy(self, name: str, target: Any) -> None:
        """Copy a tensor into `target`, a tensor of its size on any device and of any floating dtype.

        Raises:
            ModelUnavailable: It is missing, of another size, or its file is damaged.
        """
        file = self._files.get(name)
        if file is None:
            raise ModelUnavailable(f"{self.folder} has no tensor {name}; download the checkpoint again")
        held = tuple(file.get_slice(name).get_shape())
        if held != tuple(target.shape):
            raise ModelUnavailable(
                f"{self.folder}: {name} is of size {held}, but config.json asks for {tuple(target.shape)}; "
                "download the checkpoint again"
            )
        target.copy_(file.get_tensor(name))

    def skipped(self) -> list[Skipped]:
        """What a captioner leaves out, by part, the largest first."""
        tensors: Counter[str] = Counter()
        sizes: Counter[str] = Counter()
        for name, file in self._files.items():
            if is_needed(name):
                continue
            part = ".".join(name.split(".")[: 2 if name.startswith("thinker.") else 1])
            view = file.get_slice(name)
            tensors[part] += 1
            sizes[part] += math.prod(view.get_shape()) * _BYTES.get(view.get_dtype(), 1)
        return [Skipped(part=part, tensors=tensors[part], bytes=size) for part, size in sizes.most_common()]


def is_needed(name: str) -> bool:
    """Whether a captioner reads the tensor of this name."""
    return name.startswith((TEXT, HEAD, AUDIO)) and name != UNUSED_OF_AUDIO


def weight_files(folder: Path) -> Iterator[Path]:
    """The files with the weights, of those that hold nothing needed the ones that are there.

    Raises:
        ModelUnavailable: There are none, or one that is needed is missing.
    """
    if (folder / INDEX).is_file():
        names: Any = read_json(folder / INDEX).get("weight_map")
        if not isinstance(names, Mapping) or not all(isinstance(name, str) for name in names.values()):
            raise ModelUnavailable(f"{folder / INDEX} has no weight map; download it again")
        yield from _present(folder, {name for key, name in names.items() if is_needed(key)})
        yield from _present(
            folder, set(names.values()) - {n for k, n in names.items() if is_needed(k)}, must=False
        )
    elif (folder / SINGLE).is_file():
        yield folder / SINGLE
    else:
        raise ModelUnavailable(
            f"{folder} holds no {SINGLE} and no {INDEX}; give --checkpoint-dir the folder of the whole "
            "checkpoint in safetensors (pickled .bin and .pt files are never read)"
        )


def _present(folder: Path, names: Iterable[str], *, must: bool = True) -> Iterator[Path]:
    for name in sorted(names):
        if Path(name).name != name:
            raise ModelUnavailable(f"{folder / INDEX} names a file outside of its folder; do not use it")
        if (folder / name).is_file():
            yield folder / name
        elif must:
            raise ModelUnavailable(f"{folder / name} is missing; download the checkpoint again")


def _opened(path: Path) -> Any:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise ModelUnavailable(
            "the captioner needs torch and safetensors; install soundmill[models]"
        ) from error
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelUnavailable(
            f"{path} is damaged or was not downloaded completely ({error}); download it again"
        ) from error
