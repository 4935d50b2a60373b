"""Where the input audio of a job stands among its arguments.

A catalogue entry lists its audio fields as dotted names, in which `*` is every item of a list:
`audio`, `context.*.audio`. In the arguments of one job each of them is there as often as the lists
have items, and then it has a number for the star: `context.0.audio`. Those full names stand in
errors, and in the names under which the audio is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

EVERY = "*"


def audio_in(args: Mapping[str, Any], fields: Sequence[str]) -> dict[str, Any]:
    """What is given for each audio field, by its full name; `None` counts as not given.

    The arguments may be as a submitter wrote them: what has another form than the field wants is
    left out, and the catalogue refuses it.
    """
    found: dict[str, Any] = {}
    for field in fields:
        found |= dict(_found(args, field.split("."), ""))
    return found


def with_audio(args: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the arguments with other values in the fields of these full names."""
    changed = dict(args)
    inner: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        head, _, rest = name.partition(".")
        if rest:
            inner.setdefault(head, {})[rest] = value
        else:
            changed[head] = value
    for head, deeper in inner.items():
        changed[head] = _with_items(changed[head], deeper)
    return changed


def audio_field_at(place: Sequence[str | int], fields: Sequence[str]) -> str | None:
    """The full name of the audio field that a place is in, such as that of an error; `None` if in none."""
    for field in fields:
        parts = field.split(".")
        met = zip(parts, place, strict=False)
        if len(place) >= len(parts) and all(_fits(part, step) for part, step in met):
            return ".".join(str(step) for step in place[: len(parts)])
    return None


def input_name(name: str) -> str:
    """What the audio given for a field is called among the artifacts of its job."""
    # Without dots: `.audio` would be taken for the ending of a file.
    return f"input/{name.replace('.', '-')}"


def _found(value: Any, parts: Sequence[str], before: str) -> Iterator[tuple[str, Any]]:
    if not parts:
        if value is not None:
            yield before, value
        return
    dot = "." if before else ""
    if parts[0] == EVERY:
        for number, item in enumerate(value if isinstance(value, list | tuple) else ()):
            yield from _found(item, parts[1:], f"{before}{dot}{number}")
    elif isinstance(value, Mapping) and parts[0] in value:
        yield from _found(value[parts[0]], parts[1:], f"{before}{dot}{parts[0]}")


def _with_items(value: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(value, Mapping):
        return with_audio(value, values)
    items = with_audio({str(number): item for number, item in enumerate(value)}, values).values()
    return tuple(items) if isinstance(value, tuple) else list(items)


def _fits(part: str, step: str | int) -> bool:
    return isinstance(step, int) if part == EVERY else part == step
