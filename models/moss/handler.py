"""MOSS-TTS-Nano as the worker sees it: `moss-tts-nano-100m`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..audio import MEDIA_TYPES, AudioWriter
from ..device import Device
from ..engine.sampling import Sampling
from ..errors import InputError, ModelUnavailable
from ..handler import Output, OutputFile, Run
from ..place import Place
from .codec import Codec, check_agreement
from .codec_calls import ReferenceEncoder, SpeechDecoder
from .config import CodecConfig, LanguageConfig
from .folders import Folders
from .language_model import LanguageModel
from .linear import Form
from .prompt import Template
from .reference import MAX_REFERENCE_S, read_reference
from .settings import MossSettings
from .slots import MossSlots
from .speech import Rules, Speech, Spoken, Voice
from .text import Manner, Script, write_script
from .tokenizer import tokenizer_of
from .voices import Voices
from .weights import Weights

NAME = "moss-tts-nano-100m"
ENCODER = f"{NAME}/encoder"
TOKENIZER_FILE = "tokenizer.model"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A text to speak; what the fields mean is said in `storage/arguments/moss.py`."""

    text: str
    language: str | None
    voice: str | None
    reference: Path | None
    reference_text: str | None
    max_text_tokens: int
    max_new_frames: int
    n_codebooks: int
    gate_temperature: float
    gate_top_p: float
    gate_top_k: int
    audio_temperature: float
    audio_top_p: float
    audio_top_k: int
    audio_repetition_penalty: float
    clean: bool
    verbalize: Any
    seed: int
    format: str
    sample_rate: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    """What `load` leaves for the requests."""

    place: Place
    config: LanguageConfig
    codec: CodecConfig
    template: Template
    tokenizer: Path
    context: int
    voices: Voices


