"""What a family offers to be verified: its components, and what it is asked end to end.

`models/<family>/components.py` has two functions; nothing else of a family is known here:

    def components(folder: Path, device: Device, dtype: torch.dtype) -> Sequence[Component]:
        '''Load the checkpoint onto the device (once), and name its parts in the order in which they work.'''

    def trials(material: Material) -> Sequence[Trial]:
        '''What the family's handler is asked, by its public arguments.'''

and it may have a third where much of the folder is never loaded:

    def parameters(folder: Path) -> int:
        '''How many numbers of the folder are loaded; all of its safetensors' otherwise.'''

A family whose models compute in fp32 on every card says `FP32_ONLY = True`, and is not asked for another dtype.

All is called on one thread that the device is bound to, with the shortcuts of fp32 products and
convolutions off; cases are made and run inside of `torch.inference_mode`. `components` raises
`ModelUnavailable` as the handler would, and is called once for each side and dtype; nothing that it
loads may outlive the list it returns.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from .limits import Limits

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..audio import Samples

_WORD_S, _IDEOGRAPH_S, _MARGIN_S = 0.8, 0.5, 3.0

Tensors = Mapping[str, "Tensor"]
"""Tensors by name."""

Answers = Mapping[str, Mapping[str, Tensors]]
"""What the components of the reference side answered so far: by component, case and tensor, on the host,
floating ones in fp32."""

Reading = Literal["values", "logits", "codes", "tokens"]
"""What a tensor says, which is how it is judged:

- `values`: numbers; relative error and cosine are judged.
- `logits`: as `values`, and along the last dimension the share of equal argmax: teacher-forced agreement.
- `codes`: whole numbers of a quantizer; the share of equal ones is judged.
- `tokens`: a free run's choices `[T]` or `[T, K]`, each made from those before; only reported, with
  the first step that differs.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A text to say.

    Attributes:
        words: The text.
        language: ISO 639-3: `eng`, `cmn`.
    """

    words: str
    language: str

    @property
    def longest_s(self) -> float:
        """How long it takes to say slowly, in seconds, with a margin: what lasts longer does not end."""
        if self.language == "cmn":
            return _MARGIN_S + _IDEOGRAPH_S * len(self.words)
        return _MARGIN_S + _WORD_S * len(self.words.split())


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What all components are fed with; it lies on the host.

    Attributes:
        texts: By name: `short`, `medium`, `chinese`, or `given` alone.
        audio: A readable file of a few seconds.
        seed: Of everything random.
    """

    texts: Mapping[str, Text]
    audio: Path
    seed: int = 0

    def samples(self, sample_rate: int, *, longest_s: float = 10.0) -> Samples:
        """The audio as mono at a rate, float32 `[S]`, no longer than `longest_s`."""
        import numpy as np

        from ..audio import mono_blocks, seconds_to_samples

        most = seconds_to_samples(longest_s, sample_rate)
        blocks, count = [], 0
        for block in mono_blocks(self.audio, sample_rate=sample_rate, max_s=float("inf")):
            blocks.append(block)
            count += len(block)
            if count >= most:
                break
        whole: Samples = np.concatenate(blocks)[:most]
        return whole

    def generator(self, name: str) -> torch.Generator:
        """Random numbers on the host that depend on the seed and this name only."""
        import torch

        # torch's generator takes 32 bits of a seed and drops the others without a word.
        return torch.Generator().manual_seed(zlib.crc32(f"{self.seed} {name}".encode()))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Component:
    """A part of a model that is fed and compared by itself.

    Attributes:
        name: As the table shows it: `backbone`, `depth decoder`, `codec encoder`.
        dtype: What it computes in here: `fp32`, `bf16` or `fp16`. A codec that stays in fp32 whatever the
            model's dtype says `fp32`, and is compared once only.
        cases: Makes the inputs by the names of cases (`short`, `medium`, …), host tensors, floating ones in fp32.
            Asked of the reference side only; may look at what earlier components of that side answered
            (the depth decoder is fed with states of the reference's backbone), and must not run
            anything on the device.
        run: Computes one case from its inputs (which it copies to the device) to named tensors, on the device or the
            host. Asked of both sides with the same inputs. It keeps nothing from one call to the next.
        readings: How each tensor that `run` returns is judged. Finer parts make a failed line say more:
            offer a layer's output as a tensor of its own where that is cheap. Shapes on both sides must be equal,
            other than the first dimension of `tokens`.
        limits: For each dtype the limits that replace the family's and the general ones of `limits.py`.
        spell: Turns `tokens` into text, where they are one; then the similarity by characters is reported, too.
    """

    name: str
    dtype: str
    cases: Callable[[Material, Answers], Mapping[str, Tensors]]
    run: Callable[[Tensors], Tensors]
    readings: Mapping[str, Reading]
    limits: Mapping[str, Sequence[Limits]] = field(default_factory=dict)
    spell: Callable[[Tensor], str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One request to the family's handler, the same on both sides.

    Attributes:
        name: As the table shows it: `short`, `clip`.
        fields: The arguments as for a job, with a seed and bounded in length (`max_frames`, …).
        spoken: What the audio made has to say, where that can be aligned.
        longest_s: The most audio that it may make, for what must be refused as endless; `None` for no audio.
    """

    name: str
    fields: Mapping[str, object]
    spoken: Text | None = None
    longest_s: float | None = None
