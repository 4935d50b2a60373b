"""The sizes of the published model, as its `config.json` has them: for measurements without a download."""

from __future__ import annotations

from .shape import AudioShape, Shape, TextShape

SHAPE = Shape(
    text=TextShape(
        hidden=3584, layers=28, heads=28, kv_heads=4, head_dim=128, intermediate=18944, vocabulary=152064,
        rope_theta=1e6, norm_eps=1e-6, max_positions=32768, tied=False,
    ),
    audio=AudioShape(
        hidden=1280, layers=32, heads=20, intermediate=5120, mel_bands=128, chunk_frames=200, output=3584
    ),
    audio_id=151646, audio_start_id=151647, audio_end_id=151648,
)  # fmt: skip
"""Qwen2.5-Omni-7B's thinker, without its vision tower."""

STOPS = (151643, 151645)
"""The ids that end a caption."""
