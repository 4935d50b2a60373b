"""A recording and a rendering of its text in one form, in which they differ by what is said and little else.

Level and noise: the noise floor of the recording is added to the rendering, at the recording's level. Timbre:
cepstra are counted from their mean and in units of their spread in speech, each side by itself. What then is
left of the difference between two voices is learnt from frames that are known to say the same, and taken out
(`Voice.likened`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .features import CEPSTRA, Matrix, cepstra, level_db

Frames = npt.NDArray[np.float32]  # [F]

_SPEECH_RANGE_DB = 25.0  # below the loudest frames
_DYNAMICS_DB = 40.0
_FLOOR_DB = 50.0  # what lies this far below speech is treated as nothing
_SLOPE_WEIGHT = 0.5
_SMALLEST_SPREAD = 1e-3
_LEVEL_FROM_BAND = 3  # from 200 Hz: hum and rumble are not speech, however loud
_SMALLEST_RANGE_DB = 6.0
# How many frames outweigh the expectation that the two voices are alike: one second. Uncritical.
_DOUBT_FRAMES = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """One side of a comparison.

    Attributes:
        cepstra: [F, CEPSTRA], normalised.
        speech: [F] which frames are loud enough to be speech.
    """

    cepstra: Matrix
    speech: npt.NDArray[np.bool_]

    def features(self) -> Matrix:
        """Cepstra and their slopes, each frame scaled to length one: [F, 2 · CEPSTRA]."""
        padded = np.pad(self.cepstra, ((2, 2), (0, 0)), mode="edge")
        # By least squares over five frames.
        slope = (2 * (padded[4:] - padded[:-4]) + (padded[3:-1] - padded[1:-3])) / 10
        slope /= slope[self.speech].std(axis=0) + _SMALLEST_SPREAD
        joined = np.concatenate([self.cepstra, _SLOPE_WEIGHT * slope], axis=1)
        length = np.maximum(np.linalg.norm(joined, axis=1, keepdims=True), 1e-6)
        unit: Matrix = (joined / length).astype(np.float32)
        return unit

    def likened(self, other: Voice, mine: npt.NDArray[np.intp], others: npt.NDArray[np.intp]) -> Voice:
        """This voice as the other would sound, by the linear map that fits frames of the two best.

        The fit is a ridge regression towards the identity (as in maximum-likelihood linear regression of
        speaker adaptation: Leggetter and Woodland, 1995): few frames change little.

        Args:
            mine: [P] frames of this voice.
            others: [P] frames of the other voice that say the same.
        """
        said = _with_one(self.cepstra[mine])
        identity = np.eye(CEPSTRA + 1, CEPSTRA, dtype=np.float32)
        missing = other.cepstra[others] - said @ identity
        doubt = _DOUBT_FRAMES * np.eye(CEPSTRA + 1, dtype=np.float32)
        change = np.linalg.solve(said.T @ said + doubt, said.T @ missing)
        return Voice(cepstra=_with_one(self.cepstra) @ (identity + change), speech=self.speech)


def comparable(recording: Matrix, rendering: Matrix) -> tuple[Voice, Voice, Frames]:
    """Bring the mel powers of both, [F, MEL_BANDS], into one form.

    Returns:
        The recording, the rendering, and how loud each frame of the recording is, from 0 for its quietest
        frames to 1 for its loudest.
    """
    level = _level_db(recording)
    loud = float(np.percentile(level, 95))
    quiet = max(float(np.percentile(level, 5)), loud - _DYNAMICS_DB)
    speech = level > max((loud + quiet) / 2, loud - _SPEECH_RANGE_DB)
    rendered_level = _level_db(rendering)
    rendered_speech = rendered_level > np.percentile(rendered_level, 95) - _SPEECH_RANGE_DB

    spectrum = recording[speech].mean(axis=0)
    gain = spectrum.mean() / rendering[rendered_speech].mean()
    noise = np.minimum(recording[level <= np.percentile(level, 5)].mean(axis=0), spectrum / 3)
    floor = noise + spectrum.mean() * 10 ** (-_FLOOR_DB / 10)
    loudness = np.clip((level - quiet) / max(loud - quiet, _SMALLEST_RANGE_DB), 0, 1)
    return (
        _voice(recording + floor, speech),
        _voice(rendering * gain + 2 * floor, rendered_speech),
        loudness,
    )


def _level_db(power: Matrix) -> Frames:
    return level_db(power[:, _LEVEL_FROM_BAND:])


def _voice(power: Matrix, speech: npt.NDArray[np.bool_]) -> Voice:
    cepstrum = cepstra(power)
    spoken = cepstrum[speech]
    scaled: Matrix = (cepstrum - spoken.mean(axis=0)) / (spoken.std(axis=0) + _SMALLEST_SPREAD)
    return Voice(cepstra=scaled, speech=speech)


def _with_one(cepstrum: Matrix) -> Matrix:
    """A last column of ones, for the constant part of a linear map: [F, CEPSTRA + 1]."""
    return np.pad(cepstrum, ((0, 0), (0, 1)), constant_values=1)
