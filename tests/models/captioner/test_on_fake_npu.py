"""The captioner on a card that is no processor: every tensor in its place, steps that can be captured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ..fake_npu import in_fake_npu

if TYPE_CHECKING:
    from soundmill.models.device import Device


STEPS = 12


@in_fake_npu(cards=2, memory_mib=256)
def test_a_fake_card_hears_and_writes_what_was_published_with_graphs_and_without() -> None:
    from soundmill.models.device import open_device

    drawn = [
        captions(open_device("cpu", threads=1), "off"),
        captions(open_device("npu:1"), "off"),
        captions(open_device("npu:0"), "on"),
    ]
    assert drawn[0] == drawn[1] == drawn[2]


def captions(device: Device, graphs: Literal["on", "off"]) -> list[list[int]]:
    """Check the golden clips in an engine on the device; return what is drawn for them."""
    import torch

    from soundmill.models.captioner.listener import Listener
    from soundmill.models.captioner.rows import CaptionRows, Readout
    from soundmill.models.captioner.spectrum import log_mel
    from soundmill.models.engine.engine import CardEngine
    from soundmill.models.engine.sampling import GREEDY, Sampling
    from soundmill.models.place import ModelOptions

    from .golden import goldens, speller, weights_on

    engine = CardEngine(device)
    weights = engine.call(lambda: weights_on(device)).result()
    captured = device.graphs(graphs)
    rows = engine.call(
        lambda: CaptionRows(weights.language, device, context=512, stops=speller().stops, graphs=captured)
    ).result()
    engine.add_batch("ears", Listener(weights.tower))
    engine.add_slots("rows", rows, options=ModelOptions(graphs=graphs, slots=4), decoder=Readout())
    engine.open()
    heard = [engine.process("ears", torch.from_numpy(log_mel(golden.samples))) for golden in goldens()]
    ways = (GREEDY, Sampling(temperature=0.7, top_k=20, repetition_penalty=1.1))
    cases = [golden.case(max_steps=STEPS, sampling=way, seed=5) for way in ways for golden in goldens()]
    written = [
        engine.generate("rows", case.prompt, positions=case.positions, max_steps=case.max_steps)
        for case in cases
    ]
    for golden, embeddings in zip(goldens(), heard, strict=True):
        torch.testing.assert_close(embeddings.result(60), golden.embeddings, rtol=0, atol=1e-4)
    said = [request.result(60).value for request in written]
    engine.close()
    for golden, ids in zip(goldens(), said, strict=False):
        assert ids == golden.said(speller().stops)[:STEPS], golden.name
    if captured:
        assert any(step.captured for step in rows._steps.values())
    return said[len(goldens()) :]
