"""Description of a clip from what can be measured of it: no model, no guess beyond the named measures."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from .description import as_json, caption, features
from .handler import Output, OutputFile, Run
from .measures import measure
from .place import Place

MODEL = "acoustic"
MAX_AUDIO_S = 4 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A clip to describe."""

    audio: Path


class Acoustic:
    """The handler of `acoustic`."""

    request = Request
    slots = 2

    def load(self, place: Place) -> None:
        """Nothing to load."""

    def close(self) -> None:
        """Nothing to free."""

    def perform(self, request: Request, run: Run) -> Output:
        """Write `caption.json` (all features) and `caption.txt` (the sentence).

        Raises:
            InputError: The audio is unreadable or longer than `MAX_AUDIO_S`.
        """
        with run.phase("generation"):
            found = features(measure(request.audio, max_s=MAX_AUDIO_S, checkpoint=run.checkpoint))
        sentence = caption(found)
        numbers = as_json(found)
        with run.phase("write"):
            document = run.scratch / "caption.json"
            content = {"model": MODEL, "caption": sentence, **numbers}
            document.write_text(json.dumps(content, ensure_ascii=False, allow_nan=False), encoding="utf-8")
            text = run.scratch / "caption.txt"
            text.write_text(sentence + "\n", encoding="utf-8")
        return Output(
            result={"caption": sentence, **numbers},
            files=(
                OutputFile(name=document.name, path=document, media_type="application/json", role="caption"),
                OutputFile(name=text.name, path=text, media_type="text/plain", role="caption"),
            ),
            metrics={"audio_s": found.duration_s},
        )
