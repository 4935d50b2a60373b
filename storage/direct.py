"""What `soundmill.models.run` asks of the catalogue and the settings, through entry points.

Models know neither, so that they can be used without a job table; but the names, defaults and limits of
a request are the same with a queue and without.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .audio_fields import audio_in, with_audio
from .catalog import Model, load_catalog
from .settings import load_settings

_NO_BYTES = {"artifact": 64 * "0"}


def model_of(model_id: str) -> tuple[str, Path]:
    """The handler of a model as `module:Class`, and where its checkpoint is unless somebody says otherwise.

    Raises:
        UnknownModel: There is no such model.
    """
    return _find(model_id).handler, load_settings().checkpoint_of(model_id)


def fields_of(model_id: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """All fields of a request, checked as a submit would check them.

    Args:
        model_id: Of the catalogue or of a plugin.
        given: The arguments; input audio as the path of a file.

    Raises:
        SubmitRefused: With the dotted name of the first field at fault.
    """
    model = _find(model_id)
    paths = {name: Path(value) for name, value in audio_in(given, model.audio_fields).items()}
    args = model.parse(with_audio(given, dict.fromkeys(paths, _NO_BYTES)))
    return with_audio(args.model_dump(), paths)


def _find(model_id: str) -> Model:
    return load_catalog(load_settings().plugins).get(model_id)
