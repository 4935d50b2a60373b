"""One opened card: `Device`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from ..errors import ModelError, ModelUnavailable
from .capabilities import Capabilities
from .card import Card
from .faults import Fault, classify, failure_on
from .health import Health, check
from .memory import Memory
from .reading import Flags, HostRead
from .timer import Timer

if TYPE_CHECKING:
    import torch

_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
_SHORT = {name: short for short, name in _DTYPES.items()}
_GRAPHS = {"npu": "NPUGraph", "cuda": "CUDAGraph"}


def short_name(dtype: torch.dtype) -> str:
    """`fp32`, `fp16` or `bf16`; of any other, torch's own name."""
    name = str(dtype).removeprefix("torch.")
    return _SHORT.get(name, name)


class Device:
    """A card that this process has opened, made by `open_device`.

    Every thread that touches its tensors calls `bind_thread` first.

    Attributes:
        kind: `npu`, `cuda` or `cpu`.
        index: Its number within this process.
        card: Its name on the host, as the operator wrote it.
        torch_device: For `.to(...)` and `device=`.
        name: What its vendor calls it, such as `Ascend910B3`.
        caps: What it can do.
        api: The vendor's module of torch. For this package only: whoever else asks it decides by
            the kind of device.
    """

    def __init__(
        self, card: Card, *, index: int, torch_device: torch.device, name: str, caps: Capabilities, api: Any
    ) -> None:
        self.card = card
        self.kind = card.kind
        self.index = index
        self.torch_device = torch_device
        self.name = name
        self.caps = caps
        self.api = api
        self._capture_stream: Any = None

    def __str__(self) -> str:
        return str(self.card)

    def __repr__(self) -> str:
        return f"<Device {self.card}: {self.name}>"

    @property
    def immediate(self) -> bool:
        """Whether work is done when its call returns, as on a processor."""
        return self.kind == "cpu"

    # -- threads and time --------------------------------------------------------------------------

    def bind_thread(self) -> None:
        """Make it the device of the calling thread; a new thread has another one until it does."""
        self.api.set_device(self.index)

    def sync(self) -> None:
        """Wait for everything that was launched."""
        self.api.synchronize(self.index)

    def at_most(self, threads: int | None) -> AbstractContextManager[None]:
        """Compute with so many threads of a processor at most, in a `with` block; `None` is no limit.

        Products of some ten microseconds take longer in two threads than in one, where the other thread has to be
        woken up. A card has no such threads.
        """
        if threads is None or not self.immediate:
            return nullcontext()
        limited: AbstractContextManager[None] = self.api.limited(threads)
        return limited

    def timer(self) -> Timer:
        """Time what is launched in a `with` block, by the device's own clock."""
        return Timer(None if self.immediate else self.api)

    def read(self, tensor: torch.Tensor) -> HostRead:
        """Start to copy a tensor to the host, and go on."""
        return HostRead(tensor, None if self.immediate else self.api)

    def flags(self, tensor: torch.Tensor) -> Flags:
        """Start to copy the stop flags [B] of a step to the host, and go on."""
        return Flags(self.read(tensor))

    def upload(self, tensor: torch.Tensor, *, into: torch.Tensor | None = None) -> torch.Tensor:
        """Copy a tensor of the host to the device without waiting for either.

        Args:
            tensor: In host memory, which may be changed as soon as the call returns.
            into: Where to put it, of the same shape; a new tensor otherwise.
        """
        if self.immediate:
            return tensor.clone() if into is None else into.copy_(tensor)
        if self.caps.pinned:  # a copy: torch keeps it until the card has read it
            tensor = tensor.pin_memory()
        if into is None:
            return tensor.to(self.torch_device, non_blocking=True)
        return into.copy_(tensor, non_blocking=True)

    def generator(self, seed: int) -> torch.Generator:
        """Random numbers on the device. Their values differ from device to device."""
        import torch

        return torch.Generator(device=self.torch_device).manual_seed(seed)

    # -- memory ------------------------------------------------------------------------------------

    def memory(self) -> Memory:
        """How the card's memory stands now, in bytes."""
        free, total = self.api.mem_get_info(self.index)
        return Memory(
            free=free,
            total=total,
            reserved=self.api.memory_reserved(self.index),
            allocated=self.api.memory_allocated(self.index),
        )

    def peak(self) -> int:
        """The most bytes that tensors of this process took since `reset_peak`."""
        return int(self.api.max_memory_allocated(self.index))

    def reset_peak(self) -> None:
        """Let `peak` count from now on."""
        self.api.reset_peak_memory_stats(self.index)

    def refusals(self) -> int:
        """How often the allocator refused memory in the life of this process."""
        return int(self.api.memory_stats(self.index).get("num_ooms", 0))

    def empty_cache(self) -> None:
        """Give memory that no tensor uses back to the driver. Bind the thread first."""
        self.api.empty_cache()

    # -- errors ------------------------------------------------------------------------------------

    def classify(self, error: BaseException) -> Fault:
        """What an exception means for this process; see `faults.py`."""
        return classify(error)

    def failure(self, error: BaseException) -> ModelError | None:
        """The error of ours that stands for one of the device; `None` if it is no error of a device.

        `CardFailed` and its kind must reach the worker, which ends the process.
        """
        return failure_on(str(self), error)

    def health(self) -> Health:
        """Ask the card for a known answer. It hangs if the card does: see `examination.py`."""
        return check(self)

    # -- numbers -----------------------------------------------------------------------------------

    def dtype(self, option: str, *, validated_fp16: bool = False) -> torch.dtype:
        """The type of a model's weights for an operator's choice.

        Args:
            option: `auto` (bf16 on a card that has it, else fp32), `fp32`, `fp16` or `bf16`.
            validated_fp16: Whether the model was shown to keep its quality in fp16.

        Raises:
            ModelUnavailable: The device or the model cannot do it.
        """
        import torch

        if option == "auto":
            option = "bf16" if "bf16" in self.caps.dtypes and not self.immediate else "fp32"
        if option not in _DTYPES:
            raise ModelUnavailable(f"{option!r} is no dtype; choose auto, fp32, fp16 or bf16")
        if option not in self.caps.dtypes:
            raise ModelUnavailable(f"{self} ({self.name}) does not compute in {option}; choose auto or fp32")
        if option == "fp16" and not validated_fp16:
            raise ModelUnavailable("this model was not validated in fp16; choose auto, bf16 or fp32")
        return getattr(torch, _DTYPES[option])

    def graphs(self, option: str) -> bool:
        """Whether steps are captured for an operator's choice of `auto`, `on` or `off`.

        Raises:
            ModelUnavailable: `on`, and the device cannot.
        """
        if option not in {"auto", "on", "off"}:
            raise ModelUnavailable(f"graphs={option!r} is no choice; write auto, on or off")
        if option == "on" and not self.caps.graphs:
            raise ModelUnavailable(f"{self} cannot capture steps as graphs here; choose auto or off")
        return option != "off" and self.caps.graphs

    def attention(self, option: str = "sdpa") -> str:
        """The `attn_implementation` for transformers.

        Raises:
            ModelUnavailable: It is not one that works on every device.
        """
        if option in {"sdpa", "eager"}:
            return option
        if option.startswith("flash_attention"):
            raise ModelUnavailable(
                f"{option} is a package for CUDA cards only; use sdpa, which takes each device's fused attention"
            )
        raise ModelUnavailable(f"attention {option!r} is not offered; use sdpa")

    @contextmanager
    def exact_convolutions(self) -> Iterator[None]:
        """Compute fp32 convolutions and products in fp32 while the block runs.

        Both vendors shorten the mantissa of fp32 convolutions (TF32, HF32) unless told otherwise. For
        the aligner, for codecs that are compared, and for `verify`. Process-wide; a graph keeps what
        was in force at its capture.
        """
        switches = self._shortcuts()
        before = [getattr(owner, name) for owner, name in switches]
        try:
            for owner, name in switches:
                setattr(owner, name, False)
            yield
        finally:
            for (owner, name), value in zip(switches, before, strict=True):
                setattr(owner, name, value)

    def _shortcuts(self) -> list[tuple[Any, str]]:
        import torch

        if self.kind == "cuda":
            return [(torch.backends.cudnn, "allow_tf32"), (torch.backends.cuda.matmul, "allow_tf32")]
        if self.kind == "npu":
            return [(self.api.conv, "allow_hf32"), (self.api.matmul, "allow_hf32")]
        return []

    # -- for `StepGraph` ---------------------------------------------------------------------------

    def new_graph(self) -> Any:
        """An empty graph of the vendor."""
        return getattr(self.api, _GRAPHS[self.kind])()

    def capture_stream(self) -> Any:
        """The one stream of all captures, which a shared pool of memory asks for."""
        if self._capture_stream is None:
            self._capture_stream = self.api.Stream()
        return self._capture_stream
