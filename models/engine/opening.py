"""The last thing before requests: dividing what is left of the memory, warming up, capturing."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from .batch_lane import BatchLane
from .division import MOST_ON_A_CARD, MOST_ON_A_PROCESSOR, Claim, Grant, divide
from .ports import Rehearses
from .schedule import PREFILL_TOKENS
from .slot_lane import SlotLane
from .watch import WHO, Limits, Watch

if TYPE_CHECKING:
    from ..device import Device
    from ..place import ModelOptions

logger = logging.getLogger(__name__)


@torch.inference_mode()
def open_lanes(
    device: Device,
    lanes: Mapping[str, SlotLane | BatchLane],
    options: Mapping[str, ModelOptions],
    watch: Watch,
    limits: Limits,
) -> None:
    """Give slots to every slot model, after all models were loaded.

    Args:
        device: Of all of them.
        lanes: The models, in the order in which they are rehearsed and opened.
        options: Of the slot models among them.
        watch: Told of the rehearsals.
        limits: Of the rehearsals.

    Raises:
        ModelUnavailable: The memory left is too small for one of them.
    """
    workspace = max([_rehearsed(device, lane, watch, limits) for lane in lanes.values()], default=0)
    slot_lanes = {name: lane for name, lane in lanes.items() if isinstance(lane, SlotLane)}
    for name, grant in _grants(device, slot_lanes, options, workspace).items():
        _open(slot_lanes[name], grant)


def _rehearsed(device: Device, lane: SlotLane | BatchLane, watch: Watch, limits: Limits) -> int:
    """The bytes that a model's hungriest call takes while it runs."""
    if not isinstance(lane.model, Rehearses):
        return 0
    with watch.watching(WHO, limits.warm_up):
        if isinstance(lane, SlotLane):
            lane.model.reserve(1)
        before = device.memory().allocated
        device.reset_peak()
        lane.model.rehearse(PREFILL_TOKENS)
        device.sync()
        taken = max(device.peak() - before, 0)
        if isinstance(lane, SlotLane):
            lane.model.reserve(0)
        device.empty_cache()
    return taken


def _grants(
    device: Device, lanes: Mapping[str, SlotLane], options: Mapping[str, ModelOptions], workspace: int
) -> dict[str, Grant]:
    claims = {
        name: Claim(
            bytes_per_slot=lane.model.bytes_per_slot, slots=options[name].slots, share=options[name].share
        )
        for name, lane in lanes.items()
    }
    memory = device.memory()
    logger.info(
        "memory of the card",
        extra={
            "card": str(device), "usable": memory.usable, "total": memory.total, "free": memory.free,
            "reserved": memory.reserved, "allocated": memory.allocated, "largest_call": workspace,
        },
    )  # fmt: skip
    most = MOST_ON_A_PROCESSOR if device.immediate else MOST_ON_A_CARD
    return divide(claims, usable=memory.usable, workspace=workspace, most=most) if claims else {}


def _open(lane: SlotLane, grant: Grant) -> None:
    slots = lane.open(grant.slots)
    logger.info(
        "slots of a model",
        extra={
            "model": lane.name,
            "slots": slots,
            "reason": grant.reason if slots == grant.slots else "more did not fit",
            "bytes_per_slot": lane.model.bytes_per_slot,
            "context": lane.model.context,
        },
    )
