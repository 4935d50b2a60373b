"""The order of a graph of jobs: parents before their children."""

from __future__ import annotations

from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter

from soundmill.storage.errors import SubmitRefused

from .draft import Draft


def parents_first(drafts: Sequence[Draft]) -> list[int]:
    """The places of the drafts in an order in which every alias is given before it is used.

    Raises:
        SubmitRefused: An alias is given twice or never, or jobs wait for each other in a circle.
    """
    places: dict[str, int] = {}
    for place, draft in enumerate(drafts):
        if draft.alias is not None and places.setdefault(draft.alias, place) != place:
            raise SubmitRefused(f"alias: {draft.alias!r} is given to two jobs; rename one", field="alias")
    sorter: TopologicalSorter[int] = TopologicalSorter()
    for place, draft in enumerate(drafts):
        for alias in draft.aliases:
            if alias not in places:
                given = ", ".join(sorted(places)) or "none is given"
                raise SubmitRefused(
                    f"alias: no job of this submit has the alias {alias!r} ({given})",
                    field=_field(draft, alias),
                )
        sorter.add(place, *(places[alias] for alias in draft.aliases))
    try:
        return list(sorter.static_order())
    except CycleError as error:
        circle = " → ".join(f"@{drafts[place].alias}" for place in error.args[1])
        raise SubmitRefused(
            f"alias: jobs wait for each other in a circle: {circle}", field="alias"
        ) from error


def _field(draft: Draft, alias: str) -> str:
    return next(f"{name}.job" for name, value in draft.references.items() if value == f"@{alias}")
