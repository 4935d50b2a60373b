"""The FAKE `npu` of `fake_npu.py`: tensors that claim to be on a card and compute on the processor."""

from __future__ import annotations

import functools
import threading
import types
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch.utils._python_dispatch import return_and_correct_aliasing

from . import tape
from .dispatch_audit import is_taken_apart
from .fake_npu_streams import Event, Stream

MIB = 1024 * 1024

# Texts of torch_npu 2.13.0.
NO_CONTEXT = (
    "SetStreamContext:torch_npu/csrc/core/npu/NPUStream.cpp:1 NPU function error: aclrtSetDevice, error code is 107002\n"
    "[ERROR] 2026-11-01-00:00:00 (PID:1, Device:0, RankID:-1) ERR00100 PTA call acl api failed\n"
    "[Error]: The context is empty."
)
OUT_OF_MEMORY = (
    "NPU out of memory. Tried to allocate {asked:.2f} MiB (NPU {card}; {limit:.2f} MiB total capacity;"
    " {used:.2f} MiB already allocated; {used:.2f} MiB current active; {free:.2f} MiB free;"
    " {reserved:.2f} MiB reserved in total by PyTorch).If reserved memory is >> allocated memory try setting"
    " max_split_size_mb to avoid fragmentation."
)
MIXED = "Expected all tensors to be on the same device, but found at least two devices, {0} and {1}!"

COPIES = {"copy_", "_to_copy", "_copy_from", "_copy_from_and_resize"}
TAKES_HOST_INDICES = {"index", "index_put", "index_put_", "_unsafe_index", "_unsafe_index_put"}


class FakeTensor(torch.Tensor):
    """A tensor on a fake card; `raw` holds its values in host memory."""

    raw: torch.Tensor
    held: weakref.finalize[Any, Any]

    @staticmethod
    def __new__(cls, raw: torch.Tensor, card: int) -> Self:
        FakeNpu.installed().count(raw, card)
        make = functools.partial(
            torch.Tensor._make_wrapper_subclass,
            cls,
            raw.size(),
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            layout=raw.layout,
            device=torch.device("npu", card),
            requires_grad=raw.requires_grad,
        )
        made: Self
        if raw.is_inference() == torch.is_inference_mode_enabled():
            made = make()
        else:  # a view of an ordinary tensor is one also where it is made in inference mode
            with torch.inference_mode(raw.is_inference()):
                made = make()
        made.raw = raw
        made.held = FakeNpu.installed().hold(made, raw, card)
        return made

    def tolist(self) -> Any:
        """As a card does it: copied to the host first."""
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise TypeError("can't convert npu device type tensor to numpy. Use Tensor.cpu() first.")
        return self.cpu().numpy()

    def __repr__(self, **_: Any) -> str:
        return f"FakeTensor({self.raw!r}, card={self.device.index})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        call = _call_of(func)
        if call.taken_apart:
            return func.decompose(*args, **kwargs)
        fake = FakeNpu.installed()
        tensors: list[torch.Tensor] = []
        raw_args = [_raw(value, tensors) for value in args]
        raw_kwargs = {name: _raw(value, tensors) for name, value in kwargs.items()}
        card = _card_of(call, tensors)
        fake.operate(call.name)
        if call.name == "set_":
            args[0].held()  # its memory goes now
        made = func(*raw_args, **raw_kwargs)
        if call.name == "set_":
            args[0].held = fake.hold(args[0], args[0].raw, card)
        if fake.dropping and not call.copies:
            _zero(made)
        asked = kwargs.get("device")
        if asked is not None and asked.type == "cpu":
            return made
        if call.name == "copy_" and not isinstance(args[0], FakeTensor):
            return args[0]
        wrapped = _wrap(made, card if asked is None else fake.index(asked))
        return return_and_correct_aliasing(func, args, kwargs, wrapped) if call.aliases else wrapped


@dataclass(frozen=True, slots=True)
class Call:
    """What is to be known of an operation."""

    name: str
    taken_apart: bool
    copies: bool
    takes_host_indices: bool
    aliases: bool


@functools.cache
def _call_of(func: Any) -> Call:
    name = func._schema.name.partition("::")[2]
    return Call(
        name=name,
        taken_apart=is_taken_apart(func),
        copies=name in COPIES,
        takes_host_indices=name in TAKES_HOST_INDICES,
        aliases=any(
            value.alias_info is not None for value in (*func._schema.arguments, *func._schema.returns)
        ),
    )


