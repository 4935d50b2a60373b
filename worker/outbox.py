"""The outbox: what jobs made goes into the blob store through it, and waits here while the store takes nothing."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from soundmill.storage.blobs import Blob, BlobStore
from soundmill.storage.errors import StorageUnavailable

logger = logging.getLogger(__name__)

POLL_S = 0.2
TRY_EVERY_S = 1.0
PATIENCE_S = 60.0
ROOM_BYTES = 1024 * 1024


class Outbox:
    """Stores files for all attempts of a card's process; safe between threads.

    A full disk or a bucket that is away for a moment costs no execution: who is done waits and tries again,
    and nobody begins what could not be kept. What waits keeps its lease.
    """

    def __init__(self, blobs: BlobStore, *, patience_s: float = PATIENCE_S) -> None:
        """Store into `blobs`; after `patience_s` the store's own error ends the attempt."""
        self._blobs = blobs
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._waiting = 0
        self._full = False
        self._try_at = 0.0

    def put(self, path: Path, check: Callable[[], None]) -> Blob:
        """Store a file, which is gone afterwards; wait while the store does not take it.

        Args:
            path: See `BlobStore.put`.
            check: Called while waiting; may raise to give up.

        Raises:
            StorageUnavailable: It did not take the file for a long time.
        """
        try:
            return self._blobs.put(path)
        except StorageUnavailable as error:
            logger.warning("the store takes no files; waiting", extra={"reason": str(error)})
        with self._lock:
            self._waiting += 1
        try:
            return self._put_again(path, check)
        finally:
            with self._lock:
                self._waiting -= 1

    def _put_again(self, path: Path, check: Callable[[], None]) -> Blob:
        give_up_at = time.monotonic() + self._patience_s
        while True:
            _pause(TRY_EVERY_S, check)
            try:
                return self._blobs.put(path)
            except StorageUnavailable:
                if time.monotonic() > give_up_at:
                    raise

    def refused(self) -> None:
        """A handler found no room for its own files: let nobody begin before there is some."""
        with self._lock:
            if not self._full:
                logger.warning("there is no room for the files of jobs; waiting")
            self._full = True

    def wait(self, check: Callable[[], None]) -> None:
        """Wait while what would be made now could not be kept.

        Args:
            check: Called while waiting; may raise to give up.
        """
        while self._shut():
            _pause(POLL_S, check)

    def _shut(self) -> bool:
        with self._lock:
            if self._waiting or not self._full:
                return self._waiting > 0
            if time.monotonic() < self._try_at:
                return True
            self._try_at = time.monotonic() + TRY_EVERY_S  # one tries for all
        if self._has_room():
            self._full = False
        return self._full

    def _has_room(self) -> bool:
        try:
            with self._blobs.scratch() as folder:
                (folder / "room").write_bytes(bytes(ROOM_BYTES))
        except (OSError, StorageUnavailable):
            return False
        return True


def _pause(seconds: float, check: Callable[[], None]) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        check()
        time.sleep(POLL_S)
    check()
