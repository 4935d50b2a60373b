"""Helper processes: they work, fail, die, and end with their parent."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np
import psutil
import pytest

from soundmill.models.errors import HelperDied, ModelError
from soundmill.models.helpers import Helpers


@pytest.fixture
def helpers() -> Iterator[Helpers]:
    pool = Helpers(2)
    yield pool
    pool.close()


def children() -> set[int]:
    """Our helper processes; those of other tests' longer-lived fixtures are among them."""
    return {
        process.pid
        for process in psutil.Process().children()
        if "soundmill.models.helpers" in str(process.cmdline())
    }


def gone(pids: Collection[int], within_s: float = 20.0) -> bool:
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        if not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids):
            return True
        time.sleep(0.05)
    return False


def test_work_is_done_in_another_process_that_is_kept(helpers: Helpers) -> None:
    first = helpers.run(os.getpid)
    assert first != os.getpid()
    assert helpers.run(os.getpid) == first
    sent = np.arange(100_000, dtype=np.float32)
    assert np.array_equal(helpers.run(np.negative, sent), -sent)


def test_several_threads_are_served_at_once(helpers: Helpers) -> None:
    seen: set[int] = set()

    def work() -> None:
        seen.add(helpers.run(os.getpid))
        helpers.run(time.sleep, 0.3)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 2


def test_what_the_work_raises_is_raised_here(helpers: Helpers) -> None:
    with pytest.raises(ValueError, match="math domain error"):
        helpers.run(math.sqrt, -1.0)
    assert helpers.run(math.sqrt, 4.0) == 2.0


def test_an_answer_that_cannot_be_sent_is_an_error_and_no_end(helpers: Helpers) -> None:
    with pytest.raises(ModelError, match="a helper's answer cannot be sent"):
        helpers.run(threading.Lock)
    assert helpers.run(math.sqrt, 4.0) == 2.0


@pytest.mark.parametrize("end", [(os._exit, 3), (os.kill, 0, signal.SIGKILL)])
def test_a_helper_that_dies_fails_its_request_and_is_replaced(helpers: Helpers, end: tuple[Any, ...]) -> None:
    work: Callable[..., Any] = end[0]
    with pytest.raises(HelperDied, match="a helper process ended while it worked"):
        helpers.run(work, *end[1:])
    assert helpers.run(math.sqrt, 9.0) == 3.0


def test_helpers_import_what_they_will_need_ahead() -> None:
    before = children()
    helpers = Helpers(2)
    helpers.warm(["colorsys"])
    assert "colorsys" in helpers.run(eval, "list(__import__('sys').modules)")
    assert len(children() - before) == 2
    helpers.close()


def test_closing_ends_them_and_later_work_is_refused() -> None:
    before = children()
    helpers = Helpers(2)
    helpers.warm([])
    pids = children() - before
    helpers.close()
    assert len(pids) == 2
    assert gone(pids)
    with pytest.raises(HelperDied, match="were closed"):
        helpers.run(math.sqrt, 4.0)


PARENT = """
import math, sys, time
from soundmill.models.helpers import Helpers
helpers = Helpers(2)
helpers.warm([])
helpers.run(math.sqrt, 4.0)
import psutil
print(*[child.pid for child in psutil.Process().children()], flush=True)
time.sleep(60)
"""


def test_none_outlives_its_parent_even_if_that_is_killed() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 2
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert gone(pids)
