"""Two loads of a checkpoint beside each other, without the command and the handler around them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from soundmill.models.verification.seats import Asked
    from soundmill.models.verification.verdicts import Line


def lines(
    family: str,
    reference: Path,
    examined: Path,
    *,
    dtype: str = "fp32",
    card: str = "cpu",
    threads: int = 1,
    without: Collection[str] = (),
) -> list[Line]:
    """Compare a checkpoint on a card with another one, in fp32 on one thread of the processor.

    Args:
        family: Such as `moss`.
        reference: The folder of the one; it is asked once.
        examined: The folder of the other.
        dtype: Of the examined side, as are the other two.
        without: Components that are not compared.
    """
    from soundmill.models.verification.comparison import Comparison
    from soundmill.models.verification.seats import Seat, opened, seated

    found: list[Line] = []
    asked = _asked(family, reference)
    with opened(Seat(card=card, threads=threads)) as device:
        with seated(_module(family), examined, device, device.dtype(dtype), _silent) as loaded:
            loaded.components = [one for one in loaded.components if one.name not in without]
            Comparison(asked, "rounding", _silent).lines(loaded, found)
    return found


def failed(found: Sequence[Line]) -> dict[str, list[str]]:
    """The tensors that failed, by component in the order of work."""
    wrong: dict[str, list[str]] = {}
    for line in found:
        if line.verdict == "fail":
            wrong.setdefault(line.component, []).append(line.tensor)
    return wrong


@cache
def _asked(family: str, folder: Path) -> Mapping[str, Asked]:
    from soundmill.models.verification.material import gather
    from soundmill.models.verification.seats import Seat, ask_reference, opened, seated

    with TemporaryDirectory() as scratch, opened(Seat(card="cpu", threads=1)) as device:
        with seated(_module(family), folder, device, device.dtype("fp32"), _silent) as loaded:
            asked = ask_reference(loaded, gather(Path(scratch)), _silent)
    assert {name: one.failure for name, one in asked.items() if one.failure} == {}
    for name, one in asked.items():
        assert all(set(answer) == set(one.readings) for answer in one.answers.values()), name
    return asked


def _module(family: str) -> Any:
    return import_module(f"soundmill.models.{family}.components")


def _silent(_: str) -> None:
    """Nobody waits for these."""
