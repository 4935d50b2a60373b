"""Where the parts of a checkpoint lie: the language model, its codec, the recordings of voices."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ..errors import ModelUnavailable
from .config import LanguageConfig

CODEC_NAME = "MOSS-Audio-Tokenizer-Nano"


@dataclass(frozen=True, slots=True, kw_only=True)
class Folders:
    """The folders of one model.

    Attributes:
        language: Of the language model and the tokenizer.
        codec: Of the codec.
        voices: Where recordings of voices may lie.
    """

    language: Path
    codec: Path
    voices: tuple[Path, ...]

    @classmethod
    def find(cls, checkpoint: Path | None, *, codec: str | None = None, voices: str | None = None) -> Self:
        """Find the parts beside each other.

        Args:
            checkpoint: The folder of the language model.
            codec: The folder of the codec; otherwise it is looked for inside of the checkpoint, beside it
                under its own name or the one in `config.json`.
            voices: A folder of recordings; otherwise `assets/audio` of the checkpoint.

        Raises:
            ModelUnavailable: A part is missing; the message says where it was looked for.
        """
        if checkpoint is None:
            raise ModelUnavailable(
                "moss-tts-nano-100m has no checkpoint: give the folder with MOSS-TTS-Nano as --checkpoint-dir"
            )
        if not checkpoint.is_dir():
            raise ModelUnavailable(f"the checkpoint {checkpoint} is no folder")
        named = LanguageConfig.read(checkpoint).codec
        places = (
            [Path(codec)]
            if codec
            else [
                checkpoint / CODEC_NAME,
                checkpoint / "codec",
                checkpoint.parent / CODEC_NAME,
                *(
                    [checkpoint / named, checkpoint.parent / named, checkpoint.parent / Path(named).name]
                    if named
                    else ()
                ),
            ]
        )
        found = next((place for place in places if (place / "config.json").is_file()), None)
        if found is None:
            looked = ", ".join(dict.fromkeys(map(str, places)))
            raise ModelUnavailable(f"the codec {CODEC_NAME} is missing; put its folder at one of: {looked}")
        given = (Path(voices),) if voices else (checkpoint / "assets" / "audio", checkpoint / "voices")
        return cls(language=checkpoint, codec=found, voices=given)
