"""The arguments of `acoustic`."""

from __future__ import annotations

from .base import Arguments, AudioInput


class AcousticArguments(Arguments):
    """Description of a clip from measured features."""

    audio: AudioInput
