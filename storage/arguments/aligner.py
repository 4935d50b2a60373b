"""The arguments of the MMS aligner."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from .base import AlignmentFormat, Arguments, AudioInput, speakable

MAX_ALIGNED_CHARS = 1_000_000
"""More than is said in the six hours that the model takes."""

NUMBER_LANGUAGES = frozenset({
    "ara", "aze", "bel", "ben", "cat", "ces", "che", "cym", "dan", "deu", "eng", "epo", "fas", "fin",
    "fra", "heb", "hun", "ind", "isl", "ita", "jpn", "kan", "kaz", "kor", "lav", "lit", "nld", "nob",
    "nor", "pol", "por", "ron", "rus", "slk", "slv", "spa", "srp", "swe", "tel", "tet", "tgk", "tha",
    "tur", "ukr", "vie",
})  # fmt: skip
"""Languages in which numbers can be spelled out."""

_SPECIAL = frozenset({"mis", "mul", "und", "zxx"})  # codes that name no language

AlignedText = Annotated[str, StringConstraints(max_length=MAX_ALIGNED_CHARS)]


@cache
def iso_639_3(code: str) -> str:
    """The three letters of a language, from any of its ISO 639 codes, also with a region (`en-us`).

    Raises:
        ValueError: With a sentence that says how to write it.
    """
    from iso639 import Language, LanguageNotFoundError  # a table of 8,000 languages

    try:
        found = str(Language.match(code.replace("_", "-").partition("-")[0].lower()).part3)
    except LanguageNotFoundError:
        found = ""
    if not found or found in _SPECIAL:
        raise ValueError(f"there is no language {code!r}; write its ISO 639-3 code, such as eng, deu or cmn")
    return found


class AlignerArguments(Arguments):
    """Alignment of a recording with its text by the MMS forced aligner.

    `language` is an ISO 639-3 code; others of ISO 639 are turned into it. `split` says what a unit is: lines of
    TSV and Audacity stand for it, and stars stand before it. A `star` takes what is said but not written: before and
    after the text (`edges`), before all `units`, or nowhere (`none`). `numbers` in figures are left without times
    (`skip`), or looked for as spoken words (`spell`). A mean log-probability below `min_score` fails the job; words
    below `doubtful_below` are listed as doubtful.
    """

    text: AlignedText
    audio: AudioInput
    language: str = Field(default="eng", max_length=40)
    split: Literal["word", "character", "sentence"] = "word"
    star: Literal["none", "edges", "units"] = "edges"
    numbers: Literal["skip", "spell"] = "skip"
    min_score: float | None = Field(default=None, le=0)
    doubtful_below: float = Field(default=-2.0, le=0)
    outputs: tuple[AlignmentFormat, ...] = Field(default=("json", "textgrid"), min_length=1)

    _text = field_validator("text")(speakable)
    _language = field_validator("language")(iso_639_3)

    @model_validator(mode="after")
    def _numbers_are_known(self) -> Self:
        if self.numbers == "spell" and self.language not in NUMBER_LANGUAGES:
            raise ValueError(
                f"numbers cannot be spelled out in {self.language!r}; write them as words, or take numbers=skip"
            )
        return self
