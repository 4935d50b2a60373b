"""Captions of music and audio: the text and audio halves of a Qwen2.5-Omni thinker.

    clip file ─ helper pool ─> log-mel [128, F] ─ Listener (batch model) ─> embeddings [T, hidden]
              ─ CaptionRows (slot model) ─> token ids ─ prompt.py ─> the caption

A clip longer than 300 s is captioned in windows, which run side by side.
"""
