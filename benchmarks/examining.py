"""What it costs to look into sound files in a process of its own.

    python benchmarks/examining.py [--rounds N]

Both sides decode the same files to their ends: here, as a producer did once, and in the process with limits
that submits and workers ask. They take turns; a line has the median of the ratios, and the spread.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

from soundmill.storage.examiner import Examiner
from soundmill.storage.sound import examine

RATE_HZ, CHANNELS = 48_000, 2
FORMATS = (("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("MP3", "MPEG_LAYER_III"), ("OGG", "VORBIS"))
MOST_S = 6 * 3600


def write(folder: Path, kind: str, subtype: str, seconds: int) -> Path:
    """A file of noise without its high notes, which no format finds easy."""
    noise = np.cumsum(np.random.default_rng(0).standard_normal((RATE_HZ, CHANNELS)), axis=0)
    noise = 0.5 * (noise - noise.mean(0)) / np.abs(noise - noise.mean(0)).max()
    path = folder / f"{kind}-{seconds}"
    with soundfile.SoundFile(path, "w", RATE_HZ, CHANNELS, format=kind, subtype=subtype) as file:
        for _ in range(seconds):
            file.write(noise)
    return path


def took(work: Callable[[], object], times: int) -> float:
    begun = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - begun) / times


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    examiner = Examiner(MOST_S)
    with tempfile.TemporaryDirectory() as name:
        for kind, subtype in FORMATS:
            for seconds, times in ((2, 20), (300, 1)):
                path = write(Path(name), kind, subtype, seconds)
                examiner.examine(path)
                sides = [
                    (
                        took(lambda p=path: examiner.examine(p), times),
                        took(lambda p=path: examine(p, MOST_S), times),
                    )  # type: ignore[misc]
                    for _ in range(rounds)
                ]
                ratios = [there / here for there, here in sides]
                extra_ms = 1000 * statistics.median(there - here for there, here in sides)
                print(
                    f"{kind} {seconds:4} s: {statistics.median(ratios):5.2f} x ({min(ratios):.2f} … {max(ratios):.2f}), "
                    f"{extra_ms:+.2f} ms a file, {seconds / statistics.median(there for there, _ in sides):.0f} x real time"
                )
    examiner.close()


if __name__ == "__main__":
    main()
