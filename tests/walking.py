"""What the walks through a real worker share: settings, an environment, and a worker that serves."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from soundmill.producer import Producer
from soundmill.storage.listing import served_models
from soundmill.storage.settings import Settings

from .worker.running import until


def settings_in(folder: Path, **more: Any) -> Settings:
    """Settings of a walk, which may read its input from `in`."""
    given: dict[str, Any] = {"input_roots": (folder / "in",), "shutdown_grace_s": 5.0, "heartbeat_s": 1.0}
    return Settings(state_dir=folder / "state", **(given | more))


def environment(settings: Settings) -> dict[str, str]:
    """Of a process of the walk. The tiny tensors are slower on several threads."""
    return os.environ | settings.environment() | {"OMP_NUM_THREADS": "1"}


@contextmanager
def serving(settings: Settings, producer: Producer, *models: str, checkpoint: str | Path) -> Iterator[None]:
    """Run a worker on one card that serves `models` (`id:slots=4`) only; it has to stop cleanly."""
    named = [word for model in models for word in ("--model", model)]
    command = [
        sys.executable, "-m", "soundmill.worker", "up", "--ephemeral", "--no-flower", "--card", "cpu:0",
        *named, "--checkpoint-dir", str(checkpoint),
    ]  # fmt: skip
    process = subprocess.Popen(command, env=environment(settings), stdin=subprocess.PIPE)
    wanted = {model.partition(":")[0] for model in models}

    def all_served() -> bool:
        with producer.database.read() as connection:
            return wanted <= set(served_models(connection, producer.database))

    until(all_served, 90)
    yield
    process.communicate(timeout=60)
    assert process.returncode == 0
