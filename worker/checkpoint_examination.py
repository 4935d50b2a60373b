"""All that `soundmill models check` looks at: files, tensors, tokenizer, licence, checksums."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from soundmill.models.errors import ModelUnavailable
from soundmill.models.finding import Finding
from soundmill.storage.catalog import Model
from soundmill.storage.checkpoints import Record, staging_of

from .checkpoint_check import damage_of
from .pulling.pull import changed_files

logger = logging.getLogger(__name__)

_LICENCE = re.compile(r"^license:\s*[\"']?([\w.+-]+)", re.MULTILINE)


def examine(model: Model, folder: Path, *, hashes: bool = True) -> Iterator[Finding]:
    """Look at the checkpoint of a model; what cannot be looked at any more, once something is amiss, is left out.

    Args:
        hashes: Whether to read all files that a pull fetched, for their checksums.
    """
    if not model.has_weights:
        yield Finding(question="weights", as_expected=True, answer=f"{model.id} has none")
        return
    found = _files(model, folder)
    yield found
    if not found.as_expected:
        return
    yield from _family(model, folder)
    yield _licence(model, folder)
    yield _origin(model, folder, hashes=hashes)


def _files(model: Model, folder: Path) -> Finding:
    remedy = f"soundmill models pull {model.id}"
    if not folder.is_dir():
        begun = " was begun and not finished: go on with" if staging_of(folder).is_dir() else " is not there:"
        answer = f"{folder}{begun} {remedy}"
        return Finding(question="files", as_expected=False, answer=answer)
    damage = damage_of(folder)
    if damage is not None:
        return Finding(question="files", as_expected=False, answer=f"{damage}: {remedy}")
    return Finding(question="files", as_expected=True, answer=f"those in {folder} are whole")


def _family(model: Model, folder: Path) -> Iterator[Finding]:
    """What the model's own code expects."""
    if model.checks is None:
        yield Finding(question="loading", as_expected=True, answer=f"{model.id} brings no checks of its own")
        return
    if find_spec("torch") is None or find_spec("transformers") is None:
        answer = "torch or transformers is missing: pip install 'soundmill[models]'"
        yield Finding(question="loading", as_expected=False, answer=answer)
        return
    module, _, function = model.checks.partition(":")
    try:
        yield from getattr(import_module(module), function)(folder)
    except ModelUnavailable as error:
        yield Finding(question="loading", as_expected=False, answer=str(error))
    except Exception as error:
        logger.exception("a checkpoint cannot be examined", extra={"model": model.id})
        yield Finding(
            question="loading",
            as_expected=False,
            answer=f"{folder} cannot be examined ({type(error).__name__}: {error}); fetch it again",
        )


def _licence(model: Model, folder: Path) -> Finding:
    """Whether the page of the weights, where it came along, names the licence of the catalogue."""
    question = "licence"
    try:
        named = _LICENCE.search(_front_matter((folder / "README.md").read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError):
        named = None
    if named is None:
        answer = f"{model.licence}; there is no README.md that names one"
        return Finding(question=question, as_expected=True, answer=answer)
    same = named[1].lower() in model.licence.lower() or model.licence.startswith("see the page")
    if same:
        return Finding(question=question, as_expected=True, answer=f"{model.licence}; README.md: {named[1]}")
    answer = f"README.md names {named[1]}, the catalogue {model.licence}; read its terms before you serve it"
    return Finding(question=question, as_expected=False, answer=answer)


def _front_matter(page: str) -> str:
    """The fields that a model's page begins with, between two lines of dashes."""
    parts = page.split("\n---", maxsplit=1)
    return parts[0] if page.startswith("---") and len(parts) == 2 else ""


def _origin(model: Model, folder: Path, *, hashes: bool) -> Finding:
    question, record = "checksums", Record.read(folder)
    if record is None:
        answer = "no pull put these files there, so that there is nothing to compare them with"
        return Finding(question=question, as_expected=True, answer=answer)
    if not hashes:
        return Finding(
            question=question, as_expected=True, answer=f"of {record.revision}; the files were not read"
        )
    changed = changed_files(folder, record)
    return Finding(
        question=question,
        as_expected=not changed,
        answer=f"{len(changed)} files are not those of {record.revision}: soundmill models pull {model.id}"
        if changed
        else f"all files are those of {record.revision}",
        details=tuple(changed),
    )
