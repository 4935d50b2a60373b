"""A whole text through the engine: some chunks in flight at a time, their sound in the order of the text."""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..engine.ports import Generated
from ..engine.sampling import Sampling
from ..errors import InputError
from ..handler import Run
from ..part import RunPart
from ..place import Engine, Ticket
from .prompt import Template
from .slots import Prompt
from .text import Chunk

MAX_TRIES = 3
"""How often a chunk that came out empty is spoken, each time with other draws."""

TOKENS_PER_CAP = 75
"""The cap on frames is for a chunk of so many tokens, the published size; longer ones may take longer."""

_LEAST_FRAMES_PER_TOKEN = 4  # speech takes three to five
_GOLDEN = 0x9E3779B97F4A7C15  # spreads the seeds of chunks over 64 bits
_BITS = (1 << 64) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """Whose voice it is: nobody's, that of a clip, or a clip that is continued.

    Attributes:
        codes: Of the clip, `[F, K]`.
        continued: Whether the text goes on from the clip; its chunks then begin with what the clip says.
    """

    codes: Tensor | None = None
    continued: bool = False

    @property
    def cloned(self) -> bool:
        return self.codes is not None and not self.continued


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How frames are drawn, and how many.

    Attributes:
        gate: How to choose between going on and stopping.
        audio: How to choose codes.
        codebooks: How many of them are filled.
        max_frames: Of a chunk of up to `TOKENS_PER_CAP` tokens.
        frame_s: How long a frame is, in seconds.
        seed: The job's.
    """

    gate: Sampling
    audio: Sampling
    codebooks: int
    max_frames: int
    frame_s: float
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoken:
    """One chunk's sound.

    Attributes:
        audio: float32 `[C, S]` on the host.
        made: What the engine says of it.
        tries: How often it was spoken.
    """

    audio: Tensor
    made: Generated[Tensor]
    tries: int


@dataclass(slots=True, kw_only=True)
class _Asked:
    """A chunk in the engine."""

    index: int
    ticket: Ticket[Generated[Tensor]]
    tries: int = 1


class Speech:
    """Asks the engine for the chunks of one request."""

    def __init__(
        self, engine: Engine, name: str, template: Template, context: int, *, voice: Voice, rules: Rules
    ) -> None:
        """Prepare.

        Args:
            name: Of the slot model in the engine.
            context: Positions of its slots.
        """
        self._engine, self._name, self._template, self._context = engine, name, template, context
        self._voice, self._rules = voice, rules

    def speak(self, chunks: Sequence[Chunk], run: Run) -> Iterator[Spoken]:
        """The sound of each chunk, in order.

        At most as many are in flight as there are slots: other requests find a place between them, and the sound
        of a long text is never held as a whole.

        Raises:
            InputError: A prompt does not fit a slot.
            Interrupted: From the run; what is in flight leaves its slots.
        """
        for chunk in chunks:  # before anything runs
            self._limits(chunk)
        flying: deque[_Asked] = deque()
        coming = iter(range(len(chunks)))
        most = max(1, self._engine.slots(self._name))
        frames = 0
        try:
            for done in range(len(chunks)):
                while len(flying) < most and (index := next(coming, None)) is not None:
                    flying.append(_Asked(index=index, ticket=self._ask(chunks[index], index, 0)))
                before = {"frames": frames, "audio_s": round(frames * self._rules.frame_s, 3)}
                part = RunPart(run, begin=done / len(chunks), share=1 / len(chunks), made=before)
                spoken = self._landed(flying.popleft(), chunks, part)
                frames += spoken.made.steps
                yield spoken
        finally:
            for asked in flying:
                asked.ticket.cancel()

    def _landed(self, asked: _Asked, chunks: Sequence[Chunk], run: Run) -> Spoken:
        """Wait for a chunk; one without a single frame is spoken again."""
        while True:
            made = asked.ticket.wait(run)
            if made.steps > 0 or asked.tries == MAX_TRIES:
                return Spoken(audio=made.value, made=made, tries=asked.tries)
            asked.ticket = self._ask(chunks[asked.index], asked.index, asked.tries)
            asked.tries += 1

    def _ask(self, chunk: Chunk, index: int, attempt: int) -> Ticket[Generated[Tensor]]:
        prompt = self._prompt(chunk, chunk_seed(self._rules.seed, index, attempt))
        positions, frames = self._limits(chunk)
        return self._engine.generate(self._name, prompt, positions=positions, max_steps=frames)

    def _prompt(self, chunk: Chunk, seed: int) -> Prompt:
        rules, codes, books = self._rules, self._voice.codes, self._rules.codebooks
        rows, shared, voice, primer = None, 0, None, None
        if codes is not None and self._voice.cloned:
            rows, shared = self._template.clone(codes, list(chunk.ids), codebooks=books)
            voice = hashlib.sha256(rows[:shared].numpy().tobytes()).hexdigest()
        else:
            rows = self._template.continued(list(chunk.ids), codes, codebooks=books)
            if codes is not None:
                primer = codes.clone()
                primer[:, books:] = -1
        return Prompt(
            rows=rows, shared=shared, voice=voice, gate=rules.gate, audio=rules.audio,
            codebooks=books, seed=seed, primer=primer,
        )  # fmt: skip

    def _limits(self, chunk: Chunk) -> tuple[int, int]:
        """Positions of the prompt, and the cap on frames.

        Raises:
            InputError: They do not fit a slot.
        """
        tokens = len(chunk.ids)
        clip = 0 if self._voice.codes is None else len(self._voice.codes)
        template = self._template
        around = template.overhead if self._voice.cloned else template.overhead - 2 + len(template.none)
        positions = around + clip + tokens
        cap = math.ceil(self._rules.max_frames * max(1.0, tokens / TOKENS_PER_CAP))
        left = self._context - positions
        if left < min(cap, max(1, _LEAST_FRAMES_PER_TOKEN * tokens)):
            remedy = "shorten the text" if self._voice.cloned else _REMEDY
            raise InputError(
                f"text: {tokens} tokens and {clip} frames of the reference leave {max(left, 0)} of "
                f"{self._context} positions for speech, which is too little; {remedy}"
            )
        return positions, min(cap, left)


_REMEDY = (
    "shorten it, or give a voice or a reference without reference_text, by which it can be cut into chunks"
)


def chunk_seed(seed: int, index: int, attempt: int) -> int:
    """The seed of a chunk's draws: the job's own for the first chunk's first try, others for the rest."""
    return (seed + _GOLDEN * (index * MAX_TRIES + attempt)) & _BITS
