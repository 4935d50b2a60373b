"""`python -m soundmill.models.espeak_voices FILE` writes the voices of eSpeak NG for the catalogue.

The catalogue checks a job's arguments where no library is installed, so it keeps this list as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from .espeak import Espeak, Manner

_SAMPLE_TEXT = "1 2 3"  # every language has its digits


def speaking_voices() -> dict[str, Any]:
    """The languages and variants that say something.

    The library also lists languages whose dictionary it does not carry; those stay silent.
    """
    espeak = Espeak()

    def speaks(language: str, variant: str | None = None) -> bool:
        pieces = espeak.speak(
            _SAMPLE_TEXT, Manner(language=language, variant=variant), lambda _progress: None
        )
        return any(mark.kind == "word" for piece in pieces for mark in piece.marks)

    try:
        return {
            "languages": [
                {"code": code, "name": language.name}
                for code, language in espeak.languages.items()
                if speaks(code)
            ],
            "variants": sorted(name for name in espeak.variants if name.isascii() and speaks("en-us", name)),
        }
    finally:
        espeak.close()


def main(arguments: list[str]) -> None:
    """Write the list to the file that is named."""
    text = json.dumps(speaking_voices(), indent=1, ensure_ascii=False)
    Path(arguments[0]).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
