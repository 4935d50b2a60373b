"""The numbers of a card's process in memory that its supervisor reads: no socket, no lock, no file left behind.

The process writes all of its numbers anew every two seconds. It is not asked, since it may hang, and it waits
for nobody. What it counted outlives it: when the next process of the card begins, the last numbers of the one
before are kept and added, so that counters go on; what happened in the last two seconds before a kill is lost.
"""

from __future__ import annotations

import json
import logging
import mmap
import struct
import tempfile
import threading
import zlib
from collections.abc import Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

logger = logging.getLogger(__name__)

PUBLISH_EVERY_S = 2.0
STOP_S = 5.0
SLOT_BYTES = 512 * 1024
FILE_BYTES = 2 * SLOT_BYTES

_HEADER = struct.Struct("=QII")  # which writing it is, the length of its text, the checksum of it
_ADDS_UP = frozenset({"counter", "histogram"})


class FiguresWriter:
    """The process's end: a thread that writes what a registry has until it is closed."""

    def __init__(self, descriptor: int, registry: CollectorRegistry) -> None:
        """Write to the file that the supervisor opened.

        Args:
            descriptor: Of that file; it may be closed afterwards.
            registry: What is written.
        """
        self._shared = mmap.mmap(descriptor, FILE_BYTES)
        self._registry = registry
        self._writings = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._write_until_closed, name="figures", daemon=True)

    def start(self) -> None:
        """Write in the background."""
        self._thread.start()

    def write(self) -> None:
        """Write once; a reader sees the numbers before or these, never a mixture."""
        text = _dumped(self._registry.collect())
        if _HEADER.size + len(text) > SLOT_BYTES:
            logger.error("the metrics do not fit into their memory", extra={"bytes": len(text)})
            return
        self._writings += 1
        start = (self._writings % 2) * SLOT_BYTES
        body = start + _HEADER.size
        self._shared[body : body + len(text)] = text
        _HEADER.pack_into(self._shared, start, self._writings, len(text), zlib.crc32(text))

    def close(self) -> None:
        """Write for the last time and stop."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(timeout=STOP_S)

    def _write_until_closed(self) -> None:
        last = False
        while not last:
            last = self._closing.wait(PUBLISH_EVERY_S)
            try:
                self.write()
            except Exception:
                logger.exception("the metrics could not be written")


class FiguresReader:
    """The supervisor's end: creates the file, reads it, and remembers former processes."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as its owner
        self._file.truncate(FILE_BYTES)
        self._shared = mmap.mmap(self._file.fileno(), FILE_BYTES)
        self._lock = threading.Lock()
        self._before: list[Metric] = []
        self._open = True

    @property
    def descriptor(self) -> int:
        """What the process is to inherit."""
        return self._file.fileno()

    def read(self) -> list[Metric]:
        """What all processes of the card counted, and how this one stands."""
        with self._lock:
            return _added(self._before, self._now())

    def turn_over(self) -> None:
        """The process is dead: keep what it counted, forget how it stood, and make room for the next one."""
        with self._lock:
            ended = [family for family in _added(self._before, self._now()) if family.type in _ADDS_UP]
            self._before = ended
            for start in (0, SLOT_BYTES) if self._open else ():
                _HEADER.pack_into(self._shared, start, 0, 0, 0)

    def close(self) -> None:
        """Give the memory back; what was counted can still be read."""
        self.turn_over()
        with self._lock:
            self._open = False
            self._shared.close()
            self._file.close()

    def _now(self) -> list[Metric]:
        if not self._open:
            return []
        texts = (self._text(start) for start in (0, SLOT_BYTES))
        _, newest = max(texts, key=lambda found: found[0])
        return [] if newest is None else _loaded(newest)

    def _text(self, start: int) -> tuple[int, bytes | None]:
        """Which writing lies in a slot, and its text; 0 while it is being written, or empty."""
        writing, length, checksum = _HEADER.unpack_from(self._shared, start)
        body = start + _HEADER.size
        text = self._shared[body : body + min(length, SLOT_BYTES - _HEADER.size)]
        whole = writing > 0 and zlib.crc32(text) == checksum
        return (writing, text) if whole else (0, None)


def _dumped(families: Iterable[Metric]) -> bytes:
    plain = [
        [family.name, family.type, family.documentation,
         [[s.name, s.labels, s.value] for s in family.samples if not s.name.endswith("_created")]]
        for family in families
    ]  # fmt: skip
    return json.dumps(plain, separators=(",", ":")).encode()


def _loaded(text: bytes) -> list[Metric]:
    families = []
    for name, kind, words, samples in json.loads(text):
        family = Metric(name, words, kind)
        for sample, labels, value in samples:
            family.add_sample(sample, labels, value)
        families.append(family)
    return families


def _added(before: Iterable[Metric], now: Iterable[Metric]) -> list[Metric]:
    """Both together: what only one of them has, and sums where both have it."""
    sums: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    families: dict[str, Metric] = {}
    for family in [*before, *now]:
        families.setdefault(family.name, family)
        values = sums.setdefault(family.name, {})
        for sample in family.samples:
            key = (sample.name, tuple(sample.labels.items()))
            values[key] = values.get(key, 0.0) + sample.value
    return [_of(family, sums[name]) for name, family in families.items()]


def _of(family: Metric, values: dict[tuple[str, tuple[tuple[str, str], ...]], float]) -> Metric:
    made = Metric(family.name, family.documentation, family.type)
    for (sample, labels), value in values.items():
        made.add_sample(sample, dict(labels), value)
    return made
