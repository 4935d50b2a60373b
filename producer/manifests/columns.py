"""Which argument of a model a column fills, for every format and kind of job.

| format        | tts                                  | align                          | caption    |
|---------------|--------------------------------------|--------------------------------|------------|
| `jsonl`       | every key is the job's own or an argument, by its name                             |
| `csv`, `tsv`  | text                                 | audio, text                    | audio      |
| `nemo`        | text                                 | audio_filepath, text           | audio_filepath |
| `audiofolder` | text                                 | file_name, text                | file_name  |
| `ljspeech`    | normalised, else raw                 | wavs/ID.wav, normalised or raw | wavs/ID.wav |
| `moss`        | text; role is the reference audio    | role, text                     | role       |
| `seed-tts`    | text; ref_wav, ref_text the reference | ref_wav, ref_text             | ref_wav    |

`text` may also be called transcription, transcript or sentence, and audio audio_path or path.
`lang` and `locale` fill `language` where the model has it. A recording beside a text to be spoken,
and a text beside audio to be described, fill nothing; nor do the descriptive columns below. A further
column fills the argument of its name; where the model has none of that name, the line is refused.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_args

from soundmill.storage.errors import SubmitRefused

from .layout import Format, Layout

if TYPE_CHECKING:
    from soundmill.storage.catalog import Model

JOB_KEYS = frozenset({"model", "kind", "id", "custom_id", "priority", "alias", "timeout_s", "delay_s"})
NUMBERS = frozenset({"priority", "timeout_s", "delay_s"})

_TEXT = ("text", "transcription", "transcript", "sentence")
_AUDIO = ("audio", "audio_filepath", "file_name", "audio_path", "path")
_LANGUAGE = ("language", "lang", "locale")
_REFERENCE_TEXTS = ("reference_text", "prompt_text", "ref_text")

DESCRIPTIVE = frozenset(
    {"accent", "accents", "age", "channels", "client_id", "dataset", "down_votes", "duration",
     "duration_s", "emotion", "gender", "label", "normalized_text", "num_samples", "orig_sr", "pred_text",
     "sample_rate", "sampling_rate", "segment", "sentence_domain", "sentence_id", "snr", "source",
     "speaker", "speaker_id", "speaker_name", "spk", "split", "style", "topic", "up_votes", "utt_id",
     "variant"}
)  # fmt: skip
"""Columns of the well-known formats that describe a recording and ask for nothing."""

_Roles = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """What the columns of a format mean.

    Attributes:
        roles: For each kind of job, the columns that may fill a role; the first that is there does.
        label: A column that names the line without being its id: two lines may have the same.
        audio_by_id: Where the audio of a line lies, made of its id.
        own_first: Whether a column that is called like an argument is that argument, whatever else
            the format may mean by it.
    """

    roles: Mapping[str, _Roles]
    label: str | None = None
    audio_by_id: str | None = None
    own_first: bool = False

    @property
    def contents(self) -> frozenset[str]:
        """All columns that mean something for some kind of job."""
        return frozenset(name for roles in self.roles.values() for names in roles.values() for name in names)


_USUAL: Mapping[str, _Roles] = {
    "tts": {"text": _TEXT},
    "align": {"audio": _AUDIO, "text": _TEXT},
    "caption": {"audio": _AUDIO},
}
_LJ_TEXT = ("normalised", "raw")
_TABLE = Vocabulary(roles=_USUAL, own_first=True)

VOCABULARIES = {
    Format.CSV: _TABLE,
    Format.TSV: _TABLE,
    Format.NEMO: Vocabulary(roles=_USUAL),
    Format.AUDIOFOLDER: Vocabulary(roles=_USUAL, label="file_name"),
    Format.LJSPEECH: Vocabulary(
        roles={"tts": {"text": _LJ_TEXT}, "align": {"text": _LJ_TEXT}}, audio_by_id="wavs/{}.wav"
    ),
    Format.MOSS: Vocabulary(
        roles={
            "tts": {"text": ("text",), "reference": ("role",)},
            "align": {"audio": ("role",), "text": ("text",)},
            "caption": {"audio": ("role",)},
        },
        label="name",
    ),
    Format.SEED_TTS: Vocabulary(
        roles={
            "tts": {"text": ("text",), "reference": ("ref_wav",), "reference_text": ("ref_text",)},
            "align": {"audio": ("ref_wav",), "text": ("ref_text",)},
            "caption": {"audio": ("ref_wav",)},
        },
    ),
}

KNOWN_NAMES = JOB_KEYS | frozenset(_TEXT) | frozenset(_AUDIO) | {"file"}
"""A first line that has one of these is a header."""


@dataclass(slots=True, kw_only=True)
class Sorted:
    """The columns of one line, sorted.

    Attributes:
        own: The job's own keys.
        args: The arguments of the model.
        label: A name for the line that is no id.
        unused: Columns that fill nothing, and are known not to.
    """

    own: dict[str, Any] = field(default_factory=dict)
    args: dict[str, Any] = field(default_factory=dict)
    label: str | None = None
    unused: set[str] = field(default_factory=set)


def sort_columns(
    values: Mapping[str, Any], layout: Layout, model: Model, dropped: Collection[str] = ()
) -> Sorted:
    """Sort the columns of a line of any format but our own.

    Args:
        values: The line, without the object `args`.
        layout: Of the file.
        model: The model of the line.
        dropped: Columns that the submitter does not want to be used.

    Raises:
        SubmitRefused: A column is no argument of the model; the sentence names it.
    """
    vocabulary = VOCABULARIES[layout.format]
    found = Sorted(unused={name for name in values if name in dropped})
    left = {
        name: value
        for name, value in values.items()
        if name not in dropped and value is not None and value != ""
    }
    found.own = {name: _own(name, left.pop(name), layout) for name in sorted(JOB_KEYS & left.keys())}
    if vocabulary.label is not None and isinstance(left.get(vocabulary.label), str):
        found.label = left[vocabulary.label]
    _refuse_segments(left)
    _fill_roles(found, left, layout, model)
    _fill_audio_by_id(found, vocabulary, model)
    for name, value in left.items():
        _place(found, name, value, layout, vocabulary, model)
    return found


def _own(name: str, value: Any, layout: Layout) -> Any:
    return _number(value) if layout.separator is not None and name in NUMBERS else value


def _refuse_segments(left: dict[str, Any]) -> None:
    """NeMo's `offset` means a part of a file; taking the whole would quietly be another job."""
    offset = left.pop("offset", None)
    if offset is not None and _number(offset) != 0:
        raise SubmitRefused(
            "offset: only whole files are read; cut the segment into a file of its own", field="offset"
        )


