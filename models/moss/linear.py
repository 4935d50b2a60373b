"""A linear layer in the form that the device runs fastest.

At a handful of rows a step reads weights and does little else, so their form decides the speed. On x86
oneDNN takes them reordered once, two to four times faster than a plain product of so few rows; FBGEMM
takes them in 8 bits. Accelerators take them as they are.

8 bits: weights symmetric per output channel; inputs per row. FBGEMM measures one range for all rows, by
which a row would depend on its neighbours: so every row is divided by its own largest magnitude, and two
further columns, of -1 and of 1, fix the range. Their weights are zero.

torchao's 8-bit layers do the same in many small operations, which only a compiler would join: without one they
take six to twenty times as long for a row (`benchmarks/moss.py`), and a worker's host need not have a compiler.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 - as everyone calls it

Linear = Callable[[torch.Tensor], torch.Tensor]
"""From [..., in] to [..., out]."""

Form = Literal["plain", "packed", "int8"]
Activation = Literal["none", "gelu", "gelu_tanh"]

_POST_OPERATIONS: dict[Activation, tuple[str, str]] = {
    "none": ("none", ""),
    "gelu": ("gelu", "none"),
    "gelu_tanh": ("gelu", "tanh"),
}
"""oneDNN's names."""

_LONE_ROWS = 4  # up to so many rows a product of 8 bits takes 15 to 60 µs
_TINY = 1e-12  # keeps a row of zeros from dividing by zero
_RANGE = (-1.0, 1.0)
_FEW_ROWS = 16  # of a step; more are those of a prompt


def on_processor(device: torch.device) -> bool:
    """Whether the libraries of processors compute here."""
    return bool(device.type == "cpu")


def best_form(device: torch.device) -> Form:
    """`packed` where oneDNN is, else `plain`."""
    return "packed" if on_processor(device) and torch.backends.mkldnn.is_available() else "plain"


def threads_for(form: Form, rows: int) -> int | None:
    """With how many threads a processor computes products of so few rows best, at most; `None` is no limit.

    8-bit products of few rows are over before another thread has taken its half: two threads gain a tenth on an
    idle machine, and lose several times as much on one that has other work.
    """
    return 1 if form == "int8" and rows <= _LONE_ROWS else None


def make_linear(
    weight: torch.Tensor, bias: torch.Tensor | None, form: Form, activation: Activation = "none"
) -> Linear:
    """Build a layer from its weight [out, in], followed by an activation.

    Args:
        form: `plain` and `packed` compute in the dtype of the weight, `int8` takes and gives fp32.
    """
    if form == "packed":
        return _Packed(weight, bias, activation)
    if form == "int8":
        return _Quantized(weight, bias, activation)
    return _Plain(weight, bias, activation)


class _Plain:
    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, activation: Activation) -> None:
        self._weight, self._bias, self._activation = weight, bias, activation

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return _activate(F.linear(x, self._weight, self._bias), self._activation)


class _Packed:
    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, activation: Activation) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
        self._bias = bias
        self._name, self._algorithm = _POST_OPERATIONS[activation]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self._weight, self._bias, self._name, [], self._algorithm
        )
        return y


class _Quantized:
    """One thread at a time: what a few rows are scaled into is kept from call to call."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, activation: Activation) -> None:
        weight = weight.float()
        scale = weight.abs().amax(dim=1).clamp(min=_TINY) / 127  # [out]
        codes = (weight / scale[:, None]).round().clamp(-127, 127).to(torch.int8)
        codes = F.pad(codes, (0, len(_RANGE)))  # [out, in + 2]
        zero = torch.zeros(len(scale), dtype=torch.int64)
        with warnings.catch_warnings():
            # torch means to remove quantized tensors one day; FBGEMM's layers cannot be made without one.
            warnings.simplefilter("ignore", UserWarning)
            quantized = torch._make_per_channel_quantized_tensor(codes, scale.double(), zero, 0)
        self._weight = torch.ops.quantized.linear_prepack(quantized, None)
        self._bias = torch.zeros(len(scale)) if bias is None else bias.float()
        self._activation = activation
        # Without VNNI the sums of two 8-bit products may overflow 16 bits; 7 bits never do.
        self._reduce = not torch.cpu._is_vnni_supported()
        self._rooms: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1])
        largest = rows.abs().amax(dim=1, keepdim=True).clamp_(min=_TINY)
        room, place = self._room(rows)
        torch.div(rows, largest, out=place)
        y = torch.ops.quantized.linear_dynamic(room, self._weight, self._reduce)
        y = torch.addcmul(self._bias, y, largest)
        return _activate(y, self._activation).view(*x.shape[:-1], y.shape[1])

    def _room(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Where rows and the columns of the range stand, and the part of it for the rows."""
        count, width = rows.shape
        if count in self._rooms:
            return self._rooms[count]
        room = rows.new_empty(count, width + len(_RANGE))
        room[:, width:] = torch.tensor(_RANGE)
        made = room, room[:, :width]
        if count <= _FEW_ROWS:
            self._rooms[count] = made
        return made


def _activate(y: torch.Tensor, activation: Activation) -> torch.Tensor:
    if activation == "none":
        return y
    return F.gelu(y, approximate="tanh" if activation == "gelu_tanh" else "none")
