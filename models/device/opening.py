"""Finding and opening a card: `open_device`."""

from __future__ import annotations

import os
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from ..errors import ModelUnavailable
from .capabilities import Capabilities
from .card import Card, defaults
from .device import Device
from .environment import refuse_transfer
from .processor import Processor

ORDER = ("npu", "cuda", "cpu")

_REMEDY_TORCH = "pip install 'soundmill[models]'"
_REMEDY_CANN = (
    "source the set_env.sh of ascend-toolkit and of nnal/atb before the program starts, and check that"
    " torch_npu, torch and CANN are versions of one row of torch_npu's compatibility table"
)


def open_device(kind: str = "auto", *, threads: int | None = None) -> Device:
    """Open a card for this process and bind the calling thread to it.

    Args:
        kind: `auto` (the first of npu, cuda, cpu that is there), a kind, or a card such as `npu:3`.
            Numbers are the host's where the process was shown that one card, else they count among
            the visible ones.
        threads: With how many threads a processor computes; `None` leaves it to torch.

    Raises:
        ModelUnavailable: torch or the card is missing, or its library is broken. A kind that was
            asked for is never replaced by another one, and a broken library is not passed over.
    """
    refuse_transfer(os.environ.get("TORCH_TRANSFER_TO_NPU", ""))
    torch = _torch()
    if kind != "auto":
        try:
            card = Card.parse(kind)
        except ValueError as error:
            raise ModelUnavailable(f"{error}, or auto") from error
        return _open(torch, card, _api(torch, card.kind, threads))
    for candidate in ORDER:
        if candidate == "npu" and not _has_torch_npu():
            continue
        api = _api(torch, candidate, threads)
        if candidate == "cpu" or api.is_available():
            return _open(torch, Card(candidate, 0), api)
    raise AssertionError("there is always a processor")


def cards_of(kind: str) -> list[Card]:
    """The cards of a kind that this process sees; none are opened.

    Raises:
        ModelUnavailable: torch is missing, or the library of that kind is broken.
    """
    torch = _torch()
    if kind == "npu" and not _has_torch_npu():
        return []
    api = _api(torch, kind, None)
    if kind == "cpu":
        return [Card(kind, 0)]
    return [Card(kind, index) for index in range(api.device_count() if api.is_available() else 0)]


def _torch() -> ModuleType:
    os.environ.update(defaults("cpu", os.environ))  # without effect where torch is imported already
    try:
        import torch
    except ImportError as error:
        raise ModelUnavailable(f"there is no torch here ({error}); {_REMEDY_TORCH}") from error
    except (RuntimeError, OSError) as error:  # a vendor's library broke the import
        raise ModelUnavailable(f"torch cannot be imported: {error} {_REMEDY_CANN}") from error
    return torch  # type: ignore[no-any-return]


def _has_torch_npu() -> bool:
    try:
        return find_spec("torch_npu") is not None
    except ValueError:  # a module without a specification, put in place by hand
        return True


def _api(torch: ModuleType, kind: str, threads: int | None) -> Any:
    """The module that speaks to the cards of a kind; nothing is initialised."""
    if kind == "cpu":
        return Processor(threads)
    if kind == "cuda":
        return torch.cuda
    if not _has_torch_npu():
        raise ModelUnavailable("there is no torch_npu here; pip install 'soundmill[npu]' on a host with CANN")
    os.environ.update(defaults("npu", os.environ))
    try:
        import torch_npu  # noqa: F401 - registers torch.npu
    except (ImportError, RuntimeError, OSError) as error:
        raise ModelUnavailable(f"torch_npu is installed but broken: {error}; {_REMEDY_CANN}") from error
    return torch.npu


def _open(torch: ModuleType, card: Card, api: Any) -> Device:
    index = card.place(os.environ)
    if card.kind != "cpu":
        _expect(card, index, api)
    try:
        api.set_device(index)
        name = api.get_device_name(index)
    except (RuntimeError, AssertionError) as error:
        raise ModelUnavailable(f"{card} cannot be opened: {error}") from error
    if card.kind == "npu":
        # Else 910A and 310P compile every new shape, for seconds to minutes.
        api.set_compile_mode(jit_compile=False)
    where, caps = _torch_device(torch, card.kind, index), _capabilities(card, api)
    return Device(card, index=index, torch_device=where, name=name, caps=caps, api=api)


def _torch_device(torch: ModuleType, kind: str, index: int) -> Any:
    # All tensors of a processor are on the same device, whatever the number of the card.
    return torch.device("cpu") if kind == "cpu" else torch.device(kind, index)


def _expect(card: Card, index: int, api: Any) -> None:
    """Raise unless there is such a card."""
    count = api.device_count() if api.is_available() else 0
    if count == 0:
        raise ModelUnavailable(
            f"there is no {card.kind} card here; check its driver and that the container was given it, or choose auto"
        )
    if index >= count:
        raise ModelUnavailable(f"there is no {card}; this process sees {count} card(s), numbered from 0")


def _capabilities(card: Card, api: Any) -> Capabilities:
    if card.kind == "cpu":
        return Capabilities(
            dtypes=frozenset({"fp32", "fp16", "bf16"}),
            float64=True,
            complex=True,
            fft="verified",
            graphs=False,
            pinned=False,
        )
    dtypes = frozenset({"fp32", "fp16"} | ({"bf16"} if _has_bf16(api) else set()))
    if card.kind == "cuda":
        return Capabilities(
            dtypes=dtypes, float64=True, complex=True, fft="verified", graphs=True, pinned=True
        )
    return Capabilities(
        dtypes=dtypes,
        float64=False,
        complex=False,
        fft="unverified",
        # Its second mode of the task queue forbids a capture.
        graphs=os.environ.get("TASK_QUEUE_ENABLE", "1") != "2",
        pinned=True,
    )


def _has_bf16(api: Any) -> bool:
    """Whether the hardware has it: CUDA also says yes where it would compute in fp32 instead."""
    return bool(api.is_bf16_supported(including_emulation=False))
