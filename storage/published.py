"""The published checkpoints: repositories, files, sizes.

Sizes without `exact=False` are those of the published files: Ming's from a copy of its repository, the
tokenizer's of MOSS from the file, CSM's from a listing. The others follow from numbers of parameters.
"""

from __future__ import annotations

from .repository import PublishedFile, Repository

_README = PublishedFile(name="README.md", needed=False)
_LICENCE = PublishedFile(name="LICENSE", needed=False)
_CONFIG = PublishedFile(name="config.json")
_SINGLE = (PublishedFile(name="model.safetensors"),)

CSM = Repository(
    what="model and codec",
    names={"huggingface": ("sesame/csm-1b",), "modelscope": ("sesameAILabs/csm-1b",)},
    files=(
        PublishedFile(name="config.json", bytes=3280),
        PublishedFile(name="tokenizer.json", bytes=17_209_980),
        PublishedFile(name="tokenizer_config.json", bytes=50_563),
        PublishedFile(name="special_tokens_map.json", bytes=449, needed=False),
        PublishedFile(name="generation_config.json", bytes=264, needed=False),
        _README,
        _LICENCE,
    ),
    # `model.safetensors` beside these holds other names for the same: the layout of the original program.
    weights=(
        (
            PublishedFile(name="transformers.safetensors.index.json", bytes=59_730),
            PublishedFile(name="transformers-00001-of-00002.safetensors", bytes=4_944_026_784),
            PublishedFile(name="transformers-00002-of-00002.safetensors", bytes=2_189_474_180),
        ),
        (PublishedFile(name="transformers*.safetensors*"),),
        (PublishedFile(name="model.safetensors.index.json"), PublishedFile(name="model-*.safetensors")),
        _SINGLE,
    ),
)

MOSS = Repository(
    what="language model",
    names={
        "huggingface": ("OpenMOSS-Team/MOSS-TTS-Nano-100M", "OpenMOSS-Team/MOSS-TTS-Nano"),
        "modelscope": ("openmoss/MOSS-TTS-Nano-100M", "openmoss/MOSS-TTS-Nano"),
    },
    files=(
        _CONFIG,
        PublishedFile(name="tokenizer.model", bytes=470_897),
        _README,
        _LICENCE,
    ),
    weights=(
        (PublishedFile(name="model.safetensors.index.json"), PublishedFile(name="model-*.safetensors")),
        _SINGLE,
    ),
    pickle=PublishedFile(name="pytorch_model.bin", bytes=234_700_000, exact=False),
    pickled=True,
)

MOSS_CODEC = Repository(
    what="codec",
    names={
        "huggingface": ("OpenMOSS-Team/MOSS-Audio-Tokenizer-Nano",),
        "modelscope": ("openmoss/MOSS-Audio-Tokenizer-Nano",),
    },
    files=(_CONFIG, _README, _LICENCE),
    weights=(
        (
            PublishedFile(name="model.safetensors.index.json"),
            PublishedFile(name="model-*.safetensors", bytes=87_900_000, exact=False),
        ),
        _SINGLE,
    ),
    folder="MOSS-Audio-Tokenizer-Nano",
    setting="codec",
    also_at=("codec", "../MOSS-Audio-Tokenizer-Nano"),
)

MING = Repository(
    what="model, audio codec and speaker network",
    names={
        "huggingface": ("inclusionAI/Ming-omni-tts-0.5B",),
        "modelscope": ("inclusionAI/Ming-omni-tts-0.5B",),
    },
    files=(
        _CONFIG,
        PublishedFile(name="tokenizer.json", bytes=11_431_389),
        # Only voices of clips need it.
        PublishedFile(name="campplus.onnx", bytes=28_303_423, needed=False),
        _README,
        _LICENCE,
    ),
    weights=((PublishedFile(name="model.safetensors", bytes=3_231_324_920),),),
)

CAPTIONER = Repository(
    what="audio tower and language model",
    names={"huggingface": ("ACE-Step/acestep-captioner",), "modelscope": ("ACE-Step/acestep-captioner",)},
    files=(
        _CONFIG,
        PublishedFile(name="tokenizer.json"),
        PublishedFile(name="generation_config.json", needed=False),
        _README,
        _LICENCE,
    ),
    weights=(
        (
            PublishedFile(name="model.safetensors.index.json"),
            PublishedFile(name="model-*.safetensors", bytes=21_500_000_000, exact=False),
        ),
        _SINGLE,
    ),
    index="model.safetensors.index.json",
    tensors=("thinker.model.", "thinker.lm_head.", "thinker.audio_tower."),
)

ALIGNER = Repository(
    what="acoustic model",
    names={"huggingface": ("MahmoudAshraf/mms-300m-1130-forced-aligner",)},
    files=(
        _CONFIG,
        PublishedFile(name="vocab.json"),
        PublishedFile(name="preprocessor_config.json", needed=False),
        _README,
        _LICENCE,
    ),
    weights=(
        (PublishedFile(name="model.safetensors", bytes=1_261_900_000, exact=False),),
        (PublishedFile(name="model.safetensors.index.json"), PublishedFile(name="model-*.safetensors")),
    ),
    pickle=PublishedFile(name="pytorch_model.bin", bytes=1_261_900_000, exact=False),
)
