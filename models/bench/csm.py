"""CSM, made to be measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import CsmConfig
from transformers.utils import logging

from ..csm import checkpoint
from ..csm.decoder import Decoder
from ..csm.encoder import Encoder
from ..csm.folder import check_folder, read_config
from ..csm.handler import NAME, add_models, fused_of
from ..csm.prompt import Prompt
from ..csm.published import published_config
from ..csm.sizes import Sizes
from ..csm.speaker import Frames, Speaker
from ..engine.sampling import Sampling
from ..place import ModelOptions
from .drive import batch_part, slot_parts
from .subject import WAIT_S, Answer, Part, Source
from .texts import TEXTS

if TYPE_CHECKING:
    from ..device import Device
    from ..station import CardPlace
    from .plan import Load

SAMPLING = Sampling(temperature=0.9, top_k=50)


class CsmSubject:
    """See `Subject`. A row's prompt is a text without context.

    Attributes:
        audio: Whether the codes are decoded; not where `generate` makes codes only, too.
        model: A `CsmForConditionalGeneration`, once it is loaded.
    """

    unit = "frames"
    stepped = True

    def __init__(self, source: Source) -> None:
        self._source = source
        self._fused = fused_of(ModelOptions(extra=source.extra))
        logging.set_verbosity_error()  # of ids that a small vocabulary does not have
        self.config = _config(source)
        self.sizes = Sizes.of(self.config)
        self.parameters = checkpoint.parameters(self.config)
        self.audio = True
        self.model: Any = None

    def load(self, device: Device, dtype: torch.dtype) -> None:
        """See `Subject.load`."""
        self.model = self.weights(device, dtype)

    def weights(self, device: Device, dtype: torch.dtype) -> Any:
        """The model, read or made up anew."""
        if self._source.random:
            return checkpoint.random_model(self.config, device.torch_device, dtype)
        folder = self._source.folder
        return checkpoint.load_checkpoint(folder, device=device.torch_device, dtype=dtype).model

    def step_bytes(self) -> int:
        """See `Subject.step_bytes`."""
        return frame_bytes(self.model)

    def join(self, place: CardPlace) -> None:
        """See `Subject.join`."""
        place.engine.call(lambda: add_models(place, self.model, fused=self._fused, audio=self.audio)).result()

    def perform(self, place: CardPlace, number: int, load: Load) -> Answer:
        """See `Subject.perform`."""
        ids = self.ids(number, TEXTS[load.text].tokens)
        assert load.frames is not None, "the model would not end its rows"
        ticket = place.engine.generate(
            NAME, self.prompt(ids, number), positions=len(ids), max_steps=load.frames
        )
        made = ticket.result(WAIT_S)
        metrics = made.metrics
        return Answer(
            frames=made.steps,
            audio_s=self.sizes.frames_to_seconds(made.steps),
            empty=self._nothing_of(made.value),
            first_s=float(metrics["first_step_s"]),
            step_ms=float(metrics["step_ms"]),
            batch_size=int(metrics["batch_size"]),
            bucket=int(metrics["bucket"]),
        )

    def ids(self, number: int, tokens: int) -> Tensor:
        """Ids [T] of a text that nobody wrote; each number has its own."""
        generator = torch.Generator().manual_seed(number)
        special = (self.config.bos_token_id, self.config.pad_token_id, self.config.audio_token_id)
        words = min(number for number in (*special, self.config.text_vocab_size) if number)
        return torch.randint(0, words, (tokens,), generator=generator)

    def prompt(self, ids: Tensor, seed: int) -> Prompt:
        """These ids as what is to be said."""
        return Prompt(
            text=ids,
            codes=torch.zeros((len(ids), self.sizes.codebooks), dtype=torch.int64),
            audio=torch.zeros(len(ids), dtype=torch.bool),
            sampling=SAMPLING,
            seed=seed,
        )

    def _nothing_of(self, value: Any) -> bool:
        if not self.audio:
            return len(value.codes) == 0
        return not np.any(value.audio)

    def parts(self, device: Device, seq_len: int, *, graphs: bool) -> Sequence[Part]:
        """See `Subject.parts`."""
        codec, sizes = self.model.codec_model, self.sizes
        speaker = Speaker(self.model, sizes, device, graphs=graphs, fused=self._fused)

        def frames() -> Frames:
            codes = torch.randint(0, sizes.codes, (seq_len, sizes.codebooks)).to(device.torch_device)
            return Frames(codes=codes, ended=False)

        def samples() -> Any:
            return np.random.default_rng(0).normal(0, 0.1, seq_len * sizes.frame_samples).astype(np.float32)

        length = f"{seq_len} frames"
        return [
            *slot_parts(speaker, lambda count: self.prompt(self.ids(0, count), 0), seq_len),
            batch_part(f"codec decoder, {length}", Decoder(codec, sizes, device), frames),
            batch_part(f"codec encoder, {length}", Encoder(codec, sizes, device), samples),
        ]


def frame_bytes(model: Any) -> int:
    """The weights that a frame reads: the backbone once, the depth decoder for each other codebook."""

    def size(module: Any) -> int:
        return sum(p.numel() * p.element_size() for p in module.parameters())

    depth = model.depth_decoder
    steps = model.config.num_codebooks - 1
    backbone = sum(size(layer) for layer in model.backbone_model.layers) + size(model.lm_head)
    heads = int(depth.codebooks_head.weight.nbytes)
    return int(backbone + steps * sum(size(layer) for layer in depth.model.layers) + heads)


def _config(source: Source) -> CsmConfig:
    if source.folder is None:
        return published_config()
    config = CsmConfig.from_dict(
        read_config(source.folder)
    )  # first, since it says of which model the folder is
    if not source.random:
        check_folder(source.folder)
    return config
