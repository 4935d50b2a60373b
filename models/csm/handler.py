"""The handler of CSM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..audio import MEDIA_TYPES, AudioWriter, Samples
from ..errors import InputError, ModelUnavailable
from ..handler import Output, OutputFile, Run
from .recording import read_recording
from .voices import Voices

if TYPE_CHECKING:
    from torch import Tensor

    from ..place import ModelOptions, Place
    from .checkpoint import Checkpoint
    from .narrator import Narrator, Part
    from .prompt import Turn
    from .sizes import Sizes

NAME = "csm-1b"
ENCODER = f"{NAME}/encoder"

_WRITE_BLOCK_S = 5
_SWITCHES = {"on": True, "off": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A text to say.

    Attributes:
        speaker: A number; its voice is that of the turns with the same number.
        context: What was said before: mappings with `speaker`, `text` and `audio`, the `Path` of a file.
        temperature: 0 is greedy.
        max_frames: Of each part of the text.
        max_seconds: Of the whole, or `None`.
        format: `wav`, `flac`, `mp3` or `opus`.
        sample_rate: Hertz; what the codec makes is resampled to it.
    """

    text: str
    speaker: int
    context: Sequence[Mapping[str, Any]]
    temperature: float
    top_k: int
    seed: int
    max_frames: int
    max_seconds: float | None
    format: str
    sample_rate: int


class Csm:
    """The handler of `csm-1b`."""

    request = Request

    def __init__(self) -> None:
        self._voices = Voices()
        self._place: Place | None = None
        self._checkpoint: Checkpoint | None = None
        self._narrator: Narrator | None = None

    @property
    def slots(self) -> int:
        """See `Handler`."""
        return self._loaded.engine.slots(NAME)

    def load(self, place: Place) -> None:
        """Load the checkpoint of the options onto the card; `fused=off` takes the depth loop apart again.

        Raises:
            ModelUnavailable: There is no torch, the folder is not whole, or an option is unknown.
        """
        fused = fused_of(place.options)
        try:
            import transformers  # noqa: F401 - the message of what is missing
        except ImportError as error:
            raise ModelUnavailable(
                "csm-1b needs torch and transformers: pip install 'soundmill[models]'"
            ) from error
        from .narrator import Narrator
        from .prompt import Prompter

        checkpoint = place.engine.call(lambda: _load(place, fused=fused)).result()
        self._checkpoint, self._place = checkpoint, place
        prompter = Prompter(checkpoint.tokens, checkpoint.sizes)
        self._narrator = Narrator(place.engine, NAME, prompter, checkpoint.sizes)
        place.warm([read_recording.__module__])

    def close(self) -> None:
        """Forget the model; the engine's end frees it."""
        self._checkpoint = self._place = self._narrator = None

    def perform(self, request: Request, run: Run) -> Output:
        """Write `audio.<format>`.

        Raises:
            InputError: An argument cannot be used, or nothing comes out; the sentence names it.
        """
        _check(request)
        with run.phase("prefill"):
            turns, known = self._hear(request.context, run)
        path = run.scratch / f"audio.{request.format}"
        parts, duration_s = self._say(request, turns, run, path)
        frames = sum(len(part.generated.value.codes) for part in parts)
        lost = [number for number, part in enumerate(parts) if part.lost]
        audio = {
            "name": path.name,
            "duration_s": duration_s,
            "sample_rate": request.sample_rate,
            "channels": 1,
        }
        from .narrator import metrics_of

        return Output(
            result={
                "audio": audio,
                "frames": frames,
                "parts": len(parts),
                "capped_parts": lost,
                "truncated": any(part.cut for part in parts),
                "watermark": False,
            },
            files=(
                OutputFile(name=path.name, path=path, media_type=MEDIA_TYPES[request.format], role="audio"),
            ),
            metrics={
                **metrics_of(parts),
                "audio_s": duration_s,
                "characters": len(request.text),
                "frames": frames,
                "parts": len(parts),
                "tries": sum(part.tries for part in parts),
                "seed": request.seed,
                "context_turns": parts[0].turns,
                "context_known": known,
            },
        )

    # -- what was said before ----------------------------------------------------------------------

    def _hear(self, context: Sequence[Mapping[str, Any]], run: Run) -> tuple[list[Turn], int]:
        """The context with its recordings as codes, and how many of them were known."""
        from .prompt import Turn

        turns, known = [], 0
        for number, given in enumerate(context):
            try:
                codes, was_known = self._voices.codes(
                    given["audio"], lambda path: self._encode(path, run), run.checkpoint
                )
            except InputError as error:
                raise InputError(f"context.{number}.audio: {error}") from error
            known += was_known
            turns.append(Turn(speaker=given["speaker"], text=given["text"], codes=codes))
        return turns, known

    def _encode(self, path: Path, run: Run) -> Tensor:
        place, sizes = self._loaded, self._sizes
        samples: Samples = place.offload(
            read_recording, path, sizes.sample_rate, sizes.frames_to_seconds(sizes.context)
        )
        run.checkpoint()
        codes: Tensor = place.engine.process(ENCODER, samples).wait(run)
        return codes

    # -- what is said ------------------------------------------------------------------------------

    def _say(self, request: Request, turns: Sequence[Turn], run: Run, path: Path) -> tuple[list[Part], float]:
        """Write the audio part by part; returns the parts and the length of the file."""
        from ..engine.sampling import Sampling
        from .narrator import Wish

        if self._narrator is None:
            raise ModelUnavailable("csm-1b was not loaded")
        sizes = self._sizes
        most = None if request.max_seconds is None else max(1, sizes.seconds_to_frames(request.max_seconds))
        wish = Wish(
            text=request.text,
            speaker=request.speaker,
            sampling=Sampling(temperature=request.temperature, top_k=request.top_k),
            seed=request.seed,
            max_frames=request.max_frames,
            most=most,
        )
        parts = []
        with AudioWriter(
            path, format=request.format, from_hz=sizes.sample_rate, sample_rate=request.sample_rate
        ) as writer:
            saying = self._narrator.say(wish, turns, run)
            while True:
                with run.phase("generation"):
                    part = next(saying, None)
                if part is None:
                    break
                parts.append(part)
                with run.phase("write"):
                    self._write(writer, part.generated.value.audio, run)
        run.checkpoint(1.0)
        return parts, writer.duration_s

    def _write(self, writer: AudioWriter, audio: Samples, run: Run) -> None:
        block = _WRITE_BLOCK_S * self._sizes.sample_rate
        for start in range(0, len(audio), block):
            writer.write(audio[start : start + block])
            run.checkpoint()

    # -- what was loaded ---------------------------------------------------------------------------

    @property
    def _loaded(self) -> Place:
        if self._place is None:
            raise ModelUnavailable("csm-1b was not loaded")
        return self._place

    @property
    def _sizes(self) -> Sizes:
        if self._checkpoint is None:
            raise ModelUnavailable("csm-1b was not loaded")
        return self._checkpoint.sizes


