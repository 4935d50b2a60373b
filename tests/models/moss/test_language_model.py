"""The language model against the published one: hidden states, logits, greedy frames, draws."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from soundmill.models.device import Device, open_device
from soundmill.models.engine.sampling import GREEDY, Sampler, Sampling, penalize
from soundmill.models.moss.language_model import LanguageModel, rotation_at
from soundmill.models.moss.linear import best_form
from soundmill.models.moss.slots import MossSlots, Prompt

from ..slot_contract import Case, Rows
from .conftest import load_model, told, vectors

CLOSE = {"atol": 5e-5, "rtol": 1e-4}
GREEDY_CASES = told("tts_greedy")


@pytest.fixture(scope="module", params=["plain", "packed"])
def either(request: pytest.FixtureRequest, folder: Path) -> LanguageModel:
    """The model with its linear layers in either form that computes in fp32."""
    if request.param == "packed" and best_form(torch.device("cpu")) != "packed":
        pytest.skip("oneDNN is not there")
    return load_model(folder, form=request.param)


@torch.inference_mode()
def forward(model: LanguageModel, ids: Tensor, slot: int = 0) -> tuple[list[Tensor], Any]:
    cache = model.cache(400)
    cache.reserve(slot + 1)
    turn = cache.plan(torch.zeros(1, dtype=torch.int64), ids.shape[1], rows=[slot])
    states = model.trunk(model.embed(ids), cache, turn)
    return [*states[:-1], model._global_norm(states[-1])], cache


def test_hidden_states_keys_and_values_are_the_published_ones(either: LanguageModel) -> None:
    golden = vectors("tts_forward")
    ids = golden["single.input_ids"]

    states, cache = forward(either, ids, slot=2)

    for index, state in enumerate(states):
        torch.testing.assert_close(state, golden[f"single.hidden_states.{index}"], **CLOSE)
    for layer in (0, 3):
        for name, stored in (("key", cache.layers[layer].keys), ("value", cache.layers[layer].values)):
            torch.testing.assert_close(stored[2:, : ids.shape[1]], golden[f"single.{name}.{layer}"], **CLOSE)


def test_rows_of_a_padded_batch_are_the_same_without_padding(model: LanguageModel) -> None:
    golden = vectors("tts_forward")

    for row, mask in enumerate(golden["batch.attention_mask"].bool()):
        states, _ = forward(model, golden["batch.input_ids"][row, mask][None])
        torch.testing.assert_close(states[-1][0], golden["batch.global_hidden_states"][row, mask], **CLOSE)


def test_steps_with_a_cache_are_the_published_ones(model: LanguageModel) -> None:
    golden = vectors("tts_kv_decode")
    with torch.inference_mode():
        _, cache = forward(model, golden["prompt_input_ids"])
        cache.place(0, golden["prompt_input_ids"].shape[1])
        for step in range(golden["step_rows"].shape[1]):
            turn = cache.plan_step(1)
            hidden = model.forward(model.embed(golden["step_rows"][:, step : step + 1]), cache, turn)
            cache.advance(1)
            torch.testing.assert_close(hidden[:, 0], golden["step_hidden"][:, step], **CLOSE)


@torch.inference_mode()
def test_a_frame_is_spelled_as_published(either: LanguageModel) -> None:
    golden = vectors("tts_local")
    inputs = golden["local_inputs_embeds"]
    local = either.spell(golden["global_hidden"])

    hidden = [local.first(), *(local.next(inputs[:, place]) for place in range(1, inputs.shape[1]))]

    torch.testing.assert_close(torch.stack(hidden, dim=1), golden["local_hidden"], **CLOSE)
    both = [either.config.assistant_slot, either.config.audio_end]
    torch.testing.assert_close(either.gate_logits(hidden[0]), golden["text_logits"][:, both], **CLOSE)
    for book in range(either.config.codebooks):
        logits = either.audio_logits(hidden[book + 1], book)
        torch.testing.assert_close(logits, golden["audio_logits"][:, book], **CLOSE)
        if book + 1 < either.config.codebooks:
            embedded = either.code_embedding(golden["frame_codes"][:, book], book)
            torch.testing.assert_close(embedded, inputs[:, book + 2])


# -- generation ----------------------------------------------------------------------------------------


def slots_of(model: LanguageModel, device: Device, **options: Any) -> MossSlots:
    given = {"context": 400, "graphs": False, "voices": 2, "longest_prefix": 100} | options
    return MossSlots(model, device, **given)


def greedy_cases(name: str) -> tuple[list[Case], list[Tensor]]:
    golden, info = vectors("tts_greedy"), GREEDY_CASES[name]
    audio = Sampling(temperature=0.0, repetition_penalty=info["audio_repetition_penalty"])
    cases, expected = [], []
    for row, frames in enumerate(info["frames_per_row"]):
        ids = golden[f"{name}.input_ids"][row][golden[f"{name}.attention_mask"][row].bool()]
        prompt = Prompt(rows=ids, codebooks=info["nq"], gate=GREEDY, audio=audio)
        cases.append(Case(prompt=prompt, positions=len(ids), max_steps=info["max_new_frames"]))
        codes = golden[f"{name}.audio_token_ids"][row, :frames]
        expected.append(torch.where(codes == 64, -1, codes))
    return cases, expected


def made(requests: Sequence[Any]) -> list[Tensor]:
    return [request.result(0).value.codes.long() for request in requests]


@pytest.mark.parametrize("name", GREEDY_CASES)
@pytest.mark.parametrize("slots", [1, 4])
def test_greedy_frames_are_the_published_ones_alone_and_together(
    either: LanguageModel, device: Device, name: str, slots: int
) -> None:
    cases, expected = greedy_cases(name)
    rows = Rows(slots_of(either, device), device, slots)
    requests = [rows.ask(case) for case in cases]
    rows.finish()

    for codes, golden in zip(made(requests), expected, strict=True):
        torch.testing.assert_close(codes, golden, rtol=0, atol=0)
    assert [request.result(0).stopped for request in requests] == GREEDY_CASES[name]["natural_stop"]


def test_all_greedy_cases_in_one_batch_are_the_published_ones(model: LanguageModel, device: Device) -> None:
    rows = Rows(slots_of(model, device), device, 3)
    asked = []
    for name in GREEDY_CASES:
        for case, golden in zip(*greedy_cases(name), strict=True):
            asked.append((rows.ask(case), golden))
            rows.turn(2)
    rows.finish()

    for request, golden in asked:
        torch.testing.assert_close(request.result(0).value.codes.long(), golden, rtol=0, atol=0)


def _probabilities(sampler: Sampler, logits: Tensor, seen: Tensor) -> Tensor:
    """What `Sampler.draw` draws from."""
    rules = sampler._rules[: len(logits)]
    logits = penalize(logits, seen, rules[:, 3]) / rules[:, 0, None]
    ranked = sampler._ranked(logits)
    return logits.masked_fill(logits < sampler._threshold(ranked, rules), -torch.inf).softmax(-1)


def _sampler(size: int, rows: int, info: dict[str, Any]) -> Sampler:
    sampler = Sampler(vocabulary=size, device="cpu")
    sampler.reserve(rows)
    sampling = Sampling(
        temperature=info["temperature"], top_k=info["top_k"] or None, top_p=info["top_p"],
        repetition_penalty=info.get("repetition_penalty", 1.0),
    )  # fmt: skip
    for row in range(rows):
        sampler.set(row, sampling)
    return sampler


@pytest.mark.parametrize("info", [i for i in told("tts_sampling") if "case" in i], ids=lambda i: i["case"])
def test_codes_are_drawn_from_the_published_distribution(info: dict[str, Any]) -> None:
    golden, name = vectors("tts_sampling"), f"case{info['case']}"
    logits = golden[f"{name}.logits"]
    rows, size = logits.shape
    previous = golden[f"{name}.previous_token_ids"]
    seen = torch.zeros(rows, size + int(previous.max()) + 1, dtype=torch.bool)
    seen = seen.scatter(1, previous, True)[:, :size]

    found = _probabilities(_sampler(size, rows, info), logits, seen)

    expected = golden[f"{name}.probs"]
    if info["ties"]:
        found, expected = found.sort(-1).values, expected.sort(-1).values
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    greedy = _sampler(size, rows, info | {"temperature": 0.0})
    assert (
        greedy.draw(logits, torch.full((rows,), 0.9), seen=seen).tolist() == golden[f"{name}.greedy"].tolist()
    )


@pytest.mark.parametrize("info", [i for i in told("tts_sampling") if "gate" in i], ids=lambda i: i["gate"])
def test_the_gate_is_drawn_from_the_published_distribution(
    info: dict[str, Any], model: LanguageModel
) -> None:
    golden = vectors("tts_sampling")
    both = [model.config.assistant_slot, model.config.audio_end]
    logits = golden["gate.text_logits"][:, both]

    found = _probabilities(_sampler(2, len(logits), info), logits, torch.zeros_like(logits, dtype=torch.bool))

    torch.testing.assert_close(found, golden[f"gate{info['gate']}.probs_slot_end"], atol=1e-6, rtol=1e-5)


def test_a_tie_at_the_gate_goes_on() -> None:
    sampler = _sampler(2, 1, {"temperature": 0.0, "top_k": 2, "top_p": 1.0})

    assert sampler.draw(torch.zeros(1, 2), torch.tensor([0.99])).tolist() == [0]


# -- what the published code gets wrong ----------------------------------------------------------------


def test_angles_are_exact_at_positions_that_16_bit_cannot_tell_apart(folder: Path) -> None:
    model = load_model(folder, dtype=torch.bfloat16, positions=1024)
    exact, _ = rotation_at(torch.arange(1024, dtype=torch.float32), 16, 10000.0)

    found, _ = model._rope.at(torch.arange(1024)[None])

    torch.testing.assert_close(found.flatten(2).float()[0], exact, atol=4e-3, rtol=0)
    assert not torch.equal(found[0, 301], found[0, 300])


def test_16_bit_hidden_states_point_where_those_of_32_bit_do(folder: Path) -> None:
    golden = vectors("tts_forward")
    states, _ = forward(load_model(folder, dtype=torch.bfloat16), golden["single.input_ids"])

    last = golden["single.hidden_states.4"]
    assert torch.cosine_similarity(states[-1].float(), last, dim=-1).min() > 0.999


def test_8_bit_layers_point_the_same_way_and_a_row_does_not_depend_on_its_neighbours(folder: Path) -> None:
    golden = vectors("tts_forward")
    model = load_model(folder, form="int8")
    states, _ = forward(model, golden["single.input_ids"])
    layer = model._global[0].mlp_in
    x = torch.randn(5, 64) * torch.tensor([1.0, 50.0, 0.01, 0.0, 3.0])[:, None]

    similar = torch.cosine_similarity(states[-1], golden["single.hidden_states.4"], dim=-1)
    assert similar.min() > 0.99
    with torch.inference_mode():
        together = layer(x)
        for row in range(len(x)):
            torch.testing.assert_close(together[row], layer(x[row : row + 1])[0], rtol=0, atol=0)


@pytest.mark.parametrize(("form", "rows", "expected"), [("int8", 1, 1), ("int8", 5, 2), ("packed", 1, 2)])
def test_a_step_of_few_8_bit_rows_takes_one_thread_and_leaves_the_others_as_they_were(
    folder: Path, monkeypatch: pytest.MonkeyPatch, form: str, rows: int, expected: int
) -> None:
    model, device = load_model(folder, form=form), open_device("cpu", threads=2)
    seen: list[int] = []
    forward = LanguageModel.forward

    def noted(*given: Any) -> Tensor:
        seen.append(torch.get_num_threads())
        return forward(*given)

    monkeypatch.setattr(LanguageModel, "forward", noted)
    try:
        slots = slots_of(model, device)
        slots.reserve(rows)
        slots.step(rows, []).read()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)

    assert seen == [expected]


# -- other sizes ---------------------------------------------------------------------------------------


def other_checkpoint(folder: Path) -> Path:
    """A random checkpoint with other sizes, uneven codebooks among them."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    sizes, hidden, inner, books = [20, 12, 30], 48, 80, 3
    raw = {
        "model_type": "moss_tts_nano", "n_vq": books, "audio_vocab_size": 30, "audio_codebook_sizes": sizes,
        "audio_pad_token_id": 31, "pad_token_id": 0, "im_start_token_id": 11, "im_end_token_id": 12,
        "audio_start_token_id": 13, "audio_end_token_id": 14, "audio_user_slot_token_id": 15,
        "audio_assistant_slot_token_id": 16, "audio_tokenizer_sample_rate": 1000,
        "local_transformer_layers": 2,
        "gpt2_config": {"n_embd": hidden, "n_head": 3, "n_layer": 2, "n_inner": inner, "n_positions": 300,
                        "vocab_size": 50, "position_embedding_type": "rope", "rope_base": 500.0,
                        "scale_attn_by_inverse_layer_idx": True},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(raw))
    shapes: dict[str, tuple[int, ...]] = {"transformer.wte.weight": (50, hidden)}
    shapes |= {f"audio_embeddings.{k}.weight": (size, hidden) for k, size in enumerate(sizes)}
    for stack, layers in (("transformer", 2), ("local_transformer", 2)):
        shapes |= {f"{stack}.ln_f.{part}": (hidden,) for part in ("weight", "bias")}
        for layer in range(layers):
            block = f"{stack}.h.{layer}"
            shapes |= {f"{block}.{n}.{p}": (hidden,) for n in ("ln_1", "ln_2") for p in ("weight", "bias")}
            for name, out, into in (
                ("attn.c_attn", 3 * hidden, hidden), ("attn.c_proj", hidden, hidden),
                ("mlp.fc_in", inner, hidden), ("mlp.fc_out", hidden, inner),
            ):  # fmt: skip
                shapes |= {f"{block}.{name}.weight": (out, into), f"{block}.{name}.bias": (out,)}
    generator = torch.Generator().manual_seed(5)
    tensors = {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_another_checkpoint_with_other_sizes_works_unchanged(tmp_path: Path, device: Device) -> None:
    model = load_model(other_checkpoint(tmp_path / "other"), positions=120)
    slots = slots_of(model, device, context=100, longest_prefix=10)
    draws = Sampling(temperature=1.0, top_k=9, top_p=0.9, repetition_penalty=1.1)
    rows = torch.full((12, 4), 31)
    rows[:, 0] = torch.arange(20, 32)
    rows[4:7, 1:] = torch.tensor([[19, 11, 29], [0, 0, 0], [3, 31, 31]])
    cases = [
        Case(prompt=Prompt(rows=rows, codebooks=books, audio=draws, seed=books), positions=12, max_steps=9)
        for books in (1, 2, 3)
    ]
    together = Rows(slots, device, 4)
    requests = [together.ask(case) for case in cases]
    together.finish()

    for case, request, books in zip(cases, requests, (1, 2, 3), strict=True):
        codes = request.result(0).value.codes
        for book, size in enumerate((20, 12, 30)):
            assert (codes[:, book] < size).all()
            assert ((codes[:, book] >= 0) == (book < books)).all()
        alone = Rows(slots, device, 1)
        again = alone.ask(replace(case))
        alone.finish()
        assert torch.equal(again.result(0).value.codes, codes)
