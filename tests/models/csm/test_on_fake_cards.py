"""CSM on FAKE cards (see `fake_npu.py`), and what its path would ask of an NPU.

Nothing here was seen on an Ascend card.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ..fake_npu import in_fake_npu, npu
from ..speech import FakeRun, at_once, expect_same_speech

if TYPE_CHECKING:
    from soundmill.models.csm import Csm
    from soundmill.models.csm.checkpoint import Checkpoint
    from soundmill.models.csm.prompt import Prompt
    from soundmill.models.device import Device
    from soundmill.models.handler import Output

FOLDER = Path(__file__).resolve().parents[2] / "data" / "csm" / "checkpoint"
TEXTS = ("Hello, tiny CSM.", "The quick brown fox.", "a", "Numbers 12345 and more words to speak aloud now.")


@contextmanager
def serving(card: str, **options: Any) -> Iterator[tuple[Csm, Any]]:
    """The handler on a card, in fp32, open; and its station."""
    from soundmill.models.csm import Csm
    from soundmill.models.place import ModelOptions
    from soundmill.models.station import Station

    station, handler = Station(card, threads=1), Csm()
    given: dict[str, Any] = {"slots": 4, "dtype": "fp32", "graphs": "off"} | options
    handler.load(station.place(ModelOptions(checkpoint=FOLDER, **given)))
    station.open()
    yield handler, station
    handler.close()
    station.close()


def say(csm: Csm, folder: Path, texts: Sequence[str], **more: Any) -> list[Output]:
    """Have the first frames of all texts said at the same time, greedily."""
    from soundmill.models.csm.handler import Request
    from soundmill.storage.arguments.csm import CsmArguments

    context = more.pop("context", ())

    def perform(number: int) -> Output:
        given = CsmArguments.model_validate(
            {"text": texts[number], "temperature": 0, "max_seconds": 0.4, **more}
        ).model_dump()
        request = Request(**given | {"context": context})
        return csm.perform(request, FakeRun(folder / f"{number}-{threading.get_ident()}"))

    return at_once(perform, len(texts))


def clip(folder: Path) -> Mapping[str, Any]:
    """A turn of a conversation with a recording."""
    import numpy as np
    import soundfile

    sound = np.random.default_rng(3).normal(0, 0.2, 14400)
    soundfile.write(folder / "clip.wav", sound, 24000, subtype="FLOAT")
    return {"speaker": 0, "text": "As I said.", "audio": folder / "clip.wav"}


@in_fake_npu(cards=2, memory_mib=64)
def test_both_cards_say_what_the_processor_says(tmp_path: Path) -> None:
    context = (clip(tmp_path),)
    with serving("cpu") as (csm, _):
        expected = say(csm, tmp_path / "cpu", TEXTS, context=context)
    # With fixed shapes there is one graph to capture, in place of sixteen.
    with serving("npu:0") as (first, _), serving("npu:1", graphs="on", reproducible=True) as (second, _):
        for csm, name in ((first, "0"), (second, "1")):
            found = say(csm, tmp_path / name, TEXTS, context=context)
            expect_same_speech(found, expected)
            assert max(int(output.metrics["batch_size"]) for output in found) >= 2
        assert npu().allocated(0) > 2_000_000, "the weights are on the card"
        assert npu().allocated(1) > 2_000_000


@in_fake_npu(cards=1, memory_mib=64)
def test_speech_goes_on_after_the_allocator_refused_each_part_of_it(tmp_path: Path) -> None:
    from soundmill.models.csm.decoder import Decoder
    from soundmill.models.csm.encoder import Encoder
    from soundmill.models.csm.speaker import Speaker
    from soundmill.models.device import open_device

    context = (clip(tmp_path),)
    with serving("cpu") as (csm, _):
        expected = say(csm, tmp_path / "cpu", TEXTS, context=context)
    starved: list[str] = []

    def starve(kind: type, method: str) -> None:
        """Refuse memory once, in the next call of a method."""
        real: Callable[..., Any] = getattr(kind, method)

        def run(self: Any, *args: Any) -> Any:
            if (name := f"{kind.__name__}.{method}") not in starved:
                starved.append(name)
                npu().refuse(0)
            return real(self, *args)

        setattr(kind, method, run)

    with serving("npu:0") as (csm, station):
        for kind, method in ((Encoder, "run"), (Speaker, "prefill"), (Speaker, "step"), (Decoder, "run")):
            starve(kind, method)
        before = open_device("npu:0").refusals()
        expect_same_speech(say(csm, tmp_path / "npu", TEXTS, context=context), expected)
        assert set(starved) == {"Encoder.run", "Speaker.prefill", "Speaker.step", "Decoder.run"}
        assert open_device("npu:0").refusals() == before + 4
        assert station.engine.slots("csm-1b") == 2


# -- the audit -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "modules"])
def test_a_step_asks_an_npu_for_nothing_that_it_lacks(
    checkpoint: Checkpoint, device: Device, golden_prompts: Mapping[str, Prompt], fused: bool
) -> None:
    import torch

    from soundmill.models.csm.speaker import Speaker
    from soundmill.models.engine.ports import Row

    from ..dispatch_audit import audited

    speaker = Speaker(checkpoint.model, checkpoint.sizes, device, graphs=False, fused=fused)
    rows = [
        Row(prompt=prompt, positions=len(prompt), max_steps=8, slot=slot)
        for slot, prompt in enumerate(golden_prompts[name] for name in ("text0", "ctx", "text2"))
    ]
    with torch.inference_mode():
        speaker.reserve(4)
        with audited() as prefill:
            speaker.prefill(rows, 1024)
        assert all(row.ready for row in rows)
        with audited() as step:
            speaker.step(4, rows)
        with audited() as leaving:
            speaker.move(2, 3)
            rows[2].slot = 3
            speaker.release(rows[2], 1)
    prefill.expect_clean()
    step.expect_clean()
    leaving.expect_clean()


def test_the_codec_asks_an_npu_for_nothing_that_it_lacks(
    checkpoint: Checkpoint, device: Device, golden: Mapping[str, Any]
) -> None:
    import numpy as np
    import torch

    from soundmill.models.csm.decoder import Decoder
    from soundmill.models.csm.encoder import Encoder
    from soundmill.models.csm.speaker import Frames
    from soundmill.models.engine.ports import Item

    from ..dispatch_audit import audited

    codec, sizes = checkpoint.model.codec_model, checkpoint.sizes
    codes = torch.from_numpy(golden["text1_codes"].astype(np.int64))
    frames: Item[Any, Any] = Item(payload=Frames(codes=codes, ended=True))
    sound: Item[Any, Any] = Item(payload=golden["ctx_wav1_int16"].astype(np.float32) / 32768)
    for model, item in ((Decoder(codec, sizes, device), frames), (Encoder(codec, sizes, device), sound)):
        with torch.inference_mode(), audited() as audit:
            while not item.done:
                model.run([item], 0.05)
        assert item.error is None
        audit.expect_clean(reads=True)
