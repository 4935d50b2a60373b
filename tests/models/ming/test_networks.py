from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from soundmill.models.errors import ModelUnavailable
from soundmill.models.ming.config import MingConfig
from soundmill.models.ming.flow import FlowHead, time_features
from soundmill.models.ming.layout import FLOW, layout, unread
from soundmill.models.ming.network import MingNetwork
from soundmill.models.ming.schedule import raw_times, times
from soundmill.models.ming.weights import opened

from . import golden
from .golden import LOOP, MODULE, close, vectors

pytestmark = pytest.mark.usefixtures("inference")


def flow_head(steps: int) -> FlowHead:
    config = MingConfig.load(golden.CHECKPOINT)
    with opened(golden.CHECKPOINT, config, dtype=torch.float32, device="cpu") as weights:
        return FlowHead(weights.under(FLOW), config, steps)


def test_the_file_holds_exactly_the_tensors_of_the_layout() -> None:
    config = MingConfig.load(golden.CHECKPOINT)
    stored = load_file(golden.CHECKPOINT / "model.safetensors")

    assert {name: tuple(tensor.shape) for name, tensor in stored.items()} == layout(config)
    assert unread(config) <= layout(config).keys()


def test_the_published_sizes_give_the_published_number_of_tensors_and_elements() -> None:
    content = json.loads((golden.CHECKPOINT / "config.json").read_text())
    stack = {
        "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
        "num_attention_heads": 14, "num_key_value_heads": 2, "sliding_window": 64,
    }  # fmt: skip
    blocks = {"hidden_size": 1024, "depth": 8, "num_heads": 16}
    content["llm_config"] |= stack | {"vocab_size": 151936}
    content["ditar_config"] |= blocks
    content["aggregator_config"] |= blocks
    audio = content["audio_tokenizer_config"]
    audio["enc_kwargs"] |= {"hop_size": 882, "input_dim": 882, "latent_dim": 64}
    audio["dec_kwargs"] |= {"output_dim": 882, "latent_dim": 64}
    audio["enc_kwargs"]["backbone"] |= stack
    audio["dec_kwargs"]["backbone"] |= stack

    shapes = layout(MingConfig.parse(content))

    assert len(shapes) == 1181
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == 1_615_589_524


def test_the_backbone_agrees_with_and_without_embedding() -> None:
    backbone, expected = golden.network().generator.backbone, vectors("backbone")

    hidden = backbone(input_ids=expected["input_ids"]).last_hidden_state
    close(hidden, expected["ids_hidden"], MODULE)
    close(hidden @ backbone.embed_tokens.weight.T, expected["ids_logits"], MODULE)
    fed = backbone(inputs_embeds=expected["inputs_embeds"]).last_hidden_state
    close(fed, expected["embeds_hidden_cached"], MODULE)


def test_the_language_model_goes_on_with_the_same_tokens() -> None:
    backbone, expected = golden.network().generator.backbone, vectors("text_mode")
    ids = expected["prompt_ids"]

    for token in expected["greedy_ids"][0]:
        hidden = backbone(input_ids=ids).last_hidden_state[0, -1]
        assert (hidden @ backbone.embed_tokens.weight.T).argmax() == token
        ids = torch.cat((ids, token.view(1, 1)), dim=1)


def test_aggregator_and_speaker_head_agree() -> None:
    generator, expected = golden.network().generator, vectors("heads")

    close(generator.aggregator(expected["agg_in"]), expected["agg_out"][:, 0], MODULE)
    close(generator.speaker_inputs(expected["spk_in"]), expected["spk_out"], MODULE)


def test_the_velocity_agrees_with_and_without_condition_at_any_time() -> None:
    net, expected = flow_head(10).net, vectors("dit")
    close(time_features(expected["t"]), expected["time_embed_sin"], MODULE)
    close(net.embed_times(expected["t"]), expected["time_embed"], MODULE)
    net.time_vectors = net.embed_times(expected["t"])  # step k stands for the time of row k

    shared = net.prepare(expected["c"][:, 0], expected["history"])
    rows = [net(shared, row, expected["x"])[:, row] for row in range(2)]

    close(torch.stack([both[0] for both in rows]), expected["velocity"], MODULE)
    close(torch.stack([both[1] for both in rows]), expected["velocity_null"], MODULE)


