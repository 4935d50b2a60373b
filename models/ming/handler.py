"""The handler of `ming-omni-tts-0.5b`. Importing it loads no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelUnavailable
from ..handler import Output, Run

if TYPE_CHECKING:
    from ..place import Place
    from .studio import Studio

NAME = "ming-omni-tts-0.5b"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is to be made; the fields are those of the job's arguments.

    Attributes:
        speakers: Of a podcast, each a mapping of `audio` (a path) and `text`.
        instruction: See `instruction.entries_of`.
        music: See `prompt.music_text`.
    """

    task: str
    text: str | None
    prompt_audio: Path | None
    prompt_text: str | None
    speaker_audio: Path | None
    speakers: Sequence[Mapping[str, Any]]
    instruction: Mapping[str, Any] | None
    music: Mapping[str, Any] | None
    cfg: float
    sigma: float
    temperature: float
    seed: int
    max_steps: int
    chunk_s: float
    pause_s: float
    normalize: bool
    prompt_latents: str
    format: str
    sample_rate: int


class Ming:
    """Speech, music and sound; rows of many jobs share every step."""

    request = Request

    def __init__(self) -> None:
        self._studio: Studio | None = None

    @property
    def slots(self) -> int:
        """As many as the engine has room for."""
        return self._opened.slots

    def load(self, place: Place) -> None:
        """Read the checkpoint and join the card's engine.

        Raises:
            ModelUnavailable: The folder, a library or a setting is missing or wrong.
        """
        try:
            import transformers  # noqa: F401 - the message of what is missing
        except ImportError as error:
            raise ModelUnavailable(
                f"{NAME} needs torch and transformers; pip install 'soundmill[models]'"
            ) from error
        from .studio import Studio

        self._studio = Studio.open(NAME, place)

    def close(self) -> None:
        """Forget the model; the engine's end frees it."""
        self._studio = None

    def perform(self, request: Request, run: Run) -> Output:
        """Write `audio.<format>`.

        Raises:
            InputError: The reference audio cannot be used, or the text does not fit.
        """
        return self._opened.perform(request, run)

    @property
    def _opened(self) -> Studio:
        if self._studio is None:
            raise ModelUnavailable(f"{NAME} was not loaded")
        return self._studio
