"""One clip's way through the engine: read, hear, write, window by window, several of them at once."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from ..engine.sampling import Sampling
from ..errors import InputError
from ..part import RunPart
from .clip import Clip, Window, open_clip, window_mel, windows_of
from .hearing import tokens_of
from .prompt import Speller, Wording
from .rows import Prompt
from .shape import Shape
from .spectrum import Mel, frames_of

if TYPE_CHECKING:
    from ..engine.ports import Generated
    from ..handler import Run
    from ..place import Place, Ticket

WINDOWS_AT_ONCE = 4  # of one clip, so that a long one leaves slots to others
POLL_S = 0.1

_SEED_STRIDE = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: windows of near seeds do not meet
_SPILL = "samples.f32"

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How a caption is asked for and written.

    Attributes:
        wording: The prompt around the audio.
        max_new_tokens: The longest caption of a window.
        window_s: The longest window.
    """

    wording: Wording
    sampling: Sampling
    seed: int
    max_new_tokens: int
    window_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Caption:
    """One window's caption.

    Attributes:
        finished: Whether the model ended it, before `max_new_tokens` did.
        metrics: The engine's, with `encode_s` and, from the job's begin on, `first_token_s`.
    """

    window: Window
    text: str
    prompt_tokens: int
    audio_tokens: int
    tokens: int
    finished: bool
    metrics: Mapping[str, float | int | str | bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What all requests of a captioner share.

    Attributes:
        place: Its engine and helpers.
        ears: The name of the batch model.
        classes: Slot models by name, with their positions, the shortest first.
        waiters: Threads that wait for helpers while the request's own stays at its checkpoints.
    """

    place: Place
    speller: Speller
    shape: Shape
    ears: str
    classes: Mapping[str, int]
    waiters: Executor


class Captioning:
    """One request on its way."""

    def __init__(self, loaded: Loaded, manner: Manner, run: Run) -> None:
        self._loaded = loaded
        self._manner = manner
        self._run = run
        self._begun = time.monotonic()
        self._tokens = 0
        self._spill = run.scratch / _SPILL

    def perform(self, audio: Path) -> tuple[Clip, list[Caption]]:
        """Caption every window of a clip.

        Raises:
            InputError: The audio cannot be used, or prompt, audio and caption do not fit the context.
        """
        self._spill.touch()
        try:
            with self._run.phase("load"):
                clip = self._helped(open_clip, audio, self._spill, self._manner.window_s)
            windows = windows_of(clip.samples, self._manner.window_s)
            for window in windows:
                self._class_of(window)  # before any of them takes the card's time
            with self._run.phase("generation"):
                return clip, self._captions(clip, windows)
        finally:
            self._spill.unlink(missing_ok=True)

    def _captions(self, clip: Clip, windows: Sequence[Window]) -> list[Caption]:
        """Hear one window after the other while earlier ones are written."""
        captions: list[Caption] = []
        written: deque[_Writing] = deque()
        try:
            for number, window in enumerate(windows):
                if len(written) == WINDOWS_AT_ONCE:
                    captions.append(self._read(written.popleft(), len(windows)))
                mel = clip.mel if clip.mel is not None else self._helped(window_mel, self._spill, window)
                written.append(self._begin(number, window, mel))
            while written:
                captions.append(self._read(written.popleft(), len(windows)))
        finally:
            for left in written:
                left.ticket.cancel()
        return captions

    def _begin(self, number: int, window: Window, mel: Mel) -> _Writing:
        """Hear a window and ask for its caption."""
        engine, manner = self._loaded.place.engine, self._manner
        begun = time.monotonic()
        heard: torch.Tensor = engine.process(self._loaded.ears, torch.from_numpy(mel)).wait(
            RunPart(self._run, begin=0.0, share=0.0)
        )
        encode_s = time.monotonic() - begun
        wording = manner.wording
        ids = torch.tensor([*wording.before, *[self._loaded.shape.audio_id] * len(heard), *wording.behind])
        prompt = Prompt(
            ids=ids,
            audio=heard,
            audio_at=len(wording.before),
            sampling=manner.sampling,
            seed=(manner.seed + number * _SEED_STRIDE) % 2**64,
        )
        asked_s = time.monotonic() - self._begun
        name = self._class_of(window)
        ticket = engine.generate(name, prompt, positions=len(ids), max_steps=manner.max_new_tokens)
        return _Writing(number=number, window=window, ticket=ticket, audio_tokens=len(heard),
                        encode_s=encode_s, asked_s=asked_s)  # fmt: skip

    def _read(self, writing: _Writing, windows: int) -> Caption:
        """Wait for a caption and put its tokens into words."""
        part = RunPart(
            self._run, begin=writing.number / windows, share=1 / windows, made={"tokens": self._tokens}
        )
        made = writing.ticket.wait(part)
        ids = made.value
        self._tokens += made.steps
        first_s = writing.asked_s + float(made.metrics.get("first_step_s", 0.0))
        return Caption(
            window=writing.window,
            text=self._loaded.speller.text(ids),
            prompt_tokens=self._manner.wording.tokens,
            audio_tokens=writing.audio_tokens,
            tokens=len(ids),
            finished=made.stopped,
            metrics={**made.metrics, "encode_s": writing.encode_s, "first_token_s": first_s},
        )

    def _class_of(self, window: Window) -> str:
        """The slots with the fewest positions that hold the window's prompt and its longest caption."""
        frames = frames_of(window.stop - window.start)
        audio = tokens_of(frames, self._loaded.shape.audio.chunk_frames)
        words, most = self._manner.wording.tokens, self._manner.max_new_tokens
        for name, context in self._loaded.classes.items():
            if words + audio + most <= context:
                return name
        raise InputError(
            f"the prompt ({words} tokens), {(window.stop_s - window.start_s):.0f} s of audio ({audio} tokens) and "
            f"a caption of up to {most} tokens exceed the {context} positions of the model; shorten the prompt, "
            "or lower window_s or max_new_tokens"
        )

    def _helped(self, work: Callable[..., T], *args: Any) -> T:
        """Run something in the helper pool, and stay at the checkpoints meanwhile."""
        future = self._loaded.waiters.submit(self._loaded.place.offload, work, *args)
        while not wait_for([future], timeout=POLL_S).done:
            self._run.checkpoint()
        return future.result()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Writing:
    """A window whose caption is being written."""

    number: int
    window: Window
    ticket: Ticket[Generated[list[int]]]
    audio_tokens: int
    encode_s: float
    asked_s: float  # from the job's begin to the question