def test_guidance_mixes_both_velocities() -> None:
    net, expected = flow_head(10).net, vectors("dit")
    net.time_vectors = net.embed_times(expected["t_scalar"])

    both = net(net.prepare(expected["c"][:, 0], expected["history"]), 0, expected["x"])

    close(both[0] + 2 * (both[0] - both[1]), expected["velocity_cfg2"], MODULE)


def test_all_positions_of_the_network_agree_when_nothing_is_saved() -> None:
    net, expected = flow_head(10).net, vectors("dit")
    first = net.embed_times(expected["t"]) + net.condition(expected["c"][:, 0])
    tokens = torch.cat((first[:, None], net.entry(expected["history"]), net.entry(expected["x"])), dim=1)
    for block in net.blocks:
        tokens = block.finish(tokens, *block.project(tokens, net.turn))

    close(net.output(tokens), expected["out_all"], MODULE)


@pytest.mark.parametrize("steps", [4, 5, 6, 7, 8, 10, 12, 16])
def test_the_times_of_the_solver_agree(steps: int) -> None:
    expected = vectors("flow")

    close(torch.tensor(raw_times(steps)), expected[f"grid_raw_{steps}"], {"atol": 1e-7, "rtol": 0})
    close(torch.tensor(times(steps)), expected[f"grid_{steps}"], {"atol": 1e-7, "rtol": 0})


@pytest.mark.parametrize(
    ("name", "steps", "guidance", "sigma", "temperature"),
    [
        ("det", 10, 2.0, 0.25, 0.0),
        ("sde", 10, 4.5, 0.3, 2.5),
        ("det7", 7, 1.5, 0.25, 0.0),
        ("det8", 8, 2.0, 0.25, 0.0),
    ],
)
def test_the_solver_agrees(name: str, steps: int, guidance: float, sigma: float, temperature: float) -> None:
    expected = vectors("flow")

    found = solve(flow_head(steps), guidance, sigma * temperature**0.5)

    close(found, expected[f"out_{name}"], LOOP)


def solve(head: FlowHead, guidance: float, spread: float, **options: bool) -> Tensor:
    """Both rows of the flow vectors, with the noise that belongs to them."""
    given = vectors("flow")
    initial = given["init_noise"].transpose(1, 2)
    noise = torch.zeros(2, head.noises, *initial.shape[1:])
    noise[:, 0] = initial
    if spread:
        noise[:, 1:] = given["step_noise_sde"][:-1].transpose(0, 1)
    rows = torch.full((2,), guidance), torch.full((2,), spread)
    found: Tensor = head(given["c"][:, 0], given["history"], noise, *rows, **options)
    return found


def test_without_guidance_the_branch_without_condition_is_left_out_and_changes_nothing() -> None:
    head = flow_head(10)

    close(solve(head, 0.0, 0.0, guided=False), solve(head, 0.0, 0.0), MODULE)


def test_a_guidance_of_one_lies_between_none_and_two() -> None:
    head = flow_head(1)  # one step is linear in the guidance

    none, one, two = (solve(head, guidance, 0.0) for guidance in (0.0, 1.0, 2.0))

    close(one, (none + two) / 2, MODULE)


def broken(tmp_path: Path, change: str) -> Path:
    """A copy of the checkpoint with something wrong."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(golden.CHECKPOINT, folder)
    tensors = dict(load_file(folder / "model.safetensors"))
    if change == "missing":
        del tensors["stop_head.weight"]
    elif change == "shape":
        tensors["stop_head.weight"] = torch.zeros(3, 64)
    save_file(tensors, folder / "model.safetensors")
    if change == "damaged":
        (folder / "model.safetensors").write_bytes(b"no tensors")
    if change == "config":
        (folder / "config.json").write_text('{"model_type": "dense"}')
    return folder


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("missing", "lacks 1 tensors that config.json asks for: stop_head.weight"),
        ("shape", r"stop_head.weight is \[3, 64\], not \[2, 64\]"),
        ("damaged", "cannot be read; download the checkpoint again"),
        ("config", "config.json is not that of a Ming-omni-tts checkpoint"),
    ],
)
def test_a_checkpoint_that_is_not_whole_says_what_is_wrong(tmp_path: Path, change: str, words: str) -> None:
    with pytest.raises(ModelUnavailable, match=words):
        MingNetwork.load(broken(tmp_path, change), dtype=torch.float32, device="cpu")


def test_no_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="give the folder of a Ming-omni-tts checkpoint"):
        MingNetwork.load(tmp_path, dtype=torch.float32, device="cpu")
