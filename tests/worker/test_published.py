"""What the catalogue says of published checkpoints agrees with the code that loads them."""

from __future__ import annotations

import math

import pytest

from soundmill.storage.catalog import BUILT_IN, Model, load_catalog
from soundmill.storage.published import CAPTIONER, CSM, MING, MOSS, MOSS_CODEC

pytest.importorskip("torch")


def sizes_of(model: str) -> tuple[int | None, int]:
    entry = load_catalog().get(model)
    assert entry.memory_bytes is not None
    return entry.parameters, entry.memory_bytes


def test_the_size_of_csm() -> None:
    from soundmill.models.csm.checkpoint import parameters
    from soundmill.models.csm.published import published_config

    config = published_config()
    total, memory = sizes_of("csm-1b")
    assert total == parameters(config)
    codec = 79_308_609  # of `model.codec_model`, which stays fp32
    assert memory == pytest.approx(2 * (parameters(config) - codec) + 4 * codec, rel=0.01)


def test_the_size_of_the_aligner() -> None:
    from soundmill.models.aligner.checkpoint import parameters
    from soundmill.models.aligner.published import published_config

    total, memory = sizes_of("mms-300m-aligner")
    assert total == parameters(published_config())
    assert memory == pytest.approx(4 * parameters(published_config()), rel=0.01)


def test_the_size_of_the_captioner() -> None:
    """Of what is loaded; the catalogue's number of parameters is that of the whole folder."""
    from soundmill.models.captioner.published import SHAPE
    from soundmill.models.captioner.weights import parameters

    assert sizes_of("acestep-captioner")[1] == pytest.approx(2 * parameters(SHAPE), rel=0.01)


def test_the_size_of_moss() -> None:
    from soundmill.models.moss.config import CodecConfig, LanguageConfig
    from soundmill.models.moss.published import CODEC, LANGUAGE
    from soundmill.models.moss.random_weights import parameters

    language, codec = parameters(LanguageConfig.parse(LANGUAGE), CodecConfig.parse(CODEC))
    total, memory = sizes_of("moss-tts-nano-100m")
    assert total == language + codec
    assert memory == pytest.approx(2 * language + 4 * codec, rel=0.01)


def test_the_size_of_ming() -> None:
    from soundmill.models.ming.config import MingConfig
    from soundmill.models.ming.layout import layout, unread
    from soundmill.models.ming.published import content

    config = MingConfig.parse(content())
    numbers = {name: math.prod(shape) for name, shape in layout(config).items()}
    total, memory = sizes_of("ming-omni-tts-0.5b")
    assert total == sum(numbers.values()) - numbers["model.lm_head.weight"]
    loaded = {name: count for name, count in numbers.items() if name not in unread(config)}
    wanted = sum(count * (4 if name.startswith("audio.") else 2) for name, count in loaded.items())
    assert memory == pytest.approx(wanted, rel=0.01)
    # The file is as large as its tensors, in bf16, and a header.
    weights = MING.weights[0][0].bytes
    assert weights is not None
    assert 0 < weights - 2 * sum(numbers.values()) < 300_000


def test_the_parts_of_the_captioner_are_those_that_are_read() -> None:
    from soundmill.models.captioner.checkpoint import AUDIO, HEAD, INDEX, TEXT

    assert CAPTIONER.tensors == (TEXT, HEAD, AUDIO)
    assert CAPTIONER.index == INDEX


def test_the_files_of_csm_are_those_that_are_looked_for() -> None:
    from soundmill.models.csm.folder import PUBLISHED_INDEX

    assert CSM.weights[0][0].name == PUBLISHED_INDEX
    sizes = [file.bytes for file in CSM.weights[0][1:]]
    parameters = load_catalog().get("csm-1b").parameters
    assert parameters is not None
    assert sum(filter(None, sizes)) > 4 * parameters


def test_the_codec_of_moss_is_looked_for_where_a_pull_puts_it() -> None:
    from soundmill.models.moss.folders import CODEC_NAME
    from soundmill.models.moss.handler import TOKENIZER_FILE

    assert MOSS_CODEC.folder == CODEC_NAME
    assert TOKENIZER_FILE in {file.name for file in MOSS.files if file.needed}


@pytest.mark.parametrize(
    "model", [model for model in BUILT_IN if model.has_weights], ids=lambda model: model.id
)
def test_every_model_with_weights_can_be_fetched_and_examined(model: Model) -> None:
    assert model.repositories
    assert model.checks
    assert model.parameters
    assert model.memory_bytes
    assert model.languages or model.more_languages
    assert all(repository.names["huggingface"] for repository in model.repositories)
