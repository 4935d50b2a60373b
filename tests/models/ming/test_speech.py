from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from soundmill.models.device import Device, open_device
from soundmill.models.engine.ports import Generated, Item
from soundmill.models.engine.request import SlotRequest
from soundmill.models.engine.slot_lane import SlotLane
from soundmill.models.engine.watch import Limits, NobodyWatches
from soundmill.models.ming.codec import Speech, SpeechDecoder
from soundmill.models.ming.config import MingConfig
from soundmill.models.ming.network import MingNetwork
from soundmill.models.ming.rows import Latents, MingPrompt
from soundmill.models.ming.speech import SpeechSlots
from soundmill.models.ming.weights import in_memory, random_tensors

from ..slot_contract import Case, Rows, SlotContract, steps_of
from . import golden
from .driving import as_case, generated
from .golden import LOOP, close

NAMES = [case["name"] for case in golden.cases()]


@pytest.fixture
def device() -> Device:
    return open_device("cpu", threads=1)


def slots_of(device: Device, **options: Any) -> SpeechSlots:
    given: dict[str, Any] = {"context": 320, "max_steps": golden.MAX_PATCHES, "noise": golden.recorded_noise}
    return SpeechSlots(golden.network().generator, device, **(given | options))


def assert_case(index: int, result: Generated[Latents]) -> None:
    expected = golden.case_vectors(index)["latents"].flatten(0, 1)
    assert len(result.value.values) == len(expected)
    assert result.value.stopped == golden.cases()[index]["stopped"]
    close(result.value.values, expected, LOOP)


@pytest.mark.parametrize("index", range(len(NAMES)), ids=NAMES)
def test_every_case_alone_makes_the_latents_of_the_published_program(index: int, device: Device) -> None:
    [result] = generated(slots_of(device), device, [golden.prompt(index)], 1)

    assert_case(index, result)


@pytest.mark.parametrize("slots", [3, 11])
@pytest.mark.parametrize("reproducible", [False, True])
def test_all_cases_in_one_batch_make_the_same(slots: int, reproducible: bool, device: Device) -> None:
    model = slots_of(device, reproducible=reproducible)

    results = generated(model, device, [golden.prompt(index) for index in range(len(NAMES))], slots)

    for index, result in enumerate(results):
        assert_case(index, result)


@pytest.mark.parametrize("index", range(len(NAMES)), ids=NAMES)
def test_every_step_of_a_case_agrees(index: int, device: Device) -> None:
    """What a slot holds after each step: hidden state, history and the next input."""
    expected, model = golden.case_vectors(index), slots_of(device)
    rows = Rows(model, device, 1)
    request = rows.ask(as_case(golden.prompt(index)))
    for step in range(len(expected["latents"])):
        while steps_of(request) <= step:
            rows.turn()
        state = model._state
        close(state.hidden, expected["hidden"][step], LOOP)
        probability = model._generator.stop_probability(state.hidden)
        close(probability, expected["stop_prob"][step : step + 1], LOOP)
        if step < len(expected["next_embeds"]):
            close(state.inputs, expected["next_embeds"][step : step + 1], LOOP)
        if step == len(expected["latents"]) - 2:
            close(state.history[0], expected["history"][1], LOOP)


@pytest.mark.parametrize("index", range(len(NAMES)), ids=NAMES)
def test_prompts_enter_the_backbone_as_in_the_published_program(index: int, device: Device) -> None:
    with torch.inference_mode():
        inputs = slots_of(device)._inputs(golden.prompt(index))

    close(inputs, golden.case_vectors(index)["inputs_embeds"][0], golden.MODULE)


@pytest.mark.parametrize("index", range(len(NAMES)), ids=NAMES)
@pytest.mark.usefixtures("inference")
def test_the_latents_of_a_case_become_its_samples_with_nothing_cut_off(index: int, device: Device) -> None:
    expected = golden.case_vectors(index)
    item: Item[Latents, Speech] = Item(
        payload=Latents(values=expected["latents"].flatten(0, 1), stopped=True)
    )
    decoder = SpeechDecoder(golden.network().decoder, device)
    while not item.done:
        decoder.run([item], 1.0)
    assert item.result is not None
    samples = torch.from_numpy(item.result.samples)

    close(samples, expected["wave_full"], LOOP)
    # Where the model did not stop, the published loop loses the end.
    heard = expected["wave_stream"]
    assert len(heard) == len(samples) or not golden.cases()[index]["stopped"]
    close(samples[: len(heard)], heard, LOOP)


@pytest.mark.parametrize("index", range(len(NAMES)), ids=NAMES)
@pytest.mark.usefixtures("inference")
def test_patches_that_arrive_one_by_one_give_chunks_of_the_same_lengths(index: int) -> None:
    expected, case = golden.case_vectors(index), golden.cases()[index]
    stream = golden.network().decoder.open()
    lengths = []
    for number, patch in enumerate(expected["latents"]):
        last = case["stopped"] and number == len(expected["latents"]) - 1
        stream.push(patch, last=last)
        made = 0
        while stream.waiting:
            made += len(golden.network().decoder.decode([stream], 4)[0])
        lengths.append(made)

    assert lengths == expected["chunk_lens"].tolist()


