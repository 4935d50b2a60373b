"""Which operations a piece of work asks for: an audit on the processor of what would reach an NPU.

    from .dispatch_audit import audited

    with audited() as audit:
        model.step(bucket, rows)
    audit.expect_clean()

It finds operations for which torch_npu has no kernel (they would run on the host, silently), float64 and
complex numbers, types outside of what Huawei lists for an operation, attention masks that are not bool (in
`inference_mode`, where attention is seen as a whole), and reads by the host. It cannot see `.tolist()`
and `.numpy()` (the fake npu refuses them), nor find limits inside of a kernel, nor say anything about
results or speed.

The table `tests/data/torch_npu_ops.json` names the operations of `aten` that have a kernel, those that
are made of others, and the rest. It was read from the dispatcher with the torch_npu package named in it
loaded; no card is needed for that, but the libraries of CANN, or stand-ins for them. To write it anew:

    python -m tests.models.dispatch_audit > tests/data/torch_npu_ops.json
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

TABLE = Path(__file__).resolve().parent.parent / "data" / "torch_npu_ops.json"

ON_NPU = {
    # The dispatcher chooses another operation where the tensors are on an NPU.
    "_scaled_dot_product_flash_attention_for_cpu": "scaled_dot_product_attention",
    "_weight_norm_interface": "_weight_norm",
    "_safe_softmax": "_softmax",
    "_euclidean_dist": "_cdist_forward",
    "mkldnn_rnn_layer": "lstm",
    "_fused_rms_norm": "mul",
    "mkldnn_convolution": "convolution",
}
"""The processor's own operations, and what stands for them on an NPU."""

READS = frozenset(
    {"_local_scalar_dense", "item", "is_nonzero", "nonzero", "masked_select", "equal", "_unique2"}
)
"""Operations that make the host wait for the device."""

UNLISTED_BF16 = frozenset(
    {"multinomial", "sort", "cumsum", "gather", "masked_select", "logsumexp", "convolution"}
)
"""Operations for which Huawei's list of Atlas A2 and A3 names fp32 or fp16 but no bf16."""

WIDE = frozenset({torch.float64})
COMPLEX = frozenset({torch.complex32, torch.complex64, torch.complex128})


