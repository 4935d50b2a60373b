"""A checkpoint that exists in memory only: speed depends on the number of weights, not on their values."""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import cast

import torch

from .codec import Codec
from .config import CodecConfig, LanguageConfig
from .weights import Weights


class RandomWeights:
    """Stands for `soundmill.models.moss.weights.Weights`: every tensor that is asked for, from its name."""

    folder = Path("random weights")

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed

    def __contains__(self, name: str) -> bool:
        return True

    def take(self, *names: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """The tensor of a name: norms near 1, matrices that keep the size of what goes through them."""
        name = names[0]
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) ^ self._seed)
        if len(shape) == 1:
            near = 1.0 if name.endswith(("weight", "scale")) else 0.0
            tensor = near + 0.02 * torch.randn(shape, generator=generator)
        else:
            tensor = torch.randn(shape, generator=generator) * shape[1] ** -0.5
        return tensor.to(dtype)

    def check_tied(self, head: str, source: str) -> None:
        """Nothing to compare."""


class _Counted(RandomWeights):
    """Gives tensors without numbers, and counts what they would hold."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def take(self, *names: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        self.numbers += math.prod(shape)
        return torch.empty(shape, dtype=dtype, device="meta")


def parameters(config: LanguageConfig, codec: CodecConfig) -> tuple[int, int]:
    """How many numbers the language model and the codec of some sizes hold; none is made."""
    sizes = config.decoder
    width, inner = sizes.hidden, sizes.inner
    block = 4 * width * width + 2 * width * inner + inner + 9 * width  # two norms, biases among the last two
    language = (sizes.layers + sizes.local_layers) * block + 4 * width
    language += (config.vocabulary + sum(config.codebook_sizes)) * width
    weights = _Counted()
    Codec(codec, cast(Weights, weights), torch.device("meta"))
    return language, weights.numbers