class Moss:
    """The handler of `moss-tts-nano-100m`."""

    request = Request

    def __init__(self) -> None:
        self._loaded: _Loaded | None = None

    @property
    def slots(self) -> int:
        """Rows of the engine: a short text takes one."""
        return self._ready.place.engine.slots(NAME)

    @property
    def _ready(self) -> _Loaded:
        if self._loaded is None:
            raise ModelUnavailable(f"{NAME} was not loaded")
        return self._loaded

    def load(self, place: Place) -> None:
        """Load both models and add them to the engine of the card.

        Raises:
            ModelUnavailable: A file is missing, damaged or of another model, or an option is of no use.
        """
        settings = MossSettings.read(place.options.extra)
        folders = Folders.find(place.options.checkpoint, codec=settings.codec, voices=settings.voices)
        config = LanguageConfig.read(folders.language)
        codec_config = CodecConfig.read(folders.codec)
        check_agreement(codec_config, config.codebooks, config.codebook_sizes, config.sample_rate)
        tokenizer = folders.language / TOKENIZER_FILE
        template = Template.of(config, tokenizer_of(tokenizer))
        context = min(settings.context, config.decoder.positions)
        weights, codec_weights = Weights(folders.language), Weights(folders.codec)
        longest = template.overhead + int(MAX_REFERENCE_S * codec_config.sample_rate / codec_config.stride)
        place.engine.call(
            lambda: _add(place, settings, config, codec_config, weights, codec_weights, context, longest)
        ).result()
        place.warm(["soundmill.models.moss.text", "soundmill.models.moss.reference"])
        self._loaded = _Loaded(
            place=place,
            config=config,
            codec=codec_config,
            template=template,
            tokenizer=tokenizer.resolve(),
            context=context,
            voices=Voices(self._encode, folders.voices),
        )

    def close(self) -> None:
        self._loaded = None

    def perform(self, request: Request, run: Run) -> Output:
        """Write `audio.<format>`.

        Raises:
            InputError: Nothing can be said, the voice cannot be used, or the text does not fit.
        """
        loaded = self._ready
        voice, known = self._voice(request, run)
        script = self._script(request, voice)
        speech = Speech(
            loaded.place.engine, NAME, loaded.template, loaded.context, voice=voice,
            rules=_rules(request, loaded.config.codebooks, loaded.codec.frame_s),
        )  # fmt: skip
        path = run.scratch / f"audio.{request.format}"
        with run.phase("generation"):
            told = self._write(path, request, script, speech, run)
        run.checkpoint(1.0)
        if known is not None:
            told.metrics["voice_known"] = known
        if script.verbalized is not None:
            told.result["verbalized"] = script.verbalized
        file = OutputFile(name=path.name, path=path, media_type=MEDIA_TYPES[request.format], role="audio")
        return Output(result=told.result, files=(file,), metrics=told.metrics)

    def _voice(self, request: Request, run: Run) -> tuple[Voice, bool | None]:
        voices = self._ready.voices
        path = request.reference if request.voice is None else voices.preset(request.voice)
        if path is None:
            return Voice(), None
        with run.phase("prefill"):
            codes, known = voices.codes(path, run)
        return Voice(codes=codes, continued=request.reference_text is not None), known

    def _encode(self, path: Path, run: Run) -> Tensor:
        loaded = self._ready
        codec = loaded.codec
        samples = loaded.place.offload(read_reference, path, codec.sample_rate, codec.channels, codec.stride)
        run.checkpoint()
        codes: Tensor = loaded.place.engine.process(ENCODER, torch.from_numpy(samples)).wait(run)
        return codes[:, : loaded.config.codebooks]

    def _script(self, request: Request, voice: Voice) -> Script:
        loaded = self._ready
        manner = Manner(
            language=request.language,
            clean=request.clean,
            verbalize=request.verbalize,
            # Without a clip every chunk would have a voice of its own.
            budget=request.max_text_tokens if voice.cloned else 0,
        )
        return loaded.place.offload(
            write_script, loaded.tokenizer, request.text, manner, request.reference_text
        )

    def _write(self, path: Path, request: Request, script: Script, speech: Speech, run: Run) -> _Told:
        codec = self._ready.codec
        told = _Told(codec)
        with AudioWriter(
            path, format=request.format, from_hz=codec.sample_rate, sample_rate=request.sample_rate,
            channels=codec.channels,
        ) as writer:  # fmt: skip
            for index, spoken in enumerate(speech.speak(script.chunks, run)):
                told.heard(spoken)
                _append(writer, spoken.audio, run)
                if index + 1 < len(script.chunks):
                    pause = round(script.chunks[index].pause_s * codec.sample_rate)
                    _append(writer, torch.zeros(codec.channels, pause), run)
        if not told.frames:
            raise InputError(
                f"the model made no sound of this text in {told.tries} tries; give another seed, "
                "a reference, or a longer text"
            )
        return told.ended(path.name, writer)


class _Told:
    """What becomes of a request's figures."""

    def __init__(self, codec: CodecConfig) -> None:
        self._codec = codec
        self._sums: Counter[str] = Counter()
        self._most: dict[str, float] = {}
        self._samples = 0
        self.chunks: list[dict[str, Any]] = []
        self.frames = self.tries = 0
        self.result: dict[str, Any] = {}
        self.metrics: dict[str, float | int | str | bool] = {}

    def heard(self, spoken: Spoken) -> None:
        """One more chunk, in order."""
        made = spoken.made
        seconds = spoken.audio.shape[1] / self._codec.sample_rate
        self.frames += made.steps
        self.tries += spoken.tries
        self.chunks.append({"frames": made.steps, "duration_s": round(seconds, 6), "stopped": made.stopped})
        for name in ("queue_s", "prefill_s", "decode_s"):
            self._sums[name] += float(made.metrics.get(name, 0.0))  # type: ignore[assignment]
        for name in ("batch_size", "bucket", "step_ms"):
            self._most[name] = max(self._most.get(name, 0), float(made.metrics.get(name, 0)))
        if len(self.chunks) == 1:
            self.metrics |= {
                name: made.metrics[name] for name in ("first_step_s", "dtype") if name in made.metrics
            }

    def ended(self, name: str, writer: AudioWriter) -> _Told:
        """The file is complete."""
        cut = sum(not chunk["stopped"] for chunk in self.chunks)
        self.result |= {
            "audio": {
                "name": name,
                "duration_s": writer.duration_s,
                "sample_rate": writer.sample_rate,
                "channels": self._codec.channels,
            },
            "frames": self.frames,
            "finish": "stop" if cut == 0 else "length",
            "chunks": self.chunks,
        }
        if cut:
            self.result["warnings"] = [
                f"{cut} of {len(self.chunks)} chunks reached the cap on frames and may end early; "
                "raise max_new_frames"
            ]
        self.metrics |= {
            "audio_s": writer.duration_s, "frames": self.frames, "chunks": len(self.chunks),
            "tries": self.tries, "batch_size": int(self._most.get("batch_size", 0)),
            "bucket": int(self._most.get("bucket", 0)), "step_ms": self._most.get("step_ms", 0.0),
            "engine_queue_s": round(self._sums["queue_s"], 6),
            "engine_prefill_s": round(self._sums["prefill_s"], 6),
            "engine_decode_s": round(self._sums["decode_s"], 6),
        }  # fmt: skip
        return self


