"""A document as text for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_GIB = 1024**3
_NONE = "-"


def summary(document: Mapping[str, Any]) -> list[str]:
    """The lines of a measurement on one card or on several."""
    if "cards" in document:
        return list(_several(document))
    return list(_one(document))


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A table whose columns are as wide as their widest cell; the first is aligned to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if not place else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _several(document: Mapping[str, Any]) -> Iterator[str]:
    for card in document["cards"]:
        yield from _one(card)
        yield ""
    for card, reason in document["failures"].items():
        yield f"{card} failed: {reason}"
    for total in document["together"]:
        yield f"together, {total['cards']} cards, {_load(total['load'])}: {total['audio_s_per_s']:.4g} audio-s/s"


def _one(document: Mapping[str, Any]) -> Iterator[str]:
    yield from _stamp(document)
    yield from _weights(document)
    yield ""
    match document["kind"]:
        case "components":
            yield from aligned([_COMPONENTS, *map(_component, document["components"])])
        case "generate":
            yield from aligned([_SIDES, *(row for cell in document["compared"] for row in _sides(cell))])
        case _:
            unit = document["unit"]
            heads = tuple(f"{unit}/s" if head == "unit/s" else head for head in _CELLS)
            yield from aligned([heads, *(_cell(cell, unit) for cell in document["cells"])])
    for refused in document.get("refused", ()):
        yield f"not measured, {_load(refused['load'])}: {refused['reason']}"
    for cell in document.get("cells", ()):
        if cell["failure"]:
            yield f"{cell['failed']} failed, {_load(cell['load'])}: {cell['failure']}"


def _stamp(document: Mapping[str, Any]) -> Iterator[str]:
    stamp = document["stamp"]
    run = document["run"]
    where = stamp["card"] if stamp["device"] is None else f"{stamp['card']} ({stamp['device']})"
    yield f"{document['model']} on {where}, {document['kind']}, {stamp['taken']}"
    names = ("driver", "cann", "cuda", "torch", "torch_npu", "transformers", "soundmill", "python")
    versions = [f"{name} {stamp[name]}" for name in names if stamp[name] is not None]
    threads = "" if stamp["threads"] is None else f"; {stamp['threads']} of {stamp['cores']} cores"
    yield f"{', '.join(versions)}{threads}; host load {stamp['host_load']:g}"
    yield f"{run['runs']} runs after {run['warmup']} to warm up: medians (least … most)"
    for name, text in run["texts"].items():
        yield (
            f"{name} text: {text['characters']} characters of a job, {text['tokens']} tokens in the prompt of a row, "
            f"or a clip of {text['clip_s']:g} s"
        )


def _weights(document: Mapping[str, Any]) -> Iterator[str]:
    stamp = document["stamp"]
    of = {"random": "random weights", None: "no weights"}.get(
        stamp["checkpoint"], f"checkpoint {stamp['checkpoint']}"
    )
    if stamp["revision"]:
        of += f", revision {stamp['revision']}"
    size = (
        f", {document['parameters'] / 1e6:.1f} million, size {document['size']}" if "size" in document else ""
    )
    yield f"{of}{size}, {stamp['dtype'] or 'no dtype'}; loaded in {document['load_s']:.3g} s"
    memory = document.get("memory", {})
    taken = [
        f"{words} {memory[name] / _GIB:.2f} GiB"
        for name, words in (
            ("loaded_bytes", "after loading"),
            ("opened_bytes", "with slots"),
            ("peak_bytes", "peak"),
        )
        if name in memory
    ]
    if taken:
        yield f"memory: {', '.join(taken)}"
    if document.get("floor"):
        floor = document["floor"]
        yield (
            f"floor of a step: {floor['weights_bytes'] / 1e9:.3g} GB of weights at "
            f"{floor['copy_bytes_per_s'] / 1e9:.4g} GB/s, {floor['step_ms']:.4g} ms"
        )


_CELLS = (
    "load", "RTF", "audio-s/s", "unit/s", "files/s", "first ms", "step ms", "× floor", "peak GiB", "batch",
    "failed", "empty",
)  # fmt: skip
_SIDES = ("load", "side", "a second", "audio-s/s", "engine ÷ generate", "same output")
_COMPONENTS = ("component", "CPU ms", "device ms", "speed-up")


def _cell(cell: Mapping[str, Any], unit: str) -> tuple[str, ...]:
    floor = cell["times_the_floor"]
    return (
        _load(cell["load"]),
        _spread(cell["real_time_factor"]),
        _spread(cell["audio_s_per_s"]),
        _spread(cell[f"{unit}_per_s"]),
        _spread(cell["files_per_s"]),
        _spread(cell["first_s"], 1000),
        _spread(cell["step_ms"]),
        _NONE if floor is None else f"{floor:.3g}",
        f"{cell['peak_bytes'] / _GIB:.2f}",
        str(cell["batch_size"]),
        str(cell["failed"]),
        str(cell["empty"]),
    )


def _sides(cell: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    same = {None: _NONE, True: "yes", False: "no"}[cell["same_output"]]
    for number, (name, side) in enumerate(cell["sides"].items()):
        rate = next(value for key, value in side.items() if key.endswith("_per_s"))
        last = (_spread(cell["engine ÷ generate"]), same) if number == 0 else ("", "")
        yield _load(cell["load"]), name, _spread(rate), _spread(side["audio_s_per_s"]), *last


def _component(part: Mapping[str, Any]) -> tuple[str, ...]:
    speed_up = part["speed_up"]
    return (
        part["name"],
        _spread(part["cpu_ms"]),
        _spread(part["device_ms"]),
        _NONE if speed_up is None else f"{speed_up:.3g} ×",
    )


def _load(load: Mapping[str, Any]) -> str:
    frames = "" if load.get("frames") is None else f", {load['frames']} frames"
    return f"{load['slots']} at once, {load['text']} text{frames}"


def _spread(values: Mapping[str, float] | None, factor: float = 1.0) -> str:
    if values is None:
        return _NONE
    median, least, most = (factor * values[name] for name in ("median", "least", "most"))
    return f"{median:.3g} ({least:.3g} … {most:.3g})"
