"""What an operator may choose for each model, and how it is written on a command line and in a variable.

    csm-1b:slots=8,share=0.5,dtype=bf16
    csm-1b:slots=8;moss-tts-nano-100m:checkpoint=/srv/moss

A name that is not one of the fields belongs to the model's family, which knows it or refuses it. What
this form has no place for, such as a folder with a comma in its name, is written as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveInt, model_validator


def absolute(path: Path) -> Path:
    """The path from the root of the file system, `~` being somebody's home."""
    return path.expanduser().absolute()


Folder = Annotated[Path, AfterValidator(absolute)]


class ModelSettings(BaseModel):
    """The choices for one model; what they mean stands at `soundmill.models.place.ModelOptions`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    checkpoint: Folder | None = None
    dtype: Literal["auto", "fp32", "fp16", "bf16"] = "auto"
    graphs: Literal["auto", "on", "off"] = "auto"
    slots: PositiveInt | None = None
    share: float | None = Field(default=None, gt=0, le=1)
    reproducible: bool = False
    extra: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _sort(cls, given: Any) -> Any:
        """Put what the family has to know under `extra`."""
        if isinstance(given, str):
            given = _pairs(given)
        if not isinstance(given, Mapping):
            return given
        own = {name: value for name, value in given.items() if name in cls.model_fields}
        extra = {name: str(value) for name, value in given.items() if name not in cls.model_fields}
        return own | ({"extra": extra | dict(own.get("extra") or {})} if extra else {})


def read_models(value: object) -> object:
    """Read the settings of several models from the text of a variable."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("{"):
        return json.loads(value)
    return dict(split_model(part) for part in value.split(";") if part.strip())


def split_model(text: str) -> tuple[str, dict[str, str]]:
    """Split `model:name=value,name=value` into the model and its choices.

    Raises:
        ValueError: With a sentence that says how to write it.
    """
    name, _, choices = text.strip().partition(":")
    if not name:
        raise ValueError(f"{text!r} names no model; write MODEL:slots=8,dtype=bf16")
    return name, _pairs(choices)


def read_folders(value: object) -> object:
    """Read folders by model from the text of a variable, such as `csm-1b=/srv/csm,other=/srv/other`."""
    if not isinstance(value, str):
        return value
    return json.loads(value) if value.lstrip().startswith("{") else _pairs(value)


def _pairs(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    if any(not equals or not name.strip() for name, equals, _ in pairs):
        raise ValueError(f"{text!r} is not of the form name=value,name=value")
    return {name.strip(): value.strip() for name, _, value in pairs}
