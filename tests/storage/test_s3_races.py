"""Writers, readers and collectors of a bucket, interleaved at every request in an order that a seed decides."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from soundmill.storage.bucket import Stored
from soundmill.storage.errors import NotFound
from soundmill.storage.s3 import S3BlobStore
from soundmill.storage.scratch import Scratch

from .blob_contract import sha256

CONTENT = b"contested"
NAME = sha256(CONTENT)
LONG_AGO, CUTOFF, NOW = 0.0, 500.0, 1000.0


class Turns:
    """Lets one of several threads go on at a time, up to its next request."""

    def __init__(self, seed: int) -> None:
        self._draws = random.Random(seed)
        self._gates: dict[int, threading.Semaphore] = {}
        self._arrived = threading.Semaphore(0)
        self._mine = threading.local()

    def await_turn(self) -> None:
        """Wait to be drawn; nothing outside of `play`."""
        number = getattr(self._mine, "number", None)
        if number is not None:
            self._arrived.release()
            self._gates[number].acquire()

    def play(self, actors: Sequence[Callable[[], None]]) -> None:
        """Run all of them to their ends."""
        running = set(range(len(actors)))
        self._gates = {number: threading.Semaphore(0) for number in running}

        def run(number: int, actor: Callable[[], None]) -> None:
            self._mine.number = number
            self.await_turn()
            try:
                actor()
            finally:
                running.discard(number)
                self._arrived.release()

        threads = [threading.Thread(target=run, args=pair) for pair in enumerate(actors)]
        for thread in threads:
            thread.start()
        for _ in threads:
            self._arrived.acquire()
        while running:
            self._gates[self._draws.choice(sorted(running))].release()
            self._arrived.acquire()
        for thread in threads:
            thread.join()


class PlayedBucket:
    """A bucket in memory with a clock of its own, on which each request takes a tenth of a second."""

    def __init__(self, turns: Turns) -> None:
        self.time = LONG_AGO
        self.kept: dict[str, tuple[bytes, float]] = {}
        self._turns = turns

    def put(self, key: str, content: bytes) -> None:
        self._tick()
        self._write(key, content)

    def copy(self, source: str, target: str) -> None:
        self._tick()
        if source not in self.kept:
            raise NotFound(source)
        self._write(target, self.kept[source][0])

    def read(self, key: str, start: int, end: int, *, size: int) -> bytes:
        self._tick()
        if key not in self.kept:
            raise NotFound(key)
        return self.kept[key][0][start:end]

    def delete(self, keys: Sequence[str]) -> None:
        for key in keys:  # each for itself, as a server does it
            self._tick()
            self.kept.pop(key, None)

    def objects(self, folder: str | None = None) -> Iterator[Stored]:
        self._tick()
        found = sorted(key for key in self.kept if folder is None or key.startswith(f"{folder}/"))
        yield from [Stored(key=key, size=len(self.kept[key][0]), modified=self.kept[key][1]) for key in found]

    def _write(self, key: str, content: bytes) -> None:
        self.kept[key] = (content, float(int(self.time)))  # in whole seconds, as S3 tells them

    def _tick(self) -> None:
        self._turns.await_turn()
        self.time += 0.1


class Play:
    """A store on a played bucket, whose blob was put long ago."""

    def __init__(self, folder: Path, seed: int, *, copies: int = 1) -> None:
        self.turns = Turns(seed)
        self.bucket = PlayedBucket(self.turns)
        self.store = S3BlobStore(self.bucket, Scratch(folder / "scratch"))  # type: ignore[arg-type]
        self._folder = folder
        for number in range(copies):
            self.bucket.put(f"{NAME}/{number:016x}", CONTENT)
        self.bucket.time = NOW
        self.seen: list[bytes] = []
        self.deleted: list[bool] = []

    def write(self, name: str = "given") -> None:
        path = self._folder / f"{name}-{threading.get_ident()}"
        path.write_bytes(CONTENT)
        self.store.put(path)

    def collect(self) -> None:
        self.deleted.append(self.store.delete(NAME, older_than=CUTOFF))

    def read(self) -> None:
        with self.store.open(NAME) as stream:
            self.seen.append(stream.read())


@pytest.mark.parametrize("copies", [0, 1, 2])
def test_a_writer_never_loses_its_blob_to_collectors(tmp_path: Path, copies: int) -> None:
    went = set()
    for seed in range(250):
        play = Play(tmp_path, seed, copies=copies)
        play.turns.play([play.write, play.collect, play.collect])
        play.read()
        assert play.seen == [CONTENT], seed
        went.add(tuple(sorted(play.deleted)))
    assert len(went) > 1 or not copies  # the collectors were early at times, and late at others


def test_writers_at_once_never_lose_their_blob_to_each_other_or_to_a_collector(tmp_path: Path) -> None:
    for seed in range(250):
        play = Play(tmp_path, seed)
        play.turns.play([play.write, play.write, play.write, play.collect])
        play.read()
        assert play.seen == [CONTENT], seed


def test_a_writer_that_comes_back_is_not_lost_to_a_collector_that_is_late(tmp_path: Path) -> None:
    for seed in range(250):
        play = Play(tmp_path, seed)

        def delete_and_write(play: Play = play) -> None:
            play.store.delete(NAME)
            play.write()

        play.turns.play([delete_and_write, play.collect, play.collect])
        play.read()
        assert play.seen == [CONTENT], seed


def test_a_reader_finds_a_blob_that_is_refreshed_under_it(tmp_path: Path) -> None:
    for seed in range(250):
        play = Play(tmp_path, seed)
        play.turns.play([play.write, play.read, play.write])
        assert play.seen == [CONTENT], seed


def test_once_all_is_quiet_the_next_put_leaves_one_object(tmp_path: Path) -> None:
    for seed in range(50):
        play = Play(tmp_path, seed, copies=0)
        play.turns.play([play.write, play.write, play.write])
        play.write()
        assert len(play.bucket.kept) == 1, seed


def test_a_blob_is_young_for_the_whole_second_that_the_server_counts(tmp_path: Path) -> None:
    play = Play(tmp_path, 0, copies=0)
    play.bucket.time = put_at = 1000.7
    play.write()
    assert not play.store.delete(NAME, older_than=put_at)
    assert play.store.delete(NAME, older_than=put_at + 2)