def _add(
    place: Place,
    settings: MossSettings,
    config: LanguageConfig,
    codec_config: CodecConfig,
    weights: Weights,
    codec_weights: Weights,
    context: int,
    longest_prefix: int,
) -> None:
    """Load the tensors and add both models; on the engine's thread."""
    options, device = place.options, place.engine.device
    model = LanguageModel(
        config,
        weights,
        device=device.torch_device,
        dtype=device.dtype(options.dtype, validated_fp16=True),
        positions=context + 1,
        form=form_of(settings, device),
    )
    add_models(
        place, settings, model, Codec(codec_config, codec_weights, device.torch_device), longest_prefix
    )


def form_of(settings: MossSettings, device: Device) -> Form | None:
    """How the linear layers of the language model are kept.

    Raises:
        ModelUnavailable: The card has no such form.
    """
    if settings.linears != "int8":
        return None
    if not device.immediate:
        raise ModelUnavailable("linears=int8 is for processors; on a card use dtype bf16")
    return "int8"


def add_models(
    place: Place, settings: MossSettings, model: LanguageModel, codec: Codec, longest_prefix: int
) -> None:
    """Give the engine the speaker and both directions of the codec; on its thread.

    Args:
        model: On the card, with one position more than a slot.
        longest_prefix: Positions of the longest voice that is kept.
    """
    engine, options = place.engine, place.options
    device, context = engine.device, min(settings.context, model.config.decoder.positions)
    slots = MossSlots(
        model,
        device,
        context=context,
        graphs=device.graphs(options.graphs),
        voices=settings.kept_voices,
        longest_prefix=min(longest_prefix, context),
        fixed_shapes=options.reproducible,
    )
    slots.step_s = codec.config.frame_s
    engine.add_batch(ENCODER, ReferenceEncoder(codec, device))
    engine.add_slots(NAME, slots, options=options, decoder=SpeechDecoder(codec, device))


def _rules(request: Request, codebooks: int, frame_s: float) -> Rules:
    return Rules(
        gate=Sampling(
            temperature=request.gate_temperature, top_k=request.gate_top_k or None, top_p=request.gate_top_p
        ),
        audio=Sampling(
            temperature=request.audio_temperature,
            top_k=request.audio_top_k or None,
            top_p=request.audio_top_p,
            repetition_penalty=request.audio_repetition_penalty,
        ),
        codebooks=min(request.n_codebooks, codebooks),
        max_frames=request.max_new_frames,
        frame_s=frame_s,
        seed=request.seed,
    )


def _append(writer: AudioWriter, audio: Tensor, run: Run) -> None:
    """Write `[C, S]`, a second at a time."""
    samples = audio.t().contiguous().numpy()
    block = writer.sample_rate
    for start in range(0, len(samples), block):
        writer.write(samples[start : start + block])
        run.checkpoint()
