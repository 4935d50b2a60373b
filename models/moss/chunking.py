"""A long text in chunks that are spoken one by one, and the pauses between them."""

from __future__ import annotations

import re

from .tokenizer import Count

SHORT_PAUSE_S = 0.24
LONG_PAUSE_S = 0.40  # behind a chunk of few words; also behind every text that is written without spaces
_FEW_WORDS = 4
_SHORT_TEXT_WORDS = 5
_LEAD = " " * 8
_LOOK_BACK = 24
_SEARCHED_CHARS = 1024
_SEARCHED_CHARS_PER_TOKEN = 16  # about the longest piece of the published vocabulary

CJK = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]")
_ENDS = ".!?。！？；;"
_STOPS = ",，、；;：:"
_CLOSERS = "\"'”’»›)]}）】》〉」』〕〗"
_PREFERRED = frozenset(_ENDS + _STOPS + " ")
_SENTENCE = re.compile(f"[^{_ENDS}]*[{_ENDS}]+[{re.escape(_CLOSERS)}]*|[^{_ENDS}]+")
_CLAUSE = re.compile(f"[^{_STOPS}]*[{_STOPS}]+[{re.escape(_CLOSERS)}]*|[^{_STOPS}]+")


def pause_after(chunk: str) -> float:
    """The silence behind a chunk, in seconds."""
    return LONG_PAUSE_S if len(chunk.split()) <= _FEW_WORDS else SHORT_PAUSE_S


def chunks_of(text: str, budget: int, count: Count) -> list[str]:
    """Cut a text into chunks of at most `budget` tokens.

    A text of one chunk is returned as it was given, not as `prepared` for cutting.

    Args:
        budget: Tokens of a chunk; 0 cuts nothing.
        count: How many tokens a text has.
    """
    if budget <= 0:
        return [text]
    chunks = split(prepared(text), budget, count)
    return chunks if len(chunks) > 1 else [text]


def prepared(text: str) -> str:
    """Bring a text into the form that is cut: one line, with an end."""
    text = re.sub(" {2,}", " ", re.sub(r"[\r\n]+", " ", text.strip()))
    if not text:
        return text
    if CJK.search(text):
        return text if text[-1] in _ENDS else text + "。"
    text = text[0].upper() + text[1:]
    if text[-1].isalnum():
        text += "."
    return text if len(text.split()) >= _SHORT_TEXT_WORDS else _LEAD + text


def split(text: str, budget: int, count: Count) -> list[str]:
    """Cut at sentences, where that is not enough at clauses, then anywhere; then join what fits."""
    pieces: list[tuple[str, int]] = []
    for sentence in _cut(_SENTENCE, text):
        tokens = count(sentence)
        if tokens <= budget:
            pieces.append((sentence, tokens))
            continue
        for clause in _cut(_CLAUSE, sentence):
            tokens = count(clause)
            pieces += [(clause, tokens)] if tokens <= budget else _forced(clause, budget, count)
    return _packed(pieces, budget, count)


def _cut(pattern: re.Pattern[str], text: str) -> list[str]:
    return [piece for found in pattern.findall(text) if (piece := found.strip())]


def _forced(text: str, budget: int, count: Count) -> list[tuple[str, int]]:
    pieces = []
    while text:
        end = _longest(text, budget, count)
        if end < len(text):
            back = (at for at in range(end, max(end - _LOOK_BACK, 0), -1) if text[at - 1] in _PREFERRED)
            end = next(back, end)
        piece = text[:end].strip()
        if piece:
            pieces.append((piece, count(piece)))
        text = text[end:].strip()
    return pieces


def _longest(text: str, budget: int, count: Count) -> int:
    """The length of the longest prefix within the budget, at least 1."""

    def fits(end: int) -> bool:
        return count(text[:end].strip()) <= budget

    # Bounded, as the text may be a hundred thousand characters long.
    low, high = 1, min(len(text), max(_SEARCHED_CHARS, _SEARCHED_CHARS_PER_TOKEN * budget))
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low


def _packed(pieces: list[tuple[str, int]], budget: int, count: Count) -> list[str]:
    chunks: list[str] = []
    current, tokens = "", 0
    for piece, size in pieces:
        if current and tokens + size <= budget:
            joint = "" if CJK.search(current) or CJK.search(piece) else " "
            current += joint + piece
            tokens = count(current)
            continue
        if current:
            chunks.append(current)
        current, tokens = piece, size
    return [*chunks, current] if current else chunks
