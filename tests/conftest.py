"""What all tests share."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator

import hypothesis
import pytest

from .job_table import job_table_url, shared_postgres_url, sqlite_template
from .postgres import database_url, postgres_server, postgres_session, postgres_url
from .s3 import rclone_session, s3, s3_of_rclone, s3_session, s3_way

__all__ = [
    "database_url",
    "job_table_url",
    "postgres_server",
    "postgres_session",
    "postgres_url",
    "rclone_session",
    "s3",
    "s3_of_rclone",
    "s3_session",
    "s3_way",
    "shared_postgres_url",
    "sqlite_template",
]

# Started in the background or under nohup, we ignore these signals, and so would every program that a test
# sends one: only what is ignored is handed on to them, a handler is not.
for _number, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, lambda *_: None)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)

# As a worker has it. Threads of torch's that spin for each other would hold up every test beside theirs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A machine that is busy with something else is no bug: `timeout` in pyproject.toml bounds a test as a whole.
hypothesis.settings.register_profile("soundmill", deadline=None)
hypothesis.settings.load_profile("soundmill")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "postgres_session" in getattr(item, "fixturenames", ()):
            item.add_marker("postgres")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for each reason to skip, however many tests it skipped."""
    reports = terminalreporter.stats.get("skipped", [])
    for reason, count in Counter(str(report.longrepr[2]) for report in reports).items():
        terminalreporter.write_line(f"{count} skipped: {reason.removeprefix('Skipped: ')}")


@pytest.fixture(scope="session", autouse=True)
def _nobodys_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test sees the settings, nor writes into the folders, of the person who runs it."""
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith("SOUNDMILL_"):
                patch.delenv(name)
        patch.delenv("XDG_RUNTIME_DIR", raising=False)
        for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"):
            patch.setenv(name, str(tmp_path_factory.mktemp(name)))
        yield