def _fill_roles(found: Sorted, left: dict[str, Any], layout: Layout, model: Model) -> None:
    roles = dict(VOCABULARIES[layout.format].roles.get(model.kind, {}))
    if "language" in model.arguments.model_fields:
        roles["language"] = _LANGUAGE
    for role, columns in roles.items():
        column = next((name for name in columns if name in left), None)
        if column is None:
            continue
        argument = _argument(role, model)
        if argument is not None:
            found.args[argument] = _read(argument, left.pop(column), layout, model)
        elif role == "reference":
            raise SubmitRefused(
                f"{column}: {model.id} takes no reference audio; choose a model that does, "
                f"or leave the column out with --drop {column}",
                field=column,
            )


def _argument(role: str, model: Model) -> str | None:
    """The argument of a model that a role fills."""
    if role in ("audio", "reference"):
        return next(iter(_plain(model.audio_fields)), None)
    names = _REFERENCE_TEXTS if role == "reference_text" else (role,)
    return next((name for name in names if name in model.arguments.model_fields), None)


def _plain(audio_fields: Collection[str]) -> list[str]:
    """Those that a column can fill: not the ones inside a list."""
    return [name for name in audio_fields if "." not in name]


def _fill_audio_by_id(found: Sorted, vocabulary: Vocabulary, model: Model) -> None:
    if vocabulary.audio_by_id is not None and model.kind in ("align", "caption") and "id" in found.own:
        for name in _plain(model.audio_fields)[:1]:
            found.args[name] = vocabulary.audio_by_id.format(found.own["id"])


def _place(
    found: Sorted, name: str, value: Any, layout: Layout, vocabulary: Vocabulary, model: Model
) -> None:
    """Put a column that has no role where it belongs."""
    known = (
        name in DESCRIPTIVE or name in vocabulary.contents or name in _LANGUAGE or name == vocabulary.label
    )
    if layout.names is not None:
        known = known or name in layout.names
    is_argument = name in model.arguments.model_fields and name not in found.args
    if is_argument and (vocabulary.own_first or not known):
        found.args[name] = _read(name, value, layout, model)
    elif known:
        found.unused.add(name)
    else:
        raise SubmitRefused(
            f"{name}: {model.id} has no such argument, and {layout.format} no such column; "
            f"remove it, or leave it out with --drop {name}",
            field=name,
        )


def _read(name: str, cell: Any, layout: Layout, model: Model) -> Any:
    """A cell of a table as the argument wants it: JSON where that is no text."""
    if layout.separator is None:
        return cell
    if name in model.audio_fields:
        return _json(cell) if cell.lstrip().startswith("{") else cell
    annotation = model.arguments.model_fields[name].annotation
    takes_text = annotation is str or str in get_args(annotation)
    return cell if takes_text else _json(cell)


def _json(cell: str) -> Any:
    try:
        return json.loads(cell)
    except ValueError:
        return cell


def _number(value: Any) -> Any:
    return _json(value) if isinstance(value, str) else value
