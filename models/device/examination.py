"""Ask one card for a known answer, in a process of its own: `python -m soundmill.models.device.examination`.

With `--card npu:3` it ends with 0 if the card is well and with `EXIT_SUSPECT` if not. If its card hangs,
so does it, until an alarm ends it after `LIMIT_S`.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys

from ..errors import ModelUnavailable
from .card import Card
from .environment import prepare_env
from .health import Health, check
from .opening import open_device

logger = logging.getLogger(__name__)

EXIT_SUSPECT = 71
"""The exit status when the card gave a wrong answer, an error, or could not be opened."""

LIMIT_S = 120


def main(argv: list[str] | None = None) -> int:
    """Open a card, ask it, and return the exit status."""
    parser = argparse.ArgumentParser(prog="soundmill.models.device.examination", description=__doc__)
    parser.add_argument("--card", required=True)
    card = Card.parse(parser.parse_args(argv).card)
    try:
        prepare_env(card)
        health = check(open_device(str(card)))
    except (ModelUnavailable, RuntimeError) as error:
        health = Health(ok=False, detail=str(error))
    if not health.ok:
        logger.error("%s", health.detail)
    return 0 if health.ok else EXIT_SUSPECT


if __name__ == "__main__":
    logging.basicConfig()
    signal.alarm(LIMIT_S)  # without a handler it ends the process, also within a call of the driver
    status = main()
    sys.stderr.flush()
    os._exit(status)  # a vendor's exit hook waits for the card, which may never answer
