"""MOSS in slots: caches, states, prefill, the step. The engine's `SlotModel`.

Of a running row a slot holds the keys and values, the next input as an embedding, the frames made so far,
which codes it has used, its sampling rules and its random numbers. A prompt's last position is left to the
first step, so that every step yields one frame and nothing but the step needs the heads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - as everyone calls it
from torch import Tensor

from ..device import Device, GraphPool, StepGraph
from ..engine.draws import Draws
from ..engine.ports import Row, Stops
from ..engine.resident import resident, resized
from ..engine.sampling import GREEDY, Sampler, Sampling
from .language_model import LanguageModel, LocalPass
from .linear import threads_for
from .prefixes import Prefixes

FEW_RANKS = 64
"""With a top_k up to this, the likeliest codes are found without sorting all."""

FIXED_PREFILL = 64
"""Positions of a prefill call where shapes are fixed, filled up with padding."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prompt:
    """One chunk of text to speak.

    Attributes:
        rows: The ids `[T, 1 + K]`, int64, at least one row.
        shared: How many of the first rows are the voice's, the same for every chunk.
        voice: What names those rows; `None` if they are not worth keeping.
        gate: How to choose between going on and stopping.
        audio: How to choose codes.
        codebooks: How many codebooks to fill; the rest of a frame is padding.
        seed: Of the row's random numbers.
        primer: Codes `[F, K]` that the decoder hears first and drops, of a continued clip.
    """

    rows: Tensor
    shared: int = 0
    voice: str | None = None
    gate: Sampling = GREEDY
    audio: Sampling = GREEDY
    codebooks: int
    seed: int = 0
    primer: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Utterance:
    """What a row made: codes `[F, K]`, negative for none, to be decoded behind the primer `[P, K]`."""

    codes: Tensor
    primer: Tensor | None = None


