"""The sizes of a CSM, from its config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from ..errors import ModelUnavailable

MAX_CONTEXT = 2048
"""Positions that a sequence had in training; a config that promises more would not keep it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What the rest of the package has to know.

    Attributes:
        codebooks: Codes of a frame, K.
        ids: Of one codebook in the model's tables; some of them are reserved.
        codes: Of these, the first ones that the codec has, and that are ever chosen.
        end: The code that ends the speech where it stands in all codebooks (but the last, in the loop).
        width: Of the backbone.
        depth_width: Of the depth decoder.
        context: Positions of a sequence; a position is a text token or a frame.
        sample_rate: Of the codec's audio, hertz.
        frame_samples: Samples of a frame.
    """

    codebooks: int
    ids: int
    codes: int
    end: int
    width: int
    depth_width: int
    context: int
    sample_rate: int
    frame_samples: int

    @classmethod
    def of(cls, config: Any) -> Self:
        """Read them from a `CsmConfig`.

        Raises:
            ModelUnavailable: Its parts contradict each other.
        """
        depth, codec = config.depth_decoder_config, config.codec_config
        frame_samples, left = divmod(codec.sampling_rate, codec.frame_rate)
        pairs = {
            "num_codebooks": (config.num_codebooks, depth.num_codebooks, codec.num_quantizers),
            "vocab_size": (config.vocab_size, depth.vocab_size),
            "hidden_size": (config.hidden_size, depth.backbone_hidden_size),
        }
        for name, values in pairs.items():
            if len(set(values)) > 1:
                said = ", ".join(str(value) for value in values)
                raise ModelUnavailable(f"config.json: the parts of the model differ in {name} ({said})")
        if left or config.vocab_size < codec.codebook_size:
            raise ModelUnavailable("config.json: the codec does not fit the model")
        return cls(
            codebooks=config.num_codebooks,
            ids=config.vocab_size,
            codes=codec.codebook_size,
            end=config.codebook_eos_token_id,
            width=config.hidden_size,
            depth_width=depth.hidden_size,
            context=min(config.max_position_embeddings, MAX_CONTEXT),
            sample_rate=codec.sampling_rate,
            frame_samples=int(frame_samples),
        )

    @property
    def frame_s(self) -> float:
        """How long a frame is, in seconds."""
        return self.frame_samples / self.sample_rate

    def frames_in(self, samples: int) -> int:
        """How many frames a recording becomes; the last one may be partly empty."""
        return -(-samples // self.frame_samples)

    def seconds_to_frames(self, seconds: float) -> int:
        """The whole frames that fit into `seconds`."""
        return int(seconds * self.sample_rate / self.frame_samples)

    def frames_to_seconds(self, frames: int) -> float:
        """How long `frames` sound."""
        return frames * self.frame_samples / self.sample_rate
