"""What a device can do, as far as a model has to know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a device can do.

    Attributes:
        dtypes: Of `fp32`, `fp16` and `bf16`, those that its matrix products take.
        float64: Whether float64 may be used. No code of ours does; the audit of the tests looks.
        complex: Whether complex numbers may be used; as `float64`.
        fft: `verified` where torch's FFT was seen to be right, else `unverified`: use real products.
        sdpa: The masks with which scaled-dot-product attention is fused: `bool-mask`.
        graphs: Whether a step can be captured and replayed.
        pinned: Whether host memory is pinned for copies that do not wait.
        compile: Whether `torch.compile` is used; it is nowhere.
    """

    dtypes: frozenset[str]
    float64: bool
    complex: bool
    fft: Literal["verified", "unverified"]
    sdpa: Literal["bool-mask"] = "bool-mask"
    graphs: bool
    pinned: bool
    compile: bool = False
