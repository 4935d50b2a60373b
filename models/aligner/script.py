"""What is looked for in a recording: the labels of a text, and which of them are its characters, words and sentences.

A *star* is a label that matches anything: at the edges of the text it takes what is said before and after it,
before every unit also what is said in between. Runs in a helper process; what comes back are arrays, which cost
the card's process nothing.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal

import numpy as np
import numpy.typing as npt

from ..alignment import Granularity
from ..words import Word, split_sentences, split_words
from .romanization import Piece, romanize

Star = Literal["none", "edges", "units"]
Ids = npt.NDArray[np.int32]

STAR = "*"
"""The star's name among the letters; no letter looks like it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The characters, words or sentences of a text: N places in it, and the labels of each.

    Attributes:
        char_start: [N]
        char_end: [N]
        first: [N], the first of its labels.
        end: [N], behind its last label; equal to `first` for what cannot be looked for.
    """

    char_start: Ids
    char_end: Ids
    first: Ids
    end: Ids


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """The labels of a text.

    Attributes:
        labels: [L], ids of letters and of the star.
        letters: [L], the label's letter, or `STAR`.
        characters: All of the text but white space; what is written as one sound is one.
    """

    labels: Ids
    letters: str
    characters: Parts
    words: Parts
    sentences: Parts


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """How a text is to be read.

    Attributes:
        language: ISO 639-3.
        split: What a unit is.
        star: Where stars stand.
        spell_numbers: Whether figures are looked for as spoken words.
    """

    language: str
    split: Granularity
    star: Star
    spell_numbers: bool


def write_script(text: str, wording: Wording, letters: Mapping[str, int]) -> Script:
    """Turn a text into labels.

    Args:
        letters: The model's ids of its letters and of the `STAR`; letters that are not among them are passed over.
    """
    words = split_words(text)
    pieces = romanize([word.text for word in words], wording.language, wording.spell_numbers)
    starts = [sentence.char_start for sentence in split_sentences(text)]
    owners = [bisect_right(starts, word.char_start) for word in words]
    draft = _Draft(letters=letters)
    if wording.star == "edges":
        draft.add_star()
    before = wording.split if wording.star == "units" else None
    for index, (word, own) in enumerate(zip(words, pieces, strict=True)):
        opens = index == 0 or owners[index] != owners[index - 1]
        if before == "word" or (before == "sentence" and opens):
            draft.add_star()
        draft.add_word(word, own, star_before_each=before == "character")
    if wording.star == "edges":
        draft.add_star()
    return Script(
        labels=np.array([letters[letter] for letter in draft.labels], np.int32),
        letters="".join(draft.labels),
        characters=_parts(draft.characters),
        words=_parts(draft.words),
        sentences=_parts(list(_sentences(draft.words, owners))),
    )


_Place = tuple[int, int, int, int]


@dataclass(slots=True, kw_only=True)
class _Draft:
    """Labels, as letters, and the places of characters and words among them."""

    letters: Mapping[str, int]
    labels: list[str] = field(default_factory=list)
    characters: list[_Place] = field(default_factory=list)
    words: list[_Place] = field(default_factory=list)

    def add_star(self) -> None:
        """Two stars in a row would match nothing that one does not."""
        if self.labels[-1:] != [STAR]:
            self.labels.append(STAR)

    def add_word(self, word: Word, pieces: Sequence[Piece], *, star_before_each: bool) -> None:
        begin: int | None = None
        for start, end, letters in pieces:
            sought = [letter for letter in letters if letter in self.letters]
            if sought and star_before_each:
                self.add_star()
            first = len(self.labels)
            if sought and begin is None:
                begin = first
            self.labels += sought
            self.characters.append((word.char_start + start, word.char_start + end, first, len(self.labels)))
        end = len(self.labels)
        self.words.append((word.char_start, word.char_end, end if begin is None else begin, end))


def _sentences(words: Sequence[_Place], owners: Sequence[int]) -> Iterator[_Place]:
    """The words of each sentence together."""
    for _, group in groupby(zip(owners, words, strict=True), key=lambda entry: entry[0]):
        own = [word for _, word in group]
        sought = [word for word in own if word[3] > word[2]] or own[-1:]
        yield own[0][0], own[-1][1], sought[0][2], sought[-1][3]


def _parts(places: Sequence[_Place]) -> Parts:
    char_start, char_end, first, end = np.array(places, np.int32).reshape(-1, 4).T.copy()
    return Parts(char_start=char_start, char_end=char_end, first=first, end=end)