class MossSlots:
    """The `SlotModel` of MOSS; see `models/engine/ports.py`.

    Attributes:
        dtype: Of what goes through the layers.
        step_s: How long a frame of the codec is, in seconds, where there is one.
    """

    def __init__(
        self,
        model: LanguageModel,
        device: Device,
        *,
        context: int,
        graphs: bool,
        voices: int,
        longest_prefix: int,
        fixed_shapes: bool = False,
    ) -> None:
        """Describe the slots; `reserve` takes their memory, that of the voices is taken here.

        Args:
            model: The tensors.
            device: Where they are.
            context: Positions of a slot.
            graphs: Whether steps are captured.
            voices: How many voices' prefixes are kept.
            longest_prefix: Positions of the longest of them.
            fixed_shapes: Whether every prefill call has one shape and every step looks at all positions, so
                that 16-bit results do not depend on the company. The engine keeps to one bucket then.
        """
        config = model.config
        self.context = context
        self.dtype = model.dtype
        self.step_s: float | None = None
        self._model, self._device, self._graphs, self._fixed = model, device, graphs, fixed_shapes
        self._cache = model.cache(context)
        self._prefixes = Prefixes(self._cache, voices, longest_prefix)
        on = device.torch_device
        books, largest = config.codebooks, model.largest_book
        self._draws = Draws(width=1 + books, device=on)
        self._gate = Sampler(vocabulary=2, device=on)
        self._audio = Sampler(vocabulary=largest, device=on)
        # A processor sorts slowly and adds up in order, so that how many ranks are looked at changes no bit.
        self._few = Sampler(vocabulary=largest, device=on, ranks=FEW_RANKS) if device.immediate else None
        self._inputs = resident(0, config.decoder.hidden, dtype=model.dtype, device=on)
        self._seen = resident(0, books, largest, dtype=torch.bool, device=on)
        self._frames = resident(0, context + 1, books, dtype=torch.int32, device=on)
        self._made = resident(0, dtype=torch.int64, device=on)
        self._books = resident(0, dtype=torch.int64, device=on)  # how many codebooks a row fills
        self._columns = torch.arange(books, device=on)
        self._numbers = torch.arange(0, device=on)
        self._pool = GraphPool(device)
        self._steps: dict[tuple[int, int, int, bool], StepGraph] = {}
        scratch = (
            2
            * config.decoder.local_layers
            * (books + 1)
            * config.decoder.hidden
            * model.attention_dtype.itemsize
        )
        states = (self._inputs, self._seen, self._frames, self._made, self._books)
        self.bytes_per_slot = (
            self._cache.bytes_per_slot
            + self._draws.bytes_per_slot
            + scratch
            + sum(state[:0].new_empty((1, *state.shape[1:])).nbytes for state in states)
        )

    # -- slots -------------------------------------------------------------------------------------

    def reserve(self, slots: int) -> None:
        """See `SlotModel.reserve`."""
        for step in self._steps.values():
            step.reset()
        self._steps.clear()
        self._cache.reserve(slots)
        for part in self._rules():
            part.reserve(slots)
        self._inputs = resized(self._inputs, slots)
        self._seen = resized(self._seen, slots)
        self._frames = resized(self._frames, slots)
        self._made = resized(self._made, slots)
        self._books = resized(self._books, slots)
        self._numbers = torch.arange(slots, device=self._made.device)

    def move(self, source: int, target: int) -> None:
        """See `SlotModel.move`."""
        for part in (self._cache, *self._rules()):
            part.move(source, target)
        for state in self._states():
            state[target].copy_(state[source])
        self._clear(source)

    def release(self, row: Row[Prompt], steps: int) -> Utterance:
        """See `SlotModel.release`."""
        codes = self._frames[row.slot, :steps].clone()
        self._clear(row.slot)
        return Utterance(codes=codes, primer=row.prompt.primer)

    def _clear(self, slot: int) -> None:
        for part in (self._cache, *self._rules()):
            part.clear(slot)
        for state in self._states():
            state[slot] = 0

    def _rules(self) -> list[Draws | Sampler]:
        return [self._draws, self._gate, self._audio, *([] if self._few is None else [self._few])]

    def _states(self) -> tuple[Tensor, ...]:
        return self._inputs, self._seen, self._frames, self._made, self._books

    # -- prefill -----------------------------------------------------------------------------------

    @torch.inference_mode()
    def prefill(self, rows: Sequence[Row[Prompt]], token_budget: int) -> None:
        """See `SlotModel.prefill`.

        Of several rows with the same new voice one goes ahead, and the others take the voice from it.
        """
        left = max(1, token_budget)
        while left > 0 and (waiting := self._without_followers(rows)):
            left -= self._prefill_some(waiting, left)

    def _without_followers(self, rows: Sequence[Row[Prompt]]) -> list[Row[Prompt]]:
        """The rows that can go on now; those whose voice is known take it, and complete ones begin."""
        waiting: list[Row[Prompt]] = []
        leading: set[str] = set()
        for row in rows:
            if row.ready:
                continue
            voice = row.prompt.voice
            shared = self._shared(row.prompt)
            if voice is not None and row.filled == 0:
                row.filled = self._prefixes.put(voice, row.slot)
            if voice is not None and row.filled < shared <= self._prefixes.longest:
                if voice in leading:
                    continue
                leading.add(voice)
            if row.filled >= row.positions - 1:
                self._begin(row)
            else:
                waiting.append(row)
        return waiting

    def _prefill_some(self, rows: Sequence[Row[Prompt]], budget: int) -> int:
        """Run one ragged call; return its positions, padding included."""
        # Rows of like length together: padding costs as much as prompt.
        rows = sorted(rows, key=lambda row: row.filled - row.positions)
        length = min(rows[0].positions - 1 - rows[0].filled, budget)
        if self._fixed:
            rows, length = rows[:1], FIXED_PREFILL
        rows = rows[: max(1, budget // length)]
        counts = [min(length, row.positions - 1 - row.filled) for row in rows]
        ids = torch.zeros(len(rows), length, rows[0].prompt.rows.shape[1], dtype=torch.int64)
        for row, count, place in zip(rows, counts, ids, strict=True):
            place[:count] = row.prompt.rows[row.filled : row.filled + count]
        upload = self._device.upload
        turn = self._cache.plan(
            upload(torch.tensor([row.filled for row in rows])),
            length,
            rows=[row.slot for row in rows],
            kv_len=self._reach(max(row.filled + count for row, count in zip(rows, counts, strict=True))),
        )
        self._model.trunk(self._model.embed(upload(ids)), self._cache, turn)
        for row, count in zip(rows, counts, strict=True):
            before = row.filled
            row.filled += count
            shared, voice = self._shared(row.prompt), row.prompt.voice
            if voice is not None and before < shared <= row.filled:
                self._prefixes.keep(voice, row.slot, shared)
            if row.filled == row.positions - 1:
                self._begin(row)
        return length * len(rows)

    def _shared(self, prompt: Prompt) -> int:
        """How many positions of a voice are kept: whole calls where those have one shape."""
        return prompt.shared // FIXED_PREFILL * FIXED_PREFILL if self._fixed else prompt.shared

    def _reach(self, positions: int) -> int:
        """How many positions a call looks at, to cover these."""
        return self._cache.kv_buckets[-1] if self._fixed else self._cache.kv_bucket(positions)

    def _begin(self, row: Row[Prompt]) -> None:
        """The next step makes the row's first frame.

        What a step changes in a slot is set only now: steps of other rows ran over it meanwhile.
        """
        prompt, slot = row.prompt, row.slot
        self._seen[slot] = False
        self._made[slot] = 0
        self._books[slot] = prompt.codebooks
        last = self._device.upload(prompt.rows[-1:].to(torch.int64))
        self._inputs[slot].copy_(self._model.embed(last)[0])
        self._gate.set(slot, prompt.gate)
        self._audio.set(slot, prompt.audio)
        if self._few is not None and _takes_few(prompt.audio):
            self._few.set(slot, prompt.audio)
        self._draws.seat(slot, prompt.seed)
        self._cache.place(slot, row.positions - 1)
        row.filled = row.positions
        row.ready = True

    def rehearse(self, token_budget: int) -> None:
        """See `Rehearses.rehearse`."""
        config = self._model.config
        count = min(token_budget + 1, self.context)
        rows = torch.full((count, 1 + config.codebooks), config.audio_pad)
        rows[:, 0] = config.pad
        prompt = Prompt(rows=rows, codebooks=config.codebooks)
        row = Row(prompt=prompt, positions=count, max_steps=1, slot=0)
        self.prefill([row], token_budget)
        self.step(1, [row]).read()
        self.release(row, 0)

    # -- steps -------------------------------------------------------------------------------------

    @torch.inference_mode()
    def step(self, bucket: int, rows: Sequence[Row[Prompt]]) -> Stops:
        """See `SlotModel.step`."""
        self._draws.refill(rows)
        with self._device.at_most(threads_for(self._model.form, bucket)):
            flags = self._step(bucket, rows)()
        return self._device.flags(flags)

    def _step(self, bucket: int, rows: Sequence[Row[Prompt]]) -> StepGraph:
        """The step for a bucket: of all positions and codebooks if it is captured, else of those in use."""
        if self._graphs:
            key = (bucket, self._cache.kv_buckets[-1], self._model.config.codebooks, False)
        else:
            reach = max((row.positions + row.steps for row in rows), default=1)
            books = max((row.prompt.codebooks for row in rows), default=1)
            few = self._few is not None and all(_takes_few(row.prompt.audio) for row in rows)
            key = (bucket, self._reach(min(reach, self.context + 1)), books, few)
        if key not in self._steps:
            self._steps[key] = StepGraph(
                self._device, self._frame_of(*key), enabled=self._graphs, pool=self._pool
            )
        return self._steps[key]

    def _frame_of(self, bucket: int, reach: int, books: int, few: bool) -> Callable[[], Tensor]:
        return lambda: self._frame(bucket, reach, books, few=few)

    def _frame(self, bucket: int, reach: int, books: int, *, few: bool) -> Tensor:
        """Make a frame for every slot below `bucket`; return which of them stopped `[B]`."""
        model = self._model
        turn = self._cache.plan_step(bucket, reach)
        hidden = model.forward(self._inputs[:bucket, None], self._cache, turn)[:, 0]  # [B, D]
        draws = self._draws.take(bucket)  # [B, 1 + K]
        local = model.spell(hidden)
        choice = self._gate.draw(model.gate_logits(local.first()), draws[:, 0])
        sampler = self._few if few and self._few is not None else self._audio
        codes = self._spell(local, sampler, books, draws)  # [B, K']
        padded = self._padded(codes, bucket)  # [B, K]
        kept = padded.int()
        following = model.embed_frame(torch.where(padded < 0, model.config.audio_pad, padded))
        # Nothing above changed what a row holds: a step that found no memory can be repeated.
        self._inputs[:bucket].copy_(following)
        self._seen[:bucket, :books].scatter_(2, codes[:, :, None], True)
        self._frames[self._numbers[:bucket], self._made[:bucket]] = kept
        self._made[:bucket].add_(1).clamp_(max=self.context)
        self._cache.advance(bucket)
        self._draws.advance(bucket)
        return choice  # 0 goes on, 1 stops

    def _spell(self, local: LocalPass, sampler: Sampler, books: int, draws: Tensor) -> Tensor:
        """The codes of the first codebooks of a frame `[B, books]`."""
        model, bucket = self._model, len(draws)
        x = model.go_on(bucket)
        found = []
        for book in range(books):
            logits = model.audio_logits(local.next(x), book)
            code = sampler.draw(logits, draws[:, 1 + book], seen=self._seen[:bucket, book])
            found.append(code)
            if book + 1 < books:
                x = model.code_embedding(code, book)
        return torch.stack(found, dim=1)

    def _padded(self, codes: Tensor, bucket: int) -> Tensor:
        """All K columns, -1 where a row has no code."""
        missing = self._model.config.codebooks - codes.shape[1]
        if missing:
            codes = F.pad(codes, (0, missing), value=-1)
        return torch.where(self._columns < self._books[:bucket, None], codes, -1)


def _takes_few(sampling: Sampling) -> bool:
    return sampling.temperature == 0 or (sampling.top_k is not None and sampling.top_k <= FEW_RANKS)
