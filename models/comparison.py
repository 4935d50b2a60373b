"""The tensors of a checkpoint beside those that the code of its model takes.

What the code takes is found by letting the loading code itself run over tensors without content, so that no
second list of names has to agree with it.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from .finding import Finding
from .tensor_files import StoredTensor

TOKENIZER = "ids of the tokenizer"
NAMES = "names of the tensors"
SHAPES = "shapes of the tensors"
DTYPES = "dtypes of the tensors"
TIES = "tied tensors"

FLOATING = frozenset({"F64", "F32", "F16", "BF16"})
"""What is read as it is; anything else would be taken for numbers that it does not mean."""

_WIDTHS = {
    "F64": 8,
    "I64": 8,
    "U64": 8,
    "F32": 4,
    "I32": 4,
    "U32": 4,
    "F16": 2,
    "BF16": 2,
    "I16": 2,
    "U16": 2,
}
_ALIKE = 3
"""So many names that differ in nothing but their numbers are shown one by one, more of them in one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A tensor that the code takes.

    Attributes:
        names: What it may be called in the file.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tie:
    """Two names of one tensor; a file may hold either or both."""

    name: str
    other: str


def compare(
    stored: Mapping[str, StoredTensor],
    wanted: Sequence[Wanted],
    *,
    unread: Callable[[str], bool] = lambda name: False,
) -> tuple[Finding, ...]:
    """Compare names, shapes and dtypes.

    Args:
        unread: Whether a name is known as one that is published and not read.
    """
    known = {name for tensor in wanted for name in tensor.names}
    missing = [tensor for tensor in wanted if not any(name in stored for name in tensor.names)]
    unknown = [name for name in stored if name not in known and not unread(name)]
    shapes = [
        f"{name} is {list(stored[name].shape)}, wanted {list(tensor.shape)}"
        for tensor in wanted
        for name in tensor.names
        if name in stored and stored[name].shape != tensor.shape
    ]
    return (
        names_finding([(tensor.names[0], tensor.shape) for tensor in missing], unknown, stored),
        _finding(SHAPES, shapes, f"all {len(wanted)} are those of config.json"),
        dtypes_finding({name: stored[name].dtype for name in stored if name in known}),
        *unread_findings({name: stored[name] for name in stored if name not in known and unread(name)}),
    )


def names_finding(
    missing: Iterable[tuple[str, tuple[int, ...]]],
    unknown: Iterable[str],
    stored: Mapping[str, StoredTensor],
) -> Finding:
    """Which names are lacking, which are not known."""
    lacking = [f"missing: {line}" for line in _folded((name, str(list(shape))) for name, shape in missing)]
    spare = [
        f"unexpected: {line}"
        for line in _folded((name, _described(stored[name]) if name in stored else "") for name in unknown)
    ]
    missing, unknown = list(missing), list(unknown)
    shown = ", ".join(sorted([*(name for name, _ in missing), *unknown])[:_ALIKE])
    fine = not (missing or unknown)
    return Finding(
        question=NAMES,
        as_expected=fine,
        answer=f"they are those of the published layout, {len(stored)}"
        if fine
        else f"{len(missing)} are missing and {len(unknown)} unknown: {shown}",
        details=(*lacking, *spare),
    )


def dtypes_finding(dtypes: Mapping[str, str]) -> Finding:
    """Whether all that is read is floating-point; which dtype, does not matter to the loading code."""
    wrong = [f"{name} is {dtype}" for name, dtype in dtypes.items() if dtype not in FLOATING]
    counts = ", ".join(f"{dtype} {count}" for dtype, count in Counter(dtypes.values()).most_common())
    return _finding(DTYPES, wrong, counts)


def unread_findings(spare: Mapping[str, StoredTensor]) -> tuple[Finding, ...]:
    """What is in the files and not read; nothing, where there is nothing."""
    if not spare:
        return ()
    parts = Counter(".".join(name.split(".")[:2]) for name in spare)
    size = sum(math.prod(tensor.shape) * _WIDTHS.get(tensor.dtype, 1) for tensor in spare.values())
    listed = ", ".join(f"{part}.* {count}" for part, count in parts.most_common())
    return (
        Finding(
            question="tensors that are not read",
            as_expected=True,
            answer=f"{len(spare)}, {size / 1e6:.1f} MB: {listed}",
        ),
    )


def ties_finding(ties: Sequence[Tie], stored: Mapping[str, StoredTensor]) -> Finding:
    """Whether both names of a tensor, where both are stored, hold the same numbers."""
    both = [tie for tie in ties if tie.name in stored and tie.other in stored]
    wrong = [f"{tie.name} and {tie.other} differ" for tie in both if not _same(tie, stored)]
    twice = f"{len(both)} of them stored twice, with the same numbers" if both else "each stored once"
    return _finding(TIES, wrong, f"{len(ties)}, {twice}")


def _same(tie: Tie, stored: Mapping[str, StoredTensor]) -> bool:
    import torch
    from safetensors import safe_open

    tensors = []
    for name in (tie.name, tie.other):
        with safe_open(stored[name].file, framework="pt") as opened:
            tensors.append(opened.get_tensor(name))
    return bool(tensors[0].shape == tensors[1].shape and torch.equal(*tensors))


def _finding(question: str, wrong: Sequence[str], fine: str) -> Finding:
    return Finding(
        question=question,
        as_expected=not wrong,
        answer=f"{len(wrong)} differ: {wrong[0]}" if wrong else fine,
        details=tuple(wrong),
    )


def _folded(entries: Iterable[tuple[str, str]]) -> list[str]:
    """Names with what is said of them; those that differ in nothing but their numbers in one line."""
    alike: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, said in entries:
        alike[re.sub(r"\d+", "*", name), said].append(name)
    lines: list[str] = []
    for (pattern, said), names in alike.items():
        if len(names) <= _ALIKE:
            lines += [f"{name} {said}".rstrip() for name in names]
        else:
            lines.append(f"{pattern} {said}, {len(names)} of them".replace(" ,", ","))
    return lines


def _described(tensor: StoredTensor) -> str:
    return f"{list(tensor.shape)} {tensor.dtype}"


def known_text_finding(*, same: bool) -> Finding:
    """Whether a text whose ids were published has those ids."""
    answer = "a known text has its known ids" if same else "a known text has other ids; speech will be wrong"
    return Finding(question=TOKENIZER, as_expected=same, answer=answer)
