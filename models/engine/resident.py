"""Tensors that stay on the card with one entry for each slot."""

from __future__ import annotations

import torch
from torch import Tensor


def resident(*shape: int, dtype: torch.dtype, device: torch.device | str, fill: float = 0) -> Tensor:
    """A tensor for the state of slots, `[B, …]`.

    It is an ordinary tensor also when the caller is in inference mode: only such a one may be written to
    from everywhere.
    """
    with torch.inference_mode(False):
        return torch.full(shape, fill, dtype=dtype, device=device)


def resized(old: Tensor, slots: int, fill: float = 0) -> Tensor:
    """A copy of `old` `[B, …]` for another number of slots; those below both numbers keep what they hold.

    Where the card has no room for both, the survivors wait on the host while `old` is emptied. Graphs that
    were captured with it are void.

    Raises:
        torch.OutOfMemoryError: There is no room for the new one alone; `old` has no slots any more.
    """
    if old.shape[0] == slots:
        return old
    kept = old[:slots]
    shape, dtype, device = (slots, *old.shape[1:]), old.dtype, old.device
    try:
        new = resident(*shape, dtype=dtype, device=device, fill=fill)
    except torch.OutOfMemoryError:
        kept = kept.cpu()
        old.set_(resident(0, *shape[1:], dtype=dtype, device=device))  # the caller's name still holds it
        new = resident(*shape, dtype=dtype, device=device, fill=fill)
    new[: len(kept)].copy_(kept)
    return new
