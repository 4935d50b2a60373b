"""Flower beside the stack: what it shows, what its Terminate does, and who may see it."""

from __future__ import annotations

import base64
import json
import time
import urllib.error
import urllib.request
from typing import Any

import pytest

from soundmill.storage.lifecycle import State

from ..ports import free_port
from .conftest import StackMaker
from .running import Stack, told, until

pytestmark = pytest.mark.slow

LOGIN = "soundmill:a secret for tests"


class Page:
    """Flower's pages, asked for with the password."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def ask(self, path: str, *, method: str = "GET", login: str | None = LOGIN) -> Any:
        request = urllib.request.Request(
            self.url + path, method=method, data=b"" if method == "POST" else None
        )
        if login is not None:
            request.add_header("Authorization", "Basic " + base64.b64encode(login.encode()).decode())
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.loads(answer.read() or b"null")

    def task(self, id_: str) -> dict[str, Any]:
        """What Flower knows of a job; empty while it knows nothing."""
        try:
            return dict(self.ask(f"/api/task/info/{id_}"))
        except urllib.error.HTTPError as error:
            error.close()
            if error.code != 404:
                raise
            return {}

    @property
    def answers(self) -> bool:
        try:
            self.ask("/api/tasks")
        except OSError:
            return False
        return True


@pytest.fixture
def stack(sqlite_stack: StackMaker) -> Stack:
    stack = sqlite_stack(flower_port=free_port(), flower_basic_auth=LOGIN)
    stack.start("cpu:0", flower=True)
    return stack


@pytest.fixture
def page(stack: Stack) -> Page:
    page = Page(stack.settings.flower_port)
    until(lambda: page.answers, 60, stack.words)
    return page


def test_flower_shows_jobs_and_terminates_them_for_those_who_know_the_password(
    stack: Stack, page: Page
) -> None:
    _assert_closed_to_strangers(page)
    done, bad = stack.submit()[0], stack.submit(what="refuse", text="my secret words")[0]
    stack.await_final([done, bad])
    until(lambda: page.task(done).get("state") == "SUCCESS", 20, lambda: str(page.task(done)))
    until(lambda: page.task(bad).get("state") == "FAILURE", 20, lambda: str(page.task(bad)))
    shown = page.task(done)
    assert shown["name"] == "soundmill.drill"
    assert shown["worker"] == str(stack.job(done).worker).partition("#")[0]
    assert "bad_input" in page.task(bad)["exception"]
    assert "secret words" not in json.dumps(page.task(bad)), "Flower is shown codes, never the user's words"
    assert shown["args"] == repr((done,)), "and ids, never arguments"
    assert shown["kwargs"] == "{}"
    _assert_no_password_is_shown(stack, page)
    _assert_terminates(stack, page)
    stack.cards()
    assert stack.stop() == 0
    assert stack.left_behind() == []


def _assert_no_password_is_shown(stack: Stack, page: Page) -> None:
    password = LOGIN.partition(":")[2]
    workers = page.ask("/api/workers?refresh=1")
    assert "stats" in next(iter(workers.values())), "it has asked them"
    commands = [" ".join(process.cmdline()) for process in stack._family()]
    assert any("soundmill.worker.flower" in command for command in commands)
    for shown in (json.dumps(workers), "\n".join(commands), stack.words()):
        assert password not in shown


def _assert_closed_to_strangers(page: Page) -> None:
    for login in (None, "soundmill:guess"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            page.ask("/api/tasks", login=login)
        assert refused.value.code == 401
        refused.value.close()


def _assert_terminates(stack: Stack, page: Page) -> None:
    running = stack.submit(steps=4000)[0]
    until(lambda: page.task(running).get("state") == "STARTED", 20, lambda: str(page.task(running)))
    begun = time.monotonic()
    page.ask(f"/api/task/revoke/{running}?terminate=true", method="POST")
    stack.await_state(running, State.CANCELLED, timeout_s=20)
    told("Terminate in Flower", {"seconds": time.monotonic() - begun})
    until(lambda: page.task(running).get("state") == "REVOKED", 20, lambda: str(page.task(running)))


def test_flower_ends_with_a_killed_supervisor_and_is_restarted_by_a_living_one(
    stack: Stack, page: Page
) -> None:
    before = stack.find("soundmill.worker.flower")[0]
    before.kill()
    until(lambda: [p for p in stack.find("soundmill.worker.flower") if p.pid != before.pid], 30, stack.words)
    assert stack.process is not None
    stack.cards()
    stack.stop(9)
    assert stack.left_behind() == []
