"""The handler of `acestep-captioner`: clips in, captions out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelUnavailable
from ..handler import Output, OutputFile, Run
from .clip import Clip
from .prompt import TASKS, Speller
from .shape import read_shape

if TYPE_CHECKING:
    from ..place import ModelOptions, Place
    from .captioning import Caption, Loaded, Manner
    from .weights import Weights

MODEL = "acestep-captioner"
EARS = f"{MODEL}/ears"
SHORT, LONG = f"{MODEL}/short", f"{MODEL}/long"

SHORT_CONTEXT = 2_048
"""Positions of most slots: a minute of audio, its prompt and its caption. 117 MB of the published size."""
LONG_CONTEXT = 9_216
"""Positions of the few others: 300 s of audio with a long prompt. 528 MB."""
SHORT_PER_LONG = 8

LENGTHS = "cache_lengths"
"""A setting: how many lengths of the caches are captured for each number of rows, 1 to 4. More of them make
short rows faster where a card can hold many graphs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A clip to caption.

    Attributes:
        task: A name of `TASKS`.
        prompt: Words in place of the task's.
        system_prompt: What the model is told to be.
        max_new_tokens: The longest caption of a window.
        temperature: 0 takes the likeliest token always.
        top_k: So many of the likeliest tokens may be drawn,
        top_p: and of those the ones that reach this probability together.
        repetition_penalty: On tokens of the prompt and of the caption so far; 1 is none.
        seed: Of the draws.
        window_s: The longest part of a clip that is captioned by itself.
    """

    audio: Path
    task: str
    prompt: str | None
    system_prompt: str
    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float
    seed: int
    window_s: float

    @property
    def words(self) -> str:
        """The prompt itself."""
        return TASKS[self.task] if self.prompt is None else self.prompt


class Captioner:
    """The handler of `acestep-captioner`."""

    request = Request

    def __init__(self) -> None:
        self._loaded: Loaded | None = None
        self._waiters = ThreadPoolExecutor(thread_name_prefix=MODEL)

    @property
    def slots(self) -> int:
        """As many requests as the engine has slots of either length."""
        if self._loaded is None:
            return 0
        return sum(self._loaded.place.engine.slots(name) for name in self._loaded.classes)

    def load(self, place: Place) -> None:
        """Read the weights and give the engine its models: the ears, short slots and long slots.

        Raises:
            ModelUnavailable: A library or the checkpoint is missing; the message has the remedy.
        """
        folder = _folder(place.options)
        shape = read_shape(folder)
        speller = Speller(folder, shape)
        engine = place.engine
        from .captioning import Loaded
        from .weights import read_weights

        dtype = engine.device.dtype(place.options.dtype)
        weights = engine.call(lambda: read_weights(folder, shape, engine.device.torch_device, dtype)).result()
        classes = add_models(place, weights, speller.stops)
        place.warm([f"{__package__}.clip"])
        self._loaded = Loaded(
            place=place, speller=speller, shape=shape, ears=EARS, classes=classes, waiters=self._waiters
        )

    def close(self) -> None:
        """Let the weights go."""
        self._loaded = None
        self._waiters.shutdown(wait=False, cancel_futures=True)

    def perform(self, request: Request, run: Run) -> Output:
        """Write `caption.json` and `caption.txt`.

        Raises:
            InputError: The audio cannot be used, or does not fit the context with its prompt and caption.
        """
        if self._loaded is None:
            raise ModelUnavailable(f"{MODEL} was not loaded")
        from .captioning import Captioning

        clip, captions = Captioning(self._loaded, self._manner(request), run).perform(request.audio)
        result = _result(request, clip, captions)
        with run.phase("write"):
            files = _write(run.scratch, result)
        metrics = _metrics(captions)
        timings = {name: value for name, value in metrics.items() if name.endswith("_s")}
        return Output(
            result=result | {"timings": timings},
            files=files,
            metrics={"audio_s": clip.duration_s, "tokens": result["tokens"]["caption"], **metrics},
        )

    def _manner(self, request: Request) -> Manner:
        from ..engine.sampling import Sampling
        from .captioning import Manner

        assert self._loaded is not None
        return Manner(
            wording=self._loaded.speller.wording(request.words, request.system_prompt),
            sampling=Sampling(
                temperature=request.temperature,
                top_k=request.top_k,
                top_p=request.top_p,
                repetition_penalty=request.repetition_penalty,
            ),
            seed=request.seed,
            max_new_tokens=request.max_new_tokens,
            window_s=request.window_s,
        )


def length_classes(max_positions: int) -> dict[str, int]:
    """The slot models by name and their positions, the shortest first, for a model of so many positions."""
    if max_positions <= SHORT_CONTEXT:
        return {SHORT: max_positions}
    return {SHORT: SHORT_CONTEXT, LONG: min(LONG_CONTEXT, max_positions)}


def add_models(place: Place, weights: Weights, stops: Iterable[int]) -> dict[str, int]:
    """Give the engine the ears and the rows of each length class; return the classes.

    Args:
        stops: The ids that end a caption.
    """
    from .listener import Listener
    from .rows import CaptionRows, Readout

    engine, options = place.engine, place.options
    classes = length_classes(weights.language.shape.max_positions)

    def rows_of(context: int) -> CaptionRows:
        return CaptionRows(
            weights.language,
            engine.device,
            context=context,
            stops=stops,
            graphs=engine.device.graphs(options.graphs),
            lengths=_lengths(options),
            reproducible=options.reproducible,
        )

    engine.add_batch(EARS, Listener(weights.tower, reproducible=options.reproducible))
    for name, context in classes.items():
        rows = engine.call(partial(rows_of, context)).result()
        engine.add_slots(name, rows, options=_options(options, name, len(classes)), decoder=Readout())
    return classes


def _options(options: ModelOptions, name: str, classes: int) -> ModelOptions:
    """An operator's number of slots is that of the short ones; of a share each class takes its part."""
    if classes == 1:
        return options
    part = 1 / 4 if name == LONG else 3 / 4
    slots = options.slots
    if slots is not None and name == LONG:
        slots = max(1, slots // SHORT_PER_LONG)
    return replace(options, slots=slots, share=None if options.share is None else options.share * part)


def _lengths(options: ModelOptions) -> int | None:
    """How many lengths of the caches an operator wants captured."""
    from .rows import MOST_LENGTHS

    given = options.extra.get(LENGTHS)
    if given is None:
        return None
    if given not in map(str, range(1, MOST_LENGTHS + 1)):
        raise ModelUnavailable(f"{MODEL}: {LENGTHS} is a number from 1 to {MOST_LENGTHS}, not {given!r}")
    return int(given)


def check_settings(extra: Mapping[str, str]) -> None:
    """See that an operator's settings are those of this family.

    Raises:
        ModelUnavailable: One is another.
    """
    unknown = ", ".join(sorted(set(extra) - {LENGTHS}))
    if unknown:
        raise ModelUnavailable(f"{MODEL} has no setting {unknown}; there is {LENGTHS}")


def _folder(options: ModelOptions) -> Path:
    check_settings(options.extra)
    if options.checkpoint is None:
        raise ModelUnavailable(
            f"{MODEL} needs a checkpoint: download ACE-Step/acestep-captioner and give its folder"
        )
    return options.checkpoint


def _result(request: Request, clip: Clip, captions: Sequence[Caption]) -> dict[str, Any]:
    """What the row keeps, in the order in which people read it."""
    return {
        "caption": merged([caption.text for caption in captions]),
        "finish_reason": _reason(all(caption.finished for caption in captions)),
        "duration_s": round(clip.duration_s, 6),
        "task": None if request.prompt is not None else request.task,
        "prompt": request.words,
        "tokens": {
            "prompt": sum(caption.prompt_tokens for caption in captions),
            "audio": sum(caption.audio_tokens for caption in captions),
            "caption": sum(caption.tokens for caption in captions),
        },
        "windows": [_window(caption) for caption in captions] if len(captions) > 1 else [],
    }


def _window(caption: Caption) -> dict[str, Any]:
    return {
        "start_s": caption.window.start_s,
        "end_s": caption.window.stop_s,
        "caption": caption.text,
        "tokens": caption.tokens,
        "finish_reason": _reason(caption.finished),
    }


def merged(texts: Sequence[str]) -> str:
    """The captions of a clip's windows as one: a paragraph each, in order; what repeats the one before is left out."""
    kept: list[str] = []
    for text in texts:
        if text and (not kept or text != kept[-1]):
            kept.append(text)
    return "\n\n".join(kept)


def _reason(finished: bool) -> str:
    return "stop" if finished else "length"


def _metrics(captions: Sequence[Caption]) -> dict[str, float | int | str | bool]:
    """The engine's figures over all windows: times add up, sizes are the largest."""
    first = captions[0].metrics
    found: dict[str, float | int | str | bool] = {"first_token_s": round(float(first["first_token_s"]), 6)}
    for name in ("encode_s", "queue_s", "prefill_s", "generation_s"):
        found[name] = round(sum(float(caption.metrics.get(name, 0.0)) for caption in captions), 6)
    for name in ("batch_size", "bucket"):
        found[name] = max(int(caption.metrics.get(name, 0)) for caption in captions)
    found |= {name: first[name] for name in ("step_ms", "dtype") if name in first}
    return found


def _write(folder: Path, result: dict[str, Any]) -> tuple[OutputFile, ...]:
    document, text = folder / "caption.json", folder / "caption.txt"
    content = {"model": MODEL, **result}
    document.write_text(json.dumps(content, ensure_ascii=False, allow_nan=False), encoding="utf-8")
    text.write_text(result["caption"] + "\n", encoding="utf-8")
    return (
        OutputFile(name=document.name, path=document, media_type="application/json", role="caption"),
        OutputFile(name=text.name, path=text, media_type="text/plain", role="caption"),
    )
