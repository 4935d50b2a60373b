"""MOSS on FAKE cards (see `fake_npu.py`), and what its path would ask of an NPU.

Nothing here was seen on an Ascend card.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..fake_npu import in_fake_npu, npu
from ..speech import FakeRun, at_once, expect_same_speech

if TYPE_CHECKING:
    from soundmill.models.device import Device
    from soundmill.models.handler import Output
    from soundmill.models.moss.handler import Moss

TEXTS = ("Hello there, this is a tiny test.", "a", "The radio played an old song, and nobody spoke!")


@contextmanager
def serving(card: str, folder: Path, *, graphs: str = "off", **options: Any) -> Iterator[tuple[Moss, Any]]:
    """The handler on a card, in fp32, open; and its station."""
    from soundmill.models.moss.handler import Moss
    from soundmill.models.place import ModelOptions
    from soundmill.models.station import Station

    station, handler = Station(card, threads=1), Moss()
    given: dict[str, Any] = {
        "checkpoint": folder,
        "slots": 4,
        "dtype": "fp32",
        "graphs": graphs,
        "extra": {"context": "256"},
    }
    handler.load(station.place(ModelOptions(**given | options)))
    station.open()
    yield handler, station
    handler.close()
    station.close()


def say(moss: Moss, folder: Path, voice: Path) -> list[Output]:
    """Have all texts said at the same time, in a cloned voice, and drawn."""
    from soundmill.models.moss.handler import Request
    from soundmill.storage.arguments.moss import MossArguments

    def perform(number: int) -> Output:
        args = {"text": TEXTS[number], "seed": number, "max_new_frames": 8, "verbalize": "off"}
        request = Request(**MossArguments.model_validate(args).model_dump() | {"reference": voice})
        return moss.perform(request, FakeRun(folder / str(number)))

    return at_once(perform, len(TEXTS))


def clip(folder: Path) -> Path:
    import numpy as np
    import soundfile

    sound = np.random.default_rng(3).normal(0, 0.1, (3000, 2)).astype(np.float32)
    soundfile.write(folder / "clip.wav", sound, 4800, subtype="FLOAT")
    return folder / "clip.wav"


@in_fake_npu(cards=2, memory_mib=256)
def test_both_cards_say_what_the_processor_says(folder: Path, tmp_path: Path) -> None:
    voice = clip(tmp_path)
    with serving("cpu", folder) as (moss, _):
        expected = say(moss, tmp_path / "cpu", voice)
    with (
        serving("npu:0", folder) as (first, _),
        serving("npu:1", folder, graphs="on", slots=2) as (second, _),
    ):
        for moss, name in ((first, "0"), (second, "1")):
            found = say(moss, tmp_path / name, voice)
            expect_same_speech(found, expected)
            assert max(int(output.metrics["batch_size"]) for output in found) >= 2
        assert npu().allocated(0) > 1_000_000, "the weights are on the card"
        assert npu().allocated(1) > 1_000_000


@in_fake_npu(cards=1, memory_mib=256)
def test_speech_goes_on_after_the_allocator_refused_each_part_of_it(folder: Path, tmp_path: Path) -> None:
    from soundmill.models.device import open_device
    from soundmill.models.moss.codec_calls import ReferenceEncoder, SpeechDecoder
    from soundmill.models.moss.slots import MossSlots

    voice = clip(tmp_path)
    with serving("cpu", folder) as (moss, _):
        expected = say(moss, tmp_path / "cpu", voice)
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

    with serving("npu:0", folder) as (moss, _):
        for kind, method in (
            (ReferenceEncoder, "run"), (MossSlots, "prefill"), (MossSlots, "step"), (SpeechDecoder, "run"),
        ):  # fmt: skip
            starve(kind, method)
        before = open_device("npu:0").refusals()
        expect_same_speech(say(moss, tmp_path / "npu", voice), expected)
        assert len(starved) == 4
        assert open_device("npu:0").refusals() == before + 4


def test_the_codec_asks_an_npu_for_nothing_that_it_lacks(folder: Path, device: Device) -> None:
    import torch

    from soundmill.models.engine.ports import Item
    from soundmill.models.moss.codec import Codec
    from soundmill.models.moss.codec_calls import ReferenceEncoder, SpeechDecoder
    from soundmill.models.moss.config import CodecConfig
    from soundmill.models.moss.slots import Utterance
    from soundmill.models.moss.weights import Weights

    from ..dispatch_audit import audited

    place = folder.parent / "codec"
    with torch.inference_mode():
        codec = Codec(CodecConfig.read(place), Weights(place), device.torch_device, form="plain")
    codes = torch.randint(0, 64, (40, 8), dtype=torch.int32)
    speech: Item[Any, Any] = Item(payload=Utterance(codes=codes, primer=codes[:3].long()))
    sound: Item[Any, Any] = Item(payload=torch.randn(2, 384 * 20))
    for model, item in ((SpeechDecoder(codec, device), speech), (ReferenceEncoder(codec, device), sound)):
        with torch.inference_mode(), audited() as audit:
            while not item.done:
                model.run([item], 0.0)
        audit.expect_clean(reads=True)
