"""All networks of a checkpoint on one device: `MingNetwork`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .aggregator import Aggregator
from .blocks import Affine
from .config import MingConfig
from .decoder import AudioDecoder
from .encoder import AudioEncoder
from .flow import FlowHead
from .layout import AGGREGATOR, DECODER, ENCODER, FLOW, LLM
from .stack import qwen2_stack
from .weights import Weights, opened

DEFAULT_FLOW_STEPS = 10


class Generator(nn.Module):
    """What makes patches: backbone, flow head, aggregator, stop and speaker heads.

    Attributes:
        config: The sizes.
        dtype: Of weights and hidden states; latents and the solver are fp32.
    """

    def __init__(self, weights: Weights, config: MingConfig, *, flow_steps: int = DEFAULT_FLOW_STEPS) -> None:
        super().__init__()
        self.config = config
        self.dtype = weights.dtype
        self.backbone: Any = qwen2_stack(weights.under(LLM), config.llm, layers=config.llm.layers, embed=True)
        self.flow = FlowHead(weights.under(FLOW), config, flow_steps)
        self.aggregator = Aggregator(weights.under(AGGREGATOR), config)
        self.stop_head = Affine(weights.under("stop_head."))
        self.speaker_head = Affine(weights.under("spk_head."))

    def stop_probability(self, z: Tensor) -> Tensor:
        """The probability [B] that the patch of these hidden states [B, H] is the last."""
        return functional.softmax(self.stop_head(z).float(), dim=-1)[:, 1]

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids [T] to inputs of the backbone [T, H]."""
        return self.backbone.embed_tokens(ids)

    def speaker_inputs(self, vectors: Tensor) -> Tensor:
        """Raw, not normalised, CAM++ vectors [n, 192] to inputs of the backbone [n, H]."""
        return self.speaker_head(vectors.to(self.dtype))


class MingNetwork:
    """The parts of a checkpoint, loaded.

    Attributes:
        generator: In the model's dtype.
        encoder: Of audio, in the codec's dtype.
        decoder: Of latents, likewise.
    """

    def __init__(
        self,
        weights: Weights,
        config: MingConfig,
        *,
        flow_steps: int = DEFAULT_FLOW_STEPS,
        codec_dtype: torch.dtype = torch.float32,
    ) -> None:
        """Read all tensors; `weights` says in which dtype and where."""
        self.config = config
        self.generator = Generator(weights, config, flow_steps=flow_steps)
        self.encoder = AudioEncoder(weights.under(ENCODER, dtype=codec_dtype), config.audio)
        self.decoder = AudioDecoder(weights.under(DECODER, dtype=codec_dtype), config.audio)

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        dtype: torch.dtype,
        device: torch.device | str,
        flow_steps: int = DEFAULT_FLOW_STEPS,
        encoder_layers: int | None = None,
        codec_dtype: torch.dtype = torch.float32,
    ) -> MingNetwork:
        """Read a checkpoint folder.

        Raises:
            ModelUnavailable: It is not one of this family, or damaged.
        """
        config = MingConfig.load(folder, encoder_layers=encoder_layers)
        with torch.inference_mode(False), opened(folder, config, dtype=dtype, device=device) as weights:
            return cls(weights, config, flow_steps=flow_steps, codec_dtype=codec_dtype)
