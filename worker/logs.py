"""Logging of our processes: one line a record, with the fields of `extra` behind the sentence."""

from __future__ import annotations

import logging

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class FieldFormatter(logging.Formatter):
    """`time level logger: sentence key=value …`."""

    def __init__(self, prefix: str = "") -> None:
        super().__init__(f"%(asctime)s %(levelname)-7s {prefix}%(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        """Append the fields that the call passed in `extra`."""
        fields = {
            key: value for key, value in record.__dict__.items() if key not in _STANDARD and key != "data"
        }
        return super().formatMessage(record) + "".join(f" {key}={value}" for key, value in fields.items())


def configure_logging(card: str | None = None, level: int = logging.INFO) -> None:
    """Send our records to standard error; libraries are heard from warnings on.

    Args:
        card: Set in the process of a card, and put on every line.
        level: Of our own loggers.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(FieldFormatter(f"[{card}] " if card else ""))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("soundmill").setLevel(level)
