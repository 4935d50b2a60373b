"""The vectors in `tests/data/aligner`; its README says what they are."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FOLDER = Path(__file__).resolve().parents[2] / "data" / "aligner"
CHECKPOINT = FOLDER / "checkpoint"

_MULTIPLIER, _INCREMENT, _MODULUS = 1664525, 1013904223, 2**32


@cache
def arrays() -> dict[str, npt.NDArray[Any]]:
    with np.load(FOLDER / "aligner.npz") as file:
        return dict(file)


@cache
def facts() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "aligner.json").read_text(encoding="utf-8"))
    return found


def numbers(seed: int, count: int) -> npt.NDArray[np.uint64]:
    """Linear congruential numbers, computed by leaps of 4,096."""
    leap = 4096
    out = np.empty(count, np.uint64)
    value, multiplier, increment = seed, 1, 0
    for index in range(min(leap, count)):
        value = (_MULTIPLIER * value + _INCREMENT) % _MODULUS
        out[index] = value
    for _ in range(leap):
        multiplier = multiplier * _MULTIPLIER % _MODULUS
        increment = (increment * _MULTIPLIER + _INCREMENT) % _MODULUS
    for start in range(leap, count, leap):
        part = out[start - leap : start][: count - start]
        out[start : start + leap] = (part * np.uint64(multiplier) + np.uint64(increment)) % np.uint64(
            _MODULUS
        )
    return out


def synthetic(seed: int, frames: int) -> npt.NDArray[np.float64]:
    """[F, 32]: the emissions of a synthetic case."""
    emissions = -(numbers(seed, 32 * frames) >> np.uint64(8)).astype(np.float64).reshape(frames, 32) / 2**20
    emissions[:, 31] = 0.0
    return emissions


def tone(seconds: float, hertz: float, seed: int) -> npt.NDArray[np.int16]:
    """The recording of `em1`: a trembling tone and a little noise, at 16 kHz."""
    n = np.arange(round(seconds * 16000))
    noise = (numbers(seed, len(n)) >> np.uint64(16)).astype(np.float64) / 65536 - 0.5
    swell = 0.6 + 0.4 * np.sin(2 * np.pi * 1.7 * n / 16000)
    return np.round((0.35 * np.sin(2 * np.pi * hertz * n / 16000) * swell + 0.08 * noise) * 32767).astype(
        np.int16
    )


def recording(case: str) -> npt.NDArray[np.float32]:
    """The samples of `em0` or `em1`."""
    if case == "em0":
        stored: npt.NDArray[np.int16] = arrays()["em0_wav_int16"]
        return (stored / np.float32(32768)).astype(np.float32)
    entry = next(entry for entry in facts()["emissions"] if entry["case"] == case)
    return (tone(entry["seconds"], entry["tone_hz"], entry["lcg_seed"]) / np.float32(32768)).astype(
        np.float32
    )
