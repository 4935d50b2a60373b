"""What an error of a device means for the process: `classify`.

On Ascend an error is raised once, and then every further operation is dropped without a word: only
the allocator's own out-of-memory may be survived. The order of the tests matters, since the task
queue raises errors of the kernel as `OutOfMemoryError`, too. Texts and codes are those of torch_npu
2.13.0 and of CANN's `rt_error_codes.h`, of torch's CUDA side, and of the processor's allocator.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum

from ..errors import CardFailed, CardSuspect, Interrupted, ModelError, OutOfMemory


class Fault(StrEnum):
    """What an error means."""

    OOM = "oom"
    """The allocator refused; the process and all tensors are sound. Free memory, do less at once."""

    FATAL = "fatal"
    """The state of the device in this process is unknown. End the process; another may start at once."""

    CARD = "card"
    """The card itself may be broken. End the process, and check the card before the next one starts."""

    OTHER = "other"
    """No error of a device."""


_CODE = re.compile(r"error code(?: is|:)?\s*(\d{6})|runtime result = (\d{6})|ret(?:Code)?\s*=\s*(\d{6})")

_CARD_CODES = frozenset(
    ["207004", "507008", "507010", "507033", "507053", "507054", "507055", "507899", "507901"]
)

_CARD_TEXTS = (
    "HBM MULTI BIT ECC ERROR",
    "UCE ERROR",
    "SUSPECT MEM ERROR",
    "lost heartbeat",
    "loses the heartbeat",
    # CUDA's of the same kind
    "uncorrectable ECC error",
    "uncorrectable NVLink error",
    "no CUDA-capable device is detected",
    "CUDA error: unknown error",
)

_STICKY_TEXTS = (
    "The Inner error is reported as above",
    "The process exits for this inner error",
    "FORCE STOP",
    "HCCS LINK ERROR",
    "UB LINK ERROR",
    "SUSPECT REMOTE ERROR",
    "HCCL OP RETRY FAILED",
    "Cannot re-initialize NPU in forked subprocess",
    "Cannot re-initialize CUDA in forked subprocess",
)

_ALLOCATOR_TEXTS = ("out of memory. Tried to allocate", "DefaultCPUAllocator: can't allocate memory")

_DEVICE_TEXT = re.compile(
    r"\bE[A-Z0-9]\d{4}\b.*(Inner Error|PID:)"
    r"|ERR\d{2}(100|200|300|005|006)\b"
    r"|CUDA error: |CUDA driver error: |cuDNN error: |CUBLAS_STATUS_|CUFFT_",
    re.DOTALL,
)


def classify(error: BaseException) -> Fault:
    """What an exception means for the process that it was raised in.

    An error that was raised because of one of a device, or while one was handled, counts as that
    one, since the device's state is what matters. Out of memory only counts as itself or as the
    stated cause: what fails after an out-of-memory was handled is an error of its own.
    """
    first = _alone(error)
    chain = [first, *(_alone(other) for other in _behind(error))]
    if Fault.CARD in chain:
        return Fault.CARD
    if Fault.FATAL in chain:
        return Fault.FATAL
    if first == Fault.OTHER and error.__cause__ is not None:
        return classify(error.__cause__)
    return first


def failure_on(card: str, error: BaseException) -> ModelError | None:
    """The error of ours that stands for one of a device; `None` if it is no error of a device."""
    words = f"{card}: {type(error).__name__}: {error}"
    match classify(error):
        case Fault.OOM:
            return OutOfMemory(words)
        case Fault.FATAL:
            return CardFailed(words)
        case Fault.CARD:
            return CardSuspect(words)
        case _:
            return None


def _behind(error: BaseException) -> Iterator[BaseException]:
    seen = {id(error)}
    while True:
        hidden = None if error.__suppress_context__ else error.__context__
        following = error.__cause__ or hidden
        if following is None or id(following) in seen:
            return
        seen.add(id(following))
        yield following
        error = following


def _alone(error: BaseException) -> Fault:
    """Classify one exception without those behind it; the order of the tests is the point."""
    if isinstance(error, (ModelError, Interrupted)):
        return _ours(error)
    # Every error of a device is a RuntimeError. Others may quote a submitter's words, who must not be
    # able to end the process by writing an error code into a text.
    if not isinstance(error, (RuntimeError, MemoryError)):
        return Fault.OTHER
    text = str(error)
    codes = {code for found in _CODE.findall(text) for code in found if code}
    if codes & _CARD_CODES or any(part in text for part in _CARD_TEXTS):
        return Fault.CARD
    if any(part in text for part in _STICKY_TEXTS):
        return Fault.FATAL
    if _is_out_of_memory(error, text):
        return Fault.OOM if isinstance(error, MemoryError) or _allocators_own(text) else Fault.FATAL
    return Fault.FATAL if codes or _DEVICE_TEXT.search(text) else Fault.OTHER


def _ours(error: BaseException) -> Fault:
    if isinstance(error, CardFailed):
        return Fault.CARD if isinstance(error, CardSuspect) else Fault.FATAL
    return Fault.OOM if isinstance(error, OutOfMemory) else Fault.OTHER


def _is_out_of_memory(error: BaseException, text: str) -> bool:
    # By name, so that a process without torch can ask: torch.OutOfMemoryError has no other base than RuntimeError.
    named = any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)
    return named or isinstance(error, MemoryError) or _ALLOCATOR_TEXTS[1] in text


def _allocators_own(text: str) -> bool:
    return any(part in text for part in _ALLOCATOR_TEXTS)
