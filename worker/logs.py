"""Logging of our processes: one line a record, with the fields of `extra` behind the sentence.

What others chose (ids, reasons, the texts of errors) can neither begin a line of its own, nor pass for a
field that it is not, nor reach a terminal as more than text. Only a traceback takes further lines, each of
them indented.
"""

from __future__ import annotations

import json
import logging
from typing import Any

from soundmill.storage.printing import escaped

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
        line = escaped(super().formatMessage(record))
        return line + "".join(f" {key}={_value(value)}" for key, value in fields.items())

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's own name
        """The traceback, as it is but for its indent."""
        return _indented(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:  # noqa: N802 - logging's own name
        """The stack, as it is but for its indent."""
        return _indented(super().formatStack(stack_info))


def _value(value: object) -> str:
    """A value that ends where it ends: in quotation marks if it has a space or a mark of its own."""
    text = str(value)
    quoted = isinstance(value, str) and (not text or any(letter in ' "' for letter in text))
    return escaped(json.dumps(text, ensure_ascii=False) if quoted else text)


def _indented(text: str) -> str:
    # `splitlines` knows more ends of lines than a log should have.
    return "\n".join(f"    {escaped(line)}" for line in text.splitlines())


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
