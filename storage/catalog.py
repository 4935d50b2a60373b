"""The catalogue: every model's id, kind, arguments, voices, languages and limits. No torch here.

A submit is checked against it on any machine, so a wrong voice fails before a job exists. A test
compares it with the handlers. Modules named in the setting `plugins` add models of their own.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module, resources
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from .arguments import Arguments
from .arguments.acoustic import AcousticArguments
from .arguments.aligner import AlignerArguments
from .arguments.captioner import CaptionerArguments
from .arguments.csm import CsmArguments
from .arguments.espeak import DtwArguments, EspeakArguments
from .arguments.ming import MingArguments
from .arguments.moss import MOSS_LANGUAGES, MOSS_VOICES, MossArguments
from .audio_fields import audio_field_at
from .errors import SettingsError, SubmitRefused, UnknownModel
from .published import ALIGNER, CAPTIONER, CSM, MING, MOSS, MOSS_CODEC
from .repository import Repository

Check = Callable[[Any], None]

WEIGHTS = "models"
"""The extra that a model with a checkpoint needs."""


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
        audio_fields: The arguments that are input audio, as dotted names. `*` is every item of a list:
            `("audio",)`, or `("context.*.audio",)` where `context` is a list of objects with an `audio`.
            Submitters give such audio in any form; the handler finds a `Path` in its place.
        languages: Their codes, where they can be listed.
        more_languages: What there is to say of languages beyond the list, or in its place.
        parameters: Numbers in the published weights, tied ones once.
        memory_bytes: What the weights take on a card that has bf16, served with the default choices; without
            caches and activations.
        repositories: Where the weights are published, the model's own first.
        checks: The dotted name `module:function` of what examines a folder of weights, called by workers only.
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
    more_languages: str = ""
    parameters: int | None = None
    memory_bytes: int | None = None
    repositories: tuple[Repository, ...] = ()
    checks: str | None = None

    @property
    def has_weights(self) -> bool:
        """Whether it needs a checkpoint."""
        return self.needs == WEIGHTS

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
        audio = audio_field_at(first["loc"], self.audio_fields)
        if audio is not None and audio != place:  # what follows is one of several readings
            return SubmitRefused(
                f'{audio}: this names no audio; give {{"artifact": SHA-256}} or {{"job": ID}}', field=audio
            )
        if first["type"] == "extra_forbidden":
            known = sorted(_fields_beside(self.arguments, first["loc"]))
            guess = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
            hint = f"did you mean {guess[0]!r}?" if guess else f"it takes {', '.join(known)}"
            return SubmitRefused(f"{place}: {self.id} has no such argument; {hint}", field=place)
        if first["type"] == "missing":
            return SubmitRefused(f"{place}: {self.id} needs this argument", field=place)
        text = first["msg"].removeprefix("Value error, ")
        return SubmitRefused(f"{place}: {text}" if place else text, field=place or None)


def _fields_beside(arguments: type[BaseModel], place: Sequence[str | int]) -> Iterable[str]:
    """The names that arguments may have where an unknown one was given."""
    fields = arguments.model_fields
    for step in place[:-1]:
        if isinstance(step, str):  # a number is the item of a list, whose items are of one kind
            field = fields.get(step)
            classes = _classes_in(field.annotation) if field is not None else ()
            inner = [kind for kind in classes if issubclass(kind, BaseModel)]
            if len(inner) != 1:
                return ()
            fields = inner[0].model_fields
    return fields


def _classes_in(annotation: Any) -> Iterator[type[Any]]:
    if isinstance(annotation, type):
        yield annotation
    for part in get_args(annotation):
        yield from _classes_in(part)


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
        more_languages="more than 100",
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
        more_languages="more than 100",
    ),
    Model(
        id="acoustic",
        kind="caption",
        title="A description of a clip from measured features; no weights",
        arguments=AcousticArguments,
        handler="soundmill.models.acoustic:Acoustic",
        licence="Apache-2.0",
        audio_fields=("audio",),
        more_languages="none",
    ),
    Model(
        id="csm-1b",
        kind="tts",
        title="Conversational English speech with speakers and context, by CSM-1B",
        arguments=CsmArguments,
        handler="soundmill.models.csm:Csm",
        licence="Apache-2.0 (CSM-1B)",
        audio_fields=("context.*.audio",),
        languages=("en",),
        sample_rate_hz=24000,
        needs="models",
        parameters=1_632_100_161,
        memory_bytes=3_423_000_000,
        repositories=(CSM,),
        checks="soundmill.models.csm.checks:examine",
    ),
    Model(
        id="acestep-captioner",
        kind="caption",
        title="Captions and transcripts of music and audio, by the ACE-Step captioner (Qwen2.5-Omni)",
        arguments=CaptionerArguments,
        handler="soundmill.models.captioner.handler:Captioner",
        licence="MIT (acestep-captioner); its base Qwen2.5-Omni-7B: Apache-2.0",
        audio_fields=("audio",),
        needs="models",
        more_languages="not stated",
        parameters=10_730_000_000,
        memory_bytes=16_510_000_000,
        repositories=(CAPTIONER,),
        checks="soundmill.models.captioner.checks:examine",
    ),
    Model(
        id="moss-tts-nano-100m",
        kind="tts",
        title="Speech in 20 languages with cloned voices, 48 kHz stereo, by MOSS-TTS-Nano",
        arguments=MossArguments,
        handler="soundmill.models.moss.handler:Moss",
        licence="Apache-2.0 (MOSS-TTS-Nano)",
        audio_fields=("reference",),
        languages=MOSS_LANGUAGES,
        voices=MOSS_VOICES,
        sample_rate_hz=48000,
        needs="models",
        parameters=139_280_896,
        memory_bytes=323_000_000,
        repositories=(MOSS, MOSS_CODEC),
        checks="soundmill.models.moss.checks:examine",
    ),
    Model(
        id="mms-300m-aligner",
        kind="align",
        title="Times of words, characters and sentences in more than 100 languages, by the MMS forced aligner",
        arguments=AlignerArguments,
        handler="soundmill.models.aligner.handler:Aligner",
        licence="CC-BY-NC-4.0 (the weights: no commercial use)",
        audio_fields=("audio",),
        sample_rate_hz=16000,
        needs="models",
        more_languages="more than 100",
        parameters=315_470_495,
        memory_bytes=1_262_000_000,
        repositories=(ALIGNER,),
        checks="soundmill.models.aligner.checks:examine",
    ),
    Model(
        id="ming-omni-tts-0.5b",
        kind="tts",
        title="Speech, cloned voices, podcasts, music and sound effects at 44.1 kHz, by Ming-omni-tts",
        arguments=MingArguments,
        handler="soundmill.models.ming.handler:Ming",
        licence="see the page of inclusionAI/Ming-omni-tts-0.5B",
        audio_fields=("prompt_audio", "speaker_audio", "speakers.*.audio"),
        languages=("zh", "en"),
        sample_rate_hz=44100,
        needs="models",
        parameters=1_479_454_868,
        memory_bytes=3_330_000_000,
        repositories=(MING,),
        checks="soundmill.models.ming.checks:examine",
    ),
)