class Audit(TorchDispatchMode):
    """What was asked for while it was entered.

    Attributes:
        calls: How often each operation was called, views among them.
        dtypes: Of its tensors, for each operation.
        launches: How many calls compute something; a device launches about one kernel for each.
        reads: How often each operation made the host wait for the device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.dtypes: dict[str, set[torch.dtype]] = {}
        self.launches = 0
        self.reads: Counter[str] = Counter()
        self._unfused_mask = False
        self._transposed_below_fp32 = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if is_taken_apart(func):
            with self:
                return func.decompose(*args, **(kwargs or {}))
        made = func(*args, **(kwargs or {}))
        name = func.name().removeprefix("aten::")
        self.calls[name] += 1
        self.launches += not func.is_view
        self.reads[name] += makes_wait(func, args, kwargs or {})
        seen = self.dtypes.setdefault(name, set())
        for value in tree_leaves((args, kwargs, made)):
            if isinstance(value, torch.Tensor):
                seen.add(value.dtype)
            elif isinstance(value, torch.dtype):
                seen.add(value)
        self._unfused_mask |= name == "scaled_dot_product_attention" and _has_mask_of_numbers(
            args, kwargs or {}
        )
        if _base(name) == "convolution" and args[6] and args[0].dtype != torch.float32:
            self._transposed_below_fp32 = True
        return made

    def problems(self, *, reads: bool = False, allow: Collection[str] = ()) -> list[str]:
        """What should not reach an NPU, a sentence for each.

        Args:
            reads: Whether the host may wait, as it may while a prompt is prepared.
            allow: Operations that are known and accepted, by their name without the overload.
        """
        found = []
        for name, dtypes in sorted(self.dtypes.items()):
            base = _base(name)
            if base in allow:
                continue
            if not _has_kernel(name):
                found.append(f"{name} has no kernel in torch_npu and would run on the host")
            if dtypes & WIDE:
                found.append(f"{name} meets float64")
            if dtypes & COMPLEX:
                found.append(f"{name} meets complex numbers")
            if torch.bfloat16 in dtypes and ON_NPU.get(base, base) in UNLISTED_BF16:
                found.append(f"{name} meets bf16, which is not listed for it")
            if self.reads[name] and not reads:
                found.append(f"{name} makes the host wait, {self.reads[name]} time(s)")
        if self._unfused_mask and "scaled_dot_product_attention" not in allow:
            found.append("scaled_dot_product_attention gets a mask of numbers; only bool masks are fused")
        if self._transposed_below_fp32 and "convolution" not in allow:
            found.append("a transposed convolution below fp32, the only type that is listed for it")
        return found

    def expect_clean(self, *, reads: bool = False, allow: Collection[str] = ()) -> None:
        """Fail with all problems, and on an audit that saw nothing."""
        assert self.calls, "nothing ran within the audit"
        problems = self.problems(reads=reads, allow=allow)
        assert not problems, "\n".join(problems)


@contextmanager
def audited() -> Iterator[Audit]:
    """Audit what the block does on the processor."""
    with Audit() as audit:
        yield audit


@cache
def is_taken_apart(operation: Any) -> bool:
    """Whether an NPU has no kernel for an operation as a whole, but for those that it is made of.

    In `inference_mode` torch shows even these to whoever listens.
    """
    if operation.name().removeprefix("aten::") in _names()["kernel"]:
        return False
    composite = "CompositeImplicitAutograd"
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(operation.name(), composite))


def makes_wait(operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether an operation's result, or its size, has to be known by the host."""
    name = operation.name().removeprefix("aten::")
    base = _base(name)
    if base == "index" or (base.startswith("index_put") and args[2].dim() > 0):
        return any(index is not None and index.dtype in {torch.bool, torch.uint8} for index in args[1])
    if name == "repeat_interleave.Tensor":
        return kwargs.get("output_size") is None
    return base in READS


def _has_mask_of_numbers(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    mask = args[3] if len(args) > 3 else kwargs.get("attn_mask")
    return mask is not None and mask.dtype != torch.bool


def _base(name: str) -> str:
    return name.partition(".")[0]


def _has_kernel(name: str) -> bool:
    """Whether an NPU has a kernel for it, under whatever overload, or for what it is made of."""
    names = _names()
    if name in names["kernel"] or name in names["composite"]:
        return True
    base = _base(name)
    return ON_NPU.get(base, base) in _kernels()


@cache
def _names() -> dict[str, frozenset[str]]:
    table = json.loads(TABLE.read_text())
    return {kind: frozenset(table[kind]) for kind in ("kernel", "composite", "fallback")}


@cache
def _kernels() -> frozenset[str]:
    return frozenset(_base(name) for name in _names()["kernel"])


def _table() -> dict[str, Any]:
    """Read the dispatcher of this process, into which torch_npu has to be loaded."""
    import torch_npu

    composites = (
        "CompositeImplicitAutograd",
        "CompositeExplicitAutograd",
        "CompositeExplicitAutogradNonFunctional",
    )
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    table: dict[str, Any] = {"torch": torch.__version__.partition("+")[0], "torch_npu": torch_npu.__version__}
    table |= {"kernel": [], "composite": [], "fallback": []}
    for full in sorted(torch._C._dispatch_get_all_op_names()):
        if not full.startswith("aten::"):
            continue
        if has(full, "PrivateUse1"):
            kind = "kernel"
        else:
            kind = "composite" if any(has(full, key) for key in composites) else "fallback"
        table[kind].append(full.removeprefix("aten::"))
    return table


if __name__ == "__main__":
    json.dump(_table(), sys.stdout, indent=0)
    sys.stdout.write("\n")
