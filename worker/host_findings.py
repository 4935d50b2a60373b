"""What `soundmill doctor` says of the host: folders, disks, memory, limits, clock, Flower, and what is installed."""

from __future__ import annotations

import os
import re
import resource
import shutil
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from soundmill.models.device.memory import host_memory
from soundmill.storage.settings import Settings

from .finding import Finding
from .storage_findings import space_verdict

GIB = 1024**3
LEAST_FILES = 1024
LEAST_PROCESSES = 256
LEAST_MEMORY_SHARE = 0.05
LEAST_INODES_SHARE = 0.02
RELEASED = 1_767_225_600.0  # 2026: a clock before this was never set
FLOWER_S = 2.0
LOOPBACK = ("127.", "localhost", "::1")
NOT_FOR_USE = frozenset({"test", "dev"})


def host_findings(settings: Settings) -> Iterator[Finding]:
    """Look at everything that does not need the queue."""
    yield _state_folder(settings.state_dir)
    yield _disk(settings.state_dir)
    yield _memory()
    yield _limits()
    if time.time() < RELEASED:
        detail = (
            f"this host believes it is {time.strftime('%Y-%m-%d')}; set its clock, and run a time service"
        )
        yield Finding(what="clock", verdict="broken", detail=detail)
    yield from _flower(settings, os.environ)
    yield from _extras()


def _nearest(folder: Path) -> Path:
    """The folder, or the first above it that is there."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def _state_folder(folder: Path) -> Finding:
    what, found = "state folder", _nearest(folder)
    if not found.is_dir():
        return Finding(
            what=what, verdict="broken", detail=f"{found} is a file; remove it or choose another state_dir"
        )
    if not os.access(found, os.W_OK | os.X_OK):
        detail = f"{found} cannot be written to by this user; chown or chmod it, or choose another state_dir"
        return Finding(what=what, verdict="broken", detail=detail)
    status = folder.stat() if found == folder else None
    if status is not None and status.st_mode & 0o022:
        detail = f"{folder} can be written to by others, who could change jobs and files; chmod go-w {folder}"
        return Finding(what=what, verdict="broken", detail=detail)
    if status is not None and status.st_uid != os.geteuid():
        detail = f"{folder} belongs to another user (uid {status.st_uid}); run as that user, or chown it"
        return Finding(what=what, verdict="warning", detail=detail)
    return Finding(what=what, verdict="ok", detail=str(folder) if status else f"{folder}, not there yet")


def _disk(folder: Path) -> Finding:
    place = _nearest(folder)
    usage, files = shutil.disk_usage(place), os.statvfs(place)
    detail = f"{usage.free / GIB:.1f} of {usage.total / GIB:.1f} GiB free for {folder}"
    verdict = space_verdict(usage.free, usage.total)
    if verdict != "ok":
        return Finding(what="disk", verdict=verdict, detail=f"{detail}; free some space or move state_dir")
    if files.f_files and files.f_favail < LEAST_INODES_SHARE * files.f_files:
        detail = f"{files.f_favail} files can be made for {folder}; remove small files or move state_dir"
        return Finding(what="disk", verdict="warning", detail=detail)
    return Finding(what="disk", verdict="ok", detail=detail)


def _memory() -> Finding:
    free, total = host_memory()
    detail = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free"
    if free < LEAST_MEMORY_SHARE * total:
        detail = f"{detail}; the kernel may kill workers: stop something, or serve fewer models here"
        return Finding(what="memory", verdict="warning", detail=detail)
    return Finding(what="memory", verdict="ok", detail=detail)


def _limits() -> Finding:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    processes, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    size, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    troubles = []
    if 0 <= files < LEAST_FILES:
        troubles.append(
            f"{files} open files are too few: ulimit -n {4 * LEAST_FILES}, or LimitNOFILE= in systemd"
        )
    if 0 <= processes < LEAST_PROCESSES:
        troubles.append(
            f"{processes} threads are too few: ulimit -u {16 * LEAST_PROCESSES}, or TasksMax= in systemd"
        )
    if size != resource.RLIM_INFINITY:
        troubles.append(f"files end at {size} bytes: ulimit -f unlimited")
    if troubles:
        return Finding(what="limits", verdict="warning", detail="; ".join(troubles))
    return Finding(what="limits", verdict="ok", detail=f"{files} open files")


def _flower(settings: Settings, environment: Mapping[str, str]) -> Iterator[Finding]:
    if environment.get("FLOWER_UNAUTHENTICATED_API", "").lower() in ("1", "true", "yes", "on"):
        yield Finding(
            what="flower",
            verdict="broken",
            detail="FLOWER_UNAUTHENTICATED_API is set: whoever reaches Flower may stop workers; unset it",
        )
    if not settings.flower_address.startswith(LOOPBACK):
        yield Finding(
            what="flower",
            verdict="warning",
            detail=f"it would listen on {settings.flower_address}, where its password travels readable; set "
            "flower_address to 127.0.0.1 and put docker/flower-proxy.conf with TLS before it",
        )
    if _answers_anybody(settings):
        yield Finding(
            what="flower",
            verdict="broken",
            detail=f"what listens on port {settings.flower_port} asks for no password; stop it, and start Flower with "
            "soundmill up or with FLOWER_BASIC_AUTH=name:password",
        )


def _answers_anybody(settings: Settings) -> bool:
    """Whether a Flower listens there that shows its workers without a password."""
    host = "127.0.0.1" if settings.flower_address in ("0.0.0.0", "::") else settings.flower_address
    host = f"[{host}]" if ":" in host else host
    try:
        with urllib.request.urlopen(
            f"http://{host}:{settings.flower_port}/api/workers", timeout=FLOWER_S
        ) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError, ValueError):  # nobody there, or a refusal, which is right
        return False


def _extras() -> Iterator[Finding]:
    """What of our optional dependencies is there, and in a version that we know."""
    absent: dict[str, list[str]] = defaultdict(list)
    strange: list[str] = []
    for text in metadata.requires("soundmill") or ():
        needed = Requirement(text)
        extra = _extra_of(needed)
        if needed.name == "soundmill" or extra in NOT_FOR_USE:
            continue
        try:
            version = metadata.version(needed.name)
        except metadata.PackageNotFoundError:
            absent[extra or "itself"].append(needed.name)
        else:
            if not needed.specifier.contains(version, prereleases=True):
                strange.append(f"{needed.name} {version} ({needed.specifier})")
    if strange:
        words = f"of versions that soundmill was not tried with: {', '.join(strange)}; pip install 'soundmill' again"
        yield Finding(what="extras", verdict="warning", detail=words)
    broken = absent.pop("itself", None)
    if broken:
        detail = f"soundmill lacks {', '.join(broken)}; pip install soundmill"
        yield Finding(what="extras", verdict="broken", detail=detail)
    missing = ", ".join(f"{extra} ({', '.join(names)})" for extra, names in sorted(absent.items()))
    if missing:
        detail = f"not installed: {missing}; pip install 'soundmill[NAME]' for what you need"
        yield Finding(what="extras", verdict="missing", detail=detail)
    elif not (strange or broken):
        yield Finding(what="extras", verdict="ok", detail="all installed")


def _extra_of(needed: Requirement) -> str:
    """The extra that a requirement belongs to; empty for one of soundmill itself."""
    found = re.search(r"""extra == ["']([^"']+)""", str(needed.marker or ""))
    return found[1] if found else ""
