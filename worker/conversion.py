"""A pickle of weights becomes safetensors, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from .errors import ConversionFailed


def convert_apart(folder: Path) -> dict[str, Any]:
    """Convert the weights of a folder; see `soundmill.models.conversion.convert`.

    Raises:
        ConversionFailed: With what the process said.
    """
    command = [sys.executable, "-P", "-m", "soundmill.models.conversion", str(folder.absolute())]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise ConversionFailed(
            done.stderr.strip() or f"the conversion of {folder} ended with status {done.returncode}"
        )
    told: dict[str, Any] = json.loads(done.stdout)
    return told
