"""Makes the corpus of tests/data/corpus out of the manual in Debian's package apache2-doc.

    apt-get download apache2-doc && dpkg -x apache2-doc_*.deb FOLDER
    python scripts/corpus.py FOLDER > tests/data/corpus/sentences.jsonl

Five hundred sentences in each of four languages: whole ones from the paragraphs of pages that are
translated, without names of files, directives and the like. Which of them are taken is decided by the
hash of their text, so the same package gives the same corpus.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

MANUAL = "usr/share/doc/apache2-doc/manual"
LANGUAGES = {"en": "en-us", "de": "de", "fr": "fr-fr", "es": "es"}
OF_EACH = 500
SHORTEST, LONGEST = 30, 240

CODE = "\x00"
CODE_TAGS = frozenset({"code", "pre", "kbd", "samp", "var", "tt"})
END = re.compile(r"(?<=[.!?])\s+(?=[A-ZÀ-ÖØ-Þ¿¡«])")
WHOLE = re.compile(r"[A-ZÀ-ÖØ-Þ¿¡«„][^\x00<>{}|=_\\/@#%$&*\[\]~^]*[.!?]")
# What a full stop may end without ending a sentence.
CUT = re.compile(
    r"(\b[A-Za-z]|\b(z\.\s?B|d\.\s?h|bzw|ca|usw|etc|p\. ?ej|vs|cf|ex|Nr|bspw|ggf|evtl|Mr|St|No))\.$"
)
# Words that give away a paragraph that nobody has translated yet.
ENGLISH = frozenset({"the", "of", "is", "to", "that", "with", "this", "be", "are", "you", "your", "for"})


class Paragraphs(HTMLParser):
    """Collects the paragraphs of a page, and the language that it is in."""

    def __init__(self) -> None:
        super().__init__()
        self.language = ""
        self.found: list[str] = []
        self._text: list[str] | None = None
        self._code = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "html":
            self.language = given.get("lang") or ""
        elif tag in ("p", "li", "dd"):
            self._end()
            self._text = None if given.get("class") else []
        elif tag in CODE_TAGS:
            self._code += 1

    def handle_endtag(self, tag: str) -> None:
        if tag in CODE_TAGS:
            self._code = max(0, self._code - 1)
        elif tag in ("p", "li", "dd", "div", "ul", "ol", "table", "dl"):
            self._end()

    def handle_data(self, data: str) -> None:
        if self._text is not None:
            self._text.append(CODE if self._code else data)

    def _end(self) -> None:
        if self._text:
            self.found.append(" ".join("".join(self._text).split()))
        self._text = None


def main(folder: Path) -> int:
    """Print the corpus; complain if a language has too few sentences."""
    everything = {language: collect(folder / MANUAL, language) for language in LANGUAGES}
    chosen: dict[str, list[tuple[str, str]]] = {}
    for language, names in everything.items():
        # What stands in the English manual word for word was not translated.
        own = (
            names
            if language == "en"
            else {text: names[text] for text in names.keys() - everything["en"].keys()}
        )
        by_hash = sorted(own, key=lambda text: hashlib.sha256(text.encode()).digest())
        chosen[language] = [(own[text], text) for text in by_hash[:OF_EACH]]
    few = {language: len(found) for language, found in chosen.items() if len(found) < OF_EACH}
    if few:
        print(f"too few sentences: {few}", file=sys.stderr)  # noqa: T201 - a script's answer
        return 1
    for row in zip(*chosen.values(), strict=True):
        for language, (name, text) in zip(chosen, row, strict=True):
            line = {"id": name, "language": LANGUAGES[language], "text": text}
            print(json.dumps(line, ensure_ascii=False))  # noqa: T201
    return 0


def collect(manual: Path, language: str) -> dict[str, str]:
    """All sentences of a language, each with a name that tells its page."""
    names: dict[str, str] = {}
    for path in sorted((manual / language).rglob("*.html")):
        page = Paragraphs()
        page.feed(path.read_text(encoding=_encoding(path)))
        if page.language != language:
            continue  # not translated: the page is the English one
        place = "-".join(path.relative_to(manual).with_suffix("").parts)
        for number, text in enumerate(sentences(page.found)):
            if language != "en" and ENGLISH & set(text.lower().split()):
                continue
            names.setdefault(text, f"{place}-{number:03}")
    return names


def sentences(paragraphs: list[str]) -> Iterator[str]:
    """The whole sentences of a page that can be read aloud as they stand."""
    for paragraph in paragraphs:
        for text in END.split(paragraph):
            whole = WHOLE.fullmatch(text) and not CUT.search(text) and text.count("(") == text.count(")")
            if whole and SHORTEST <= len(text) <= LONGEST and len(text.split()) >= 5:
                yield text


def _encoding(path: Path) -> str:
    found = re.search(rb"charset=([\w-]+)", path.read_bytes()[:1000])
    return found[1].decode() if found else "utf-8"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