def _raw(value: Any, tensors: list[torch.Tensor]) -> Any:
    """The form of the processor; what is a tensor is noted."""
    if isinstance(value, torch.Tensor):
        tensors.append(value)
        return value.raw if isinstance(value, FakeTensor) else value
    if isinstance(value, (list, tuple)):
        return [_raw(part, tensors) for part in value]
    return torch.device("cpu") if isinstance(value, torch.device) else value


def raw_of(tensor: torch.Tensor) -> torch.Tensor:
    """What holds the values of a tensor, wherever it claims to be."""
    return tensor.raw if isinstance(tensor, FakeTensor) else tensor


def _wrap(value: Any, card: int) -> Any:
    if isinstance(value, torch.Tensor):
        return FakeTensor(value, card)
    if isinstance(value, (list, tuple)):
        return type(value)(_wrap(part, card) for part in value)
    return value


def _zero(value: Any) -> None:
    for tensor in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(tensor, torch.Tensor):
            tensor.zero_()


def _card_of(call: Call, tensors: list[torch.Tensor]) -> int:
    """The card of an operation's tensors; raises where they are on several devices."""
    found: dict[torch.device, None] = {}
    for tensor in tensors:
        if isinstance(tensor, FakeTensor) or tensor.dim() > 0:
            found[tensor.device] = None
    cards = [device for device in found if device.type == "npu"]
    mixes = call.copies or (call.takes_host_indices and len(cards) == 1)
    if len(found) > 1 and not mixes:
        raise RuntimeError(MIXED.format(*found))
    return cards[0].index if cards else 0


class Graph(tape.TapeGraph):
    """A graph whose replay takes no memory that its capture did not take."""

    def replay(self) -> None:
        with FakeNpu.installed().unlimited():
            super().replay()


