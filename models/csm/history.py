"""What was said so far, and how much of it goes before the next part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InputError
from .prompt import Prompter, Turn
from .sizes import Sizes


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Kept:
    turn: Turn
    length: int
    given: int | None  # its number in the request's context; none for what was made here


class History:
    """The turns of a conversation, those that were given and those that were made.

    The first turn of the speaker is the voice prompt: it always comes first. After it come the last
    turns, as many as there is room for.
    """

    def __init__(
        self, prompter: Prompter, sizes: Sizes, *, speaker: int, max_frames: int, context: Sequence[Turn]
    ) -> None:
        """Begin with the turns that were given.

        Args:
            prompter: Measures them.
            sizes: Of the model.
            speaker: Who goes on.
            max_frames: What is kept free for each part.
            context: Oldest first.
        """
        self._prompter = prompter
        self._sizes = sizes
        self._speaker = speaker
        self._max_frames = max_frames
        self._turns = [
            _Kept(turn=turn, length=prompter.length(turn), given=number)
            for number, turn in enumerate(context)
        ]

    def add(self, turn: Turn) -> None:
        """Remember a part that was made."""
        self._turns.append(_Kept(turn=turn, length=self._prompter.length(turn), given=None))

    def before(self, text: str) -> list[Turn]:
        """The turns that go before the next text.

        Raises:
            InputError: The text, or a turn that was given, leaves too little room; it names the argument.
        """
        length = self._prompter.length_of_text(self._speaker, text)
        room = self._sizes.context - self._max_frames - length
        if room < 0:
            raise InputError(
                f"max_frames: {self._max_frames} frames leave {self._sizes.context - self._max_frames} of "
                f"{self._sizes.context} positions, and the text takes {length}; allow fewer frames"
            )
        voice = next((kept for kept in self._turns if kept.turn.speaker == self._speaker), None)
        if voice is not None and voice.given is None and voice.length > room:
            voice = None
        self._check_given(voice, room)
        chosen = [] if voice is None else [voice]
        left = room - sum(kept.length for kept in chosen)
        last: list[_Kept] = []
        for kept in reversed(self._turns):
            if kept is voice:
                continue
            if kept.length > left:
                break
            left -= kept.length
            last.append(kept)
        return [kept.turn for kept in (*chosen, *reversed(last))]

    def _check_given(self, voice: _Kept | None, room: int) -> None:
        """What was given to be heard, and never can be, is a mistake; what is only older is left out."""
        for kept in self._turns:
            if kept.given is None:
                continue
            beside = 0 if kept is voice or voice is None else voice.length
            if kept.length + beside > room:
                with_voice = " beside the voice prompt" if beside else ""
                raise InputError(
                    f"context.{kept.given}.audio: the turn takes {kept.length} positions "
                    f"({self._sizes.frames_to_seconds(len(kept.turn.codes)):.1f} s of audio), and only "
                    f"{room - beside} are left{with_voice}; give a shorter recording, or allow fewer max_frames"
                )
