"""CSM: speech in a conversation, with speakers and context (Sesame's CSM-1B, and others of its form).

A backbone makes the first code of each frame of Mimi's, and a small depth decoder the other ones:

    text, turns ──► prompt ──► backbone step ──► depth loop ──► frame [K] ──► … ──► Mimi ──► audio

The importing of torch waits until the handler is loaded. Sizes come from the checkpoint's config.
"""

from .handler import Csm

__all__ = ["Csm"]
