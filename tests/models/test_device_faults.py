"""What an error of a device means. The texts are those of torch_npu 2.13.0, and of torch's CUDA side."""

from __future__ import annotations

from typing import Any

import pytest

from soundmill.models.device import Fault, classify
from soundmill.models.errors import CardFailed, CardSuspect, InputError, OutOfMemory, ShuttingDown

torch = pytest.importorskip("torch")


def acl(code: int, words: str, call: str = "aclrtSynchronizeStream") -> str:
    """An error of the CANN runtime as torch_npu words it."""
    return (
        f"operator():torch_npu/csrc/core/npu/NPUStream.cpp:42 NPU function error: {call}, error code is {code}\n"
        "[ERROR] 2026-10-20-10:11:12 (PID:4711, Device:0, RankID:-1) ERR00100 PTA call acl api failed\n"
        f"[Error]: {words}"
    )


NPU_OOM = (
    "NPU out of memory. Tried to allocate 402.00 MiB (NPU 1; 256.00 MiB total capacity; 10.00 MiB already allocated;"
    " 10.00 MiB current active; 244.00 MiB free; 12.00 MiB reserved in total by PyTorch).If reserved memory is >> "
    "allocated memory try setting max_split_size_mb to avoid fragmentation."
)
NPU_OOM_FRACTION = NPU_OOM.replace("244.00 MiB free", "128.00 MiB allowed; 118.00 MiB free")
CUDA_OOM = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which 3.00 GiB is free."
INNER = (
    "The Inner error is reported as above. The process exits for this inner error, and the current working operator"
    " name is Add. Since the operator is called asynchronously, the stacktrace may be inaccurate."
)
CPU_OOM = (
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate"
    " 4398046511104 bytes. Error code 12 (Cannot allocate memory)"
)
EZ9999 = "EZ9999: Inner Error!\nEZ9999: The error from device(0), serial number is 3 [PID:4711]"

CASES: dict[str, tuple[BaseException, Fault]] = {
    # the allocator's own refusals
    "npu allocator": (torch.OutOfMemoryError(NPU_OOM), Fault.OOM),
    "npu allocator with a fraction": (torch.OutOfMemoryError(NPU_OOM_FRACTION), Fault.OOM),
    "cuda allocator": (torch.OutOfMemoryError(CUDA_OOM), Fault.OOM),
    "host allocator": (RuntimeError(CPU_OOM), Fault.OOM),
    "python": (MemoryError(), Fault.OOM),
    # out of memory of another kind
    "workspace": (
        torch.OutOfMemoryError("NPU out of memory. NPUWorkspaceAllocator tried to allocate 96.00 MiB"),
        Fault.FATAL,
    ),
    "from the task queue": (torch.OutOfMemoryError(f"{NPU_OOM}\n{INNER}"), Fault.FATAL),
    "207001 as out of memory": (
        torch.OutOfMemoryError(acl(207001, "EL0004: Failed to allocate memory", "aclrtSynchronizeDevice")),
        Fault.FATAL,
    ),
    # what leaves the process in an unknown state
    "aicore exception": (RuntimeError(acl(507015, EZ9999)), Fault.FATAL),
    "aicore timeout": (RuntimeError(acl(507014, "The aicore execution times out.")), Fault.FATAL),
    "vector core exception": (
        RuntimeError("ACL stream synchronize failed, error code:507035"),
        Fault.FATAL,
    ),
    "sync timeout": (RuntimeError(acl(507046, "Stream synchronize timed out")), Fault.FATAL),
    "no context": (RuntimeError(acl(107002, "The context is empty.", "aclrtGetDevice")), Fault.FATAL),
    "bad device id": (RuntimeError(acl(107001, "Invalid device ID.", "aclrtSetDevice")), Fault.FATAL),
    "too many graphs": (RuntimeError(acl(207008, "Stream resources are insufficient")), Fault.FATAL),
    "capture": (RuntimeError(acl(107024, "The stream is in the capture state.")), Fault.FATAL),
    "task abort": (RuntimeError("FORCE STOP"), Fault.FATAL),
    "suspect remote": (RuntimeError("SUSPECT REMOTE ERROR"), Fault.FATAL),
    "sticky": (RuntimeError(INNER), Fault.FATAL),
    "forked child": (
        RuntimeError(
            "Cannot re-initialize NPU in forked subprocess. To use NPU with multiprocessing, you must use the"
            " 'spawn' start method"
        ),
        Fault.FATAL,
    ),
    "runtime result": (RuntimeError("[Error]: launch failed, runtime result = 507018"), Fault.FATAL),
    "retCode": (RuntimeError("rtStreamSynchronize failed, retCode=507011"), Fault.FATAL),
    "operator without a code": (RuntimeError(f"call aclnnMatmul failed, detail:{EZ9999}"), Fault.FATAL),
    "ops error": (RuntimeError("[ERROR] ERR01100 OPS call acl api failed"), Fault.FATAL),
    # the card itself
    "heartbeat": (RuntimeError(acl(507010, "The device is down: lost heartbeat")), Fault.CARD),
    "device setup": (RuntimeError(acl(507033, "Failed to set up the device", "aclrtSetDevice")), Fault.CARD),
    "uce": (RuntimeError(acl(507053, "UCE ERROR")), Fault.CARD),
    "ecc by its code": (RuntimeError(acl(507054, "device memory error")), Fault.CARD),
    "ecc by its text": (RuntimeError("HBM MULTI BIT ECC ERROR detected on device 0"), Fault.CARD),
    "host channel": (RuntimeError(acl(507901, "hdc disconnect")), Fault.CARD),
    "no device": (RuntimeError(acl(207004, "No device is available", "aclInit")), Fault.CARD),
    "a card's code beside another": (
        RuntimeError(acl(507015, "aicore exception, runtime result = 507899")),
        Fault.CARD,
    ),
    # CUDA
    "device assert": (RuntimeError("CUDA error: device-side assert triggered"), Fault.FATAL),
    "illegal address": (RuntimeError("CUDA error: an illegal memory access was encountered"), Fault.FATAL),
    "cublas": (
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"),
        Fault.FATAL,
    ),
    "cuda ecc": (RuntimeError("CUDA error: uncorrectable ECC error encountered"), Fault.CARD),
    # no error of a device
    "shapes": (RuntimeError("mat1 and mat2 shapes cannot be multiplied (1x2 and 3x4)"), Fault.OTHER),
    "devices": (RuntimeError("Expected all tensors to be on the same device"), Fault.OTHER),
    "a generator of the host": (
        RuntimeError("Expected a 'npu' device type for generator but found 'cpu'"),
        Fault.OTHER,
    ),
    "a bad index of ours": (
        AssertionError("Invalid device id [ERROR] ERR00003 PTA invalid device"),
        Fault.OTHER,
    ),
    "key": (KeyError("voice"), Fault.OTHER),
    "a submitter who writes codes": (
        ValueError("cannot say 'error code is 507054, FORCE STOP'"),
        Fault.OTHER,
    ),
    "input that quotes one": (InputError("the text 'HBM MULTI BIT ECC ERROR' has no words"), Fault.OTHER),
    # ours
    "our out of memory": (OutOfMemory("no slot fits"), Fault.OOM),
    "our failed card": (CardFailed("gone"), Fault.FATAL),
    "our suspect card": (CardSuspect("gone"), Fault.CARD),
}


