"""The README's table of what has been run where, made of the documents in `benchmarks/results`.

    python benchmarks/table.py             # prints it
    python benchmarks/table.py --write     # puts it between the two marks in README.md

A row is a load of a document that `soundmill bench … --output benchmarks/results/bench_NAME.json` or `soundmill
evaluate` wrote: medians, with what they were measured on. Nothing is in the table that is in no such document.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
README = HERE.parent / "README.md"
BEGIN = "<!-- made by benchmarks/table.py: -->"
END = "<!-- :made by benchmarks/table.py -->"

HEADS = (
    "model", "where", "weights", "load", "RTF", "audio-s/s", "first, ms", "step, ms", "× floor", "peak, GiB",
    "verified",
)  # fmt: skip
NONE = "–"
GIB = 1024**3


def table(results: Path = RESULTS) -> str:
    """The whole table; a sentence where nothing has been measured."""
    rows = [row for file in sorted(results.glob("*.json")) for row in _rows(json.loads(file.read_text()))]
    if not rows:
        return "Nothing has been measured yet."
    return "\n".join(_line(cells) for cells in (HEADS, ("---",) * len(HEADS), *rows))


def written(text: str, made: str) -> str:
    """A text with the table between its marks.

    Raises:
        ValueError: It has no marks.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(
            f"there are no marks; put {BEGIN} and {END} on lines of their own where the table belongs"
        )
    return f"{before}{BEGIN}\n\n{made}\n\n{END}{after}"


def _rows(document: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """The rows of a document; other benchmarks' files have none."""
    kind = document.get("soundmill") if isinstance(document, dict) else None
    if kind == "evaluate":
        verified = _verified(document["verify"])
        for measured in document["bench"]:
            if "failure" not in measured:
                yield from _measured(measured, verified)
    elif kind == "bench":
        for measured in document.get("cards", [document]):
            yield from _measured(measured, NONE)


def _verified(verify: Mapping[str, Any] | None) -> str:
    if verify is None:
        return NONE
    return f"{'yes' if verify['ok'] else 'no'}, beside {verify['reference']['card']}"


def _measured(document: Mapping[str, Any], verified: str) -> Iterator[tuple[str, ...]]:
    stamp = document["stamp"]
    for cell in document.get("cells", ()):
        yield (
            f"`{document['model']}`", _where(stamp), _weights(document), _load(document, cell["load"]),
            _median(cell["real_time_factor"]), _median(cell["audio_s_per_s"]), _median(cell["first_s"], 1000),
            _median(cell["step_ms"]), NONE if cell["times_the_floor"] is None else _short(cell["times_the_floor"]),
            f"{cell['peak_bytes'] / GIB:.2f}", verified,
        )  # fmt: skip


def _where(stamp: Mapping[str, Any]) -> str:
    device = stamp["device"] or "processor"
    threads = (
        ""
        if stamp["threads"] is None or not stamp["card"].startswith("cpu")
        else f", {stamp['threads']} thread"
    )
    plural = "s" if threads and stamp["threads"] > 1 else ""
    versions = [f"{name} {stamp[name]}" for name in ("cann", "driver", "torch", "torch_npu") if stamp[name]]
    return f"{device}{threads}{plural}, {', '.join(versions)}; {stamp['taken'][:10]}, host load {stamp['host_load']:g}"


def _weights(document: Mapping[str, Any]) -> str:
    stamp = document["stamp"]
    if stamp["checkpoint"] is None:
        return "none"
    size = " of the published size" if document.get("size") == "published" else ""
    of = f"random{size}" if stamp["checkpoint"] == "random" else stamp["revision"] or stamp["checkpoint"]
    return f"{of}, {stamp['dtype']}"


def _load(document: Mapping[str, Any], load: Mapping[str, Any]) -> str:
    parts = [f"{load['slots']} at once", f"{load['text']} text"]
    if load["frames"] is not None:
        parts.append(f"{load['frames']} {document['unit']}")
    if document["kind"] == "jobs":
        parts.append("whole jobs")
    return ", ".join(parts)


def _median(values: Mapping[str, float] | None, factor: float = 1.0) -> str:
    return NONE if values is None else _short(factor * values["median"])


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> int:
    """Print the table, or write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="put it into README.md")
    options = parser.parse_args()
    if options.write:
        README.write_text(written(README.read_text(encoding="utf-8"), table()), encoding="utf-8")
    else:
        print(table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
