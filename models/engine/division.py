"""How the memory of a card that is left is divided among the slots of its models. Numbers only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import ModelUnavailable

MOST_ON_A_CARD = 64
MOST_ON_A_PROCESSOR = 8
"""More rows keep a processor no busier, and each would be slower."""

MARGIN_SHARE, LEAST_MARGIN = 0.05, 512 * 1024**2
"""Of the memory that is usable: for fragments, graphs of larger buckets and what libraries take by themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a slot model asks for.

    Attributes:
        bytes_per_slot: What one of its slots costs.
        slots: The operator's number, which is not questioned.
        share: The operator's part of the memory, 0 to 1.
    """

    bytes_per_slot: int
    slots: int | None = None
    share: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """How many slots a model gets, and why."""

    slots: int
    reason: str


def divide(claims: Mapping[str, Claim], *, usable: int, workspace: int, most: int) -> dict[str, Grant]:
    """Divide what is left of a card's memory.

    Shares are honoured first; those without one divide the rest equally. A number of slots given by
    the operator is taken as it is, out of its model's part.

    Args:
        claims: Of each slot model.
        usable: Bytes that new tensors can take, after all weights were loaded.
        workspace: Bytes that the hungriest single call takes while it runs.
        most: Of slots, where the operator gave no number.

    Raises:
        ModelUnavailable: The shares exceed the whole, or a model's part holds not a single slot.
    """
    margin = max(int(MARGIN_SHARE * usable), LEAST_MARGIN)
    left = max(usable - workspace - margin, 0)
    shares = _shares(claims)
    return {name: _grant(name, claim, int(shares[name] * left), most) for name, claim in claims.items()}


def _shares(claims: Mapping[str, Claim]) -> dict[str, float]:
    given = {name: claim.share for name, claim in claims.items() if claim.share is not None}
    total = sum(given.values())
    if total > 1 + 1e-9:
        raise ModelUnavailable(
            f"the shares of {', '.join(given)} add up to {total:g}; let them add up to 1 at most"
        )
    rest = _equally(1 - total, [name for name in claims if name not in given])
    return given | rest


def _equally(part: float, names: Sequence[str]) -> dict[str, float]:
    return {name: part / len(names) for name in names}


def _grant(name: str, claim: Claim, part: int, most: int) -> Grant:
    if claim.slots is not None:
        return Grant(slots=claim.slots, reason="the operator's number")
    fit = part // max(claim.bytes_per_slot, 1)
    if fit < 1:
        raise ModelUnavailable(
            f"{name}: one slot takes {_mib(claim.bytes_per_slot)}, but its part of the memory left is "
            f"{_mib(part)}; serve fewer models on this card, give it a larger share, or a number of slots"
        )
    if fit > most:
        return Grant(slots=most, reason=f"more would not make it faster; {fit} would fit")
    return Grant(slots=fit, reason=f"so many of {_mib(claim.bytes_per_slot)} fit into {_mib(part)}")


def _mib(number: int) -> str:
    return f"{number / 1024**2:,.0f} MiB"
