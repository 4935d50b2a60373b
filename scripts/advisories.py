"""Compares what is installed with an archive of advisories.

    python scripts/advisories.py ADVISORIES.zip

The archive is OSV's export for PyPI: a JSON file for each advisory (https://ossf.github.io/osv-schema). Prints
a line for each that concerns an installed distribution, and exits with 1 if there is one.
"""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Iterator, Mapping
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version


def main(arguments: list[str]) -> int:
    """Print what was found; return the exit status."""
    if len(arguments) != 1 or not Path(arguments[0]).is_file():
        sys.stderr.write(f"{__doc__}\n")
        return 2
    installed = {canonicalize_name(found.name): found.version for found in distributions()}
    count = 0
    for advisory in advisories(Path(arguments[0])):
        for name, version, fixed in concerned(advisory, installed):
            count += 1
            names = ", ".join([advisory["id"], *advisory.get("aliases", ())])
            sys.stdout.write(f"{name} {version}: {names}; fixed in {', '.join(fixed) or 'no release'}\n")
    sys.stderr.write(f"{len(installed)} distributions, {count} findings\n")
    return 1 if count else 0


def advisories(archive: Path) -> Iterator[dict[str, Any]]:
    """Those of the archive that were not withdrawn."""
    with zipfile.ZipFile(archive) as files:
        for name in files.namelist():
            if name.endswith(".json"):
                found = json.loads(files.read(name))
                if "withdrawn" not in found:
                    yield found


def concerned(
    advisory: Mapping[str, Any], installed: Mapping[str, str]
) -> Iterator[tuple[str, str, list[str]]]:
    """Name, version and fixed releases of each installed distribution that an advisory concerns."""
    for affected in advisory.get("affected", ()):
        package = affected.get("package", {})
        name = canonicalize_name(package.get("name", ""))
        if package.get("ecosystem", "").lower() != "pypi" or name not in installed:
            continue
        version = installed[name]
        ranges = [one["events"] for one in affected.get("ranges", ()) if one.get("type") == "ECOSYSTEM"]
        if version in affected.get("versions", ()) or any(is_within(version, events) for events in ranges):
            yield name, version, sorted({e["fixed"] for events in ranges for e in events if "fixed" in e})


def is_within(version: str, events: list[dict[str, str]]) -> bool:
    """Whether a version is in a range: the last event before it decides, as OSV's schema has it.

    A version that cannot be compared counts as within: somebody should look.
    """
    try:
        mine = Version(version)
        marks = sorted(
            ((Version("0") if at == "0" else Version(at)), kind)
            for event in events
            for kind, at in event.items()
        )
    except InvalidVersion:
        return True
    within = False
    for at, kind in marks:
        if kind == "introduced" and mine >= at:
            within = True
        elif (kind == "fixed" and mine >= at) or (kind == "last_affected" and mine > at):
            within = False
    return within


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
