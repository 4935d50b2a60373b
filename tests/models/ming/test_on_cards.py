"""What would reach an NPU: kinds of operations and of numbers, and tensors on the right card."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ..fake_npu import in_fake_npu

if TYPE_CHECKING:
    from soundmill.models.device import Device

CASES = (0, 2, 4, 6, 9)


@pytest.mark.usefixtures("inference")
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_no_part_asks_for_what_an_npu_lacks(dtype: str) -> None:
    import torch

    from soundmill.models.device import open_device
    from soundmill.models.engine.ports import Item, Row
    from soundmill.models.ming.codec import PromptEncoder, SpeechDecoder
    from soundmill.models.ming.network import MingNetwork
    from soundmill.models.ming.rows import Latents
    from soundmill.models.ming.speech import SpeechSlots

    from ..dispatch_audit import audited
    from . import golden

    device = open_device("cpu", threads=1)
    network = MingNetwork.load(golden.CHECKPOINT, dtype=device.dtype(dtype), device="cpu")
    slots = SpeechSlots(network.generator, device, context=320, max_steps=9)
    prompts = [golden.prompt(index) for index in CASES]
    rows: list[Row[Any]] = [
        Row(prompt=prompt, positions=len(prompt.ids), max_steps=10, slot=slot)
        for slot, prompt in enumerate(prompts)
    ]
    slots.reserve(8)
    with audited() as audit:
        while not all(row.ready for row in rows):
            slots.prefill([row for row in rows if not row.ready], 100)
        for _ in range(7):
            slots.step(8, rows).read()
            for row in rows:
                row.steps += 1
        slots.move(4, 7)
        rows[4].slot = 7
        made = [slots.release(row, 5) for row in rows]
        decoder, encoder = SpeechDecoder(network.decoder, device), PromptEncoder(network.encoder, device)
        items: list[Item[Any, Any]] = [Item(payload=Latents(values=one.values, stopped=True)) for one in made]
        waves: list[Item[Any, Any]] = [Item(payload=torch.randn(1280)), Item(payload=torch.randn(700))]
        while not all(item.done for item in (*items, *waves)):
            decoder.run([item for item in items if not item.done], 1.0)
            encoder.run([item for item in waves if not item.done], 1.0)

    audit.expect_clean()
    assert all(torch.isfinite(one.values).all() for one in made)


@in_fake_npu(cards=2, memory_mib=256)
def test_a_fake_npu_makes_the_same_speech_also_from_captured_steps() -> None:
    from ..fake_npu import same_as_cpu

    same_as_cpu(_speech, rtol=1e-4, atol=1e-4)


def _speech(device: Device) -> list[Any]:
    """Some cases in fewer slots, with captured steps where the device has graphs, then their samples."""
    import torch

    from soundmill.models.engine.ports import Item
    from soundmill.models.ming.codec import PromptEncoder, SpeechDecoder
    from soundmill.models.ming.network import MingNetwork
    from soundmill.models.ming.speech import SpeechSlots

    from . import golden
    from .driving import generated

    device.bind_thread()
    network = MingNetwork.load(
        golden.CHECKPOINT, dtype=torch.float32, device=device.torch_device, flow_steps=2
    )
    slots = SpeechSlots(
        network.generator,
        device,
        context=320,
        max_steps=6,
        noise=golden.recorded_noise,
        graphs=device.graphs("auto"),
    )
    prompts = [golden.prompt(index, max_patches=6) for index in (0, 2, 6)]
    results = generated(slots, device, prompts, 2)
    decoder, encoder = SpeechDecoder(network.decoder, device), PromptEncoder(network.encoder, device)
    items: list[Any] = [Item(payload=result.value) for result in results]
    wave: Any = Item(payload=golden.case_vectors(2)["prompt_wave"][0])
    while not all(item.done for item in (*items, wave)):
        decoder.run([item for item in items if not item.done], 1.0)
        encoder.run([wave] if not wave.done else [], 1.0)
    captured = {kind for (kind, *_), step in slots._steps.items() if step.captured}
    assert captured == ({"backbone", "solve"} if device.caps.graphs else set())
    return [
        [result.value.values for result in results],
        [torch.from_numpy(item.result.samples) for item in items],
        wave.result,
    ]