class FakeNpu(types.ModuleType):
    """What `torch.npu` is in the process of such a test.

    Attributes:
        operations: How often each operation was called.
        dropping: Whether the card was broken, and drops every operation.
    """

    _installed: FakeNpu | None = None

    Event = Event
    Stream = Stream
    NPUGraph = Graph

    def __init__(self, cards: int, limit: int) -> None:
        super().__init__("torch.npu", "A FAKE of torch.npu for tests.")
        self.configure(cards=cards, limit=limit)
        self._used: Counter[int] = Counter()
        self._peaks: Counter[int] = Counter()
        self._reserved: Counter[int] = Counter()
        self._ooms: Counter[int] = Counter()
        self._storages: dict[int, tuple[int, int, int]] = {}  # storage → (card, bytes, holders)
        self._refusing: Counter[int] = Counter()
        self._lock = threading.RLock()
        self._local = threading.local()
        self._main = threading.get_ident()
        self._breaking: str | None = None
        self.dropping = False
        self.operations: Counter[str] = Counter()
        self.conv = types.SimpleNamespace(allow_hf32=True)
        self.matmul = types.SimpleNamespace(allow_hf32=False)

    @classmethod
    def installed(cls) -> FakeNpu:
        assert cls._installed is not None, "this process has no fake card; see fake_npu.py"
        return cls._installed

    def configure(self, *, cards: int, limit: int) -> None:
        """Have so many cards with so many bytes."""
        self._cards = cards
        self._limits = dict.fromkeys(range(cards), limit)

    # -- what a test may do ------------------------------------------------------------------------

    def limit(self, card: int, size: int) -> None:
        """Let a card have so many bytes."""
        self._limits[card] = size

    def refuse(self, card: int, times: int = 1) -> None:
        """Let the next allocations of a card fail, whatever their size."""
        self._refusing[card] = times

    def allocated(self, card: int) -> int:
        """The bytes of all live tensors of a card."""
        return self._used[card]

    def break_card(self, text: str) -> None:
        """Raise `text` at the next operation, and drop all that follow."""
        self._breaking = text

    # -- what the tensors do -----------------------------------------------------------------------

    def operate(self, name: str) -> None:
        """Note an operation of the calling thread; raise if it has no card, or the card broke."""
        self._bound()
        self.operations[name] += 1
        if self._breaking is not None and name not in COPIES:
            text, self._breaking, self.dropping = self._breaking, None, True
            raise RuntimeError(text)

    def _bound(self) -> None:
        if threading.get_ident() != self._main and not hasattr(self._local, "card"):
            raise RuntimeError(NO_CONTEXT)

    def index(self, device: torch.device) -> int:
        """The number of a card; without one it is the thread's."""
        if device.type != "npu":
            return 0
        card = self.current_device() if device.index is None else device.index
        if card >= self._cards:
            raise RuntimeError(f"Invalid device id {card}: error code is 107001")
        return int(card)

    def count(self, raw: torch.Tensor, card: int) -> None:
        """Raise if a new tensor does not fit."""
        storage = raw.untyped_storage()
        with self._lock:
            if storage._cdata in self._storages or storage.nbytes() == 0:
                return
            if getattr(self._local, "unlimited", False):
                return
            used, limit, asked = self._used[card], self._limits[card], storage.nbytes()
            if used + asked <= limit and not self._refusing[card]:
                return
            self._refusing[card] = max(self._refusing[card] - 1, 0)
            self._ooms[card] += 1
            sizes = {"asked": asked, "limit": limit, "used": used, "free": limit - used,
                     "reserved": self._reserved[card]}  # fmt: skip
        text = OUT_OF_MEMORY.format(card=card, **{name: size / MIB for name, size in sizes.items()})
        raise torch.OutOfMemoryError(text)

    @contextmanager
    def unlimited(self) -> Iterator[None]:
        """Refuse the calling thread nothing, inside of the block."""
        self._local.unlimited = True
        try:
            yield
        finally:
            self._local.unlimited = False

    def hold(self, tensor: FakeTensor, raw: torch.Tensor, card: int) -> weakref.finalize[Any, Any]:
        """Count a tensor's memory until it is gone, or the result is called; views share theirs."""
        storage = raw.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        with self._lock:
            known = self._storages.get(key)
            if known is None:
                self._storages[key] = (card, size, 1)
                self._used[card] += size
                self._peaks[card] = max(self._peaks[card], self._used[card])
                self._reserved[card] = max(self._reserved[card], self._used[card])
            else:
                self._storages[key] = (known[0], known[1], known[2] + 1)
        # `raw` is kept by the call, so that its storage's address is nobody else's before that.
        held = weakref.finalize(tensor, self._release, key, raw)
        held.atexit = False
        return held

    def _release(self, key: int, _: torch.Tensor) -> None:
        with self._lock:
            card, size, holders = self._storages.pop(key)
            if holders > 1:
                self._storages[key] = (card, size, holders - 1)
            else:
                self._used[card] -= size

    # -- what torch.npu has ------------------------------------------------------------------------

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def device_count(self) -> int:
        return self._cards

    def current_device(self) -> int:
        return int(getattr(self._local, "card", 0))

    def set_device(self, device: Any) -> None:
        card = device if isinstance(device, int) else torch.device(device).index or 0
        if card >= self._cards:
            raise RuntimeError(f"NPU function error: aclrtSetDevice, error code is 107001, device {card}")
        self._local.card = card

    def synchronize(self, device: Any = None) -> None:
        self._bound()

    def empty_cache(self) -> None:
        card = self.current_device()
        self._reserved[card] = self._used[card]

    def mem_get_info(self, device: int | None = None) -> tuple[int, int]:
        card = self.current_device() if device is None else device
        return self._limits[card] - self._reserved[card], self._limits[card]

    def memory_allocated(self, device: int | None = None) -> int:
        return self._used[self.current_device() if device is None else device]

    def memory_reserved(self, device: int | None = None) -> int:
        return self._reserved[self.current_device() if device is None else device]

    def max_memory_allocated(self, device: int | None = None) -> int:
        return self._peaks[self.current_device() if device is None else device]

    def reset_peak_memory_stats(self, device: int | None = None) -> None:
        card = self.current_device() if device is None else device
        self._peaks[card] = self._used[card]

    def memory_stats(self, device: int | None = None) -> dict[str, int]:
        card = self.current_device() if device is None else device
        return {"num_ooms": self._ooms[card], "allocated_bytes.all.current": self._used[card]}

    def get_device_name(self, device: Any = None) -> str:
        return "FAKE NPU (host memory)"

    def is_bf16_supported(self, including_emulation: bool = False) -> bool:
        return True

    def set_compile_mode(self, jit_compile: bool = False) -> None:
        pass

    def manual_seed_all(self, seed: int) -> None:
        pass

    def _is_in_bad_fork(self) -> bool:
        return False

    def current_stream(self, device: Any = None) -> Any:
        return Stream()

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        yield

    def graph_pool_handle(self) -> tuple[int, int]:
        return (0, 1)

    @contextmanager
    def graph(
        self,
        npu_graph: tape.TapeGraph,
        pool: Any = None,
        stream: Any = None,
        capture_error_mode: str = "global",
    ) -> Iterator[None]:
        with npu_graph.recording():
            yield
