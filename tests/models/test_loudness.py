from __future__ import annotations

import numpy as np
import pytest

from soundmill.models.loudness import LoudnessMeter, k_weighting


def sine(seconds: float, rate: int, level_dbfs: float, hz: float = 1000.0) -> np.ndarray:
    return (
        10 ** (level_dbfs / 20) * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)
    ).astype(np.float32)


def loudness(sound: np.ndarray, rate: int, block: int = 0) -> float | None:
    sound = sound[:, None] if sound.ndim == 1 else sound
    meter = LoudnessMeter(rate, sound.shape[1])
    for start in range(0, len(sound), block or len(sound)):
        meter.push(sound[start : start + (block or len(sound))])
    return meter.integrated()


def test_the_weighting_has_the_coefficients_of_the_standard_at_48_khz() -> None:
    # ITU-R BS.1770-5, tables 1 and 2.
    z = np.exp(-2j * np.pi * np.arange(1025) / 2048)
    shelf = (1.53512485958697 - 2.69169618940638 * z + 1.19839281085285 * z**2) / (
        1 - 1.69065929318241 * z + 0.73248077421585 * z**2
    )
    high_pass = (1 - 2 * z + z**2) / (1 - 1.99004745483398 * z + 0.99007225036621 * z**2)
    assert k_weighting(48000, 2048) == pytest.approx(shelf * high_pass, abs=1e-6)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000, 96000])
def test_a_full_scale_sine_of_997_hz_has_minus_three_lufs(rate: int) -> None:
    assert loudness(sine(5, rate, 0, 997), rate) == pytest.approx(-3.01, abs=0.05)


def test_ebu_tech_3341_stereo_sines_measure_what_they_should() -> None:
    # Cases 1 to 3: level steps, of which the quiet ones fall under the relative gate.
    def stereo(*parts: tuple[float, float]) -> np.ndarray:
        return np.repeat(
            np.concatenate([sine(seconds, 48000, level) for seconds, level in parts])[:, None], 2, axis=1
        )

    assert loudness(stereo((20, -23)), 48000) == pytest.approx(-23, abs=0.1)
    assert loudness(stereo((20, -33)), 48000) == pytest.approx(-33, abs=0.1)
    assert loudness(stereo((10, -36), (60, -23), (10, -36)), 48000) == pytest.approx(-23, abs=0.1)


def test_surround_channels_weigh_more_and_the_low_effects_nothing() -> None:
    tone = sine(5, 48000, -20)
    six = np.zeros((len(tone), 6), np.float32)
    front, low, back = six.copy(), six.copy(), six.copy()
    front[:, 0] = low[:, 3] = back[:, 4] = tone
    assert loudness(low, 48000) is None
    assert loudness(back, 48000) - loudness(front, 48000) == pytest.approx(10 * np.log10(1.41), abs=0.01)  # type: ignore[operator]


@pytest.mark.parametrize("block", [100, 4801, 22050])
def test_blocks_of_any_length_measure_the_same(block: int) -> None:
    sound = (0.1 * np.random.default_rng(0).standard_normal(100_000)).astype(np.float32)
    assert loudness(sound, 22050, block) == pytest.approx(loudness(sound, 22050), abs=1e-4)


def test_silence_and_a_moment_have_no_loudness() -> None:
    assert loudness(np.zeros(48000, np.float32), 48000) is None
    assert loudness(sine(0.3, 48000, 0), 48000) is None
