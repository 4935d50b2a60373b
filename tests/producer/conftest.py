"""What the tests of the producer share; the workers are played by `playing.py`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from soundmill.producer import Producer
from soundmill.storage.broker import Broker, resolve_broker
from soundmill.storage.settings import Settings

from .playing import write_tone


@pytest.fixture
def settings(tmp_path: Path, job_table_url: str) -> Settings:
    """The settings of an empty host, once with SQLite and once with PostgreSQL."""
    return Settings(state_dir=tmp_path / "state", database_url=job_table_url, input_roots=(tmp_path / "in",))


@pytest.fixture
def producer(settings: Settings) -> Iterator[Producer]:
    """A producer, once on SQLite and once on PostgreSQL. No broker runs."""
    with Producer(settings) as opened:
        yield opened


@pytest.fixture
def small_settings(tmp_path: Path, sqlite_template: Path) -> Settings:
    """The settings of an empty host with SQLite."""
    settings = Settings(state_dir=tmp_path / "state", input_roots=(tmp_path / "in",))
    settings.state_dir.mkdir()
    shutil.copy(sqlite_template, settings.database_url.removeprefix("sqlite:///"))
    return settings


@pytest.fixture
def small_producer(small_settings: Settings) -> Iterator[Producer]:
    """A producer on SQLite. No broker runs."""
    with Producer(small_settings) as opened:
        yield opened


@pytest.fixture
def broker(small_settings: Settings) -> Iterator[Broker]:
    """The embedded broker of `small_settings`, running."""
    with resolve_broker(small_settings) as running:
        yield running


@pytest.fixture
def tone(tmp_path: Path) -> Path:
    """A second of audio inside the allowed folder."""
    path = tmp_path / "in" / "tone.wav"
    path.parent.mkdir()
    write_tone(path)
    return path