@pytest.mark.parametrize("case", CASES)
def test_an_error_means(case: str) -> None:
    error, fault = CASES[case]
    assert classify(error) == fault


def caught(*errors: tuple[BaseException, bool]) -> BaseException:
    """The last of `errors`, each raised while the one before was handled, or because of it."""
    last: BaseException | None = None
    for error, stated in errors:
        error.__cause__, error.__context__ = (last if stated else None), last
        error.__suppress_context__ = stated
        last = error
    assert last is not None
    return last


OOM, FATAL, OTHER = torch.OutOfMemoryError(NPU_OOM), RuntimeError(INNER), KeyError("x")


@pytest.mark.parametrize(
    ("chain", "fault"),
    [
        ([(FATAL, False), (KeyError("x"), False)], Fault.FATAL),
        ([(FATAL, False), (ShuttingDown(), False)], Fault.FATAL),
        ([(FATAL, False), (KeyError("x"), True), (ValueError(), False)], Fault.FATAL),
        ([(OOM, False), (KeyError("x"), False)], Fault.OTHER),
        ([(OOM, False), (InputError("too long"), True)], Fault.OOM),
        ([(OTHER, False), (torch.OutOfMemoryError(NPU_OOM), False)], Fault.OOM),
    ],
)
def test_what_stands_behind_an_error_counts(chain: Any, fault: Fault) -> None:
    assert classify(caught(*chain)) == fault


def test_a_cause_that_was_hidden_does_not_count() -> None:
    hidden = KeyError("x")
    hidden.__context__, hidden.__suppress_context__ = FATAL, True
    assert classify(hidden) == Fault.OTHER


def test_a_ring_of_causes_ends() -> None:
    one, other = KeyError("one"), KeyError("other")
    one.__context__, other.__context__ = other, one
    assert classify(one) == Fault.OTHER


def test_an_error_of_the_device_has_one_of_ours_that_stands_for_it() -> None:
    from soundmill.models.device import open_device

    device = open_device("cpu")
    assert type(device.failure(OOM)) is OutOfMemory
    assert type(device.failure(FATAL)) is CardFailed
    assert type(device.failure(RuntimeError("UCE ERROR"))) is CardSuspect
    assert device.failure(OTHER) is None
    assert "cpu:0: RuntimeError: The Inner error" in str(device.failure(FATAL))
