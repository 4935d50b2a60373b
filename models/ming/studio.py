"""A loaded checkpoint at work: `Studio` turns requests into audio."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ..audio import MEDIA_TYPES, samples_to_seconds
from ..errors import InputError, ModelError, ModelUnavailable
from ..handler import Output, OutputFile, Run
from ..part import RunPart
from .codec import PromptEncoder, Speech, SpeechDecoder
from .config import MingConfig
from .instruction import doubts, entries_of
from .network import MingNetwork
from .normalizer import normalized
from .parts import join, split_text
from .prompt import MUSIC, SOUND, SPEECH, PromptWriter, music_text, podcast_text, podcast_turns
from .rows import MingPrompt
from .settings import MingSettings
from .speech import SpeechSlots
from .tokenizer import MingTokenizer
from .voices import Voice, Voices
from .writing import write_audio

if TYPE_CHECKING:
    from ..engine.ports import Generated
    from ..place import Engine, Place, Ticket
    from .handler import Request

_WHOLE = frozenset({"podcast", "music", "sound"})
"""Tasks made in one part, whose text the normaliser would spoil."""

_PARTS_AT_ONCE = 4  # one long text shall not take every slot
_SEED_BITS = 53
_HELPERS = tuple(f"{__package__}.{name}" for name in ("reference_audio", "normalizer", "writing"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Studio:
    """What a loaded handler works with. Thread-safe.

    Attributes:
        name: Of the model in the engine.
        context: Positions of one slot.
    """

    name: str
    place: Place
    config: MingConfig
    writer: PromptWriter
    voices: Voices
    context: int

    @classmethod
    def open(cls, name: str, place: Place) -> Self:
        """Read the checkpoint of the options and join the card's engine.

        Raises:
            ModelUnavailable: The folder, a library or a setting is missing or wrong.
        """
        folder = place.options.checkpoint
        if folder is None:
            raise ModelUnavailable(f"{name} needs the folder of its weights; give --checkpoint-dir")
        settings = MingSettings.parse(place.options.extra)
        writer = PromptWriter(MingTokenizer(folder))
        engine, device = place.engine, place.engine.device
        dtype, codec_dtype = device.dtype(place.options.dtype), device.dtype(settings.codec_dtype)
        network = engine.call(
            lambda: MingNetwork.load(
                folder,
                dtype=dtype,
                device=device.torch_device,
                flow_steps=settings.flow_steps,
                encoder_layers=settings.encoder_layers,
                codec_dtype=codec_dtype,
            )
        ).result()
        slots = add_models(name, place, network, settings)
        place.warm(_HELPERS)
        return cls(
            name=name,
            place=place,
            config=network.config,
            writer=writer,
            voices=Voices(place, folder, network.config, encoder_of(name)),
            context=slots.context,
        )

    @property
    def slots(self) -> int:
        """As many as the engine has room for."""
        return self.place.engine.slots(self.name)

    def perform(self, request: Request, run: Run) -> Output:
        """Make what is asked for and write `audio.<format>`.

        Raises:
            InputError: The reference audio cannot be used, or the text does not fit.
        """
        with run.phase("prefill"):
            voice = self.voices.of(request, run)
            prompts = self.prompts(request, voice)
        with run.phase("generation"):
            made = self._generate(prompts, run)
        with run.phase("write"):
            return self._output(request, run, prompts, made)

    def prompts(self, request: Request, voice: Voice) -> list[MingPrompt]:
        """One for each part of the text.

        Raises:
            InputError: Prompt and steps do not fit the context.
        """
        task = {"music": MUSIC, "sound": SOUND}.get(request.task, SPEECH)
        entries = None if request.instruction is None else entries_of(request.instruction)
        patches = 0 if voice.latents is None else len(voice.latents) // self.config.patch
        prompts = []
        for number, text in enumerate(self._texts(request)):
            ids = self.writer.write(
                task,
                text,
                speakers=voice.speakers,
                transcript=voice.transcript,
                patches=patches,
                entries=entries,
            )
            self._check_context(len(ids.ids), request, patches)
            prompts.append(
                MingPrompt(
                    ids=ids.ids,
                    guidance=request.cfg,
                    sigma=request.sigma,
                    temperature=request.temperature,
                    seed=part_seed(request.seed, number),
                    max_patches=request.max_steps,
                    speakers=voice.vectors,
                    speaker_places=ids.speakers,
                    latents=voice.latents,
                    patch_places=ids.patches,
                )
            )
        return prompts

    def _texts(self, request: Request) -> list[str]:
        if request.task == "music":
            assert request.music is not None, "the arguments were checked at submit"
            return [music_text(request.music)]
        text = request.text or ""
        if request.task == "podcast":
            return [podcast_text(podcast_turns(text, len(request.speakers)))]
        if request.task in _WHOLE:
            return [text]
        if request.normalize:
            text = self.place.offload(normalized, text)
            if not any(map(str.isalnum, text)):
                raise InputError("text: nothing is left of it after normalisation; submit it without")
        return split_text(text, request.chunk_s)

    def _check_context(self, positions: int, request: Request, patches: int) -> None:
        if positions + request.max_steps < self.context:  # and one step that sees the end
            return
        of_audio = f", {patches} of them for the prompt audio" if patches else ""
        raise InputError(
            f"text: its prompt takes {positions} positions{of_audio}, and max_steps {request.max_steps}; together"
            f" at most {self.context - 1} fit here. Shorten the text or the audio, or lower max_steps"
        )

    def _generate(self, prompts: Sequence[MingPrompt], run: Run) -> list[Generated[Speech]]:
        """Make all parts, some of them at the same time."""
        engine: Engine = self.place.engine
        waiting: Iterator[MingPrompt] = iter(prompts)
        running: deque[Ticket[Generated[Any]]] = deque()
        made: list[Generated[Speech]] = []
        try:
            while len(made) < len(prompts):
                while len(running) < _PARTS_AT_ONCE and (prompt := next(waiting, None)) is not None:
                    # A step more than patches: see `SpeechSlots`.
                    ticket = engine.generate(
                        self.name, prompt, positions=len(prompt.ids), max_steps=prompt.max_patches + 1
                    )
                    running.append(ticket)
                made.append(running[0].wait(self._part_of(run, made, len(prompts))))
                running.popleft()
        finally:
            for ticket in running:
                ticket.cancel()
        return made

    def _part_of(self, run: Run, made: Sequence[Generated[Speech]], parts: int) -> RunPart:
        frames = sum(one.steps for one in made)
        before = {"frames": frames, "audio_s": frames * self.config.patch_s}
        return RunPart(run, begin=len(made) / parts, share=1 / parts, made=before)

    def _output(
        self,
        request: Request,
        run: Run,
        prompts: Sequence[MingPrompt],
        made: Sequence[Generated[Speech]],
    ) -> Output:
        """Join the parts and write them."""
        rate = self.config.audio.sample_rate
        samples, spans = join([one.value.samples for one in made], pause_s=request.pause_s, sample_rate=rate)
        if not np.isfinite(samples).all():
            raise ModelError(
                "the model made audio that is not finite; let the worker run it with --dtype fp32"
            )
        path = run.scratch / f"audio.{request.format}"
        duration_s = self.place.offload(write_audio, path, request.format, samples, rate, request.sample_rate)
        audio = {"duration_s": duration_s, "sample_rate": request.sample_rate, "channels": 1}
        parts = [
            {
                "start_s": round(samples_to_seconds(start, rate), 6),
                "end_s": round(min(samples_to_seconds(end, rate), duration_s), 6),
                "steps": one.steps,
                "stopped": one.value.stopped,
            }
            for (start, end), one in zip(spans, made, strict=True)
        ]
        warnings = [] if request.instruction is None else doubts(request.instruction)
        warnings += [
            f"part {number} reached its limit of {prompt.max_patches} steps and may end early; raise max_steps"
            for number, (prompt, one) in enumerate(zip(prompts, made, strict=True), 1)
            if not one.value.stopped
        ]
        return Output(
            result={"audio": {"name": path.name, **audio}, "parts": parts, "warnings": warnings},
            files=(
                OutputFile(name=path.name, path=path, media_type=MEDIA_TYPES[request.format], role="audio"),
            ),
            metrics=_metrics(made) | {"audio_s": duration_s, "seed": request.seed},
        )


def add_models(name: str, place: Place, network: MingNetwork, settings: MingSettings) -> SpeechSlots:
    """Give the engine the generator and both directions of the codec; returns the first."""
    engine, options = place.engine, place.options
    device, alone = engine.device, options.reproducible
    slots = SpeechSlots(
        network.generator,
        device,
        context=settings.context,
        graphs=device.graphs(options.graphs),
        reproducible=alone,
    )
    engine.add_slots(
        name, slots, options=options, decoder=SpeechDecoder(network.decoder, device, alone=alone)
    )
    engine.add_batch(encoder_of(name), PromptEncoder(network.encoder, device, alone=alone))
    return slots


def encoder_of(name: str) -> str:
    """What the encoder of a model is called in the engine."""
    return f"{name}/encoder"


def part_seed(seed: int, part: int) -> int:
    """The seed of a part's draws. Jobs' seeds end below the bits that number the parts."""
    return seed + (part << _SEED_BITS)


def _metrics(made: Sequence[Generated[Speech]]) -> dict[str, float | int | str | bool]:
    first = made[0].metrics
    metrics: dict[str, float | int | str | bool] = {
        name: first[name] for name in ("queue_s", "first_step_s", "dtype") if name in first
    }
    for name in ("batch_size", "bucket"):
        metrics[name] = max((int(one.metrics.get(name, 0)) for one in made), default=0)
    steps = [float(one.metrics["step_ms"]) for one in made if "step_ms" in one.metrics]
    if steps:
        metrics["step_ms"] = round(sum(steps) / len(steps), 4)
    return metrics | {"steps": sum(one.steps for one in made), "parts": len(made)}