def _load(place: Place, *, fused: bool) -> Checkpoint:
    """Load the weights and add the models to the engine; on its thread."""
    from .checkpoint import load_checkpoint

    options, device = place.options, place.engine.device
    checkpoint = load_checkpoint(
        options.checkpoint, device=device.torch_device, dtype=device.dtype(options.dtype)
    )
    add_models(place, checkpoint.model, fused=fused)
    return checkpoint


def add_models(place: Place, model: Any, *, fused: bool, audio: bool = True) -> None:
    """Give the engine the speaker and the codec; on its thread.

    Args:
        model: A `CsmForConditionalGeneration` on the card; see `Speaker` for what becomes of its weights.
        fused: See `Speaker`.
        audio: Whether what the speaker makes is decoded; otherwise requests end with `Frames`.
    """
    from .decoder import Decoder
    from .encoder import Encoder
    from .sizes import Sizes
    from .speaker import Speaker

    engine, options = place.engine, place.options
    device, sizes = engine.device, Sizes.of(model.config)
    speaker = Speaker(
        model,
        sizes,
        device,
        graphs=device.graphs(options.graphs),
        fused=fused,
        fixed_shapes=options.reproducible,
    )
    codec = model.codec_model
    decoder = Decoder(codec, sizes, device) if audio else None
    engine.add_slots(NAME, speaker, options=options, decoder=decoder)
    engine.add_batch(ENCODER, Encoder(codec, sizes, device))


def fused_of(options: ModelOptions) -> bool:
    """Read the one setting of this family.

    Raises:
        ModelUnavailable: It is another one, or has no such value.
    """
    unknown = sorted(options.extra.keys() - {"fused"})
    if unknown:
        raise ModelUnavailable(f"csm-1b has no option {unknown[0]!r}; it has fused")
    choice = options.extra.get("fused", "on")
    if choice not in _SWITCHES:
        raise ModelUnavailable(f"fused={choice!r} is no choice of csm-1b; write on or off")
    return _SWITCHES[choice]


def _check(request: Request) -> None:
    """What the catalogue refuses already, for those who call without it."""
    for field, text in [("text", request.text)] + [
        (f"context.{number}.text", turn["text"]) for number, turn in enumerate(request.context)
    ]:
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"{field}: the text is empty; give at least one word")
    for field, speaker in [("speaker", request.speaker)] + [
        (f"context.{number}.speaker", turn["speaker"]) for number, turn in enumerate(request.context)
    ]:
        if isinstance(speaker, bool) or not isinstance(speaker, int) or speaker < 0:
            raise InputError(f"{field}: a speaker is a whole number, 0 or more")