def other_config() -> MingConfig:
    """Patches of two latents, another look-back, and other sizes everywhere."""
    config = MingConfig.load(golden.CHECKPOINT)
    audio = replace(
        config.audio,
        hop=12,
        frames=2,
        channels=6,
        encoder=replace(config.audio.encoder, width=24, inner=40, heads=3, kv_heads=1, layers=3, window=5),
        encoder_layers=2,
        decoder=replace(config.audio.decoder, width=32, inner=48, layers=2, window=7),
    )
    return replace(
        config,
        llm=replace(config.llm, width=48, inner=64, heads=6, kv_heads=3, layers=3),
        flow=replace(config.flow, width=40, heads=2, inner=80, depth=3),
        aggregator=replace(config.aggregator, width=24, heads=3, inner=72, depth=1),
        audio=audio,
        patch=2,
        look_back=5,
    )


def other_network() -> MingNetwork:
    config = other_config()
    weights = in_memory(random_tensors(config, seed=3), dtype=torch.float32, device="cpu")
    return MingNetwork(weights, config, flow_steps=6)


def test_a_checkpoint_of_other_sizes_works_unchanged(device: Device) -> None:
    network = other_network()
    model = SpeechSlots(network.generator, device, context=64, max_steps=12)
    latents = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    prompts = [
        MingPrompt(
            ids=tuple(range(seed, seed + 9 + seed)),
            guidance=1.5 * seed,
            sigma=0.25,
            temperature=float(seed % 2),
            seed=seed,
            max_patches=7 + seed,
            may_stop=False,
            latents=latents,
            patch_places=tuple(range(5, 9)),
        )
        for seed in range(3)
    ]

    together = generated(model, device, prompts, 3)
    alone = [generated(model, device, [prompt], 1)[0] for prompt in prompts]

    for seed, (left, right) in enumerate(zip(together, alone, strict=True)):
        assert left.value.values.shape == (2 * (7 + seed), 6)
        close(left.value.values, right.value.values, LOOP)
        with torch.inference_mode():
            stream = network.decoder.open(left.value.values)
            pieces = [network.decoder.decode([stream], 3)[0] for _ in range(-(-2 * (7 + seed) // 3))]
        assert sum(map(len, pieces)) == 2 * (7 + seed) * 2 * 12


class TestSpeechSlots(SlotContract):
    """The promises of a slot model; patches are numbers, so equal means within the tolerance of a loop."""

    @pytest.fixture
    def model(self, device: Device) -> SpeechSlots:
        return SpeechSlots(golden.network().generator, device, context=128, max_steps=100)

    def cases(self) -> Sequence[Case]:
        plain = golden.prompt(0, may_stop=False, max_patches=100)
        clone = golden.prompt(2, may_stop=False, max_patches=100)
        sound = golden.prompt(6, max_patches=100)
        return [
            as_case(replace(plain, seed=1), 9),
            as_case(replace(clone, seed=2), 5),
            as_case(replace(sound, seed=3), 10),
            as_case(replace(plain, seed=4, ids=plain.ids[:1], temperature=1.0), 8),
            as_case(replace(plain, seed=2**53 - 1, guidance=0.0), 7),
            as_case(replace(golden.prompt(10), seed=6, max_patches=100), 12),
        ]

    def stops_at_once(self) -> None:
        """A stop counts from the fifth patch on."""

    def stretched(self, case: Case, max_steps: int) -> Case:
        return replace(case, prompt=replace(case.prompt, may_stop=False), max_steps=max_steps)

    def frames(self, released: Latents) -> list[Tensor]:
        return list(released.values.unflatten(0, (-1, 4)))

    def same(self, left: Any, right: Any) -> bool:
        left, right = (
            torch.stack(list(side)) if isinstance(side, Sequence) else side for side in (left, right)
        )
        return bool(left.shape == right.shape and torch.allclose(left, right, **LOOP))


def test_in_bf16_a_reproducible_worker_makes_the_same_bits_in_any_company(device: Device) -> None:
    network = MingNetwork.load(golden.CHECKPOINT, dtype=torch.bfloat16, device="cpu")
    prompts = [replace(golden.prompt(index), seed=index + 1, may_stop=False) for index in (0, 2, 6, 9)]

    def made(chosen: Sequence[MingPrompt]) -> list[Tensor]:
        model = SpeechSlots(network.generator, device, context=320, max_steps=9, reproducible=True)
        lane = SlotLane(
            "model", model, device=device, decoder=None, watch=NobodyWatches(), limits=Limits(),
            late=True, fixed_bucket=True,
        )  # fmt: skip
        with torch.inference_mode():
            lane.open(3)
            requests = [
                SlotRequest(lambda: None, prompt=one, positions=len(one.ids), max_steps=10) for one in chosen
            ]
            lane.waiting.extend(requests)
            while lane.busy:
                lane.turn()
        return [request.result(0).value.values for request in requests]

    together = made(prompts)

    for prompt, values in zip(prompts, together, strict=True):
        assert torch.equal(made([prompt])[0], values)


def test_a_rehearsal_leaves_nothing_behind(device: Device) -> None:
    model = slots_of(device)
    model.reserve(1)
    model.rehearse(1024)

    [result] = generated(model, device, [golden.prompt(0)], 1)

    assert_case(0, result)
    assert not model._prompts
    assert not model._ended


def test_nothing_is_kept_of_rows_that_have_gone(device: Device) -> None:
    model = slots_of(device)
    rows = Rows(model, device, 2)
    requests = [rows.ask(as_case(golden.prompt(index))) for index in (0, 3)]
    rows.turn_until(lambda: steps_of(requests[1]) >= 5)
    requests[1].cancel()  # its last stop is still on its way
    rows.finish()

    assert not model._prompts
    assert not model._ended
