"""The models: what turns a request into audio, a caption or an alignment on one card.

Nothing here knows of jobs, databases or brokers. A model family is one file or folder with a
`Handler` (see `handler.py`); the worker finds it by the dotted name in the catalogue.

Shape letters mean one thing everywhere: B slots, T tokens, K codebooks, F frames, V labels,
S samples. Audio is float32 in [-1, 1], shape [S] for mono and [S, C] for C channels.

Without a queue:

    from soundmill import models

    made = models.run("espeak-ng", {"text": "Hello there."})
    print(made.files["audio.wav"], made.real_time_factor)
"""

from .direct import Loaded, Made, load, run

__all__ = ["Loaded", "Made", "load", "run"]
