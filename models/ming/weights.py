"""The tensors of a checkpoint, by their published names."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelUnavailable
from .config import MingConfig
from .layout import layout, unread

FILE_NAME = "model.safetensors"
_SHOWN = 3
_LOOKED_UP = ("embed_tokens.weight", "word_embedder.weight", "cls_embed")


class Weights:
    """Tensors by name, wherever they lie, each read when it is asked for.

    What is taken is converted to one dtype and put on one device.
    """

    def __init__(
        self, tensors: Any, *, dtype: torch.dtype, device: torch.device | str, prefix: str = ""
    ) -> None:
        """Wrap something with `get_tensor(name)`."""
        self._tensors = tensors
        self._prefix = prefix
        self.dtype = dtype
        self.device = device

    def under(self, prefix: str, *, dtype: torch.dtype | None = None) -> Weights:
        """Those whose names begin with `prefix`, in another dtype if wanted."""
        return Weights(
            self._tensors, dtype=dtype or self.dtype, device=self.device, prefix=self._prefix + prefix
        )

    def take(self, name: str) -> Tensor:
        stored: Tensor = self._tensors.get_tensor(self._prefix + name)
        return stored.to(device=self.device, dtype=self.dtype)

    def parameter(self, *names: str) -> nn.Parameter:
        """One tensor, or several joined along their first axis."""
        parts = [self.take(name) for name in names]
        return nn.Parameter(parts[0] if len(parts) == 1 else torch.cat(parts), requires_grad=False)


class _InMemory:
    """Tensors of a dictionary, read as those of a file are."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def get_tensor(self, name: str) -> Tensor:
        return self._tensors[name]


@contextmanager
def opened(
    folder: Path, config: MingConfig, *, dtype: torch.dtype, device: torch.device | str
) -> Iterator[Weights]:
    """The weights of a checkpoint folder, whose names and shapes have been checked.

    Raises:
        ModelUnavailable: The file is missing or damaged, or a tensor is missing or has another shape.
    """
    import safetensors

    path = folder / FILE_NAME
    try:
        file = safetensors.safe_open(path, framework="pt")
    except (OSError, safetensors.SafetensorError) as error:
        raise ModelUnavailable(
            f"{path} cannot be read; download the checkpoint again into its folder"
        ) from error
    with file as tensors:
        found = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118 - no dict
        check_shapes(found, config)
        yield Weights(tensors, dtype=dtype, device=device)


def in_memory(tensors: Mapping[str, Tensor], *, dtype: torch.dtype, device: torch.device | str) -> Weights:
    """The weights of a dictionary in the published layout."""
    return Weights(_InMemory(tensors), dtype=dtype, device=device)


def check_shapes(found: Mapping[str, tuple[int, ...]], config: MingConfig) -> None:
    """Compare the tensors of a file with those that the configuration asks for.

    Tensors that nothing reads may be absent; others than the published are ignored.

    Raises:
        ModelUnavailable: One that is needed is missing, or has another shape.
    """
    spare = unread(config)
    needed = {name: shape for name, shape in layout(config).items() if name not in spare}
    missing = [name for name in needed if name not in found]
    if missing:
        shown = ", ".join(missing[:_SHOWN]) + (", …" if len(missing) > _SHOWN else "")
        raise ModelUnavailable(f"{FILE_NAME} lacks {len(missing)} tensors that config.json asks for: {shown}")
    for name, shape in needed.items():
        if found[name] != shape:
            raise ModelUnavailable(
                f"{FILE_NAME} and config.json do not belong together: {name} is {list(found[name])}, not {list(shape)}"
            )


def random_tensors(
    config: MingConfig,
    *,
    seed: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """A checkpoint with random values, for measuring and for tests.

    Matrices keep the size of what passes through them, so that nothing overflows or dies out in any depth.
    """
    generator = torch.Generator(device=device).manual_seed(seed)
    return {name: _made_up(name, shape, generator).to(dtype) for name, shape in layout(config).items()}


def random_weights(
    config: MingConfig, *, dtype: torch.dtype, device: torch.device | str, seed: int = 0
) -> Weights:
    """As `random_tensors`, but each is made when it is asked for, so that nothing is held twice."""
    return Weights(_MadeUp(config, device, seed), dtype=dtype, device=device)


def parameters(config: MingConfig) -> int:
    """How many numbers of a checkpoint are read."""
    spare = unread(config)
    return sum(math.prod(shape) for name, shape in layout(config).items() if name not in spare)


class _MadeUp:
    """Random tensors in the published layout, read as those of a file are."""

    def __init__(self, config: MingConfig, device: torch.device | str, seed: int) -> None:
        self._shapes = layout(config)
        self._device, self._seed = device, seed

    def get_tensor(self, name: str) -> Tensor:
        generator = torch.Generator(device=self._device).manual_seed(self._seed ^ zlib.crc32(name.encode()))
        return _made_up(name, self._shapes[name], generator)


def _made_up(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    values = torch.randn(shape, generator=generator, device=generator.device)
    if len(shape) == 1:
        return 0.1 * values + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
    return values if name.endswith(_LOOKED_UP) else values / math.sqrt(shape[-1])
