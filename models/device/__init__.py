"""Cards: their names, the environment that binds a process to one, and the device behind it.

No other folder knows the kinds of accelerators by name. A process sees one card. The variables have
to be set before any library of the vendor is imported, so the supervisor puts them into the
environment of the child that it starts for the card, or `prepare_env` does it in the process itself.

The order of a start is: `prepare_env` → `open_device` → load → warm up with the real shapes → serve.
Nothing here imports torch before `open_device` does, so that naming a card costs nothing.
"""

from .capabilities import Capabilities
from .card import Card
from .device import Device, short_name
from .environment import prepare_env
from .faults import Fault, classify, failure_on
from .graph import GraphPool, StepGraph
from .memory import Memory
from .opening import open_device
from .reading import Flags, HostRead
from .timer import Timer

__all__ = [
    "Capabilities",
    "Card",
    "Device",
    "Fault",
    "Flags",
    "GraphPool",
    "HostRead",
    "Memory",
    "StepGraph",
    "Timer",
    "classify",
    "failure_on",
    "open_device",
    "prepare_env",
    "short_name",
]
