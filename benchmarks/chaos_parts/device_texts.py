"""What an accelerator says when it fails, as torch_npu 2.13.0 and CANN word it; the forms are facts of theirs."""

from __future__ import annotations

OUT_OF_MEMORY = (
    "NPU out of memory. Tried to allocate 402.00 MiB (NPU 1; 256.00 MiB total capacity; 10.00 MiB already "
    "allocated; 10.00 MiB current active; 244.00 MiB free; 12.00 MiB reserved in total by PyTorch).",
)


def _failed_call(call: str, code: int, words: str) -> str:
    return (
        f"synchronize:NPUStream.cpp:488 NPU function error: {call}, error code is {code}\n"
        f"[ERROR] 2026-11-21-10:00:00 (PID:1, Device:0, RankID:-1) ERR00100 PTA call acl api failed\n"
        f"[Error]: {words}"
    )


FATAL = (
    _failed_call("AclrtSynchronizeStreamWithTimeout", 507015, "The aicore execution is abnormal."),
    _failed_call("AclrtSynchronizeStreamWithTimeout", 507018, "The aicpu execution is abnormal."),
    "ACL stream synchronize failed, error code:507035",
    "The Inner error is reported as above. The process exits for this inner error, and the current working "
    "operator name is Add.",
)

CARD = (
    _failed_call("AclrtSynchronizeDevice", 507010, "The device loses the heartbeat."),
    _failed_call("AclrtSynchronizeDevice", 507054, "HBM MULTI BIT ECC ERROR"),
    _failed_call("AclrtMemcpy", 507899, "An internal error occurs in the Driver module."),
)

OF_KIND = {"oom": OUT_OF_MEMORY, "fatal": FATAL, "card": CARD}
