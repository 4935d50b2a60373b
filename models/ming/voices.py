"""The voices of a request: speaker vectors, and the latents of audio that the speech continues."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from ..engine.draws import normals
from ..handler import Run
from .codec import Samples
from .config import MingConfig
from .encoder import posterior
from .fbank import SAMPLE_RATE_HZ
from .prompt import podcast_text
from .reference_audio import Reference, read_reference
from .speaker import SpeakerEncoder

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from ..place import Place

_MOST_KEPT = 128
_POSTERIOR_STREAM = 2047 << 53
"""Beyond the seeds of a job's parts."""

_OWN_VOICE = frozenset({"voice", "design"})


class Voiced(Protocol):
    """The arguments that say whose voice it is."""

    @property
    def task(self) -> str: ...
    @property
    def prompt_audio(self) -> Path | None: ...
    @property
    def prompt_text(self) -> str | None: ...
    @property
    def speaker_audio(self) -> Path | None: ...
    @property
    def speakers(self) -> Sequence[Mapping[str, Any]]: ...
    @property
    def prompt_latents(self) -> str: ...
    @property
    def seed(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """What a prompt needs to know of voices.

    Attributes:
        speakers: How many stand in the prompt.
        vectors: Of CAM++ [n, 192]; `None` where zeros stand for a voice that the instruction describes.
        transcript: What is said in the prompt audio.
        latents: Of the prompt audio, whole patches [T, C].
    """

    speakers: int = 0
    vectors: Tensor | None = None
    transcript: str | None = None
    latents: Tensor | None = None


class Voices:
    """Makes voices; vectors and latents of audio that was seen before are kept. Thread-safe."""

    def __init__(self, place: Place, folder: Path, config: MingConfig, encoder: str) -> None:
        self._place = place
        self._config = config
        self._encoder = encoder
        self._speakers = SpeakerEncoder(folder)
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Tensor] = OrderedDict()

    def of(self, request: Voiced, run: Run) -> Voice:
        """The voices of a request.

        Raises:
            InputError: Reference audio cannot be used.
            ModelUnavailable: What CAM++ needs is missing.
        """
        if request.speaker_audio is not None:
            spoken = self._read(request.speaker_audio, "speaker_audio")
            return Voice(speakers=1, vectors=self._vectors([spoken], run))
        if request.prompt_audio is not None:
            prompt = self._read(request.prompt_audio, "prompt_audio")
            return Voice(
                speakers=1,
                vectors=self._vectors([prompt], run),
                transcript=request.prompt_text,
                latents=self._latents([prompt], request, run),
            )
        if request.speakers:
            return self._podcast(request, run)
        return Voice(speakers=1) if request.task in _OWN_VOICE else Voice()

    def _podcast(self, request: Voiced, run: Run) -> Voice:
        heard = []
        for number, speaker in enumerate(request.speakers):
            heard.append(self._read(speaker["audio"], f"speakers.{number}.audio"))
            run.checkpoint()
        turns = [(number, speaker["text"].strip()) for number, speaker in enumerate(request.speakers, 1)]
        return Voice(
            speakers=len(heard),
            vectors=self._vectors(heard, run),
            transcript=podcast_text(turns),
            latents=self._latents(heard, request, run),
        )

    def _read(self, path: Path, name: str) -> Reference:
        return self._place.offload(read_reference, path, name, self._config.audio.sample_rate, SAMPLE_RATE_HZ)

    def _vectors(self, heard: Sequence[Reference], run: Run) -> Tensor:
        vectors = [self._speakers.embed(reference.narrow, run.checkpoint) for reference in heard]
        return torch.from_numpy(np.stack(vectors))

    def _latents(self, heard: Sequence[Reference], request: Voiced, run: Run) -> Tensor:
        """Latents of recordings one behind the other, filled up with silence to whole patches [T, C]."""
        samples = np.concatenate([reference.samples for reference in heard])
        samples = np.pad(samples, (0, -len(samples) % self._config.samples_per_patch))
        mean, spread = posterior(self._parameters(samples, run))
        if request.prompt_latents == "mean":
            return mean.contiguous()
        draws = normals(request.seed + _POSTERIOR_STREAM, 0, *mean.shape)
        return mean + spread * torch.from_numpy(draws)

    def _parameters(self, samples: Samples, run: Run) -> Tensor:
        key = hashlib.sha256(samples.tobytes()).hexdigest()
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        parameters: Tensor = self._place.engine.process(self._encoder, torch.from_numpy(samples)).wait(run)
        with self._lock:
            self._kept[key] = parameters
            if len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)
        return parameters
