"""A verification as rows of text, which the terminal, Markdown and HTML show alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

from .end_to_end import Hearing, Outcome
from .figures import Figures
from .limits import Limits
from .verdicts import Line
from .verification import Side, Verification

COMPONENT_COLUMNS = (
    "component", "dtype", "verdict", "rel. error", "cosine", "max error", "mean error", "within 1 %",
    "within 0.1 %", "agreement", "seconds", "remark",
)  # fmt: skip
TENSOR_COLUMNS = ("tensor", *COMPONENT_COLUMNS[1:])
TRIAL_COLUMNS = (
    "trial", "verdict", "audio", "level", "clipped", "seconds", "RTF", "score", "text alike", "remark",
)  # fmt: skip
STAMP_FIELDS = (
    "card", "device", "dtype", "driver", "cann", "cuda", "torch", "torch_npu", "transformers", "soundmill",
    "threads", "checkpoint", "repository", "revision", "taken",
)  # fmt: skip


def headline(verification: Verification) -> str:
    """The outcome in a sentence."""
    cards = ", ".join(str(side.seat) for side in verification.sides)
    outcome = "passed" if verification.ok else "FAILED"
    return f"{verification.order.model} on {cards} against {verification.reference.seat}: {outcome}"


def component_rows(side: Side) -> list[tuple[str, ...]]:
    """A row for each component and dtype: the worst of its tensors."""
    rows = []
    for (component, dtype), lines in groupby(side.lines, key=lambda line: (line.component, line.dtype)):
        several = list(lines)
        rows.append((component, dtype, _verdict(several), *_figures(several), _remark(several)))
    return rows


def tensor_rows(side: Side) -> list[tuple[str, ...]]:
    """A row for each tensor."""
    return [
        (line.name, line.dtype, line.verdict, *_figures([line]), "; ".join(line.reasons) or _free_run(line))
        for line in side.lines
    ]


def trial_rows(side: Side) -> list[tuple[str, ...]]:
    """A row for each trial of the handler; where the reference says something else, it stands behind a slash."""
    return [_trial_row(hearing) for hearing in side.hearings]


def stamp_rows(verification: Verification) -> list[tuple[str, ...]]:
    """What each side ran on: a row for each fact that is known of one."""
    sides = (verification.reference, *verification.sides)
    stamps = [{} if side.stamp is None else side.stamp.as_json() for side in sides]
    return [
        (name, *("" if stamp.get(name) is None else str(stamp[name]) for stamp in stamps))
        for name in STAMP_FIELDS
        if any(stamp.get(name) is not None for stamp in stamps)
    ]


def limit_rows(verification: Verification) -> list[tuple[str, ...]]:
    """The limits that were asked for, each once, with where they come from."""
    found: dict[tuple[str, Limits], None] = {}
    for side in verification.sides:
        for line in side.lines:
            found |= dict.fromkeys((line.dtype, limits) for limits in line.limits)
    return [
        (
            dtype,
            each.name,
            f"< {each.relative_error:.2%}",
            f"> {each.cosine}",
            f"≥ {each.agreement:.0%}",
            each.source,
        )
        for dtype, each in found
    ]


LIMIT_COLUMNS = ("dtype", "limits", "rel. error", "cosine", "agreement", "source")


def _verdict(lines: Sequence[Line]) -> str:
    for verdict in ("fail", "pass"):
        if any(line.verdict == verdict for line in lines):
            return verdict
    return "reported"


def _remark(lines: Sequence[Line]) -> str:
    wrong = [line for line in lines if line.verdict == "fail"]
    if not wrong:
        return "; ".join(filter(None, map(_free_run, lines)))
    first = wrong[0]
    more = f"; and {len(wrong) - 1} more of {len(lines)} tensors" if len(wrong) > 1 else ""
    return f"{first.tensor + ': ' if first.tensor else ''}{'; '.join(first.reasons)}{more}"


def _free_run(line: Line) -> str:
    """What a free run is like, of the case that parts first."""
    if line.verdict != "reported":
        return ""
    steps = [figures.first_divergence for figures in line.cases.values()]
    parted = [step for step in steps if step is not None]
    words = f"parts at step {min(parted)}" if parted else "never parts"
    alike = [figures.similarity for figures in line.cases.values() if figures.similarity is not None]
    return f"{words}, texts {min(alike):.0%} alike" if alike else words


def _figures(lines: Sequence[Line]) -> tuple[str, ...]:
    worst = [line.worst for line in lines if line.worst is not None]

    def of(
        read: Callable[[Figures], float | None], pick: Callable[[Iterable[float]], float], form: str
    ) -> str:
        found = [value for figures in worst if (value := read(figures)) is not None]
        return format(pick(found), form) if found else ""

    seconds = next((f"{line.seconds:.3f} / {line.reference_seconds:.3f}" for line in lines if line.worst), "")
    return (
        of(lambda figures: figures.relative_error, max, ".2e"),
        of(lambda figures: figures.cosine, min, ".7f"),
        of(lambda figures: figures.max_error, max, ".1e"),
        of(lambda figures: figures.mean_error, max, ".1e"),
        of(lambda figures: figures.within_1_percent, min, ".1%"),
        of(lambda figures: figures.within_01_percent, min, ".1%"),
        of(lambda figures: figures.agreement, min, ".1%"),
        seconds,
    )


def _trial_row(hearing: Hearing) -> tuple[str, ...]:
    def both(show: Callable[[Outcome], str]) -> str:
        mine = show(hearing.examined)
        theirs = mine if hearing.reference is None else show(hearing.reference)
        return mine if mine == theirs else f"{mine or '-'} / {theirs or '-'}"

    return (
        hearing.trial,
        hearing.verdict,
        both(_audio),
        both(
            lambda made: (
                f"{made.sound.level_dbfs} dBFS" if made.sound and made.sound.level_dbfs is not None else ""
            )
        ),
        both(lambda made: f"{made.sound.clipped:.1%}" if made.sound else ""),
        both(lambda made: "" if made.seconds is None else f"{made.seconds:.2f}"),
        both(lambda made: "" if made.real_time_factor is None else f"{made.real_time_factor:.2f}"),
        both(lambda made: "" if made.score is None else f"{made.score:.2f}"),
        "" if hearing.similarity is None else f"{hearing.similarity:.0%}",
        "; ".join(hearing.reasons),
    )


def _audio(made: Outcome) -> str:
    sound = made.sound
    if sound is None:
        return ""
    return f"{sound.duration_s:.2f} s, {sound.sample_rate} Hz, {sound.channels} ch"
