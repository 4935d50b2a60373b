"""The catalogue: every model's id, kind, arguments, voices, languages and limits. No torch here.

A submit is checked against it on any machine, so a wrong voice fails before a job exists. A test
compares it with the handlers. Modules named in the setting `plugins` add models of their own.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module, resources
from typing import Any

from pydantic import ValidationError

from .arguments import AcousticArguments, Arguments, DtwArguments, EspeakArguments
from .errors import SettingsError, SubmitRefused, UnknownModel

Check = Callable[[Any], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One entry.

    Attributes:
        id: What submitters write, and the name of the queue.
        kind: `tts`, `caption` or `align`; a plugin may add kinds.
        title: A line for lists.
        arguments: The schema of the arguments.
        handler: The dotted name `module:Class` of the handler, resolved by workers only.
        check: Further checks of valid arguments against voices and languages; raises
            `SubmitRefused`.
        licence: Of the weights, or of the engine where there are none.
        audio_fields: The arguments that are input audio.
    """

    id: str
    kind: str
    title: str
    arguments: type[Arguments]
    handler: str
    licence: str
    check: Check | None = None
    audio_fields: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    voices: tuple[str, ...] = ()
    sample_rate_hz: int | None = None
    revision: str | None = None
    needs: str = field(default="")

    def parse(self, args: Mapping[str, Any]) -> Arguments:
        """Check arguments and fill in the defaults.

        Raises:
            SubmitRefused: With the dotted name of the first field at fault.
        """
        try:
            parsed = self.arguments.model_validate(dict(args))
        except ValidationError as error:
            raise self._refusal(error) from error
        if self.check is not None:
            self.check(parsed)
        return parsed

    def restore(self, args: Mapping[str, Any], version: int) -> dict[str, Any]:
        """Bring the arguments of a row to the present version, every field given.

        Raises:
            SubmitRefused: The row's arguments cannot be read any more.
        """
        try:
            return self.arguments.model_validate(self.arguments.upgrade(dict(args), version)).model_dump()
        except ValidationError as error:
            raise self._refusal(error) from error
        except ValueError as error:
            raise SubmitRefused(f"{error}; submit the job again") from error

    def _refusal(self, error: ValidationError) -> SubmitRefused:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        name = str(first["loc"][0]) if first["loc"] else ""
        if name in self.audio_fields and first["loc"][1:]:  # what follows is one of several readings
            return SubmitRefused(
                f'{name}: this names no audio; give {{"artifact": SHA-256}} or {{"job": ID}}', field=name
            )
        if first["type"] == "extra_forbidden":
            known = sorted(self.arguments.model_fields)
            guess = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {guess[0]!r}?" if guess else f"it takes {', '.join(known)}"
            return SubmitRefused(f"{place}: {self.id} has no such argument; {hint}", field=place)
        if first["type"] == "missing":
            return SubmitRefused(f"{place}: {self.id} needs this argument", field=place)
        text = first["msg"].removeprefix("Value error, ")
        return SubmitRefused(f"{place}: {text}" if place else text, field=place or None)


class Catalog:
    """The models that can be asked for."""

    def __init__(self, models: Iterable[Model]) -> None:
        """Collect `models`; a later one of the same id replaces an earlier one."""
        self._models = {model.id: model for model in models}

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models.values())

    def ids(self) -> tuple[str, ...]:
        """The ids, in the order of the catalogue."""
        return tuple(self._models)

    def get(self, model_id: str, kind: str | None = None) -> Model:
        """The entry of a model.

        Raises:
            UnknownModel: There is none, or it does another kind of job than `kind`.
        """
        model = self._models.get(model_id)
        if model is None:
            guess = difflib.get_close_matches(model_id, self._models, n=1)
            hint = f"did you mean {guess[0]!r}?" if guess else f"there are {', '.join(self._models)}"
            raise UnknownModel(f"model: there is no model {model_id!r}; {hint}", field="model")
        if kind is not None and model.kind != kind:
            fit = ", ".join(entry.id for entry in self if entry.kind == kind) or "none"
            raise UnknownModel(
                f"model: {model_id} does {model.kind} jobs, not {kind}; for {kind} there is {fit}",
                field="model",
            )
        return model


def load_catalog(plugins: Iterable[str] = ()) -> Catalog:
    """The built-in models and those of the plugins.

    Args:
        plugins: Modules, each with a `MODELS` sequence of `Model`.

    Raises:
        SettingsError: A plugin cannot be imported or has no `MODELS`.
    """
    models = list(BUILT_IN)
    for name in plugins:
        try:
            models += import_module(name).MODELS
        except (ImportError, AttributeError) as error:
            raise SettingsError(
                f"plugins: {name!r} is no importable module with a MODELS list ({error})"
            ) from error
    return Catalog(models)


@cache
def espeak_names() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The language codes and the voice variants of eSpeak NG, from the list that ships with us."""
    text = resources.files(__package__).joinpath("data/espeak_voices.json").read_text(encoding="utf-8")
    data = json.loads(text)
    return tuple(entry["code"] for entry in data["languages"]), tuple(data["variants"])


def _known(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        near = difflib.get_close_matches(value, known, n=3) or list(known[:3])
        raise SubmitRefused(
            f"{name}: eSpeak NG has no {name} {value!r}; near it are {', '.join(near)}", field=name
        )


def check_espeak(args: Any) -> None:
    """Refuse a language or a voice that eSpeak NG does not have."""
    languages, variants = espeak_names()
    _known("language", args.language, languages)
    voice = getattr(args, "voice", None)
    if voice is not None:
        _known("voice", voice, variants)


BUILT_IN = (
    Model(
        id="espeak-ng",
        kind="tts",
        title="Speech by rules in more than 100 languages, with word times; no weights",
        arguments=EspeakArguments,
        handler="soundmill.models.espeak_ng:EspeakNg",
        licence="GPL-3.0-or-later (eSpeak NG)",
        check=check_espeak,
        sample_rate_hz=22050,
        needs="speech",
    ),
    Model(
        id="espeak-dtw",
        kind="align",
        title="Word times by warping a recording onto eSpeak's rendering of its text; no weights",
        arguments=DtwArguments,
        handler="soundmill.models.espeak_dtw:EspeakDtw",
        licence="GPL-3.0-or-later (eSpeak NG)",
        check=check_espeak,
        audio_fields=("audio",),
        needs="speech",
    ),
    Model(
        id="acoustic",
        kind="caption",
        title="A description of a clip from measured features; no weights",
        arguments=AcousticArguments,
        handler="soundmill.models.acoustic:Acoustic",
        licence="Apache-2.0",
        audio_fields=("audio",),
    ),
)
