"""CSM as a slot model: the golden vectors, other sizes, and the contract of all slot models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from soundmill.models.csm.checkpoint import Checkpoint
from soundmill.models.csm.choice import Choice
from soundmill.models.csm.prompt import Prompt, Prompter
from soundmill.models.csm.sizes import Sizes
from soundmill.models.csm.speaker import Frames, Speaker
from soundmill.models.device import Device
from soundmill.models.engine.ports import Row
from soundmill.models.engine.request import SlotRequest
from soundmill.models.engine.sampling import GREEDY, Sampling

from ..slot_contract import Case, Rows, SlotContract
from .tiny import tiny_csm

MOST = 64
GOLDEN = ("text0", "text1", "text2", "text3", "ctx")


def case_of(prompt: Prompt, max_steps: int = MOST) -> Case:
    return Case(prompt=prompt, positions=len(prompt), max_steps=max_steps)


def codes_of(request: SlotRequest) -> Any:
    """With the frame that ended it, as the golden vectors have it."""
    return request.result(0).value.codes.numpy()


def expected_codes(golden: Mapping[str, Any], case: str) -> Any:
    return golden["ctx_codes_out" if case == "ctx" else f"{case}_codes"]


@pytest.fixture(params=[True, False], ids=["fused", "modules"])
def speaker(request: pytest.FixtureRequest, checkpoint: Checkpoint, device: Device) -> Speaker:
    return Speaker(checkpoint.model, checkpoint.sizes, device, graphs=False, fused=request.param)


# -- what transformers makes ---------------------------------------------------------------------------


@pytest.mark.parametrize("case", GOLDEN)
def test_a_row_alone_makes_the_golden_codes(
    speaker: Speaker,
    device: Device,
    golden: Mapping[str, Any],
    golden_prompts: Mapping[str, Prompt],
    case: str,
) -> None:
    rows = Rows(speaker, device, 1)
    request = rows.ask(case_of(golden_prompts[case]))
    rows.finish()

    assert request.result(0).stopped
    np.testing.assert_array_equal(codes_of(request), expected_codes(golden, case))


@pytest.mark.parametrize(
    ("fused", "slots", "order"),
    [
        (True, 2, GOLDEN),
        (True, 3, GOLDEN[::-1]),
        (True, 8, ("ctx", "text2", "text0", "text3", "text1")),
        (False, 3, ("text1", "ctx", "text3", "text0", "text2")),
    ],
)
def test_rows_together_make_the_golden_codes_in_any_order_of_joining(
    checkpoint: Checkpoint,
    device: Device,
    golden: Mapping[str, Any],
    golden_prompts: Mapping[str, Prompt],
    fused: bool,
    slots: int,
    order: Sequence[str],
) -> None:
    rows = Rows(Speaker(checkpoint.model, checkpoint.sizes, device, graphs=False, fused=fused), device, slots)
    requests = {}
    for place, case in enumerate(order):
        requests[case] = rows.ask(case_of(golden_prompts[case]))
        rows.turn(place * 2)
    rows.finish()

    for case, request in requests.items():
        np.testing.assert_array_equal(codes_of(request), expected_codes(golden, case), err_msg=case)


def test_the_backbone_state_and_all_logits_are_the_golden_ones(
    checkpoint: Checkpoint, device: Device, golden: Mapping[str, Any], golden_prompts: Mapping[str, Prompt]
) -> None:
    seen = _Seen(checkpoint.sizes, device)
    speaker = Speaker(checkpoint.model, checkpoint.sizes, device, graphs=False)
    speaker._choice = seen
    rows = Rows(speaker, device, 1)
    seen.logits.clear()
    rows.ask(case_of(golden_prompts["text0"], max_steps=1))
    rows.finish()

    count = checkpoint.sizes.codes
    np.testing.assert_allclose(seen.logits[0], golden["text0_cb0_logits"][:count], atol=1e-3)
    depth = np.stack(seen.logits[1 : checkpoint.sizes.codebooks])
    np.testing.assert_allclose(depth, golden["text0_depth_logits_frame0"][:, :count], atol=1e-3)


class _Seen(Choice):
    """Notes the logits of the first row."""

    def __init__(self, sizes: Sizes, device: Device) -> None:
        super().__init__(codes=sizes.codes, max_top_k=50, device=device.torch_device)
        self.logits: list[Any] = []

    def code(self, logits: torch.Tensor, chance: torch.Tensor) -> torch.Tensor:
        self.logits.append(logits[0].numpy().copy())
        return super().code(logits, chance)


def test_samples_follow_the_golden_distribution(checkpoint: Checkpoint, golden: Mapping[str, Any]) -> None:
    count = 20_000
    ids = checkpoint.sizes.ids  # the reserved ones too, as transformers has them
    choice = Choice(codes=ids, max_top_k=64, device="cpu")
    choice.reserve(1)
    choice.set(0, Sampling(temperature=0.9, top_k=50))
    for name in ("_sharpness", "_last", "_chance"):
        setattr(choice, name, getattr(choice, name).expand(count, 1))
    logits = torch.from_numpy(golden["text0_cb0_logits"]).expand(count, -1)
    uniforms = (torch.arange(count)[:, None] + 0.5) / count  # as even as can be
    drawn = choice.code(logits, choice.chances(uniforms))

    shares = torch.bincount(drawn, minlength=ids) / count
    np.testing.assert_allclose(shares, golden["text0_cb0_probs_T0.9_top50"], atol=2 / count)


@pytest.mark.parametrize("fused", [True, False])
def test_a_frame_that_ends_in_all_codebooks_but_the_last_ends_the_row(
    device: Device, golden: Mapping[str, Any], golden_prompts: Mapping[str, Prompt], fused: bool
) -> None:
    from soundmill.models.csm.checkpoint import load_checkpoint

    from .conftest import FOLDER

    checkpoint = load_checkpoint(FOLDER, device="cpu", dtype=torch.float32)
    checkpoint.model.depth_decoder.codebooks_head.weight.data[-1][:, 0] = 0
    rows = Rows(Speaker(checkpoint.model, checkpoint.sizes, device, graphs=False, fused=fused), device, 2)
    request = rows.ask(case_of(golden_prompts["text3"]))
    rows.finish()

    result = request.result(0)
    np.testing.assert_array_equal(codes_of(request), golden["eos31_codes"])
    assert (result.stopped, result.steps, result.value.ended) == (True, 2, True)


# -- other sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "modules"])
def test_another_checkpoint_of_12_codebooks_and_131_ids_makes_what_generate_makes(
    device: Device, fused: bool
) -> None:
    model = tiny_csm(codebooks=12, ids=131)
    sizes = Sizes.of(model.config)
    assert (sizes.codebooks, sizes.ids, sizes.codes) == (12, 131, 128)
    prompts = [
        Prompt(
            text=torch.arange(length) % 29 + 3,
            codes=torch.zeros((length, 12), dtype=torch.int64),
            audio=torch.zeros(length, dtype=torch.bool),
            sampling=GREEDY,
            seed=0,
        )
        for length in (5, 17, 2)
    ]
    wanted = [
        model.generate(
            input_ids=prompt.text[None],
            max_new_tokens=10,
            do_sample=False,
            depth_decoder_do_sample=False,
            output_audio=False,
        )[0].numpy()
        for prompt in prompts
    ]
    rows = Rows(Speaker(model, sizes, device, graphs=False, fused=fused), device, 2)
    requests = []
    for prompt in prompts:
        requests.append(rows.ask(case_of(prompt, max_steps=10)))
        rows.turn()
    rows.finish()

    for request, codes in zip(requests, wanted, strict=True):
        np.testing.assert_array_equal(codes_of(request), codes)


@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_reserved_ids_never_come(checkpoint: Checkpoint, device: Device, temperature: float) -> None:
    model = tiny_csm(codebooks=4, ids=35)  # codes 0 to 31, and three reserved ids
    with torch.no_grad():
        model.lm_head.weight[32:] *= 1000
        model.depth_decoder.codebooks_head.weight[:, :, 32:] *= 1000
    sizes = Sizes.of(model.config)
    rows = Rows(Speaker(model, sizes, device, graphs=False), device, 4)
    prompt = Prompt(
        text=torch.arange(6),
        codes=torch.zeros((6, 4), dtype=torch.int64),
        audio=torch.zeros(6, dtype=torch.bool),
        sampling=Sampling(temperature=temperature, top_k=50),
        seed=1,
    )
    requests = [rows.ask(case_of(replace(prompt, seed=seed), max_steps=30)) for seed in range(4)]
    rows.finish()

    assert max(codes_of(request).max() for request in requests) < 32


def test_logits_that_are_no_numbers_choose_a_code_that_exists() -> None:
    choice = Choice(codes=8, max_top_k=4, device="cpu")
    choice.reserve(3)
    for slot in range(3):
        choice.set(slot, Sampling(temperature=1.0, top_k=4))
    logits = torch.tensor([[float("nan")] * 8, [float("inf")] * 8, [float("-inf")] * 8])

    codes = choice.code(logits, choice.chances(torch.full((3, 1), 1 - 2**-23)))
    assert codes.tolist() == [0, 0, 0]


# -- memory --------------------------------------------------------------------------------------------


def test_a_slot_costs_what_is_said(checkpoint: Checkpoint, device: Device) -> None:
    speaker = Speaker(checkpoint.model, checkpoint.sizes, device, graphs=False)
    before, after = _bytes(speaker, 2), _bytes(speaker, 4)

    assert after - before == 2 * speaker.bytes_per_slot


def _bytes(speaker: Speaker, slots: int) -> int:
    speaker.reserve(slots)
    tensors: dict[int, int] = {}
    _collect(speaker, slots, tensors, set())
    return sum(tensors.values())


def _collect(thing: Any, slots: int, tensors: dict[int, int], seen: set[int]) -> None:
    if id(thing) in seen or isinstance(thing, torch.nn.Module):
        return
    seen.add(id(thing))
    if isinstance(thing, torch.Tensor):
        # `arange`s that number the slots are the index of all, not the state of one.
        if thing.dim() and thing.shape[0] == slots and not torch.equal(thing, torch.arange(slots)):
            tensors[thing.data_ptr()] = thing.numel() * thing.itemsize
    elif isinstance(thing, list | tuple):
        for item in thing:
            _collect(item, slots, tensors, seen)
    elif type(thing).__module__.startswith("soundmill.models.") and hasattr(thing, "__dict__"):
        for item in vars(thing).values():
            _collect(item, slots, tensors, seen)


def test_a_rehearsal_leaves_nothing_behind(
    checkpoint: Checkpoint, device: Device, golden: Mapping[str, Any], golden_prompts: Mapping[str, Prompt]
) -> None:
    speaker = Speaker(checkpoint.model, checkpoint.sizes, device, graphs=False)
    speaker.reserve(1)
    speaker.rehearse(100)
    rows = Rows(speaker, device, 1)
    request = rows.ask(case_of(golden_prompts["text3"]))
    rows.finish()

    np.testing.assert_array_equal(codes_of(request), golden["text3_codes"])


def test_bf16_with_fixed_shapes_does_not_depend_on_the_company(
    checkpoint: Checkpoint, device: Device
) -> None:
    model = tiny_csm(codebooks=4, ids=35).to(torch.bfloat16)
    sizes = Sizes.of(model.config)
    prompts = [
        Prompt(
            text=torch.arange(length) % 29,
            codes=torch.zeros((length, 4), dtype=torch.int64),
            audio=torch.zeros(length, dtype=torch.bool),
            sampling=Sampling(temperature=0.9, top_k=20),
            seed=length,
        )
        for length in (3, 300, 41, 7)
    ]

    def run(chosen: Sequence[int]) -> dict[int, Any]:
        speaker = Speaker(model, sizes, device, graphs=False, fixed_shapes=True, context=512)
        rows = Rows(speaker, device, 4)
        rows.lane._fixed = True
        requests = {number: rows.ask(case_of(prompts[number], max_steps=12)) for number in chosen}
        rows.finish()
        return {number: codes_of(request) for number, request in requests.items()}

    together = run([0, 1, 2, 3])
    for number in together:
        np.testing.assert_array_equal(run([number])[number], together[number])


# -- the contract --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Steered(Prompt):
    """A prompt whose row never ends by itself (minus infinity), or ends at once (a large number)."""

    end: float


class SteeredSpeaker(Speaker):
    """Adds to the logit of the end in the first codebook what the prompt says."""

    def reserve(self, slots: int) -> None:
        super().reserve(slots)
        kept = getattr(self, "ends", torch.zeros(0))[:slots]
        self.ends = torch.cat([kept, torch.zeros(slots - len(kept))])

    def _seat(self, row: Row[Prompt]) -> None:
        super()._seat(row)
        self.ends[row.slot] = row.prompt.end if isinstance(row.prompt, Steered) else 0.0

    def _first_logits(self, state: torch.Tensor) -> torch.Tensor:
        logits = super()._first_logits(state)
        return torch.cat([logits[:, :1] + self.ends[: len(logits), None], logits[:, 1:]], 1)

    def move(self, source: int, target: int) -> None:
        super().move(source, target)
        self.ends[target] = self.ends[source]


def steered(prompt: Prompt, end: float) -> Steered:
    return Steered(
        text=prompt.text, codes=prompt.codes, audio=prompt.audio, sampling=prompt.sampling, seed=prompt.seed, end=end
    )  # fmt: skip


class TestContract(SlotContract):
    """Sampled and greedy conversations of a tiny CSM."""

    @pytest.fixture
    def model(self, checkpoint: Checkpoint, device: Device) -> Speaker:
        return SteeredSpeaker(checkpoint.model, checkpoint.sizes, device, graphs=True, context=160)

    @pytest.fixture(autouse=True)
    def _prompts(self, prompter: Prompter, golden_prompts: Mapping[str, Prompt]) -> None:
        self.prompter, self.golden = prompter, golden_prompts

    def _spoken(self, text: str, seed: int, max_steps: int, **sampling: Any) -> Case:
        rules = Sampling(**({"temperature": 0.9, "top_k": 50} | sampling))
        prompt = self.prompter.prompt([], seed % 3, text, sampling=rules, seed=seed)
        return case_of(steered(prompt, -torch.inf), max_steps)

    def cases(self) -> Sequence[Case]:
        talk = replace(self.golden["ctx"], sampling=Sampling(temperature=1.2, top_k=5))
        return [
            self._spoken("Good morning.", 1, 10),
            case_of(self.golden["text2"], 20),
            case_of(steered(talk, -torch.inf), 6),
            self._spoken("x", 2**53 - 1, 8, temperature=0.7),
            case_of(self.golden["text0"], 9),
            self._spoken("And so it goes on, for a while.", 5, 7),
            self._spoken("Yes?", 6, 5, top_k=1),
        ]

    def stops_at_once(self) -> Case:
        # In this checkpoint an end in the first codebook pulls the other ones along.
        return case_of(steered(self.golden["text1"], 1e6))

    def stretched(self, case: Case, max_steps: int) -> Case:
        return replace(case, prompt=steered(case.prompt, -torch.inf), max_steps=max_steps)

    def frames(self, released: Frames) -> list[list[int]]:
        codes: list[list[int]] = released.codes.tolist()
        return codes[:-1] if released.ended and not any(codes[-1]) else codes
