"""The Celery application, for `celery -A soundmill.worker.app` and Flower. It imports no model."""

from __future__ import annotations

from soundmill.storage.broker import running_broker_url
from soundmill.storage.catalog import load_catalog
from soundmill.storage.queue import PATIENT, make_app
from soundmill.storage.settings import load_settings

from . import control, tasks

__all__ = ["app", "control"]

_settings = load_settings()
_catalog = load_catalog(_settings.plugins)

app = make_app(_settings.broker_url or running_broker_url(_settings), PATIENT, _catalog.ids())
tasks.register(app, sorted({model.kind for model in _catalog}))
