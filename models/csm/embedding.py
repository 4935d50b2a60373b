"""What goes into the backbone: embeddings of text tokens and of whole frames."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .sizes import Sizes


class Embedding:
    """The tables of a `CsmForConditionalGeneration`: code c of codebook k has the row c + V · k."""

    def __init__(self, model: Any, sizes: Sizes) -> None:
        self._text = model.embed_text_tokens.weight
        self._audio = model.backbone_model.embed_tokens.embed_audio_tokens.weight
        self._offsets = torch.arange(sizes.codebooks, device=self._audio.device) * sizes.ids

    def frames(self, codes: Tensor) -> Tensor:
        """A frame is the sum over its codebooks: `[…, K]` becomes `[…, D]`."""
        return functional.embedding(codes + self._offsets, self._audio).sum(-2)

    def positions(self, text: Tensor, codes: Tensor, audio: Tensor) -> Tensor:
        """The positions of prompts: text `[…]`, codes `[…, K]` and the choice between them become `[…, D]`."""
        return torch.where(audio[..., None], self.frames(codes), functional.embedding(text, self._text))
