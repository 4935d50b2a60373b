"""How far `espeak-dtw` is off, on speech whose word times are known.

    python benchmarks/alignment.py                   # 240 sentences in four languages, several minutes
    python benchmarks/alignment.py --sentences 10 --json figures.json

eSpeak speaks sentences of tests/data/corpus quicker and slower, higher and lower, and with other voices than
the one that they are compared with; each once clean, and once rough: with 2 s of silence before it, pauses of
0.8 s at every fourth word, and white noise 15 dB below. The truth is eSpeak's own word events. Chinese and
Japanese (each character a word) and the recordings of people and of Flite are there for comparison; they are
rough without pauses, and the truth of the people's is only another program's opinion: tests/data/recordings.

Printed for each row: words, median and 95th percentile of |found − true start of a word|, and the worst, in
milliseconds. The script ends with 1 if eSpeak's own rows exceed 15 and 60 ms clean, or 30 and 120 ms rough.
Everything is seeded: the same versions of eSpeak and numpy give the same table.
"""

from __future__ import annotations

import sys
from pathlib import Path

# Instead of this folder, whose `queue.py` would pass for the standard library's.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np
from tests.models.speech import Speech, recordings, sentences, speak, start_errors_s, unspaced_sentences

from soundmill.models.espeak import Espeak, Manner
from soundmill.models.espeak_dtw import EspeakDtw
from soundmill.models.station import Station

LANGUAGES = ("en-us", "de", "fr-fr", "es")
MANNERS = {
    "rate × 0.75": {"speed": 0.75},
    "rate × 1.3": {"speed": 1.3},
    "pitch 30": {"pitch": 30},
    "pitch 70": {"pitch": 70},
    "voice f3": {"variant": "f3"},
    "voice m3": {"variant": "m3"},
}
UNSPACED = {"Chinese, voice f3": "cmn", "Japanese, voice f3": "ja"}
CLEAN_LIMITS_MS, ROUGH_LIMITS_MS = (15.0, 60.0), (30.0, 120.0)


@dataclass(frozen=True, kw_only=True)
class Case:
    """Something to align."""

    text: str
    language: str
    speech: Callable[[], Speech]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the table; the limits of median and 95th percentile, where there are any."""

    name: str
    sentences: int
    words: int
    median_ms: float
    p95_ms: float
    worst_ms: float
    limits_ms: tuple[float, float] | None

    @property
    def within(self) -> bool:
        return self.limits_ms is None or (
            self.median_ms <= self.limits_ms[0] and self.p95_ms <= self.limits_ms[1]
        )


def main() -> int:
    """Run all rows, print them, keep them if asked to."""
    options = _options()
    bench = Bench()
    print(f"{'speech':<28}{'sentences':>10}{'words':>8}{'median':>9}{'95 %':>9}{'worst':>9}   limits, ms")
    rows = []
    for row in bench.rows(options.sentences):
        limits = "" if row.limits_ms is None else "{:g}, {:g}".format(*row.limits_ms)
        print(
            f"{row.name:<28}{row.sentences:>10}{row.words:>8}{row.median_ms:>9.1f}{row.p95_ms:>9.1f}"
            f"{row.worst_ms:>9.0f}   {limits}{'' if row.within else '  EXCEEDED'}",
            flush=True,
        )
        rows.append(row)
    bench.close()
    if options.json:
        options.json.write_text(
            json.dumps([asdict(row) for row in rows], indent=1, ensure_ascii=False) + "\n"
        )
    return 0 if all(row.within for row in rows) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sentences", type=int, default=60, help="of each of the four languages")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    return parser.parse_args()


class Bench:
    """The aligner, and the voice that speaks to it."""

    def __init__(self) -> None:
        self.handler = EspeakDtw()
        self.handler.load(Station("cpu:0").place())
        self.espeak = Espeak(speakers=self.handler.slots)

    def close(self) -> None:
        self.espeak.close()
        self.handler.close()

    def rows(self, count: int) -> Iterator[Row]:
        texts = [(text, language) for language in LANGUAGES for text in sentences(language, count)]
        for name, manner in MANNERS.items():
            yield from self._both(name, [self._spoken(*pair, manner) for pair in texts], limited=True)
        for name, language in UNSPACED.items():
            cases = [self._spoken(text, language, {"variant": "f3"}) for text in unspaced_sentences(language)]
            yield from self._both(name, cases, limited=False)
        for name, synthetic in (("people", False), ("Flite", True)):
            cases = [
                Case(text=item.text, language="en-us", speech=lambda item=item: item.speech)
                for item in recordings()
                if item.speaker.startswith("flite") == synthetic
            ]
            yield self._row(name, cases)
            yield self._row(f"{name}, rough", cases, lambda speech: speech.led_in().with_noise(15))

    def _spoken(self, text: str, language: str, manner: dict[str, object]) -> Case:
        return Case(
            text=text,
            language=language,
            speech=lambda: speak(self.espeak, text, Manner(language=language, **manner)),
        )

    def _both(self, name: str, cases: list[Case], *, limited: bool) -> Iterator[Row]:
        yield self._row(name, cases, limits_ms=CLEAN_LIMITS_MS if limited else None)
        limits_ms = ROUGH_LIMITS_MS if limited else None
        yield self._row(f"{name}, rough", cases, Speech.roughened, limits_ms=limits_ms)

    def _row(
        self,
        name: str,
        cases: list[Case],
        change: Callable[[Speech], Speech] = lambda speech: speech,
        *,
        limits_ms: tuple[float, float] | None = None,
    ) -> Row:
        with ThreadPoolExecutor(self.handler.slots) as pool:
            found = list(pool.map(lambda case: self._errors_s(case, change), cases))
        errors_s = [error_s for errors_s in found for error_s in errors_s]
        errors_ms = 1000 * np.abs(errors_s)
        return Row(
            name=name,
            sentences=len(cases),
            words=len(errors_ms),
            median_ms=round(float(np.median(errors_ms)), 1),
            p95_ms=round(float(np.percentile(errors_ms, 95)), 1),
            worst_ms=round(float(errors_ms.max()), 1),
            limits_ms=limits_ms,
        )

    def _errors_s(self, case: Case, change: Callable[[Speech], Speech]) -> list[float]:
        speech = change(case.speech())
        with tempfile.TemporaryDirectory(prefix="soundmill-bench-") as folder:
            return start_errors_s(self.handler, speech, case.text, case.language, Path(folder))


if __name__ == "__main__":
    sys.exit(main())
