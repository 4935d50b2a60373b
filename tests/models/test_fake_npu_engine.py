"""The engine on two FAKE cards: threads, memory that runs out, graphs, a card that breaks.

The fake is `fake_npu.py`; nothing here was seen on an Ascend card.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import pytest

from .fake_npu import MIB, in_fake_npu, npu

if TYPE_CHECKING:
    from soundmill.models.device import Device
    from soundmill.models.engine.engine import CardEngine

LAST_WORDS = "The Inner error is reported as above. The process exits for this inner error"


def babble(device: Device, *, graphs: str = "off", slots: int = 4) -> CardEngine:
    """An engine with the toy model, open."""
    from soundmill.models.engine.engine import CardEngine
    from soundmill.models.place import ModelOptions

    from ..plugins.toy import Babbler, Counter

    engine = CardEngine(device)
    options = ModelOptions(slots=slots, graphs=graphs)  # type: ignore[arg-type]
    model = engine.call(lambda: Babbler(device, graphs=device.graphs(graphs))).result()
    engine.add_slots("toy", model, options=options, decoder=Counter())
    engine.open()
    return engine


def prompts() -> list[Any]:
    from ..plugins.toy import Prompt

    lengths = (3, 30, 1, 12, 7, 25, 18, 2)
    return [Prompt(ids=tuple(range(1, n + 1)), seed=n, never=(0,)) for n in lengths]


def ask(engine: CardEngine) -> list[Any]:
    return [
        engine.generate("toy", prompt, positions=len(prompt.ids), max_steps=10 + 2 * index)
        for index, prompt in enumerate(prompts())
    ]


def results(requests: list[Any]) -> list[Any]:
    return [request.result(60).value for request in requests]


@cache
def expected() -> list[Any]:
    """What the processor makes of them, one at a time."""
    from soundmill.models.device import open_device

    engine = babble(open_device("cpu"), slots=1)
    found = results(ask(engine))
    engine.close()
    assert [len(made) for made in found] == [10, 12, 14, 16, 18, 20, 22, 24]
    return found


@in_fake_npu(cards=2, memory_mib=64)
def test_two_cards_of_one_process_make_what_the_processor_makes_each_on_its_own_thread() -> None:
    from soundmill.models.device import open_device

    engines = [babble(open_device(f"npu:{card}"), graphs=graphs) for card, graphs in enumerate(("off", "on"))]
    assert all(npu().allocated(card) > 0 for card in (0, 1))
    both = [ask(engine) for engine in engines]
    for requests in both:
        assert results(requests) == expected()
        assert max(request.metrics["batch_size"] for request in requests) == 4
    for engine in engines:
        engine.close()


@in_fake_npu(cards=1, memory_mib=64)
def test_work_goes_on_after_the_allocator_refused_a_prompt_a_step_and_a_decode() -> None:
    from soundmill.models.device import open_device

    from ..plugins.toy import Babbler, Counter

    starved: list[str] = []

    def starve(kind: type, method: str, call: int) -> None:
        """Refuse memory once, in a certain call of a method, once there are requests."""
        real = getattr(kind, method)
        calls: list[None] = []

        def run(self: Any, *args: Any) -> Any:
            calls.append(None)
            if len(calls) == call + 1:
                npu().refuse(0)
                starved.append(method)
                if kind is Counter:
                    args[0][0].payload.clone()
            return real(self, *args)

        setattr(kind, method, run)

    device = open_device("npu:0")
    engine = babble(device, slots=8)
    for kind, method, call in ((Babbler, "prefill", 0), (Babbler, "step", 6), (Counter, "run", 1)):
        starve(kind, method, call)
    before = device.refusals()
    assert results(ask(engine)) == expected(), "a row that begins again draws the same numbers"
    assert sorted(starved) == ["prefill", "run", "step"]
    assert device.refusals() == before + 3
    assert engine.slots("toy") == 4, "the step that failed runs with half of the slots"
    engine.close()


@in_fake_npu(cards=1, memory_mib=64)
def test_a_captured_step_survives_that_its_cache_becomes_smaller() -> None:
    from soundmill.models.device import open_device

    engine = babble(open_device("npu:0"), graphs="on")
    requests = ask(engine)
    lane = engine._slot_lane("toy")
    engine.call(lambda: lane._shrink(2)).result()
    assert results(requests) == expected()
    assert engine.slots("toy") == 2
    engine.close()


@in_fake_npu(cards=1, memory_mib=64)
def test_a_card_that_is_too_small_for_its_slots_serves_with_fewer() -> None:
    from soundmill.models.device import open_device

    device = open_device("npu:0")
    engine = babble(device, slots=1)
    weights = npu().allocated(0)
    engine.close()
    del engine
    npu().limit(0, weights + 2 * MIB)
    engine = babble(device, slots=64)
    assert 1 <= engine.slots("toy") < 64
    assert results(ask(engine)) == expected()
    engine.close()


@in_fake_npu(cards=2)
def test_a_broken_card_fails_every_request_and_all_that_come_after() -> None:
    from soundmill.models.device import open_device
    from soundmill.models.errors import CardFailed, CardSuspect

    device = open_device("npu:1")
    engine = babble(device)
    requests = ask(engine)
    engine.call(lambda: npu().break_card(f"{LAST_WORDS} HBM MULTI BIT ECC ERROR")).result()
    ended = []
    for request in requests:
        try:
            request.result(60)
        except CardFailed as error:
            ended.append(type(error))
    assert ended, "work that was done before it broke may stand"
    assert set(ended) == {CardSuspect}
    late = engine.generate("toy", prompts()[0], positions=3, max_steps=4)
    with pytest.raises(CardSuspect):
        late.result(60)
    assert not device.health().ok, "and only a kernel shows it"


@in_fake_npu(cards=1)
def test_a_cancelled_row_leaves_no_memory_behind() -> None:
    import gc

    from soundmill.models.device import open_device

    engine = babble(open_device("npu:0"))
    idle = npu().allocated(0)
    requests = ask(engine)
    for request in requests[::2]:
        request.cancel()
    found = [request.result(60).value for request in requests[1::2]]
    assert found == expected()[1::2]
    del requests
    engine.call(gc.collect).result()
    assert npu().allocated(0) <= idle
    engine.close()
